%% The table of cases. A new case is a row here; its parts are described in pt_bench_work.
%%
%% Names are made of what the case does, its size, and how many do it, so that a pattern selects:
%% `echo-*', `*-8m-*', `hol-pp-*'. The default set (default/0) is what a table of ten minutes holds;
%% all/0 is everything that a pair of nodes can run on any machine and network.
-module(pt_bench_cases).
-export([all/0, default/0, select/1, short/0, cell/2, metrics/2, bytes/1]).
-export_type(['case'/0, metric/0]).

-type 'case'() :: #{
    name := string(),
    text := string(),
    parts := [pt_bench_work:part()],
    ms := pos_integer(),
    %% nodes beside the two of the pair
    extras => {pos_integer(), same | lean},
    %% the lane of the first node that sends nothing in the middle of the cell
    pause => pos_integer(),
    %% figures of the table, in order
    show := [metric()]
}.
-type metric() :: pt_bench_metric:metric().

-define(KB, 1024).
-define(MB, (1024 * 1024)).

-define(LATENCY, [p50_us, p99_us, cpu_s_per_m]).
-define(ECHO, [rate, p50_us, p99_us, cpu_s_per_m]).
-define(SMALL, [rate, cpu_s_per_m, rss_mb]).
-define(LARGE, [mb_s, cpu_s_per_gb, rss_mb]).
-define(HOL, [p50_us, p99_us, p999_us, mb_s, cpu_s_per_gb, rss_mb]).

-spec all() -> ['case'()].
all() ->
    lists:append([
        point_to_point(), shared(), windows(), forms(), fan(), open_loop(), services(), pt_bench_hol:cases(), pt_bench_paper:cases(),
        growth()
    ]).

-define(PROCS, [1, 4, 8, 16, 32, 128]).
-define(SIZES, ["64", "1k", "64k", "512k", "1m", "8m"]).

point_to_point() ->
    [
        #{
            name => "pp-64",
            text => "ping-pong of 64 B, 1 client",
            parts => [echo(1, "64")],
            ms => 1000,
            show => ?LATENCY
        }
    ] ++
        [
            #{
                name => name(["echo", Size, N]),
                text => text("request and answer of ~s, clients: ~b", [Size, N]),
                parts => [echo(N, Size)],
                ms => ms(Size),
                show => ?ECHO
            }
         || Size <- ?SIZES, N <- ?PROCS
        ] ++
        [
            #{
                name => name(["oneway", Size, N]),
                text =>
                    case window(Size, N) of
                        infinity ->
                            text("one way ~s, held only by back-pressure, senders: ~b", [Size, N]);
                        W ->
                            text("one way ~s, ~b under way a sender, senders: ~b", [Size, W, N])
                    end,
                parts => [flow(N, Size, window(Size, N))],
                ms => ms(Size),
                show => case window(Size, N) of infinity -> ?SMALL; _ -> ?LARGE end
            }
         || Size <- ?SIZES, N <- ?PROCS
        ].

%% Up to 16 senders have four large messages under way each; 128 of 8 MB, one each, are a gigabyte
%% at the receiver already.
window(Size, _N) when Size =:= "64"; Size =:= "1k" -> infinity;
window(_Size, N) when N =< 16 -> 4;
window(_Size, 32) -> 2;
window(_Size, _N) -> 1.

%% Large messages whose bytes are in the cache, as when they were made a moment ago, or go to many.
shared() ->
    [
        #{
            name => name(["oneway", Size, "shared", N]),
            text => text("one way ~s, one binary again and again, 4 under way a sender, senders: ~b", [Size, N]),
            parts => [(flow(N, Size, 4))#{payload => shared}],
            ms => ms(Size),
            show => ?LARGE
        }
     || Size <- ["64k", "1m", "8m"], N <- [1, 4, 16]
    ].

%% One way and small, but nobody floods: for carriers without back-pressure, which drown in what they
%% were given.
windows() ->
    [
        #{
            name => name(["window", Size, N]),
            text => text("one way ~s, ~b under way a sender, senders: ~b", [Size, W, N]),
            parts => [(flow(N, Size, W))#{ack_every => W div 4}],
            ms => 1000,
            show => ?SMALL
        }
     || Size <- ["64", "1k"],
        N <- [1, 16, 128],
        W <- [max(32, min(1024, 4096 div N))]
    ].

forms() ->
    [
        #{
            name => name([Kind, Size, Form, N]),
            text => text("~s of ~s as ~s, processes: ~b", [Kind, Size, Form, N]),
            parts => [
                (case Kind of "echo" -> echo(N, Size); "oneway" -> flow(N, Size, Window) end)#{
                    form => list_to_atom(Form)
                }
            ],
            ms => 1000,
            show => case Kind of "echo" -> ?ECHO; "oneway" -> ?SMALL end
        }
     || Kind <- ["echo", "oneway"],
        Form <- ["list", "map"],
        {Size, Window} <- [{"64", infinity}, {"1k", infinity}, {"64k", 4}],
        N <- [1, 16, 128]
    ].

%% A process for each peer, and 16 peers' processes for one.
fan() ->
    [
        (case Kind of
            "fanout" ->
                #{
                    text => text("one way ~s to ~b peers, a sender each", [Size, Peers]),
                    parts => [(flow(Peers, Size, Window))#{peers => Peers}]
                };
            "fanin" ->
                #{
                    text => text("one way ~s from ~b peers, a sender on each", [Size, Peers]),
                    parts => [(flow(Peers, Size, Window))#{peers => Peers, from => peers}]
                };
            "fanecho" ->
                #{
                    text => text("request and answer of ~s with ~b peers, a client each", [Size, Peers]),
                    parts => [(echo(Peers, Size))#{peers => Peers}]
                }
        end)#{
            name => name([Kind, Size, Peers]),
            ms => 1000,
            show =>
                case {Kind, Window} of
                    {"fanecho", _} -> ?ECHO;
                    {_, infinity} -> ?SMALL;
                    {_, _} -> ?LARGE
                end,
            extras => {max(1, Peers - 1), same}
        }
     || {Kind, Counts} <- [
            {"fanout", [2, 4, 8, 16]}, {"fanin", [2, 4, 8, 16]}, {"fanecho", [2, 4, 8, 16]}
        ],
        {Size, Window} <- [{"1k", infinity}, {"64k", 4}],
        Peers <- Counts
    ].

%% Requests at times fixed before; a late one waits and is counted from when it was due.
open_loop() ->
    [
        #{
            name => name(["open", "1k", integer_to_list(Rate div 1000) ++ "k"]),
            text => text("requests of 1 KB at a fixed rate: ~b a second", [Rate]),
            parts => [
                #{kind => open, procs => Procs, size => ?KB, every_ms => Procs * 1000 div Rate}
            ],
            ms => 2000,
            show => [p50_us, p99_us, p999_us, rate, cpu_s_per_m]
        }
     || {Rate, Procs} <- [{1000, 10}, {10000, 20}, {50000, 100}, {100000, 200}]
    ].

%% The service of the paper's cases (pt_bench_kvs) with objects of today's size, without its sleep.
services() ->
    [
        #{
            name => name([atom_to_list(Kind), Size, Clients]),
            text => text("~s, objects of ~s, clients: ~b", [Words, Size, Clients]),
            parts => [
                #{kind => Kind, from => all, peers => 2, procs => Clients, size => bytes(Size)}
            ],
            ms => 1500,
            extras => {1, same},
            show => ?ECHO
        }
     || {Kind, Words} <- [
            {vnode, "echo by a partition of three nodes"}, {kvs, "replicated store on three nodes"}
        ],
        Size <- ["1k", "64k"],
        Clients <- [16, 128]
    ].

growth() ->
    [
        #{
            name => name(["grow", Peers]),
            text => text("set up connections to ~b small nodes, one after the other", [Peers]),
            parts => [#{kind => grow, procs => 1, size => 64}],
            ms => 1000,
            extras => {Peers, lean},
            show => [setup_ms, p50_us, p99_us, kb_a_peer, fds_a_peer]
        }
     || Peers <- [8, 32, 128]
    ].

ms(Size) -> case bytes(Size) >= 512 * ?KB of true -> 1500; false -> 1000 end.

echo(Procs, Size) -> #{kind => echo, procs => Procs, size => bytes(Size)}.

flow(Procs, Size, Window) ->
    #{kind => flow, procs => Procs, size => bytes(Size), window => Window}.

%% Bytes of a size as names have it.
-spec bytes(string()) -> pos_integer().
bytes(Word) ->
    case string:to_integer(Word) of
        {N, ""} -> N;
        {N, "k"} -> N * ?KB;
        {N, "m"} -> N * ?MB
    end.

name(Words) ->
    lists:append(
        lists:join("-", [case W of _ when is_integer(W) -> integer_to_list(W); _ -> W end || W <- Words])
    ).

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).

%% What a table of the state of things holds: each kind, at the sizes and numbers that differ.
-spec default() -> ['case'()].
default() ->
    {ok, Cases} = select([
        "pp-64",
        "echo-1k-1", "echo-1k-16", "echo-1k-128", "echo-1k-map-16",
        "oneway-64-1", "oneway-64-16", "oneway-64-128",
        "oneway-1k-1", "oneway-1k-16", "oneway-1k-128", "oneway-1k-map-16",
        "oneway-64k-16",
        "oneway-1m-1", "oneway-1m-4", "oneway-1m-16",
        "oneway-8m-1", "oneway-8m-4", "oneway-8m-16",
        "oneway-1m-shared-1", "oneway-1m-shared-4", "oneway-1m-shared-16",
        "oneway-8m-shared-1", "oneway-8m-shared-4", "oneway-8m-shared-16",
        "open-1k-10k",
        "hol-pp-4", "hol-pp-4-cap", "hol-call-4", "hol-tick-4", "hol-pp-4-stall"
    ]),
    Cases.

%% Cases whose name matches one of the patterns, in the order of the table; `*' stands for any
%% letters. Names of earlier versions (echo1k-16, stream8m-4, hol, holcap) are understood.
-spec select([string()]) -> {ok, ['case'()]} | {error, Unknown :: string()}.
select(Wanted) ->
    All = all(),
    Patterns = [{W, pattern(today(W))} || W <- Wanted],
    Matches = fun(Pattern, #{name := Name}) -> re:run(Name, Pattern, [{capture, none}]) =:= match end,
    case [W || {W, P} <- Patterns, not lists:any(fun(C) -> Matches(P, C) end, All)] of
        [Unknown | _] ->
            {error, Unknown};
        [] ->
            {ok, [C || C <- All, lists:any(fun({_, P}) -> Matches(P, C) end, Patterns)]}
    end.

pattern(Glob) ->
    Parts = [
        re:replace(Part, "[^a-zA-Z0-9_-]", "\\\\&", [global, {return, list}])
     || Part <- string:split(Glob, "*", all)
    ],
    lists:append(["^", lists:append(lists:join(".*", Parts)), "$"]).

today("pp64") -> "pp-64";
today("hol") -> "hol-pp-4";
today("holcap") -> "hol-pp-4-cap";
today(Name) ->
    re:replace(
        re:replace(Name, "^stream([0-9])", "oneway-\\1", [{return, list}]),
        "^(echo|oneway)([0-9*])", "\\1-\\2", [{return, list}]
    ).

%% A case of each kind, for the short run.
-spec short() -> ['case'()].
short() ->
    {ok, Cases} = select([
        "pp-64", "echo-1k-16", "echo-1k-map-16", "oneway-64-16", "oneway-1k-128",
        "oneway-1k-list-16", "oneway-1m-4", "oneway-8m-4", "oneway-1m-shared-4", "open-1k-10k",
        "fanout-1k-2", "fanin-1k-2", "fanecho-1k-2",
        "hol-pp-4", "hol-pp-4-cap", "hol-call-4", "hol-tick-4", "hol-pp-4-stall",
        "paper-pair-512k-16", "paper-echo-512k-16", "paper-kvs-512k-16"
    ]),
    Cases.

%% What pt_bench_work runs. The short run checks the whole CRC of every message and wants no warmth.
-spec cell('case'(), #{short := boolean(), seconds := number(), stall_ms := pos_integer()}) ->
    pt_bench_work:cell().
cell(#{parts := Parts} = Case, #{short := true, stall_ms := StallMs}) ->
    Inset = fun(P) -> case P of #{inset_ms := _} -> P#{inset_ms := 50}; _ -> P end end,
    (common(Case, StallMs))#{
        parts => lists:map(Inset, Parts), ms => 300, warm_ms => 0, full_every => 1
    };
cell(#{parts := Parts, ms := Ms} = Case, #{seconds := Seconds, stall_ms := StallMs}) ->
    (common(Case, StallMs))#{
        parts => Parts, ms => max(500, round(Ms * Seconds)), warm_ms => warm_ms(Case),
        full_every => 16
    }.

%% Connections that are to be set up must not be there already.
warm_ms(#{extras := {_, lean}}) -> 0;
warm_ms(_Case) -> 200.

%% The seed is fixed: all nodes must make the same payloads, and runs must be comparable.
common(Case, StallMs) ->
    (maps:with([extras, pause], Case))#{stall_ms => StallMs, seed => 20180}.

%% The figures of a finished cell.
-spec metrics('case'(), map()) -> #{metric() => number()}.
metrics(Case, Got) -> pt_bench_figures:metrics(Case, Got).
