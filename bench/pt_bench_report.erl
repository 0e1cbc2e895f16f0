%% What people read: the environment block, a line a cell, the table. Pure: returns iolists.
-module(pt_bench_report).
-export([environment/1, progress/3, table/3, summaries/3]).

%% Other processes using more CPU than this (in CPUs) during a cell make it doubtful.
-define(LOUD, 0.1).

-spec environment(map()) -> iolist().
environment(Env) ->
    Width = lists:max([length(atom_to_list(K)) || K <- maps:keys(Env)]),
    [io_lib:format("~-*s  ~ts~n", [Width, K, show(V)]) || {K, V} <- lists:sort(maps:to_list(Env))].

show(V) when is_binary(V) -> V;
show([]) -> "none";
show([B | _] = V) when is_binary(B) -> lists:join(", ", V);
show(V) -> io_lib:format("~0tp", [V]).

%% The line of one finished cell.
-spec progress({pos_integer(), pos_integer()}, map(), [pt_bench_cases:metric()]) -> iolist().
progress({I, N}, #{round := Round, 'case' := Case, carrier := Label} = Sample, Show) ->
    What =
        case Sample of
            #{ok := false, why := Why} ->
                ["FAILED: ", Why];
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
    io_lib:format("[~*b/~b] round ~b  ~-12s ~-18s ~ts~n",
        [length(integer_to_list(N)), I, N, Round, Case, Label, What]).

%% One map a case, figure and carrier, with the paired ratios to the first carrier.
-spec summaries(['pt_bench_cases':'case'()], [string()], [map()]) -> [map()].
summaries(Cases, [Base | _] = Labels, Samples) ->
    [
        begin
            Values = values(Name, Label, Metric, Samples),
            Ratios = pt_bench_stat:paired(values(Name, Base, Metric, Samples), Values),
            #{
                'case' => Name, metric => Metric, carrier => Label,
                value => pt_bench_stat:summary([V || {_, V} <- Values]),
                ratio => case Label of Base -> none; _ -> pt_bench_stat:summary(Ratios) end,
                failed => length(failed(Name, Label, Samples)),
                external_max => external(Name, Samples)
            }
        end
     || #{name := Name, show := Show} <- Cases, Metric <- Show, Label <- Labels
    ].

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

%% Two carriers stand side by side; more than two below each other.
-spec table(['pt_bench_cases':'case'()], [string()], [map()]) -> iolist().
table(Cases, [Base | _] = Labels, Summaries) ->
    Cells = maps:from_list([
        {{Name, Metric, Label}, Summary}
     || #{'case' := Name, metric := Metric, carrier := Label} = Summary <- Summaries
    ]),
    Rows =
        case Labels of
            [_, _, _ | _] -> tall(Cases, Labels, Cells);
            _ -> wide(Cases, Labels, Cells)
        end,
    [
        "\n", Rows,
        "\nMedian (least..most) of the rounds. The ratio is to ", Base,
        " in the same round, its median over\nthe rounds; for k/s and MB/s more is better, for the "
        "others less. ~ marks a ratio whose rounds\nlie more than a quarter apart: noise, not a "
        "result.\n",
        loud([
            {Name, X}
         || #{name := Name, show := [Metric | _]} <- Cases,
            #{external_max := X} <- [maps:get({Name, Metric, Base}, Cells)],
            X > ?LOUD
        ])
    ].

wide(Cases, [Base | Others], Cells) ->
    Head = [
        io_lib:format("~-13s ~-9s ~-22s", ["case", "figure", Base]),
        [io_lib:format(" ~-22s ~s", [L, "ratio"]) || L <- Others]
    ],
    Rows = [
        [
            io_lib:format("~-13s ~-9s", [first(Name, Metric, Show), unit(Metric)]),
            [$\s, pad(22, spread(maps:get({Name, Metric, Base}, Cells)))],
            [
                [$\s, pad(22, spread(Cell)), $\s, ratio(Cell)]
             || L <- Others, Cell <- [maps:get({Name, Metric, L}, Cells)]
            ]
        ]
     || #{name := Name, show := Show} <- Cases, Metric <- Show
    ],
    lines([Head | Rows]).

tall(Cases, [Base | _] = Labels, Cells) ->
    Head = io_lib:format("~-13s ~-9s ~-18s ~-22s ratio", ["case", "figure", "carrier", "value"]),
    Rows = [
        [
            case Label of
                Base -> io_lib:format("~-13s ~-9s", [first(Name, Metric, Show), unit(Metric)]);
                _ -> pad(23, "")
            end,
            io_lib:format(" ~-18s ", [Label]),
            pad(22, spread(Cell)), $\s, ratio(Cell)
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
ratio(#{ratio := #{median := M, min := Min, max := Max}}) ->
    Mark = case Max - Min > 0.25 * M of true -> "~"; false -> "" end,
    [Mark, num(M), " (", num(Min), "..", num(Max), ")"].

value(Metric, V) -> pt_bench_metric:show(Metric, V).

unit(Metric) -> pt_bench_metric:unit(Metric).

num(V) -> pt_bench_metric:number(V).

pad(Width, Text) -> string:pad(lists:flatten(Text), Width).
