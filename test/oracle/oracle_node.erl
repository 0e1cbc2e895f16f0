%% The oracle's agent on a node: starts hubs, collects what they and the mortals report, and
%% disturbs the lanes. Everything is called over the control channel, not over the distribution.
-module(oracle_node).

-export([init/2, prepare/1, go/1, ctl/1, idle/0, live_mortals/0, report/0, waiting_for/0, quit/0]).
-export([violations/0, chaos/2, chaos_stop/0, lanes_paused/0, connected/0]).

-record(st, {hubs = [], mortals = #{}, done = #{}, stats = [], violations = [], chaos = [],
             paused = {0, 0}, connected = []}).

-define(MAX_VIOLATIONS, 200).
%% Test verbs of the port, docs/architecture.md.
-define(TEST, 6).
-define(PAUSE_SEND, 1).
-define(PAUSE_RECV, 3).

init(Seed, PoolSeed) ->
    oracle_gen:make_pool(PoolSeed),
    Self = self(),
    spawn(fun() ->
              register(?MODULE, self()),
              oracle_gen:seed({Seed, node}),
              ok = net_kernel:monitor_nodes(true),
              Self ! {ready, self()},
              loop(#st{})
          end),
    receive {ready, _} -> ok end.

call(Req) ->
    Ref = erlang:monitor(process, ?MODULE),
    ?MODULE ! {call, self(), Ref, Req},
    receive
        {Ref, Answer} -> erlang:demonitor(Ref, [flush]), Answer;
        {'DOWN', Ref, _, _, Reason} -> error({oracle_node, Reason})
    end.

prepare(Cfg) -> call({prepare, Cfg}).
go(Targets) -> ctl({go, [T || #{pid := P} = T <- Targets, node(P) =/= node()]}).
ctl(stop) -> call({to_hubs, {ctl, stop}});
ctl(finish) -> call({to_hubs, {ctl, finish}});
ctl({go, Targets}) -> call({to_hubs, {ctl, go, Targets}}).
quit() -> call(quit).
live_mortals() -> call(live_mortals).
violations() -> call(violations).
report() -> call(report).
chaos(Lanes, Seed) -> call({chaos, Lanes, Seed}).
chaos_stop() -> call(chaos_stop).
lanes_paused() -> call(lanes_paused).
%% The nodes that monitors of nodes know as up. nodes/0 is ahead of them: the VM first cleans up after a
%% lost connection, which may take it a while, and then tells of nodedown. Who begins to monitor in
%% between gets the nodedown of a connection he has never seen.
connected() -> call(connected).

%% Spawn requests and children of all hubs that are not finished.
idle() ->
    lists:sum([case ask(H, idle, 0) of N when is_integer(N) -> N; _ -> 1 end || H <- call(hubs)]).

waiting_for() ->
    [{H, ask(H, waiting_for, gone), process_info(H, [message_queue_len, status])}
     || H <- call(hubs)]
        ++ [{M, process_info(M, [message_queue_len, status, current_stacktrace])}
            || M <- maps:get(mortals, report())].

ask(Hub, What, Default) ->
    Ref = erlang:monitor(process, Hub),
    Hub ! {ctl, What, self(), Ref},
    receive
        {Ref, A} -> erlang:demonitor(Ref, [flush]), A;
        {'DOWN', Ref, _, _, _} -> Default
    after 5000 ->
        erlang:demonitor(Ref, [flush]),
        {no_answer, process_info(Hub, [status, current_stacktrace, message_queue_len])}
    end.

loop(S) ->
    receive
        {call, From, Ref, Req} ->
            {Answer, S1} = handle(Req, S),
            From ! {Ref, Answer},
            loop(S1);
        {mortal, Pid} ->
            Ref = erlang:monitor(process, Pid),
            loop(S#st{mortals = (S#st.mortals)#{Ref => Pid}});
        {mortal_stats, Stats} ->
            loop(S#st{stats = merge([Stats | S#st.stats])});
        {hub_done, Pid, Stats} ->
            loop(S#st{done = (S#st.done)#{Pid => true}, stats = merge([Stats | S#st.stats])});
        {violation, Pid, What} ->
            V = {Pid, What},
            loop(S#st{violations = case length(S#st.violations) < ?MAX_VIOLATIONS of
                                       true -> S#st.violations ++ [V];
                                       false -> S#st.violations
                                   end});
        {nodeup, N} ->
            loop(S#st{connected = [N | S#st.connected]});
        {nodedown, N} ->
            loop(S#st{connected = lists:delete(N, S#st.connected)});
        {paused, Applied, Refused} ->
            {A, R} = S#st.paused,
            loop(S#st{paused = {A + Applied, R + Refused}});
        {'DOWN', Ref, process, Pid, Reason} ->
            case maps:take(Ref, S#st.mortals) of
                {Pid, Rest} -> loop(S#st{mortals = Rest});
                error ->
                    V = {Pid, {oracle_process_died, Reason}},
                    loop(S#st{violations = [V || Reason =/= normal] ++ S#st.violations})
            end
    end.

handle({prepare, #{hubs := N} = Cfg}, S) ->
    Started = [oracle_hub:start(I, Cfg) || I <- lists:seq(1, N)],
    [erlang:monitor(process, P) || {P, _} <- Started],
    {[T || {_, T} <- Started], S#st{hubs = [P || {P, _} <- Started], done = #{}, mortals = #{}}};
handle({to_hubs, Msg}, S) ->
    [H ! Msg || H <- S#st.hubs],
    {ok, S};
handle(hubs, S) -> {S#st.hubs, S};
handle(live_mortals, S) -> {maps:size(S#st.mortals), S};
handle(violations, S) -> {S#st.violations, S};
handle(report, S) ->
    {#{done => maps:size(S#st.done), hubs => length(S#st.hubs), stats => merge(S#st.stats),
       mortals => maps:values(S#st.mortals)}, S};
handle(quit, S) ->
    [H ! {ctl, quit} || H <- S#st.hubs],
    {ok, S#st{hubs = []}};
handle({chaos, Lanes, Seed}, S) ->
    Self = self(),
    Pids = [spawn(fun() -> oracle_gen:seed({Seed, chaos, I}), chaos_loop(Lanes, Self) end)
            || I <- lists:seq(1, max(1, Lanes div 2))],
    {ok, S#st{chaos = Pids}};
handle(chaos_stop, S) ->
    Refs = [erlang:monitor(process, P) || P <- S#st.chaos],
    [P ! stop || P <- S#st.chaos],
    [receive {'DOWN', R, process, _, _} -> ok end || R <- Refs],
    {ok, S#st{chaos = []}};
handle(lanes_paused, S) -> {S#st.paused, S};
handle(connected, S) -> {S#st.connected, S}.

%% ---- chaos ---------------------------------------------------------------------------------

%% Each worker holds one lane for at most 50 ms; there are half as many workers as lanes.
chaos_loop(Lanes, Node) ->
    Ports = [P || {_, P} <- erlang:system_info(dist_ctrl), is_port(P),
                  erlang:port_info(P, name) =:= {name, "partisan_drv"}],
    Pause = case Ports of
                [] -> 5;
                _ -> disturb(oracle_gen:pick(Ports), rand:uniform(Lanes) - 1, Node)
            end,
    receive stop -> ok after Pause -> chaos_loop(Lanes, Node) end.

disturb(Port, Lane, Node) ->
    What = oracle_gen:pick([?PAUSE_SEND, ?PAUSE_RECV]),
    case test_verb(Port, What, Lane) of
        ok ->
            %% mostly a jitter, sometimes long enough for the rest to run far ahead
            Ms = case oracle_gen:chance(4) of true -> rand:uniform(50); false -> rand:uniform(6) end,
            receive after Ms -> ok end,
            _ = test_verb(Port, What + 1, Lane),
            Node ! {paused, 1, 0},
            rand:uniform(10) - 1;
        refused ->
            Node ! {paused, 0, 1},
            20
    end.

%% No binary pattern here: what OTP 25 compiles from one is not loaded by OTP 29, and nodes of both run
%% the same object code (--other-erl).
test_verb(Port, What, Lane) ->
    try binary:first(erlang:port_control(Port, ?TEST, <<What:8, Lane:8, 0:32>>)) of
        0 -> ok;
        _ -> refused
    catch
        error:badarg -> refused     % the connection is gone
    end.

%% ---- statistics ----------------------------------------------------------------------------

merge([One]) -> [One];
merge([]) -> [];
merge(L) -> [lists:foldl(fun merge/2, #{}, L)].

merge(A, B) ->
    maps:fold(fun(counts, V, Acc) ->
                      Acc#{counts => sum(V, maps:get(counts, Acc, #{}))};
                 (biggest, V, Acc) ->
                      Acc#{biggest => max(V, maps:get(biggest, Acc, 0))};
                 (K, V, Acc) ->
                      Acc#{K => V + maps:get(K, Acc, 0)}
              end, B, A).

sum(A, B) ->
    maps:fold(fun(K, V, Acc) -> Acc#{K => V + maps:get(K, Acc, 0)} end, A, B).
