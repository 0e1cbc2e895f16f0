%% The packet scanner on packets that this VM's distribution makes: for each way to send a signal,
%% the form, the operation, and that the sender it finds is the process that sent it.
-module(prop_dop_vm).

-include("pt_proper.hrl").

-import(proper, [aggregate/2]).
-import(proper_types, [boolean/0, list/1, oneof/1]).

-export([prop_signals/0, prop_signals_while_pending/0, capture/1]).

-define(PAYLOAD, {payload, lists:seq(1, 10)}).

prop_signals() ->
    set_up(?FORALL({AtomCache, Names}, {boolean(), list(oneof(signals()))},
        begin
            Env = partisan_vm_signals:start(AtomCache),
            Seen = lists:append([signal(Name, Env) || Name <- Names]),
            ok = partisan_vm_signals:stop(Env),
            agree(AtomCache, Seen)
        end)).

%% Before the peer's features are known the VM uses the oldest operations: SEND has no sender. Nor
%% does it use the atom cache.
prop_signals_while_pending() ->
    set_up(?FORALL({AtomCache, Names}, {boolean(), list(oneof(pending_signals()))},
        begin
            Self = self(),
            Env = partisan_vm_signals:start(AtomCache, fun(Pending) ->
                Self ! {expected, [pending_signal(Name, Pending) || Name <- Names]}
            end),
            Expected = receive {expected, E} -> lists:append(E) end,
            Packets = take(Env, length(Expected)),
            ok = partisan_vm_signals:stop(Env),
            agree(false, lists:zip(Packets, Expected))
        end)).

set_up(Property) ->
    ?SETUP(fun() ->
               Scanner = partisan_scan_port:start(),
               persistent_term:put(?MODULE, Scanner),
               %% net_kernel complains of connections that it did not ask for.
               #{level := Level} = logger:get_primary_config(),
               ok = logger:set_primary_config(level, none),
               fun() ->
                   partisan_scan_port:stop(Scanner),
                   _ = net_kernel:stop(),
                   logger:set_primary_config(level, Level)
               end
           end,
           Property).

%% --- the judgement ---------------------------------------------------------------------

%% [{Packet, {Form, Op, Order, Sender}}]
agree(AtomCache, Seen) ->
    Wrong = [{Packet, Expected, Found} || {Packet, Expected} <- Seen,
                                          Found <- [found(AtomCache, Packet, Expected)],
                                          Found =/= Expected],
    ?WHENFAIL(io:format("{packet, expected, found}: ~p~n", [Wrong]),
              aggregate([Op || {_, {_, Op, _, _}} <- Seen], Wrong =:= [])).

%% In the form of the expectation, with the pid replaced by `other' if the key is not its. Every
%% control tuple names a node, so with the cache there is a reference, and without there is none.
found(AtomCache, Packet, {_, _, _, Sender}) ->
    #{form := Scanned, order := Order, op := Op, key := Key, name := Name, atoms := Atoms} =
        scan(Packet),
    Form = case Atoms > 0 of
               AtomCache -> Scanned;
               _ when Scanned =:= frag_next -> Scanned;
               _ -> {Scanned, Atoms}
           end,
    {Form, case Op of 0 -> none; _ -> binary_to_atom(Name) end, Order,
     case key(Sender) of Key -> Sender; _ -> other end}.

key(none) ->
    0;
key(Pid) ->
    <<131, Bare/binary>> = term_to_binary(Pid),
    maps:get(key, scan(<<131, 68, 0, 104, 3, 97, 1, Bare/binary, 106>>)).

scan(Packet) ->
    partisan_scan_port:scan(persistent_term:get(?MODULE), {Packet, byte_size(Packet)}).

%% --- signals ---------------------------------------------------------------------------

%% Every operation that OTP 25 sends to a peer of its own kind.
signals() ->
    [send_pid, send_name, send_alias, send_pid_traced, send_name_traced, send_alias_traced,
     send_large, link_unlink, link_exit, link_exit_traced, linked_to_nobody, exit,
     monitor_demonitor, monitor_name, monitored_exit, monitored_name_exit, monitored_nobody,
     monitored_no_name, unlink_ack, group_leader, spawn_request, spawn_request_traced, spawned,
     spawn_refused].

signal(send_pid, Env) ->
    one(Env, 'SEND_SENDER', fun() -> pid(Env) ! ?PAYLOAD end);
signal(send_name, Env) ->
    one(Env, 'REG_SEND', fun() -> name(Env) ! ?PAYLOAD end);
signal(send_alias, Env) ->
    one(Env, 'ALIAS_SEND', fun() -> alias_of(Env) ! ?PAYLOAD end);
signal(send_pid_traced, Env) ->
    one(Env, 'SEND_SENDER_TT', traced(fun() -> pid(Env) ! ?PAYLOAD end));
signal(send_name_traced, Env) ->
    one(Env, 'REG_SEND_TT', traced(fun() -> name(Env) ! ?PAYLOAD end));
signal(send_alias_traced, Env) ->
    one(Env, 'ALIAS_SEND_TT', traced(fun() -> alias_of(Env) ! ?PAYLOAD end));
signal(send_large, Env) ->
    Worker = worker(),
    do(Worker, fun() -> pid(Env) ! binary:copy(<<"large">>, 60000) end),
    Packets = partisan_vm_signals:take(Env, fun fragments_complete/1),
    finish(Worker),
    lists:zip(Packets, [{frag_first, 'SEND_SENDER', sender, Worker}
                        | [{frag_next, none, sender, none} || _ <- tl(Packets)]]);
signal(link_unlink, Env) ->
    Pid = pid(Env),
    steps(Env, [{'LINK', fun() -> link(Pid) end}, {'UNLINK_ID', fun() -> unlink(Pid) end}]);
signal(link_exit, Env) ->
    steps(Env, [{'LINK', fun() -> link(pid(Env)) end},
                {'PAYLOAD_EXIT', fun() -> exit(?PAYLOAD) end}]);
signal(link_exit_traced, Env) ->
    steps(Env, [{'LINK', fun() -> link(pid(Env)) end},
                {'PAYLOAD_EXIT_TT', fun() -> token(), exit(?PAYLOAD) end}]);
signal(linked_to_nobody, Env) ->
    Dead = dead(),
    given(Env, [{1, pid(Env), Dead}], {whole, 'PAYLOAD_EXIT', sender, Dead});
signal(exit, Env) ->
    one(Env, 'PAYLOAD_EXIT2', fun() -> exit(pid(Env), ?PAYLOAD) end);
signal(monitor_demonitor, Env) ->
    steps(Env, [{'MONITOR_P', fun() -> put(ref, monitor(process, pid(Env))) end},
                {'DEMONITOR_P', fun() -> demonitor(get(ref)) end}]);
signal(monitor_name, Env) -> % and the end of the monitoring process
    steps(Env, [{'MONITOR_P', fun() -> monitor(process, name(Env)) end},
                {'DEMONITOR_P', fun() -> exit(normal) end}]);
signal(monitored_exit, Env) ->
    Worker = worker(),
    monitored(Env, Worker, Worker, {whole, 'PAYLOAD_MONITOR_P_EXIT', sender, Worker});
signal(monitored_name_exit, Env) ->
    Worker = worker(),
    Name = list_to_atom("monitored" ++ integer_to_list(erlang:unique_integer([positive]))),
    true = register(Name, Worker),
    monitored(Env, Worker, Name, {whole, 'PAYLOAD_MONITOR_P_EXIT', half_fence, none});
signal(monitored_nobody, Env) ->
    Dead = dead(),
    given(Env, [{19, pid(Env), Dead, ref(Env)}], {whole, 'PAYLOAD_MONITOR_P_EXIT', sender, Dead});
signal(monitored_no_name, Env) ->
    given(Env, [{19, pid(Env), nobody_has_this_name, ref(Env)}],
          {whole, 'PAYLOAD_MONITOR_P_EXIT', half_fence, none});
signal(unlink_ack, Env) ->
    Worker = worker(),
    Pid = pid(Env),
    partisan_vm_signals:give(Env, [{1, Pid, Worker}]),
    Seen = given(Env, [{35, 1 bsl 62, Pid, Worker}], {whole, 'UNLINK_ID_ACK', sender, Worker}),
    finish(Worker),
    Seen;
signal(group_leader, Env) ->
    Worker = worker(),
    do(Worker, fun() -> group_leader(self(), pid(Env)) end),
    Seen = expect(Env, {whole, 'GROUP_LEADER', fence, none}),
    finish(Worker),
    Seen;
signal(spawn_request, Env) ->
    one(Env, 'SPAWN_REQUEST', fun() -> spawn_request(node_of(Env), m, f, [a], [{reply, no}]) end);
signal(spawn_request_traced, Env) ->
    one(Env, 'SPAWN_REQUEST_TT',
        traced(fun() -> spawn_request(node_of(Env), m, f, [a], [{reply, no}]) end));
signal(spawned, Env) ->
    Call = {partisan_vm_signals, child, 1},
    partisan_vm_signals:give(Env, [{29, ref(Env), pid(Env), pid(Env), Call, []}, [self()]]),
    Child = receive {child, Pid} -> Pid after 30000 -> error(not_spawned) end,
    expect(Env, {whole, 'SPAWN_REPLY', sender, Child});
signal(spawn_refused, Env) ->
    given(Env, [{29, ref(Env), pid(Env), pid(Env), {m, f, 0}, [{no_such, option}]}, []],
          {whole, 'SPAWN_REPLY', free, none}).

pending_signals() -> [send_pid, send_name, exit, monitor].

pending_signal(Name, Env) ->
    Worker = worker(),
    {Op, Order, Sender, Fun} = case Name of
        send_pid -> {'SEND', fence, none, fun() -> pid(Env) ! ?PAYLOAD end};
        send_name -> {'REG_SEND', sender, Worker, fun() -> name(Env) ! ?PAYLOAD end};
        exit -> {'EXIT2', sender, Worker, fun() -> exit(pid(Env), ?PAYLOAD) end};
        monitor -> {'MONITOR_P', sender, Worker, fun() -> monitor(process, pid(Env)) end}
    end,
    do(Worker, Fun),
    finish(Worker),
    [{whole, Op, Order, Sender} | [{whole, 'DEMONITOR_P', sender, Worker} || Name =:= monitor]].

%% --- steps -----------------------------------------------------------------------------

one(Env, Op, Fun) -> steps(Env, [{Op, Fun}]).

%% One process, one packet a step.
steps(Env, Steps) ->
    Worker = worker(),
    Seen = lists:append([begin
                             do(Worker, Fun),
                             expect(Env, {whole, Op, sender, Worker})
                         end || {Op, Fun} <- Steps]),
    finish(Worker),
    Seen.

monitored(Env, Worker, PidOrName, Expected) ->
    partisan_vm_signals:give(Env, [{19, pid(Env), PidOrName, ref(Env)}]),
    %% A reply to a later signal of the same sender tells that the monitor is there.
    Probe = given(Env, [{19, pid(Env), nobody_has_this_name, ref(Env)}],
                  {whole, 'PAYLOAD_MONITOR_P_EXIT', half_fence, none}),
    do(Worker, fun() -> exit(?PAYLOAD) end),
    Probe ++ expect(Env, Expected).

given(Env, Terms, Expected) ->
    partisan_vm_signals:give(Env, Terms),
    expect(Env, Expected).

expect(Env, Expected) -> [{Packet, Expected} || Packet <- take(Env, 1)].

take(Env, N) ->
    Packets = partisan_vm_signals:take(Env, fun(P) -> length(P) >= N end),
    N = length(Packets),
    Packets.

fragments_complete([]) -> false;
fragments_complete(Packets) -> binary:part(lists:last(Packets), 10, 8) =:= <<1:64>>.

traced(Fun) -> fun() -> token(), Fun() end.

token() -> seq_trace:set_token(label, 17).

pid(Env) -> partisan_vm_signals:remote_pid(Env, 4711).
ref(Env) -> partisan_vm_signals:remote_ref(Env, 3, erlang:unique_integer([positive])).
alias_of(Env) -> partisan_vm_signals:remote_ref(Env, 5, 4711).
name(Env) -> {registered, node_of(Env)}.
node_of(Env) -> partisan_vm_signals:node_of(Env).

%% --- processes that send ---------------------------------------------------------------

worker() -> spawn(fun work/0).

work() ->
    receive
        {do, From, Ref, Fun} ->
            Fun(),
            seq_trace:set_token([]),
            From ! {done, Ref},
            work();
        finish ->
            ok
    end.

do(Worker, Fun) ->
    Ref = monitor(process, Worker),
    Worker ! {do, self(), Ref, Fun},
    receive
        {done, Ref} -> demonitor(Ref, [flush]), ok;
        {'DOWN', Ref, process, Worker, _} -> ok
    end.

finish(Worker) ->
    Ref = monitor(process, Worker),
    Worker ! finish,
    receive {'DOWN', Ref, process, Worker, _} -> ok end.

dead() ->
    Worker = worker(),
    finish(Worker),
    Worker.

%% --- samples ---------------------------------------------------------------------------

%% Writes the beginning of one packet of each kind into a directory. The real packets in
%% test/fuzz/corpus/packet were made so.
-spec capture(file:filename()) -> ok.
capture(Dir) ->
    Names = pending_signals(),
    lists:foreach(fun(AtomCache) ->
        Pending = fun(P) -> [pending_signal(N, P) || N <- Names] end,
        Old = partisan_vm_signals:start(AtomCache, Pending),
        New = partisan_vm_signals:start(AtomCache),
        Packets = take(Old, length(Names) + 1) ++ [P || N <- signals(), {P, _} <- signal(N, New)],
        lists:foreach(fun(Packet) ->
            #{form := Form, op := Op} = partisan_dop_twin:scan(Packet),
            Start = binary:part(Packet, 0, min(300, byte_size(Packet))),
            File = io_lib:format("vm_~s_~b~s", [Form, Op, ["_atoms" || AtomCache]]),
            ok = file:write_file(filename:join(Dir, File), Start)
        end, Packets)
    end, [false, true]).
