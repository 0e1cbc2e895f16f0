%% The table of cases. A new workload is a row here; its parts are described in pt_bench_work.
-module(pt_bench_cases).
-export([all/0, default/0, select/1, short/0, cell/2, metrics/2]).
-export_type(['case'/0, metric/0]).

-type 'case'() :: #{
    name := string(),
    text := string(),
    parts := [pt_bench_work:part()],
    ms := pos_integer(),
    %% figures of the table, in order
    show := [metric()]
}.
-type metric() :: pt_bench_metric:metric().

-define(KB, 1024).
-define(MB, (1024 * 1024)).

-spec all() -> ['case'()].
all() ->
    [
        #{
            name => "pp64",
            text => "ping-pong of 64 B, 1 client",
            parts => [echo(1, 64)],
            ms => 1000,
            show => [p50_us, p99_us, cpu_s_per_m]
        }
    ] ++
        [
            #{
                name => "echo1k-" ++ integer_to_list(N),
                text => text("request and answer of 1 KB, clients: ~b", [N]),
                parts => [echo(N, ?KB)],
                ms => 1000,
                show => [rate, p50_us, p99_us, cpu_s_per_m]
            }
         || N <- [1, 16, 128]
        ] ++
        [
            #{
                name => text("oneway~s-~b", [Label, N]),
                text => text("one way ~b B, held only by back-pressure, senders: ~b", [Size, N]),
                parts => [flow(N, Size, infinity, pool)],
                ms => 1000,
                show => [rate, cpu_s_per_m, rss_mb]
            }
         || {Label, Size} <- [{"64", 64}, {"1k", ?KB}], N <- [1, 16, 128]
        ] ++
        [
            #{
                name => text("stream~s-~b", [Label, N]),
                text => text("stream of ~s, 4 under way a sender, senders: ~b", [Label, N]),
                parts => [flow(N, Size, 4, pool)],
                ms => 1000,
                show => [mb_s, cpu_s_per_gb, rss_mb]
            }
         || {Label, Size} <- [{"1m", ?MB}, {"8m", 8 * ?MB}], N <- [1, 4, 16]
        ] ++
        [
            #{
                name => "hol",
                text => "ping-pong of 64 B under 4 streams of 8 MB, 2 under way each",
                parts => [(echo(1, 64))#{inset_ms => 200}, flow(4, 8 * ?MB, 2, pool)],
                ms => 2500,
                show => [p50_us, p99_us, p999_us, mb_s, cpu_s_per_gb, rss_mb]
            },
            #{
                name => "holcap",
                text => "the same, streams held only by back-pressure, every payload fresh memory",
                parts => [(echo(1, 64))#{inset_ms => 200}, flow(4, 8 * ?MB, infinity, fresh)],
                ms => 2500,
                show => [p50_us, p99_us, p999_us, mb_s, cpu_s_per_gb, rss_mb]
            }
        ].

%% What a run holds that names no cases.
-spec default() -> ['case'()].
default() -> all().

echo(Procs, Size) -> #{kind => echo, procs => Procs, size => Size}.

flow(Procs, Size, Window, Payload) ->
    #{kind => flow, procs => Procs, size => Size, window => Window, payload => Payload}.

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).

%% Cases by name; a trailing `*' stands for any ending.
-spec select([string()]) -> {ok, ['case'()]} | {error, Unknown :: string()}.
select(Wanted) ->
    case [W || W <- Wanted, not lists:any(fun(C) -> matches(W, C) end, all())] of
        [Unknown | _] ->
            {error, Unknown};
        [] ->
            {ok, [C || C <- all(), lists:any(fun(W) -> matches(W, C) end, Wanted)]}
    end.

matches(Wanted, #{name := Name}) ->
    case lists:suffix("*", Wanted) of
        true -> lists:prefix(lists:droplast(Wanted), Name);
        false -> Wanted =:= Name
    end.

%% A case of each kind, for the short run.
-spec short() -> ['case'()].
short() ->
    {ok, Cases} = select([
        "pp64", "echo1k-16", "oneway64-16", "oneway1k-128", "stream1m-4", "stream8m-4", "hol",
        "holcap"
    ]),
    Cases.

%% What pt_bench_work runs. The short run checks the whole CRC of every message and wants no warmth.
-spec cell('case'(), #{short := boolean(), seconds := number(), stall_ms := pos_integer()}) ->
    pt_bench_work:cell().
cell(#{parts := Parts}, #{short := true, stall_ms := StallMs}) ->
    Inset = fun(P) -> case P of #{inset_ms := _} -> P#{inset_ms := 50}; _ -> P end end,
    #{
        parts => lists:map(Inset, Parts),
        ms => 300, warm_ms => 0, full_every => 1, stall_ms => StallMs, seed => seed()
    };
cell(#{parts := Parts, ms := Ms}, #{seconds := Seconds, stall_ms := StallMs}) ->
    #{
        parts => Parts,
        ms => max(500, round(Ms * Seconds)), warm_ms => 200, full_every => 16,
        stall_ms => StallMs, seed => seed()
    }.

%% Fixed: both nodes must make the same payloads, and runs must be comparable.
seed() -> 20180.

%% The figures of a finished cell. CPU and memory are those of both VMs together; a round trip
%% counts as one message; CPU is set against the flow part when there is one, else against the
%% round trips.
-spec metrics('case'(), map()) -> #{metric() => number()}.
metrics(_Case, #{parts := Parts, usage := #{cpu := Cpu}, peak_kb := Peaks}) ->
    Figures = [part_metrics(P, lists:sum(Cpu)) || P <- lists:sort(fun echo_last/2, Parts)],
    All = lists:foldl(fun maps:merge/2, #{}, Figures),
    Base = #{rss_mb => lists:sum(Peaks) / 1024},
    maps:filter(fun(_, V) -> is_number(V) end, maps:merge(Base, per_cpu(All, Parts))).

echo_last(#{part := #{kind := A}}, #{part := #{kind := B}}) -> A >= B.

per_cpu(All, Parts) ->
    case [K || #{part := #{kind := K}} <- Parts] of
        [_] -> All;
        _ -> maps:without([cpu_s_per_m, rate], All)
    end.

part_metrics(#{part := #{kind := echo}, messages := N, seconds := S, latency_us := L}, Cpu) ->
    #{p50 := P50, p99 := P99, p999 := P999} = L,
    #{
        rate => N / S,
        p50_us => P50,
        p99_us => P99,
        p999_us => P999,
        cpu_s_per_m => per(Cpu, N / 1.0e6)
    };
part_metrics(#{part := #{kind := flow, size := Size}, messages := N, seconds := S}, Cpu) ->
    Bytes = N * Size,
    #{
        rate => N / S,
        mb_s => Bytes / S / 1.0e6,
        cpu_s_per_m => per(Cpu, N / 1.0e6),
        cpu_s_per_gb => per(Cpu, Bytes / 1.0e9)
    }.

per(_Cpu, Amount) when Amount == 0 -> none;
per(Cpu, Amount) -> Cpu / Amount.
