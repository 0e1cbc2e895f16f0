%% Tests of what becomes of samples: kept, read back after a stop, merged, compared, drawn. Part of
%% `bench/run --self-test'.
-module(pt_bench_result_test).
-export([run/0]).

-define(TESTS, [
    fun json_back/0, fun json_broken/0, fun histogram_merge/0, fun rank_sum/0, fun rank_sum_ties/0,
    fun change/0, fun kept_and_read_back/0, fun stopped_in_a_line/0, fun unfinished/0, fun compared/0,
    fun compared_by_ratio/0, fun compared_failures/0, fun table_marks/0, fun floor_line/0,
    fun time_left/0, fun plot_script/0, fun profile_report/0,
    fun profile_groups/0
]).

-spec run() -> pos_integer().
run() ->
    [ok = Test() || Test <- ?TESTS],
    length(?TESTS).

%% What the encoder writes comes back; escapes that it never writes are understood too.
json_back() ->
    Map = #{
        <<"a">> => [1, -2, 0.5, 1.5e300, true, false, null, <<>>, <<"q\"\\\n\x{20ac}"/utf8>>],
        <<"b">> => #{<<"c">> => [], <<"d">> => #{}}
    },
    {ok, Map} = pt_bench_json:parse(iolist_to_binary(pt_bench_json:line(Map))),
    {ok, [1.0e5, -2.5, <<"\x{1f600}\t/"/utf8>>]} =
        pt_bench_json:parse(<<" [ 1e5 , -2.5 , \"\\ud83d\\ude00\\t\\/\" ] ">>),
    ok.

%% Every beginning of a line but the whole is an error.
json_broken() ->
    Line = <<"{\"a\":[1,2.5,\"x\\n\"],\"b\":{\"c\":null}}">>,
    {ok, _} = pt_bench_json:parse(Line),
    [
        error = pt_bench_json:parse(binary:part(Line, 0, Size))
     || Size <- lists:seq(0, byte_size(Line) - 1)
    ],
    [
        error = pt_bench_json:parse(Bad)
     || Bad <- [<<"[1,]">>, <<"[,1]">>, <<"{,}">>, <<"{\"a\":1,}">>, <<"[1]x">>, <<"nul">>, <<"[1 2]">>]
    ],
    ok.

%% Two histograms merged are the histogram of all values, through a results file too.
histogram_merge() ->
    Values = [{1, 100}, {2, 70000}, {1, 70001}, {2, 3000000}, {1, 1 bsl 50}],
    Make = fun(Wanted) ->
        Hist = pt_bench_hist:new(),
        [pt_bench_hist:add(Hist, V) || {Which, V} <- Values, lists:member(Which, Wanted)],
        pt_bench_hist:to_list(Hist)
    end,
    Both = Make([1, 2]),
    {ok, Kept} = pt_bench_json:parse(iolist_to_binary(pt_bench_json:line(#{h => [Make([1]), Make([2])]}))),
    Merged = pt_bench_hist:merge(maps:get(<<"h">>, Kept)),
    Both = pt_bench_hist:to_list(Merged),
    5 = pt_bench_hist:total(Merged),
    #{p50 := P50} = pt_bench_hist:micros(Merged),
    {true, P50} = {P50 > 69 andalso P50 < 71, P50},
    #{p50 := none} = pt_bench_hist:micros(pt_bench_hist:from_list([])),
    ok.

%% Known values of the exact two-sided test, and symmetry.
rank_sum() ->
    Near = fun(Want, Got) -> {true, Want, Got} = {abs(Want - Got) < 1.0e-9, Want, Got} end,
    Near(2 / 252, pt_bench_stat:permutation([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])),
    Near(2 / 20, pt_bench_stat:permutation([4, 5, 6], [1, 2, 3])),
    Near(1.0, pt_bench_stat:permutation([1, 4], [2, 3])),
    Near(1.0, pt_bench_stat:permutation([7], [9])),
    %% Sums of two out of {1, 2, 3, 4}: 3 4 5 5 6 7; as far from 5 as 4 is are 3, 4, 6 and 7.
    Near(4 / 6, pt_bench_stat:permutation([1, 3], [2, 4])),
    A = [1.5, 8, 3, 4.25], B = [2, 2.5, 9, 11, 12],
    Near(pt_bench_stat:permutation(A, B), pt_bench_stat:permutation(B, A)),
    ok.

rank_sum_ties() ->
    1.0 = pt_bench_stat:permutation([5, 5.0, 5], [5, 5]),
    %% Ranks 1.5 1.5 against 3.5 3.5: sums of two are 3 5 5 5 5 7.
    P = pt_bench_stat:permutation([1, 1], [2, 2.0]),
    {true, P} = {abs(P - 2 / 6) < 1.0e-9, P},
    ok.

change() ->
    Five = [100, 101, 102, 103, 104],
    #{verdict := clear, factor := F} = pt_bench_stat:change(Five, [2 * V || V <- Five], 0.05),
    {true, F} = {abs(F - 2) < 1.0e-9, F},
    %% Sure but small, and large but all over the place.
    #{verdict := small} = pt_bench_stat:change(Five, [V * 1.045 || V <- Five], 0.05),
    #{verdict := unclear} = pt_bench_stat:change(Five, [20, 90, 111, 300, 112], 0.05),
    %% Too few rounds can prove nothing.
    #{verdict := unclear} = pt_bench_stat:change([1, 1], [9, 9], 0.05),
    none = pt_bench_stat:change([0, 0], [1, 1], 0.05),
    ok.

%%% results files

kept_and_read_back() ->
    in_directory(fun(Dir) ->
        Cell = sample("pp-64", "partisan", 2, #{p50_us => 10.5, rate => 12}),
        Failed = #{
            'case' => "pp-64", carrier => "x", round => 1, ok => false, why => "lost \x{2014}",
            proof => pt_bench_proof:unfinished(), wall => 5
        },
        write(Dir, [Cell, Failed]),
        {ok, Lines} = pt_bench_store:read(Dir),
        [Cell1, Failed1] = pt_bench_store:samples(Lines),
        Keys = [round, 'case', carrier, ok, proof, metrics, external, parts, wall],
        {Same, Same} = {maps:with(Keys, Cell1), maps:with(Keys, Cell)},
        {Bad, Bad} = {maps:with(maps:keys(Failed), Failed1), Failed},
        {error, _} = pt_bench_store:create(Dir),
        {error, _} = pt_bench_store:read(filename:join(Dir, "nothing")),
        ok
    end).

%% A line that was cut short is forgotten, and does not spoil the next.
stopped_in_a_line() ->
    in_directory(fun(Dir) ->
        write(Dir, [sample("a", "x", 1, #{}), sample("b", "x", 1, #{})]),
        {ok, Whole} = file:read_file(pt_bench_store:file(Dir)),
        [First | _] = binary:split(Whole, <<"\n">>),
        [
            begin
                ok = file:write_file(pt_bench_store:file(Dir), binary:part(Whole, 0, Size)),
                {ok, Store} = pt_bench_store:reopen(Dir),
                pt_bench_store:write(Store, pt_bench_store:to_json(sample("c", "x", 1, #{}))),
                ok = pt_bench_store:close(Store),
                {ok, Lines} = pt_bench_store:read(Dir),
                {["a", "c"], Size} = {[C || #{'case' := C} <- pt_bench_store:samples(Lines)], Size}
            end
         || Size <- lists:seq(byte_size(First), byte_size(Whole) - 2)
        ],
        ok
    end).

%% Only a stopped run of the same plan is taken up, the newest of them.
unfinished() ->
    in_directory(fun(Root) ->
        Make = fun(Name, Lines) ->
            Dir = filename:join(Root, Name),
            {ok, Store} = pt_bench_store:create(Dir),
            [pt_bench_store:write(Store, L) || L <- Lines],
            ok = pt_bench_store:close(Store),
            Dir
        end,
        Env = fun(Plan) -> #{type => environment, plan => Plan} end,
        none = pt_bench_store:unfinished(Root, <<"mine">>),
        _ = Make("other", [Env(<<"other">>)]),
        Ended = Make("ended", [Env(<<"mine">>)]),
        {ok, Ended} = pt_bench_store:unfinished(Root, <<"mine">>),
        {ok, Store} = pt_bench_store:reopen(Ended),
        ok = pt_bench_store:finish(Store),
        none = pt_bench_store:unfinished(Root, <<"mine">>),
        Stopped = Make("stopped", [Env(<<"mine">>)]),
        {ok, Stopped} = pt_bench_store:unfinished(Root, <<"mine">>),
        ok
    end).

in_directory(Test) ->
    Name = io_lib:format("test-~s-~b", [os:getpid(), erlang:unique_integer([positive])]),
    Dir = filename:join(filename:dirname(code:which(?MODULE)), lists:flatten(Name)),
    try
        Test(Dir)
    after
        file:del_dir_r(Dir)
    end.

write(Dir, Samples) ->
    {ok, Store} = pt_bench_store:create(Dir),
    [pt_bench_store:write(Store, pt_bench_store:to_json(S)) || S <- Samples],
    pt_bench_store:close(Store).

sample(Case, Carrier, Round, Metrics) ->
    #{
        'case' => Case, carrier => Carrier, round => Round, ok => true, external => 0.25, wall => 7,
        proof => pt_bench_proof:finish(0, pt_bench_proof:new()), metrics => Metrics,
        parts => [#{histogram => [[3, 1]], latency_us => #{p50 => 2.5}}]
    }.

%%% comparison

%% Lines of a run of five rounds: {case, carrier, metrics of round N}; the first carrier is the base.
lines(Base, Cells) ->
    Env = #{type => environment, carriers => [#{name => list_to_binary(Base)}]},
    Samples = [
        pt_bench_store:to_json(sample(Case, Carrier, Round, Metrics(Round)))
     || {Case, Carrier, Metrics} <- Cells, Round <- lists:seq(1, 5)
    ],
    back([Env | Samples]).

back(Maps) ->
    [Line || Map <- Maps, {ok, Line} <- [pt_bench_json:parse(iolist_to_binary(pt_bench_json:line(Map)))]].

compared() ->
    Cell = fun(Rate, P50) -> {"c", "x", fun(R) -> #{rate => Rate + R, p50_us => P50 + R / 10} end} end,
    Of = fun(New) ->
        Rows = pt_bench_compare:compare(lines("x", [Cell(1000, 50)]), lines("x", [New]), 0.05),
        {[V || #{verdict := V} <- Rows], pt_bench_compare:worse(Rows)}
    end,
    {[same, same], false} = Of(Cell(1000, 50)),
    %% More is better for a rate, less for a latency.
    {[better, better], false} = Of(Cell(1200, 40)),
    {[worse, worse], true} = Of(Cell(800, 60)),
    {[same, worse], true} = Of(Cell(1010, 60)),
    ok.

%% Half as fast a machine: the values fall by half, the ratios to the base do not.
compared_by_ratio() ->
    Cells = fun(Speed, Gain) ->
        [
            {"c", "base", fun(R) -> #{rate => Speed * (1000 + R)} end},
            {"c", "x", fun(R) -> #{rate => Speed * Gain * (1000 + 2 * R)} end}
        ]
    end,
    Of = fun(OldBase, NewBase, Gain) ->
        Rows = pt_bench_compare:compare(lines(OldBase, Cells(1, 3)), lines(NewBase, Cells(0.5, Gain)), 0.05),
        [{By, V} || #{carrier := "x", by := By, verdict := V} <- Rows]
    end,
    [{ratio, same}] = Of("base", "base", 3),
    [{ratio, better}] = Of("base", "base", 4),
    [{value, worse}] = Of("base", "x", 3),
    ok.

compared_failures() ->
    Good = lines("x", [{"c", "x", fun(_) -> #{rate => 10} end}]),
    Bad = [
        case L of
            #{<<"round">> := 3} -> L#{<<"ok">> := false};
            #{} -> L
        end
     || L <- Good
    ],
    [#{verdict := failed}] = Broken = pt_bench_compare:compare(Good, Bad, 0.05),
    true = pt_bench_compare:worse(Broken),
    [#{verdict := mended}] = Mended = pt_bench_compare:compare(Bad, Good, 0.05),
    false = pt_bench_compare:worse(Mended),
    Other = lines("x", [{"d", "x", fun(_) -> #{rate => 10} end}]),
    [gone, added] = [V || #{verdict := V} <- pt_bench_compare:compare(Good, Other, 0.05)],
    ok.

%%% what people read

%% Noise is marked, a failed cell shows no figure, the floor has its column.
table_marks() ->
    Case = fun(Name) -> #{name => Name, show => [rate], text => "", parts => [], ms => 1} end,
    Rate = fun(Name, Label, Values) ->
        [
            sample(Name, Label, R, #{rate => V * 1000})
         || {R, V} <- lists:zip(lists:seq(1, length(Values)), Values)
        ]
    end,
    Samples = lists:append([
        Rate("calm", "a", [10, 10, 10]), Rate("calm", "b", [20, 21, 20]), Rate("calm", "floor", [40, 40, 40]),
        Rate("wild", "a", [10, 10, 10]), Rate("wild", "b", [10, 30, 20]), Rate("bad", "a", [1, 1, 1])
    ]) ++ [
        #{'case' => "bad", carrier => "b", round => 1, ok => false, why => "", proof => #{}}
    ],
    Cases = [Case(N) || N <- ["calm", "wild", "bad"]],
    Labels = ["a", "b", "floor"],
    Table = unicode:characters_to_list(
        pt_bench_report:table(Cases, Labels, pt_bench_report:summaries(Cases, Labels, Samples))
    ),
    Row = fun(Name) -> hd([L || L <- string:split(Table, "\n", all), lists:prefix(Name, L)]) end,
    Has = fun(Name, Text) -> {true, Text} = {string:find(Row(Name), Text) =/= nomatch, Text} end,
    Has("calm", " 2.00 (2.00..2.10)"),
    Has("calm", "0.50"),
    Has("wild", "~2.00 (1.00..3.00)"),
    Has("bad", "FAILED"),
    ok.

floor_line() ->
    #{messages := 2.5, seconds := 0.4, cpu := 0.25, hist := [[1, 2], [300, 4]]} =
        pt_bench_floor:parse_line("messages=2.500 seconds=0.400000 cpu=0.250000 under_way=1 hist=1:2,300:4,"),
    #{hist := []} = pt_bench_floor:parse_line("messages=1.0 seconds=0.4 cpu=0.2 under_way=1 hist="),
    ok.

time_left() ->
    ["0s", "59s", "1m00s", "59m59s", "1h00m", "26h05m"] =
        [pt_bench_report:time_left(S) || S <- [0, 59, 60, 3599, 3600, 26 * 3600 + 300]],
    ok.

%% Both formats of every picture, each from its data file.
plot_script() ->
    Text = lists:flatten(pt_bench_plot:script({"latency-a.tsv", "", {latency, "a_b", ["x", "y"]}})),
    [
        {true, Part} = {string:find(Text, Part) =/= nomatch, Part}
     || Part <- ["'latency-a.svg'", "'latency-a.png'", "index 1 ", "a\\\\_b"]
    ],
    ok.

%% Lines of perf report; names with the separator in them, and what is no line of the table.
profile_report() ->
    Text =
        "# Overhead|    Pid:Command |Shared Object |Symbol\n#\n"
        " 5.02%  |    454:1_scheduler    |beam.smp         |[.] ethr_rwmutex_runlock   \n"
        "12.50%  |      7:a:b            |[JIT] tid 7      |[.] $m:f|g/1\n\n",
    [{"454", "beam.smp", "ethr_rwmutex_runlock", A}, {"7", "[JIT] tid 7", "$m:f|g/1", 0.125}] =
        pt_bench_symbols:parse_report(Text),
    {true, A} = {abs(A - 0.0502) < 1.0e-9, A},
    ok.

%% Every symbol has a group, and the same name belongs elsewhere in another object.
profile_groups() ->
    [
        {Group, Dso, Symbol} = {pt_bench_symbols:group(Dso, Symbol), Dso, Symbol}
     || {Group, Dso, Symbol} <- [
            {"carrier's driver", "partisan_drv.so", "memcpy"},
            {"workload, proof", "[JIT] tid 9", "$pt_bench_flow:flow_loop/11"},
            {"Erlang code", "[JIT] tid 9", "$lists:foldl/3"},
            {"Erlang code", "[JIT] tid 9", "0x00007f00"},
            {"VM: no symbol", "beam.smp", "0x00000000002e8282"},
            {"kernel: TCP, IP, loopback", "[kernel.kallsyms]", "tcp_sendmsg_locked"},
            {"kernel: copy", "[kernel.kallsyms]", "rep_movs_alternative"},
            {"kernel: scheduling, locks", "[kernel.kallsyms]", "_raw_spin_lock_bh"},
            {"kernel: entry, poll, files", "[kernel.kallsyms]", "do_syscall_64"},
            {"copy in user space", "libc.so.6", "__memmove_avx512_unaligned_erms"},
            {"VM: encode", "beam.smp", "erts_dsig_send"},
            {"VM: decode", "beam.smp", "erts_prepare_dist_ext"},
            {"VM: ports, inet driver", "beam.smp", "erts_dist_command"},
            {"VM: other", "beam.smp", "zzz"},
            {"other", "libfoo.so", "zzz"}
        ]
    ],
    [true = lists:member(pt_bench_symbols:group(D, ""), pt_bench_symbols:groups()) || D <- ["", "[x]", "y"]],
    ok.
