%% HyParView, broadcast and relay on real nodes: one cluster of OVERLAY_NODES (16) for all cases.
-module(overlay_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([views/1, no_mesh/1, broadcast/1, relay/1, relayed_twice/1, topology/1, acknowledged/1, deaths/1,
         leaver/1, restart/1, ring/1]).

suite() -> [{timetrap, {minutes, 5}}].

all() ->
    [views, no_mesh, broadcast, relay, relayed_twice, topology, acknowledged, deaths, leaver, restart, ring].

-define(wait(Condition), ?assert(pt_peer:wait(fun() -> Condition end, 60000, 200))).

%% A small VM each: 64 of them must fit.
lean() ->
    string:lexemes("+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +P 4096 +Q 4096 +Meamin +sbwt none +sbwtdcpu none "
                   "+sbwtdio none", " ").

env() ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager},
     {retransmit_interval, 200},
     {hyparview, #{shuffle_interval => 1000, random_promotion_interval => 500}},
     {lazy_tick_period, 200}].

start() ->
    Node = pt_cluster:app(pt_peer:start(ov, #{args => lean()}), env()),
    ok = pt_peer:call(Node, pt_heard, start, []),
    Node.

init_per_suite(Config) ->
    N = list_to_integer(os:getenv("OVERLAY_NODES", "16")),
    %% The nodes outlive this process: Common Test runs each case in one of its own.
    Self = self(),
    Keeper = spawn(fun() -> keeper(Self, [start() || _ <- lists:seq(1, N)]) end),
    Nodes = receive {nodes, Ns} -> Ns after 240000 -> error(no_nodes) end,
    ok = pt_cluster:join(Nodes, join),
    [{keeper, Keeper}, {nodes, Nodes} | Config].

keeper(Suite, Nodes) ->
    Suite ! {nodes, Nodes},
    (fun Loop(All) ->
             receive
                 {start, From} -> New = start(), From ! {started, New}, Loop([New | All]);
                 stop -> pt_cluster:stop(All)
             end
     end)(Nodes).

end_per_suite(Config) ->
    proplists:get_value(keeper, Config) ! stop,
    ok.

nodes_of(Config) ->
    [N || N <- proplists:get_value(nodes, Config), filelib:is_dir("/proc/" ++ maps:get(os_pid, N))].

graph(Nodes) -> pt_views:graph(Nodes).

%% Partisan's default of 6 counts the node itself.
healthy(Graph) -> pt_views:healthy(5, Graph).

%% ------------------------------------------------------------------------------------------------

%% Everybody in, every link has two ends, nobody has more than five.
views(Config) ->
    Nodes = nodes_of(Config),
    ?wait(healthy(graph(Nodes))),
    [?wait(pt_cluster:members(N) =:= lists:sort([pt_peer:node(N) | pt_cluster:neighbours(N)]))
     || N <- Nodes].

%% Links are the neighbours' and nobody else's: neither global nor connect_all makes more of them.
no_mesh(Config) ->
    Nodes = nodes_of(Config),
    ?wait(lists:all(fun(N) ->
                            lists:sort(pt_peer:call(N, erlang, nodes, [connected]))
                                =:= lists:sort(pt_cluster:neighbours(N))
                    end, Nodes)),
    [?assertEqual([], pt_peer:call(N, erlang, nodes, [])) || N <- Nodes].

%% Once to everybody, from several; and a settled tree brings no copies.
broadcast(Config) ->
    Nodes = nodes_of(Config),
    [A, B | _] = Nodes,
    [begin
         ok = pt_peer:call(From, pt_heard, send, [{pt_peer:node(From), I}, <<0:8000>>]),
         ?wait(pt_views:all_heard({pt_peer:node(From), I}, Nodes))
     end || From <- [A, B], I <- lists:seq(1, 5)],
    few_copies(A, Nodes, 20),
    [?assertMatch({_, _}, pt_peer:call(N, partisan_plumtree_broadcast, get_peers, [pt_peer:node(A)]))
     || N <- Nodes],
    ?assertNotEqual([], lists:append([pt_peer:call(N, partisan_plumtree_broadcast, get_lazy_peers,
                                                   [pt_peer:node(A)]) || N <- Nodes])).

%% Flooding would bring about 60 a node. A link that the overlay changed meanwhile brings a copy or two,
%% and so does a message that was so late that it was asked for: then the tree has to settle again.
few_copies(From, Nodes, Rounds) ->
    ?assert(Rounds > 0),
    Before = pt_views:copies(Nodes),
    Ids = [{last, Rounds, I} || I <- lists:seq(1, 20)],
    [ok = pt_peer:call(From, pt_heard, send, [Id, x]) || Id <- Ids],
    [?wait(pt_views:all_heard(Id, Nodes)) || Id <- Ids],
    pt_views:copies(Nodes) - Before =< 5 * length(Nodes) orelse few_copies(From, Nodes, Rounds - 1).

%% A datagram that comes a second time is delivered once.
relayed_twice(Config) ->
    [A | _] = nodes_of(Config),
    Sink = pt_peer:spawn_collector(A),
    Twice = fun(Id) -> {relay, pt_peer:node(A), Sink, Id, 3, Id} end,
    [pt_peer:call(A, erlang, send, [partisan_relay, Twice({'else@127.0.0.1', 1, N})])
     || N <- [1, 2, 1, 2, 3]],
    ?wait(pt_peer:how_many(A, Sink) >= 3),
    ?assertMatch(#{doubled := 2}, pt_peer:call(A, partisan_relay, counters, [])),
    ?assertEqual([{'else@127.0.0.1', 1, N} || N <- [1, 2, 3]], pt_peer:collected(A, Sink)).

%% From each node to each: neighbours directly, others by relay.
relay(Config) ->
    Nodes = nodes_of(Config),
    routed(Nodes),
    forwarded(Nodes).

%% Every node knows every other and a way to it.
routed(Nodes) -> ?wait(pt_views:routed(Nodes)).

%% Relay is best effort, and links come and go all the time here: what was on a link that was being
%% closed is sent again.
forwarded(Nodes) ->
    Name = list_to_atom("sink" ++ integer_to_list(erlang:unique_integer([positive]))),
    [ok = pt_peer:eval(N, fun() -> sink(Name) end) || N <- Nodes],
    Names = pt_cluster:names(Nodes),
    ok = forward([{pt_peer:node(N), Names -- [pt_peer:node(N)]} || N <- Nodes], Name, Nodes),
    Missing = fun() -> missing(Name, Names, Nodes) end,
    pt_peer:wait(fun() -> Missing() =:= [] end, 5000, 200)
        orelse ?wait(begin
                         ok = forward(Missing(), Name, Nodes),
                         Missing() =:= []
                     end).

%% [{To, [From]}]
forward(Due, Name, Nodes) ->
    lists:foreach(fun(N) ->
                          Node = pt_peer:node(N),
                          case [To || {To, Froms} <- Due, lists:member(Node, Froms)] of
                              [] -> ok;
                              Tos ->
                                  pt_peer:eval(N, fun() ->
                                      [_ = partisan:forward_message(To, Name, {from, node()}, #{})
                                       || To <- Tos],
                                      ok
                                  end)
                          end
                  end, Nodes).

missing(Name, Names, Nodes) ->
    [{pt_peer:node(N), Froms}
     || N <- Nodes,
        Froms <- [(Names -- [pt_peer:node(N)]) -- pt_peer:eval(N, fun() -> got(Name) end)],
        Froms =/= []].

sink(Name) ->
    Self = self(),
    Pid = spawn(fun() -> true = register(Name, self()), Self ! ready, collect([]) end),
    receive ready -> ok after 20000 -> exit(Pid, kill), error end.

collect(Got) ->
    receive
        {from, Node} -> collect([Node | Got]);
        {got, Pid} -> Pid ! {got, lists:sort(Got)}, collect(Got)
    end.

got(Name) ->
    Name ! {got, self()},
    receive {got, Nodes} -> Nodes end.

%% Any node draws the whole picture.
topology(Config) ->
    Nodes = [A | _] = nodes_of(Config),
    Names = pt_cluster:names(Nodes),
    Drawn = fun() -> {ok, T} = pt_peer:call(A, partisan, topology, []), T end,
    ?wait(begin
              #{members := Members, links := Links} = Drawn(),
              Members =:= Names andalso
                  Links =:= lists:usort([{min(X, Y), max(X, Y)}
                                         || {X, Near} <- maps:to_list(graph(Nodes)), Y <- Near])
          end),
    ?wait(begin
              #{eager := Eager, lazy := Lazy, channels := Channels} = Drawn(),
              pt_cluster:neighbours(A) =:= lists:sort(Eager ++ Lazy)
                  andalso pt_cluster:neighbours(A) =:= lists:sort(maps:keys(Channels))
          end),
    %% Lanes and traffic of all links and the whole tree, asked for without a connection to anybody.
    All = fun() ->
                  ok = pt_peer:call(A, pt_heard, send, [{topology, erlang:unique_integer()}, x]),
                  {ok, T} = pt_peer:call(A, partisan, topology, [#{all => true, rate_ms => 50}]),
                  T
          end,
    pt_peer:wait(fun() -> [] =:= wrong(Names, All()) end, 60000, 200) orelse error({wrong, wrong(Names, All())}),
    ?wait(pt_cluster:neighbours(A) =:= lists:sort(pt_peer:call(A, erlang, nodes, [connected]))),
    Dot = iolist_to_binary(partisan_view:dot(Drawn())),
    [?assertNotEqual(nomatch, binary:match(Dot, atom_to_binary(Name))) || Name <- Names].

%% What is not as it should be: everybody answers, the eager links are a tree, and each end knows of lanes.
wrong(Names, #{seen := Seen, silent := Silent, links := Links}) ->
    Tree = maps:map(fun(_, #{eager := Eager}) -> Eager end, Seen),
    [{silent, Silent} || Silent =/= []]
        ++ [{answered, maps:keys(Seen)} || lists:sort(maps:keys(Seen)) =/= Names]
        ++ [{no_tree, Tree} || not pt_views:connected(Tree)
                                   orelse length(lists:append(maps:values(Tree))) =/= 2 * (length(Names) - 1)]
        ++ [{no_lanes, X, Y, maps:get(X, Seen, none)} || {A, B} <- Links, {X, Y} <- [{A, B}, {B, A}],
                                                         not is_used(X, Y, Seen)].

is_used(X, Y, Seen) ->
    case Seen of
        #{X := #{links := #{Y := #{lanes := Lanes, bytes_out := Out, bytes_in := In}}}} ->
            Lanes >= 2 andalso Out >= 0.0 andalso In >= 0.0;
        _ ->
            false
    end.

%% Acknowledged messages between two nodes that are no neighbours. The relays that they go by are
%% killed, one after the other; links are closed under them. All arrive once and in order.
acknowledged(Config) ->
    Nodes = nodes_of(Config),
    routed(Nodes),
    {A, B} = hd([{X, Y} || X <- Nodes, Y <- Nodes, X =/= Y,
                           not lists:member(pt_peer:node(Y), pt_cluster:neighbours(X))]),
    Flows = [pt_flow:start(From, To, #{retransmission => true}) || {From, To} <- [{A, B}, {B, A}]],
    lists:foreach(
      fun(Again) ->
              [?wait(pt_flow:received(Flow) > Again) || Flow <- Flows],
              case pt_peer:call(A, partisan_overlay_shell, route, [pt_peer:node(B)]) of
                  {ok, Via} -> pt_peer:kill(hd([N || N <- Nodes, pt_peer:node(N) =:= Via]));
                  none -> ok                     %% neighbours meanwhile
              end,
              pt_peer:call(A, erlang, disconnect_node, [pt_peer:node(B)])
      end, [50, 200]),
    [begin
         Before = pt_flow:received(Flow),
         ?wait(pt_flow:received(Flow) > Before + 50),
         Sent = pt_flow:stop(Flow),
         ?wait(pt_flow:received(Flow) >= Sent),
         ?assertEqual(lists:seq(1, Sent), pt_flow:all(Flow))
     end || Flow <- Flows].

%% A quarter of the nodes dies at once: views, trees and routes heal.
deaths(Config) ->
    Nodes = nodes_of(Config),
    {Dead, Alive} = lists:split(length(Nodes) div 4, tl(Nodes) ++ [hd(Nodes)]),
    [pt_peer:kill(N) || N <- Dead],
    ?wait(healthy(graph(Alive))),
    routed(Alive),
    forwarded(Alive),
    ok = pt_peer:call(hd(Alive), pt_heard, send, [after_deaths, x]),
    ?wait(pt_views:all_heard(after_deaths, Alive)).

%% The leaver has only itself; the others stay together and forget it.
leaver(Config) ->
    [Leaver | Others] = nodes_of(Config),
    Name = pt_peer:node(Leaver),
    ?assertEqual(ok, pt_cluster:service(Leaver, leave, [])),
    ?wait(pt_cluster:members(Leaver) =:= [Name]),
    ?wait(healthy(graph(Others))),
    ?wait(not lists:any(fun(N) -> lists:member(Name, pt_cluster:neighbours(N)) end, Others)),
    %% And back again.
    ?assertEqual(ok, pt_cluster:service(Leaver, join, [pt_peer:node(hd(Others))])),
    ?wait(healthy(graph([Leaver | Others]))),
    routed([Leaver | Others]).

%% A shell that fails takes the overlay with it; both come back, by the neighbours' word.
restart(Config) ->
    [Failing | _] = Nodes = nodes_of(Config),
    Old = pt_peer:call(Failing, erlang, whereis, [partisan_overlay_shell]),
    true = pt_peer:call(Failing, erlang, exit, [Old, kill]),
    ?wait(not lists:member(pt_peer:call(Failing, erlang, whereis, [partisan_overlay_shell]), [Old, undefined])),
    ?wait(healthy(graph(Nodes))),
    ok = pt_peer:call(Failing, pt_heard, send, [after_restart, x]),
    ?wait(pt_views:all_heard(after_restart, Nodes)).

%% An overlay made by the book (docs/overlays.md): one module, and a manager that names it. Every
%% node has its two neighbours, all others by relay; a dead one is passed over.
ring(_Config) ->
    Nodes = [A | _] = pt_cluster:start(6, [{peer_service_manager, pt_ring}]),
    ok = pt_cluster:join(Nodes, join),
    ?wait(is_ring(Nodes)),
    routed(Nodes),
    forwarded(Nodes),
    pt_peer:kill(A),
    ?wait(is_ring(tl(Nodes))),
    routed(tl(Nodes)),
    forwarded(tl(Nodes)),
    pt_cluster:stop(Nodes).

is_ring(Nodes) -> pt_views:is_ring(graph(Nodes)).
