%% One worker and its partner on another node: the loops that are measured. See pt_bench_work for
%% the kinds and the messages.
-module(pt_bench_flow).
-export([worker/1, partner/2, credits/1, forget/1]).
-export([set/1, payload/3, intact/6, finish/3, partner_of/2]).

%% How many small messages a flow sends between two looks at the clock.
-define(CLOCK_EVERY, 32).

-type set() :: pt_bench_payload:set() | pt_bench_term:set().

-spec worker(pt_bench_work:job()) -> ok.
worker(#{part := #{kind := Kind} = Part} = Job) ->
    Partner = partner_of(?MODULE, Job),
    {_Start, Until} = pt_bench_work:ready(Job),
    Set = set(Part),
    Via = pt_bench_via:of_part(Part),
    Outcome =
        case Kind of
            echo -> echo(Via, Partner, Job, Set, Until);
            pair -> pair(Via, Partner, Job, Set, Until);
            flow -> flow(Via, Partner, Job, Set, Until)
        end,
    pt_bench_work:done(Job, Outcome).

%% Starts Module:partner(Worker, Job) at the other node and waits for its {hello, Partner}.
-spec partner_of(module(), pt_bench_work:job()) -> pid().
partner_of(Module, #{node := Node} = Job) ->
    %% Off-heap queues: the collector must not walk a long mailbox again and again.
    Opts = [link, {message_queue_data, off_heap}],
    Partner = spawn_opt(Node, Module, partner, [self(), maps:with([part, flow, full], Job)], Opts),
    receive {hello, Partner} -> Partner end.

%%% payloads, binaries or terms

-spec set(pt_bench_work:part()) -> set().
set(#{form := Form, size := Size}) when Form =/= binary -> pt_bench_term:set(Form, Size);
set(Part) -> pt_bench_payload:set(pt_bench_work:payload(Part)).

-spec payload(pos_integer(), pos_integer(), set()) -> {Crc :: non_neg_integer(), term()}.
payload(Flow, Seq, Set) when element(1, Set) =:= terms -> pt_bench_term:get(Flow, Seq, Set);
payload(Flow, Seq, Set) -> pt_bench_payload:get(Flow, Seq, Set).

-spec intact(pos_integer(), term(), term(), term(), pos_integer(), set()) -> boolean().
intact(Flow, Seq, Crc, Got, _Full, Set) when element(1, Set) =:= terms ->
    pt_bench_term:intact(Flow, Seq, Crc, Got, Set);
intact(Flow, Seq, Crc, Got, Full, Set) ->
    pt_bench_payload:intact(Flow, Seq, Crc, Got, Full, Set).

%%% echo

echo(Via, Partner, #{hist := Hist, flow := Flow, full := Full}, Set, Until) ->
    {Sent, Proof} = echo_loop(1, Via, Partner, Hist, Flow, Full, Set, Until, pt_bench_proof:new()),
    Ended = os:perf_counter(nanosecond),
    {Report, _First, _Last} = finish(Via, Partner, Sent),
    Mine = pt_bench_proof:finish(Sent, Proof),
    #{proof => pt_bench_proof:merge([Report, Mine]), messages => Sent, ended => Ended}.

echo_loop(Seq, Via, Partner, Hist, Flow, Full, Set, Until, Proof) ->
    {Crc, Payload} = payload(Flow, Seq, Set),
    T0 = erlang:monotonic_time(),
    pt_bench_via:send(Via, Partner, {Seq, Crc, Payload}),
    {GotSeq, GotCrc, Got} = receive {_, _, _} = Message -> Message end,
    T1 = erlang:monotonic_time(),
    pt_bench_hist:add(Hist, erlang:convert_time_unit(T1 - T0, native, nanosecond)),
    Intact = intact(Flow, GotSeq, GotCrc, Got, Full, Set),
    Proof1 = pt_bench_proof:seen(GotSeq, Intact, Proof),
    case T1 < Until of
        true -> echo_loop(Seq + 1, Via, Partner, Hist, Flow, Full, Set, Until, Proof1);
        false -> {Seq, Proof1}
    end.

%%% pair

%% The acknowledgement carries when the message had arrived, by the clock both VMs share.
pair(Via, Partner, #{hist := Hist, flow := Flow}, Set, Until) ->
    Sent = pair_loop(1, Via, Partner, Hist, Flow, Set, Until),
    Ended = os:perf_counter(nanosecond),
    {Report, _First, _Last} = finish(Via, Partner, Sent),
    #{proof => Report, messages => Sent, ended => Ended}.

pair_loop(Seq, Via, Partner, Hist, Flow, Set, Until) ->
    {Crc, Payload} = payload(Flow, Seq, Set),
    Sent = os:perf_counter(nanosecond),
    pt_bench_via:send(Via, Partner, {Seq, Crc, Payload}),
    receive {ack, Seq, Arrived} -> pt_bench_hist:add(Hist, max(0, Arrived - Sent)) end,
    case erlang:monotonic_time() < Until of
        true -> pair_loop(Seq + 1, Via, Partner, Hist, Flow, Set, Until);
        false -> Seq
    end.

%%% flow

flow(Via, Partner, #{part := Part, flow := Flow, shared := Credits}, Set, Until) ->
    #{size := Size} = Part,
    Window = maps:get(window, Part, infinity),
    Payload = maps:get(payload, Part, pool),
    Every = case Size < pt_bench_payload:page() of true -> ?CLOCK_EVERY; false -> 1 end,
    Sent = flow_loop(1, Via, Every, Window, Partner, Payload, Every, Flow, Set, Until, Credits),
    {Report, First, Last} = finish(Via, Partner, Sent),
    #{proof => Report, messages => Sent, first => First, last => Last}.

flow_loop(Seq, Via, Tick, 0, Partner, Payload, Every, Flow, Set, Until, Credits) ->
    Room = receive {ack, Count} -> Count end,
    give_back(Credits),
    flow_loop(Seq, Via, Tick, Room, Partner, Payload, Every, Flow, Set, Until, Credits);
flow_loop(Seq, Via, 0, Room, Partner, Payload, Every, Flow, Set, Until, Credits) ->
    case erlang:monotonic_time() < Until of
        true -> flow_loop(Seq, Via, Every, Room, Partner, Payload, Every, Flow, Set, Until, Credits);
        false -> Seq - 1
    end;
flow_loop(Seq, Via, Tick, Room, Partner, Payload, Every, Flow, Set, Until, Credits) ->
    take(Credits),
    {Crc, Content} =
        case Payload of
            fresh -> pt_bench_payload:fresh(Flow, Seq, Set);
            _ -> payload(Flow, Seq, Set)
        end,
    pt_bench_via:send(Via, Partner, {Seq, Crc, Content}),
    Room1 = less(Room),
    flow_loop(Seq + 1, Via, Tick - 1, Room1, Partner, Payload, Every, Flow, Set, Until, Credits).

less(infinity) -> infinity;
less(Room) -> Room - 1.

%% The end of a flow: the partner's report, with the times of the first and the last message.
-spec finish(pt_bench_via:via(), pid(), non_neg_integer()) ->
    {pt_bench_proof:report(), First :: integer(), Last :: integer()}.
finish(Via, Partner, Sent) ->
    pt_bench_via:send(Via, Partner, {done, Sent}),
    receive {report, Partner, Report, First, Last} -> {Report, First, Last} end.

%%% credits

%% What many flows share when only so many of their messages may be under way together. A flow that
%% uses it has a window of one: with more it would wait here while its own answers, which bring
%% credits back, wait for it.
-spec credits(pos_integer()) -> pid().
credits(Total) ->
    Owner = self(),
    spawn_link(fun() ->
        Mon = monitor(process, Owner),
        lend(Total, queue:new(), Mon)
    end).

-spec forget(pid()) -> ok.
forget(Credits) ->
    Credits ! stop,
    ok.

lend(Free, Waiting, Mon) ->
    receive
        {take, Pid} when Free > 0 ->
            Pid ! {credit, self()},
            lend(Free - 1, Waiting, Mon);
        {take, Pid} ->
            lend(Free, queue:in(Pid, Waiting), Mon);
        give_back ->
            case queue:out(Waiting) of
                {{value, Pid}, Rest} ->
                    Pid ! {credit, self()},
                    lend(Free, Rest, Mon);
                {empty, _} ->
                    lend(Free + 1, Waiting, Mon)
            end;
        stop ->
            ok;
        {'DOWN', Mon, process, _, _} ->
            ok
    end.

take(none) ->
    ok;
take(Credits) ->
    Credits ! {take, self()},
    receive {credit, Credits} -> ok end.

give_back(none) ->
    ok;
give_back(Credits) ->
    Credits ! give_back,
    ok.

%%% the other side

-spec partner(Worker :: pid(), #{part | flow | full := term()}) -> ok.
partner(Worker, #{part := Part, flow := Flow, full := Full}) ->
    Worker ! {hello, self()},
    Set = set(Part),
    What =
        case Part of
            #{kind := flow, window := infinity} -> flow;
            #{kind := flow} -> {flow, maps:get(ack_every, Part, 1)};
            #{kind := Kind} -> Kind
        end,
    Via = pt_bench_via:of_part(Part),
    receive
        Message ->
            First = os:perf_counter(nanosecond),
            partner_loop(Message, Via, Worker, What, Flow, Full, Set, First, pt_bench_proof:new())
    end.

partner_loop({Seq, Crc, Got} = Message, Via, Worker, What, Flow, Full, Set, First, Proof) ->
    case What of
        pair -> pt_bench_via:send(Via, Worker, {ack, Seq, os:perf_counter(nanosecond)});
        _ -> ok
    end,
    Intact = intact(Flow, Seq, Crc, Got, Full, Set),
    case What of
        echo -> pt_bench_via:send(Via, Worker, Message);
        {flow, Count} when Seq rem Count =:= 0 -> pt_bench_via:send(Via, Worker, {ack, Count});
        _ -> ok
    end,
    partner_next(Via, Worker, What, Flow, Full, Set, First, pt_bench_proof:seen(Seq, Intact, Proof));
partner_loop({done, Sent}, _Via, Worker, _What, _Flow, _Full, _Set, First, Proof) ->
    Last = os:perf_counter(nanosecond),
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
