%% The demonstration: starts three nodes on the carrier, keeps messages of all sizes moving between
%% every two of them, kills one with SIGKILL and starts it again, and judges the whole.
%%
%% The nodes are controlled over their standard input and output, so only the traffic crosses the
%% carrier, and they end when this process ends.
-module(pt_demo).

-export([main/0]).

-define(TRAFFIC, 7000).     % ms with all nodes
-define(WITHOUT, 3000).     % ms without the killed one
-define(AGAIN, 5000).       % ms with the new one
-define(PATIENCE, 60000).   % ms for anything that is awaited
-define(LOOK, 500).         % ms between two looks at the nodes

%% {Bytes of a message, how many a sender has under way at most, ms from one to the next}. As much as
%% two small cores check without being full: the round trips are to show the carrier, not a queue for
%% the processor. What the carrier can do at most shows bench/run.
-define(SIZES, [{64, 32, 1}, {1024, 32, 1}, {65536, 8, 10}, {1048576, 2, 100}, {8388608, 1, 500}]).

-record(s, {view, tag, pids, paths,
            nodes = #{} :: #{string() => map()}, % by letter: ctl, node, os_pid
            gen = 1,                             % a name for flows between the same two nodes
            started = now_ms(),
            ended = [] :: [pt_demo_node:totals()]}). % of flows whose node was killed

main() ->
    [Tag, Screen, Pids, Ebin, Beams] = init:get_plain_arguments(),
    process_flag(trap_exit, true),
    S = #s{tag = Tag, pids = Pids, paths = [Ebin, Beams],
           view = pt_demo_view:new(list_to_atom(Screen))},
    Status = try run(S)
             catch
                 throw:{failed, Why} -> verdict("FAILED: ~ts", [Why]), 1;
                 Class:Why:Stack -> verdict("FAILED: ~p: ~0P ~0P", [Class, Why, 20, Stack, 20]), 1
             end,
    halt(Status).

run(S0) ->
    S1 = lists:foldl(fun start/2, S0, ["a", "b", "c"]),
    _ = [connect(X, Y, S1) || {X, Y} <- pairs(["a", "b", "c"])],
    #{backend := Backend} = ask("a", partisan_dist, info, [], S1),
    S2 = say("three nodes are up and connected: backend ~ts, lanes ~s",
             [Backend, lists:join(", ", [lanes_words(X, Y, S1)
                                         || {X, Y} <- pairs(["a", "b", "c"])])], S1),
    S3 = watch(?TRAFFIC, flows(["a", "b", "c"], S2)),
    S4 = kill("c", S3),
    S5 = watch(?WITHOUT, S4),
    S6 = back("c", S5),
    S7 = watch(?AGAIN, S6),
    judge(stop(S7)).

%% ------------------------------------------------------------------------------------------------
%% Nodes

start(Letter, #s{tag = Tag, paths = Paths, pids = Pids, nodes = Nodes} = S) ->
    %% The name is in the command line, by which a hanging node is found.
    {ok, Ctl, Node} =
        try peer:start_link(#{name => Tag ++ "_" ++ Letter, host => "127.0.0.1", longnames => true,
                              connection => standard_io, wait_boot => ?PATIENCE,
                              shutdown => close,
                              %% Without the option, global on one node may be quicker to cut the
                              %% connection to the killed node than its end is.
                              args => ["-proto_dist", "partisan", "-setcookie", Tag,
                                       "-kernel", "prevent_overlapping_partitions", "false",
                                       "-partisan", "lanes", "4", "lanes_at_start", "4",
                                       "-pa" | Paths]})
        catch exit:Why -> failed("node ~s did not start: ~0p", [Letter, Why])
        end,
    OsPid = peer:call(Ctl, os, getpid, [], ?PATIENCE),
    ok = file:write_file(Pids, [OsPid, $\n], [append]),
    ok = peer:call(Ctl, pt_demo_node, start, [], ?PATIENCE),
    S#s{nodes = Nodes#{Letter => #{ctl => Ctl, node => Node, os_pid => OsPid}}}.

%% Connects, and waits for all lanes.
connect(X, Y, S) ->
    true = ask(X, net_kernel, connect_node, [node_of(Y, S)], S),
    await(io_lib:format("all lanes between ~s and ~s", [X, Y]),
          fun() ->
                  case {lanes(X, Y, S), lanes(Y, X, S)} of
                      {{N, N}, {N, N}} -> true;
                      _ -> false
                  end
          end).

lanes(X, Y, S) ->
    case ask(X, partisan_dist, info, [node_of(Y, S)], S) of
        #{lanes_attached := Attached, lanes_wanted := Wanted} -> {Attached, Wanted};
        _ -> none
    end.

lanes_words(X, Y, S) ->
    {Attached, _} = lanes(X, Y, S),
    io_lib:format("~s-~s ~b", [X, Y, Attached]).

kill(Letter, #s{nodes = Nodes, ended = Ended} = S0) ->
    #{ctl := Ctl, os_pid := OsPid} = maps:get(Letter, Nodes),
    unlink(Ctl),
    Before = ask(Letter, pt_demo_node, forget, [all], S0), % what it has checked so far
    S1 = say("SIGKILL to node ~s (process ~s)", [Letter, OsPid], S0),
    At = erlang:system_time(microsecond),
    [] = os:cmd("kill -KILL " ++ OsPid),
    Dead = node_of(Letter, S0),
    S2 = S1#s{nodes = maps:remove(Letter, Nodes)},
    Others = maps:keys(S2#s.nodes),
    Times = [{X, await_event(X, nodedown, Dead, At, S2)} || X <- Others],
    %% Every sender to the dead node was told so, exactly once, and stopped.
    await("the end of the flows with the killed node",
          fun() -> lists:all(fun(X) -> ask(X, pt_demo_node, broken_off, [Dead], S2) end, Others) end),
    Cut = [ask(X, pt_demo_node, forget, [Dead], S2) || X <- Others],
    say("nodedown of ~s: ~s", [Letter, times(Times)], S2#s{ended = [Before | Cut] ++ Ended}).

back(Letter, S0) ->
    S1 = say("starting node ~s again", [Letter], S0),
    At = erlang:system_time(microsecond),
    S2 = start(Letter, S1),
    Others = [X || X <- maps:keys(S2#s.nodes), X =/= Letter],
    _ = [connect(X, Letter, S2) || X <- Others],
    Times = [{X, await_event(X, nodeup, node_of(Letter, S2), At, S2)} || X <- Others],
    S3 = say("nodeup of ~s: ~s after its start; traffic to and from it again",
             [Letter, times(Times)], S2),
    flows_with(Letter, Others, S3#s{gen = S3#s.gen + 1}).

times(Times) ->
    lists:join(", ", [io_lib:format("at ~s ~s", [X, pt_demo_view:ms(Us)]) || {X, Us} <- Times]).

%% Microseconds from At to when the node heard it.
await_event(X, What, Node, At, S) ->
    Look = fun() -> [T || {W, N, T} <- ask(X, pt_demo_node, node_events, [], S),
                          W =:= What, N =:= Node, T >= At] end,
    await(io_lib:format("~s of ~s at ~s", [What, Node, X]), fun() -> Look() =/= [] end),
    case Look() of
        [T] -> T - At;
        More -> failed("~s of ~s came ~b times at ~s", [What, Node, length(More), X])
    end.

node_of(Letter, #s{nodes = Nodes}) -> maps:get(node, maps:get(Letter, Nodes)).

ask(Letter, M, F, A, #s{nodes = Nodes}) ->
    #{Letter := #{ctl := Ctl}} = Nodes,
    try peer:call(Ctl, M, F, A, ?PATIENCE)
    catch exit:Why -> failed("node ~s does not answer: ~0P", [Letter, Why, 20])
    end.

%% ------------------------------------------------------------------------------------------------
%% Traffic

flows(Letters, S) ->
    _ = [flow(X, Y, S) || X <- Letters, Y <- Letters, X =/= Y],
    S.

flows_with(Letter, Others, S) ->
    _ = [begin flow(X, Letter, S), flow(Letter, X, S) end || X <- Others],
    S.

flow(X, Y, #s{gen = Gen} = S) ->
    ok = ask(X, pt_demo_node, flows, [node_of(Y, S), Gen, ?SIZES], S).

watch(Ms, S) ->
    watch_until(now_ms() + Ms, S).

watch_until(End, S0) ->
    S = look(S0),
    case End - now_ms() of
        Left when Left > 0 ->
            receive after min(Left, ?LOOK) -> watch_until(End, S) end;
        _ ->
            S
    end.

look(#s{nodes = Nodes, view = View, started = Started} = S) ->
    Now = now_ms(),
    Seen = maps:map(fun(X, _) -> ask(X, pt_demo_node, snapshot, [], S) end, Nodes),
    S#s{view = pt_demo_view:show(Now - Started, Seen, View)}.

stop(S0) ->
    S = say("stopping: every sender tells how many it sent, every receiver how many came", [], S0),
    Letters = maps:keys(S#s.nodes),
    _ = [ok = ask(X, pt_demo_node, finish, [], S) || X <- Letters],
    await("the last messages",
          fun() -> lists:all(fun(X) -> ask(X, pt_demo_node, finished, [], S) end, Letters) end),
    Totals = [ask(X, pt_demo_node, forget, [all], S) || X <- Letters],
    S1 = S#s{ended = Totals ++ S#s.ended},
    OsPids = [P || #{os_pid := P} <- maps:values(S1#s.nodes)],
    _ = [begin unlink(C), try peer:stop(C) catch _:_ -> gone end end
         || #{ctl := C} <- maps:values(S1#s.nodes)],
    await("the end of the nodes",
          fun() -> not lists:any(fun(P) -> filelib:is_dir("/proc/" ++ P) end, OsPids) end),
    S1.

%% ------------------------------------------------------------------------------------------------
%% The end

judge(#s{ended = Ended, started = Started}) ->
    Sum = fun(Key) -> lists:sum([maps:get(Key, T) || T <- Ended]) end,
    Faults = lists:append([maps:get(faults, T) || T <- Ended]),
    {Messages, Bytes, Confirmed, Cut} = {Sum(messages), Sum(bytes), Sum(confirmed), Sum(cut)},
    Seconds = (now_ms() - Started) / 1000,
    if
        Faults =/= [] ->
            _ = [io:format("fault: ~ts~n", [F]) || F <- lists:sublist(Faults, 20)],
            verdict("FAILED: ~b faults", [length(Faults)]),
            1;
        Messages =:= 0; Confirmed =:= 0; Cut =:= 0 ->
            verdict("FAILED: ~b messages, ~b flows confirmed, ~b cut by the kill: the demonstration "
                    "did not do what it should", [Messages, Confirmed, Cut]),
            1;
        true ->
            verdict("PASSED: ~s messages, ~s, each verified at its receiver: none lost, doubled, out "
                    "of order or damaged; ~b flows confirmed to the last message, ~b cut by the kill; "
                    "~.1f s", [pt_demo_view:grouped(Messages), pt_demo_view:bytes(Bytes), Confirmed,
                               Cut, Seconds]),
            0
    end.

verdict(Format, Args) ->
    io:format("demo: " ++ Format ++ "~n", Args).

say(Format, Args, #s{view = View, started = Started} = S) ->
    S#s{view = pt_demo_view:say(now_ms() - Started, io_lib:format(Format, Args), View)}.

-spec failed(io:format(), [term()]) -> no_return().
failed(Format, Args) ->
    throw({failed, io_lib:format(Format, Args)}).

await(What, Condition) ->
    await(What, Condition, now_ms() + ?PATIENCE).

await(What, Condition, Deadline) ->
    case Condition() of
        true ->
            ok;
        false ->
            now_ms() < Deadline orelse failed("waited in vain for ~ts", [What]),
            receive after 5 -> await(What, Condition, Deadline) end
    end.

pairs([X | Rest]) -> [{X, Y} || Y <- Rest] ++ pairs(Rest);
pairs([]) -> [].

now_ms() -> erlang:monotonic_time(millisecond).
