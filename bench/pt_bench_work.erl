%% The workloads. Runs on the measured nodes; kernel and stdlib only.
%%
%% A cell has parts that run at the same time, and a part has a number of workers, each with a
%% partner process of its own on another node:
%%   echo  the worker sends a message, its partner checks it and sends it back, the worker checks it
%%         and takes the time; one message under way a worker;
%%   flow  the worker sends, its partner checks; with a window, the partner acknowledges each
%%         message, or each so many, and the worker has at most a window under way; without, only
%%         the VM's own back-pressure holds the worker;
%%   pair  as a flow with a window of one; the time is that of the way there alone;
%%   open  as echo, but requests leave at times fixed before (pt_bench_open);
%%   call  as echo, by gen_server:call to a gen_server (pt_bench_call);
%%   tick  how late the nodes' signs of life arrive (pt_bench_tick);
%%   vnode, kvs  requests to a service of many partitions on three nodes (pt_bench_kvs);
%%   grow  connections to many nodes, one after the other (pt_bench_grow).
%% A message is {Seq, Crc, Payload}, Seq = 1, 2, 3, ... for each worker; the last one is
%% {done, Sent}.
%%
%% Workers are on the first node and partners on the second, unless `peers' and `from' say otherwise.
-module(pt_bench_work).
-export([prepare/2, payload/1, run/3, ready/1, done/2]).
-export_type([part/0, cell/0, job/0, outcome/0, part_result/0]).

-type part() :: #{
    kind := echo | flow | pair | open | call | tick | vnode | kvs | grow,
    procs := pos_integer(),
    %% bytes, of lists and maps in the external format
    size := pos_integer(),
    %% what the payload is, default binary
    form => binary | list | map,
    %% flow: messages under way a worker, and of all workers together
    window => pos_integer() | infinity,
    total => pos_integer(),
    %% flow with a window: messages for each acknowledgement, default 1; at most the window
    ack_every => pos_integer(),
    %% flow: pool (distinct binaries made before, default), shared (one binary, sent again and again by
    %% all), or fresh (memory of its own for each message)
    payload => pool | shared | fresh,
    %% the class of traffic, for carriers that have channels; default small
    channel => small | bulk,
    %% start this much later and stop this much earlier than the other parts
    inset_ms => non_neg_integer(),
    %% other nodes that take part, in turn; default 1, the second node
    peers => pos_integer(),
    %% where workers are: on the first node (default), on the peers (partners on the first), or on all
    from => first | peers | all,
    %% open, tick: time between two requests of a worker, or two ticks
    every_ms => pos_integer(),
    %% vnode, kvs: what a partition sleeps for each request
    work_ms => non_neg_integer()
}.
-type cell() :: #{
    parts := [part()],
    ms := pos_integer(),
    warm_ms := non_neg_integer(),
    stall_ms := pos_integer(),
    full_every := pos_integer(),
    seed := integer(),
    %% nodes beside the two of the pair: as many, of which kind (pt_bench_peers)
    extras => {pos_integer(), same | lean},
    pause => pos_integer()
}.
%% What a worker is told. Flow numbers the workers of a part.
-type job() :: #{
    boss := pid(),
    tag := reference(),
    part := part(),
    flow := pos_integer(),
    node := node(),
    nodes := [node()],
    hist := pt_bench_hist:hist(),
    full := pos_integer(),
    shared := term()
}.
%% What a worker reports. Times are os:perf_counter/1 in ns: one clock for all VMs of a machine.
%% First and last: of the messages as received; without, the part lasts from its start to the last
%% `ended'. Buckets: latencies of workers that are not on the first node, as {index, count}.
-type outcome() :: #{
    proof := pt_bench_proof:report(),
    messages := non_neg_integer(),
    ended => integer(),
    first => integer(),
    last => integer(),
    buckets => [{pos_integer(), pos_integer()}],
    %% figures of its own
    extra => #{pt_bench_metric:metric() => number()}
}.
-type part_result() :: #{
    part := part(),
    proof := pt_bench_proof:report(),
    messages := non_neg_integer(),
    seconds := float(),
    latency_us := #{atom() => float() | none},
    %% the latencies in whole, sparse: see pt_bench_hist:to_list/1
    histogram := [[pos_integer()]],
    extra := #{pt_bench_metric:metric() => number()}
}.

%% Makes the payloads of the cell known on this node, and starts the further nodes that the cell
%% needs, before anything is timed.
-spec prepare(cell(), first | second | further) -> ok.
prepare(#{parts := Parts, seed := Seed} = Cell, Side) ->
    [
        ok = prepare_payload(maps:get(form, Part, binary), payload(Part), mode(Side, Part), Seed)
     || Part <- Parts
    ],
    Side =:= second andalso pt_bench_peers:ensure(Cell),
    erlang:garbage_collect(),
    ok.

%% What the messages of a part carry.
-spec payload(part()) -> pt_bench_payload:what().
payload(#{payload := shared, size := Size}) -> {shared, Size};
payload(#{size := Size}) -> Size.

prepare_payload(binary, What, Mode, Seed) -> pt_bench_payload:prepare(What, Mode, Seed);
prepare_payload(Form, Size, _Mode, _Seed) -> pt_bench_term:prepare(Form, Size).

mode(first, #{from := peers}) -> checksums;
mode(_Other, #{from := _}) -> with_pool;
mode(first, #{kind := flow, payload := fresh}) -> checksums;
mode(first, _Part) -> with_pool;
mode(_Other, _Part) -> checksums.

%% Runs the cell from this node, the first, with Node, the second: a warm-up that counts for the
%% proof only, then the measured phase. OsPids: this VM's and the other's.
-spec run(cell(), node(), [pt_bench_proc:os_pid()]) ->
    {ok, #{parts := [part_result()], usage := map(), peak_kb := [non_neg_integer()]}}
    | {stalled, Words :: string()}.
run(#{parts := Parts, ms := Ms, warm_ms := WarmMs} = Cell, Node, OsPids0) ->
    try
        ok = applies(Parts),
        {Nodes, Extra} = pt_bench_peers:connected(Cell, Node),
        OsPids = OsPids0 ++ Extra,
        Pause = pt_bench_pause:prepare(Cell, Node),
        Warm =
            case WarmMs of
                0 -> [];
                _ -> phase(Cell, Parts, WarmMs, Nodes)
            end,
        _ = [pt_bench_proc:reset_peak(P) || P <- OsPids],
        Before = pt_bench_proc:snapshot(OsPids),
        Pausing = pt_bench_pause:start(Pause, Ms),
        Measured = phase(Cell, Parts, Ms, Nodes),
        ok = pt_bench_pause:finish(Pausing),
        After = pt_bench_proc:snapshot(OsPids),
        {ok, #{
            parts => add_proof(Warm, Measured),
            usage => pt_bench_proc:usage(Before, After),
            peak_kb => [pt_bench_proc:peak_kb(P) || P <- OsPids]
        }}
    catch
        throw:{stalled, _} = Stalled -> Stalled;
        throw:{not_applicable, Words} -> not_applicable(Words)
    end.

%% A rival with an interface of its own carries messages, but not what the VM itself sends.
applies(Parts) ->
    Own = [K || #{kind := K} <- Parts, lists:member(K, [call, tick, grow])],
    case pt_bench_via:current() of
        dist -> ok;
        Via when Own =/= [] -> throw({not_applicable, lists:flatten(io_lib:format(
            "n/a: ~0p sends by calls of its own", [Via]))});
        _ -> ok
    end.

%% Not every carrier has what a case is about. Such a cell has no figures, and has not failed.
not_applicable(Words) ->
    {ok, #{
        parts => [], peak_kb => [], not_applicable => Words,
        usage => #{cpu => [], seconds => 0.0, external => 0.0}
    }}.

add_proof([], Measured) ->
    Measured;
add_proof(Warm, Measured) ->
    [
        M#{proof := pt_bench_proof:merge([maps:get(proof, W), maps:get(proof, M)])}
     || {W, M} <- lists:zip(Warm, Measured)
    ].

phase(#{full_every := Full, stall_ms := StallMs}, Parts, Ms, Nodes) ->
    Tag = make_ref(),
    Numbered = [
        {No, Part, pt_bench_hist:new(), module(Part), shared(Part, Nodes)}
     || {No, Part} <- lists:zip(lists:seq(1, length(Parts)), Parts)
    ],
    Workers = maps:from_list([
        {Pid, {No, Mon}}
     || {No, #{procs := Procs} = Part, Hist, Module, Shared} <- Numbered,
        Flow <- lists:seq(1, Procs),
        {At, Node} <- [places(Part, Flow, Nodes)],
        {Pid, Mon} <- [
            spawn_monitor(At, Module, worker, [
                #{
                    boss => self(), tag => Tag, part => Part, flow => Flow, node => Node,
                    nodes => Nodes, hist => Hist, full => Full, shared => Shared
                }
            ])
        ]
    ]),
    GiveUp = now_ms() + Ms + StallMs,
    _ = gather(ready, Tag, Workers, Workers, GiveUp, []),
    Start = os:perf_counter(nanosecond),
    _ = [Pid ! {go, Tag, Ms} || Pid <- maps:keys(Workers)],
    Results = gather(result, Tag, Workers, Workers, GiveUp, []),
    [erlang:demonitor(Mon, [flush]) || {_No, Mon} <- maps:values(Workers)],
    [
        part_result(Part, Start, Hist, [R || {N, R} <- Results, N =:= No], Shared)
     || {No, Part, Hist, _Module, Shared} <- Numbered
    ].

module(#{kind := echo}) -> pt_bench_flow;
module(#{kind := flow}) -> pt_bench_flow;
module(#{kind := pair}) -> pt_bench_flow;
module(#{kind := open}) -> pt_bench_open;
module(#{kind := call}) -> pt_bench_call;
module(#{kind := tick}) -> pt_bench_tick;
module(#{kind := vnode}) -> pt_bench_kvs;
module(#{kind := kvs}) -> pt_bench_kvs;
module(#{kind := grow}) -> pt_bench_grow.

%% Where a worker is, and where its partner.
places(Part, Flow, Nodes) ->
    Peers = lists:sublist(Nodes, maps:get(peers, Part, 1)),
    Peer = lists:nth((Flow - 1) rem length(Peers) + 1, Peers),
    case maps:get(from, Part, first) of
        first ->
            {node(), Peer};
        peers ->
            {Peer, node()};
        all ->
            All = [node() | Nodes],
            {lists:nth((Flow - 1) rem length(All) + 1, All), Peer}
    end.

%% What the workers of a part share: made before them, gone after them.
shared(#{kind := flow, total := Total}, _Nodes) -> pt_bench_flow:credits(Total);
shared(#{kind := Kind} = Part, Nodes) when Kind =:= vnode; Kind =:= kvs ->
    pt_bench_kvs:start(Part, Nodes);
shared(_Part, _Nodes) -> none.

%% The workers' reports, with what only all together can prove.
finish(#{kind := flow}, Credits, Reports) when is_pid(Credits) ->
    ok = pt_bench_flow:forget(Credits),
    Reports;
finish(#{kind := Kind}, Service, Reports) when Kind =:= vnode; Kind =:= kvs ->
    pt_bench_kvs:stop(Service, Reports);
finish(_Part, none, Reports) ->
    Reports.

%% A worker is ready: waits for the start, and returns its start and its end in
%% erlang:monotonic_time/0.
-spec ready(job()) -> {Start :: integer(), Until :: integer()}.
ready(#{boss := Boss, tag := Tag, part := Part}) ->
    Boss ! {ready, Tag, self(), ok},
    receive
        {go, Tag, Ms} ->
            Inset = maps:get(inset_ms, Part, 0),
            %% For how long is known only now, so the clock starts before the wait.
            Until = erlang:monotonic_time() + native(Ms - Inset),
            Inset > 0 andalso timer:sleep(Inset),
            {erlang:monotonic_time(), Until}
    end.

-spec done(job(), outcome()) -> ok.
done(#{boss := Boss, tag := Tag}, Outcome) ->
    Boss ! {result, Tag, self(), Outcome},
    ok.

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

%% Rates are those of what was received between the first and the last message of all, by the
%% receivers' clock, where workers say so; the first one only starts the clock. Else from the start
%% to the last answer.
part_result(Part, Start, Hist, Results, Shared) ->
    [
        pt_bench_hist:add(Hist, Low)
     || #{buckets := Buckets} <- Results,
        {Index, Count} <- Buckets,
        {Low, _High} <- [pt_bench_hist:bounds(Index)],
        _ <- lists:seq(1, Count)
    ],
    Reports = finish(Part, Shared, [P || #{proof := P} <- Results]),
    Sum = lists:sum([N || #{messages := N} <- Results]),
    {Messages, Ns} =
        case [F || #{first := F} <- Results] of
            [] ->
                Inset = maps:get(inset_ms, Part, 0) * 1000000,
                {Sum, lists:max([E || #{ended := E} <- Results]) - Start - Inset};
            Firsts ->
                {max(0, Sum - 1), lists:max([L || #{last := L} <- Results]) - lists:min(Firsts)}
        end,
    #{
        part => Part,
        proof => pt_bench_proof:merge(Reports),
        messages => Messages,
        seconds => max(Ns, 1) / 1.0e9,
        extra => lists:foldl(fun maps:merge/2, #{}, [E || #{extra := E} <- Results]),
        latency_us => pt_bench_hist:micros(Hist),
        histogram => pt_bench_hist:to_list(Hist)
    }.

native(Ms) -> erlang:convert_time_unit(Ms, millisecond, native).
now_ms() -> erlang:monotonic_time(millisecond).
