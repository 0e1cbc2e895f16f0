%% Growth: what a further peer costs its node. Connects to the cell's nodes one after the other, sends each a
%% message and gets it back, and looks at the time, at this process's memory and at its descriptors.
-module(pt_bench_grow).
-export([worker/1, partner/2]).

-spec worker(pt_bench_work:job()) -> ok.
worker(#{nodes := [_Second | Peers], hist := Hist} = Job) ->
    _ = pt_bench_work:ready(Job),
    {Kb0, Fds0} = held(),
    Started = os:perf_counter(nanosecond),
    [
        begin
            T0 = os:perf_counter(nanosecond),
            true = net_kernel:connect_node(N),
            pt_bench_hist:add(Hist, os:perf_counter(nanosecond) - T0)
        end
     || N <- Peers
    ],
    Ended = os:perf_counter(nanosecond),
    {Kb1, Fds1} = held(),
    Reports = [probe(Job#{node := N}) || N <- Peers],
    Count = length(Peers),
    pt_bench_work:done(Job, #{
        proof => pt_bench_proof:merge(Reports), messages => Count, ended => Ended,
        extra => #{
            setup_ms => (Ended - Started) / 1.0e6,
            kb_a_peer => (Kb1 - Kb0) / Count,
            fds_a_peer => (Fds1 - Fds0) / Count
        }
    }).

%% A message there and back over the new connection: it carries.
probe(#{part := Part, flow := Flow} = Job) ->
    Partner = pt_bench_flow:partner_of(?MODULE, Job),
    {Crc, Payload} = pt_bench_flow:payload(Flow, 1, pt_bench_flow:set(Part)),
    Partner ! {1, Crc, Payload},
    receive
        {Seq, GotCrc, Got} ->
            Intact = pt_bench_flow:intact(Flow, Seq, GotCrc, Got, 1, pt_bench_flow:set(Part)),
            pt_bench_proof:finish(1, pt_bench_proof:seen(Seq, Intact, pt_bench_proof:new()))
    end.

%% The peers are too small for pools of payloads; the client checks what comes back.
-spec partner(pid(), map()) -> ok.
partner(Worker, _Job) ->
    Worker ! {hello, self()},
    receive
        {_, _, _} = Message ->
            Worker ! Message,
            ok
    end.

%% Resident kilobytes and open descriptors of this VM.
held() ->
    [erlang:garbage_collect(P) || P <- processes()],
    {ok, Fds} = file:list_dir("/proc/self/fd"),
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [Kb]} = re:run(Status, "VmRSS:\\s*([0-9]+) kB", [{capture, all_but_first, binary}]),
    {binary_to_integer(Kb), length(Fds)}.
