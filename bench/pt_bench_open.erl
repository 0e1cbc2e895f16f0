%% Open loop: requests leave at times that were fixed before, whatever becomes of the answers.
%%
%% A latency counts from when its request was due, not from when it left. A closed loop asks nothing
%% while an answer is late, and so counts one bad time where a user at a fixed rate would have seen
%% many ("coordinated omission"). Here a worker that was held back sends what it owes one after the
%% other, and the time it was held is in each of them.
%%
%% The VM's timers have steps of 1 ms: a worker's requests are due at whole milliseconds, so a part
%% with many workers sends in small bursts, and a request is a few dozen microseconds late from the
%% timer alone. Both are the same on every carrier.
-module(pt_bench_open).
-export([worker/1]).

-record(s, {via, partner, hist, flow, full, set, base, step, due, last, proof}).

%% The partner is that of an echo.
-spec worker(pt_bench_work:job()) -> ok.
worker(#{part := #{every_ms := Every} = Part, flow := Flow, full := Full, hist := Hist} = Job) ->
    Echo = Job#{part := Part#{kind := echo}},
    Partner = pt_bench_flow:partner_of(pt_bench_flow, Echo),
    Via = pt_bench_via:current(),
    {Start, Until} = pt_bench_work:ready(Job),
    %% Workers take turns in the milliseconds of the step.
    First = erlang:convert_time_unit(Start, native, millisecond) + 1 + Flow rem Every,
    Last = (erlang:convert_time_unit(Until, native, millisecond) - First) div Every + 1,
    S = #s{
        via = Via, partner = Partner, hist = Hist, flow = Flow, full = Full,
        set = pt_bench_flow:set(Part), base = First, step = Every, due = 1, last = max(1, Last),
        proof = pt_bench_proof:new()
    },
    #s{last = Sent, proof = Proof} = wait(S),
    Ended = os:perf_counter(nanosecond),
    {Report, _, _} = pt_bench_flow:finish(Via, Partner, Sent),
    Mine = pt_bench_proof:finish(Sent, Proof),
    pt_bench_work:done(Job, #{
        proof => pt_bench_proof:merge([Report, Mine]), messages => Sent, ended => Ended
    }).

%% When request Seq is due, in ms of erlang:monotonic_time/1.
due(Seq, #s{base = Base, step = Step}) -> Base + (Seq - 1) * Step.

%% Waits for answers until the next request is due, or all have come.
wait(#s{due = Due, last = Last, proof = Proof} = S) when Due > Last ->
    case pt_bench_proof:received(Proof) >= Last of
        true -> S;
        false -> wait(answer(receive {_, _, _} = M -> M end, S))
    end;
wait(#s{due = Due} = S) ->
    Timer = erlang:start_timer(due(Due, S), self(), due, [{abs, true}]),
    waiting(Timer, S).

waiting(Timer, S) ->
    receive
        {timeout, Timer, due} -> wait(send(S));
        {_, _, _} = Message -> waiting(Timer, answer(Message, S))
    end.

%% All that is due by now.
send(#s{due = Due, last = Last} = S) ->
    case Due =< Last andalso due(Due, S) =< erlang:monotonic_time(millisecond) of
        true ->
            {Crc, Payload} = pt_bench_flow:payload(S#s.flow, Due, S#s.set),
            pt_bench_via:send(S#s.via, S#s.partner, {Due, Crc, Payload}),
            send(S#s{due = Due + 1});
        false ->
            S
    end.

answer({Seq, Crc, Payload}, #s{flow = Flow, proof = Proof} = S) ->
    Now = erlang:monotonic_time(),
    Late = is_integer(Seq) andalso
        Now - erlang:convert_time_unit(due(Seq, S), millisecond, native),
    is_integer(Late) andalso
        pt_bench_hist:add(S#s.hist, erlang:convert_time_unit(max(0, Late), native, nanosecond)),
    Intact = pt_bench_flow:intact(Flow, Seq, Crc, Payload, S#s.full, S#s.set),
    S#s{proof = pt_bench_proof:seen(Seq, Intact, Proof)}.
