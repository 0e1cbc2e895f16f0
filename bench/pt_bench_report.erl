%% What people read: the environment block, a line a cell, the table. Pure: returns iolists.
-module(pt_bench_report).
-export([environment/1, progress/3, table/3, summaries/3, time_left/1, noisy/1]).

%% Other processes using more CPU than this (in CPUs) during a cell make it doubtful.
-define(LOUD, 0.1).
%% Rounds that lie further apart than this part of their median are noise.
-define(NOISY, 0.25).

-spec environment(map()) -> iolist().
environment(Env) ->
    Width = lists:max([length(atom_to_list(K)) || K <- maps:keys(Env)]),
    [io_lib:format("~-*s  ~ts~n", [Width, K, show(V)]) || {K, V} <- lists:sort(maps:to_list(Env))].

show(V) when is_binary(V) -> V;
show([]) -> "none";
show(V) when is_list(V) -> lists:join("; ", [show(E) || E <- V]);
show(#{name := Name, nodes := Nodes}) -> [Name, " (", Nodes, ")"];
show(V) when is_map(V) -> lists:join("; ", [[K, " = ", E] || {K, E} <- lists:sort(maps:to_list(V))]);
show(V) -> io_lib:format("~0tp", [V]).

%% The line of one finished cell: the I-th of N, and the seconds that the rest will take.
-spec progress({pos_integer(), pos_integer(), non_neg_integer()}, map(), [pt_bench_cases:metric()]) ->
    iolist().
progress({I, N, Left}, #{round := Round, 'case' := Case, carrier := Label} = Sample, Show) ->
    What =
        case Sample of
            #{ok := false, why := Why} ->
                ["FAILED: ", Why];
            #{not_applicable := Words} ->
                ["not here: ", Words];
            #{metrics := M, external := X} ->
                [
                    lists:join("  ", [
                        [value(K, maps:get(K, M)), $\s, unit(K)] || K <- Show, is_map_key(K, M)
                    ]),
                    case X > ?LOUD of
                        true -> io_lib:format("  (others used ~.1f CPUs)", [X]);
                        false -> ""
                    end
                ]
        end,
    io_lib:format("[~*b/~b ~6s left] round ~b  ~-19s ~-18s ~ts~n",
        [length(integer_to_list(N)), I, N, time_left(Left), Round, Case, Label, What]).

%% 45s, 12m05s, 3h20m
-spec time_left(non_neg_integer()) -> string().
time_left(S) when S < 60 -> text("~bs", [S]);
time_left(S) when S < 3600 -> text("~bm~2..0bs", [S div 60, S rem 60]);
time_left(S) -> text("~bh~2..0bm", [S div 3600, S rem 3600 div 60]).

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).

%% One map a case, figure and carrier, with the paired ratios to the first carrier and to the floor.
-spec summaries(['pt_bench_cases':'case'()], [string()], [map()]) -> [map()].
summaries(Cases, [Base | _] = Labels, Samples) ->
    [
        begin
            Values = values(Name, Label, Metric, Samples),
            Ratio = fun(To) ->
                Others = values(Name, To, Metric, Samples),
                pt_bench_stat:summary(pt_bench_stat:paired(Others, Values))
            end,
            #{
                'case' => Name, metric => Metric, carrier => Label,
                value => pt_bench_stat:summary([V || {_, V} <- Values]),
                rounds => [[R, V] || {R, V} <- Values],
                ratio => case Label of Base -> none; _ -> Ratio(Base) end,
                of_floor => case is_floor(Label) of true -> none; false -> of_floor(Ratio, Labels) end,
                failed => length(failed(Name, Label, Samples)),
                external_max => external(Name, Samples)
            }
        end
     || #{name := Name, show := Show} <- Cases, Metric <- Show, Label <- Labels
    ].

of_floor(Ratio, Labels) ->
    case lists:filter(fun is_floor/1, Labels) of
        [] -> none;
        [Floor | _] -> Ratio(Floor)
    end.

is_floor(Label) -> lists:prefix("floor", Label).

values(Name, Label, Metric, Samples) ->
    [
        {Round, maps:get(Metric, M)}
     || #{'case' := C, carrier := L, ok := true, round := Round, metrics := M} <- Samples,
        C =:= Name, L =:= Label, is_map_key(Metric, M)
    ].

failed(Name, Label, Samples) ->
    [S || #{'case' := C, carrier := L, ok := false} = S <- Samples, C =:= Name, L =:= Label].

external(Name, Samples) ->
    lists:max([0.0 | [X || #{'case' := C, external := X} <- Samples, C =:= Name]]).

%% Two carriers stand side by side, the floor as a part; more than two below each other.
-spec table(['pt_bench_cases':'case'()], [string()], [map()]) -> iolist().
table(Cases, [Base | _] = Labels, Summaries) ->
    Cells = maps:from_list([
        {{Name, Metric, Label}, Summary}
     || #{'case' := Name, metric := Metric, carrier := Label} = Summary <- Summaries
    ]),
    {Floors, Real} = lists:partition(fun is_floor/1, Labels),
    Rows =
        case Real of
            [_, _, _ | _] -> tall(Cases, Labels, Cells);
            _ -> wide(Cases, Real, Floors, Cells)
        end,
    [
        "\n", Rows,
        "\nMedian (least..most) of the rounds. The ratio is to ", Base,
        " in the same round, its median over\nthe rounds; for k/s and MB/s more is better, for the "
        "others less. ~ marks a ratio whose rounds\nlie more than a quarter apart: noise, not a "
        "result.\n",
        [
            "x floor: times what one TCP connection gives two C processes on the same path, in the "
            "same\nround.\n"
         || Floors =/= []
        ],
        loud([
            {Name, X}
         || #{name := Name, show := [Metric | _]} <- Cases,
            #{external_max := X} <- [maps:get({Name, Metric, Base}, Cells)],
            X > ?LOUD
        ])
    ].

wide(Cases, [Base | Others], Floors, Cells) ->
    Head = [
        io_lib:format("~-19s ~-9s ~-23s", ["case", "figure", Base]),
        [io_lib:format(" ~-23s ~-24s", [L, "ratio"]) || L <- Others],
        [" x floor" || Floors =/= []]
    ],
    Rows = [
        [
            io_lib:format("~-19s ~-9s", [first(Name, Metric, Show), unit(Metric)]),
            [$\s, pad(23, spread(maps:get({Name, Metric, Base}, Cells)))],
            [
                [$\s, pad(23, spread(Cell)), $\s, pad(24, ratio(Cell))]
             || L <- Others, Cell <- [maps:get({Name, Metric, L}, Cells)]
            ],
            [$\s, of_floor(maps:get({Name, Metric, lists:last([Base | Others])}, Cells))]
        ]
     || #{name := Name, show := Show} <- Cases, Metric <- Show
    ],
    lines([Head | Rows]).

tall(Cases, [Base | _] = Labels, Cells) ->
    Head = io_lib:format("~-19s ~-9s ~-18s ~-23s ~-24s x floor",
        ["case", "figure", "carrier", "value", "ratio"]),
    Rows = [
        [
            case Label of
                Base -> io_lib:format("~-19s ~-9s", [first(Name, Metric, Show), unit(Metric)]);
                _ -> pad(29, "")
            end,
            io_lib:format(" ~-18s ", [Label]),
            pad(23, spread(Cell)), $\s, pad(24, ratio(Cell)), $\s, of_floor(Cell)
        ]
     || #{name := Name, show := Show} <- Cases, Metric <- Show, Label <- Labels,
        Cell <- [maps:get({Name, Metric, Label}, Cells)]
    ],
    lines([Head | Rows]).

%% The case is named in its first row only.
first(Name, Metric, [Metric | _]) -> Name;
first(_Name, _Metric, _Show) -> "".

lines(Rows) -> [[string:trim(lists:flatten(Row), trailing), $\n] || Row <- Rows].

loud([]) ->
    "No other load disturbed the run.\n";
loud(Cases) ->
    [
        "Other processes ran meanwhile; doubtful (CPUs they used at most): ",
        lists:join(", ", [io_lib:format("~s ~.1f", [Name, X]) || {Name, X} <- Cases]),
        "\n"
    ].

spread(#{failed := Failed}) when Failed > 0 -> "FAILED";
spread(#{value := none}) -> "-";
spread(#{metric := Metric, value := #{median := M, min := Min, max := Max}}) ->
    [value(Metric, M), " (", value(Metric, Min), "..", value(Metric, Max), ")"].

ratio(#{ratio := none}) -> "";
ratio(#{ratio := #{median := M, min := Min, max := Max} = Ratio}) ->
    Mark = case noisy(Ratio) of true -> "~"; false -> "" end,
    [Mark, num(M), " (", num(Min), "..", num(Max), ")"].

of_floor(#{of_floor := #{median := M} = Part}) ->
    [case noisy(Part) of true -> "~"; false -> "" end, num(M)];
of_floor(#{}) ->
    "".

-spec noisy(pt_bench_stat:summary()) -> boolean().
noisy(#{median := M, min := Min, max := Max}) -> Max - Min > ?NOISY * M.

value(Metric, V) -> pt_bench_metric:show(Metric, V).

unit(Metric) -> pt_bench_metric:unit(Metric).

num(V) -> pt_bench_metric:number(V).

pad(Width, Text) -> string:pad(lists:flatten(Text), Width).
