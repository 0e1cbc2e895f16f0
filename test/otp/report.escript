#!/usr/bin/env escript
%% Reads the verdict files of otp_report_cth.
%%   failed FILE             names of the failed cases
%%   one FILE CASE           verdict of a single case; exit 0 if it passed
%%   apart FILE SUITE WAY    names of the cases of SUITE that FILE wants run in that way
%%   table LABEL SUITES RESULTS_DIR EXCEPTIONS
%%                           the table, the failed cases with reasons, the comparison with inet_tcp
-mode(compile).

main(["failed", File]) ->
    [io:format("~ts~n", [C]) || {C, {failed, _}} <- verdicts(File)];
main(["apart", File, Suite, Way]) ->
    {ok, Exceptions} = file:consult(File),
    [io:format("~ts~n", [C]) || {S, C, W, _} <- Exceptions, atom_to_list(S) =:= Suite,
                                atom_to_list(W) =:= Way];
main(["one", File, Case]) ->
    case lists:keyfind(list_to_atom(Case), 1, verdicts(File)) of
        {_, ok} ->
            io:format("~ts: passed~n", [Case]);
        {_, {What, Reason}} ->
            io:format("~ts: ~ts~n~ts~n", [Case, What, Reason]),
            halt(1);
        false ->
            io:format("~ts: no verdict; the test node died or there is no such case~n", [Case]),
            halt(2)
    end;
main(["table", Label, Suites0, Dir, File]) ->
    Suites = string:lexemes(Suites0, ","),
    {ok, Exceptions} = file:consult(File),
    Excused = [{S, C} || {S, C, not_applicable, _} <- Exceptions],
    Base = [{S, load(Dir, "inet_tcp", S)} || S <- Suites],
    Here = [{S, load(Dir, Label, S)} || S <- Suites],
    io:format("~n~-28ts~-16ts~8ts~8ts~8ts~n",
              ["suite", "carrier", "passed", "failed", "skipped"]),
    Runs = [{"inet_tcp", Base} || Label =/= "inet_tcp"] ++ [{Label, Here}],
    [row(S, L, proplists:get_value(S, R)) || S <- Suites, {L, R} <- Runs],
    [details(S, R) || {S, R} <- Here],
    Worse = lists:append([worse(S, R, proplists:get_value(S, Base), Excused) || {S, R} <- Here]),
    finish(Label, Here, Base, Worse).

finish(Label, Here, Base, Worse) ->
    Cut = [S || {S, #{complete := false}} <- Here],
    NoBase = [S || {S, #{complete := false}} <- Base],
    [io:format("~ts did not run to its end, see ~ts.all.out~n", [S, S]) || S <- Cut],
    case {Label, Cut, NoBase, Worse} of
        {_, [_ | _], _, _} ->
            halt(2);
        {"inet_tcp", [], _, _} ->
            %% The baseline is what this machine gives; a failure in it excuses the carrier.
            [io:format("~nnote: the baseline itself has failures; they are not asked of a carrier~n")
             || lists:any(fun({_, #{cases := Cs}}) -> lists:any(fun is_failed/1, Cs) end, Here)],
            halt(0);
        {_, [], [_ | _], _} ->
            io:format("~nno complete inet_tcp run to compare with for ~ts; "
                      "run test/otp/run --carrier inet_tcp first~n",
                      [lists:join(", ", NoBase)]),
            halt(2);
        {_, [], [], []} ->
            io:format("~n~ts: as good as inet_tcp~n", [Label]),
            halt(0);
        {_, [], [], _} ->
            io:format("~n~ts: worse than inet_tcp:~n", [Label]),
            [io:format("  ~ts:~ts~n", [S, C]) || {S, C} <- Worse],
            halt(1)
    end.

%% #{complete, cases := [{Case, Verdict}], second := [Case passed on the second run]}
load(Dir, Label, Suite) ->
    File = filename:join([Dir, Label, Suite ++ ".terms"]),
    First = verdicts(File),
    Second = [C || {C, ok} <- verdicts(filename:join([Dir, Label, Suite ++ ".retry.terms"])),
                   is_failed({C, proplists:get_value(C, First)})],
    Cases = [case lists:member(C, Second) of true -> {C, ok}; false -> {C, V} end
             || {C, V} <- First],
    #{complete => lists:member({list_to_atom(Suite), done}, terms(File)),
      cases => Cases, second => Second, first => First}.

row(Suite, Label, #{cases := Cases}) ->
    Count = fun(F) -> length(lists:filter(F, Cases)) end,
    io:format("~-28ts~-16ts~8b~8b~8b~n",
              [Suite, Label, Count(fun({_, V}) -> V =:= ok end), Count(fun is_failed/1),
               Count(fun is_skipped/1)]).

details(Suite, #{cases := Cases, second := Second, first := First}) ->
    [io:format("~nFAILED ~ts:~ts~n~ts~n", [Suite, C, R]) || {C, {failed, R}} <- Cases],
    [io:format("~nskipped ~ts:~ts  ~ts~n", [Suite, C, R]) || {C, {skipped, R}} <- Cases],
    [io:format("~npassed on the second run: ~ts:~ts; the first:~n~ts~n",
               [Suite, C, element(2, proplists:get_value(C, First))]) || C <- Second].

%% Cases that pass with inet_tcp and not here, unless listed as not applicable.
worse(Suite0, #{cases := Here}, #{cases := Base}, Excused) ->
    Suite = list_to_atom(Suite0),
    [{Suite, C} || {C, ok} <- Base, proplists:get_value(C, Here) =/= ok,
                   not lists:member({Suite, C}, Excused)].

is_failed({_, {failed, _}}) -> true;
is_failed(_) -> false.

is_skipped({_, {skipped, _}}) -> true;
is_skipped(_) -> false.

%% The last verdict of each case, in the order of the first. init/end_per_* count only when they
%% failed.
verdicts(File) ->
    Terms = [{C, V} || {_, C, V} <- terms(File)],
    Names = lists:uniq([C || {C, _} <- Terms]),
    All = [{C, V} || C <- Names, V <- [element(2, lists:last([T || T <- Terms, element(1, T) =:= C]))]],
    [CV || {C, V} = CV <- All, not is_config(C) orelse V =/= ok].

is_config(C) ->
    lists:member(C, [init_per_suite, end_per_suite, init_per_group, end_per_group]).

terms(File) ->
    case file:consult(File) of
        {ok, Terms} -> Terms;
        {error, enoent} -> [];
        {error, Reason} ->
            io:format(standard_error, "~ts: ~ts~n", [File, file:format_error(Reason)]),
            halt(2)
    end.
