%% What changed between two runs: bench/compare A B.
-module(pt_bench_compare).
-export([main/0, compare/3, worse/1]).
-export_type([row/0]).

%% One figure of one case on one carrier in both runs.
-type row() :: #{
    'case' := string(), metric := pt_bench_metric:metric(), carrier := string(),
    %% judged by the ratio to the base of its own run where both have one, else by the value itself
    by := ratio | value,
    old := number(), new := number(), factor := float(), p := float(),
    verdict := better | worse | unclear | same
} | #{'case' := string(), carrier := string(), verdict := failed | mended | gone | added}.

-spec main() -> no_return().
main() ->
    pt_bench:guarded(fun() -> run(init:get_plain_arguments(), 0.05, false) end).

run(["--help" | _], _, _) -> io:put_chars(help()), 0;
run(["-h" | _], _, _) -> io:put_chars(help()), 0;
run(["--all" | Args], Threshold, _All) -> run(Args, Threshold, true);
run(["--threshold", V | Args], _, All) ->
    case string:to_float(case lists:member($., V) of true -> V; false -> V ++ ".0" end) of
        {Percent, ""} when Percent >= 0 -> run(Args, Percent / 100, All);
        _ -> throw({usage, "--threshold wants a percentage, not " ++ V})
    end;
run([A, B], Threshold, All) ->
    Old = lines(A),
    New = lines(B),
    Rows = compare(Old, New, Threshold),
    io:put_chars([environments(Old, New), table(Rows, All), closing(Rows, Threshold)]),
    case worse(Rows) of true -> 1; false -> 0 end;
run(_, _, _) ->
    throw({usage, "two runs are wanted, as in bench/compare OLD NEW"}).

help() ->
    "bench/compare [--all] [--threshold PERCENT] OLD NEW: what changed between two runs\n"
    "\n"
    "OLD and NEW are directories of bench/run (or their results.jsonl). A figure counts as changed\n"
    "when the medians are at least 5 % (--threshold) apart and the rounds are set apart so clearly\n"
    "that chance does it in one of fifty cases at most (exact rank-sum test; needs 5 rounds or more\n"
    "on both sides, 4 and 5 suffice). Where both runs have the same first carrier, ratios to it are\n"
    "judged and shown (as `x 1.31'), which takes most of the machine's doings out. A change that is\n"
    "large but may be chance is marked ~: run more rounds. --all shows what did not change, too.\n"
    "\n"
    "Exit status: 0 nothing became worse; 1 something did, or a cell failed that had not; 2 wrong\n"
    "option or no such run.\n".

lines(Name) ->
    case pt_bench_store:read(Name) of
        {ok, Lines} -> Lines;
        {error, Text} -> throw({usage, Text})
    end.

%% Did anything become worse?
-spec worse([row()]) -> boolean().
worse(Rows) -> [x || #{verdict := V} <- Rows, V =:= worse orelse V =:= failed] =/= [].

%% Lines of two runs, as pt_bench_store:read/1 gives them.
-spec compare([map()], [map()], float()) -> [row()].
compare(OldLines, NewLines, Threshold) ->
    Old = pt_bench_store:samples(OldLines),
    New = pt_bench_store:samples(NewLines),
    Base = same_base(OldLines, NewLines),
    %% The floor is what others are held against; it has no versions.
    Cells = unique([
        {C, L} || #{'case' := C, carrier := L} <- Old ++ New, not lists:prefix("floor", L)
    ]),
    lists:append([cell(C, L, Base, Old, New, Threshold) || {C, L} <- Cells]).

%% The first carrier, when it is the same in both.
same_base(OldLines, NewLines) ->
    Firsts = [
        case pt_bench_store:environment(Lines) of
            #{<<"carriers">> := [#{<<"name">> := Name} | _]} -> binary_to_list(Name);
            #{} -> none
        end
     || Lines <- [OldLines, NewLines]
    ],
    case Firsts of
        [Same, Same] -> Same;
        _ -> none
    end.

unique(List) -> unique(List, #{}).
unique([], _Seen) -> [];
unique([E | List], Seen) when is_map_key(E, Seen) -> unique(List, Seen);
unique([E | List], Seen) -> [E | unique(List, Seen#{E => true})].

cell(Case, Label, Base, Old, New, Threshold) ->
    Of = fun(Samples) ->
        [S || #{'case' := C, carrier := L} = S <- Samples, C =:= Case, L =:= Label]
    end,
    Bad = fun(Samples) -> [S || #{ok := false} = S <- Samples] =/= [] end,
    Name = #{'case' => Case, carrier => Label},
    case {Of(Old), Of(New)} of
        {[], _} ->
            [Name#{verdict => added}];
        {_, []} ->
            [Name#{verdict => gone}];
        {Olds, News} ->
            case {Bad(Olds), Bad(News)} of
                {false, true} -> [Name#{verdict => failed}];
                {true, false} -> [Name#{verdict => mended}];
                {true, true} -> [];
                {false, false} -> figures(Name, Base, {Old, Olds}, {New, News}, Threshold)
            end
    end.

figures(#{'case' := Case, carrier := Label} = Name, Base, {Old, Olds}, {New, News}, Threshold) ->
    Known = lists:append([maps:keys(M) || #{metrics := M} <- Olds]),
    [
        Name#{
            metric => Metric, by => By, verdict => verdict(Metric, Change),
            factor => maps:get(factor, Change), p => maps:get(p, Change), old => pt_bench_stat:median(A), new => pt_bench_stat:median(B)
        }
     || Metric <- pt_bench_metric:all(), lists:member(Metric, Known), plain(Metric, News) =/= [],
        {By, A, B} <- [values(Metric, Case, Label, Base, {Old, Olds}, {New, News})],
        #{} = Change <- [pt_bench_stat:change(A, B, Threshold)]
    ].

values(Metric, Case, Label, Base, {Old, Olds}, {New, News}) ->
    Ratios = fun(Samples, Mine) ->
        Bases = [
            S
         || #{'case' := C, carrier := L, ok := true} = S <- Samples, C =:= Case, L =:= Base
        ],
        pt_bench_stat:paired(rounds(Metric, Bases), rounds(Metric, Mine))
    end,
    case Base =:= none orelse Label =:= Base orelse {Ratios(Old, Olds), Ratios(New, News)} of
        {[_ | _] = A, [_ | _] = B} -> {ratio, A, B};
        _ -> {value, plain(Metric, Olds), plain(Metric, News)}
    end.

plain(Metric, Samples) -> [V || {_, V} <- rounds(Metric, Samples)].

rounds(Metric, Samples) ->
    [{R, maps:get(Metric, M)} || #{round := R, metrics := M} <- Samples, is_map_key(Metric, M)].

verdict(_Metric, #{verdict := small}) -> same;
verdict(_Metric, #{verdict := unclear}) -> unclear;
verdict(Metric, #{verdict := clear, factor := F}) ->
    case {pt_bench_metric:better(Metric), F > 1} of
        {more, true} -> better;
        {less, false} -> better;
        _ -> worse
    end.

%%% what people read

environments(Old, New) ->
    Own = [<<"type">>, <<"time">>, <<"load">>, <<"plan">>],
    [A, B] = [maps:without(Own, pt_bench_store:environment(L)) || L <- [Old, New]],
    Keys = lists:usort(maps:keys(A) ++ maps:keys(B)),
    [
        io_lib:format("~ts differs: ~ts -> ~ts~n", [K, short(VA), short(VB)])
     || K <- Keys, VA <- [maps:get(K, A, none)], VB <- [maps:get(K, B, none)], VA =/= VB
    ].

short(V) when is_binary(V) -> V;
short(V) -> string:slice(iolist_to_binary(pt_bench_json:line(#{v => V})), 5, 100).

table(Rows, All) ->
    Shown = [R || #{verdict := V} = R <- Rows, All orelse V =/= same],
    [
        [
            "\n",
            io_lib:format("~-19s ~-18s ~-9s ~10s ~10s  ~8s ~6s~n",
                ["case", "carrier", "figure", "old", "new", "change", "p"])
        ]
     || Shown =/= []
    ] ++ [row(R) || R <- Shown].

row(#{metric := Metric, factor := F, p := P, by := By, verdict := Verdict} = Row) ->
    #{'case' := Case, carrier := Label, old := Old, new := New} = Row,
    io_lib:format("~-19s ~-18s ~-9s ~10s ~10s  ~8s ~6.3f  ~s~n", [
        Case, Label, pt_bench_metric:unit(Metric), shown(By, Metric, Old), shown(By, Metric, New),
        percent(F), P, mark(Verdict)
    ]);
row(#{'case' := Case, carrier := Label, verdict := Verdict}) ->
    io_lib:format("~-19s ~-18s ~s~n", [Case, Label, case Verdict of
        failed -> "FAILED now, had not before";
        mended -> "failed before, does not now";
        gone -> "is in the old run only";
        added -> "is in the new run only"
    end]).

shown(ratio, _Metric, V) -> ["x ", pt_bench_metric:number(V)];
shown(value, Metric, V) -> pt_bench_metric:show(Metric, V).

percent(F) -> [[$+ || F >= 1], io_lib:format("~.1f %", [(F - 1) * 100])].

mark(better) -> "better";
mark(worse) -> "WORSE";
mark(unclear) -> "~ may be chance";
mark(same) -> "".

closing(Rows, Threshold) ->
    Count = fun(V) -> length([x || #{verdict := W} <- Rows, V =:= W]) end,
    Judged = length([x || #{p := _} <- Rows]),
    io_lib:format(
        "~n~b figures: ~b worse, ~b better, ~b unclear, ~b the same (within ~s %). Of figures that did "
        "not change,~none in fifty can look changed by chance: repeat the run before believing a "
        "single one.~n",
        [
            Judged, Count(worse), Count(better), Count(unclear), Count(same),
            pt_bench_metric:number(Threshold * 100)
        ]
    ).
