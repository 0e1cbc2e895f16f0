%% Net ticks: how late a node's sign of life is seen.
%%
%% The second node ticks every few milliseconds by the VM's own mechanism (the message by which
%% net_kernel ticks all connections out of turn), and the first asks net_kernel every millisecond how
%% much it received, which is what net_kernel looks at to find a peer dead. The time is from when
%% a tick was due to the next moment at which something new had arrived, so it is that of the tick
%% or, with other traffic in that direction, of whatever was sooner, just as the VM sees it.
%% It cannot be told to better than 2 ms. Ticks carry no number: what is proved here is only that
%% the connection lives.
-module(pt_bench_tick).
-export([worker/1, partner/2]).

-define(SAMPLE_MS, 1).

-spec worker(pt_bench_work:job()) -> ok.
worker(#{part := #{every_ms := Every}, hist := Hist, node := Node} = Job) ->
    Partner = pt_bench_flow:partner_of(?MODULE, Job),
    {Start, Until} = pt_bench_work:ready(Job),
    Count = max(1, erlang:convert_time_unit(Until - Start, native, millisecond) div Every - 1),
    Base = os:perf_counter(nanosecond) + Every * 1000000,
    Partner ! {tick, Base, Count},
    ok = sample(Node, Hist, Base, Every * 1000000, 0, Count, received(Node)),
    Ended = os:perf_counter(nanosecond),
    receive {ticked, Partner, Count} -> ok end,
    pt_bench_work:done(Job, #{
        proof => pt_bench_proof:merge([]), messages => Count, ended => Ended
    }).

%% Due: number of ticks seen; several may have been due when something arrives at last.
sample(_Node, _Hist, _Base, _Step, Count, Count, _Before) ->
    ok;
sample(Node, Hist, Base, Step, Seen, Count, Before) ->
    timer:sleep(?SAMPLE_MS),
    Received = received(Node),
    Now = os:perf_counter(nanosecond),
    Due = min(Count, max(Seen, (Now - Base) div Step + 1)),
    case Received of
        Before ->
            sample(Node, Hist, Base, Step, Seen, Count, Before);
        _ ->
            [pt_bench_hist:add(Hist, Now - Base - I * Step) || I <- lists:seq(Seen, Due - 1)],
            sample(Node, Hist, Base, Step, Due, Count, Received)
    end.

received(Node) ->
    {ok, In} = net_kernel:node_info(Node, in),
    In.

-spec partner(pid(), map()) -> ok.
partner(Worker, #{part := #{every_ms := Every}}) ->
    Worker ! {hello, self()},
    receive
        {tick, Base, Count} ->
            [
                begin
                    wait_until(Base + I * Every * 1000000),
                    net_kernel ! aux_tick
                end
             || I <- lists:seq(0, Count - 1)
            ],
            Worker ! {ticked, self(), Count},
            ok
    end.

wait_until(Due) ->
    case Due - os:perf_counter(nanosecond) of
        Left when Left > 0 -> timer:sleep((Left + 999999) div 1000000);
        _ -> ok
    end.
