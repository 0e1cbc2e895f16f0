%% The workloads. Runs on the two measured nodes; kernel and stdlib only.
%%
%% A cell has parts that run at the same time, and a part has a number of workers on the first node,
%% each with a partner process of its own on the second:
%%   echo  the worker sends a message, its partner checks it and sends it back, the worker checks it
%%         and takes the time; one message under way a worker;
%%   flow  the worker sends, its partner checks; with a window, the partner acknowledges each
%%         message and the worker has at most that many under way; without, only the VM's own
%%         back-pressure holds the worker.
%% A message is {Seq, Crc, Payload}, Seq = 1, 2, 3, ... for each worker; the last one is
%% {done, Sent}.
-module(pt_bench_work).
-export([prepare/2, run/3]).
-export_type([part/0, cell/0, part_result/0]).

-type part() :: #{
    kind := echo | flow,
    procs := pos_integer(),
    size := pos_integer(),
    %% flow: messages under way a worker
    window => pos_integer() | infinity,
    %% flow: pool (distinct binaries made before) or fresh (memory of its own for each message)
    payload => pool | fresh,
    %% echo: start this much later and stop this much earlier than the other parts
    inset_ms => non_neg_integer()
}.
-type cell() :: #{
    parts := [part()],
    ms := pos_integer(),
    warm_ms := non_neg_integer(),
    stall_ms := pos_integer(),
    full_every := pos_integer(),
    seed := integer()
}.
-type part_result() :: #{
    part := part(),
    proof := pt_bench_proof:report(),
    messages := non_neg_integer(),
    seconds := float(),
    latency_us := #{atom() => float() | none},
    %% the latencies in whole, sparse: see pt_bench_hist:to_list/1
    histogram := [[pos_integer()]]
}.

%% Makes the payloads of the cell known on this node, before anything is timed.
-spec prepare(cell(), first | second) -> ok.
prepare(#{parts := Parts, seed := Seed}, Side) ->
    [
        ok = pt_bench_payload:prepare(Size, mode(Side, Part), Seed)
     || #{size := Size} = Part <- Parts
    ],
    erlang:garbage_collect(),
    ok.

mode(first, #{kind := flow, payload := fresh}) -> checksums;
mode(first, _Part) -> with_pool;
mode(second, _Part) -> checksums.

%% Runs the cell between this node and Node: a warm-up that counts for the proof only, then the
%% measured phase. OsPids: this VM's and the other's.
-spec run(cell(), node(), [pt_bench_proc:os_pid()]) ->
    {ok, #{parts := [part_result()], usage := map(), peak_kb := [non_neg_integer()]}}
    | {stalled, Words :: string()}.
run(#{parts := Parts, ms := Ms, warm_ms := WarmMs} = Cell, Node, OsPids) ->
    try
        Warm =
            case WarmMs of
                0 -> [];
                _ -> phase(Cell, Parts, WarmMs, Node)
            end,
        _ = [pt_bench_proc:reset_peak(P) || P <- OsPids],
        Before = pt_bench_proc:snapshot(OsPids),
        Measured = phase(Cell, Parts, Ms, Node),
        After = pt_bench_proc:snapshot(OsPids),
        {ok, #{
            parts => add_proof(Warm, Measured),
            usage => pt_bench_proc:usage(Before, After),
            peak_kb => [pt_bench_proc:peak_kb(P) || P <- OsPids]
        }}
    catch
        throw:{stalled, _} = Stalled -> Stalled
    end.

add_proof([], Measured) ->
    Measured;
add_proof(Warm, Measured) ->
    [
        M#{proof := pt_bench_proof:merge([maps:get(proof, W), maps:get(proof, M)])}
     || {W, M} <- lists:zip(Warm, Measured)
    ].

phase(#{full_every := Full, stall_ms := StallMs}, Parts, Ms, Node) ->
    Tag = make_ref(),
    Numbered = [
        {No, Part, pt_bench_hist:new()}
     || {No, Part} <- lists:zip(lists:seq(1, length(Parts)), Parts)
    ],
    Workers = maps:from_list([
        {Pid, {No, Mon}}
     || {No, #{procs := Procs} = Part, Hist} <- Numbered,
        Flow <- lists:seq(1, Procs),
        {Pid, Mon} <- [start_worker(Tag, Node, Part, Hist, Flow, Full)]
    ]),
    GiveUp = now_ms() + Ms + StallMs,
    _ = gather(ready, Tag, Workers, Workers, GiveUp, []),
    Start = erlang:monotonic_time(),
    [Pid ! {go, Tag, Start, Ms} || Pid <- maps:keys(Workers)],
    Results = gather(result, Tag, Workers, Workers, GiveUp, []),
    [erlang:demonitor(Mon, [flush]) || {_No, Mon} <- maps:values(Workers)],
    [
        part_result(Part, Start, Hist, [R || {N, R} <- Results, N =:= No])
     || {No, Part, Hist} <- Numbered
    ].

start_worker(Tag, Node, Part, Hist, Flow, Full) ->
    Boss = self(),
    spawn_monitor(fun() -> pt_bench_flow:worker(Boss, Tag, Node, Part, Hist, Flow, Full) end).

%% Waits for one message What of every worker. One that dies or says nothing in time ends the cell:
%% the others are stopped, and their partners with them (they are linked).
gather(_What, _Tag, _Workers, Left, _GiveUp, Got) when map_size(Left) =:= 0 ->
    Got;
gather(What, Tag, Workers, Left, GiveUp, Got) ->
    receive
        {What, Tag, Pid, Value} ->
            {{No, _Mon}, Rest} = maps:take(Pid, Left),
            gather(What, Tag, Workers, Rest, GiveUp, [{No, Value} | Got]);
        {'DOWN', _Mon, process, Pid, Reason} when is_map_key(Pid, Left) ->
            give_up(Workers, "a worker died: ~0p", [Reason])
    after max(0, GiveUp - now_ms()) ->
        give_up(Workers, "~b of ~b workers got no answer", [map_size(Left), map_size(Workers)])
    end.

-spec give_up(map(), string(), [term()]) -> no_return().
give_up(Workers, Format, Args) ->
    [exit(Pid, kill) || Pid <- maps:keys(Workers)],
    throw({stalled, lists:flatten(io_lib:format(Format, Args))}).

%% Echo: round trips from the start to the last answer. Flow: what the partners received between the
%% first and the last message of all, by their clock; the first one only starts the clock.
part_result(#{kind := echo} = Part, Start, Hist, Results) ->
    End = lists:max([E || #{ended := E} <- Results]),
    (result(Part, Hist, Results))#{seconds => seconds(End - Start - native(inset(Part)))};
part_result(#{kind := flow} = Part, _Start, Hist, Results) ->
    First = lists:min([F || #{first := F} <- Results]),
    Last = lists:max([L || #{last := L} <- Results]),
    #{messages := N} = Result = result(Part, Hist, Results),
    Result#{messages := max(0, N - 1), seconds => seconds(Last - First)}.

result(Part, Hist, Results) ->
    #{
        part => Part,
        proof => pt_bench_proof:merge([P || #{proof := P} <- Results]),
        messages => lists:sum([N || #{messages := N} <- Results]),
        latency_us => pt_bench_hist:micros(Hist),
        histogram => pt_bench_hist:to_list(Hist)
    }.

inset(Part) -> maps:get(inset_ms, Part, 0).
native(Ms) -> erlang:convert_time_unit(Ms, millisecond, native).
seconds(Native) -> max(erlang:convert_time_unit(Native, native, nanosecond), 1) / 1.0e9.
now_ms() -> erlang:monotonic_time(millisecond).
