%% Tests of what the figures and the verdicts rest on: `bench/run --self-test'. Statistics,
%% histogram, proof of delivery, payload checks, and a partner process fed with each kind of fault.
-module(pt_bench_test).
-export([run/0, check_cost/0]).

-define(TESTS, [
    fun median/0, fun paired/0, fun histogram_bounds/0, fun histogram_quantiles/0,
    fun proof_faults/0, fun proof_random/0, fun payload/0, fun partner_faults/0, fun json/0,
    fun options/0, fun carriers/0
]).

%% Number of tests passed; an assertion that fails is a badmatch that names the line.
-spec run() -> pos_integer().
run() ->
    [ok = Test() || Test <- ?TESTS],
    length(?TESTS) + pt_bench_work_test:run() + pt_bench_result_test:run().

%% What checking one message costs its receiver, in ns, by payload size: the best of some runs.
-spec check_cost() -> [{Size :: pos_integer(), Ns :: float()}].
check_cost() ->
    Costs = [{Size, check_cost(Size, N, Keys)} || {Size, N, Keys} <- [
        {64, 20000, 64}, {1024, 20000, 64}, {1 bsl 20, 64, 64}, {8 bsl 20, 16, 16}
    ]],
    ok = pt_bench_payload:forget(),
    Costs.

check_cost(Size, N, Keys) ->
    ok = pt_bench_payload:prepare(Size, with_pool, 1),
    Set = pt_bench_payload:set(Size),
    %% Copies: a comparison of a binary with itself would cost nothing.
    Messages = list_to_tuple([
        {Seq, Crc, binary:copy(Bin)}
     || Seq <- lists:seq(1, Keys), {Crc, Bin} <- [pt_bench_payload:get(1, Seq, Set)]
    ]),
    Run = fun() -> check(N, Keys, Messages, Set, pt_bench_proof:new()) end,
    lists:min([timed(Run) || _ <- lists:seq(1, 9)]) / N.

timed(Fun) ->
    T0 = erlang:monotonic_time(),
    _ = Fun(),
    erlang:convert_time_unit(erlang:monotonic_time() - T0, native, nanosecond).

check(0, _Keys, _Messages, _Set, Proof) ->
    Proof;
check(N, Keys, Messages, Set, Proof) ->
    {Seq, Crc, Bin} = element(N rem Keys + 1, Messages),
    true = pt_bench_payload:intact(1, Seq, Crc, Bin, 16, Set),
    Next = pt_bench_proof:received(Proof) + 1,
    check(N - 1, Keys, Messages, Set, pt_bench_proof:seen(Next, true, Proof)).

median() ->
    3 = pt_bench_stat:median([5, 1, 3]),
    2.5 = pt_bench_stat:median([4, 1, 2, 3]),
    7 = pt_bench_stat:median([7]),
    #{median := 3, min := 1, max := 9, n := 3} = pt_bench_stat:summary([9, 1, 3]),
    none = pt_bench_stat:summary([]),
    ok.

%% Rounds the other lacks, and zero bases, take no part; the pairing is by round, not by position.
paired() ->
    [2.0, 0.5] = pt_bench_stat:paired([{1, 10}, {2, 5}, {3, 4}], [{1, 20}, {3, 2}]),
    [2.0] = pt_bench_stat:paired([{1, 0.0}, {2, 3}], [{2, 6}, {1, 9}]),
    [] = pt_bench_stat:paired([{1, 1}], [{2, 1}]),
    ok.

%% Every value lies in its bucket, buckets touch, and none is wider than 1/256 of its value.
histogram_bounds() ->
    [
        begin
            I = pt_bench_hist:index(V),
            {Low, High} = pt_bench_hist:bounds(I),
            {true, V} = {Low =< V andalso V < High, V},
            {true, V} = {High - Low =< max(1, Low div 256), V},
            {High, _} = pt_bench_hist:bounds(I + 1)
        end
     || E <- lists:seq(0, 41), D <- [-1, 0, 1, 77], V <- [(1 bsl E) + D], V >= 0, V < 1 bsl 42
    ],
    1 = pt_bench_hist:index(-5),
    Last = pt_bench_hist:index(1 bsl 42),
    Last = pt_bench_hist:index(1 bsl 60),
    ok.

histogram_quantiles() ->
    none = pt_bench_hist:quantile(pt_bench_hist:new(), 0.5),
    Hist = pt_bench_hist:new(),
    {Values, _} = lists:mapfoldl(
        fun(_, S) ->
            {X, S1} = rand:uniform_s(S),
            {round(math:exp(5 + 15 * X)), S1}
        end,
        rand:seed_s(exsss, 7),
        lists:seq(1, 20000)
    ),
    [pt_bench_hist:add(Hist, V) || V <- Values],
    20000 = pt_bench_hist:total(Hist),
    Sorted = list_to_tuple(lists:sort(Values)),
    [
        begin
            Exact = element(max(1, ceil(Q * 20000)), Sorted),
            Got = pt_bench_hist:quantile(Hist, Q),
            {true, Q, Exact, Got} = {abs(Got - Exact) =< 1 + 0.005 * Exact, Q, Exact, Got}
        end
     || Q <- [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]
    ],
    ok.

proof_faults() ->
    true = pt_bench_proof:is_ok(feed(4, [1, 2, 3, 4])),
    true = pt_bench_proof:is_ok(feed(0, [])),
    #{lost := 1, reordered := 0} = feed(4, [1, 3, 4]),
    #{lost := 2} = feed(4, [1, 2]),
    #{lost := 0, doubled := 1} = feed(3, [1, 2, 2, 3]),
    #{lost := 0, reordered := 1, doubled := 0} = feed(4, [1, 3, 2, 4]),
    #{corrupt := 1, lost := 0} = feed(2, [1, 2, 3]),
    #{corrupt := 1, lost := 0} = feed(2, [1, x, 2]),
    Damaged = pt_bench_proof:seen(2, false, pt_bench_proof:seen(1, true, pt_bench_proof:new())),
    #{corrupt := 1, lost := 0, received := 2} = pt_bench_proof:finish(2, Damaged),
    false = pt_bench_proof:is_ok(pt_bench_proof:unfinished()),
    Bad = [{4, [1, 3, 4]}, {3, [1, 2, 2, 3]}, {2, [2, 1]}, {1, [1, 2]}],
    [false = pt_bench_proof:is_ok(feed(Sent, Seqs)) || {Sent, Seqs} <- Bad],
    false = pt_bench_proof:is_ok(pt_bench_proof:merge([feed(1, [1]), feed(2, [2]), feed(1, [1])])),
    ok.

feed(Sent, Seqs) ->
    Seen = fun(Seq, P) -> pt_bench_proof:seen(Seq, true, P) end,
    pt_bench_proof:finish(Sent, lists:foldl(Seen, pt_bench_proof:new(), Seqs)).

%% Random losses, doublings and shuffles against counting by hand.
proof_random() ->
    _ = rand:seed(exsss, 11),
    [
        begin
            Sent = rand:uniform(12),
            Kept = [I || I <- lists:seq(1, Sent), rand:uniform(5) > 1],
            Twice = [I || I <- Kept, rand:uniform(6) =:= 1],
            Seqs = [I || {_, I} <- lists:sort([{rand:uniform(8) + I, I} || I <- Kept ++ Twice])],
            {Late, _} = lists:foldl(fun late/2, {0, {0, []}}, Seqs),
            Lost = Sent - length(Kept),
            Doubled = length(Twice),
            Report = feed(Sent, Seqs),
            #{lost := Lost, doubled := Doubled, reordered := Late, corrupt := 0} = Report
        end
     || _ <- lists:seq(1, 2000)
    ],
    ok.

late(Seq, {N, {Max, Seen}}) ->
    New = not lists:member(Seq, Seen),
    Count = case New andalso Seq < Max of true -> 1; false -> 0 end,
    {N + Count, {max(Seq, Max), [Seq | Seen]}}.

%% A payload is intact for its own message only, and each kind of damage shows.
payload() ->
    [
        begin
            ok = pt_bench_payload:prepare(Size, with_pool, 1),
            Set = pt_bench_payload:set(Size),
            Check = fun(F, S, C, B) -> pt_bench_payload:intact(F, S, C, B, 1, Set) end,
            {Crc, Bin} = pt_bench_payload:get(3, 10, Set),
            {Crc, Bin} = pt_bench_payload:fresh(3, 10, Set),
            Size = byte_size(Bin),
            Crc = erlang:crc32(Bin),
            true = Check(3, 10, Crc, Bin),
            false = Check(3, 11, Crc, Bin),
            false = Check(4, 10, Crc, Bin),
            false = Check(3, 10, Crc + 1, Bin),
            false = Check(3, 10, Crc, binary:part(Bin, 0, Size - 1)),
            false = Check(3, 10, Crc, [Bin]),
            false = Check(3, x, Crc, Bin),
            [
                begin
                    <<Head:At/binary, Byte, Tail/binary>> = Bin,
                    false = Check(3, 10, Crc, <<Head/binary, (Byte bxor 1), Tail/binary>>)
                end
             || At <- [0, 9, Size div 2, Size - 1]
            ]
        end
     || Size <- [64, 1024, 65536, 65536 + 100]
    ],
    %% A shared one is every message's.
    ok = pt_bench_payload:prepare({shared, 65536}, with_pool, 1),
    One = pt_bench_payload:set({shared, 65536}),
    {OneCrc, OneBin} = pt_bench_payload:get(3, 10, One),
    {OneCrc, OneBin} = pt_bench_payload:get(4, 11, One),
    true = pt_bench_payload:intact(3, 10, OneCrc, OneBin, 1, One),
    false = pt_bench_payload:intact(3, 10, OneCrc, <<255, (binary:part(OneBin, 1, 65535))/binary>>, 1, One),
    65536 = pt_bench_payload:pool_bytes({shared, 65536}),
    0 = pt_bench_payload:pool_bytes(64),
    ok = pt_bench_payload:prepare(65536 + 100, with_pool, 1),
    %% Swapped pages show without the full checksum.
    Set = pt_bench_payload:set(65536 + 100),
    {Crc, <<A:4096/binary, B:4096/binary, Rest/binary>>} = pt_bench_payload:get(1, 1, Set),
    false = pt_bench_payload:intact(1, 1, Crc, <<B/binary, A/binary, Rest/binary>>, 1000, Set),
    ok = pt_bench_payload:forget(),
    ok.

%% The receiving loop that the nodes run, fed with each fault in its mailbox.
partner_faults() ->
    ok = pt_bench_payload:prepare(64, with_pool, 1),
    Set = pt_bench_payload:set(64),
    Message = fun(Seq) -> {Crc, Bin} = pt_bench_payload:get(1, Seq, Set), {Seq, Crc, Bin} end,
    [One, Two, Three, Four] = [Message(I) || I <- [1, 2, 3, 4]],
    {4, Crc4, Bin4} = Four,
    Cases = [
        {true, #{lost => 0}, [One, Two, Three, Four]},
        {false, #{lost => 1, received => 3}, [One, Two, Four]},
        {false, #{doubled => 1, lost => 0}, [One, Two, Two, Three, Four]},
        {false, #{reordered => 1, lost => 0}, [One, Three, Two, Four]},
        {false, #{corrupt => 1, lost => 0}, [One, Two, Three, {4, Crc4, <<0, Bin4/binary>>}]},
        {false, #{corrupt => 1}, [One, Two, Three, {4, Crc4 bxor 1, Bin4}]},
        {false, #{corrupt => 1}, [One, garbage, Two, Three, Four]}
    ],
    [
        begin
            Job = #{part => #{kind => Kind, size => 64, procs => 1}, flow => 1, full => 1},
            Partner = spawn_link(pt_bench_flow, partner, [self(), Job]),
            receive {hello, Partner} -> ok end,
            [Partner ! M || M <- Messages],
            Partner ! {done, 4},
            receive
                {report, Partner, Report, _First, _Last} ->
                    {Ok, Report} = {pt_bench_proof:is_ok(Report), Report},
                    {Want, Report} = {maps:with(maps:keys(Want), Report), Report}
            end
        end
     || Kind <- [flow, echo], {Ok, Want, Messages} <- Cases
    ],
    flush(),
    ok = pt_bench_payload:forget(),
    ok.

flush() ->
    receive _ -> flush() after 0 -> ok end.

options() ->
    help = pt_bench_opts:parse(["--rounds", "3", "--help"]),
    {ok, Options} = pt_bench_opts:parse([
        "--rounds", "3", "--seconds", "0.5", "--cases", "a,b*", "--pinned", "--erl", "+zdbbl 8"
    ]),
    #{rounds := 3, seconds := 0.5, cases := ["a", "b*"], pinned := true} = Options,
    #{erl := ["+zdbbl", "8"]} = Options,
    [
        {error, _} = pt_bench_opts:parse(Args)
     || Args <- [["--rounds", "0"], ["--rounds"], ["--lanes", "x"], ["--backend", "epoll"], ["x"]]
    ],
    {error, "nothing*"} = pt_bench_cases:select(["pp64", "nothing*"]),
    {ok, Some} = pt_bench_cases:select(["*-8m-4", "pp64", "hol-p*-16"]),
    ["pp-64", "echo-8m-4", "oneway-8m-4", "hol-pp-16"] = [Name || #{name := Name} <- Some],
    {ok, [#{name := "echo-1k-16"}]} = pt_bench_cases:select(["echo1k-16"]),
    {error, "e(+["} = pt_bench_cases:select(["e(+["]),
    Names = [Name || #{name := Name} <- pt_bench_cases:all()],
    {[], Names} = {Names -- lists:usort(Names), Names},
    [_ | _] = pt_bench_cases:default(),
    [_ | _] = pt_bench_cases:short(),
    ok.

carriers() ->
    Args = fun(Word, Defaults) ->
        {ok, #{label := Word, args := A}} = pt_bench_carrier:parse(Word, Defaults),
        A
    end,
    [] = Args("partisan", #{}),
    [] = Args("inet_tcp", #{backend => "poll", lanes => 2}),
    ["-partisan", "backend", "poll"] = Args("partisan", #{backend => "poll"}),
    ["-partisan", "backend", "uring", "-partisan", "lanes", "4"] =
        Args("partisan-4-uring", #{backend => "poll", lanes => 2}),
    {ok, #{via := {channel, small}, lanes := 1, proto := "partisan"}} =
        pt_bench_carrier:parse("partisan-channel", #{}),
    {ok, #{via := {forward, small}, lanes := 4, args := ["-partisan", "backend", "poll"]}} =
        pt_bench_carrier:parse("partisan-forward-poll-4", #{}),
    Bad = ["partisan-channel-x", "inet_tcp-poll", "partisan-x", "partisan-0"],
    [{error, _} = pt_bench_carrier:parse(Word, #{}) || Word <- Bad],
    ok.

json() ->
    Line = pt_bench_json:line(#{a => [1, 2.5, true, none, <<"q\"\\\n">>], b => #{<<"c">> => d}}),
    Bin = iolist_to_binary(Line),
    <<"{\"a\":[1,2.50000,true,null,\"q\\\"\\\\\\u000a\"],\"b\":{\"c\":\"d\"}}\n">> = Bin,
    ok.
