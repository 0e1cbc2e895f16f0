%% What the suites of failures share: two nodes, somebody who watches one of them go, and what must be
%% left then.
-module(pt_failure).

-include_lib("stdlib/include/assert.hrl").

-export([alone/0, pair/0, pair/2, nodes_of/2, stop/1, on/2, cast/2, do_on/3, both/2, watcher/2,
         watcher_only/2, seen/2, seen_count/2, look/3, downs/2, flood/2, one_end/4, reaches/2, reaches_node/2,
         healthy/1, ports/1, sockets/1, settle/1, listen_port/1]).

%% Nobody connects but the test: global would, right after a nodeup, with messages of its own.
alone() -> #{args => ["-connect_all", "false"]}.

pair() -> pair(#{}, #{}).
pair(OptsA, OptsB) ->
    {A, B} = nodes_of(OptsA, OptsB),
    pt_peer:connect(A, B),
    {A, B}.

nodes_of(OptsA, OptsB) ->
    #{args := Alone} = alone(),
    L = [pt_peer:start(fa, O#{args => Alone ++ maps:get(args, O, [])}) || O <- [OptsA, OptsB]],
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
seen(A, W) -> look(A, W, fun(L) -> [summary(M) || M <- L] end).

seen_count(A, W) -> look(A, W, fun erlang:length/1).

%% On the node: what a flood left there is too much to be moved to the test.
look(A, W, Fun) ->
    on(A, fun() ->
              Ref = make_ref(),
              W ! {pt_collected, self(), Ref},
              receive {Ref, L} -> Fun(L) end
          end).

summary({big, I, X}) when is_binary(X) ->
    case X =:= binary:copy(<<I>>, byte_size(X)) of
        true -> {big, I, byte_size(X)};
        false -> {big, I, damaged}
    end;
summary(M) -> M.

downs(A, W) -> look(A, W, fun(L) -> [M || M <- L, is_end(M)] end).

is_end({nodedown, _, _}) -> true;
is_end({nodedown, _}) -> true;
is_end({'DOWN', _, process, _, _}) -> true;
is_end({'EXIT', _, _}) -> true;
is_end(_) -> false.

flood(B, W) ->
    cast(B, fun() -> [spawn(fun() -> flood_loop(W, 1) end) || _ <- lists:seq(1, 3)] end).

%% With a pause now and then, or the watcher would be busy with its mailbox for minutes.
flood_loop(W, N) ->
    W ! {flood, self(), N},
    N rem 20 =:= 0 andalso receive after 1 -> ok end,
    flood_loop(W, N + 1).

%% Each of the five exactly once, with the right reason, and no signal of B after nodedown.
one_end(A, W, B, Reason) ->
    NB = pt_peer:node(B),
    ?assert(pt_peer:wait(fun() -> length(downs(A, W)) >= 5 end, 60000)),
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
    ?assertEqual([], look(A, W, fun(L) ->
        [_ | After] = lists:dropwhile(fun({nodedown, _, _}) -> false; (_) -> true end, L),
        Until = lists:takewhile(fun(M) -> element(1, M) =/= nodeup end, After),
        [summary(M) || M <- Until, not is_end(M)]
    end)).

reaches(A, B) -> reaches_node(A, pt_peer:node(B)).

reaches_node(A, NB) ->
    try NB =:= on(A, fun() -> erpc:call(NB, erlang, node, [], 20000) end)
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
    pt_peer:wait(fun() -> Suspended() =:= [] end) orelse ?assertEqual([], Suspended()).

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
                         end)).

listen_port(Peer) ->
    [Name, _] = string:lexemes(atom_to_list(pt_peer:node(Peer)), "@"),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    {_, Port} = lists:keyfind(Name, 1, Names),
    Port.
