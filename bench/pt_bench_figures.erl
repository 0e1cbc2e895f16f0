%% The figures of a cell: how each is computed. Pure. What they are called is in pt_bench_metric.
%%
%% A figure nobody asked for costs nothing: the table shows those that the case names, in its order;
%% the record of the run holds them all.
-module(pt_bench_figures).
-export([metrics/2]).

%% The figures of a finished cell. CPU and memory are those of all VMs together; a round trip counts
%% as one message. In a cell of several parts latencies are the probe's and rates the streams', so
%% CPU is set against the streams' bytes.
-spec metrics(pt_bench_cases:'case'(), map()) -> #{pt_bench_metric:metric() => number()}.
metrics(_Case, #{parts := []}) ->
    #{};
metrics(_Case, #{parts := Parts, usage := #{cpu := Cpu}, peak_kb := Peaks}) ->
    Base = #{rss_mb => lists:sum(Peaks) / 1024},
    Known = [part_metrics(P, lists:sum(Cpu)) || P <- Parts],
    Figures =
        case Known of
            [Only] ->
                Only;
            _ ->
                lists:foldl(fun maps:merge/2, #{}, [for_several(K, P) || {K, P} <- lists:zip(Known, Parts)])
        end,
    All = lists:foldl(fun maps:merge/2, Base, [Figures | [E || #{extra := E} <- Parts]]),
    maps:filter(fun(_, V) -> is_number(V) end, All).

for_several(Known, #{part := #{kind := flow}}) ->
    maps:with([mb_s, cpu_s_per_gb], Known);
for_several(Known, _Probe) ->
    maps:with([p50_us, p99_us, p999_us, max_us], Known).

part_metrics(#{part := #{size := Size}, messages := N, seconds := S, latency_us := L}, Cpu) ->
    Bytes = N * Size,
    #{p50 := P50, p99 := P99, p999 := P999, max := Max} = L,
    #{
        rate => N / S,
        mb_s => Bytes / S / 1.0e6,
        p50_us => P50,
        p99_us => P99,
        p999_us => P999,
        max_us => Max,
        cpu_s_per_m => per(Cpu, N / 1.0e6),
        cpu_s_per_gb => per(Cpu, Bytes / 1.0e9)
    }.

per(_Cpu, Amount) when Amount == 0 -> none;
per(Cpu, Amount) -> Cpu / Amount.
