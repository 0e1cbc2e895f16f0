%% Starts what carries messages beside the distribution's own stream, on a measured node, through its
%% public interface: this carrier's named channels, or a rival that brings its own connections.
%%
%% With a rival the two nodes stay connected by inet_tcp as well, which starts the workers and carries their
%% reports; every message that counts goes through the rival (pt_bench_via).
-module(pt_bench_rival).
-export([start/3, join/3, check/3, start_further/1, join_all/1]).

-define(DEADLINE_MS, 15000).

%% Node by node: configures and starts the rival. Nodes: both, this one among them.
-spec start(pt_bench_via:via(), Lanes :: pos_integer(), [node()]) -> ok.
start(Via, Lanes, Nodes) ->
    persistent_term:put(?MODULE, {Via, Lanes}),
    begin_with(Via, Lanes, Nodes).

%% On a node that has it: starts it on a further node, which is controlled through Call.
-spec start_further(fun((module(), atom(), [term()]) -> term())) -> ok.
start_further(Call) ->
    case persistent_term:get(?MODULE, none) of
        none -> ok;
        {Via, Lanes} -> ok = Call(?MODULE, start, [Via, Lanes, []])
    end.

%% More nodes than the pair, which has it already: each with each other.
-spec join_all([node()]) -> ok.
join_all(Nodes) ->
    case persistent_term:get(?MODULE, none) of
        none ->
            ok;
        {Via, Lanes} ->
            Pairs = [[A, B] || A <- Nodes, B <- Nodes, A =/= B],
            [ok = erpc:call(A, ?MODULE, Step, [Via, Lanes, Pair], ?DEADLINE_MS * 2)
             || Step <- [join, check], [A | _] = Pair <- Pairs],
            ok
    end.

begin_with(lasp, Lanes, _Nodes) ->
    Ip = ip(node()),
    configure(partisan, [
        {name, node()},
        {listen_addrs, [#{ip => Ip, port => free_port(Ip)}]},
        {peer_service_manager, partisan_pluggable_peer_service_manager},
        {parallelism, Lanes},
        {channels, #{}},
        {connect_disterl, false},
        %% What it can do without, and what the others do not do either.
        {pid_encoding, false}, {ref_encoding, false}, {broadcast, false},
        {connection_jitter, 0}
    ]),
    started(partisan),
    pt_bench_via:set(lasp);
begin_with(gen_rpc, _Lanes, Nodes) ->
    %% Both nodes may be on one host: each listens at a port that follows from its name.
    configure(gen_rpc, [
        {tcp_server_port, rpc_port(node())},
        {socket_ip, ip(node())},
        {client_config_per_node, {internal, maps:from_list([{N, {tcp, rpc_port(N)}} || N <- Nodes])}}
    ]),
    started(gen_rpc),
    pt_bench_via:set(gen_rpc);
begin_with({channel, _} = Via, Lanes, _Nodes) ->
    ok = apply(partisan_channel, configure, [channels(Lanes)]),
    pt_bench_via:set(Via);
begin_with({forward, _} = Via, Lanes, _Nodes) ->
    configure(partisan, [{channels, channels(Lanes)}]),
    started(partisan),
    pt_bench_via:set(Via);
begin_with(riak_core, _Lanes, _Nodes) ->
    {module, riak_core_send_msg} = code:ensure_loaded(riak_core_send_msg),
    pt_bench_via:set(riak_core).

%% Connects them.
-spec join(pt_bench_via:via(), pos_integer(), [node()]) -> ok.
join(lasp, Lanes, [Join | _] = Nodes) when node() =:= Join ->
    [Other] = Nodes -- [node()],
    Spec = erpc:call(Other, partisan, node_spec, [], ?DEADLINE_MS),
    lasp_connections(Other) >= Lanes orelse (ok = apply(partisan_peer_service, join, [Spec])),
    until(fun() -> lasp_connections(Other) >= Lanes end);
join(_Via, _Lanes, _Nodes) ->
    ok.

%% A message has to get to the other node by the rival or the channel, and nothing else may have
%% carried it.
-spec check(pt_bench_via:via(), pos_integer(), [node()]) -> ok.
check(Via, Lanes, Nodes) ->
    [Other] = Nodes -- [node()],
    Via =/= lasp orelse until(fun() -> lasp_connections(Other) >= Lanes end),
    Self = self(),
    Ref = make_ref(),
    Before = bytes(Via, Other),
    Size = 1 bsl 20,
    Back = spawn(Other, fun() -> receive {Ref, _} -> Self ! Ref end end),
    pt_bench_via:send(Via, Back, {Ref, binary:copy(<<0>>, Size)}),
    receive
        Ref ->
            Sent = bytes(Via, Other) - Before,
            case Via of
                riak_core -> ok;
                {_, _} when Sent >= Size -> ok;
                {_, _} -> error({the_channel_did_not_carry_it, Via});
                _ when Sent < Size div 2 -> ok;
                _ -> error({the_distribution_carried_it, Via})
            end
    after ?DEADLINE_MS ->
        error({nothing_arrives, Via})
    end.

%% Bytes that the channel, or else the distribution's own connection, has sent.
bytes({_, Channel}, Node) ->
    case apply(partisan_channel, info, [Node]) of
        #{Channel := #{bytes_out := N}} -> N;
        #{} -> 0
    end;
bytes(_Via, Node) ->
    {_, Port} = lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)),
    {ok, [{send_oct, N}]} = inet:getstat(Port, [send_oct]),
    N.

%% Connections of the default channel.
lasp_connections(Node) ->
    apply(partisan_peer_connections, count, [Node, undefined]).

until(Done) -> until(Done, erlang:monotonic_time(millisecond) + ?DEADLINE_MS).

until(Done, Deadline) ->
    case {Done(), erlang:monotonic_time(millisecond) < Deadline} of
        {true, _} ->
            ok;
        {false, true} ->
            timer:sleep(20),
            until(Done, Deadline);
        {false, false} ->
            error(not_connected_in_time)
    end.

channels(Lanes) ->
    #{small => #{parallelism => Lanes}, bulk => #{parallelism => Lanes}}.

configure(Application, Values) ->
    %% The carrier loads its own application.
    case application:load(Application) of
        ok -> ok;
        {error, {already_loaded, _}} -> ok
    end,
    [ok = application:set_env(Application, Key, Value) || {Key, Value} <- Values],
    ok.

started(Application) ->
    %% Its notices are not ours.
    ok = logger:set_primary_config(level, error),
    {ok, _} = application:ensure_all_started(Application),
    ok.

ip(Node) ->
    [_, Host] = string:split(atom_to_list(Node), "@"),
    {ok, Ip} = inet:getaddr(Host, inet),
    Ip.

free_port(Ip) ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, Ip}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

rpc_port(Node) -> 31000 + erlang:phash2(Node, 1500).
