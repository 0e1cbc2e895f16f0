%% partisan_hyparview_remembered: what is kept beyond HyParView's passive view.
-module(partisan_remembered_tests).

-include_lib("eunit/include/eunit.hrl").

-import(partisan_hyparview_remembered, [new/1, add/2, forget/2, due/2, tried/5, names/1]).

newest_stay_test() ->
    R = lists:foldl(fun partisan_hyparview_remembered:add/2, new(8), [spec(I) || I <- lists:seq(1, 100)]),
    ?assert(length(names(R)) =< 10),
    ?assertEqual([], [name(I) || I <- lists:seq(93, 100)] -- names(R)),
    %% Heard again, the first would have been new again.
    Again = lists:foldl(fun(I, Acc) -> add(spec(1), add(spec(I), Acc)) end, new(8), lists:seq(1, 100)),
    ?assert(lists:member(name(1), names(Again))).

none_test() ->
    R = add(spec(1), new(0)),
    ?assertEqual([], names(R)),
    ?assertEqual([], due(0, tried(name(1), 1, false, 0, forget(name(1), R)))).

each_time_twice_as_long_test() ->
    R0 = add(spec(2), add(spec(1), new(8))),
    ?assertEqual([{name(1), spec(1)}, {name(2), spec(2)}], due(5, R0)),
    R1 = tried(name(1), 1000, false, 5, R0),
    ?assertEqual([{name(2), spec(2)}], due(1004, R1)),
    ?assertMatch([_, _], due(1005, R1)),
    R2 = tried(name(1), 1000, false, 1005, R1),
    ?assertMatch([_], due(3004, R2)),
    ?assertMatch([_, _], due(3005, R2)),
    %% A rumour is no answer.
    ?assertMatch([_], due(3004, add(spec(1), R2))),
    ?assertMatch([_, _], due(0, add(spec(1), forget(name(1), R2)))).

given_up_or_never_test() ->
    Hour = 3600000,
    {Waits, Gone} = tries(false, 30000, add(spec(1), new(8)), 0, []),
    ?assertEqual(11, length(Waits)),
    ?assertEqual([30000, 60000, 120000], lists:sublist(Waits, 3)),
    ?assertEqual(Hour, lists:last(Waits)),
    ?assertEqual([], names(Gone)),
    {Longer, Kept} = tries(true, 30000, add(spec(1), new(8)), 0, []),
    ?assertEqual(50, length(Longer)),
    ?assertEqual(Hour, lists:max(Longer)),
    ?assertEqual([name(1)], names(Kept)).

%% Asked as soon as it may be, until it is given up; the waits in between.
tries(_, _, R, _, Waits) when length(Waits) =:= 50 ->
    {lists:reverse(Waits), R};
tries(Keep, First, R0, Now, Waits) ->
    [_] = due(Now, R0),
    R = tried(name(1), First, Keep, Now, R0),
    case names(R) of
        [] -> {lists:reverse(Waits), R};
        _ -> tries(Keep, First, R, Now + wait(Now, R), [wait(Now, R) | Waits])
    end.

wait(Now, R) ->
    hd([Ms || Ms <- lists:seq(0, 4000000, 10000), due(Now + Ms, R) =/= []]).

spec(I) -> #{name => name(I)}.

name(I) -> list_to_atom("n" ++ integer_to_list(1000 + I)).
