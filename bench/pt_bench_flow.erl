%% One worker on the first node and its partner on the second: the loops that are measured.
%% See pt_bench_work for the parts and the messages.
-module(pt_bench_flow).
-export([worker/7, partner/5]).

%% How many small messages a flow sends between two looks at the clock.
-define(CLOCK_EVERY, 32).

-spec worker(Boss, Tag :: reference(), node(), Part, Hist, Flow, FullEvery) -> ok when
    Boss :: pid(),
    Part :: pt_bench_work:part(),
    Hist :: pt_bench_hist:hist(),
    Flow :: pos_integer(),
    FullEvery :: pos_integer().
worker(Boss, Tag, Node, #{kind := Kind, size := Size} = Part, Hist, Flow, Full) ->
    %% Off-heap queues: the collector must not walk a long mailbox again and again.
    Opts = [link, {message_queue_data, off_heap}],
    Window = maps:get(window, Part, infinity),
    Partner = spawn_opt(Node, ?MODULE, partner, [self(), {Kind, Window}, Size, Flow, Full], Opts),
    receive {hello, Partner} -> ok end,
    Boss ! {ready, Tag, self(), ok},
    receive {go, Tag, Start, Ms} -> ok end,
    Set = pt_bench_payload:set(Size),
    Via = pt_bench_via:current(),
    Inset = maps:get(inset_ms, Part, 0),
    Inset > 0 andalso timer:sleep(Inset),
    Until = Start + erlang:convert_time_unit(Ms - Inset, millisecond, native),
    Result =
        case Kind of
            echo ->
                echo(Via, Partner, Hist, Flow, Full, Set, Until);
            flow ->
                Payload = maps:get(payload, Part, pool),
                Every = case Size < pt_bench_payload:page() of true -> ?CLOCK_EVERY; false -> 1 end,
                flow(Via, Partner, Window, Payload, Every, Flow, Set, Until)
        end,
    Boss ! {result, Tag, self(), Result},
    ok.

%%% echo

echo(Via, Partner, Hist, Flow, Full, Set, Until) ->
    {Sent, Proof} = echo_loop(1, Via, Partner, Hist, Flow, Full, Set, Until, pt_bench_proof:new()),
    Ended = erlang:monotonic_time(),
    {Report, _First, _Last} = finish(Via, Partner, Sent),
    Mine = pt_bench_proof:finish(Sent, Proof),
    #{proof => pt_bench_proof:merge([Report, Mine]), messages => Sent, ended => Ended}.

echo_loop(Seq, Via, Partner, Hist, Flow, Full, Set, Until, Proof) ->
    {Crc, Bin} = pt_bench_payload:get(Flow, Seq, Set),
    T0 = erlang:monotonic_time(),
    pt_bench_via:send(Via, Partner, {Seq, Crc, Bin}),
    {GotSeq, GotCrc, GotBin} = receive {_, _, _} = Got -> Got end,
    T1 = erlang:monotonic_time(),
    pt_bench_hist:add(Hist, erlang:convert_time_unit(T1 - T0, native, nanosecond)),
    Intact = pt_bench_payload:intact(Flow, GotSeq, GotCrc, GotBin, Full, Set),
    Proof1 = pt_bench_proof:seen(GotSeq, Intact, Proof),
    case T1 < Until of
        true -> echo_loop(Seq + 1, Via, Partner, Hist, Flow, Full, Set, Until, Proof1);
        false -> {Seq, Proof1}
    end.

%%% flow

flow(Via, Partner, Window, Payload, Every, Flow, Set, Until) ->
    Sent = flow_loop(1, Via, Every, Window, Partner, Payload, Every, Flow, Set, Until),
    {Report, First, Last} = finish(Via, Partner, Sent),
    #{proof => Report, messages => Sent, first => First, last => Last}.

flow_loop(Seq, Via, Tick, 0, Partner, Payload, Every, Flow, Set, Until) ->
    receive {ack, _} -> ok end,
    flow_loop(Seq, Via, Tick, 1, Partner, Payload, Every, Flow, Set, Until);
flow_loop(Seq, Via, 0, Room, Partner, Payload, Every, Flow, Set, Until) ->
    case erlang:monotonic_time() < Until of
        true -> flow_loop(Seq, Via, Every, Room, Partner, Payload, Every, Flow, Set, Until);
        false -> Seq - 1
    end;
flow_loop(Seq, Via, Tick, Room, Partner, Payload, Every, Flow, Set, Until) ->
    {Crc, Bin} =
        case Payload of
            pool -> pt_bench_payload:get(Flow, Seq, Set);
            fresh -> pt_bench_payload:fresh(Flow, Seq, Set)
        end,
    pt_bench_via:send(Via, Partner, {Seq, Crc, Bin}),
    Room1 = take(Room),
    flow_loop(Seq + 1, Via, Tick - 1, Room1, Partner, Payload, Every, Flow, Set, Until).

take(infinity) -> infinity;
take(Room) -> Room - 1.

%% The end of a flow: the partner's report, with the times of the first and the last message.
finish(Via, Partner, Sent) ->
    pt_bench_via:send(Via, Partner, {done, Sent}),
    receive {report, Partner, Report, First, Last} -> {Report, First, Last} end.

%%% the other side

-spec partner(Worker :: pid(), {echo | flow, Window}, Size, Flow, FullEvery) -> ok when
    Window :: pos_integer() | infinity,
    Size :: pos_integer(),
    Flow :: pos_integer(),
    FullEvery :: pos_integer().
partner(Worker, What, Size, Flow, Full) ->
    Worker ! {hello, self()},
    Set = pt_bench_payload:set(Size),
    Via = pt_bench_via:current(),
    receive
        Message ->
            First = erlang:monotonic_time(),
            partner_loop(Message, Via, Worker, What, Flow, Full, Set, First, pt_bench_proof:new())
    end.

partner_loop({Seq, Crc, Bin} = Message, Via, Worker, What, Flow, Full, Set, First, Proof) ->
    Intact = pt_bench_payload:intact(Flow, Seq, Crc, Bin, Full, Set),
    case What of
        {echo, _} -> pt_bench_via:send(Via, Worker, Message);
        {flow, infinity} -> ok;
        {flow, _} -> pt_bench_via:send(Via, Worker, {ack, Seq})
    end,
    partner_next(Via, Worker, What, Flow, Full, Set, First, pt_bench_proof:seen(Seq, Intact, Proof));
partner_loop({done, Sent}, _Via, Worker, _What, _Flow, _Full, _Set, First, Proof) ->
    Last = erlang:monotonic_time(),
    %% What comes after the end was doubled or overtaken by it.
    Late = drain(Proof),
    Worker ! {report, self(), pt_bench_proof:finish(Sent, Late), First, Last},
    ok;
partner_loop(_Garbage, Via, Worker, What, Flow, Full, Set, First, Proof) ->
    partner_next(Via, Worker, What, Flow, Full, Set, First, pt_bench_proof:garbage(Proof)).

partner_next(Via, Worker, What, Flow, Full, Set, First, Proof) ->
    receive
        Message -> partner_loop(Message, Via, Worker, What, Flow, Full, Set, First, Proof)
    end.

drain(Proof) ->
    receive
        {Seq, _, _} -> drain(pt_bench_proof:seen(Seq, true, Proof));
        _ -> drain(pt_bench_proof:garbage(Proof))
    after 0 -> Proof
    end.
