%% The order oracle (test/oracle), short. Longer: test/oracle/run --seconds 600 --chaos, make soak.
-module(order_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([two_nodes/1, three_nodes/1, one_lane/1, many_lanes/1, broken_rule_is_caught/1,
         spawn_reply_before_child/1, reply_before_down/1, down_after_messages/1,
         lane_stands_still/1]).
-export([chaos/1]).

-define(SECONDS, 12).
-define(LARGE, 100000000).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [spawn_reply_before_child, reply_before_down, down_after_messages, lane_stands_still, two_nodes, three_nodes,
     one_lane, many_lanes, broken_rule_is_caught].

%% The oracle's modules are not in this directory: compile them, for this node and for the others.
init_per_suite(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "oracle"),
    ok = filelib:ensure_path(Dir),
    Src = proplists:get_value(source, ?MODULE:module_info(compile)),
    Test = filename:dirname(filename:dirname(filename:absname(Src))),
    [{ok, _} = compile:file(F, [debug_info, {outdir, Dir}, report])
     || F <- filelib:wildcard(filename:join([Test, "oracle", "*.erl"]))],
    true = code:add_patha(Dir),
    [{oracle_dir, Dir} | Config].

end_per_suite(Config) ->
    code:del_path(proplists:get_value(oracle_dir, Config)),
    ok.

two_nodes(Config) -> passes(Config, #{nodes => 2, lanes => 4}).
three_nodes(Config) -> passes(Config, #{nodes => 3, lanes => 4, hubs => 3}).
one_lane(Config) -> passes(Config, #{nodes => 2, lanes => 1, seconds => 6}).
many_lanes(Config) -> passes(Config, #{nodes => 2, lanes => 16, seconds => 6}).

passes(Config, Opts) ->
    {Passed, Failed} = oracle(Config, Opts),
    ?assertEqual(0, Failed),
    ?assert(Passed > 100).

oracle(Config, Opts) ->
    Dir = proplists:get_value(oracle_dir, Config),
    All = maps:merge(#{seconds => ?SECONDS, chaos => true}, Opts),
    oracle:run(All#{args => ["-pa", Dir]}).

%% With a receiver that ignores whom a message must follow, the oracle must see it.
broken_rule_is_caught(Config) ->
    case pt_peer:carrier() of
        "partisan" ->
            %% it ends with the first that is seen, most often in the first round of three seconds
            {_, Failed} = oracle(Config, #{nodes => 2, lanes => 4, rounds => [strict], seconds => 90,
                                           env => [{"PARTISAN_TEST_BREAK_ORDER", "1"}]}),
            ?assert(Failed > 0);
        Other ->
            {skip, "no rule to break in " ++ Other}
    end.

%% ---- the classical holes, one by one -------------------------------------------------------
%% Rows of the table in docs/ordering.md whose order is easy to get wrong with several lanes. Lanes
%% are disturbed all the time.

spawn_reply_before_child(_) ->
    rounds(fun(Node) ->
               Me = self(),
               Pad = rand:bytes(rand:uniform(200000)),
               Id = erlang:spawn_request(Node, fun() -> Me ! {child, self(), Pad}, exit({end_, Pad}) end,
                                         [link, monitor]),
               {spawn_reply, Id, ok, P} = next(),
               {child, P, Pad} = next(),
               ok = down_and_exit(next(), next(), Id, P, {end_, Pad})
           end).

%% A server that replies through the alias and dies: DOWN must not overtake the reply, with the
%% monitor by pid and by name.
reply_before_down(_) ->
    rounds(fun(Node) ->
               Me = self(),
               Name = list_to_atom("server_" ++ integer_to_list(rand:uniform(100000))),
               Pad = rand:bytes(rand:uniform(150000)),
               Server = spawn(Node, fun() ->
                                        register(Name, self()),
                                        Me ! ready,
                                        receive {call, From, Alias} ->
                                            {nobody_at_all, From} ! lost,
                                            Alias ! {reply, Pad}
                                        end
                                    end),
               ready = next(),
               ByName = monitor(process, {Name, Node}),
               ByPid = monitor(process, Server, [{alias, explicit_unalias}]),
               {Name, Node} ! {call, node(), ByPid},
               {reply, Pad} = next(),
               Downs = lists:sort([next(), next()]),
               true = Downs =:= lists:sort([{'DOWN', ByName, process, {Name, Node}, normal},
                                            {'DOWN', ByPid, process, Server, normal}]),
               unalias(ByPid),
               ok
           end).

%% A mix of pid, name and alias to one receiver, a group leader change among them, then death.
down_after_messages(_) ->
    rounds(fun(Node) ->
               Me = self(),
               Name = down_after_messages_receiver,
               whereis(Name) =:= undefined andalso register(Name, self()),
               Alias = alias(),
               Pad = rand:bytes(rand:uniform(100000)),
               {P, Ref} = spawn_monitor(Node, fun() ->
                              [case I rem 4 of
                                   0 -> Me ! {I, Pad};
                                   1 -> {Name, node(Me)} ! {I, Pad};
                                   2 -> Alias ! {I, <<>>};
                                   3 -> exit(Me, {I, Pad})
                               end || I <- lists:seq(1, 12)]
                          end),
               [case {I rem 4, next()} of
                    {3, {'EXIT', P, {I, Pad}}} -> ok;
                    {2, {I, <<>>}} -> ok;
                    {X, {I, Pad}} when X =/= 3 -> ok;
                    {_, Other} -> error({wrong, I, Other})
                end || I <- lists:seq(1, 12)],
               {'DOWN', Ref, process, P, normal} = next(),
               unalias(Alias),
               ok
           end).

%% One lane stops for a while, in either direction, under large messages that use all lanes (as with
%% a lost packet on it): they wait, they arrive, the connection stays.
lane_stands_still(_) ->
    Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start", "4"]},
    [A, B] = Peers = [pt_peer:start(ord, Args), pt_peer:start(ord, Args)],
    [pt_peer:log_start(P) || P <- Peers],
    pt_peer:connect(A, B),
    [NA, NB] = [pt_peer:node(P) || P <- Peers],
    [begin
         C = pt_peer:spawn_collector(B),
         D = pt_peer:call(A, erlang, apply,
                          [fun() ->
                               spawn_link(fun() -> receive go -> ok end,
                                                   [C ! {I, binary:copy(<<I>>, ?LARGE)}
                                                    || I <- lists:seq(1, 3)]
                                          end)
                           end, []]),
         {Where, Peer} = case What of 1 -> {A, NB}; 3 -> {B, NA} end,
         %% Sockets that have carried much have large buffers: more can be missing in between.
         pt_peer:call(A, erlang, apply,
                      [fun() -> [erpc:call(NB, erlang, byte_size, [binary:copy(<<I>>, 30000000)])
                                 || I <- lists:seq(1, 5)], ok end, []]),
         test_verb(Where, Peer, What, Lane),
         pt_peer:call(A, erlang, apply, [fun() -> unlink(D), D ! go, ok end, []]),
         receive after 1000 -> ok end,
         test_verb(Where, Peer, What + 1, Lane),
         Intact = fun() ->
                      [X =:= binary:copy(<<I>>, ?LARGE) || {I, X} <- collected(C)]
                  end,
         ?assert(pt_peer:wait(fun() ->
                                  [true, true, true] =:= pt_peer:call(B, erlang, apply, [Intact, []])
                              end, 60000, 100))
     end || What <- [1, 3], Lane <- [0, 2]],
    ?assertEqual([], [L || P <- Peers, {_, L} <- pt_peer:logged(P), string:find(L, "lost") =/= nomatch]),
    [pt_peer:stop(P) || P <- Peers].

collected(C) ->
    Ref = make_ref(),
    C ! {pt_collected, self(), Ref},
    receive {Ref, L} -> L end.

test_verb(P, Peer, What, Lane) ->
    pt_peer:call(P, erlang, apply,
                 [fun() ->
                      Port = pt_peer:dist_port(Peer),
                      pt_peer:is_partisan_port(Port) andalso
                          erlang:port_control(Port, 6, <<What:8, Lane:8, 0:32>>)
                  end, []]).

down_and_exit({'DOWN', Id, process, P, R}, {'EXIT', P, R}, Id, P, R) -> ok;
down_and_exit({'EXIT', P, R}, {'DOWN', Id, process, P, R}, Id, P, R) -> ok;
down_and_exit(A, B, _, _, _) -> error({wrong, A, B}).

%% The next signal, whatever it is: order is the point.
next() -> receive M -> M after 60000 -> error(nothing_came) end.

rounds(Fun) ->
    Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start", "4"]},
    [A, B] = Peers = [pt_peer:start(ord, Args), pt_peer:start(ord, Args)],
    pt_peer:connect(A, B),
    NB = pt_peer:node(B),
    ok = pt_peer:call(A, erlang, apply,
                      [fun() ->
                           process_flag(trap_exit, true),
                           Chaos = [spawn(N, ?MODULE, chaos, [I]) || N <- [node(), NB], I <- [1, 2]],
                           [ok = Fun(NB) || _ <- lists:seq(1, 300)],
                           receive X -> error({left_over, X}) after 100 -> ok end,
                           [exit(C, kill) || C <- Chaos],
                           ok
                       end, []], 200000),
    [pt_peer:stop(P) || P <- Peers].

chaos(I) ->
    rand:seed(exsss, {I, erlang:phash2(node()), 1}),
    chaos_loop().

%% A pause of a few milliseconds for one lane; over inet_tcp there is nothing to pause.
chaos_loop() ->
    Ports = [P || {_, P} <- erlang:system_info(dist_ctrl), is_port(P), pt_peer:is_partisan_port(P)],
    Lane = rand:uniform(4) - 1,
    What = case rand:uniform(2) of 1 -> 1; 2 -> 3 end,
    [begin
         lane_hook(P, What, Lane),
         receive after rand:uniform(4) -> ok end,
         lane_hook(P, What + 1, Lane)
     end || P <- Ports],
    receive after rand:uniform(4) -> chaos_loop() end.

%% The connection may have ended meanwhile.
lane_hook(Port, What, Lane) ->
    try erlang:port_control(Port, 6, <<What:8, Lane:8, 0:32>>) catch error:badarg -> ended end.
