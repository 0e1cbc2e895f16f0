%% Membership in the full mesh, on real nodes: what partisan_peer_service promises.
-module(member_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([alone/1, join_by_name/1, join_by_spec/1, join_by_address/1, bad_joins/1, sync_join/1,
         clusters_merge/1, leave_self/1, leave_other/1, disconnect_node/1, rejoin/1, rejoin_at_once/1, down_member_stays/1,
         restart_same_name/1, removed_while_away/1, shell_restarts/1, update_members/1,
         on_up_and_down/1, channel_callbacks/1, events/1, connections/1, other_returns/1, erl_call/1,
         old_arities/1, strangers_stay_out/1, discovery_list/1, discovery_dns/1]).

suite() ->
    [{timetrap, {minutes, 4}}].

all() ->
    [alone, join_by_name, join_by_spec, join_by_address, bad_joins, sync_join, clusters_merge,
     leave_self, leave_other, disconnect_node, rejoin, rejoin_at_once, down_member_stays, restart_same_name, removed_while_away,
     shell_restarts, update_members, on_up_and_down, channel_callbacks, events, connections,
     other_returns, erl_call, old_arities, strangers_stay_out, discovery_list, discovery_dns].

init_per_testcase(_Case, Config) -> Config.
end_per_testcase(_Case, _Config) -> ok.

-define(wait(Condition), ?assert(pt_peer:wait(fun() -> Condition end, 60000, 30))).

%% ------------------------------------------------------------------------------------------------
%% Joining

alone(_Config) ->
    [A] = pt_cluster:start(1),
    Node = pt_peer:node(A),
    ?assertEqual({ok, [Node]}, service(A, members, [])),
    ?assert(service(A, member, [Node])),
    ?assertNot(service(A, member, ['nobody@nowhere.invalid'])),
    ?assertMatch({ok, [#{name := Node, listen_addrs := [_ | _], channels := #{}}]},
                 service(A, members_for_orchestration, [])),
    ?assertEqual({ok, []}, service(A, connections, [])),
    ?assertEqual(ok, service(A, leave, [])),
    ?assertEqual({ok, [Node]}, service(A, members, [])),
    pt_cluster:stop([A]).

join_by_name(_Config) ->
    Nodes = [A, B, C] = pt_cluster:start(3),
    ?assertEqual(ok, service(A, join, [pt_peer:node(B)])),
    ?assertEqual(ok, service(C, join, [atom_to_list(pt_peer:node(B))])),
    ?wait(pt_cluster:is_mesh(Nodes)),
    pt_cluster:stop(Nodes).

join_by_spec(_Config) ->
    Nodes = [A, B, C] = pt_cluster:start(3),
    {ok, [SpecB]} = service(B, members_for_orchestration, []),
    ?assertEqual(ok, service(A, join, [SpecB])),
    %% The older generation's spec.
    Old = #{name => pt_peer:node(A), listen_addrs => [#{ip => {127, 0, 0, 1}, port => 1}],
            channels => [undefined, {monotonic, gossip}], parallelism => 2},
    ?assertEqual(ok, service(C, join, [Old])),
    ?wait(pt_cluster:is_mesh(Nodes)),
    pt_cluster:stop(Nodes).

%% Nodes that no epmd knows. Only the addresses can bring them together.
join_by_address(_Config) ->
    Args = ["-epmd_module", "pt_nobody_epmd", "-start_epmd", "false"],
    [A, B, C] = [pt_cluster:app(pt_peer:start(m, #{args => Args}), []) || _ <- [a, b, c]],
    PortB = pt_peer:eval(B, fun() -> [#{port := Port} | _] = partisan_config:listen_addrs(), Port end),
    ?assertEqual(ok, service(A, join, ["127.0.0.1:" ++ integer_to_list(PortB)])),
    %% C learns from B where A listens.
    ?assertEqual(ok, service(C, sync_join, [iolist_to_binary(["127.0.0.1:", integer_to_list(PortB)])])),
    ?wait(pt_cluster:is_mesh([A, B, C])),
    pt_cluster:stop([A, B, C]).

bad_joins(_Config) ->
    [A] = pt_cluster:start(1),
    Node = pt_peer:node(A),
    {ok, [Spec]} = service(A, members_for_orchestration, []),
    [?assertEqual({error, self_join}, service(A, Function, [Itself]))
     || Function <- [join, sync_join], Itself <- [Node, atom_to_list(Node), Spec]],
    %% as Partisan 1 to 4 wrote it, and answered
    [?assertEqual(ok, service(A, Function, [Spec#{channels => [undefined], parallelism => 1}]))
     || Function <- [join, sync_join]],
    ?assertEqual({ok, [Node]}, service(A, members, [])),
    ?assertEqual({error, not_yet_connected}, service(A, join, ['nobody@127.0.0.1'])),
    ?assertEqual({error, not_yet_connected}, service(A, sync_join, ["nobody@127.0.0.1"])),
    {Bound, Refuses} = refusing_port(),
    ?assertEqual({error, econnrefused}, service(A, join, ["127.0.0.1:" ++ integer_to_list(Refuses)])),
    ok = socket:close(Bound),
    {ok, Mute} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, MutePort} = inet:port(Mute),
    ?assertEqual({error, timeout},
                 service(A, join, ["127.0.0.1:" ++ integer_to_list(MutePort)])),
    ?assertMatch({error, {bad_node_name, nobody}}, service(A, join, [nobody])),
    ?assertMatch({error, {bad_address, "x:y"}}, service(A, join, ["x:y"])),
    ?assertMatch({error, {bad_node_spec, 17}}, service(A, join, [17])),
    ?assertMatch({error, {bad_node_spec, #{}}}, service(A, join, [#{}])),
    ?assertMatch({error, {bad_node_spec, _}}, service(A, join, [Spec#{listen_addrs => x}])),
    ?assertEqual({ok, [Node]}, service(A, members, [])),
    pt_cluster:stop([A]).

%% Bound, so that nobody else gets it, and nobody listens.
refusing_port() ->
    {ok, Socket} = socket:open(inet, stream),
    ok = socket:bind(Socket, #{family => inet, addr => {127, 0, 0, 1}, port => 0}),
    {ok, #{port := Port}} = socket:sockname(Socket),
    {Socket, Port}.

%% Connected and open when it returns: a message sent right after arrives.
sync_join(_Config) ->
    Nodes = [A, B] = pt_cluster:start(2, [{channels, [gossip, {vnode, #{parallelism => 2}}]}]),
    Collector = pt_peer:spawn_collector(B),
    ?assertEqual(ok, service(A, sync_join, [pt_peer:node(B)])),
    ?assert(lists:member(pt_peer:node(B), pt_cluster:neighbours(A))),
    [?assertEqual(ok, pt_peer:call(A, partisan, forward_message,
                                   [pt_peer:node(B), Collector, {on, Channel},
                                    #{channel => Channel}])) || Channel <- [undefined, gossip, vnode]],
    ?wait(lists:sort(pt_peer:collected(B, Collector)) =:= [{on, gossip}, {on, undefined}, {on, vnode}]),
    pt_cluster:stop(Nodes).

%% Two clusters with members of their own become one, whoever joins whom.
clusters_merge(_Config) ->
    Nodes = [A, B, C, D] = pt_cluster:start(4),
    ok = pt_cluster:join([A, B], sync_join),
    ok = pt_cluster:join([C, D], sync_join),
    ?wait(pt_cluster:is_mesh([A, B]) andalso pt_cluster:is_mesh([C, D])),
    ?assertEqual(ok, service(B, join, [pt_peer:node(D)])),
    ?wait(pt_cluster:is_mesh(Nodes)),
    pt_cluster:stop(Nodes).

%% ------------------------------------------------------------------------------------------------
%% Leaving and coming back

mesh(N) -> mesh(N, []).
mesh(N, Env) ->
    Nodes = pt_cluster:start(N, Env),
    ok = pt_cluster:join(Nodes, sync_join),
    ?wait(pt_cluster:is_mesh(Nodes)),
    Nodes.

%% Connections are the distribution's, and stay; the channels are the cluster's.
leave_self(_Config) ->
    Nodes = [A, B, C] = mesh(3, [{channels, [vnode]}]),
    [NodeA, NodeB, NodeC] = [pt_peer:node(Peer) || Peer <- Nodes],
    ?wait(is_map_key(vnode, pt_peer:call(C, partisan_channel, info, [NodeA]))),
    ?assertEqual(ok, service(C, leave, [])),
    ?assertEqual({ok, [NodeC]}, service(C, members, [])),
    ?wait(pt_cluster:is_mesh([A, B])),
    [?wait(#{} =:= pt_peer:call(Peer, partisan_channel, info, [Node]))
     || {Peer, Node} <- [{C, NodeA}, {C, NodeB}, {A, NodeC}, {B, NodeC}]],
    ?assertEqual(lists:sort([NodeA, NodeB]), lists:sort(pt_peer:call(C, erlang, nodes, []))),
    %% who talks to a node that is no member opens them again
    Collector = pt_peer:spawn_collector(C),
    ?assertEqual(ok, pt_peer:call(A, partisan, forward_message, [NodeC, Collector, still, #{channel => vnode}])),
    ?wait(pt_peer:collected(C, Collector) =:= [still]),
    pt_cluster:stop(Nodes).

%% By atom, by string, by spec: all versions of the API.
leave_other(_Config) ->
    Nodes = [A, B, C, D] = mesh(4),
    {ok, Specs} = service(A, members_for_orchestration, []),
    [SpecD] = [Spec || #{name := Name} = Spec <- Specs, Name =:= pt_peer:node(D)],
    ?assertEqual(ok, service(A, leave, [pt_peer:node(B)])),
    ?assertEqual(ok, service(A, leave, [atom_to_list(pt_peer:node(C))])),
    ?assertEqual(ok, service(A, leave, [SpecD])),
    ?wait(lists:all(fun(Peer) -> pt_cluster:is_cluster([Peer]) end, Nodes)),
    ?assertEqual(ok, service(A, leave, ['nobody@nowhere.invalid'])),
    ?assert(lists:all(fun(Peer) -> length(pt_peer:call(Peer, erlang, nodes, [])) =:= 3 end, Nodes)),
    pt_cluster:stop(Nodes).

%% As leave/1, and the connection goes, behind what was sent. Between two nodes, for of three `global`
%% makes all others drop the one that one of them dropped; and without the kernel's servers, which connect
%% to answer a node that has just come.
disconnect_node(_Config) ->
    Nodes = [A, B] = pt_cluster:start(2, [], #{args => ["-kernel", "dist_auto_connect", "never"]}),
    ok = pt_cluster:join(Nodes, sync_join),
    ?wait(pt_cluster:is_mesh(Nodes)),
    Collector = pt_peer:spawn_collector(A),
    N = 200,
    ?assert(pt_peer:eval(B, fun() ->
                                    [Collector ! {I, binary:copy(<<I:32>>, 25000)} || I <- lists:seq(1, N)],
                                    partisan:disconnect_node(pt_peer:node(A))
                            end)),
    ?wait(pt_cluster:is_cluster([A]) andalso pt_cluster:is_cluster([B])),
    ?wait([[], []] =:= [pt_peer:call(Peer, erlang, nodes, [connected]) || Peer <- Nodes]),
    ?wait(N =:= pt_peer:how_many(A, Collector)),
    ?assert(pt_peer:call(A, partisan, disconnect_node, ['nobody@nowhere.invalid'])),
    pt_cluster:stop(Nodes).

rejoin(_Config) ->
    Nodes = [A, B, C] = mesh(3),
    lists:foreach(fun(_) ->
                          ok = service(C, leave, []),
                          ?wait(pt_cluster:is_cluster([A, B])),
                          ?assertEqual(ok, service(C, sync_join, [pt_peer:node(A)])),
                          ?wait(pt_cluster:is_mesh(Nodes)),
                          ok = service(A, leave, [pt_peer:node(C)]),
                          ?wait(pt_cluster:is_cluster([A, B]) andalso pt_cluster:is_cluster([C])),
                          ?assertEqual(ok, service(B, sync_join, [pt_peer:node(C)])),
                          ?wait(pt_cluster:is_mesh(Nodes))
                  end, lists:seq(1, 3)),
    pt_cluster:stop(Nodes).

%% The join is asked for before the news that the node was taken out has got to it, or right behind.
rejoin_at_once(_Config) ->
    Nodes = [A, B, C] = mesh(3),
    [NodeA, NodeB] = [pt_peer:node(Peer) || Peer <- [A, B]],
    Joined = fun(Answer) ->
                     ?assertEqual(ok, Answer),
                     ?wait(pt_cluster:is_mesh(Nodes))
             end,
    Remove = fun() -> ok = service(A, leave, [NodeB]) end,
    Collector = pt_peer:spawn_collector(B),
    %% in this order in the mailbox of B's overlay
    Shell = pt_peer:call(B, erlang, whereis, [partisan_overlay_shell]),
    ok = pt_peer:call(B, sys, suspend, [Shell]),
    _ = pt_pair:do_on(B, Collector, fun() ->
            spawn(fun() -> Collector ! {joined, partisan_peer_service:sync_join(NodeA)} end)
        end),
    Queued = fun(N) ->
                     {_, Len} = pt_peer:call(B, erlang, process_info, [Shell, message_queue_len]),
                     Len >= N
             end,
    ?wait(Queued(1)),
    Remove(),
    ?wait(Queued(2)),
    ok = pt_peer:call(B, sys, resume, [Shell]),
    ?wait(pt_peer:collected(B, Collector) =/= []),
    [{joined, Answer}] = pt_peer:collected(B, Collector),
    Joined(Answer),
    %% whatever the order
    [begin
         Away(),
         Joined(service(Joiner, sync_join, [Node]))
     end || _ <- [1, 2, 3], {Joiner, Node} <- [{B, NodeA}, {A, NodeB}],
            Away <- [Remove,
                     fun() -> ok = service(B, leave, []) end,
                     fun() -> ok = service(A, update_members, [[NodeA, pt_peer:node(C)]]) end]],
    pt_cluster:stop(Nodes).

down_member_stays(_Config) ->
    [A, B, C] = mesh(3),
    pt_peer:kill(C),
    ?wait(not lists:member(pt_peer:node(C), pt_cluster:neighbours(A))),
    ?assertEqual(pt_cluster:names([A, B, C]), pt_cluster:members(A)),
    ?assertEqual(ok, service(A, leave, [pt_peer:node(C)])),
    ?wait(pt_cluster:is_mesh([A, B])),
    pt_cluster:stop([A, B]).

%% It joins nobody: the others know it, and take it back with its new incarnation.
restart_same_name(_Config) ->
    [A, B, C] = mesh(3),
    #{incarnation := Before} = info(C),
    C2 = pt_cluster:restart(C, []),
    ?wait(pt_cluster:is_mesh([A, B, C2])),
    #{incarnation := After} = info(C2),
    ?assert(After > Before),
    pt_cluster:stop([A, B, C2]).

%% Stopped, taken out meanwhile, and on again: it does not come back by itself, nor bring anybody.
removed_while_away(_Config) ->
    [A, B, C, D] = mesh(4),
    pt_peer:sigstop(D),
    ok = service(A, leave, [pt_peer:node(D)]),
    ok = service(A, leave, [pt_peer:node(C)]),
    ?wait(pt_cluster:is_mesh([A, B])),
    _ = pt_peer:call(A, erlang, disconnect_node, [pt_peer:node(D)]),
    _ = pt_peer:call(B, erlang, disconnect_node, [pt_peer:node(D)]),
    pt_peer:sigcont(D),
    %% D still believes in all of them, dials, and is told.
    ?wait(not lists:member(pt_peer:node(A), pt_cluster:members(D))),
    ?wait(not lists:member(pt_peer:node(B), pt_cluster:members(D))),
    ?assert(pt_cluster:is_cluster([A, B])),
    ?assertEqual(ok, service(D, sync_join, [pt_peer:node(A)])),
    ?wait(pt_cluster:is_mesh([A, B, D])),
    pt_cluster:stop([A, B, C, D]).

%% The overlay's process dies with all it knew, and is a member again before long.
shell_restarts(_Config) ->
    Nodes = [_A, B, _C] = mesh(3),
    Old = pt_peer:call(B, erlang, whereis, [partisan_overlay_shell]),
    true = pt_peer:call(B, erlang, exit, [Old, kill]),
    ?wait(is_pid(pt_peer:call(B, erlang, whereis, [partisan_overlay_shell])) andalso
              Old =/= pt_peer:call(B, erlang, whereis, [partisan_overlay_shell])),
    ?wait(pt_cluster:is_mesh(Nodes)),
    pt_cluster:stop(Nodes).

update_members(_Config) ->
    Nodes = [A, B, C, D] = pt_cluster:start(4),
    Spec = fun(Peer) -> {ok, [S | _]} = service(Peer, members_for_orchestration, []), S end,
    [SpecA, SpecB, SpecC, SpecD] = [Spec(Peer) || Peer <- Nodes],
    ?assertEqual(ok, service(A, update_members, [[SpecA, SpecB, SpecC]])),
    ?wait(pt_cluster:is_mesh([A, B, C])),
    %% Who is taken out is connected all the time: rpc, and who else uses the connection, sees nothing.
    Watcher = pt_peer:spawn_collector(A),
    pt_pair:do_on(A, Watcher, fun() -> erlang:monitor_node(pt_peer:node(C), true) end),
    ?assertEqual(ok, service(A, update_members, [[SpecA, SpecB, SpecD]])),
    ?assertEqual(pt_peer:node(C), pt_peer:call(A, rpc, call, [pt_peer:node(C), erlang, node, []])),
    ?wait(pt_cluster:is_mesh([A, B, D]) andalso pt_cluster:is_cluster([C])),
    ?assertEqual(pt_peer:node(C), pt_peer:call(A, rpc, call, [pt_peer:node(C), erlang, node, []])),
    ?assertEqual([], pt_peer:collected(A, Watcher)),
    ?assertMatch({error, {bad_node_spec, _}}, service(A, update_members, [[SpecA, 17]])),
    ?assertMatch({error, {bad_node_spec, _}}, service(A, update_members, [x])),
    ?assert(pt_cluster:is_cluster([A, B, D])),
    pt_cluster:stop(Nodes).

%% ------------------------------------------------------------------------------------------------
%% Callbacks

on_up_and_down(_Config) ->
    [A, B] = pt_cluster:start(2),
    NodeB = pt_peer:node(B),
    Collector = pt_peer:spawn_collector(A),
    ok = pt_peer:eval(A, fun() ->
        Say = fun(What) -> Collector ! What, ok end,
        ok = partisan_peer_service:on_up(NodeB, fun() -> Say(up_0) end),
        ok = partisan_peer_service:on_up('_', fun(N) -> Say({up_1, N}) end),
        ok = partisan_peer_service:on_up(any, fun(N, C) -> Say({up_2, N, C}) end),
        ok = partisan_peer_service:on_up(#{name => NodeB}, fun() -> error(bad_callback) end),
        ok = partisan_peer_service:on_down(NodeB, fun() -> Say(down_0) end),
        ok = partisan_peer_service:on_down('nobody@127.0.0.1', fun() -> Say(wrong) end),
        partisan_peer_service:on_down('_', fun(N) -> Say({down_1, N}) end)
    end),
    badarg = pt_peer:eval(A, fun() ->
                                 try partisan_peer_service:on_up(any, x) catch error:Why -> Why end
                             end),
    Once = [up_0, {up_1, NodeB}, {up_2, NodeB, undefined}],
    ok = service(A, sync_join, [NodeB]),
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort(Once)),
    pt_peer:kill(B),
    Downs = [down_0, {down_1, NodeB}],
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort(Once ++ Downs)),
    B2 = pt_cluster:restart(B, []),
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort(Once ++ Downs ++ Once)),
    ok = service(B2, leave, []),
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort(Once ++ Downs ++ Once ++ Downs)),
    pt_cluster:stop([A, B2]).

channel_callbacks(_Config) ->
    [A, B] = pt_cluster:start(2, [{channels, [gossip, vnode]}]),
    NodeB = pt_peer:node(B),
    Collector = pt_peer:spawn_collector(A),
    ok = pt_peer:eval(A, fun() ->
        ok = partisan_peer_service:on_up(NodeB, fun(N) -> Collector ! {up, N} end,
                                         #{channel => gossip}),
        ok = partisan_peer_service:on_up('_', fun(N, C) -> Collector ! {up, N, C} end,
                                         #{channel => '_'}),
        ok = partisan_peer_service:on_down('_', fun(N, C) -> Collector ! {down, N, C} end,
                                           #{channel => vnode}),
        ok = partisan_peer_service:on_up('_', fun(N) -> Collector ! {wrong, N} end,
                                         #{channel => no_such_channel})
    end),
    ok = service(B, join, [pt_peer:node(A)]),
    Channels = pt_peer:eval(A, fun() -> maps:keys(partisan_config:channels()) end),
    ?assert(lists:member(gossip, Channels) andalso lists:member(vnode, Channels)),
    Ups = [{up, NodeB} | [{up, NodeB, C} || C <- Channels]],
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort(Ups)),
    pt_peer:kill(B),
    ?wait(lists:sort(pt_peer:collected(A, Collector)) =:= lists:sort([{down, NodeB, vnode} | Ups])),
    pt_cluster:stop([A]).

events(_Config) ->
    [A, B] = pt_cluster:start(2),
    Collector = pt_peer:spawn_collector(A),
    pt_pair:do_on(A, Collector, fun() ->
        partisan_peer_service:add_sup_callback(
          fun(State) -> Collector ! {members, lists:sort(partisan_peer_service:decode(State))} end)
    end),
    ok = service(A, sync_join, [pt_peer:node(B)]),
    ?wait(pt_peer:collected(A, Collector) =:= [{members, pt_cluster:names([A, B])}]),
    ok = service(A, leave, [pt_peer:node(B)]),
    ?wait(pt_peer:collected(A, Collector) =:= [{members, pt_cluster:names([A, B])},
                                               {members, [pt_peer:node(A)]}]),
    {ok, State} = service(A, get_local_state, []),
    ?assertEqual([pt_peer:node(A)], service(A, decode, [State])),
    pt_cluster:stop([A, B]).

connections(_Config) ->
    Nodes = [A, B, C] = mesh(3),
    {ok, Connections} = service(A, connections, []),
    ?assertEqual(lists:sort([pt_peer:node(B), pt_peer:node(C)]),
                 lists:usort([element(3, Connection) || Connection <- Connections])),
    [?assertMatch({partisan_peer_connection, _, _, _, #{port := _}, _}, Connection)
     || Connection <- Connections],
    {ok, Dict} = pt_peer:call(A, partisan_pluggable_peer_service_manager, connections, []),
    ?assertEqual(lists:sort([pt_peer:node(B), pt_peer:node(C)]),
                 lists:sort([Name || #{name := Name} <- dict:fetch_keys(Dict)])),
    pt_cluster:stop(Nodes).

%% ------------------------------------------------------------------------------------------------
%% The rest of the interface

other_returns(_Config) ->
    [A] = pt_cluster:start(1),
    ?assertEqual(partisan_pluggable_peer_service_manager, service(A, manager, [])),
    ?assertEqual({error, no_available_slots}, service(A, reserve, [tag])),
    ?assertEqual({error, not_implemented}, service(A, partitions, [])),
    ?assertEqual({error, not_implemented}, service(A, inject_partition, [#{name => x}, 1])),
    ?assertEqual({error, not_implemented}, service(A, resolve_partition, [make_ref()])),
    Manager = fun(Function, Args) ->
                      pt_peer:call(A, partisan_peer_service_manager, Function, Args)
              end,
    Node = pt_peer:node(A),
    ?assertEqual(Node, Manager(mynode, [])),
    ?assertMatch(#{name := Node}, Manager(myself, [])),
    ?assert(Manager(supports_capability, [partisan_pluggable_peer_service_manager, monitoring])),
    ?assertNot(Manager(supports_capability, [partisan_pluggable_peer_service_manager, flying])),
    ?assertNot(Manager(supports_capability, [lists, monitoring])),
    ?assertEqual(ok, Manager(disconnect, [[]])),
    ?assertEqual({error, not_yet_connected}, Manager(connect, ['nobody@127.0.0.1'])),
    ok = pt_peer:call(A, application, stop, [partisan]),
    [?assertEqual({error, notalive}, service(A, Function, Args), Function)
     || {Function, Args} <- [{members, []}, {leave, []}, {leave, [Node]}, {connections, []},
                             {join, [#{name => 'x@127.0.0.1'}]}, {on_up, [any, fun erlang:node/1]},
                             {update_members, [[]]}, {reserve, [x]}]],
    ?assertNot(service(A, member, [Node])),
    pt_cluster:stop([A]).

%% The scripts of releases ask a running node by erl_call. It takes the first message that comes for its
%% answer, so nothing may be sent to it unasked.
erl_call(_Config) ->
    [A] = pt_cluster:start(1),
    Ask = fun(N) ->
                  os:cmd(lists:concat(["erl_call -timeout 20 -R -c pt_", os:getpid(), " -name ", pt_peer:node(A),
                                       " -a 'erlang * [", N, ",3]' </dev/null 2>&1"]))
          end,
    [?assertEqual(integer_to_list(N * 3), Ask(N)) || N <- lists:seq(1, 20)],
    ?assertEqual({ok, [pt_peer:node(A)]}, service(A, members, [])),
    pt_cluster:stop([A]).

old_arities(_Config) ->
    Nodes = [A, B] = pt_cluster:start(2, [{partisan_peer_service_manager,
                                           partisan_default_peer_service_manager}]),
    [NodeA, NodeB] = [pt_peer:node(Peer) || Peer <- Nodes],
    ?assertEqual(partisan_default_peer_service_manager, service(A, manager, [])),
    ?assertEqual({error, self_join}, service(A, join, [NodeA, true])),
    ?assertEqual({error, self_join}, service(A, join, [NodeB, NodeA, true])),
    ?assertEqual(ok, service(A, join, [NodeA, NodeB, true])),
    ?assertEqual(ok, service(A, sync_join, [NodeB, true])),
    ?assertEqual(ok, service(A, sync_join, [NodeA, NodeB, false])),
    ?assertEqual(ok, service(A, attempt_join, [NodeB])),
    ?assertEqual(ok, service(A, attempt_sync_join, [NodeB])),
    ?wait(pt_cluster:is_mesh(Nodes)),
    Collector = pt_peer:spawn_collector(B),
    ?assertEqual(ok, service(A, forward_message, [NodeB, Collector, one])),
    ?assertEqual(ok, pt_peer:call(A, partisan_default_peer_service_manager, forward_message,
                                  [NodeB, {monotonic, gossip}, Collector, two, [{partition_key, 7}]])),
    ?assertEqual(ok, service(A, cast_message, [NodeB, Collector, three])),
    ?wait(lists:sort(pt_peer:collected(B, Collector)) =:= [one, two, {'$gen_cast', three}]),
    ?assertEqual(ok, pt_peer:call(A, partisan_default_peer_service_manager, send_message,
                                  [NodeB, {forward_message, Collector, four}])),
    ?wait(lists:member(four, pt_peer:collected(B, Collector))),
    ?assertEqual(ok, service(B, leave, [NodeB])), % Partisan 1-4 had no leave/0
    ?wait(pt_cluster:is_cluster([A]) andalso pt_cluster:is_cluster([B])),
    pt_cluster:stop(Nodes).

%% A connection makes no member, nor does a node that runs no Partisan.
strangers_stay_out(_Config) ->
    [A, B] = pt_cluster:start(2),
    Plain = pt_peer:start(plain),
    pt_peer:connect(A, B),
    pt_peer:connect(A, Plain),
    ?assertEqual(ok, service(A, join, [pt_peer:node(Plain)])),
    ok = pt_peer:eval(A, fun() -> {ok, _} = timer:send_after(1200, self(), over),
                                  receive over -> ok end end), % two rounds of gossip
    ?assertEqual([pt_peer:node(A)], pt_cluster:members(A)),
    ?assertEqual([pt_peer:node(B)], pt_cluster:members(B)),
    %% The join is still wanted when the application starts there.
    _ = pt_cluster:app(Plain, []),
    ?wait(pt_cluster:is_mesh([A, Plain])),
    pt_cluster:stop([A, B, Plain]).

%% ------------------------------------------------------------------------------------------------
%% Discovery

discovery_list(_Config) ->
    [A, B] = pt_cluster:start(2),
    Options = #{enabled => true, type => list, initial_delay => 50, polling_interval => 100,
                config => #{peers => [pt_peer:node(A), pt_peer:node(B), 'nobody@127.0.0.1']}},
    C = pt_cluster:app(pt_peer:start(m), [{peer_discovery, Options}]),
    ?wait(pt_cluster:is_mesh([A, B, C])),
    Agent = fun(Function) -> pt_peer:call(C, partisan_peer_discovery_agent, Function, []) end,
    ?assertEqual(enabled, Agent(status)),
    ?assertEqual(ok, Agent(disable)),
    ?assertEqual(disabled, Agent(status)),
    ?assertEqual({error, disabled}, Agent(lookup)),
    pt_cluster:stop([A, B, C]).

%% Against a name server of our own: a, aaaa and srv records.
discovery_dns(_Config) ->
    [A, B] = pt_cluster:start(2),
    [Name, _] = string:lexemes(atom_to_list(pt_peer:node(A)), "@"),
    PortB = pt_pair:listen_port(B),
    Server = pt_dns:start(#{{"a.test", a} => [{127, 0, 0, 1}],
                            {"aaaa.test", aaaa} => [{0, 0, 0, 0, 0, 65535, 16#7f00, 1}],
                            {"srv.test", srv} => [{0, 0, PortB, "127.0.0.1"}]}),
    Options = fun(Config) ->
                      [{peer_discovery,
                        #{enabled => true, type => dns, initial_delay => 10,
                          polling_interval => 100,
                          config => Config#{nameservers => [{{127, 0, 0, 1}, pt_dns:port(Server)}]}}}]
              end,
    C = pt_cluster:app(pt_peer:start(m), Options(#{name => "a.test", node_basename => Name})),
    ?wait(pt_cluster:is_mesh([A, C])),
    D = pt_cluster:app(pt_peer:start(m), Options(#{name => "srv.test", record_type => srv})),
    ?wait(pt_cluster:is_mesh([B, D])),
    E = pt_cluster:app(pt_peer:start(m), Options(#{name => <<"a.test">>, port => PortB})),
    ?wait(pt_cluster:is_mesh([B, D, E])),
    ?assertMatch({ok, ["x@::ffff:127.0.0.1"], _},
                 pt_peer:eval(A, fun() ->
                     {ok, State} = partisan_peer_discovery_dns:init(
                                     #{name => "aaaa.test", record_type => aaaa, node_basename => x,
                                       nameservers => [{{127, 0, 0, 1}, pt_dns:port(Server)}]}),
                     partisan_peer_discovery_dns:lookup(State, 20000)
                 end)),
    ?assertMatch({error, {"none.test", nxdomain}, _},
                 pt_peer:eval(A, fun() ->
                     {ok, State} = partisan_peer_discovery_dns:init(
                                     #{name => "none.test", node_basename => x,
                                       nameservers => [{{127, 0, 0, 1}, pt_dns:port(Server)}]}),
                     partisan_peer_discovery_dns:lookup(State, 20000)
                 end)),
    [?assertMatch({error, _}, partisan_peer_discovery_dns:init(Bad))
     || Bad <- [#{}, #{name => "a"}, #{name => "a", record_type => mx, port => 1},
                #{name => "a", port => 1, nameservers => x}]],
    pt_dns:stop(Server),
    pt_cluster:stop([A, B, C, D, E]).

%% ------------------------------------------------------------------------------------------------

service(Peer, Function, Args) -> pt_cluster:service(Peer, Function, Args).

info(Peer) -> pt_peer:call(Peer, partisan_overlay_shell, info, []).
