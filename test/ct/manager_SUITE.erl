%% Managers that link some nodes only: static and client-server, on real nodes.
-module(manager_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([static_links/1, static_joins/1, static_returns/1, static_restart/1,
         clients_and_servers/1, relay_between_clients/1, acknowledged_by_relay/1, fail_over/1, leave_the_star/1,
         client_server_returns/1, wrong_tags/1, bad_tag/1, no_mesh_behind_it/1, refuse/1,
         two_overlays/1, environment_selects/1, switch/1, no_switch/1,
         switch_over_a_lost_connection/1]).

suite() ->
    [{timetrap, {minutes, 4}}].

all() ->
    [static_links, static_joins, static_returns, static_restart, clients_and_servers,
     relay_between_clients, acknowledged_by_relay, fail_over, leave_the_star, client_server_returns, wrong_tags, bad_tag,
     no_mesh_behind_it, refuse, two_overlays, environment_selects, switch, no_switch,
     switch_over_a_lost_connection].

init_per_testcase(_Case, Config) -> Config.
end_per_testcase(_Case, _Config) -> ok.

-define(wait(Condition), ?assert(pt_peer:wait(fun() -> Condition end, 60000, 30))).
-define(STATIC, partisan_static_peer_service_manager).
-define(STAR, partisan_client_server_peer_service_manager).
-define(HYPARVIEW, partisan_hyparview_peer_service_manager).
-define(FULL, partisan_pluggable_peer_service_manager).

%% ------------------------------------------------------------------------------------------------
%% Static

%% A line of three, from the configuration of the one in the middle.
static_links(_Config) ->
    [A, C] = pt_cluster:start(2, [{peer_service_manager, ?STATIC}]),
    B = pt_cluster:app(pt_peer:start(m), [{peer_service_manager, ?STATIC},
                                          {static, #{peers => pt_cluster:names([A, C])}}]),
    line(A, B, C),
    ?assertEqual(?STATIC, service(A, manager, [])),
    %% Nobody is told of others, and nobody connects to them.
    ?assertEqual([pt_peer:node(B)], pt_peer:call(A, erlang, nodes, [connected])),
    pt_cluster:stop([A, B, C]).

line(A, B, C) ->
    ?wait(pt_cluster:neighbours(B) =:= pt_cluster:names([A, C])
              andalso pt_cluster:neighbours(A) =:= [pt_peer:node(B)]
              andalso pt_cluster:neighbours(C) =:= [pt_peer:node(B)]),
    ?assertEqual(pt_cluster:names([A, B]), pt_cluster:members(A)),
    ?assertEqual(pt_cluster:names([A, B, C]), pt_cluster:members(B)).

static_joins(_Config) ->
    Nodes = [A, B, C] = pt_cluster:start(3, [{peer_service_manager, ?STATIC}]),
    ?assertEqual(ok, service(A, sync_join, [pt_peer:node(B)])),
    ?assertEqual(ok, service(C, sync_join, [pt_peer:node(B)])),
    line(A, B, C),
    ?assertEqual(ok, service(C, leave, [pt_peer:node(B)])),
    ?wait(pt_cluster:is_mesh([A, B]) andalso pt_cluster:is_cluster([C])),
    ?assertEqual(ok, service(A, leave, [])),
    ?wait(lists:all(fun(Peer) -> pt_cluster:is_cluster([Peer]) end, Nodes)),
    ?wait([] =:= pt_peer:call(B, erlang, nodes, [connected])),
    ?assertEqual(ok, service(B, join, [pt_peer:node(A)])),
    ?wait(pt_cluster:is_mesh([A, B])),
    pt_cluster:stop(Nodes).

static_returns(_Config) ->
    [A] = pt_cluster:start(1, [{peer_service_manager, ?STATIC}]),
    ?assertEqual({ok, [pt_peer:node(A)]}, service(A, members, [])),
    ?assertEqual({error, self_join}, service(A, join, [pt_peer:node(A)])),
    ?assertEqual({error, not_implemented}, service(A, update_members, [[]])),
    ?assertEqual({error, no_available_slots}, service(A, reserve, [x])),
    ?assertEqual({error, not_implemented}, service(A, partitions, [])),
    pt_cluster:stop([A]).

%% The one that others have as a peer comes back, and is linked again.
static_restart(_Config) ->
    [A] = pt_cluster:start(1, [{peer_service_manager, ?STATIC}]),
    B = pt_cluster:app(pt_peer:start(m), [{peer_service_manager, ?STATIC},
                                          {static, #{peers => [pt_peer:node(A)]}}]),
    ?wait(pt_cluster:is_mesh([A, B])),
    A2 = pt_cluster:restart(A, [{peer_service_manager, ?STATIC}]),
    ?wait(pt_cluster:is_mesh([A2, B])),
    pt_peer:kill(B),
    ?wait(pt_cluster:members(A2) =:= [pt_peer:node(A2)]),
    pt_cluster:stop([A2]).

%% ------------------------------------------------------------------------------------------------
%% Client-server

star(Servers, Clients) ->
    star([], Servers, Clients).

star(Env, Servers, Clients) ->
    Tags = [[{tag, server}] || _ <- lists:seq(1, Servers)]
        ++ [[{tag, client}] || _ <- lists:seq(1, Clients)],
    Nodes = pt_cluster:start(Tags, Env ++ [{peer_service_manager, ?STAR}, {relay_ttl, 4}]),
    lists:split(Servers, Nodes).

join(Node, To) ->
    ?assertEqual(ok, service(Node, sync_join, [pt_peer:node(To)])).

clients_and_servers(_Config) ->
    {[S1, S2] = Servers, [C1, C2, C3] = Clients} = star(2, 3),
    join(S2, S1),
    join(C1, S1),
    join(C2, S2),
    join(C3, S1),
    join(C3, S2),
    ?assertEqual(?STAR, service(C1, manager, [])),
    %% Servers do not list clients; clients list what they joined.
    ?wait(pt_cluster:is_cluster(Servers)),
    ?wait(pt_cluster:members(C1) =:= pt_cluster:names([S1, C1])),
    ?wait(pt_cluster:members(C3) =:= pt_cluster:names([S1, S2, C3])),
    ?wait(pt_cluster:neighbours(S1) =:= pt_cluster:names([S2, C1, C3])),
    ?assertEqual([pt_peer:node(S1)], pt_peer:call(C1, erlang, nodes, [connected])),
    pt_cluster:stop(Servers ++ Clients).

%% In order and complete, over one server and over two; to a name and to a pid; calls both ways.
relay_between_clients(_Config) ->
    {[S1, S2] = Servers, [C1, C2, C3] = Clients} = star(2, 3),
    join(S2, S1),
    join(C1, S1),
    join(C2, S1),
    join(C3, S2),
    N = 500,
    lists:foreach(
      fun({From, To}) ->
              Collector = pt_peer:spawn_collector(To),
              true = pt_peer:call(To, erlang, register, [relay_sink, Collector]),
              Node = pt_peer:node(To),
              Send = fun(Dest, Message) -> partisan:forward_message(Node, Dest, Message, #{}) end,
              ?wait(ok =:= pt_peer:eval(From, fun() -> Send(relay_sink, hello) end)
                        andalso lists:member(hello, pt_peer:collected(To, Collector))),
              Numbers = fun() -> [I || I <- pt_peer:collected(To, Collector), is_integer(I)] end,
              pt_peer:eval(From, fun() -> [ok = Send(Collector, I) || I <- lists:seq(1, N)] end),
              ?wait(length(Numbers()) =:= N),
              ?assertEqual(lists:seq(1, N), Numbers()),
              true = pt_peer:call(To, erlang, unregister, [relay_sink])
      end, [{C1, C2}, {C1, C3}, {C3, C1}, {S1, C3}, {C1, S2}]),
    %% Nobody connected directly for that.
    ?assertEqual([pt_peer:node(S1)], pt_peer:call(C1, erlang, nodes, [connected])),
    ?assertEqual([pt_peer:node(S2)], pt_peer:call(C3, erlang, nodes, [connected])),
    %% A server knows that nobody has this one; a client only knows whom to ask.
    Nobody = ['nobody@127.0.0.1', relay_sink, x, #{}],
    ?assertEqual({error, not_yet_connected}, pt_peer:call(S1, partisan, forward_message, Nobody)),
    ?assertEqual(ok, pt_peer:call(C1, partisan, forward_message, Nobody)),
    ?wait(1 =:= maps:get(no_route, pt_peer:call(S1, partisan_relay, counters, []), 0)),
    pt_cluster:stop(Servers ++ Clients).

%% Acknowledged messages both ways between clients of one server, which is killed in the middle; they
%% find other servers. All that was accepted arrives once and in order; a call each way goes on.
acknowledged_by_relay(_Config) ->
    {[S1, S2, S3], [C1, C2] = Clients} = star([{retransmit_interval, 200}], 3, 2),
    join(S2, S1),
    join(S3, S1),
    ?wait(pt_cluster:is_mesh([S1, S2, S3])),
    join(C1, S1),
    join(C2, S1),
    Flows = [pt_flow:start(From, To, Opts) || {From, To} <- [{C1, C2}, {C2, C1}],
                                              Opts <- [#{retransmission => true}, #{ack => true}]],
    [?wait(pt_flow:received(Flow) > 50) || Flow <- Flows],
    ?assertEqual([true], lists:usort([Relayed || C <- Clients, #{relayed := Relayed}
                                                     <- pt_peer:call(C, partisan_reliable, info, [])])),
    pt_peer:kill(S1),
    [begin
         Before = pt_flow:received(Flow),
         ?wait(pt_flow:received(Flow) > Before + 50)
     end || Flow <- Flows],
    [begin
         Sent = pt_flow:stop(Flow),
         ?wait(pt_flow:received(Flow) >= Sent),
         ?assertEqual(lists:seq(1, Sent), pt_flow:all(Flow))
     end || Flow <- Flows],
    %% Nobody connected directly for that; nothing is left to be sent.
    ?assertEqual([], [C || C <- Clients, Other <- Clients,
                           lists:member(pt_peer:node(Other), pt_peer:call(C, erlang, nodes, [connected]))]),
    ?wait(lists:all(fun(C) -> [] =:= [x || #{unacknowledged := N}
                                              <- pt_peer:call(C, partisan_reliable, info, []), N > 0]
                    end, Clients)),
    pt_cluster:stop([S2, S3] ++ Clients).

%% A client whose server dies finds another one by itself, and goes back to its own.
fail_over(_Config) ->
    {[S1, S2, S3], [C1, C2] = Clients} = star(3, 2),
    join(S2, S1),
    join(S3, S1),
    ?wait(pt_cluster:is_mesh([S1, S2, S3])),
    join(C1, S1),
    join(C2, S2),
    pt_peer:kill(S1),
    ?wait(lists:member(pt_cluster:neighbours(C1), [[pt_peer:node(S)] || S <- [S2, S3]])),
    Collector = pt_peer:spawn_collector(C2),
    ?wait(ok =:= pt_peer:call(C1, partisan, forward_message,
                              [pt_peer:node(C2), Collector, over, #{}])
              andalso lists:member(over, pt_peer:collected(C2, Collector))),
    Again = pt_cluster:restart(S1, [{peer_service_manager, ?STAR}, {tag, server}]),
    ?wait(pt_cluster:neighbours(C1) =:= [pt_peer:node(S1)]),
    ?wait(pt_cluster:is_cluster([Again, S2, S3])),
    pt_cluster:stop([Again, S2, S3] ++ Clients).

leave_the_star(_Config) ->
    {[S1, S2] = Servers, [C1, C2] = Clients} = star(2, 2),
    join(S2, S1),
    ?wait(pt_cluster:is_mesh(Servers)),
    join(C1, S1),
    join(C2, S1),
    ?assertEqual(ok, service(C1, leave, [])),
    ?wait(pt_cluster:neighbours(S1) =:= pt_cluster:names([S2, C2])),
    ?wait([] =:= pt_peer:call(C1, erlang, nodes, [connected])),
    ?assertEqual(ok, service(C1, sync_join, [pt_peer:node(S1)])),
    ?assertEqual(ok, service(S1, leave, [pt_peer:node(C1)])),
    %% Shut out by one server, a client tries the others.
    ?wait(pt_cluster:neighbours(C1) =:= [pt_peer:node(S2)]),
    %% A server that leaves sends its clients to the others.
    ?assertEqual(ok, service(S1, leave, [])),
    ?wait(pt_cluster:neighbours(C2) =:= [pt_peer:node(S2)]),
    ?wait(pt_cluster:is_cluster([S1]) andalso pt_cluster:is_cluster([S2])),
    pt_cluster:stop(Servers ++ Clients).

client_server_returns(_Config) ->
    {[S], [C]} = star(1, 1),
    [begin
         ?assertEqual({ok, [pt_peer:node(Peer)]}, service(Peer, members, [])),
         ?assertEqual({error, self_join}, service(Peer, join, [pt_peer:node(Peer)])),
         ?assertEqual({error, not_implemented}, service(Peer, update_members, [[]])),
         ?assertEqual({error, no_available_slots}, service(Peer, reserve, [x])),
         ?assertEqual({error, not_implemented}, service(Peer, partitions, [])),
         ?assertEqual(ok, service(Peer, leave, ['nobody@127.0.0.1'])),
         ?assertEqual(ok, service(Peer, leave, []))
     end || Peer <- [S, C]],
    pt_cluster:stop([S, C]).

%% Clients cannot be joined: said once, and not tried for ever.
wrong_tags(_Config) ->
    {[S], [C1, C2]} = star(1, 2),
    [pt_peer:log_start(Peer) || Peer <- [S, C1]],
    ?assertEqual(ok, service(S, join, [pt_peer:node(C1)])),
    ?assertEqual(ok, service(C1, join, [pt_peer:node(C2)])),
    ?assertEqual(ok, service(C2, sync_join, [pt_peer:node(S)])),
    [?wait(1 =:= length([Text || {warning, Text} <- pt_peer:logged(Peer),
                                 string:find(Text, "cannot be joined") =/= nomatch]))
     || Peer <- [S, C1]],
    ?wait(pt_cluster:members(S) =:= [pt_peer:node(S)]
              andalso pt_cluster:members(C1) =:= [pt_peer:node(C1)]),
    pt_cluster:stop([S, C1, C2]).

bad_tag(_Config) ->
    Peer = pt_peer:start(m),
    ?assertMatch({error, _},
                 pt_peer:eval(Peer, fun() ->
                     application:set_env(partisan, peer_service_manager, ?STAR),
                     application:ensure_all_started(partisan)
                 end)),
    pt_peer:stop(Peer).

%% ------------------------------------------------------------------------------------------------
%% What keeps a partial overlay partial

%% global, with its defaults, neither connects the rest nor cuts the ends of a line off.
no_mesh_behind_it(_Config) ->
    [A, C] = pt_cluster:start(2, [{peer_service_manager, ?STATIC}]),
    B = pt_cluster:app(pt_peer:start(m), [{peer_service_manager, ?STATIC},
                                          {static, #{peers => pt_cluster:names([A, C])}}]),
    line(A, B, C),
    ?assertEqual([], pt_peer:call(B, erlang, nodes, [])),
    %% All that global had to say is said when it has answered.
    [ok = pt_peer:call(Peer, global, sync, []) || Peer <- [A, B, C]],
    line(A, B, C),
    %% The default: a plain send connects.
    ?assertEqual(pong, pt_peer:call(A, net_adm, ping, [pt_peer:node(C)])),
    pt_cluster:stop([A, B, C]).

refuse(_Config) ->
    Env = [{peer_service_manager, ?STATIC}, {direct_connect, refuse}],
    [A, C] = pt_cluster:start(2, Env),
    B = pt_cluster:app(pt_peer:start(m), [{static, #{peers => pt_cluster:names([A, C])}} | Env]),
    line(A, B, C),
    {NodeA, NodeB, NodeC} = {pt_peer:node(A), pt_peer:node(B), pt_peer:node(C)},
    Call = fun(Node) -> pt_peer:call(A, rpc, call, [Node, erlang, node, []]) end,
    ?assertEqual({badrpc, nodedown}, Call(NodeC)),
    ?assertEqual(NodeB, Call(NodeB)),
    ?assertEqual([NodeB], pt_peer:call(A, erlang, nodes, [connected])),
    %% Links still heal.
    _ = pt_peer:call(B, erlang, disconnect_node, [NodeA]),
    ?wait(pt_cluster:neighbours(A) =:= [NodeB]),
    pt_cluster:stop([A, B, C]).

%% Nodes with different overlays say so, and do not take each other for members.
two_overlays(_Config) ->
    [A] = pt_cluster:start(1, [{peer_service_manager, ?STATIC}]),
    [B] = pt_cluster:start(1),
    pt_peer:log_start(A),
    ?assertEqual(ok, service(B, join, [pt_peer:node(A)])),
    ?wait([] =/= [Text || {warning, Text} <- pt_peer:logged(A),
                          string:find(Text, "peer_service_manager") =/= nomatch]),
    ?assertEqual([pt_peer:node(A)], pt_cluster:members(A)),
    ?assertEqual([pt_peer:node(B)], pt_cluster:members(B)),
    pt_cluster:stop([A, B]).

environment_selects(_Config) ->
    Peer = pt_peer:start(m, #{env => [{"PEER_SERVICE", atom_to_list(?STATIC)}]}),
    ?assertEqual(?STATIC, service(pt_cluster:app(Peer, []), manager, [])),
    pt_cluster:stop([Peer]).

%% Each overlay is left for another one, under acknowledged traffic both ways between a server and a
%% client: each message arrives once, in order, at the latest when its nodes have a way again. A move
%% takes five seconds, and what was lost is sent again after 30 s at the latest. With SWITCH=all in the
%% environment (make soak) from each overlay to each other one, else once round.
switch(_Config) ->
    ct:timetrap({minutes, 15}),
    Tags = [[{tag, server}], [{tag, server}] | [[{tag, client}] || _ <- lists:seq(1, 4)]],
    Env = [{retransmit_interval, 200},
           %% All join one node at the same time, and with room for three neighbours that makes two
           %% groups, full with themselves, in some of a hundred cases. Those meet within 7 heal_intervals.
           {hyparview, #{active_max_size => 4, active_min_size => 2, shuffle_interval => 500,
                         heal_interval => 300}}],
    Nodes = [A | _] = pt_cluster:start(Tags, Env, #{args => only_by_overlays()}),
    Z = lists:last(Nodes),
    ok = pt_cluster:join(Nodes, sync_join),
    ?wait(pt_cluster:is_mesh(Nodes)),
    Flows = [pt_flow:start(From, To, #{retransmission => true}) || {From, To} <- [{A, Z}, {Z, A}]],
    [begin
         ?assertEqual({Manager, ok}, {Manager, pt_peer:call(A, partisan, set_overlay, [Manager])}),
         ?assertEqual([Manager], lists:usort([service(P, manager, []) || P <- Nodes])),
         pt_peer:wait(fun() -> shaped(Manager, Nodes) andalso no_other_links(Nodes) end, 60000, 50)
             orelse error({not_shaped, Manager, [seen(P) || P <- Nodes]}),
         [begin
              Before = pt_flow:received(Flow),
              ?assert(pt_peer:wait(fun() -> pt_flow:received(Flow) > Before + 50 end, 60000, 50))
          end || Flow <- Flows]
     end || Manager <- moves(os:getenv("SWITCH"), [?FULL, ?HYPARVIEW, ?STAR, ?STATIC, pt_ring])],
    [begin
         Sent = pt_flow:stop(Flow),
         ?assert(pt_peer:wait(fun() -> pt_flow:received(Flow) >= Sent end, 60000, 50)),
         ?assertEqual(lists:seq(1, Sent), pt_flow:all(Flow))
     end || Flow <- Flows],
    pt_cluster:stop(Nodes).

moves("all", [_]) -> [];
moves("all", [One, Next | _] = [_ | Others]) ->
    lists:append([[Other, One] || Other <- Others]) ++ [Next | moves("all", Others)];
moves(_, [First | Others]) -> Others ++ [First].

%% What a node is asked in a move goes over a connection that is just being closed: as in a partial view,
%% which puts neighbours out all the time.
switch_over_a_lost_connection(_Config) ->
    [A, B] = Nodes = pt_cluster:start(2, [], #{args => only_by_overlays()}),
    ok = pt_cluster:join(Nodes, sync_join),
    ?wait(pt_cluster:is_mesh(Nodes)),
    NodeA = pt_peer:node(A),
    ok = pt_peer:eval(B, fun() -> application:set_env(partisan, pt_cut, NodeA) end),
    ?assertEqual(ok, pt_peer:call(A, partisan, set_overlay, [pt_cut])),
    ?assertEqual(undefined, pt_peer:eval(B, fun() -> application:get_env(partisan, pt_cut) end)),
    ?assertEqual([pt_cut], lists:usort([service(P, manager, []) || P <- Nodes])),
    pt_cluster:stop(Nodes).

%% What an overlay has closed stays closed. `global' asks all nodes of a full mesh for locks, and rpc's
%% server answers each new node; both connect for that, though the connection was closed meanwhile.
only_by_overlays() ->
    ["-kernel", "prevent_overlapping_partitions", "false", "-kernel", "dist_auto_connect", "never"].

%% What a failure is read with.
seen(Peer) ->
    {pt_peer:node(Peer), {links, pt_cluster:neighbours(Peer)},
     {connected, lists:sort(pt_peer:call(Peer, erlang, nodes, [connected])),
      lists:sort(pt_peer:call(Peer, erlang, nodes, [visible]))},
     {known, maps:get(known, pt_peer:call(Peer, partisan_overlay_shell, info, []), none)}}.

no_other_links(Nodes) ->
    lists:all(fun(P) ->
                      lists:sort(pt_peer:call(P, erlang, nodes, [connected])) =:= pt_cluster:neighbours(P)
              end, Nodes).

%% What each of them makes of nodes that join the first one.
shaped(?FULL, Nodes) ->
    pt_cluster:is_mesh(Nodes);
shaped(?HYPARVIEW, Nodes) ->
    pt_views:healthy(3, pt_views:graph(Nodes)) andalso pt_views:routed(Nodes);
shaped(pt_ring, Nodes) ->
    pt_views:is_ring(pt_views:graph(Nodes)) andalso pt_views:routed(Nodes);
shaped(?STATIC, [A | Others]) ->
    pt_cluster:neighbours(A) =:= pt_cluster:names(Others)
        andalso lists:all(fun(P) -> pt_cluster:neighbours(P) =:= [pt_peer:node(A)] end, Others);
shaped(?STAR, [A, B | Clients]) ->
    pt_cluster:neighbours(A) =:= pt_cluster:names([B | Clients])
        andalso lists:all(fun(P) -> pt_cluster:neighbours(P) =:= [pt_peer:node(A)] end, [B | Clients]).

%% What cannot be is refused, and nothing is changed.
no_switch(_Config) ->
    Nodes = [A, B] = pt_cluster:start(2),
    ok = pt_cluster:join(Nodes, sync_join),
    ?assertMatch({error, {bad_manager, _, nofile}},
                 pt_peer:call(A, partisan, set_overlay, [no_such_manager])),
    ?assertMatch({error, {bad_manager, _, _}},
                 pt_peer:call(A, partisan, set_overlay, [?STAR])), % no tag
    %% With kernel's default, global would cut all connections when the first one goes.
    ?assertMatch({error, {bad_manager, _, prevent_overlapping_partitions}},
                 pt_peer:call(A, partisan, set_overlay, [?HYPARVIEW])),
    ?assertEqual([?FULL], lists:usort([service(P, manager, []) || P <- [A, B]])),
    ?assert(pt_cluster:is_mesh(Nodes)),
    pt_cluster:stop(Nodes).

%% ------------------------------------------------------------------------------------------------

service(Peer, Function, Args) -> pt_cluster:service(Peer, Function, Args).
