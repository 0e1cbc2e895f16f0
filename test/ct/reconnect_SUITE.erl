%% Connections made at the same time from both sides, and made and cut in a row.
-module(reconnect_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([simultaneous_connects/1, simultaneous_connects_with_signals/1, reconnect_storm/1]).

-import(pt_failure, [alone/0, pair/0, pair/2, nodes_of/2, stop/1, on/2, do_on/3, both/2, reaches/2,
                     reaches_node/2, healthy/1, ports/1, seen_count/2, sockets/1, settle/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [simultaneous_connects, simultaneous_connects_with_signals, reconnect_storm].

simultaneous_connects(_) ->
    {A, B} = nodes_of(alone(), alone()),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    WA = pt_peer:spawn_collector(A),
    WB = pt_peer:spawn_collector(B),
    [do_on(P, W, fun() -> net_kernel:monitor_nodes(true) end) || {P, W} <- [{A, WA}, {B, WB}]],
    Rounds = 60,
    [begin
         both(fun() -> true = pt_peer:call(A, net_kernel, connect_node, [NB]) end,
              fun() -> true = pt_peer:call(B, net_kernel, connect_node, [NA]) end),
         ?assert(pt_peer:wait(fun() -> pt_peer:connected(A, B) end)),
         apart(other([A, B], I), other([B, A], I))
     end || I <- lists:seq(1, Rounds)],
    [begin
         ?assert(pt_peer:wait(fun() ->
                                  Count = length(pt_peer:collected(P, W)),
                                  Count >= 2 * Rounds andalso Count rem 2 =:= 0
                              end)),
         Got = pt_peer:collected(P, W),
         ?assertEqual(lists:append(lists:duplicate(length(Got) div 2, [{nodeup, N}, {nodedown, N}])),
                      Got)
     end || {P, W, N} <- [{A, WA, NB}, {B, WB, NA}]],
    [healthy(P) || P <- [A, B]],
    stop([A, B]).

other([X, Y], I) -> case I rem 2 of 0 -> X; 1 -> Y end.

%% The loser of two simultaneous attempts may come back once: disconnect until both are alone.
apart(A, B) ->
    ?assert(pt_peer:wait(fun() ->
                             pt_peer:call(A, erlang, disconnect_node, [pt_peer:node(B)]),
                             pt_peer:wait(fun() -> alone(A) andalso alone(B) end, 500, 5)
                         end)).

alone(P) -> [] =:= pt_peer:call(P, erlang, nodes, [connected]).


%% Nobody calls connect_node: both sides just send, several processes at once, and all arrives.
simultaneous_connects_with_signals(_) ->
    {A, B} = nodes_of(alone(), alone()),
    [begin
         CA = pt_peer:spawn_collector(A),
         CB = pt_peer:spawn_collector(B),
         Burst = fun(To) ->
                     fun() ->
                         [spawn(fun() -> [To ! {S, I, binary:copy(<<I>>, 10 * I * I)}
                                          || I <- lists:seq(1, 60)] end) || S <- [1, 2, 3]], ok
                     end
                 end,
         both(fun() -> on(A, Burst(CB)) end, fun() -> on(B, Burst(CA)) end),
         [begin
              _ = pt_peer:wait(fun() -> seen_count(P, C) >= 180 end),
              Got = pt_failure:look(P, C, fun(L) -> [{S, I, X =:= binary:copy(<<I>>, 10 * I * I)}
                                                     || {S, I, X} <- L]
                                          end),
              [?assertEqual([{S, I, true} || I <- lists:seq(1, 60)],
                            [M || {T, _, _} = M <- Got, T =:= S]) || S <- [1, 2, 3]]
          end || {P, C} <- [{A, CA}, {B, CB}]],
         pt_peer:disconnect(A, B)
     end || _ <- lists:seq(1, 10)],
    [healthy(P) || P <- [A, B]],
    stop([A, B]).

reconnect_storm(_) ->
    {A, B} = pair(alone(), alone()),
    NB = pt_peer:node(B),
    C = pt_peer:spawn_collector(B),
    %% Once before counting: what a node opens when it is first needed is no leak.
    storm(A, NB, C, 20),
    pt_peer:disconnect(A, B),
    settle(A), settle(B),
    Before = [{ports(P), sockets(P)} || P <- [A, B]],
    storm(A, NB, C, 300),
    ?assert(pt_peer:wait(fun() -> reaches(A, B) end, 60000)),
    pt_peer:disconnect(A, B),
    [begin
         Back = pt_peer:wait(fun() -> ports(P) =< Ports andalso sockets(P) =< Fds end),
         ?assert(Back orelse {leaked, P, ports(P) - Ports, sockets(P) - Fds})
     end || {P, {Ports, Fds}} <- lists:zip([A, B], Before)],
    [healthy(P) || P <- [A, B]],
    stop([A, B]).

%% Senders that reconnect at once, and somebody who cuts all the time.
storm(A, NB, C, Cuts) ->
    on(A, fun() ->
              Senders = [spawn_link(fun() -> storm_sender(C) end) || _ <- lists:seq(1, 4)],
              [begin
                   erlang:disconnect_node(NB),
                   receive after I rem 20 -> ok end
               end || I <- lists:seq(1, Cuts)],
              [begin unlink(P), exit(P, kill) end || P <- Senders],
              ok
          end),
    pt_peer:wait(fun() -> reaches_node(A, NB) end, 60000).

storm_sender(C) ->
    C ! {storm, binary:copy(<<1>>, rand:uniform(20000))},
    receive after 1 -> storm_sender(C) end.
