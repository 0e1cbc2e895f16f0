%% What goes wrong, and what must happen then: nodedown exactly once, links and monitors fired, no
%% signal after it, a line in the log, nothing leaked, the VM alive.
-module(failure_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([peer_killed/1, peer_frozen/1, frozen_peer_under_load/1, lane_cut_in_large_message/1,
         simultaneous_connects/1, simultaneous_connects_with_signals/1, reconnect_storm/1,
         no_descriptors_left/1, garbage_before_authentication/1, half_open/1, slow_bytes/1,
         garbage_after_authentication/1, port_closed_by_somebody/1, kill_in_large_message/1,
         backend_fails/1]).

suite() -> [{timetrap, {seconds, 110}}].

all() ->
    [peer_killed, kill_in_large_message, peer_frozen, frozen_peer_under_load,
     lane_cut_in_large_message, simultaneous_connects, simultaneous_connects_with_signals,
     reconnect_storm, no_descriptors_left, garbage_before_authentication, half_open, slow_bytes,
     garbage_after_authentication, port_closed_by_somebody, backend_fails].

%% ---- loss of the peer ----------------------------------------------------------------------

peer_killed(_) ->
    {A, B} = pair(),
    W = watcher(A, B),
    flood(B, W),
    ?assert(pt_peer:wait(fun() -> length(seen(A, W)) > 100 end)),
    pt_peer:kill(B),
    one_end(A, W, B, connection_closed),
    healthy(A),
    stop([A]).

kill_in_large_message(_) ->
    [begin
         {A, B} = pair(),
         W = watcher(A, B),
         cast(B, fun() -> [W ! {big, I, binary:copy(<<I>>, 30000000)} || I <- lists:seq(1, 20)] end),
         receive after Ms -> ok end,
         pt_peer:kill(B),
         one_end(A, W, B, connection_closed),
         ?assert(lists:all(fun({big, _, X}) -> X =:= 30000000; (_) -> true end, seen(A, W))),
         healthy(A),
         stop([A])
     end || Ms <- [5, 60, 200]],
    ok.

peer_frozen(_) ->
    Args = #{args => ["-kernel", "net_ticktime", "2"]},
    {A, B} = pair(Args, Args),
    W = watcher(A, B),
    pt_peer:sigstop(B),
    one_end(A, W, B, net_tick_timeout),
    %% It wakes up, finds the connection gone, and comes back (somebody may have tried already).
    pt_peer:sigcont(B),
    ?assert(pt_peer:wait(fun() -> reaches(A, B) andalso reaches(B, A) end, 20000)),
    healthy(A),
    stop([A, B]).

%% The tick must not wait behind the load, and what is queued must not keep the connection.
frozen_peer_under_load(_) ->
    Args = #{args => ["-kernel", "net_ticktime", "4"]},
    {A, B} = pair(Args, Args),
    W = watcher(A, B),
    C = pt_peer:spawn_collector(B),
    Ports = ports(A),
    Fds = sockets(A),
    pt_peer:sigstop(B),
    Senders = on(A, fun() ->
                        [spawn(fun() -> [C ! binary:copy(<<I>>, 300000) || I <- lists:seq(1, 5000)] end)
                         || _ <- lists:seq(1, 4)]
                    end),
    one_end(A, W, B, net_tick_timeout),
    %% Nobody is left suspended: all senders run into the dead connection and end (or connect anew
    %% and wait for a set-up that cannot succeed).
    on(A, fun() -> [exit(P, kill) || P <- Senders], ok end),
    ?assert(pt_peer:wait(fun() ->
                             on(A, fun() -> not lists:any(fun is_process_alive/1, Senders) end)
                         end, 20000)),
    pt_peer:kill(B),
    ?assert(pt_peer:wait(fun() -> ports(A) =< Ports andalso sockets(A) =< Fds end, 20000)),
    healthy(A),
    stop([A]).

lane_cut_in_large_message(_) ->
    case pt_peer:carrier() of
        "partisan" ->
            [lane_cut(Lane) || Lane <- [0, 1]],
            unused_lane_cut(3);
        Other ->
            {skip, "no lanes to cut with " ++ Other}
    end.

%% The loss of a lane that carried something ends the connection; before that nothing may be missing.
lane_cut(Lane) ->
    Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start", "4"]},
    {A, B} = pair(Args, Args),
    NB = pt_peer:node(B),
    W = watcher(A, B),
    ?assert(pt_peer:wait(fun() -> cut_possible(B, pt_peer:node(A), Lane) end)),
    cast(B, fun() -> [W ! {big, I, binary:copy(<<I>>, 20000000)} || I <- lists:seq(1, 30)] end),
    ?assert(pt_peer:wait(fun() -> seen_any(A, W) end)),
    ok = on(A, fun() -> <<0>> = test_verb(pt_peer:dist_port(NB), 5, Lane), ok end),
    ?assert(pt_peer:wait(fun() -> downs(A, W) =/= [] end, 20000)),
    one_end(A, W, B, any),
    %% The sender goes on over a new connection; before nodedown nothing is missing.
    Old = lists:takewhile(fun(M) -> element(1, M) =/= nodedown end, seen(A, W)),
    Big = [{I, Size} || {big, I, Size} <- Old],
    ?assertEqual([{I, 20000000} || I <- lists:seq(1, length(Big))], Big),
    ?assertEqual([], [M || {big, _, Size} = M <- seen(A, W), Size =/= 20000000]),
    ?assertMatch([_ | _], [L || {_, L} <- pt_peer:logged(A), string:find(L, "lost") =/= nomatch]),
    %% and a new connection works
    ?assert(pt_peer:wait(fun() -> reaches(A, B) end)),
    healthy(A),
    healthy(B),
    stop([A, B]).

%% A lane that never carried anything is not missed: on a clean path bulk takes lane 1 only.
unused_lane_cut(Lane) ->
    Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start", "4"]},
    {A, B} = pair(Args, Args),
    NB = pt_peer:node(B),
    W = watcher(A, B),
    ?assert(pt_peer:wait(fun() -> cut_possible(B, pt_peer:node(A), Lane) end)),
    ok = on(A, fun() -> <<0>> = test_verb(pt_peer:dist_port(NB), 5, Lane), ok end),
    ?assert(pt_peer:wait(fun() -> not cut_possible(B, pt_peer:node(A), Lane) end)),
    Bulk = fun(From, To) ->
                   cast(B, fun() -> [W ! {big, I, binary:copy(<<I>>, 20000000)}
                                     || I <- lists:seq(From, To)] end),
                   ?assert(pt_peer:wait(fun() -> length(seen(A, W)) >= To end, 20000))
           end,
    Bulk(1, 5),
    %% it comes back, at both ends, more often than once, and can be used
    Back = fun() ->
                   pt_peer:wait(fun() -> {cut_possible(A, NB, Lane),
                                          cut_possible(B, pt_peer:node(A), Lane)} =:= {true, true}
                                end, 20000)
           end,
    ?assert(Back()),
    ok = on(B, fun() -> <<0>> = test_verb(pt_peer:dist_port(pt_peer:node(A)), 5, Lane), ok end),
    ?assert(pt_peer:wait(fun() -> not cut_possible(A, NB, Lane) end)),
    ?assert(Back()),
    Bulk(6, 10),
    ?assertEqual([{big, I, 20000000} || I <- lists:seq(1, 10)], seen(A, W)),
    ?assertEqual([], downs(A, W)),
    healthy(A),
    healthy(B),
    stop([A, B]).

%% Pausing sending and resuming it disturbs nothing; it answers an error for lanes not there.
cut_possible(P, Peer, Lane) ->
    on(P, fun() ->
              case test_verb(pt_peer:dist_port(Peer), 1, Lane) of
                  <<0, _/binary>> -> <<0, _/binary>> = test_verb(pt_peer:dist_port(Peer), 2, Lane), true;
                  _ -> false
              end
          end).

test_verb(Port, What, Lane) ->
    iolist_to_binary(erlang:port_control(Port, 6, <<What:8, Lane:8, 0:32>>)).

port_closed_by_somebody(_) ->
    {A, B} = pair(),
    NB = pt_peer:node(B),
    W = watcher(A, B),
    on(A, fun() -> port_close(pt_peer:dist_port(NB)) end),
    one_end(A, W, B, any),
    pt_peer:connect(A, B),
    healthy(A),
    healthy(B),
    stop([A, B]).

%% ---- connecting ----------------------------------------------------------------------------

%% Nobody connects but the test: global would, right after a nodeup, with messages of its own.
-define(ALONE, #{args => ["-connect_all", "false"]}).

simultaneous_connects(_) ->
    {A, B} = nodes_of(?ALONE, ?ALONE),
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
         ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(P, W)) >= 2 * Rounds end)),
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
    {A, B} = nodes_of(?ALONE, ?ALONE),
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
              _ = pt_peer:wait(fun() -> length(pt_peer:collected(P, C)) >= 180 end, 20000),
              Got = [{S, I, X =:= binary:copy(<<I>>, 10 * I * I)}
                     || {S, I, X} <- pt_peer:collected(P, C)],
              [?assertEqual([{S, I, true} || I <- lists:seq(1, 60)],
                            [M || {T, _, _} = M <- Got, T =:= S]) || S <- [1, 2, 3]]
          end || {P, C} <- [{A, CA}, {B, CB}]],
         pt_peer:disconnect(A, B)
     end || _ <- lists:seq(1, 10)],
    [healthy(P) || P <- [A, B]],
    stop([A, B]).

reconnect_storm(_) ->
    {A, B} = pair(?ALONE, ?ALONE),
    NB = pt_peer:node(B),
    C = pt_peer:spawn_collector(B),
    %% Once before counting: what a node opens when it is first needed is no leak.
    storm(A, NB, C, 20),
    pt_peer:disconnect(A, B),
    settle(A), settle(B),
    Before = [{ports(P), sockets(P)} || P <- [A, B]],
    storm(A, NB, C, 300),
    ?assert(pt_peer:wait(fun() -> reaches(A, B) end, 20000)),
    pt_peer:disconnect(A, B),
    [begin
         Back = pt_peer:wait(fun() -> ports(P) =< Ports andalso sockets(P) =< Fds end, 15000),
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
    pt_peer:wait(fun() -> reaches_node(A, NB) end, 20000).

storm_sender(C) ->
    C ! {storm, binary:copy(<<1>>, rand:uniform(20000))},
    receive after 1 -> storm_sender(C) end.

%% ---- resources -----------------------------------------------------------------------------

%% The node survives, says so, and serves again when there are descriptors.
no_descriptors_left(_) ->
    A = pt_peer:start(fa),
    pt_peer:log_start(A),
    B = pt_peer:start(fa),
    C = pt_peer:start(fa),
    NA = pt_peer:node(A),
    pt_peer:connect(B, A),
    Files = on(A, fun() -> spawn(fun() ->
                                     L = hold(), receive release -> [gen_udp:close(S) || S <- L] end
                                 end) end),
    %% prlimit on the running node: the boot needs more than the test leaves
    Limit = pt_peer:fds(A) + 20,
    [] = os:cmd("prlimit --nofile=" ++ integer_to_list(Limit) ++ ":20000 --pid " ++ pt_peer:os_pid(A)),
    on(A, fun() -> Files ! fill, ok end),
    ?assert(pt_peer:wait(fun() -> pt_peer:fds(A) >= Limit end)),
    ?assertNotEqual(true, pt_peer:call(C, net_kernel, connect_node, [NA])),
    ?assertEqual(NA, on(B, fun() -> erpc:call(NA, erlang, node, []) end)),
    on(A, fun() -> Files ! release, ok end),
    ?assert(pt_peer:wait(fun() -> true =:= pt_peer:call(C, net_kernel, connect_node, [NA]) end, 20000)),
    case pt_peer:carrier() of
        "partisan" ->
            %% whoever met it first: accept, the eventfd of the port, or the lane's duplicate
            ?assertMatch([_ | _], [L || {_, L} <- pt_peer:logged(A),
                                        Words <- ["descriptor", "emfile", "oo many open files"],
                                        string:find(L, Words) =/= nomatch]);
        _ -> ok
    end,
    healthy(A),
    stop([A, B, C]).

hold() ->
    receive fill -> hold([]) end.

hold(L) ->
    case gen_udp:open(0, []) of
        {ok, S} -> hold([S | L]);
        {error, _} -> L
    end.

%% The loop thread's backend fails under a connection: that connection may end, with one line that says
%% why; others go on and new ones come, over a loop on poll. If that fails at once as well, nothing new
%% is accepted until another loop is worth a try.
backend_fails(_) ->
    case pt_peer:carrier() of
        "partisan" ->
            [A, B, C] = [pt_peer:start(fa, ?ALONE) || _ <- [1, 2, 3]],
            pt_peer:log_start(A),
            [pt_peer:connect(A, P) || P <- [B, C]],
            backend_fails(A, B, C),
            stop([A, B, C]);
        Other ->
            {skip, "no backend with " ++ Other}
    end.

backend_fails(A, B, C) ->
    NB = pt_peer:node(B),
    NC = pt_peer:node(C),
    [?assertEqual(ok, bulk(A, P)) || P <- [B, C]],
    %% B takes nothing, so the loop is sending to it for as long as we like
    SinkB = pt_peer:spawn_collector(B),
    W = watcher(B, A),
    pt_peer:sigstop(B),
    cast(A, fun() -> SinkB ! binary:copy(<<1>>, 60000000) end),
    Loops = fun() -> [S || #{state := S} <- maps:get(lanes, session(A, NB), [])] end,
    ?assert(pt_peer:wait(fun() -> lists:member(loop, Loops()) end)),
    break_loop(A, NC),
    ?assert(pt_peer:wait(fun() -> session(A, NB) =:= undefined end)),
    pt_peer:sigcont(B),
    one_end(B, W, A, any),
    #{backend := poll, backend_failures := 1, backend_reason := Reason} = info(A),
    ?assertMatch("poll: the " ++ _, Reason),
    ?assert(pt_peer:wait(fun() -> logged(A, error, "backend failed at run time") =:= 1 end)),
    ?assertMatch(#{}, session(A, NC)), % it was idle: untouched
    ?assertEqual(ok, bulk(A, C)),
    pt_peer:connect(A, B),
    ?assertEqual(ok, bulk(A, B)),
    %% again
    [pt_peer:disconnect(A, P) || P <- [B]],
    break_loop(A, NC),
    ?assert(pt_peer:wait(fun() -> maps:get(backend_failures, info(A)) =:= 2 end)),
    ?assertEqual(false, pt_peer:call(A, net_kernel, connect_node, [NB])),
    ?assert(logged(A, error, "no connection with " ++ atom_to_list(NB)) >= 1),
    ?assertEqual(2, logged(A, error, "backend failed at run time: ")),
    ?assert(pt_peer:wait(fun() -> true =:= pt_peer:call(A, net_kernel, connect_node, [NB]) end,
                         30000, 1000)),
    ?assertEqual(ok, bulk(A, B)),
    [healthy(P) || P <- [A, B, C]].

%% Large enough for the loop, there and back.
bulk(A, B) ->
    NB = pt_peer:node(B),
    on(A, fun() ->
              Big = binary:copy(<<"bulk">>, 5000000),
              case erpc:call(NB, erlang, iolist_to_binary, [[Big]], 20000) of
                  Big -> ok;
                  _ -> damaged
              end
          end).

break_loop(A, Node) ->
    ok = on(A, fun() -> partisan_drv:test(pt_peer:dist_port(Node), break_loop, 0, 0) end).

info(A) -> pt_peer:call(A, partisan_dist, info, []).
session(A, Node) -> pt_peer:call(A, partisan_dist, info, [Node]).

logged(P, Level, Words) ->
    length([Text || {L, Text} <- pt_peer:logged(P), L =:= Level,
                    string:find(Text, Words) =/= nomatch]).

%% ---- strangers -----------------------------------------------------------------------------

garbage_before_authentication(_) ->
    {A, B} = pair(),
    W = watcher(A, B),
    Port = listen_port(A),
    settle(A),
    {Ports, Fds} = {ports(A), sockets(A)},
    Junk = [<<>>, <<0>>, <<0, 0>>, <<255, 255>>, <<0, 1, $x>>, <<"GET / HTTP/1.1\r\n\r\n">>,
            <<22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3>>, binary:copy(<<255>>, 100000),
            <<0, 7, $n, 0, 5, 255, 255, 255, 255>>, <<0, 15, $N, 0:64, 0:32, 0:16>>,
            <<255, 255, $N, 0:64, 0:32, 65535:16, 0:80000>>,
            <<0, 3, $s, 0, 0>>, rand:bytes(1000), binary:copy(<<0>>, 5000)],
    [begin
         {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}], 5000),
         _ = gen_tcp:send(S, J),
         case I rem 3 of
             0 -> ok;
             1 -> gen_tcp:shutdown(S, write);
             2 -> inet:setopts(S, [{linger, {true, 0}}])
         end,
         gen_tcp:close(S)
     end || J <- Junk, I <- lists:seq(1, 6)],
    ?assert(pt_peer:wait(fun() -> ports(A) =< Ports andalso sockets(A) =< Fds end, 20000)),
    ?assertEqual([], downs(A, W)),
    NA = pt_peer:node(A),
    ?assertEqual(NA, on(B, fun() -> erpc:call(NA, erlang, node, []) end)),
    healthy(A),
    stop([A, B]).

half_open(_) ->
    Args = #{args => ["-kernel", "net_setuptime", "2"]},
    {A, B} = nodes_of(Args, #{}),
    Port = listen_port(A),
    pt_peer:connect(B, A),
    settle(A),
    Fds = sockets(A),
    pt_peer:disconnect(B, A),
    Socks = [begin {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [{active, false}], 5000), S end
             || _ <- lists:seq(1, 60)],
    %% Real nodes come through while they wait, and they are thrown out in the end.
    pt_peer:connect(B, A),
    ?assert(pt_peer:wait(fun() -> sockets(A) =< Fds end, 15000)),
    [?assertEqual({error, closed}, gen_tcp:recv(S, 0, 5000)) || S <- Socks],
    healthy(A),
    stop([A, B]).

%% A byte now and then does not buy more time than net_setuptime.
slow_bytes(_) ->
    A = pt_peer:start(fa, #{args => ["-kernel", "net_setuptime", "2"]}),
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, listen_port(A), [binary, {active, true}], 5000),
    T0 = erlang:monotonic_time(millisecond),
    ok = slow(S, <<1000:16, $N, 0:8000>>),
    T = erlang:monotonic_time(millisecond) - T0,
    ?assert(T < 8000),
    healthy(A),
    stop([A]).

slow(S, <<B, Rest/binary>>) ->
    case gen_tcp:send(S, <<B>>) of
        ok ->
            receive
                {tcp_closed, S} -> ok;
                {tcp_error, S, _} -> ok
            after 200 -> slow(S, Rest)
            end;
        {error, _} -> ok
    end.

%% Junk on an authenticated connection, as a broken or hostile node would send it: that connection
%% ends, on both sides, and nothing else.
garbage_after_authentication(_) ->
    A = pt_peer:start(fa),
    pt_peer:log_start(A),
    [begin
         B = pt_peer:start(fa),
         pt_peer:connect(A, B),
         W = watcher_only(A, B),
         NA = pt_peer:node(A),
         ct:log("junk: ~0P", [Junk, 20]),
         on(B, fun() ->
                   Ctrl = pt_peer:dist_port(NA),
                   [try port_command(Ctrl, J) catch error:_ -> ended end || J <- Junk],
                   ok
               end),
         one_end(A, W, B, any),
         healthy(A),
         healthy(B),
         stop([B])
     end || Junk <- [[<<131, 68, 0, 104, 255>>],
                     [<<131, 68, 0, (term_to_ctl({22}))/binary>>],
                     [<<1, 2, 3, 4, 5>>],
                     [<<112, 131, 104, 3, 97, 2, 100, 0, 0, 97, 9>>],
                     [<<131, 68, 0, (term_to_ctl({99, self(), hello}))/binary>>],
                     %% a fragment of nothing, and a first fragment twice
                     [<<131, 70, 77:64, 3:64, "abc">>],
                     [<<131, 69, 77:64, 3:64, 0, (term_to_ctl({6, self(), '', nobody}))/binary, 131>>,
                      <<131, 69, 77:64, 3:64, 0, (term_to_ctl({6, self(), '', nobody}))/binary, 131>>],
                     [rand:bytes(100000)]]],
    stop([A]).

term_to_ctl(T) -> <<131, Rest/binary>> = term_to_binary(T), Rest.

%% ---- helpers -------------------------------------------------------------------------------

pair() -> pair(#{}, #{}).
pair(OptsA, OptsB) ->
    {A, B} = nodes_of(OptsA, OptsB),
    pt_peer:connect(A, B),
    {A, B}.

nodes_of(OptsA, OptsB) ->
    L = [pt_peer:start(fa, O) || O <- [OptsA, OptsB]],
    [pt_peer:log_start(P) || P <- L],
    list_to_tuple(L).

stop(Peers) -> lists:foreach(fun pt_peer:stop/1, Peers).
on(Peer, Fun) -> pt_peer:eval(Peer, Fun).
cast(#{ctl := Ctl}, Fun) -> unlink(Ctl), peer:cast(Ctl, erlang, apply, [Fun, []]).

do_on(Peer, Pid, Fun) ->
    on(Peer, fun() ->
                 Ref = make_ref(),
                 Pid ! {pt_do, self(), Ref, Fun},
                 receive {Ref, X} -> X end
             end).

both(F, G) ->
    Self = self(),
    Refs = [element(2, spawn_monitor(fun() -> Fun(), Self ! done end)) || Fun <- [F, G]],
    [receive {'DOWN', R, process, _, Why} -> normal = Why end || R <- Refs],
    [receive done -> ok end || _ <- Refs],
    ok.

%% A collector on A with all that must fire when B goes: nodedown, two monitors, a link,
%% monitor_node.
watcher(A, B) ->
    pt_peer:connect(A, B),
    watcher_only(A, B).

watcher_only(A, B) ->
    NB = pt_peer:node(B),
    W = pt_peer:spawn_collector(A),
    do_on(A, W, fun() ->
                    process_flag(trap_exit, true),
                    process_flag(message_queue_data, off_heap),
                    ok = net_kernel:monitor_nodes(true, [nodedown_reason]),
                    P = spawn_link(NB, fun() -> receive never -> ok end end),
                    monitor(process, P),
                    monitor(process, {net_kernel, NB}),
                    monitor_node(NB, true),
                    put(linked, P)
                end),
    W.

%% Large binaries stay on the node; {big, [Number,] Size | damaged} tells of them.
seen(A, W) ->
    on(A, fun() ->
              Ref = make_ref(),
              W ! {pt_collected, self(), Ref},
              receive {Ref, L} -> [summary(M) || M <- L] end
          end).

summary({big, I, X}) when is_binary(X) ->
    case X =:= binary:copy(<<I>>, byte_size(X)) of
        true -> {big, I, byte_size(X)};
        false -> {big, I, damaged}
    end;
summary(M) -> M.

seen_any(A, W) ->
    on(A, fun() ->
              Ref = make_ref(),
              W ! {pt_collected, self(), Ref},
              receive {Ref, L} -> L =/= [] end
          end).

downs(A, W) -> [M || M <- seen(A, W), is_end(M)].

is_end({nodedown, _, _}) -> true;
is_end({nodedown, _}) -> true;
is_end({'DOWN', _, process, _, _}) -> true;
is_end({'EXIT', _, _}) -> true;
is_end(_) -> false.

flood(B, W) ->
    cast(B, fun() -> [spawn(fun() -> flood_loop(W, 1) end) || _ <- lists:seq(1, 3)] end).

flood_loop(W, N) -> W ! {flood, self(), N}, flood_loop(W, N + 1).

%% Each of the five exactly once, with the right reason, and no signal of B after nodedown.
one_end(A, W, B, Reason) ->
    NB = pt_peer:node(B),
    ?assert(pt_peer:wait(fun() -> length(downs(A, W)) >= 5 end, 20000)),
    receive after 200 -> ok end,
    Ends = downs(A, W),
    ?assertMatch([{nodedown, NB, [{nodedown_reason, _}]}], [M || {nodedown, _, _} = M <- Ends]),
    [{nodedown, NB, [{nodedown_reason, Why}]}] = [M || {nodedown, _, _} = M <- Ends],
    ?assert(Reason =:= any orelse Why =:= Reason orelse {wrong_reason, Why}),
    ?assertMatch([{nodedown, NB}], [M || {nodedown, _} = M <- Ends]),
    ?assertMatch([{'DOWN', _, _, _, noconnection}, {'DOWN', _, _, _, noconnection}],
                 [M || {'DOWN', _, _, _, _} = M <- Ends]),
    ?assertMatch([{'EXIT', _, noconnection}], [M || {'EXIT', _, _} = M <- Ends]),
    %% what follows nodedown is not of that connection
    [_ | After] = lists:dropwhile(fun({nodedown, _, _}) -> false; (_) -> true end, seen(A, W)),
    Until = lists:takewhile(fun(M) -> element(1, M) =/= nodeup end, After),
    ?assertEqual([], [M || M <- Until, not is_end(M)]).

reaches(A, B) -> reaches_node(A, pt_peer:node(B)).

reaches_node(A, NB) ->
    try NB =:= on(A, fun() -> erpc:call(NB, erlang, node, [], 5000) end)
    catch _:_ -> false
    end.

%% The node answers, and nobody is left suspended.
healthy(P) ->
    ?assertEqual(pt_peer:node(P), pt_peer:call(P, erlang, node, [])),
    Suspended = fun() ->
                    on(P, fun() ->
                              [process_info(X, [registered_name, current_stacktrace])
                               || X <- processes(), process_info(X, status) =:= {status, suspended}]
                          end)
                end,
    pt_peer:wait(fun() -> Suspended() =:= [] end, 8000) orelse ?assertEqual([], Suspended()).

%% Ports that connections are made of: not the name resolver, which starts when it is needed.
ports(P) ->
    on(P, fun() ->
              length([X || X <- erlang:ports(),
                           lists:member(erlang:port_info(X, name),
                                        [{name, "tcp_inet"}, {name, "partisan_drv"}])])
          end).

%% Descriptors that connections are made of: sockets, event descriptors, rings.
sockets(P) ->
    Dir = "/proc/" ++ pt_peer:os_pid(P) ++ "/fd",
    {ok, L} = file:list_dir(Dir),
    length([F || F <- L, {ok, "socket:" ++ _} <- [file:read_link(filename:join(Dir, F))]])
        + length([F || F <- L, {ok, "anon_inode:" ++ _} <- [file:read_link(filename:join(Dir, F))]]).

%% Until the number of descriptors and ports stands still: lanes attach and go in their own time.
settle(P) ->
    Count = fun() -> {ports(P), sockets(P)} end,
    ?assert(pt_peer:wait(fun() ->
                             X = Count(),
                             receive after 300 -> ok end,
                             X =:= Count()
                         end, 10000)).

listen_port(Peer) ->
    [Name, _] = string:lexemes(atom_to_list(pt_peer:node(Peer)), "@"),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    {_, Port} = lists:keyfind(Name, 1, Names),
    Port.
