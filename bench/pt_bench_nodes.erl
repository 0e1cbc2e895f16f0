%% Carriers, and pairs of fresh nodes on them.
%%
%% The nodes are controlled over their standard input and output, so that nothing but the workload
%% crosses the carrier, and the controller needs no distribution of its own. They end when the
%% controller ends, however it ends.
-module(pt_bench_nodes).
-export([start_pair/3, prepare/2, run/2, forget/1, stop_pair/1, describe/1, os_pids/1, call/4,
    command/3]).
-export_type([pair/0, options/0]).

-opaque pair() :: #{
    carrier := pt_bench_carrier:carrier(),
    peers := [pid()],
    nodes := [node()],
    os_pids := [string()]
}.
%% How nodes are started. Hosts and wraps are for the first and the second node: the address in the
%% node's name, and words put before the command, as in ["ip", "netns", "exec", "left"].
-type options() :: #{
    pinned := boolean(),
    erl := [string()],
    ebin := file:filename(),
    beams := file:filename(),
    dir := file:filename(),
    hosts := {string(), string()},
    wraps := {[string()], [string()]}
}.

-define(BOOT_MS, 60000).
-define(PREPARE_MS, 60000).

%% Starts two nodes of the carrier, connects them, and makes sure that the carrier carries.
-spec start_pair(pt_bench_carrier:carrier(), Tag :: string(), options()) ->
    {ok, pair()} | {error, string()}.
start_pair(Carrier, Tag, Options) ->
    Port = integer_to_list(27000 + erlang:unique_integer([positive]) rem 4000),
    Started = [start_node(Carrier, Tag, Side, Port, Options) || Side <- [1, 2]],
    case Started of
        [{ok, P1, N1, O1}, {ok, P2, N2, O2}] ->
            Pair = #{carrier => Carrier, peers => [P1, P2], nodes => [N1, N2], os_pids => [O1, O2]},
            case connect(Pair) of
                ok ->
                    {ok, Pair};
                {error, _} = Error ->
                    stop_pair(Pair),
                    Error
            end;
        _ ->
            [stop_node(P, O) || {ok, P, _, O} <- Started],
            {error, hd([Why || {error, Why} <- Started])}
    end.

start_node(#{proto := Proto, args := Args} = Carrier, Tag, Side, Port, Options) ->
    #{pinned := Pinned, erl := Erl, hosts := Hosts} = Options,
    Pins = case Pinned of true -> ["+S", "1:1"]; false -> [] end,
    Spec = #{
        name => "bench_" ++ Tag ++ "_" ++ integer_to_list(Side),
        host => element(Side, Hosts),
        longnames => true,
        connection => standard_io,
        exec => command(Side, Options, ["erl"]),
        wait_boot => ?BOOT_MS,
        args => ["-pa" | paths(Carrier, Options)] ++ Pins ++ Erl ++
            [
                %% A user's .erlang must not change what is measured.
                "-boot", "no_dot_erlang",
                "-proto_dist", Proto,
                "-setcookie", "bench_" ++ Tag,
                "-connect_all", "false",
                "-kernel", "prevent_overlapping_partitions", "false"
            ] ++ names(Hosts, Port) ++ tls(Carrier, Options) ++ Args
    },
    %% peer ties the node to this process by a link; a failed boot must not end the run.
    process_flag(trap_exit, true),
    try peer:start_link(Spec) of
        {ok, Peer, Node} ->
            {ok, Peer, Node, peer:call(Peer, os, getpid, [])};
        {error, Why} ->
            {error, boot_words(Proto, Why)}
    catch
        _:Why -> {error, boot_words(Proto, Why)}
    end.

%% A rival may have modules of the same names as ours.
paths(#{proto := "partisan" ++ _}, #{beams := Beams, ebin := Ebin}) -> [Beams, Ebin];
paths(#{paths := Paths}, #{beams := Beams}) -> [Beams | Paths].

%% Words as a program and its arguments, on the first or second side: wrapped and pinned.
-spec command(Side :: 1 | 2, options(), [string()]) -> {file:filename(), [string()]}.
command(Side, #{pinned := Pinned, wraps := Wraps}, Words) ->
    Pin = case Pinned of true -> ["taskset", "-c", integer_to_list(Side - 1)]; false -> [] end,
    [Command | Args] = element(Side, Wraps) ++ Pin ++ Words,
    case os:find_executable(Command) of
        false -> throw({no_start, Command ++ " is not there: nothing can be started by it"});
        Path -> {Path, Args}
    end.

%% Hosts of their own may be network namespaces, which the epmd of this one does not serve: the nodes
%% of a pair then listen at a port that both know. Several pairs are up at a time; a port is free
%% again when its pair is gone.
names({Host, Host}, _Port) ->
    [];
names({_, _}, Port) ->
    ["-start_epmd", "false", "-erl_epmd_port", Port, "-kernel",
        "inet_dist_listen_min", Port, "inet_dist_listen_max", Port].

tls(#{tls := Version}, #{dir := Dir}) ->
    ["-ssl_dist_optfile", pt_bench_tls:options_file(Dir, Version)];
tls(_, _) ->
    [].

boot_words(Proto, Why) ->
    text("a node with -proto_dist ~s did not start (see above): ~0p", [Proto, Why]).

%% Two -proto_dist flags, or one that comes through the environment, make OTP 25 fall back to
%% inet_tcp without a word; a benchmark of the wrong carrier must be impossible.
connect(#{carrier := #{proto := Proto} = Carrier, peers := [P1, _], nodes := [_, N2]} = Pair) ->
    case peer:call(P1, net_kernel, connect_node, [N2], ?BOOT_MS) of
        true ->
            case {Carrier, controller(P1, N2)} of
                {_, "tcp_inet"} when Proto =:= "inet_tcp"; Proto =:= "inet6_tcp" -> rival(Pair);
                {_, "partisan" ++ _} when Proto =:= "partisan"; Proto =:= "partisan6" -> rival(Pair);
                {#{tls := Version}, process} -> tls_version(P1, N2, Version);
                {_, Other} -> {error, text("asked for ~s, but ~0p carries", [Proto, Other])}
            end;
        Other ->
            {error, text("the two nodes of ~s did not connect: ~0p", [Proto, Other])}
    end.

controller(Peer, Node) ->
    case lists:keyfind(Node, 1, peer:call(Peer, erlang, system_info, [dist_ctrl])) of
        {_, Port} when is_port(Port) ->
            {name, Name} = peer:call(Peer, erlang, port_info, [Port, name]),
            Name;
        {_, Pid} when is_pid(Pid) -> process;
        false -> none
    end.

tls_version(Peer, Node, Version) ->
    case peer:call(Peer, pt_bench_tls, version, [Node]) of
        {ok, Version} -> ok;
        Other -> {error, text("asked for TLS ~s, got ~0p", [Version, Other])}
    end.

rival(#{carrier := #{via := dist}}) ->
    ok;
rival(#{carrier := #{via := Via} = Carrier, peers := Peers, nodes := Nodes}) ->
    Lanes = maps:get(lanes, Carrier, 1),
    Args = [Via, Lanes, Nodes],
    try
        [
            ok = peer:call(P, pt_bench_rival, Step, Args, ?BOOT_MS)
         || Step <- [start, join, check], P <- Peers
        ],
        ok
    catch
        Class:Why -> {error, text("~0p did not start: ~0p:~0P", [Via, Class, Why, 30])}
    end.

%% What the carrier says about itself: a line for people, everything for the record.
-spec describe(pair()) -> {Words :: string(), map()}.
describe(#{carrier := #{proto := "partisan" ++ _}, peers := [P1, _], nodes := [_, N2]}) ->
    try
        Node = peer:call(P1, partisan_dist, info, []),
        Session = peer:call(P1, partisan_dist, info, [N2]),
        Reason = maps:get(backend_reason, Node, "unknown back end"),
        Lanes = maps:get(lanes, maps:get(options, Node, #{}), unknown),
        {
            text("~ts; lanes wished: ~0p", [Reason, Lanes]),
            #{node => maps:without([sessions, listener], Node), session => Session}
        }
    catch
        _:_ -> {"", #{}}
    end;
describe(_Pair) ->
    {"", #{}}.

-spec prepare(pair(), pt_bench_work:cell()) -> ok | {error, string()}.
prepare(#{peers := Peers}, Cell) ->
    guarded(fun() ->
        [
            ok = peer:call(P, pt_bench_work, prepare, [Cell, Side], prepare_ms(Cell))
         || {P, Side} <- lists:zip(Peers, [first, second])
        ],
        ok
    end).

%% The second node starts what further nodes the cell needs.
prepare_ms(#{extras := {Count, _}}) -> ?PREPARE_MS + 3000 * Count;
prepare_ms(#{}) -> ?PREPARE_MS.

%% Frees what a cell with large payloads keeps for the next one: many pairs wait at the same time.
-spec forget(pair()) -> ok.
forget(#{peers := Peers}) ->
    _ = guarded(fun() -> [peer:call(P, pt_bench_payload, forget, []) || P <- Peers], ok end),
    ok.

-spec os_pids(pair()) -> [pt_bench_proc:os_pid()].
os_pids(#{os_pids := OsPids}) -> OsPids.

%% A call on both nodes.
-spec call(pair(), module(), atom(), [term()]) -> [term()].
call(#{peers := Peers}, M, F, A) -> [peer:call(P, M, F, A, ?PREPARE_MS) || P <- Peers].

%% A cell stalls by its own clock; the limit here is for a VM that hangs altogether.
-spec run(pair(), pt_bench_work:cell()) -> {ok, map()} | {stalled, string()} | {error, string()}.
run(#{peers := [P1, _], nodes := [_, N2], os_pids := OsPids}, Cell) ->
    #{ms := Ms, stall_ms := Stall} = Cell,
    Limit = 2 * (Ms + Stall) + 20000,
    guarded(fun() -> peer:call(P1, pt_bench_work, run, [Cell, N2, OsPids], Limit) end).

guarded(Fun) ->
    try
        Fun()
    catch
        exit:{timeout, {gen_server, call, _}} -> {error, "a node hung"};
        exit:{_, {gen_server, call, _}} -> {error, "a node died"};
        Class:Why -> {error, text("the workload failed: ~0p:~0P", [Class, Why, 30])}
    end.

-spec stop_pair(pair()) -> ok.
stop_pair(#{peers := Peers, os_pids := OsPids}) ->
    [stop_node(P, O) || {P, O} <- lists:zip(Peers, OsPids)],
    ok.

stop_node(Peer, OsPid) ->
    try
        peer:stop(Peer)
    catch
        _:_ -> ok
    end,
    gone(OsPid, erlang:monotonic_time(millisecond) + 5000).

%% A VM that does not end when told to is a fault worth a line, and must not load the next cell.
gone(OsPid, Deadline) ->
    case pt_bench_proc:alive(OsPid) of
        false ->
            ok;
        true ->
            case erlang:monotonic_time(millisecond) < Deadline of
                true ->
                    timer:sleep(10),
                    gone(OsPid, Deadline);
                false ->
                    Words = "bench: process ~s did not end by itself: killed~n",
                    io:format(standard_error, Words, [OsPid]),
                    _ = os:cmd("kill -9 " ++ OsPid),
                    ok
            end
    end.

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
