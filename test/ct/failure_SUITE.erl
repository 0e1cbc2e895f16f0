%% What goes wrong, and what must happen then: nodedown exactly once, links and monitors fired, no
%% signal after it, a line in the log, nothing leaked, the VM alive.
-module(failure_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([peer_killed/1, kill_in_large_message/1, senders_killed/1, sender_suspended/1, peer_frozen/1, frozen_peer_under_load/1,
         lane_cut_in_large_message/1, no_descriptors_left/1, socket_calls_fail/1,
         port_closed_by_somebody/1, backend_fails/1, several_loops/1]).

-import(pt_failure, [alone/0, pair/0, pair/2, stop/1, on/2, cast/2, watcher/2, seen/2, seen_count/2,
                     downs/2, flood/2, one_end/4, reaches/2, healthy/1, ports/1, sockets/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [peer_killed, kill_in_large_message, senders_killed, sender_suspended, peer_frozen, frozen_peer_under_load,
     lane_cut_in_large_message, no_descriptors_left, socket_calls_fail, port_closed_by_somebody,
     backend_fails, several_loops].

%% ---- loss of the peer ----------------------------------------------------------------------

peer_killed(_) ->
    {A, B} = pair(),
    W = watcher(A, B),
    flood(B, W),
    ?assert(pt_peer:wait(fun() -> seen_count(A, W) > 100 end)),
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

%% The VM finishes what a process was sending when it was killed (OTP 25 and later; the process is not alive any
%% more meanwhile). So halves of messages come to their ends, and what both sides keep for them comes back.
senders_killed(_) ->
    {A, B} = pair(ticking(1), ticking(1)),
    Sink = sink(B),
    Kill = fun() ->
               Bin = binary:copy(<<7>>, 200 * 1000 * 1000),
               [begin
                    {Pid, Ref} = spawn_monitor(fun() -> Sink ! Bin end),
                    receive {'DOWN', Ref, _, _, _} -> ok after 6 -> ok end,
                    exit(Pid, kill)
                end || _ <- lists:seq(1, 10)],
               ok
           end,
    ?assert(pt_peer:wait(fun() -> on(A, Kill), halves(A, B) >= 3 end)),
    #{transfers_in_room := Room} = pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)]),
    ?assert(Room >= 600 * 1000 * 1000),
    ?assert(pt_peer:wait(fun() -> halves(A, B) =:= 0 end, 30000)),
    ?assertMatch(#{transfers_in_room := 0}, pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)])),
    ?assert(pt_peer:wait(fun() -> on(A, fun() -> erlang:memory(binary) end) < 100 * 1000 * 1000 end)),
    Before = received(B, Sink),
    on(A, fun() -> Sink ! binary:copy(<<1>>, 20 * 1000 * 1000) end),
    ?assert(pt_peer:wait(fun() -> received(B, Sink) =:= Before + 20 * 1000 * 1000 end)),
    stop([A, B]).

%% A sender that stands still for some ticks in the middle of a message, and goes on.
sender_suspended(_) ->
    {A, B} = pair(ticking(1), ticking(1)),
    Sink = sink(B),
    Size = 200 * 1000 * 1000,
    Holder = on(A, fun() -> spawn(fun() -> holder(Sink, Size) end) end),
    ?assert(lists:any(fun(Ms) -> held(A, B, Holder, Ms) end, [5, 10, 2, 20, 1, 40, 3, 80])),
    Before = received(B, Sink),
    ticks(A, B, 3),
    ?assertEqual(1, halves(A, B)),
    on(A, fun() -> Holder ! release, ok end),
    ?assert(pt_peer:wait(fun() -> received(B, Sink) =:= Before + Size end, 30000)),
    ?assertEqual(0, halves(A, B)),
    stop([A, B]).

%% Sends Size bytes from a process of its own and suspends that after Ms: while it still makes the bytes, in one
%% go, so that the first time it yields is in the middle of sending. Whether so is seen at the peer.
holder(Sink, Size) ->
    receive
        {hold, From, Ms} ->
            {Pid, Ref} = spawn_monitor(fun() -> Sink ! <<7:(Size * 8)>> end),
            receive after Ms -> ok end,
            Held = try erlang:suspend_process(Pid) catch error:badarg -> false end,
            From ! {self(), Held},
            receive release -> _ = Held andalso erlang:resume_process(Pid) end,
            receive {'DOWN', Ref, _, _, _} -> ok end,
            holder(Sink, Size)
    end.

held(A, B, Holder, Ms) ->
    Held = on(A, fun() -> Holder ! {hold, self(), Ms}, receive {Holder, Is} -> Is end end),
    ticks(A, B, 2), % what was handed over has come
    case Held andalso halves(A, B) =:= 1 of
        true -> true;
        false -> on(A, fun() -> Holder ! release, false end)
    end.

%% Nothing but ticks comes from A meanwhile.
ticks(A, B, N) ->
    Frames = fun() ->
                 #{lanes := Lanes} = pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)]),
                 lists:sum([F || #{frames_in := F} <- Lanes])
             end,
    Enough = Frames() + N,
    ?assert(pt_peer:wait(fun() -> Frames() >= Enough end, 30000)).

ticking(Seconds) -> #{args => ["-kernel", "net_ticktime", integer_to_list(4 * Seconds)]}.

%% Counts the bytes of the binaries that it gets.
sink(Peer) ->
    on(Peer, fun() ->
                 spawn(fun() ->
                           (fun Loop(N) ->
                                receive
                                    {count, From} -> From ! {self(), N}, Loop(N);
                                    Bin when is_binary(Bin) -> Loop(N + byte_size(Bin))
                                end
                            end)(0)
                       end)
             end).

received(Peer, Sink) ->
    on(Peer, fun() -> Sink ! {count, self()}, receive {Sink, N} -> N end end).

%% Messages of A's that B has in part.
halves(A, B) ->
    #{transfers_in := N} = pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)]),
    N.

peer_frozen(_) ->
    Args = #{args => ["-kernel", "net_ticktime", "2"]},
    {A, B} = pair(Args, Args),
    W = watcher(A, B),
    pt_peer:sigstop(B),
    one_end(A, W, B, net_tick_timeout),
    %% It wakes up, finds the connection gone, and comes back (somebody may have tried already).
    pt_peer:sigcont(B),
    ?assert(pt_peer:wait(fun() -> reaches(A, B) andalso reaches(B, A) end, 60000)),
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
                         end, 60000)),
    pt_peer:kill(B),
    ?assert(pt_peer:wait(fun() -> ports(A) =< Ports andalso sockets(A) =< Fds end)),
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
    ?assert(pt_peer:wait(fun() ->
                             cut_possible(A, NB, Lane) andalso cut_possible(B, pt_peer:node(A), Lane)
                         end)),
    cast(B, fun() -> [W ! {big, I, binary:copy(<<I>>, 20000000)} || I <- lists:seq(1, 30)] end),
    ?assert(pt_peer:wait(fun() -> seen_count(A, W) > 0 end)),
    ok = on(A, fun() -> <<0>> = test_verb(pt_peer:dist_port(NB), 5, Lane), ok end),
    ?assert(pt_peer:wait(fun() -> downs(A, W) =/= [] end)),
    one_end(A, W, B, any),
    %% The sender goes on over a new connection; before nodedown nothing is missing.
    Old = lists:takewhile(fun(M) -> element(1, M) =/= nodedown end, seen(A, W)),
    Big = [{I, Size} || {big, I, Size} <- Old],
    ?assertEqual([{I, 20000000} || I <- lists:seq(1, length(Big))], Big),
    ?assertEqual([], [M || {big, _, Size} = M <- seen(A, W), Size =/= 20000000]),
    ?assert(pt_peer:wait(fun() -> [L || {_, L} <- pt_peer:logged(A), string:find(L, "lost") =/= nomatch]
                                      =/= [] end)),
    %% and a new connection works
    ?assert(pt_peer:wait(fun() -> reaches(A, B) end, 60000)),
    healthy(A),
    healthy(B),
    stop([A, B]).

%% A lane that never carried anything is not missed: on a clean path bulk takes lane 1 only.
unused_lane_cut(Lane) ->
    Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start", "4"]},
    {A, B} = pair(Args, Args),
    NB = pt_peer:node(B),
    W = watcher(A, B),
    %% One that comes back is another connection: how long it is away depends on the machine.
    Ends = fun() -> [addresses(A, B, Lane), addresses(B, A, Lane)] end,
    Back = fun(Before) ->
                   ?assert(pt_peer:wait(fun() ->
                                            Now = Ends(),
                                            not lists:member(none, Now) andalso Now -- Before =:= Now
                                        end))
           end,
    Back([]),
    First = Ends(),
    ok = on(A, fun() -> <<0>> = test_verb(pt_peer:dist_port(NB), 5, Lane), ok end),
    Bulk = fun(From, To) ->
                   cast(B, fun() -> [W ! {big, I, binary:copy(<<I>>, 20000000)}
                                     || I <- lists:seq(From, To)] end),
                   ?assert(pt_peer:wait(fun() -> seen_count(A, W) >= To end, 60000))
           end,
    Bulk(1, 5),
    %% it comes back, at both ends, more often than once, and can be used
    Back(First),
    Second = Ends(),
    ok = on(B, fun() -> <<0>> = test_verb(pt_peer:dist_port(pt_peer:node(A)), 5, Lane), ok end),
    Back(Second),
    Bulk(6, 10),
    ?assertEqual([{big, I, 20000000} || I <- lists:seq(1, 10)], seen(A, W)),
    ?assertEqual([], downs(A, W)),
    healthy(A),
    healthy(B),
    stop([A, B]).

%% Both ends of the lane as P sees it.
addresses(P, Peer, Lane) ->
    #{lanes := Lanes} = session(P, pt_peer:node(Peer)),
    case [{Local, Remote} || #{lane := No, local := Local, remote := Remote} <- Lanes, No =:= Lane] of
        [Both] -> Both;
        [] -> none
    end.

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
    ?assert(pt_peer:wait(fun() -> true =:= pt_peer:call(C, net_kernel, connect_node, [NA]) end, 60000)),
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

%% The kernel has no memory for a call: that connection ends, as any other does, and is made again; one
%% that could not be accepted is a moment later.
socket_calls_fail(Config) ->
    case pt_peer:carrier() of
        "partisan" -> calls_fail(Config);
        Other -> {skip, "the calls are those of the carrier, not of " ++ Other}
    end.

calls_fail(Config) ->
    Object = filename:join(?config(priv_dir, Config), "failing.so"),
    Source = filename:join(?config(data_dir, Config), "failing.c"),
    ?assertEqual("0\n", os:cmd(lists:join(" ", [os:getenv("CC", "cc"), "-std=gnu17 -Wall -Wextra -Werror -O1 -g",
                                                "-fPIC -shared -o", Object, Source, "-ldl; echo $?"]))),
    Plan = filename:join(?config(priv_dir, Config), "plan"),
    Fail = fun(Call, Errno, Times) ->
               {ok, F} = file:open(Plan, [read, write, raw]), % never cut short: it is mapped
               ok = file:pwrite(F, 0, <<Call:32/native, Errno:32/native, Times:32/native>>),
               ok = file:close(F)
           end,
    Fail(0, 0, 0),
    Times = fun() -> {ok, <<_:64, N:32/native-signed>>} = file:read_file(Plan), N end,
    #{args := Args} = alone(),
    A = pt_peer:start(fa, #{args => Args, env => [{"LD_PRELOAD", Object}, {"PT_FAILING", Plan}]}),
    B = pt_peer:start(fa, alone()),
    pt_peer:log_start(A),
    [begin
         W = watcher(A, B),
         Back = pt_peer:spawn_collector(B),
         Before = logged(A, notice, "lost: "),
         Fail(Call, Errno, 1),
         on(A, fun() -> spawn(fun() -> [Back ! I || I <- lists:seq(1, 100)] end), ok end),
         on(B, fun() -> spawn(fun() -> [W ! I || I <- lists:seq(1, 100)] end), ok end),
         one_end(A, W, B, connection_closed),
         ?assertEqual(0, Times()),
         ?assert(pt_peer:wait(fun() -> logged(A, notice, "lost: ") =:= Before + 1 end)),
         ?assertMatch([_ | _], [T || {notice, T} <- pt_peer:logged(A), string:find(T, Words) =/= nomatch]),
         ?assert(pt_peer:wait(fun() -> pt_peer:alone(A) andalso pt_peer:alone(B) end))
     end || {Call, Errno, Words} <- [{1, 105, "o buffer space"}, {1, 12, "emory"}, {2, 12, "emory"}]],
    Fail(3, 105, 3),
    pt_peer:connect(B, A),
    ?assertEqual(0, Times()),
    ?assert(logged(A, warning, "cannot accept a connection: no buffer space") >= 1),
    [healthy(P) || P <- [A, B]],
    stop([A, B]).

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
            [A, B, C] = [pt_peer:start(fa, alone()) || _ <- [1, 2, 3]],
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
    #{loop_sends := Before} = info(A),
    cast(A, fun() -> SinkB ! binary:copy(<<1>>, 60000000) end),
    Loops = fun() -> [S || #{state := S} <- maps:get(lanes, session(A, NB), [])] end,
    %% not only handed over to the loop: what it has not begun goes on with its heir
    ?assert(pt_peer:wait(fun() ->
                             lists:member(loop, Loops()) andalso maps:get(loop_sends, info(A)) > Before
                         end)),
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
    Failures = break_again(A, NC, 2),
    ?assertEqual(false, pt_peer:call(A, net_kernel, connect_node, [NB])),
    ?assert(pt_peer:wait(fun() -> logged(A, error, "no connection with " ++ atom_to_list(NB)) >= 1 end)),
    ?assert(pt_peer:wait(fun() -> logged(A, error, "backend failed at run time: ") =:= Failures end)),
    ?assert(pt_peer:wait(fun() -> true =:= pt_peer:call(A, net_kernel, connect_node, [NB]) end,
                         60000, 1000)),
    ?assertEqual(ok, bulk(A, B)),
    [healthy(P) || P <- [A, B, C]].

%% The Nth failure; if the one before was long ago, on a busy machine, that was no failure `at once', and
%% the next one is. How many there have been then.
break_again(A, NC, N) when N < 6 ->
    break_loop(A, NC),
    ?assert(pt_peer:wait(fun() -> maps:get(backend_failures, info(A)) =:= N end)),
    case string:find(maps:get(backend_reason, info(A)), "again within") of
        nomatch -> break_again(A, NC, N + 1);
        _ -> N
    end.

%% Bulk lanes of several peers are dealt out to the loops; one that fails takes along what it was sending and
%% nothing else, and another one that fails right after it is replaced as well.
several_loops(_) ->
    case pt_peer:carrier() of
        "partisan" ->
            #{args := Alone} = alone(),
            A = pt_peer:start(fl, #{args => Alone ++ ["-partisan", "loops", "16"]}),
            [B, C] = [pt_peer:start(fl, alone()) || _ <- [1, 2]],
            [pt_peer:connect(A, P) || P <- [B, C]],
            several_loops(A, B, C),
            stop([A, B, C]);
        Other ->
            {skip, "no loops with " ++ Other}
    end.

several_loops(A, B, C) ->
    #{backend := Backend} = info(A),
    ?assertEqual(16, length(maps:get(loops, info(A)))),
    [?assertEqual(ok, bulk(A, P)) || P <- [B, C]],
    [SinkB, SinkC] = [pt_peer:spawn_collector(P) || P <- [B, C]],
    W = watcher(B, A),
    Sends = fun() -> [N || #{sends := N} <- maps:get(loops, info(A))] end,
    Before = Sends(),
    [pt_peer:sigstop(P) || P <- [B, C]],
    [cast(A, fun() -> Sink ! binary:copy(<<1>>, 60000000) end) || Sink <- [SinkB, SinkC]],
    %% each of the two sends to a peer that takes nothing
    ?assert(pt_peer:wait(fun() -> length([x || {New, Old} <- lists:zip(Sends(), Before), New > Old]) >= 2 end)),
    [?assert(pt_peer:wait(fun() -> loop =:= bulk_lane(A, P) end)) || P <- [B, C]],
    break_loop(A, pt_peer:node(B), 1),
    ?assert(pt_peer:wait(fun() -> session(A, pt_peer:node(B)) =:= undefined end)),
    [pt_peer:sigcont(P) || P <- [B, C]],
    one_end(B, W, A, any),
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(C, SinkC) =:= 1 end)),
    #{loops := Loops} = info(A),
    ?assertEqual(lists:usort([poll, Backend]), lists:usort([L || #{backend := L} <- Loops])),
    pt_peer:connect(A, B),
    break_loop(A, pt_peer:node(C), 1),
    ?assert(pt_peer:wait(fun() -> maps:get(backend_failures, info(A)) =:= 2 end)),
    [begin
         pt_peer:connect(A, P),
         ?assertEqual(ok, bulk(A, P))
     end || P <- [B, C]],
    [healthy(P) || P <- [A, B, C]].

bulk_lane(A, P) ->
    [State] = [S || #{lane := 1, state := S} <- maps:get(lanes, session(A, pt_peer:node(P)))],
    State.

%% Large enough for the loop, there and back.
bulk(A, B) ->
    NB = pt_peer:node(B),
    on(A, fun() ->
              Big = binary:copy(<<"bulk">>, 5000000),
              case erpc:call(NB, erlang, iolist_to_binary, [[Big]], 60000) of
                  Big -> ok;
                  _ -> damaged
              end
          end).

break_loop(A, Node) -> break_loop(A, Node, 0).

break_loop(A, Node, Lane) ->
    ok = on(A, fun() -> partisan_drv:test(pt_peer:dist_port(Node), break_loop, Lane, 0) end).

info(A) -> pt_peer:call(A, partisan_dist, info, []).
session(A, Node) -> pt_peer:call(A, partisan_dist, info, [Node]).

logged(P, Level, Words) ->
    length([Text || {L, Text} <- pt_peer:logged(P), L =:= Level,
                    string:find(Text, Words) =/= nomatch]).
