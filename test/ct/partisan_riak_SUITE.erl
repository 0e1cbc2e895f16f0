%% Riak Core's way of using Partisan, on three nodes: the calls of its utility module (riak_shape),
%% puts and gets with N=3, R=W=2, with and without partition keys, and its three channels.
-module(partisan_riak_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_group/2, end_per_group/2]).
-export([puts_and_gets/1, causal_puts/1, keys_spread_over_lanes/1, gossip_newest/1, broadcasts/1,
         members_come_and_go/1]).

suite() ->
    [{timetrap, {minutes, 4}}].

all() ->
    [{group, pluggable}, {group, default}].

%% Under today's name of the manager, and under the one that Riak Core's code falls back to.
groups() ->
    Cases = [puts_and_gets, causal_puts, keys_spread_over_lanes, gossip_newest, broadcasts,
             members_come_and_go],
    [{pluggable, [], Cases}, {default, [], [puts_and_gets, members_come_and_go]}].

init_per_group(pluggable, Config) ->
    [{manager, partisan_pluggable_peer_service_manager} | Config];
init_per_group(default, Config) ->
    [{manager, partisan_default_peer_service_manager} | Config].

end_per_group(_Group, _Config) ->
    ok.

-define(CHANNELS, [undefined, {monotonic, gossip}, broadcast, vnode]).

%% ------------------------------------------------------------------------------------------------

puts_and_gets(Config) ->
    Peers = cluster(Config),
    Nodes = nodes_of(Peers),
    [begin
         ok = everywhere(Peers, fun() -> partisan_config:set(vnode_partitioning, Partitioned) end),
         %% from every node, by both forms of a coordinator's address
         [[?assertEqual({P, I, ok}, {P, I, on(Peer, fun() -> riak_shape:put(Nodes, {P, I}, value(I, Size), How) end)})
           || I <- lists:seq(1, 20), How <- [pid, reference]]
          || {P, Peer} <- lists:zip([1, 2, 3], Peers)],
         %% compared there: a control channel is no place for that many bytes
         [?assertEqual({P, I, true},
                       {P, I, on(Peer, fun() -> {ok, value(I, Size)} =:= riak_shape:get(Nodes, {P, I}, How) end)})
          || I <- lists:seq(1, 20), How <- [pid, reference], P <- [1, 2, 3], Peer <- Peers],
         ?assertEqual({ok, notfound}, on(hd(Peers), fun() -> riak_shape:get(Nodes, nothing, pid) end))
     end || {Partitioned, Size} <- [{false, 100}, {true, 100}, {true, 300000}]],
    %% each key lies three times
    ?assert(pt_peer:wait(fun() -> lists:sum([on(P, fun() -> riak_shape:keys(Nodes) end) || P <- Peers]) =:= 3 * 60 end)),
    stop(Peers).

value(I, Size) -> binary:copy(<<I>>, Size).

causal_puts(Config) ->
    Peers = [A, B, _] = cluster(Config),
    Nodes = nodes_of(Peers),
    ok = everywhere(Peers, fun() -> partisan_config:set(causal_delivery, true) end),
    [begin
         ?assertEqual(ok, on(A, fun() -> riak_shape:put(Nodes, I, I, pid) end)),
         ?assertEqual({ok, I}, on(B, fun() -> riak_shape:get(Nodes, I, pid) end))
     end || I <- lists:seq(1, 30)],
    stop(Peers).

%% Ring indexes are multiples of 2^160/64: with Partisan's own arithmetic all would take one
%% connection.
keys_spread_over_lanes(Config) ->
    Peers = [A, B, _] = cluster(Config),
    Nodes = nodes_of(Peers),
    ok = everywhere(Peers, fun() -> partisan_config:set(vnode_partitioning, true) end),
    [ok = on(A, fun() -> riak_shape:put(Nodes, I, I, pid) end) || I <- lists:seq(1, 200)],
    #{vnode := #{lanes := Lanes}} = on(A, fun() -> partisan_channel:info(pt_peer:node(B)) end),
    ?assertMatch([_, _, _, _], [F || #{frames_out := F} <- Lanes, F > 10]),
    stop(Peers).

%% What counts of a ring is its newest version: older ones may be left out, never the last, and
%% never does an older one come behind a newer.
gossip_newest(Config) ->
    Peers = [A, B, C] = cluster(Config),
    ok = everywhere(Peers, fun riak_shape:gossip_server/0),
    [ok = on(A, fun() -> riak_shape:gossip(pt_peer:node(P), lists:seq(1, 2000)) end) || P <- [B, C]],
    [begin
         ?assert(pt_peer:wait(fun() -> 2000 =:= element(2, newest(P)) end)),
         {newest, 2000, Seen} = newest(P),
         ?assertEqual(lists:usort(Seen), Seen)
     end || P <- [B, C]],
    stop(Peers).

newest(P) ->
    on(P, fun() -> gossip_server ! {newest, self()}, receive {newest, _, _} = N -> N after 20000 -> none end end).

broadcasts(Config) ->
    Peers = [A | _] = cluster(Config),
    Nodes = nodes_of(Peers),
    Pids = [begin
                Pid = pt_peer:spawn_collector(P),
                true = on(P, fun() -> register(listener, Pid) end),
                Pid
            end || P <- Peers],
    ok = on(A, fun() -> [riak_shape:broadcast(Nodes, listener, {metadata, I}) || I <- lists:seq(1, 100)], ok end),
    [?assert(pt_peer:wait(fun() -> pt_peer:collected(P, Pid) =:= [{metadata, I} || I <- lists:seq(1, 100)] end))
     || {P, Pid} <- lists:zip(Peers, Pids)],
    stop(Peers).

%% join, leave and update of the utility module.
members_come_and_go(Config) ->
    Peers = [A, B, C] = cluster(Config),
    [NodeA, NodeB, NodeC] = nodes_of(Peers),
    ?assertEqual(lists:sort([NodeA, NodeB, NodeC]), members(A)),
    ok = on(A, fun() -> riak_shape:leave(NodeC) end),
    ?assert(pt_peer:wait(fun() -> [members(P) || P <- [A, B]] =:= lists:duplicate(2, lists:sort([NodeA, NodeB])) end)),
    ?assert(pt_peer:wait(fun() -> members(C) =:= [NodeC] end)),
    ok = on(C, fun() -> riak_shape:join(NodeA, ?CHANNELS) end),
    ?assert(pt_peer:wait(fun() -> lists:all(fun(P) -> length(members(P)) =:= 3 end, Peers) end)),
    ok = on(A, fun() -> riak_shape:update([NodeA, NodeB]) end),
    ?assert(pt_peer:wait(fun() -> members(A) =:= lists:sort([NodeA, NodeB]) end)),
    %% Riak Core goes on asking a node that is on its way out, by rpc
    ?assertEqual(NodeC, on(A, fun() -> rpc:call(NodeC, erlang, node, []) end)),
    stop(Peers).

members(P) ->
    {ok, Members} = on(P, fun partisan_peer_service:members/0),
    lists:sort(Members).

%% ------------------------------------------------------------------------------------------------

%% Three nodes, joined as Riak Core joins, with workers.
cluster(Config) ->
    Env = [{channels, ?CHANNELS}, {parallelism, 4}, {partisan_peer_service_manager, proplists:get_value(manager, Config)}],
    Peers = [A | Others] = pt_cluster:start(3, Env),
    Nodes = nodes_of(Peers),
    ok = everywhere(Peers, fun() -> riak_shape:configure(true) end),
    %% Riak Core asks a node for its map over the distribution before it joins it
    [begin
         true = on(P, fun() -> net_kernel:connect_node(pt_peer:node(A)) end),
         ok = on(P, fun() -> riak_shape:join(pt_peer:node(A), How) end)
     end || {P, How} <- lists:zip(Others, [asked, ?CHANNELS])],
    true = pt_peer:wait(fun() -> lists:all(fun(P) -> length(members(P)) =:= 3 end, Peers) end),
    true = pt_peer:wait(fun() -> lists:all(fun(P) -> length(on(P, fun erlang:nodes/0)) =:= 2 end, Peers) end),
    [ok = on(P, fun() -> riak_shape:start_vnodes(Nodes, node()) end) || P <- Peers],
    Peers.

nodes_of(Peers) -> [pt_peer:node(P) || P <- Peers].

everywhere(Peers, Fun) ->
    [ok = on(P, Fun) || P <- Peers],
    ok.

on(Peer, Fun) -> pt_peer:eval(Peer, Fun).

stop(Peers) -> lists:foreach(fun pt_peer:stop/1, Peers).
