%% gen_server calls: what most applications do. The server checks each request and gives it back; the
%% client checks the answer and takes the time.
-module(pt_bench_call).
-behaviour(gen_server).
-export([worker/1, partner/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% A call is not given up by a timeout of its own: the cell's limit tells, with proof of the rest.
-define(WAIT, infinity).

-spec worker(pt_bench_work:job()) -> ok.
worker(#{part := Part, hist := Hist, flow := Flow, full := Full, node := Node} = Job) ->
    Args = [self(), maps:with([part, flow, full], Job)],
    Server = proc_lib:spawn_link(Node, ?MODULE, partner, Args),
    receive {hello, Server} -> ok end,
    {_Start, Until} = pt_bench_work:ready(Job),
    Set = pt_bench_flow:set(Part),
    {Sent, Proof} = loop(1, Server, Hist, Flow, Full, Set, Until, pt_bench_proof:new()),
    Ended = os:perf_counter(nanosecond),
    Report = gen_server:call(Server, {done, Sent}, ?WAIT),
    ok = gen_server:stop(Server),
    Mine = pt_bench_proof:finish(Sent, Proof),
    pt_bench_work:done(Job, #{
        proof => pt_bench_proof:merge([Report, Mine]), messages => Sent, ended => Ended
    }).

loop(Seq, Server, Hist, Flow, Full, Set, Until, Proof) ->
    {Crc, Payload} = pt_bench_flow:payload(Flow, Seq, Set),
    T0 = erlang:monotonic_time(),
    {GotSeq, GotCrc, Got} = gen_server:call(Server, {Seq, Crc, Payload}, ?WAIT),
    T1 = erlang:monotonic_time(),
    pt_bench_hist:add(Hist, erlang:convert_time_unit(T1 - T0, native, nanosecond)),
    Intact = pt_bench_flow:intact(Flow, GotSeq, GotCrc, Got, Full, Set),
    Proof1 = pt_bench_proof:seen(GotSeq, Intact, Proof),
    case T1 < Until of
        true -> loop(Seq + 1, Server, Hist, Flow, Full, Set, Until, Proof1);
        false -> {Seq, Proof1}
    end.

%%% the server

-spec partner(pid(), map()) -> no_return().
partner(Worker, Job) ->
    Worker ! {hello, self()},
    {ok, State} = init(Job),
    gen_server:enter_loop(?MODULE, [], State).

-spec init(map()) -> {ok, map()}.
init(#{part := Part, flow := Flow, full := Full}) ->
    {ok, #{
        flow => Flow, full => Full, set => pt_bench_flow:set(Part), proof => pt_bench_proof:new()
    }}.

-spec handle_call(term(), gen_server:from(), map()) -> {reply, term(), map()}.
handle_call({done, Sent}, _From, #{proof := Proof} = State) ->
    {reply, pt_bench_proof:finish(Sent, Proof), State};
handle_call({Seq, Crc, Payload} = Request, _From, State) ->
    #{flow := Flow, full := Full, set := Set, proof := Proof} = State,
    Intact = pt_bench_flow:intact(Flow, Seq, Crc, Payload, Full, Set),
    {reply, Request, State#{proof := pt_bench_proof:seen(Seq, Intact, Proof)}}.

-spec handle_cast(term(), map()) -> {noreply, map()}.
handle_cast(_Garbage, #{proof := Proof} = State) ->
    {noreply, State#{proof := pt_bench_proof:garbage(Proof)}}.

-spec handle_info(term(), map()) -> {noreply, map()}.
handle_info(_Garbage, #{proof := Proof} = State) ->
    {noreply, State#{proof := pt_bench_proof:garbage(Proof)}}.
