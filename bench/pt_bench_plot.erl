%% Plots of a run, by gnuplot: data and script stay beside the pictures, so that they can be drawn in
%% another way by hand. For each figure, the ratios of all cases to the first carrier; for each case
%% with latencies, their distribution with all rounds merged.
-module(pt_bench_plot).
-export([draw/1, script/1]).

%% Draws into DIR/plots, and says in a line what it did.
-spec draw(file:filename()) -> iolist().
draw(Dir) ->
    case {os:find_executable("gnuplot"), pt_bench_store:read(Dir)} of
        {_, {error, Text}} ->
            throw({usage, Text});
        {false, _} ->
            "No plots: gnuplot is not installed (package gnuplot-nox); bench/run --plot DIR draws them "
            "later.\n";
        {Gnuplot, {ok, Lines}} ->
            Plots = filename:join(Dir, "plots"),
            ok = filelib:ensure_path(Plots),
            Pictures = pictures(Lines),
            [ok = file:write_file(filename:join(Plots, Name), Data) || {Name, Data, _} <- Pictures],
            Script = filename:join(Plots, "plots.gp"),
            ok = file:write_file(Script, [script(P) || P <- Pictures]),
            Command = ["cd '", Plots, "' && '", Gnuplot, "' plots.gp >gnuplot.log 2>&1; echo $?"],
            Said = os:cmd(lists:flatten(Command)),
            case string:trim(Said) of
                "0" -> io_lib:format("Plots: ~b in ~ts/ (SVG, PNG)~n", [length(Pictures), Plots]);
                _ -> io_lib:format("No plots: gnuplot failed, see ~ts/gnuplot.log~n", [Plots])
            end
    end.

%% {name of the data file, data, what it shows}
pictures(Lines) ->
    Samples = [S || #{ok := true} = S <- pt_bench_store:samples(Lines)],
    Names = fun(Key, List) -> unique([maps:get(Key, S) || S <- List]) end,
    Labels = Names(carrier, Samples),
    Real = [L || L <- Labels, not lists:prefix("floor", L)],
    Cases = Names('case', Samples),
    ratios(Cases, Real, Samples) ++ lists:append([latencies(C, Labels, Samples) || C <- Cases]).

unique(List) ->
    {Kept, _} = lists:foldl(
        fun(E, {L, Seen}) ->
            case Seen of
                #{E := _} -> {L, Seen};
                #{} -> {[E | L], Seen#{E => true}}
            end
        end,
        {[], #{}},
        List
    ),
    lists:reverse(Kept).

%%% ratios

ratios(_Cases, [_], _Samples) ->
    [];
ratios(_Cases, [], _Samples) ->
    [];
ratios(Cases, [Base | Others], Samples) ->
    [
        {"ratio-" ++ atom_to_list(Metric) ++ ".tsv", ratio_data(Rows, Others),
            {ratio, Metric, Base, Others, length(Rows)}}
     || Metric <- pt_bench_metric:all(),
        Rows <- [[
            {Case, Ratios}
         || Case <- Cases,
            Ratios <- [[ratio(Metric, Case, Base, L, Samples) || L <- Others]],
            lists:any(fun(R) -> R =/= none end, Ratios)
        ]],
        Rows =/= []
    ].

ratio(Metric, Case, Base, Label, Samples) ->
    Of = fun(Wanted) ->
        [
            {R, maps:get(Metric, M)}
         || #{'case' := C, carrier := L, round := R, metrics := M} <- Samples,
            C =:= Case, L =:= Wanted, is_map_key(Metric, M)
        ]
    end,
    pt_bench_stat:summary(pt_bench_stat:paired(Of(Base), Of(Label))).

ratio_data(Rows, Others) ->
    [
        ["case", [["\t", L, "\tleast\tmost"] || L <- Others], "\n"],
        [
            [Case, [
                case R of
                    none -> "\t-\t-\t-";
                    #{median := M, min := Min, max := Max} ->
                        io_lib:format("\t~g\t~g\t~g", [M * 1.0, Min * 1.0, Max * 1.0])
                end
             || R <- Ratios
            ], "\n"]
         || {Case, Ratios} <- Rows
        ]
    ].

%%% latencies: for the n-th carrier a block of `1 / (1 - q), microseconds'

latencies(Case, Labels, Samples) ->
    Hists = [
        {Label, pt_bench_hist:merge(Lists)}
     || Label <- Labels,
        Lists <- [[
            H
         || #{'case' := C, carrier := L, parts := Parts} <- Samples, C =:= Case, L =:= Label,
            #{histogram := [_ | _] = H} <- Parts
        ]],
        Lists =/= []
    ],
    [
        {"latency-" ++ Case ++ ".tsv", [latency_data(L, H) || {L, H} <- Hists],
            {latency, Case, [L || {L, _} <- Hists]}}
     || Hists =/= []
    ].

latency_data(Label, Hist) ->
    Total = pt_bench_hist:total(Hist),
    Points = [Q || Q <- quantiles(), 1 / (1 - Q) =< Total],
    [
        ["# ", Label, "\n"],
        [
            io_lib:format("~g\t~g~n", [1 / (1 - Q), pt_bench_hist:quantile(Hist, Q) / 1000])
         || Q <- Points
        ],
        "\n\n"
    ].

%% Evenly spread in log(1 / (1 - q)), from the fastest to one in a million.
quantiles() -> [1 - math:pow(10, -I / 20) || I <- lists:seq(0, 120)].

%%% the script

-spec script({Name :: string(), iodata(), What :: tuple()}) -> iolist().
script({Name, _Data, What}) ->
    Base = filename:rootname(Name),
    {Width, Commands} = commands(Name, What),
    [
        [
            "reset\n",
            io_lib:format(Terminal, [Width]),
            "set output '", Base, Suffix, "'\n",
            Commands,
            "unset output\n\n"
        ]
     || {Terminal, Suffix} <- [
            {"set terminal svg size ~b,480 dynamic background rgb 'white'~n", ".svg"},
            {"set terminal pngcairo size ~b,480 background rgb 'white'~n", ".png"}
        ]
    ].

commands(Name, {ratio, Metric, Base, Others, Count}) ->
    Better = case pt_bench_metric:better(Metric) of more -> "more"; less -> "less" end,
    Commands = [
        "set title \"", pt_bench_metric:unit(Metric), " by that of ", quoted(Base), " (", Better,
        " is better)\"\n",
        "set datafile separator '\\t'\nset datafile missing '-'\n"
        "set style data histogram\nset style histogram errorbars gap 1 lw 1\n"
        "set style fill solid 0.6 border -1\nset logscale y\nset ytics add ('1' 1)\nset grid y\n"
        "set xtics rotate by -40 nomirror noenhanced\nset key outside top right noenhanced\n"
        "set arrow from graph 0,first 1 to graph 1,first 1 nohead lw 2\n"
        "plot ",
        lists:join(", ", [
            io_lib:format("'~s' every ::1 using ~b:~b:~b:xtic(1) title '~s'",
                [Name, 3 * I - 1, 3 * I, 3 * I + 1, L])
         || {I, L} <- lists:zip(lists:seq(1, length(Others)), Others)
        ]),
        "\n"
    ],
    {max(720, 200 + Count * (30 + 16 * length(Others))), Commands};
commands(Name, {latency, Case, Labels}) ->
    {900, [
        "set title \"latency, ", quoted(Case), ": all rounds merged\"\n",
        "set datafile separator '\\t'\nset logscale xy\nset grid\n"
        "set key outside right noenhanced\nset ylabel 'microseconds'\nset xlabel 'quantile'\n"
        "set xtics ('0' 1, 'p50' 2, 'p90' 10, 'p99' 100, 'p99.9' 1000, 'p99.99' 1e4, 'p99.999' 1e5)\n"
        "plot ",
        lists:join(", ", [
            io_lib:format("'~s' index ~b using 1:2 with lines lw 2 title '~s'", [Name, I, L])
         || {I, L} <- lists:zip(lists:seq(0, length(Labels) - 1), Labels)
        ]),
        "\n"
    ]}.

%% gnuplot reads _ and ^ in titles as sub- and superscript.
quoted(Text) -> [case lists:member(C, "_^@&~") of true -> ["\\\\", C]; false -> C end || C <- Text].
