%% Everything that Erlang distribution does, over the carrier (CARRIER=inet_tcp: over stock, as a
%% control). One case an item.
-module(transparency_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("kernel/include/net_address.hrl").

-export([all/0, suite/0]).
-export([sends/1, links/1, monitors/1, large_exit_reasons/1, exit_signals/1, spawn_request/1,
         erpc_and_rpc/1, group_leaders/1, connect_disconnect/1, hidden_nodes/1, dynamic_names/1,
         dist_listen_false/1, cookies/1, monitor_nodes_options/1, ticktime_idle/1,
         ticktime_change/1, socket_options/1, statistics/1, listen_range/1, use_interface/1,
         listen_connect_options/1, dist_nodelay/1, net_setuptime/1, erl_epmd_port/1,
         epmd_module/1, ipv6/1, global_names/1, pg_groups/1, mnesia_tables/1, remote_shell/1,
         short_names/1]).

-import(pt_pair, [do/2, do_on/3, free_port/0, ipv6_opts/0, listen_port/1, monitor_nodes/2,
         nodes_of/2, nothing_left/0, on/2, pair/0, pair/2, stop/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [sends, links, monitors, large_exit_reasons, exit_signals, spawn_request, erpc_and_rpc,
     group_leaders, connect_disconnect, hidden_nodes, dynamic_names, dist_listen_false, cookies,
     monitor_nodes_options, ticktime_idle, ticktime_change, socket_options, statistics,
     listen_range, use_interface, listen_connect_options, dist_nodelay, net_setuptime,
     erl_epmd_port, epmd_module, ipv6, global_names, pg_groups, mnesia_tables, remote_shell,
     short_names].

%% ---- signals -------------------------------------------------------------------------------

sends(_) ->
    {A, B} = pair(),
    C = pt_peer:spawn_collector(B),
    Node = pt_peer:node(B),
    Alias = on(B, fun() -> register(sends, C), do(C, fun() -> erlang:alias() end) end),
    Big = rand:bytes(3000000),
    on(A, fun() ->
              C ! {pid, Big},
              {sends, Node} ! {name, Big},
              Alias ! {alias, Big},
              erlang:send(C, tail),
              gen_server:cast({sends, Node}, cast)
          end),
    %% looked at where it is: megabytes take their time on the way to the test
    Expected = [{pid, Big}, {name, Big}, {alias, Big}, tail, {'$gen_cast', cast}],
    Hash = erlang:phash2(Expected),
    Got = fun() -> on(B, fun() -> Ref = make_ref(),
                                  C ! {pt_collected, self(), Ref},
                                  receive {Ref, L} -> {length(L), erlang:phash2(L)} end
                         end) end,
    ?assert(pt_peer:wait(fun() -> element(1, Got()) >= 5 end)),
    ?assertEqual({5, Hash}, Got()),
    do_on(B, C, fun() -> erlang:unalias(Alias) end),
    on(A, fun() -> Alias ! late, C ! last end),
    ?assert(pt_peer:wait(fun() -> element(1, Got()) >= 6 end)),
    ?assertEqual({6, erlang:phash2(Expected ++ [last])}, Got()),
    stop([A, B]).

links(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
                   process_flag(trap_exit, true),
                   P1 = spawn_link(Node, fun() -> receive die -> exit(because) end end),
                   P1 ! die,
                   receive {'EXIT', P1, because} -> ok end,
                   P2 = spawn(Node, fun() -> receive die -> exit(because) end end),
                   link(P2),
                   unlink(P2),
                   P2 ! die,
                   R2 = monitor(process, P2),
                   receive {'DOWN', R2, _, _, Why} -> true = Why =:= because orelse Why =:= noproc end,
                   receive {'EXIT', P2, _} -> error(exit_after_unlink) after 0 -> ok end,
                   link(P2),
                   receive {'EXIT', P2, noproc} -> ok end,
                   %% both directions: a remote process that does not trap exits dies with us
                   Me = self(),
                   P3 = spawn(Node, fun() -> receive never -> ok end end),
                   R3 = monitor(process, P3),
                   spawn(fun() -> link(P3), Me ! linked, exit(gone) end),
                   receive {'DOWN', R3, _, _, gone} -> ok end
               end),
    stop([A, B]).

monitors(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
                   Me = self(),
                   P = spawn(Node, fun() ->
                                       register(monitored, self()),
                                       Me ! ready,
                                       receive die -> exit(because) end
                                   end),
                   receive ready -> ok end,
                   R1 = monitor(process, P),
                   R2 = monitor(process, {monitored, Node}),
                   R3 = monitor(process, P, [{tag, mine}]),
                   R4 = monitor(process, P),
                   demonitor(R4),
                   R5 = monitor(process, {nobody_has_this_name, Node}),
                   receive {'DOWN', R5, process, {nobody_has_this_name, Node}, noproc} -> ok end,
                   P ! die,
                   receive {'DOWN', R1, process, P, because} -> ok end,
                   receive {'DOWN', R2, process, {monitored, Node}, because} -> ok end,
                   receive {mine, R3, process, P, because} -> ok end,
                   R6 = monitor(process, P),
                   receive {'DOWN', R6, process, P, noproc} -> ok end,
                   nothing_left()
               end),
    stop([A, B]).

large_exit_reasons(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    [ok = on(A, fun() ->
                    process_flag(trap_exit, true),
                    Me = self(),
                    Reason = {Size, rand:bytes(Size), lists:seq(1, Size div 100)},
                    {P, R} = spawn_opt(Node, fun() ->
                                                 register(large, self()),
                                                 Me ! ready,
                                                 receive {die, X} -> exit(X) end
                                             end, [link, monitor]),
                    receive ready -> ok end,
                    N = monitor(process, {large, Node}),
                    P ! {die, Reason},
                    receive {'EXIT', P, Reason} -> ok end,
                    receive {'DOWN', R, process, P, Reason} -> ok end,
                    receive {'DOWN', N, process, {large, Node}, Reason} -> ok end,
                    nothing_left()
                end) || Size <- [10, 64000, 65536, 200000, 5000000]],
    stop([A, B]).

exit_signals(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
                   Me = self(),
                   Trap = spawn(Node, fun() ->
                                          process_flag(trap_exit, true),
                                          Me ! ready,
                                          receive X -> Me ! {got, X} end
                                      end),
                   receive ready -> ok end,
                   Reason = {big, rand:bytes(1000000)},
                   exit(Trap, Reason),
                   receive {got, {'EXIT', Me, Reason}} -> ok end,
                   {P, R} = spawn_monitor(Node, fun() -> receive never -> ok end end),
                   exit(P, normal),
                   exit(P, stopped),
                   receive {'DOWN', R, _, _, stopped} -> ok end,
                   {P2, R2} = spawn_monitor(Node, fun() -> process_flag(trap_exit, true),
                                                           Me ! ready,
                                                           receive never -> ok end end),
                   receive ready -> ok end,
                   exit(P2, kill),
                   receive {'DOWN', R2, _, _, killed} -> ok end,
                   nothing_left()
               end),
    stop([A, B]).

spawn_request(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
                   Me = self(),
                   [begin
                        Id = erlang:spawn_request(Node, fun() -> Me ! {child, self()}, exit(done) end,
                                                  [monitor, {reply_tag, {tag, I}}]),
                        %% the spawn reply, then the child's message, then its DOWN
                        P = receive M1 -> {{tag, I}, Id, ok, P0} = M1, P0 end,
                        receive M2 -> {child, P} = M2 end,
                        receive M3 -> {'DOWN', Id, process, P, done} = M3 end
                    end || I <- lists:seq(1, 200)],
                   Id1 = erlang:spawn_request(Node, no_such_module_at_all, f, [], []),
                   receive {spawn_reply, Id1, ok, _} -> ok end,
                   Id2 = erlang:spawn_request(Node, erlang, self, [], [bad_option_name]),
                   receive {spawn_reply, Id2, error, badopt} -> ok end,
                   Id3 = erlang:spawn_request('no_such_node@127.0.0.1', erlang, self, [], []),
                   receive {spawn_reply, Id3, error, noconnection} -> ok end,
                   %% the arguments may be large
                   Big = rand:bytes(2000000),
                   {P4, R4} = spawn_monitor(Node, erlang, exit, [Big]),
                   receive {'DOWN', R4, process, P4, Big} -> ok end,
                   nothing_left()
               end),
    stop([A, B]).

erpc_and_rpc(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
                   Node = erpc:call(Node, erlang, node, []),
                   Big = rand:bytes(2000000),
                   Big = erpc:call(Node, fun() -> Big end),
                   {exception, oops, _} =
                       try erpc:call(Node, fun() -> error(oops) end) catch error:Why1 -> Why1 end,
                   {erpc, timeout} =
                       try erpc:call(Node, timer, sleep, [infinity], 50) catch error:Why2 -> Why2 end,
                   Ids = [erpc:send_request(Node, fun() -> I * I end) || I <- lists:seq(1, 100)],
                   Squares = [erpc:receive_response(Id) || Id <- Ids],
                   Squares = [I * I || I <- lists:seq(1, 100)],
                   Node = rpc:call(Node, erlang, node, []),
                   {[N1, N2], []} = rpc:multicall([node(), Node], erlang, node, []),
                   [] = [N1, N2] -- [node(), Node],
                   {badrpc, nodedown} = rpc:call('no_such_node@127.0.0.1', erlang, node, []),
                   Key = rpc:async_call(Node, erlang, node, []),
                   Node = rpc:yield(Key),
                   ok
               end),
    stop([A, B]).

group_leaders(_) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    %% io of a process spawned on B goes to the group leader on A; a changed one is used at once
    "hello there" =
        on(A, fun() ->
                  Gl = spawn(fun() -> io_server([]) end),
                  group_leader(Gl, self()),
                  erpc:call(Node, fun() -> io:put_chars("hello") end),
                  Me = self(),
                  P = spawn(Node, fun() ->
                                      receive go -> io:put_chars(" there"), Me ! done end
                                  end),
                  Other = spawn(fun() -> io_server([]) end),
                  group_leader(Other, P),
                  P ! go,
                  receive done -> ok end,
                  text(Gl) ++ text(Other)
              end),
    stop([A, B]).

io_server(Acc) ->
    receive
        {io_request, From, Ref, {put_chars, _, Chars}} ->
            From ! {io_reply, Ref, ok},
            io_server([Acc, unicode:characters_to_list(Chars)]);
        {io_request, From, Ref, {put_chars, _, M, F, Args}} ->
            From ! {io_reply, Ref, ok},
            io_server([Acc, unicode:characters_to_list(apply(M, F, Args))]);
        {text, From} -> From ! {text, self(), lists:flatten(Acc)}
    end.

text(Pid) ->
    Pid ! {text, self()},
    receive {text, Pid, T} -> T end.

%% ---- connections ---------------------------------------------------------------------------

connect_disconnect(_) ->
    %% Nobody connects but the test: global would, right after a nodeup, with messages of its own, and so
    %% would rpc's server, which asks its like at each new node for features (OTP 25).
    Alone = #{args => ["-connect_all", "false", "-kernel", "dist_auto_connect", "never"]},
    {A, B} = nodes_of(Alone, Alone),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    C = monitor_nodes(A, []),
    D = monitor_nodes(B, []),
    [begin
         true = pt_peer:call(A, net_kernel, connect_node, [NB]),
         ?assert(pt_peer:wait(fun() -> pt_peer:connected(A, B) end)),
         true = pt_peer:call(A, erlang, disconnect_node, [NB]),
         ?assert(pt_peer:wait(fun() -> [] =:= pt_peer:call(B, erlang, nodes, []) end))
     end || _ <- lists:seq(1, 10)],
    Expect = fun(N) -> lists:append(lists:duplicate(10, [{nodeup, N}, {nodedown, N}])) end,
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, C)) >= 20 end)),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(B, D)) >= 20 end)),
    ?assertEqual(Expect(NB), pt_peer:collected(A, C)),
    ?assertEqual(Expect(NA), pt_peer:collected(B, D)),
    ?assertEqual(false, pt_peer:call(A, net_kernel, connect_node, ['no_such_node@127.0.0.1'])),
    ?assertEqual(false, pt_peer:call(A, erlang, disconnect_node, [NB])),
    stop([A, B]).

hidden_nodes(_) ->
    {A, B} = nodes_of(#{}, #{args => ["-hidden"]}),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    true = pt_peer:call(B, net_kernel, connect_node, [NA]),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(A, erlang, nodes, [hidden]) =:= [NB] end)),
    ?assertEqual([], pt_peer:call(A, erlang, nodes, [])),
    ?assertEqual([NA], pt_peer:call(B, erlang, nodes, [hidden])),
    ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
    stop([A, B]).

dynamic_names(_) ->
    %% Short names need no domain name of this machine.
    A = pt_peer:start(tr, #{longnames => false}),
    NA = pt_peer:node(A),
    B = pt_peer:start(tr, #{name => none, args => ["-sname", "undefined"]}),
    ?assertEqual(nonode@nohost, pt_peer:call(B, erlang, node, [])),
    true = pt_peer:call(B, net_kernel, connect_node, [NA]),
    NB = pt_peer:call(B, erlang, node, []),
    ?assertNotEqual(nonode@nohost, NB),
    ?assert(pt_peer:wait(fun() -> lists:member(NB, pt_peer:call(A, erlang, nodes, [connected])) end)),
    ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
    Big = rand:bytes(1000000),
    ?assertEqual(Big, on(B, fun() -> erpc:call(NA, fun() -> Big end) end)),
    stop([A, B]).

dist_listen_false(_) ->
    {A, B} = nodes_of(#{}, #{args => ["-dist_listen", "false"]}),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    true = pt_peer:call(B, net_kernel, connect_node, [NA]),
    ?assert(pt_peer:wait(fun() -> lists:member(NB, pt_peer:call(A, erlang, nodes, [connected])) end)),
    Big = rand:bytes(1000000),
    ?assertEqual(Big, on(B, fun() -> erpc:call(NA, fun() -> Big end) end)),
    ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    ?assertNot(lists:keymember(hd(string:lexemes(atom_to_list(NB), "@")), 1, Names)),
    stop([A, B]).

cookies(_) ->
    Alone = ["-connect_all", "false"], % nobody connects but the test
    {A, B} = nodes_of(#{cookie => "pt_left", args => Alone}, #{cookie => "pt_right", args => Alone}),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    [pt_peer:log_start(P) || P <- [A, B]],
    ?assertEqual(false, pt_peer:call(A, net_kernel, connect_node, [NB])),
    ?assertEqual(false, pt_peer:call(B, net_kernel, connect_node, [NA])),
    %% The side that refuses may still be ending that attempt, and connect_node/1 would join it.
    [?assert(pt_peer:wait(fun() -> pt_peer:alone(P) end)) || P <- [A, B]],
    true = pt_peer:call(A, erlang, set_cookie, [NB, pt_right]),
    pt_peer:connect(A, B),
    pt_peer:disconnect(A, B),
    pt_peer:connect(B, A),
    ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
    stop([A, B]).

monitor_nodes_options(_) ->
    %% Nobody connects but the test.
    Alone = #{args => ["-connect_all", "false", "-kernel", "dist_auto_connect", "never"]},
    {A, B} = nodes_of(Alone, Alone),
    H = pt_peer:start(tr, #{args => ["-hidden"]}),
    [NA, NB, NH] = [pt_peer:node(P) || P <- [A, B, H]],
    Plain = monitor_nodes(A, default),
    All = monitor_nodes(A, [{node_type, all}, nodedown_reason]),
    Hid = monitor_nodes(A, #{node_type => hidden}),
    Map = monitor_nodes(A, #{node_type => visible, connection_id => true, nodedown_reason => true}),
    true = pt_peer:call(A, net_kernel, connect_node, [NB]),
    true = pt_peer:call(H, net_kernel, connect_node, [NA]),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, All)) =:= 2 end)),
    pt_peer:disconnect(A, B),
    pt_peer:kill(H),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, All)) =:= 4 end)),
    [?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, C)) =:= 2 end)) || C <- [Hid, Plain, Map]],
    ?assertEqual([{nodeup, NB}, {nodedown, NB}], pt_peer:collected(A, Plain)),
    ?assertMatch([{nodeup, NB, #{node_type := visible, connection_id := I}},
                  {nodedown, NB, #{node_type := visible, connection_id := I,
                                   nodedown_reason := disconnect}}],
                 pt_peer:collected(A, Map)),
    ?assertMatch([{nodeup, NH, #{node_type := hidden}}, {nodedown, NH, #{node_type := hidden}}],
                 pt_peer:collected(A, Hid)),
    Seen = pt_peer:collected(A, All),
    Opts = fun(What, N) -> [lists:sort(O) || {W, M, O} <- Seen, W =:= What, M =:= N] end,
    ?assertEqual([[{node_type, visible}]], Opts(nodeup, NB)),
    ?assertEqual([[{node_type, hidden}]], Opts(nodeup, NH)),
    ?assertEqual([[{node_type, visible}, {nodedown_reason, disconnect}]]
                 , [lists:sort(O) || O <- Opts(nodedown, NB)]),
    ?assertEqual([[{node_type, hidden}, {nodedown_reason, connection_closed}]], Opts(nodedown, NH)),
    stop([A, B]).

%% ---- ticks ---------------------------------------------------------------------------------

ticktime_idle(_) ->
    Args = ["-kernel", "net_ticktime", "6"],
    {A, B} = pair(#{args => Args}, #{args => Args}),
    C = monitor_nodes(A, []),
    ?assertEqual(6, pt_peer:call(A, net_kernel, get_net_ticktime, [])),
    %% Nothing to say for longer than the 1.25 tick times after which a silent peer is given up: the
    %% connection must stay.
    receive after 9000 -> ok end,
    ?assertEqual([], pt_peer:collected(A, C)),
    ?assert(pt_peer:connected(A, B)),
    stop([A, B]).

ticktime_change(_) ->
    {A, B} = pair(),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    change_initiated = pt_peer:call(A, net_kernel, set_net_ticktime, [4, 3]),
    change_initiated = pt_peer:call(B, net_kernel, set_net_ticktime, [4, 3]),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(A, net_kernel, get_net_ticktime, []) =:= 4 end)),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(B, net_kernel, get_net_ticktime, []) =:= 4 end)),
    C = monitor_nodes(A, [nodedown_reason]),
    receive after 6000 -> ok end,
    ?assertEqual([], pt_peer:collected(A, C)),
    ?assert(lists:member(NA, pt_peer:call(B, erlang, nodes, []))),
    %% The new time is in force: a frozen peer is given up soon.
    pt_peer:sigstop(B),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, C) =/= [] end)),
    ?assertEqual([{nodedown, NB, [{nodedown_reason, net_tick_timeout}]}], pt_peer:collected(A, C)),
    pt_peer:sigcont(B),
    stop([A, B]).

%% ---- sockets -------------------------------------------------------------------------------

socket_options(_) ->
    Alone = #{args => ["-connect_all", "false"]}, % nobody connects but the test
    {A, B} = pair(Alone, Alone),
    NB = pt_peer:node(B),
    ?assertEqual({ok, [{nodelay, true}]}, pt_peer:call(A, net_kernel, getopts, [NB, [nodelay]])),
    ok = pt_peer:call(A, net_kernel, setopts, [NB, [{priority, 3}]]),
    ?assertEqual({ok, [{priority, 3}]}, pt_peer:call(A, net_kernel, getopts, [NB, [priority]])),
    ok = pt_peer:call(A, net_kernel, setopts, [NB, [{nodelay, false}]]),
    ?assertEqual({ok, [{nodelay, false}]}, pt_peer:call(A, net_kernel, getopts, [NB, [nodelay]])),
    ?assertMatch({ok, [{sndbuf, _}, {recbuf, _}]},
                 pt_peer:call(A, net_kernel, getopts, [NB, [sndbuf, recbuf]])),
    ?assertEqual({error, noconnection},
                 pt_peer:call(A, net_kernel, getopts, ['no_such_node@127.0.0.1', [nodelay]])),
    %% `new`: for connections to come, both listening and connecting
    ok = pt_peer:call(A, net_kernel, setopts, [new, [{priority, 2}]]),
    pt_peer:disconnect(A, B),
    pt_peer:connect(A, B),
    ?assertEqual({ok, [{priority, 2}]}, pt_peer:call(A, net_kernel, getopts, [NB, [priority]])),
    ?assertEqual(pong, on(A, fun() -> net_adm:ping(NB) end)),
    stop([A, B]).

statistics(_) ->
    {A, B} = pair(),
    NB = pt_peer:node(B),
    C = pt_peer:spawn_collector(B),
    Stat = fun() ->
               {ok, Info} = pt_peer:call(A, net_kernel, node_info, [NB]),
               Info
           end,
    Before = Stat(),
    on(A, fun() -> [C ! N || N <- lists:seq(1, 100)] end),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(B, C)) =:= 100 end)),
    ?assert(pt_peer:wait(fun() ->
                             proplists:get_value(out, Stat()) >= proplists:get_value(out, Before) + 100
                         end)),
    After = Stat(),
    ?assertEqual(up, proplists:get_value(state, After)),
    ?assertEqual(normal, proplists:get_value(type, After)),
    ?assertMatch(#net_address{address = {{127, 0, 0, 1}, Port}, host = "127.0.0.1", protocol = tcp,
                              family = inet} when is_integer(Port),
                 proplists:get_value(address, After)),
    ?assertMatch({ok, [{NB, _}]}, pt_peer:call(A, net_kernel, nodes_info, [])),
    stop([A, B]).

listen_range(_) ->
    Port = free_port(),
    Args = ["-kernel", "inet_dist_listen_min", integer_to_list(Port),
            "inet_dist_listen_max", integer_to_list(Port)],
    {A, B} = nodes_of(#{args => Args}, #{}),
    ?assertEqual(Port, listen_port(A)),
    pt_peer:connect(B, A),
    stop([A, B]).

use_interface(_) ->
    Args = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"],
    {A, B} = nodes_of(#{args => Args}, #{}),
    Other = {127, 0, 0, 2},
    ?assertEqual({error, econnrefused}, gen_tcp:connect(Other, listen_port(A), [], 20000)),
    {ok, S} = gen_tcp:connect(Other, listen_port(B), [], 20000),
    gen_tcp:close(S),
    pt_peer:connect(B, A),
    stop([A, B]).

listen_connect_options(_) ->
    Args = ["-kernel", "inet_dist_listen_options", "[{priority,1}]",
            "inet_dist_connect_options", "[{priority,2}]"],
    {A, B} = pair(#{args => Args}, #{args => Args}),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    ?assertEqual({ok, [{priority, 2}]}, pt_peer:call(A, net_kernel, getopts, [NB, [priority]])),
    ?assertEqual({ok, [{priority, 1}]}, pt_peer:call(B, net_kernel, getopts, [NA, [priority]])),
    stop([A, B]).

dist_nodelay(_) ->
    {A, B} = pair(#{args => ["-kernel", "dist_nodelay", "false"]}, #{}),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    ?assertEqual({ok, [{nodelay, false}]}, pt_peer:call(A, net_kernel, getopts, [NB, [nodelay]])),
    ?assertEqual({ok, [{nodelay, true}]}, pt_peer:call(B, net_kernel, getopts, [NA, [nodelay]])),
    stop([A, B]).

net_setuptime(_) ->
    %% Somebody who accepts and never says a word.
    {ok, L} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}, {active, false}]),
    {ok, Port} = inet:port(L),
    A = pt_peer:start(tr, #{name => "tr_setup_" ++ integer_to_list(free_port()),
                            args => ["-kernel", "net_setuptime", "2", "-start_epmd", "false",
                                     "-epmd_module", "pt_noepmd"]}),
    Deaf = list_to_atom("deaf_" ++ integer_to_list(Port) ++ "@127.0.0.1"),
    {Us, false} = timer:tc(fun() -> pt_peer:call(A, net_kernel, connect_node, [Deaf]) end),
    ?assert(Us >= 1500000, Us),
    ?assert(Us =< 30000000, Us), % for ever without it
    gen_tcp:close(L),
    stop([A]).

erl_epmd_port(_) ->
    %% One port for the whole system: each node has an address of its own.
    Port = integer_to_list(free_port()),
    Opts = fun(Host) ->
               #{host => Host,
                 args => ["-start_epmd", "false", "-erl_epmd_port", Port, "-kernel",
                          "inet_dist_use_interface", "{" ++ lists:flatten(string:replace(Host, ".", ",", all)) ++ "}"]}
           end,
    {A, B} = nodes_of(Opts("127.0.0.1"), Opts("127.0.0.2")),
    true = pt_peer:call(A, net_kernel, connect_node, [pt_peer:node(B)]),
    ?assert(pt_peer:wait(fun() -> pt_peer:connected(A, B) end)),
    NB = pt_peer:node(B),
    ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
    stop([A, B]).

epmd_module(_) ->
    Opts = fun() -> #{name => "tr_epmd_" ++ integer_to_list(free_port()),
                      args => ["-start_epmd", "false", "-epmd_module", "pt_noepmd"]} end,
    {A, B} = nodes_of(Opts(), Opts()),
    NB = pt_peer:node(B),
    pt_peer:connect(A, B),
    ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
    stop([A, B]).

ipv6(_) ->
    case ipv6_opts() of
        [] ->
            {skip, this_machine_has_no_ipv6_loopback};
        [Opts] ->
            {A, B} = pair(Opts, Opts),
            NB = pt_peer:node(B),
            {ok, Info} = pt_peer:call(A, net_kernel, node_info, [NB]),
            ?assertMatch(#net_address{address = {{0, 0, 0, 0, 0, 0, 0, 1}, _}},
                         proplists:get_value(address, Info)),
            Big = rand:bytes(1000000),
            ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
            stop([A, B])
    end.

short_names(_) ->
    {ok, Host} = inet:gethostname(),
    case inet:getaddr(Host, inet) of
        {error, Why} -> {skip, {this_machine_does_not_resolve_its_own_name, Host, Why}};
        {ok, _} ->
            {A, B} = pair(#{longnames => false}, #{longnames => false}),
            NB = pt_peer:node(B),
            ?assertEqual(NB, on(A, fun() -> erpc:call(NB, erlang, node, []) end)),
            stop([A, B])
    end.

%% ---- what is built on it -------------------------------------------------------------------

global_names(_) ->
    {A, B} = pair(),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    C = pt_peer:spawn_collector(A),
    on(A, fun() -> ok = global:sync(), yes = global:register_name(somebody, C) end),
    ?assert(pt_peer:wait(fun() -> is_pid(pt_peer:call(B, global, whereis_name, [somebody])) end)),
    on(B, fun() -> global:send(somebody, hello) end),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, C) =:= [hello] end)),
    ok = on(B, fun() ->
                   global:trans({lock, self()}, fun() -> ok end, [NA, NB], 5)
               end),
    on(A, fun() -> exit(C, kill) end),
    ?assert(pt_peer:wait(fun() -> undefined =:= pt_peer:call(B, global, whereis_name, [somebody]) end)),
    stop([A, B]).

pg_groups(_) ->
    {A, B} = pair(),
    [on(P, fun() -> {ok, Pg} = pg:start_link(), unlink(Pg), ok end) || P <- [A, B]],
    C = pt_peer:spawn_collector(A),
    on(A, fun() -> ok = pg:join(group, C) end),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:call(B, pg, get_members, [group])) =:= 1 end)),
    on(B, fun() -> [P ! hello || P <- pg:get_members(group)] end),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, C) =:= [hello] end)),
    pt_peer:disconnect(A, B),
    ?assert(pt_peer:wait(fun() -> [] =:= pt_peer:call(B, pg, get_members, [group]) end)),
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:call(B, pg, get_members, [group])) =:= 1 end)),
    stop([A, B]).

mnesia_tables(_) ->
    {A, B} = pair(),
    Nodes = [pt_peer:node(P) || P <- [A, B]],
    [ok = on(P, fun() -> mnesia:start() end) || P <- [A, B]],
    [NA, NB] = Nodes,
    {ok, [NB]} = pt_peer:call(A, mnesia, change_config, [extra_db_nodes, [NB]]),
    {atomic, ok} = pt_peer:call(A, mnesia, create_table,
                                [pairs, [{ram_copies, Nodes}, {attributes, [k, v]}]]),
    Big = rand:bytes(500000),
    {atomic, ok} = on(A, fun() ->
                             mnesia:transaction(fun() ->
                                 [mnesia:write({pairs, I, {I, Big}}) || I <- lists:seq(1, 20)], ok
                             end)
                         end),
    {atomic, {NA, Sum}} = on(B, fun() ->
                              mnesia:transaction(fun() ->
                                  {NA, lists:sum([begin
                                                      [{pairs, I, {I, Big}}] = mnesia:read(pairs, I), I
                                                  end || I <- lists:seq(1, 20)])}
                              end)
                          end),
    ?assertEqual(210, Sum),
    ?assertEqual([20, 20], [pt_peer:call(P, mnesia, table_info, [pairs, size]) || P <- [A, B]]),
    stop([A, B]).

remote_shell(_) ->
    A = pt_peer:start(tr, #{}),
    NA = pt_peer:node(A),
    Me = pt_peer:opts_name(tr_shell) ++ "@127.0.0.1",
    Args = ["-name", Me, "-setcookie", atom_to_list(pt_peer:call(A, erlang, get_cookie, [])),
            "-hidden", "-remsh", atom_to_list(NA)] ++ pt_peer:dist_args(),
    %% A shell needs a terminal: script(1) gives it one.
    case {os:find_executable("script"), os:cmd("script -q -e -c true /dev/null 2>&1")} of
        {false, _} ->
            {skip, no_script_1_to_make_a_terminal};
        {_, "script: " ++ _ = Why} -> % no pseudo-terminals: a bare chroot
            {skip, Why};
        {Script, _} ->
            Cmd = lists:flatten(lists:join(" ", ["erl" | [["'", X, "'"] || X <- Args]])),
            Port = open_port({spawn_executable, Script},
                             [{args, ["-q", "-e", "-c", Cmd, "/dev/null"]}, binary, exit_status,
                              stderr_to_stdout]),
            see(Port, <<"1>">>),
            port_command(Port, "{node(), 6 * 7000 + 42}.\r"),
            see(Port, iolist_to_binary(["{'", atom_to_list(NA), "',42042}"])),
            ?assertEqual([list_to_atom(Me)], pt_peer:call(A, erlang, nodes, [hidden])),
            port_command(Port, [7]),            % ^G: the job control menu; q ends the client only
            see(Port, <<"-->">>),
            port_command(Port, "q\r"),
            receive {Port, {exit_status, _}} -> ok after 60000 -> error(shell_does_not_end) end,
            ?assertEqual(NA, pt_peer:call(A, erlang, node, [])),
            stop([A])
    end.

see(Port, Text) -> see(Port, Text, <<>>).

see(Port, Text, Acc) ->
    case binary:match(Acc, Text) of
        nomatch ->
            receive
                {Port, {data, D}} -> see(Port, Text, <<Acc/binary, D/binary>>);
                {Port, {exit_status, S}} -> error({shell_ended, S, Acc})
            after 60000 -> error({not_seen, Text, Acc})
            end;
        _ -> ok
    end.
