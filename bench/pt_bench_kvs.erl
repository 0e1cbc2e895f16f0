%% A small service in the manner of Riak, on three nodes: a ring of partitions, each a gen_server
%% (pt_bench_vnode), on the nodes in turn.
%%
%%   vnode  each client sends its request to a partition chosen at random and gets it back;
%%   kvs    a replicated key-value store: each request has a coordinator of its own on the client's
%%          node (pt_bench_quorum), which asks the N=3 partitions that follow the key's place on the
%%          ring, on three nodes, and answers when R=W=2 have answered. Nine reads for a write.
%%
%% Clients are on all three nodes, in turn, one request under way each. Each has keys of its own, so
%% it knows what a read must find: with R+W > N, the last version that it wrote. An older one is
%% counted as lost, damaged content as corrupt. All partitions together must have handled as many
%% requests as coordinators sent.
-module(pt_bench_kvs).
-export([worker/1, start/2, stop/2]).
-export_type([service/0]).

%% A multiple of three: with the paper's 1024 some keys would have two replicas on one node.
-define(RING, 1023).
-define(REPLICAS, 3).
%% The keys are as many as the paper's, but no more than fit.
-define(KEYS, 10000).
-define(KEY_BYTES, (256 * 1024 * 1024)).

-type service() :: #{ring := tuple(), keeper := pid()}.

%%% the service

-spec start(pt_bench_work:part(), [node()]) -> service().
start(Part, Nodes) ->
    All = [_, _, _] = [node() | Nodes],
    Keeper = spawn_link(fun() -> receive stop -> ok end end),
    Options = #{part => Part, owner => Keeper},
    Each = ?RING div length(All),
    On = [erpc:call(N, pt_bench_vnode, start, [Each, Options]) || N <- All],
    Ring = list_to_tuple(lists:append([[A, B, C] || {A, B, C} <- lists:zip3(
        lists:nth(1, On), lists:nth(2, On), lists:nth(3, On)
    )])),
    #{ring => Ring, keeper => Keeper}.

%% Ends the service. The reports are those of its clients; `sent' of them is what clients and
%% coordinators sent to partitions.
-spec stop(service(), [pt_bench_proof:report()]) -> [pt_bench_proof:report()].
stop(#{ring := Ring, keeper := Keeper}, Reports) ->
    #{sent := Sent} = pt_bench_proof:merge(Reports),
    Vnodes = tuple_to_list(Ring),
    Tallies = [
        erpc:call(N, pt_bench_vnode, tally, [[V || V <- Vnodes, node(V) =:= N]])
     || N <- lists:usort([node(V) || V <- Vnodes])
    ],
    Handled = lists:sum([H || {H, _} <- Tallies]),
    Corrupt = lists:sum([C || {_, C} <- Tallies]),
    unlink(Keeper),
    Keeper ! stop,
    [
        (pt_bench_proof:merge([]))#{
            lost := max(0, Sent - Handled), doubled := max(0, Handled - Sent), corrupt := Corrupt
        }
        | Reports
    ].

%%% clients

-spec worker(pt_bench_work:job()) -> ok.
worker(#{part := #{kind := Kind, size := Size, procs := Procs} = Part, flow := Flow} = Job) ->
    #{shared := #{ring := Ring}, full := Full} = Job,
    _ = rand:seed(exsss, Flow),
    Keys = max(1, min(?KEYS div Procs, ?KEY_BYTES div (Size * Procs))),
    Client0 = #{
        kind => Kind, flow => Flow, full => Full, ring => Ring, set => pt_bench_flow:set(Part),
        keys => Keys, versions => #{}, seq => 0, open => 0, buckets => #{},
        sent => 0, received => 0, lost => 0, doubled => 0, corrupt => 0
    },
    Client1 = fill(Client0),
    {_Start, Until} = pt_bench_work:ready(Job),
    {Done, Client2} = loop(0, Until, Client1),
    Ended = os:perf_counter(nanosecond),
    #{buckets := Buckets} = Client3 = settle(Client2),
    pt_bench_work:done(Job, #{
        proof => (maps:with([sent, received, lost, doubled, corrupt], Client3))#{reordered => 0},
        messages => Done, ended => Ended, buckets => maps:to_list(Buckets)
    }).

%% Every key is there before the first read.
fill(#{kind := vnode} = C) -> C;
fill(#{keys := Keys} = C) -> settle(lists:foldl(fun write/2, C, lists:seq(1, Keys))).

loop(Done, Until, C) ->
    T0 = erlang:monotonic_time(),
    C1 = request(Done, C),
    T1 = erlang:monotonic_time(),
    C2 = tallies(timed(erlang:convert_time_unit(T1 - T0, native, nanosecond), C1)),
    case T1 < Until of
        true -> loop(Done + 1, Until, C2);
        false -> {Done + 1, C2}
    end.

timed(Ns, #{buckets := Buckets} = C) ->
    Count = fun(N) -> N + 1 end,
    C#{buckets := maps:update_with(pt_bench_hist:index(Ns), Count, 1, Buckets)}.

request(_Done, #{kind := vnode} = C) -> echo(C);
request(Done, #{kind := kvs} = C) when Done rem 10 =:= 9 -> write(key(C), C);
request(_Done, #{kind := kvs} = C) -> read(key(C), C).

%% Normal over the keys, as the paper has it.
key(#{keys := Keys}) ->
    max(1, min(Keys, round(Keys / 2 + rand:normal() * Keys / 6))).

echo(#{flow := Flow, full := Full, ring := Ring, set := Set, seq := Last} = C) ->
    Seq = Last + 1,
    {Crc, Payload} = pt_bench_flow:payload(Flow, Seq, Set),
    Ref = make_ref(),
    Vnode = element(rand:uniform(tuple_size(Ring)), Ring),
    pt_bench_vnode:echo(Vnode, Ref, {Flow, Seq, Crc, Payload}),
    receive
        {Ref, Vnode, {Flow, Seq, GotCrc, Got}} ->
            Intact = pt_bench_flow:intact(Flow, Seq, GotCrc, Got, Full, Set),
            add(corrupt, one(not Intact), add(received, 1, add(sent, 1, C#{seq := Seq})))
    end.

write(Key, #{flow := Flow, set := Set, seq := Last, versions := Versions, open := Open} = C) ->
    Seq = Last + 1,
    {Crc, Payload} = pt_bench_flow:payload(Flow, Seq, Set),
    Request = {put, {Flow, Key}, {Flow, Seq, Crc, Payload}},
    [ok, ok] = pt_bench_quorum:run(Request, replicas(Key, C), make_ref()),
    C#{seq := Seq, versions := Versions#{Key => Seq}, open := Open + 1}.

read(Key, #{flow := Flow, full := Full, set := Set, versions := Versions, open := Open} = C) ->
    Answers = pt_bench_quorum:run({get, {Flow, Key}}, replicas(Key, C), make_ref()),
    Found = [Object || {_, _, _, _} = Object <- Answers],
    Bad = [O || {F, S, Crc, P} = O <- Found, F =/= Flow orelse
        not pt_bench_flow:intact(Flow, S, Crc, P, Full, Set)],
    Newest = lists:max([0 | [S || {_, S, _, _} <- Found]]),
    Stale = one(Newest < maps:get(Key, Versions)),
    add(lost, Stale, add(corrupt, length(Bad), C#{open := Open + 1})).

replicas(Key, #{flow := Flow, ring := Ring}) ->
    At = erlang:phash2({Flow, Key}, tuple_size(Ring)),
    [element((At + I) rem tuple_size(Ring) + 1, Ring) || I <- lists:seq(0, ?REPLICAS - 1)].

add(Field, N, C) -> maps:update_with(Field, fun(Sum) -> Sum + N end, C).

one(true) -> 1;
one(false) -> 0.

%% What coordinators that ended have to tell.
tallies(#{open := 0} = C) -> C;
tallies(C) ->
    receive {ended, Tally} -> tallies(tally(Tally, C)) after 0 -> C end.

settle(#{open := 0} = C) -> C;
settle(C) ->
    receive {ended, Tally} -> settle(tally(Tally, C)) end.

tally({Sent, Received, Doubled}, #{open := Open} = C) ->
    add(doubled, Doubled, add(received, Received, add(sent, Sent, C#{open := Open - 1}))).
