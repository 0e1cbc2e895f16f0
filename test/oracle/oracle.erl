%% The order oracle on real nodes. Starts two or three nodes, runs rounds of random signals between
%% them, and reports. See docs/ordering.md for the rules that are checked.
%%
%%   quiet round:  no connection is lost; every signal must arrive, in order and once, and every
%%                 DOWN, EXIT, reply and spawn reply that is owed.
%%   brutal round: connections are cut in the middle of the traffic (erlang:disconnect_node/1);
%%                 a gap is legal only across a nodedown, nothing may arrive after it, and what is
%%                 owed must still come (as noconnection where the connection took it).
-module(oracle).

-export([main/1, run/1]).

-define(ROUND_MS, 3000).
-define(PATIENCE_MS, 60000).

main(Args) ->
    Opts = parse(Args, #{}),
    case run(Opts) of
        {_, 0} -> halt(0);
        _ -> halt(1)
    end.

parse([], O) -> O;
parse(["--seconds", V | T], O) -> parse(T, O#{seconds => list_to_integer(V)});
parse(["--nodes", V | T], O) -> parse(T, O#{nodes => list_to_integer(V)});
parse(["--seed", V | T], O) -> parse(T, O#{seed => list_to_integer(V)});
parse(["--lanes", V | T], O) -> parse(T, O#{lanes => list_to_integer(V)});
parse(["--hubs", V | T], O) -> parse(T, O#{hubs => list_to_integer(V)});
parse(["--rounds", "quiet" | T], O) -> parse(T, O#{rounds => [strict]});
parse(["--rounds", "brutal" | T], O) -> parse(T, O#{rounds => [brutal]});
parse(["--rounds", "both" | T], O) -> parse(T, O#{rounds => [strict, brutal]});
parse(["--link", V | T], O) -> parse(T, O#{link => V});
parse(["--other-erl", V | T], O) -> parse(T, O#{other_erl => V});
parse(["--chaos" | T], O) -> parse(T, O#{chaos => true});
parse(Other, _) ->
    io:format(standard_error,
              "oracle: cannot read ~0p~n"
              "usage: test/oracle/run [--seconds 60] [--nodes 2|3] [--seed N] [--lanes N]~n"
              "         [--hubs N a node] [--rounds quiet|brutal|both] [--chaos]~n"
              "         [--link \"delay 10ms loss 1%\"]: over an emulated network~n"
              "         [--other-erl PATH: every second node runs this erl]~n", [Other]),
    halt(2).

%% -> {Passed, Failed}
run(Opts0) ->
    Opts = maps:merge(#{seconds => 60, nodes => 2, lanes => 4, hubs => 4, chaos => false,
                        rounds => [strict, brutal],
                        seed => erlang:system_time(microsecond) rem 1000000007}, Opts0),
    #{seed := Seed, nodes := N, seconds := Seconds, chaos := Chaos} = Opts,
    io:format("oracle: seed ~b, ~b nodes, carrier ~s, lanes ~b, ~s~n",
              [Seed, N, pt_peer:carrier(), maps:get(lanes, Opts),
               case Chaos of true -> "chaos"; false -> "no chaos" end]),
    oracle_gen:seed({Seed, coordinator}),
    Net = network(Opts),
    Nodes = [start(I, Net, Opts) || I <- lists:seq(1, N)],
    io:format("  OTP ~s~n", [lists:join(", ", [pt_peer:call(P, erlang, system_info, [otp_release])
                                               || P <- Nodes])]),
    [pt_peer:log_start(P) || P <- Nodes],
    [ok = pt_peer:call(P, oracle_node, init, [{Seed, I}, Seed], 60000)
     || {I, P} <- lists:zip(lists:seq(1, N), Nodes)],
    End = erlang:monotonic_time(millisecond) + Seconds * 1000,
    Rounds = rounds(1, End, Nodes, Opts, []),
    Result = summary(Nodes, Rounds, Opts),
    [pt_peer:stop(P) || P <- Nodes],
    end_network(Net, Result).

%% Exit status 77: there is no network to be had here.
network(#{link := Link, nodes := N, seed := Seed}) ->
    Names = ["n" ++ integer_to_list(I) || I <- lists:seq(1, N)],
    case pt_net:start(Names, ["--cc", "cubic", "--seed", integer_to_list(Seed), "--link", Link]) of
        {ok, Net} ->
            io:format("emulated network: ~s~n", [Link]),
            Net;
        {unavailable, Why} ->
            io:format("NOT RUN: ~s~n", [Why]),
            halt(77)
    end;
network(_) ->
    none.

%% A link that is to lose packets and lost none has tested nothing.
end_network(none, Result) ->
    Result;
end_network(Net, {Passed, Failed}) ->
    Lost = lists:sum([list_to_integer(N) || {match, Ns} <- [re:run(pt_net:command(Net, "stats"),
                                                                   " (?:lost|lost_burst) ([0-9]+)",
                                                                   [global, {capture, all_but_first, list}])],
                                            [N] <- Ns]),
    io:format("packets lost on the links: ~b~n", [Lost]),
    pt_net:stop(Net),
    case Lost of
        0 -> io:format("failure: no packet was lost~n"), {Passed, Failed + 1};
        _ -> {Passed, Failed}
    end.

start(I, Net, #{lanes := Lanes} = Opts) ->
    {Place, Queue} =
        case Net of
            none -> {#{}, []};
            %% a link of a few MB a second: what a deep queue holds would take minutes to arrive;
            %% and hubs are chatty (`mixes'): few messages of megabytes
            _ -> {pt_net:inside(Net, "n" ++ integer_to_list(I)), ["-partisan", "max_queue", "1048576"]}
        end,
    Start = case Opts of
                #{other_erl := Path} when I rem 2 =:= 0 -> Place#{erl => Path};
                _ -> Place
            end,
    pt_peer:start(list_to_atom("oracle_" ++ integer_to_list(I)),
                  Start#{args => ["-kernel", "prevent_overlapping_partitions", "false",
                                  "-connect_all", "false",
                                  "-partisan", "lanes", integer_to_list(Lanes),
                                  "lanes_at_start", integer_to_list(Lanes)]
                             ++ Queue ++ maps:get(args, Opts, []),
                         env => maps:get(env, Opts, [])}).

rounds(I, End, Nodes, Opts, Acc) ->
    Left = End - erlang:monotonic_time(millisecond),
    Bad = lists:any(fun({R, _}) -> R =/= ok end, Acc)
        orelse broken(Nodes),
    case (Left > 0 orelse I =:= 1) andalso not Bad of
        false -> lists:reverse(Acc);
        true ->
            Kinds = maps:get(rounds, Opts),
            Mode = lists:nth((I - 1) rem length(Kinds) + 1, Kinds),
            T0 = erlang:monotonic_time(millisecond),
            R = round(I, Mode, min(max(Left, 500), ?ROUND_MS), Nodes, Opts),
            io:format("  round ~b ~s: ~s (~b ms)~n",
                      [I, case Mode of strict -> quiet; brutal -> brutal end,
                       case R of ok -> "ok"; _ -> "failed" end,
                       erlang:monotonic_time(millisecond) - T0]),
            rounds(I + 1, End, Nodes, Opts, [{R, Mode} | Acc])
    end.

%% The first violation ends the run: what comes after it is mostly its consequence.
broken(Nodes) -> lists:any(fun(P) -> violations(P) =/= [] end, Nodes).

violations(P) -> pt_peer:call(P, oracle_node, violations, []).

round(I, Mode, Ms, Nodes, #{seed := Seed, hubs := Hubs, chaos := Chaos, lanes := Lanes} = Opts) ->
    Mixes = case Opts of #{link := _} -> #{mixes => [chatty]}; _ -> #{} end,
    Indexed = lists:zip(lists:seq(1, length(Nodes)), Nodes),
    Targets = lists:append([pt_peer:call(P, oracle_node, prepare,
                                         [Mixes#{seed => Seed, round => I, mode => Mode, hubs => Hubs,
                                                 index => Ix}])
                            || {Ix, P} <- Indexed]),
    [pt_peer:call(P, oracle_node, chaos, [Lanes, {Seed, I, Ix}]) || Chaos, {Ix, P} <- Indexed],
    %% All nodes at once, not connected yet: both sides connect while their first signals wait.
    each(Nodes, fun(P) -> pt_peer:call(P, oracle_node, go, [Targets]) end),
    Cut = case Mode of
              strict -> _ = pt_peer:wait(fun() -> broken(Nodes) end, Ms, 200), ok;
              brutal -> cut(Ms, Nodes)
          end,
    each(Nodes, fun(P) -> pt_peer:call(P, oracle_node, ctl, [stop]) end),
    Steps = [fun() -> Cut end,
             fun() -> settle(Mode, Nodes) end,
             fun() -> wait_idle(Nodes) end,
             fun() ->
                 each(Nodes, fun(P) -> pt_peer:call(P, oracle_node, ctl, [finish]) end),
                 wait_done(Nodes)
             end],
    Result = steps(Steps, Nodes),
    [pt_peer:call(P, oracle_node, chaos_stop, []) || Chaos, P <- Nodes],
    case Result of
        ok ->
            case broken(Nodes) of
                true -> {failed, see_violations};
                false ->
                    [pt_peer:call(P, oracle_node, quit, []) || P <- Nodes],
                    disconnect_all(Nodes)
            end;
        _ -> Result
    end.

each(Nodes, Fun) ->
    Self = self(),
    Refs = [element(2, spawn_monitor(fun() -> Fun(P), Self ! ok end)) || P <- Nodes],
    [receive {'DOWN', R, process, _, Reason} -> normal = Reason end || R <- Refs],
    [receive ok -> ok end || _ <- Refs],
    ok.

steps([], _) -> ok;
steps([F | T], Nodes) ->
    case F() of
        ok -> steps(T, Nodes);
        {failed, What} ->
            io:format("  failed: ~0P~n", [What, 2000]),
            {failed, What}
    end.

%% One to three cuts at random moments, from a random side.
cut(Ms, Nodes) ->
    N = rand:uniform(3),
    lists:foreach(fun(_) ->
                      receive after rand:uniform(max(1, Ms div N)) -> ok end,
                      A = oracle_gen:pick(Nodes),
                      B = oracle_gen:pick(Nodes -- [A]),
                      pt_peer:call(A, erlang, disconnect_node, [pt_peer:node(B)])
                  end, lists:seq(1, N)),
    receive after Ms div 4 -> ok end,
    ok.

%% After the last cut: until both sides of each pair use the same, new connection.
settle(strict, _) -> ok;
settle(brutal, Nodes) ->
    Pairs = [{A, pt_peer:node(B)} || A <- Nodes, B <- Nodes, A =/= B],
    Reached = fun({A, B}) ->
                  try B =:= pt_peer:call(A, erpc, call, [B, erlang, node, [], 10000], 20000)
                  catch _:_ -> false
                  end
              end,
    case pt_peer:wait(fun() -> lists:all(Reached, Pairs) end, ?PATIENCE_MS) of
        true -> ok;
        false -> {failed, nodes_do_not_reconnect}
    end.

wait_idle(Nodes) ->
    Quiet = fun() ->
                0 =:= lists:sum([sum_ints(pt_peer:call(P, oracle_node, idle, [], 120000))
                                 + pt_peer:call(P, oracle_node, live_mortals, []) || P <- Nodes])
            end,
    %% Twice: a request that was on its way between the nodes when the first one was asked.
    case pt_peer:wait(fun() -> broken(Nodes) orelse (Quiet() andalso Quiet()) end,
                      ?PATIENCE_MS + 10000, 50) of
        true -> ok;
        false -> {failed, {signals_missing, blockers(Nodes)}}
    end.

sum_ints(N) when is_integer(N) -> N.

wait_done(Nodes) ->
    Done = fun(P) ->
               #{done := D, hubs := H} = pt_peer:call(P, oracle_node, report, []),
               D =:= H
           end,
    case pt_peer:wait(fun() -> broken(Nodes) orelse lists:all(Done, Nodes) end, ?PATIENCE_MS, 50) of
        true -> ok;
        false -> {failed, {signals_missing, blockers(Nodes)}}
    end.

blockers(Nodes) ->
    [{pt_peer:node(P), pt_peer:call(P, oracle_node, waiting_for, [], 120000)} || P <- Nodes].

disconnect_all(Nodes) ->
    [pt_peer:call(P, erlang, disconnect_node, [pt_peer:node(Q)]) || P <- Nodes, Q <- Nodes, P =/= Q],
    Alone = fun(P) ->
                    [] =:= pt_peer:call(P, erlang, nodes, [])
                        andalso [] =:= pt_peer:call(P, oracle_node, connected, [])
            end,
    case pt_peer:wait(fun() -> lists:all(Alone, Nodes) end, ?PATIENCE_MS) of
        true -> ok;
        false -> {failed, nodes_do_not_disconnect}
    end.

%% ---- report --------------------------------------------------------------------------------

summary(Nodes, Rounds, #{seed := Seed, chaos := Chaos}) ->
    Reports = [pt_peer:call(P, oracle_node, report, []) || P <- Nodes],
    Stats = lists:append([S || #{stats := S} <- Reports]),
    Counts = lists:foldl(fun(#{counts := C}, Acc) ->
                             maps:fold(fun(K, V, A) -> A#{K => V + maps:get(K, A, 0)} end, Acc, C)
                         end, #{}, Stats),
    Sum = fun(K) -> lists:sum([maps:get(K, S, 0) || S <- Stats]) end,
    Biggest = lists:max([0 | [maps:get(biggest, S, 0) || S <- Stats]]),
    Vs = lists:append([violations(P) || P <- Nodes]),
    io:format("signals by kind:~n"),
    [io:format("  ~-20s ~b~n", [K, V]) || {K, V} <- lists:sort(maps:to_list(Counts)),
                                          K =/= violations],
    io:format("bytes ~b, largest message ~b~n", [Sum(bytes), Biggest]),
    {Paused, Refused} = paused(Nodes, Chaos),
    Idle = Chaos andalso pt_peer:carrier() =:= "partisan" andalso Paused =:= 0,
    Failures = [{round, F} || {F, _} <- Rounds, F =/= ok]
        ++ [{chaos_disturbed_no_lane, Refused} || Idle]
        ++ [{in_the_log, L} || L <- bad_news(Nodes)],
    [io:format("violation: ~0p~n", [V]) || V <- lists:sublist(Vs, 20)],
    [io:format("failure: ~s~n", [lists:flatten(io_lib:format("~0P", [F, 60]))]) || F <- Failures],
    [tell_logs(Nodes) || Vs =/= [] orelse Failures =/= []],
    Pairs = Sum(pairs),
    Promised = Sum(promised),
    Kept = Sum(kept),
    Failed = length(Vs) + length(Failures),
    io:format("rounds ~b, pairs checked ~b, promises ~b (kept ~b), signals checked ~b~n",
              [length(Rounds), Pairs, Promised, Kept, maps:get(received, Counts, 0)]),
    io:format("seed ~b: ~b passed, ~b failed~n", [Seed, Pairs + Kept, Failed]),
    {Pairs + Kept, Failed}.

%% Why connections ended, from both ends: what a failure is read with.
tell_logs(Nodes) ->
    [io:format("log of ~s: ~s: ~s~n", [pt_peer:node(P), Level, Text])
     || P <- Nodes, {Level, Text} <- lists:nthtail(max(0, length(pt_peer:logged(P)) - 40),
                                                   pt_peer:logged(P))].

%% What no peer may ever say of another, in a brutal round either: the reasons of
%% pt_strerror (c_src/base/pt.c) that mean a broken protocol.
bad_news(Nodes) ->
    Words = ["malformed frame", "unknown frame type", "out of sequence", "does not fit",
             "larger than the limit", "held back", "ends too early", "failed authentication"],
    [Text || P <- Nodes, {_, Text} <- pt_peer:logged(P), W <- Words,
             string:find(Text, W) =/= nomatch].

paused(_, false) -> {0, 0};
paused(Nodes, true) ->
    L = [pt_peer:call(P, oracle_node, lanes_paused, []) || P <- Nodes],
    {A, R} = {lists:sum([X || {X, _} <- L]), lists:sum([Y || {_, Y} <- L])},
    case pt_peer:carrier() of
        "partisan" -> io:format("lanes paused ~b times (~b refused)~n", [A, R]);
        _ -> io:format("chaos: no lanes to pause with this carrier~n")
    end,
    {A, R}.
