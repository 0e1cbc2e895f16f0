%% The rest of Partisan's API that partisan_api_SUITE does not need for anything: every arity of the
%% functions that are OTP's own under Partisan's names, by native and encoded references and from another
%% node where they take a process; broadcast's, the managers' and the events' functions.
-module(partisan_otp_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([erpc/1, gen_server/1, gen_server_loops/1, gen_statem/1, gen_event/1, gen_fsm/1, supervisors/1,
         proc_lib/1, sys/1, broadcast/1, events/1, manager_functions/1, monitors/1, references/1,
         small_functions/1]).
%% run on nodes
-export([child/1, loop/2]).
-export([init/1, callback_mode/0, on/3, handle_call/3, handle_cast/2, handle_info/2, terminate/2, code_change/3,
         handle_event/2, handle_call/2]).
-export([system_continue/3, system_terminate/4, system_code_change/4]).
-export([broadcast_data/1, merge/2, is_stale/1, graft/1, exchange/1, broadcast_channel/0]).

-define(SOON, 20000). % ms, as in partisan_api_SUITE
-define(NOBODY, 'x@127.0.0.1').

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [erpc, gen_server, gen_server_loops, gen_statem, gen_event, gen_fsm, supervisors, proc_lib, sys,
     broadcast, events, manager_functions, monitors, references, small_functions].

%% Two members for all cases; each cleans up what it started. A process of their own keeps them: nodes
%% end with who started them.
init_per_suite(Config) ->
    Env = [{channels, #{vnode => #{parallelism => 2}}}, {exchange_tick_period, 100}],
    Me = self(),
    Keeper = spawn(fun() ->
                       Peers = [A, B] = pt_cluster:start(2, Env),
                       ok = pt_cluster:service(A, sync_join, [pt_peer:node(B)]),
                       true = pt_peer:wait(fun() -> pt_cluster:is_mesh(Peers) end),
                       Me ! {self(), Peers},
                       receive {stop, From} -> From ! {self(), pt_cluster:stop(Peers)} end
                   end),
    Ref = monitor(process, Keeper),
    receive
        {Keeper, Peers} -> [{peers, Peers}, {keeper, Keeper} | Config];
        {'DOWN', Ref, process, _, Why} -> error(Why)
    end.

end_per_suite(Config) ->
    Keeper = proplists:get_value(keeper, Config),
    Keeper ! {stop, self()},
    receive {Keeper, ok} -> ok after ?SOON -> error(not_stopped) end.

erpc(Config) ->
    {A, NodeA, _, NodeB} = two(Config),
    E = partisan_erpc,
    ?assertEqual([NodeB, {response, NodeB}], on(A, fun() ->
        [E:receive_response(E:send_request(NodeB, fun node/0)), waited(E:send_request(NodeB, erlang, node, []))] end)),
    ?assertEqual([[{ok, NodeB}, {ok, NodeA}], [{ok, NodeB}], [{ok, 3}, {error, {E, noconnection}}]], on(A, fun() ->
        [E:multicall([NodeB, NodeA], fun node/0), E:multicall([NodeB], fun node/0, ?SOON),
         E:multicall([NodeB, ?NOBODY], erlang, abs, [-3], ?SOON)] end)),
    ?assertEqual([[{error, {E, timeout}}], [{error, {E, timeout}}]], on(A, fun() ->
        [E:multicall([NodeB], timer, sleep, [infinity], 20), E:multicall([NodeB], fun() -> timer:sleep(infinity) end, 20)] end)),
    ?assertEqual([ok, ok, a, b], on(A, fun() ->
        Me = self(),
        Said = [E:cast(NodeB, erlang, send, [Me, a]), E:multicast([NodeB, ?NOBODY], erlang, send, [Me, b])],
        Said ++ [got(M) || M <- [a, b]] end)),
    %% an answer that is not in time is no answer; what failed there fails here
    ?assertEqual(no_response, on(A, fun() -> E:wait_response(E:send_request(NodeB, timer, sleep, [infinity])) end)),
    ?assertError({E, timeout}, on_catch(A, fun() -> E:receive_response(E:send_request(NodeB, timer, sleep, [infinity]), 20) end)),
    ?assertError({exception, bad, _}, on_catch(A, fun() -> E:receive_response(E:send_request(NodeB, erlang, error, [bad])) end)),
    ?assertError({E, noconnection}, on_catch(A, fun() -> E:receive_response(E:send_request(?NOBODY, fun node/0)) end)),
    [?assertError({E, badarg}, on_catch(A, fun() -> apply(E, F, Args) end))
     || {F, Args} <- [{cast, ["b", fun node/0]}, {cast, [NodeB, "m", f, []]}, {multicall, [NodeB, fun node/0]},
                      {multicast, [NodeB, m, f, []]}, {receive_response, [no_id]}, {wait_response, [no_id, 10]},
                      {check_response, [m, no_id]}, {send_request, [NodeB, m, f, no_list]}]].

%% wait_response/1 does not wait.
waited(Id) ->
    case partisan_erpc:wait_response(Id) of
        no_response -> partisan_erpc:wait_response(Id, ?SOON);
        Response -> Response
    end.

gen_server(Config) ->
    {A, NodeA, B, NodeB} = two(Config),
    G = partisan_gen_server,
    %% started in each way, on B; called from A
    Ways = [{start, []}, {start, [{local, one}]}, {start_link, []}, {start_link, [{local, two}]},
            {start_monitor, []}, {start_monitor, [{local, three}]}],
    Pids = [started(on(B, fun() -> kept(fun() -> apply(G, F, Name ++ [?MODULE, server, [{channel, vnode}]]) end) end))
            || {F, Name} <- Ways],
    [?assertEqual({echo, 1}, on(A, fun() -> G:call(P, {echo, 1}) end)) || P <- Pids],
    ?assertEqual(Pids, [P || P <- Pids, on(B, fun() -> is_process_alive(P) end)]),
    [?assertEqual(Pid, on(B, fun() -> whereis(Name) end)) || {{_, [{local, Name}]}, Pid} <- lists:zip(Ways, Pids)],
    %% everywhere: this node has none of that name
    ?assertEqual({[{NodeB, {echo, 2}}], [NodeA]}, on(A, fun() -> G:multi_call(one, {echo, 2}) end)),
    ?assertEqual({[{NodeB, {echo, 2}}], [?NOBODY]}, on(A, fun() -> G:multi_call([NodeB, ?NOBODY], one, {echo, 2}) end)),
    ?assertEqual(abcast, on(A, fun() -> G:abcast(one, {count, 1}) end)),
    ?assert(pt_peer:wait(fun() -> on(A, fun() -> G:call({one, NodeB}, count) end) =:= 1 end)),
    %% ends, with a reason and in time or not
    [?assertEqual(ok, on(A, fun() -> G:stop(S, Why, ?SOON) end))
     || {S, Why} <- lists:zip([encoded(B, hd(Pids)), {one, NodeB}, lists:nth(3, Pids), {two, NodeB}],
                              [normal, shutdown, {shutdown, x}, normal])],
    ?assertExit(noproc, on_catch(A, fun() -> G:stop(hd(Pids), normal, ?SOON) end)),
    ?assertExit(timeout, on_catch(A, fun() -> G:call({three, NodeB}, deaf), G:stop({three, NodeB}, normal, 30) end)),
    killed(B, Pids),
    [?assertError(_, on_catch(A, fun() -> apply(G, F, Args) end))
     || {F, Args} <- [{start, [?MODULE, server, no_list]}, {start_link, ["name", ?MODULE, server, []]},
                      {call, [["no reference"], x]}, {cast, [#{}, x]}, {send_request, [{}, x]}, {stop, [1.5]}]].

%% A process that becomes a server, by each arity.
gen_server_loops(Config) ->
    {A, _, B, NodeB} = two(Config),
    Loops = [[?MODULE, [], 1], [?MODULE, [{channel, vnode}], 2, {local, loop_4}], [?MODULE, [], 3, infinity],
             [?MODULE, [], 4, {local, loop_5}, infinity]],
    [begin
         {ok, Pid} = on(B, fun() -> partisan_proc_lib:start(?MODULE, loop, [partisan_gen_server, Args]) end),
         ?assertEqual({Args, lists:nth(3, Args)}, {Args, on(A, fun() -> partisan_gen_server:call(Pid, count) end)}),
         [?assertEqual(Pid, on(B, fun() -> whereis(Name) end)) || {local, Name} <- Args],
         ok = on(A, fun() -> partisan_gen_server:stop(Pid) end)
     end || Args <- Loops],
    ?assertExit({noproc, _}, on_catch(A, fun() -> partisan_gen_server:call({loop_4, NodeB}, count) end)).

gen_statem(Config) ->
    {A, _, B, NodeB} = two(Config),
    S = partisan_gen_statem,
    Ways = [{start, [{local, one}]}, {start_link, []}, {start_link, [{local, two}]}, {start_monitor, []},
            {start_monitor, [{local, three}]}],
    Pids = [started(on(B, fun() -> kept(fun() -> apply(S, F, Name ++ [?MODULE, statem, []]) end) end))
            || {F, Name} <- Ways],
    [?assertEqual({on, x}, on(A, fun() -> S:call(P, x) end)) || P <- Pids ++ [{one, NodeB}, {two, NodeB}]],
    ?assertEqual({reply, {on, y}}, on(A, fun() ->
        Id = S:send_request({one, NodeB}, y),
        receive M -> S:check_response(M, Id) after ?SOON -> none end end)),
    ?assertEqual({reply, {on, z}}, on(A, fun() -> S:wait_response(S:send_request(encoded_here({one, NodeB}), z)) end)),
    ?assertEqual(timeout, on(A, fun() -> S:wait_response(S:send_request({one, NodeB}, silent), 20) end)),
    [?assertEqual(ok, on(A, fun() -> S:stop(Ref, shutdown, ?SOON) end)) || Ref <- [encoded(B, hd(Pids)), {two, NodeB}]],
    ?assertExit(noproc, on_catch(A, fun() -> S:stop({one, NodeB}, normal, ?SOON) end)),
    killed(B, Pids),
    [begin
         {ok, Pid} = on(B, fun() -> partisan_proc_lib:start(?MODULE, loop, [S, Args]) end),
         ?assertEqual({on, Args}, on(A, fun() -> S:call(Pid, Args) end)),
         ok = on(A, fun() -> S:stop(Pid) end)
     end || Args <- [[?MODULE, [], on, data], [?MODULE, [], on, data, []], [?MODULE, [], on, data, {local, four}, []]]],
    ?assertExit({noproc, _}, on_catch(A, fun() -> S:call({four, NodeB}, x) end)).

gen_event(Config) ->
    {A, _, B, NodeB} = two(Config),
    V = partisan_gen_event,
    Ways = [{start, [{local, one}, []]}, {start_link, []}, {start_link, [{local, two}]}, {start_link, [{local, three}, []]},
            {start_monitor, []}, {start_monitor, [{local, four}]}, {start_monitor, [{local, five}, []]}],
    Pids = [started(on(B, fun() -> kept(fun() -> apply(V, F, Args) end) end)) || {F, Args} <- Ways],
    [?assertEqual([], on(A, fun() -> V:which_handlers(P) end)) || P <- Pids ++ [{five, NodeB}]],
    First = encoded(B, hd(Pids)),
    ?assertEqual([ok, ok, {seen, [b]}, [{?MODULE, 2}], {reply, {seen, [b]}}, timeout], on(A, fun() ->
        ok = V:add_handler(First, ?MODULE, events),
        Swapped = V:swap_handler(First, {?MODULE, gone}, {{?MODULE, 2}, events}),
        Noted = V:sync_notify(First, b),
        [Swapped, Noted, V:call(First, {?MODULE, 2}, seen, ?SOON), V:which_handlers(First),
         V:wait_response(V:send_request(First, {?MODULE, 2}, seen), ?SOON),
         V:wait_response(V:send_request(First, {?MODULE, 2}, deaf), 20)] end)),
    %% One that is watched over goes with who added it, who hears when it goes before.
    Second = lists:nth(2, Pids),
    ?assertEqual([ok, ok, [{?MODULE, b}], {gen_event_EXIT, {?MODULE, b}, normal}], on(A, fun() ->
        [V:add_sup_handler(Second, {?MODULE, a}, events), V:swap_sup_handler(Second, {{?MODULE, a}, x}, {{?MODULE, b}, events}),
         V:which_handlers(Second), begin _ = V:delete_handler(Second, {?MODULE, b}, x),
                                         receive {gen_event_EXIT, {?MODULE, b}, _} = M -> M after ?SOON -> none end end] end)),
    ?assertEqual([{error, bad_module}, {error, bad_module}, {error, module_not_found}], on(A, fun() ->
        [V:call(Second, ?MODULE, x), element_or(V:receive_response(V:send_request(Second, ?MODULE, x), ?SOON)),
         V:delete_handler(Second, ?MODULE, x)] end)),
    ?assertEqual(ok, on(A, fun() -> V:stop({five, NodeB}, shutdown, ?SOON) end)),
    ?assertExit(noproc, on_catch(A, fun() -> V:stop({five, NodeB}) end)),
    killed(B, Pids).

element_or({reply, R}) -> R;
element_or({error, {R, _}}) -> {error, R};
element_or(R) -> R.

gen_fsm(Config) ->
    {A, _, B, NodeB} = two(Config),
    F = partisan_gen_fsm,
    Pids = [started(on(B, fun() -> kept(fun() -> apply(F, Way, Name ++ [pt_fsm, [], []]) end) end))
            || {Way, Name} <- [{start, [{local, one}]}, {start_link, []}, {start_link, [{local, two}]}]],
    [?assertEqual({P, [ok, {seen, 1}, {all, 2}]}, {P, on(A, fun() ->
        [F:send_event(P, 1), F:sync_send_event(P, seen), F:sync_send_all_state_event(P, 2, ?SOON)] end)})
     || P <- Pids ++ [encoded(B, hd(Pids)), {one, NodeB}]],
    ok = on(A, fun() -> F:send_all_state_event({two, NodeB}, ignored) end),
    ?assertEqual({seen, 1}, on(A, fun() -> F:sync_send_event({two, NodeB}, seen) end)),
    ?assertExit({timeout, _}, on_catch(A, fun() -> F:sync_send_event({two, NodeB}, deaf, 20) end)),
    [?assertEqual(ok, on(A, fun() -> F:stop(P, normal, ?SOON) end)) || P <- Pids],
    ?assertExit(noproc, on_catch(A, fun() -> F:stop({one, NodeB}, normal, ?SOON) end)),
    %% gen_fsm's own events to the process that asks for them
    ?assertMatch([{timeout, _, late}, event, true, false], on(A, fun() ->
        _ = F:start_timer(1, late),
        One = receive {timeout, R, {'$gen_timer', M}} -> {timeout, R, M} after ?SOON -> none end,
        _ = F:send_event_after(1, event),
        Two = receive {timeout, _, {'$gen_event', E}} -> E after ?SOON -> none end,
        Long = F:start_timer(?SOON * 10, never),
        [One, Two, is_integer(F:cancel_timer(Long)), F:cancel_timer(Long)] end)),
    ?assertMatch({_, answer}, on(A, fun() -> Ref = make_ref(), _ = F:reply({self(), Ref}, answer), receive M -> M after ?SOON -> none end end)).

supervisors(Config) ->
    {A, _, B, NodeB} = two(Config),
    S = partisan_gen_supervisor,
    Sup = started(on(B, fun() -> kept(fun() -> S:start_link({local, sup}, ?MODULE, supervisor) end) end)),
    Child = #{id => c, start => {partisan_gen_server, start_link, [?MODULE, server, []]}, restart => temporary},
    ?assertMatch([{ok, _}, {error, {already_started, _}}, {error, not_found}, {error, not_found}, {error, not_found},
                  {error, not_found}, {error, running}, {error, running}], on(A, fun() ->
        [S:start_child({sup, NodeB}, Child), S:start_child(Sup, Child), S:terminate_child(Sup, none), S:delete_child(Sup, none),
         S:restart_child(Sup, none), S:get_childspec(Sup, none), S:delete_child(Sup, c), S:restart_child(Sup, c)] end)),
    ?assertMatch([{error, missing_id}, {error, {invalid_child_spec, nonsense}}, [{specs, 1}, {active, 1}, {supervisors, 0}, {workers, 1}]], on(A, fun() ->
        [S:start_child(Sup, #{}), S:check_childspecs([nonsense]), S:count_children(encoded_here(Sup))] end)),
    ?assertExit({noproc, _}, on_catch(A, fun() -> S:which_children({none, NodeB}) end)),
    killed(B, [Sup]).

proc_lib(Config) ->
    {A, NodeA, _, NodeB} = two(Config),
    P = partisan_proc_lib,
    [?assertEqual({F, Node, {child, N}}, {F, Node, on(A, fun() ->
        Me = self(),
        _ = apply(P, F, Node ++ What(Me) ++ Opts),
        receive {child, _} = M -> M after ?SOON -> none end end)})
     || {F, Opts} <- [{spawn, []}, {spawn_link, []}, {spawn_opt, [[link]]}],
        {N, Node} <- [{NodeA, []}, {NodeB, [NodeB]}],
        What <- [fun(Me) -> [fun() -> child({tell, Me}) end] end, fun(Me) -> [?MODULE, child, [{tell, Me}]] end]],
    %% started, and its word waited for
    Arities = [[], [?SOON], [?SOON, []]],
    [?assertEqual({F, More, {ok, said}}, {F, More, on(A, fun() -> apply(P, F, [?MODULE, child, [{ack, self()}]] ++ More) end)})
     || F <- [start, start_link], More <- Arities],
    [?assertEqual({More, {{ok, said}, normal}}, {More, on(A, fun() ->
        {Said, Ref} = apply(P, start_monitor, [?MODULE, child, [{ack, self()}]] ++ More),
        {Said, receive {'DOWN', Ref, process, _, Why} -> Why after ?SOON -> none end} end)})
     || More <- Arities],
    ?assertEqual({error, timeout}, on(A, fun() -> P:start(?MODULE, child, [silent], 20) end)),
    ?assertEqual({error, refused}, on(A, fun() -> P:start(?MODULE, child, [refuse]) end)),
    ?assertExit(noproc, on_catch(A, fun() -> P:stop({none, NodeB}, normal, ?SOON) end)),
    %% without a stack, it wakes in the function that it named
    ?assertEqual(awake, on(A, fun() ->
        Pid = P:spawn(fun() -> P:hibernate(?MODULE, child, [woken]) end),
        Pid ! {wake, self()},
        receive M -> M after ?SOON -> none end end)),
    %% what it knows and writes of its processes
    ?assertEqual({?MODULE, child, 1}, on(A, fun() ->
        {ok, Pid} = P:start(?MODULE, child, [special]),
        Call = P:translate_initial_call(Pid),
        exit(Pid, kill),
        Call end)),
    Report = [[{initial_call, {m, f, []}}, {pid, self()}, {registered_name, []}, {error_info, {exit, bad, []}}], []],
    [?assertNotEqual(nomatch, string:find(on(A, fun() -> apply(P, format, [Report | More]) end), "bad"))
     || More <- [[], [latin1], [utf8, 20]]],
    Written = on(A, fun() -> P:report_cb(#{label => {proc_lib, crash}, report => Report}, #{}) end),
    ?assertNotEqual(nomatch, string:find(Written, "bad")).

sys(Config) ->
    {A, _, B, NodeB} = two(Config),
    S = partisan_sys,
    {ok, Pid} = on(B, fun() -> partisan_gen_server:start({local, traced}, ?MODULE, server, []) end),
    Ref = encoded(B, Pid),
    Name = {traced, NodeB},
    ?assertEqual([ok, ok, ok, ok, ok, ok, 7], on(A, fun() ->
        [S:suspend(Ref, ?SOON), S:change_code(Ref, ?MODULE, old, []), S:change_code(Name, ?MODULE, old, [], ?SOON), S:resume(Name, ?SOON),
         S:suspend(Name), S:resume(Ref), S:replace_state(Ref, fun(_) -> 7 end, ?SOON)] end)),
    ?assertMatch({status, Pid, {module, partisan_gen_server}, _} , fix(on(A, fun() -> S:get_status(Ref, ?SOON) end))),
    ?assertMatch([ok, ok, {ok, [{in, {'$gen_call', _, count}} | _]}, ok, {ok, []}], on(A, fun() ->
        Set = [S:log(Ref, true), S:log(Name, {true, 5}, ?SOON)],
        _ = partisan_gen_server:call(Ref, count),
        {ok, Log} = S:log(Ref, get),
        Set ++ [{ok, [E || {in, _} = E <- [event(L) || L <- Log]]}, S:log(Ref, false), S:log(Name, get, ?SOON)] end)),
    ?assertMatch([ok, {ok, [_ | _]}, ok, {ok, no_statistics}], on(A, fun() ->
        [S:statistics(Ref, true), S:statistics(Name, get, ?SOON), S:statistics(Ref, false, ?SOON), S:statistics(Ref, get)] end)),
    File = filename:join(proplists:get_value(priv_dir, Config), "sys.log"),
    ?assertEqual([ok, ok, ok, ok, {error, open_file}, ok, ok, ok, ok], on(A, fun() ->
        [S:log_to_file(Ref, File), S:log_to_file(Name, false, ?SOON), S:trace(Ref, true), S:trace(Name, false, ?SOON),
         S:log_to_file(Ref, "/nowhere/at/all"), S:no_debug(Ref), S:no_debug(Name, ?SOON),
         S:install(Ref, {fun(F, _, _) -> F end, 0}), S:install(Name, {other, fun(F, _, _) -> F end, 0}, ?SOON)] end)),
    ?assertEqual([ok, ok, ok], on(A, fun() ->
        [S:remove(Ref, fun(F, _, _) -> F end), S:remove(Name, other, ?SOON), S:terminate(Ref, normal, ?SOON)] end)),
    killed(B, [Pid]), % it answers before it ends
    ?assertExit({noproc, _}, on_catch(A, fun() -> S:get_state(Name, ?SOON) end)),
    %% the half for processes that are no gen_server: one written with it is suspended, asked and ended
    {ok, Own} = on(B, fun() -> partisan_proc_lib:start(?MODULE, child, [special]) end),
    OwnRef = encoded(B, Own),
    ?assertEqual([ok, ok, {event, 1}, ok], on(A, fun() ->
        Two = [S:suspend(OwnRef), S:resume(OwnRef)],
        Own ! {self(), 1},
        Two ++ [receive {event, _} = M -> M after ?SOON -> none end, S:terminate(OwnRef, normal)] end)).

%% Of a gen_server under partisan's name the status is gen_server's.
fix({status, Pid, {module, gen_server}, Items}) -> {status, Pid, {module, partisan_gen_server}, Items};
fix(Other) -> Other.

event({Event, _State, _Extra}) -> Event;
event(Event) -> Event.

%% ------------------------------------------------------------------------------------------------
%% Broadcast, events, managers

broadcast(Config) ->
    {A, NodeA, B, NodeB} = two(Config),
    Both = lists:sort([NodeA, NodeB]),
    P = partisan_plumtree_broadcast,
    Service = partisan_peer_service,
    [?assertEqual(Both, on(X, fun() -> apply(M, broadcast_members, Args) end))
     || X <- [A, B], M <- [P, Service], Args <- [[], [?SOON]]],
    ?assertEqual([own, broadcast], on(A, fun() -> [P:broadcast_channel(?MODULE), P:broadcast_channel(pt_heard)] end)),
    ?assertEqual(ok, on(A, fun() -> P:update([]) end)),
    %% a tree with one link: eager, until a message that came twice makes it lazy
    Links = on(A, fun() -> P:get_peers(NodeA) end),
    ?assertMatch({[NodeB], []}, Links),
    ?assertEqual([Links, [NodeB], [], Links, Links, Links], on(A, fun() ->
        [P:get_peers(NodeA, ?SOON), P:get_eager_peers(NodeA), P:get_lazy_peers(NodeA), P:debug_get_peers(NodeA, NodeA),
         P:debug_get_peers(NodeA, NodeA, ?SOON), P:debug_get_peers(NodeA, NodeA, ?SOON, orddict:new())] end)),
    Tree = [{NodeA, Links}, {?NOBODY, down}],
    ?assertEqual([Tree, Tree, Tree], on(A, fun() ->
        [P:debug_get_tree(NodeA, [NodeA, ?NOBODY]), P:debug_get_tree(NodeA, [NodeA, ?NOBODY], ?SOON),
         P:debug_get_tree(NodeA, [NodeA, ?NOBODY], ?SOON, x)] end)),
    %% exchanges run until they end, or somebody ends them
    [begin
         [{?MODULE, NodeB, Ref, Pid}] = Running = exchanging(A),
         ?assertEqual([Running, Running, Running], on(A, fun() -> [P:exchanges(NodeA), P:exchanges(NodeA, ?SOON), Service:exchanges()] end)),
         ?assertEqual(Running, on(B, fun() -> Service:exchanges(NodeA) end)),
         ?assertEqual([[], [], []], on(A, fun() ->
             [Service:cancel_exchanges(X) || X <- [{peer, ?NOBODY}, {mod, nobody}, make_ref()]] end)),
         Which = case How of
                     ref -> Ref;
                     pid -> Pid;
                     _ -> How
                 end,
         ?assertEqual({How, Running}, {How, on(A, fun() -> M:cancel_exchanges(Which) end)}),
         ?assert(pt_peer:wait(fun() -> not on(A, fun() -> is_process_alive(Pid) end) end))
     end || {How, M} <- [{all, P}, {{peer, NodeB}, Service}, {{mod, ?MODULE}, P}, {ref, Service}, {pid, P}]],
    ?assertExit({{nodedown, ?NOBODY}, _}, on_catch(A, fun() -> Service:exchanges(?NOBODY) end)).

%% Until an exchange of the handler runs, which began with its first message: one after each tick.
exchanging(A) ->
    ok = on(A, fun() -> partisan_plumtree_broadcast:broadcast({make_ref(), x}, ?MODULE) end),
    Runs = fun() ->
               on(A, fun() -> [E || {_, _, _, Pid} = E <- partisan_plumtree_broadcast:exchanges(), is_process_alive(Pid)] end)
           end,
    true = pt_peer:wait(fun() -> Runs() =/= [] end),
    Runs().

%% Each kind of handler hears of the members, and those with a supervisor go with it.
events(Config) ->
    {A, _, B, NodeB} = two(Config),
    E = partisan_peer_service_events,
    Collector = pt_peer:spawn_collector(A),
    Handlers = fun() -> on(A, fun() -> length(gen_event:which_handlers(E)) end) end,
    Before = Handlers(),
    {Owner, Set} = on(A, fun() ->
        Me = self(),
        Tell = fun(What) -> fun(Specs) -> Collector ! {What, partisan_peer_service:decode(Specs)} end end,
        Set = [E:add_callback(Tell(callback)), E:add_handler(?MODULE, {tell, Collector})],
        Owner = spawn(fun() ->
                          Me ! {self(), [E:add_sup_callback(Tell(sup_callback)), E:add_sup_handler({?MODULE, sup}, {tell, Collector})]},
                          receive stop -> ok end
                      end),
        {Owner, Set ++ receive {Owner, Two} -> Two after ?SOON -> none end}
    end),
    ?assertEqual([ok, ok, ok, ok], Set),
    ?assertEqual(Before + 4, Handlers()),
    {ok, Specs} = pt_cluster:service(B, members_for_orchestration, []),
    ok = on(A, fun() -> E:update(Specs) end),
    Heard = fun(What) -> [Nodes || {W, Nodes} <- pt_peer:collected(A, Collector), W =:= What] end,
    [?assert(pt_peer:wait(fun() -> Heard(What) =/= [] end), What) || What <- [callback, sup_callback, handler]],
    ?assertEqual(pt_cluster:names([A, B]), lists:sort(hd(Heard(callback)))),
    ?assert(lists:member(NodeB, hd(Heard(sup_callback)))),
    on(A, fun() -> Owner ! stop end),
    ?assert(pt_peer:wait(fun() -> Handlers() =:= Before + 2 end)),
    [?assertError(function_clause, on_catch(A, fun() -> E:F(no_fun) end)) || F <- [add_callback, add_sup_callback]].

manager_functions(Config) ->
    {A, NodeA, B, NodeB} = two(Config),
    M = partisan_peer_service_manager,
    Managers = [partisan_pluggable_peer_service_manager, partisan_default_peer_service_manager],
    Collector = pt_peer:spawn_collector(A),
    true = on(A, fun() -> register(here, Collector) end),
    ?assertEqual([ok, {ok, []}, ok], on(A, fun() -> [M:connect(NodeB, #{}), M:connect(NodeB, #{prune => true}), M:deliver(here, delivered)] end)),
    ?assertEqual({error, not_yet_connected}, on(A, fun() -> M:connect(?NOBODY, #{prune => true}) end)),
    ?assertEqual([true, false, false], on(A, fun() ->
        [M:supports_capability(hd(Managers), monitoring), M:supports_capability(hd(Managers), flying),
         M:supports_capability(no_such_manager, monitoring)] end)),
    %% what the managers of other versions hand over, in each arity; nonsense is nobody's
    Messages = [begin
                    ok = on(A, fun() -> apply(Manager, receive_message, Args) end),
                    What
                end || Manager <- Managers,
                       {What, Args} <- [{one, [{forward_message, here, one}]}, {two, [NodeB, {forward_message, here, two}]},
                                        {three, [NodeB, undefined, {forward_message, here, three}]},
                                        {old, [NodeB, undefined, {forward_message, NodeB, none, undefined, here, old, []}]}]],
    [?assertEqual(ok, on(A, fun() -> Manager:receive_message(NodeB, undefined, nonsense) end)) || Manager <- Managers],
    %% casts of the older generation, and on_up, on_down through a manager
    Casts = [begin
                 ok = on(B, fun() -> apply(Manager, cast_message, Args) end),
                 {'$gen_cast', {Manager, length(Args)}}
             end || Manager <- Managers,
                    Args <- [[{here, NodeA}, {Manager, 2}], [NodeA, here, {Manager, 3}], [NodeA, undefined, here, {Manager, 4}],
                             [NodeA, vnode, here, {Manager, 5}, []]]],
    [?assertEqual(ok, on(A, fun() -> apply(Manager, F, [NodeB, fun() -> ok end] ++ Opts) end))
     || Manager <- Managers, F <- [on_up, on_down], Opts <- [[], [#{channel => vnode}]]],
    All = [delivered] ++ Messages ++ Casts,
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(A, Collector) >= length(All) end)),
    ?assertEqual(lists:sort(All), lists:sort(pt_peer:collected(A, Collector))),
    [?assert(on(A, fun() -> Manager:supports_capability(monitoring) end)) || Manager <- Managers],
    %% relayed, where there is nobody between
    ?assertEqual({error, not_yet_connected}, on(A, fun() -> (hd(Managers)):relay_message(?NOBODY, here, m, #{}) end)),
    killed(A, [Collector]).

monitors(Config) ->
    {A, _, B, NodeB} = two(Config),
    M = partisan_monitor,
    Pid = on(B, fun() -> spawn(?MODULE, child, [silent]) end),
    ?assertEqual([false, true, true, true, ok, ok], on(A, fun() ->
        Ref = M:monitor(encoded_here(Pid), []),
        Is = M:demonitor(M:monitor(Pid, []), [info]),
        [not Is, M:demonitor(partisan_remote_ref:from_term(Ref), [flush]), M:monitor_node(NodeB, true), M:monitor_node(NodeB, false),
         M:monitor_nodes(true, [{channel, vnode}]), M:monitor_nodes(false, [{channel, vnode}])] end)),
    [?assertError(badarg, on_catch(A, fun() -> apply(M, F, Args) end))
     || {F, Args} <- [{monitor, [Pid, no_list]}, {monitor, ["no reference", []]}, {demonitor, [no_reference, []]},
                      {monitor_node, [NodeB, maybe]}]],
    ?assertEqual([{error, badarg}, {error, badarg}], on(A, fun() -> [M:monitor_nodes(maybe, []), M:monitor_nodes(true, [nonsense])] end)),
    killed(B, [Pid]).

references(Config) ->
    {A, _, B, NodeB} = two(Config),
    R = partisan_remote_ref,
    Pid = on(B, fun() -> spawn(?MODULE, child, [silent]) end),
    Ref = on(B, fun erlang:make_ref/0),
    ?assertEqual([Pid, {srv, NodeB}, Ref, false, true, false, true], on(A, fun() ->
        [R:to_pid_or_name(encoded_here(Pid)), R:to_pid_or_name({srv, NodeB}), R:to_reference(R:from_term(Ref)), R:is_local(Pid),
         R:is_local(self()), R:is_local_pid(Pid, self()), R:is_local_name(R:from_term(srv), srv)] end)),
    [?assertError(badarg, on_catch(A, fun() -> R:F("nonsense") end)) || F <- [to_pid, to_reference, to_pid_or_name, is_local]],
    killed(B, [Pid]).

small_functions(Config) ->
    {A, NodeA, _, NodeB} = two(Config),
    U = partisan_util,
    ?assertEqual([ok, "connection refused", no_such_error, {a, b}, t, {t}, {t}], on(A, fun() ->
        [U:maybe_connect_disterl(?NOBODY), U:format_posix_error(econnrefused), U:format_posix_error(no_such_error),
         U:format_posix_error({a, b}), U:maybe_pad_term(t), binary_to_term(iolist_to_binary(U:term_to_iolist({t}))),
         binary_to_term(iolist_to_binary(U:encode({t}, [compressed, nonsense])))] end)),
    ?assertEqual([true, true, true], on(A, fun() ->
        Ref = make_ref(),
        [partisan_remote_ref:to_pid(U:pid(self())) =:= self(), partisan_remote_ref:to_reference(U:ref(Ref)) =:= Ref,
         partisan_remote_ref:to_name(U:registered_name(srv)) =:= srv] end)),
    File = filename:join(proplists:get_value(priv_dir, Config), "console.txt"),
    ?assertEqual(ok, on(A, fun() ->
        {ok, Io} = file:open(File, [write]),
        Leader = group_leader(),
        true = group_leader(Io, self()),
        try partisan_peer_service_console:members([])
        after
            true = group_leader(Leader, self()),
            ok = file:close(Io)
        end
    end)),
    {ok, Text} = file:read_file(File),
    [?assertMatch([_], [L || L <- string:lexemes(Text, "\n"), L =:= <<"  ", (atom_to_binary(N))/binary, " ", State/binary>>])
     || {N, State} <- [{NodeA, <<"this node">>}, {NodeB, <<"connected">>}]],
    ?assertEqual([undefined, 2], on(A, fun() -> [partisan_config:default_channel(), maps:get(parallelism, partisan_config:channel_opts(vnode))] end)),
    ?assertError(badarg, on_catch(A, fun() -> partisan_config:channel_opts(none) end)).

%% ------------------------------------------------------------------------------------------------
%% On the nodes

child({tell, Pid}) -> Pid ! {child, node()};
child({ack, Starter}) -> partisan_proc_lib:init_ack(Starter, {ok, said});
child(silent) -> receive never -> ok end;
child(refuse) -> partisan_proc_lib:init_ack({error, refused});
child(woken) -> receive {wake, Pid} -> Pid ! awake end;
child(special) ->
    Debug = partisan_sys:debug_options([{log, 10}]),
    partisan_proc_lib:init_ack({ok, self()}),
    special(Debug).

special(Debug) ->
    receive
        {system, From, Request} -> partisan_sys:handle_system_msg(Request, From, self(), ?MODULE, Debug, none);
        {Pid, N} ->
            Noted = partisan_sys:handle_debug(Debug, fun(_, _, _) -> ok end, none, {in, N}),
            [_ | _] = partisan_sys:get_log(Noted),
            Pid ! {event, N},
            special(Noted)
    end.

system_continue(_Parent, Debug, none) -> special(Debug).
system_terminate(Reason, _Parent, _Debug, none) -> exit(Reason).
system_code_change(none, _Module, _OldVsn, _Extra) -> {ok, none}.

loop(Module, Args) ->
    _ = [register(Name, self()) || {local, Name} <- Args],
    partisan_proc_lib:init_ack({ok, self()}),
    apply(Module, enter_loop, Args).

init(server) -> {ok, 0};
init(statem) -> {ok, on, none};
init(supervisor) -> {ok, {#{}, []}};
init({{tell, _} = Tell, _Term}) -> {ok, Tell}; % swapped in
init({tell, _} = Tell) -> {ok, Tell};
init({events, _Term}) -> {ok, []};
init(events) -> {ok, []}.

callback_mode() -> state_functions.

on({call, _}, silent, _) -> keep_state_and_data;
on({call, From}, Request, _) ->
    ok = partisan_gen_statem:reply([{reply, From, {on, Request}}]),
    keep_state_and_data.

handle_call({echo, X}, _From, N) -> {reply, {echo, X}, N};
handle_call(count, _From, N) -> {reply, N, N};
handle_call(deaf, From, N) ->
    partisan_gen_server:reply(From, ok),
    receive never -> {noreply, N} end.

handle_cast({count, I}, N) -> {noreply, N + I}.

handle_info(_, State) -> {ok, State}.

terminate(_Why, State) -> State.

code_change(old, State, []) -> {ok, State}.

handle_event({update, Specs}, {tell, Pid} = State) ->
    Pid ! {handler, partisan_peer_service:decode(Specs)},
    {ok, State};
handle_event(_Event, {tell, _} = State) -> {ok, State};
handle_event(Event, Seen) -> {ok, [Event | Seen]}.

handle_call(deaf, _Seen) -> receive never -> ok end;
handle_call(seen, Seen) -> {ok, {seen, Seen}, Seen}.

broadcast_data({Id, Payload}) -> {Id, Payload}.
merge(_Id, _Payload) -> true.
is_stale(_Id) -> false.
graft(_Id) -> stale.
exchange(_Node) -> {ok, spawn(fun() -> receive never -> ok end end)}.
broadcast_channel() -> own.

%% Keeps what Fun started, however it is linked, when the caller has gone.
kept(Fun) ->
    Me = self(),
    Pid = spawn(fun() -> Me ! {self(), Fun()}, receive never -> ok end end),
    receive {Pid, Started} -> Started after ?SOON -> error(not_started) end.

encoded_here(Term) -> partisan_remote_ref:from_term(Term).

got(M) -> receive M -> M after ?SOON -> none end.

%% ------------------------------------------------------------------------------------------------

two(Config) ->
    [A, B] = proplists:get_value(peers, Config),
    {A, pt_peer:node(A), B, pt_peer:node(B)}.

started({ok, {Pid, Ref}}) when is_reference(Ref) -> Pid;
started({ok, Pid}) when is_pid(Pid) -> Pid.

%% Gone, and its name free.
killed(Peer, Pids) ->
    on(Peer, fun() ->
        [begin
             Ref = monitor(process, Pid),
             exit(Pid, kill),
             receive {'DOWN', Ref, process, _, _} -> ok after ?SOON -> error({lives, Pid}) end
         end || Pid <- Pids]
    end).

encoded(Peer, Pid) -> on(Peer, fun() -> partisan_remote_ref:from_term(Pid) end).

on(Peer, Fun) -> pt_peer:eval(Peer, Fun).

%% What it fails with, here.
on_catch(Peer, Fun) ->
    case on(Peer, fun() -> try {ok, Fun()} catch Class:Reason -> {Class, Reason} end end) of
        {ok, Result} -> Result;
        {error, Reason} -> error(Reason);
        {exit, Reason} -> exit(Reason)
    end.
