%% Tests of the workloads' judgement, part of `bench/run --self-test': whole cells inside one VM, over
%% a way to send that loses, doubles, swaps or damages a message, and services whose partitions err.
-module(pt_bench_work_test).
-export([run/0]).

-define(TESTS, [
    fun sound/0, fun faults/0, fun after_the_end/0, fun lost_request/0, fun damaged_terms/0, fun call_faults/0,
    fun due_times/0, fun service/0, fun service_faults/0, fun stale_read/0, fun quorum_faults/0
]).

-spec run() -> pos_integer().
run() ->
    [ok = Test() || Test <- ?TESTS],
    length(?TESTS).

part(Kind) -> #{kind => Kind, procs => 2, size => 64}.

%% What nobody waits for in vain does not stall, however busy the machine is.
cell(Part) ->
    #{parts => [Part], ms => 60, warm_ms => 0, full_every => 1, stall_ms => 60000, seed => 1}.

%% The result of a cell of which both nodes are this one, with what is sent going through Send.
cell(Part, Send) ->
    run_cell(cell(Part), Send).

run_cell(Cell, Send) ->
    ok = pt_bench_work:prepare(Cell, first),
    pt_bench_via:set(Send),
    Result = pt_bench_work:run(Cell, node(), [os:getpid()]),
    pt_bench_via:set(dist),
    ok = pt_bench_payload:forget(),
    Result.

proof({ok, #{parts := [#{proof := Proof}]}}) -> Proof.

sound() ->
    [
        begin
            {ok, #{parts := [#{messages := N, proof := Proof, latency_us := L}]}} = cell(Part, dist),
            {true, Part} = {pt_bench_proof:is_ok(Proof), Part},
            {true, Part} = {N > 0, Part},
            {true, Part} = {maps:get(kind, Part) =:= flow orelse is_number(maps:get(p50, L)), Part}
        end
     || Part <- [
            part(echo), part(flow), part(pair), part(call), (part(open))#{every_ms => 2},
            (part(flow))#{window => 1, total => 1}, (part(flow))#{window => 8, ack_every => 4},
            (part(echo))#{form => map},
            (part(flow))#{form => list, size => 1000}, (part(flow))#{from => peers},
            (part(echo))#{inset_ms => 10}
        ]
    ],
    ok.

%% Each fault hits one message to the partner that is not an end or an answer.
faults() ->
    Small = [part(flow), (part(flow))#{form => list}, (part(flow))#{form => map}],
    [
        begin
            Proof = proof(cell(Part#{procs := 1}, {test, fault(Fault)})),
            {false, Fault, Part} = {pt_bench_proof:is_ok(Proof), Fault, Part},
            {true, Fault, Proof} = {maps:get(Fault, Proof) > 0, Fault, Proof}
        end
     || Part <- Small, Fault <- [lost, doubled, reordered, corrupt]
    ],
    %% Requests at fixed times have several under way, so a doubled answer shows as one.
    Open = (part(open))#{every_ms => 1, procs := 1},
    [
        begin
            Proof = proof(cell(Open, {test, fault(Fault)})),
            {true, Fault, Proof} = {maps:get(Fault, Proof) > 0, Fault, Proof}
        end
     || Fault <- [doubled, reordered, corrupt]
    ],
    ok.

%% Does the fault to message 5, once; remembers in the process dictionary of the sender.
fault(Fault) ->
    fun
        (Pid, {5, Crc, Content} = Message) ->
            case {Fault, put(fault, done)} of
                {_, done} -> Pid ! Message;
                {lost, _} -> ok;
                {doubled, _} -> [Pid ! Message || _ <- [1, 2]];
                {reordered, _} -> put(held, Message);
                {corrupt, _} -> Pid ! {5, Crc, damaged(Content)}
            end;
        (Pid, Message) ->
            Pid ! Message,
            case erase(held) of
                undefined -> ok;
                Held -> Pid ! Held
            end
    end.

damaged(<<Byte, Rest/binary>>) -> <<(Byte bxor 1), Rest/binary>>;
damaged([Int | Rest]) -> [Int + 1 | Rest];
damaged(Map) -> maps:map(fun(_, {Who, Name, V, [N | L]}) -> {Who, Name, V, [N + 1 | L]} end, Map).

%% What comes behind the end was doubled or overtaken by it.
after_the_end() ->
    Cell = cell(part(flow)),
    ok = pt_bench_work:prepare(Cell, first),
    Set = pt_bench_payload:set(64),
    {Crc, Bin} = pt_bench_payload:get(1, 1, Set),
    Job = #{part => part(flow), flow => 1, full => 1},
    Partner = spawn_link(pt_bench_flow, partner, [self(), Job]),
    receive {hello, Partner} -> ok end,
    true = erlang:suspend_process(Partner),
    [Partner ! M || M <- [{1, Crc, Bin}, {done, 1}, {1, Crc, Bin}]],
    true = erlang:resume_process(Partner),
    receive {report, Partner, #{doubled := 1, lost := 0}, _, _} -> ok end,
    ok = pt_bench_payload:forget(),
    ok.

%% Who waits for an answer that cannot come ends the cell, and does not count.
lost_request() ->
    [
        stalled((cell(Part#{procs := 1}))#{stall_ms := 300}, 20)
     || Part <- [part(echo), part(pair), (part(open))#{every_ms => 1}]
    ],
    ok.

%% On a machine that paused, a cell may be over before its message 5, which is the one that is lost.
stalled(Cell, Tries) ->
    case run_cell(Cell, {test, fault(lost)}) of
        {stalled, _} -> ok;
        {ok, #{parts := [#{messages := N}]}} when N < 5, Tries > 0 -> stalled(Cell, Tries - 1)
    end.

%% A term belongs to its message only.
damaged_terms() ->
    [
        begin
            ok = pt_bench_term:prepare(Form, 1024),
            Set = pt_bench_term:set(Form, 1024),
            {Hash, Term} = pt_bench_term:get(3, 10, Set),
            Size = erlang:external_size(Term),
            {true, Form, Size} = {Size > 850 andalso Size < 1200, Form, Size},
            true = pt_bench_term:intact(3, 10, Hash, Term, Set),
            false = pt_bench_term:intact(3, 11, Hash, Term, Set),
            false = pt_bench_term:intact(4, 10, Hash, Term, Set),
            false = pt_bench_term:intact(3, x, Hash, Term, Set),
            false = pt_bench_term:intact(3, 10, Hash + 1, Term, Set),
            false = pt_bench_term:intact(3, 10, Hash, damaged(Term), Set)
        end
     || Form <- [list, map]
    ],
    ok.

call_faults() ->
    ok = pt_bench_payload:prepare(64, with_pool, 1),
    Set = pt_bench_payload:set(64),
    Message = fun(Seq) -> {Crc, Bin} = pt_bench_payload:get(1, Seq, Set), {Seq, Crc, Bin} end,
    {3, Crc3, Bin3} = Message(3),
    From = {self(), make_ref()},
    [
        begin
            {ok, State} = pt_bench_call:init(#{part => part(call), flow => 1, full => 1}),
            Last = lists:foldl(
                fun(Request, S) ->
                    {reply, Request, S1} = pt_bench_call:handle_call(Request, From, S),
                    S1
                end,
                State,
                Requests
            ),
            {reply, Report, _} = pt_bench_call:handle_call({done, 3}, From, Last),
            {Want, Report} = {maps:with(maps:keys(Want), Report), Report}
        end
     || {Want, Requests} <- [
            {#{lost => 0, doubled => 0, reordered => 0, corrupt => 0}, [Message(I) || I <- [1, 2, 3]]},
            {#{lost => 1}, [Message(I) || I <- [1, 3]]},
            {#{doubled => 1}, [Message(I) || I <- [1, 2, 2, 3]]},
            {#{reordered => 1}, [Message(I) || I <- [2, 1, 3]]},
            {#{corrupt => 1}, [Message(1), Message(2), {3, Crc3, damaged(Bin3)}]}
        ]
    ],
    ok = pt_bench_payload:forget(),
    ok.

%% A request that a hold-up made late counts from when it was due: of a hold-up of 30 ms at the
%% sender about a half of the requests in it are late by more than 15 ms.
due_times() ->
    Hold = fun
        (Pid, {Seq, _, _} = Message) ->
            Seq =:= 10 andalso get(held) =:= undefined andalso begin put(held, yes), timer:sleep(30) end,
            Pid ! Message;
        (Pid, Message) ->
            Pid ! Message
    end,
    {ok, #{parts := [#{histogram := Buckets}]}} =
        cell((part(open))#{every_ms => 1, procs := 1}, {test, Hold}),
    Late = lists:sum([N || [I, N] <- Buckets, element(1, pt_bench_hist:bounds(I)) > 15000000]),
    {true, Late} = {Late >= 10, Late},
    ok.

%%% the service

service_part(Kind) -> (part(Kind))#{from => all, peers => 2, procs := 3}.

service_cell(Part) ->
    Cell = cell(Part),
    ok = pt_bench_work:prepare(Cell, first),
    Nodes = [node(), node()],
    Service = pt_bench_kvs:start(Part, Nodes),
    {Cell, Service}.

%% Runs the clients of a service inside this VM, as pt_bench_work does.
clients(Part, Service) ->
    Tag = make_ref(),
    Pids = [
        spawn_link(pt_bench_kvs, worker, [
            #{
                boss => self(), tag => Tag, part => Part, flow => Flow, node => node(),
                nodes => [node(), node()], hist => pt_bench_hist:new(), full => 1, shared => Service
            }
        ])
     || Flow <- lists:seq(1, 3)
    ],
    [receive {ready, Tag, Pid, ok} -> ok end || Pid <- Pids],
    [Pid ! {go, Tag, 60} || Pid <- Pids],
    [receive {result, Tag, Pid, Result} -> Result end || Pid <- Pids].

service() ->
    [
        begin
            {_, Service} = service_cell(service_part(Kind)),
            Results = clients(service_part(Kind), Service),
            true = lists:all(fun(#{messages := N, buckets := B}) -> N > 0 andalso B =/= [] end, Results),
            Reports = pt_bench_kvs:stop(Service, [P || #{proof := P} <- Results]),
            Proof = pt_bench_proof:merge(Reports),
            {true, Proof} = {pt_bench_proof:is_ok(Proof), Proof}
        end
     || Kind <- [vnode, kvs]
    ],
    ok = pt_bench_payload:forget(),
    ok.

%% A request that no client sent, and one with damaged content.
service_faults() ->
    Part = service_part(kvs),
    {_, #{ring := Ring} = Service} = service_cell(Part),
    Results = clients(Part, Service),
    Set = pt_bench_flow:set(Part),
    {Crc, Bin} = pt_bench_flow:payload(1, 1, Set),
    pt_bench_vnode:put(element(7, Ring), make_ref(), {key, {1, 1, Crc, damaged(Bin)}}),
    Reports = pt_bench_kvs:stop(Service, [P || #{proof := P} <- Results]),
    #{doubled := 1, corrupt := 1, lost := 0} = pt_bench_proof:merge(Reports),
    {_, Service2} = service_cell(Part),
    Results2 = clients(Part, Service2),
    [#{sent := N} = First | Rest] = [P || #{proof := P} <- Results2],
    %% As if a coordinator had sent one more.
    #{lost := 1} = pt_bench_proof:merge(pt_bench_kvs:stop(Service2, [First#{sent := N + 1} | Rest])),
    ok = pt_bench_payload:forget(),
    ok.

%% Partitions that forget all writes but the first. A machine that paused may have had time for no more.
stale_read() -> stale_read(20).

stale_read(Tries) ->
    Part = (service_part(kvs))#{size := 64, procs := 3},
    ok = pt_bench_work:prepare(cell(Part), first),
    Forgetful = [spawn_link(fun() -> forgetful(#{}) end) || _ <- [1, 2, 3]],
    [#{proof := Proof} | _] = clients(Part, #{ring => list_to_tuple(Forgetful), keeper => self()}),
    #{lost := Lost} = Proof,
    [begin unlink(P), exit(P, kill) end || P <- Forgetful],
    ok = pt_bench_payload:forget(),
    case Lost of
        0 when Tries > 0 -> stale_read(Tries - 1);
        _ -> {true, Proof} = {Lost > 0, Proof}, ok
    end.

forgetful(Store) ->
    receive
        {'$gen_cast', {put, From, Tag, Key, Object}} ->
            From ! {Tag, self(), ok},
            forgetful(maps:merge(#{Key => Object}, Store));
        {'$gen_cast', {get, From, Tag, Key}} ->
            From ! {Tag, self(), maps:get(Key, Store, notfound)},
            forgetful(Store)
    end.

%% A replica that answers twice, and one that never does.
quorum_faults() ->
    Answers = fun(N) ->
        spawn_link(fun() ->
            receive
                {'$gen_cast', {get, From, Tag, key}} ->
                    [From ! {Tag, self(), notfound} || _ <- lists:seq(1, N)],
                    receive stop -> ok end
            end
        end)
    end,
    Twice = [Answers(2), Answers(1), Answers(1)],
    [notfound, notfound] = pt_bench_quorum:run({get, key}, Twice, make_ref()),
    {3, 3, 1} = receive {ended, Tally} -> Tally end,
    Never = [Answers(1), Answers(1), Answers(0)],
    [notfound, notfound] = pt_bench_quorum:run({get, key}, Never, make_ref()),
    none = receive {ended, _} -> some after 50 -> none end,
    [P ! stop || P <- Twice ++ Never],
    ok.
