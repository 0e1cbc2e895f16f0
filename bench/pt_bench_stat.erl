%% Medians, spread, paired ratios and changes: the only arithmetic the tables rest on. Pure.
-module(pt_bench_stat).
-export([median/1, spread/1, paired/2, summary/1, permutation/2, change/3]).
-export_type([summary/0, change/0]).

-type summary() :: #{median := number(), min := number(), max := number(), n := pos_integer()}.
%% factor: the new median by the old one. p: how often chance alone would set two such groups apart
%% as far as they are. clear: the change is larger than asked and not chance.
-type change() :: #{factor := float(), p := float(), verdict := clear | unclear | small}.

%% One in fifty; five rounds against five reach 1/126 at best.
-define(CHANCE, 0.02).

-spec median([number(), ...]) -> number().
median(Values) ->
    Sorted = lists:sort(Values),
    N = length(Sorted),
    case N rem 2 of
        1 -> lists:nth(N div 2 + 1, Sorted);
        0 -> (lists:nth(N div 2, Sorted) + lists:nth(N div 2 + 1, Sorted)) / 2
    end.

-spec spread([number(), ...]) -> {Min :: number(), Max :: number()}.
spread(Values) ->
    {lists:min(Values), lists:max(Values)}.

%% Ratios Value / Base of the rounds both have. Pairing by round cancels what the machine did to the
%% whole round (other load, clock speed, warm caches); the ratio of two medians would not. Rounds
%% with a zero base (CPU time below one clock tick) say nothing and are left out.
-spec paired(Base, Values) -> [float()] when
    Base :: [{Round :: pos_integer(), number()}],
    Values :: [{Round :: pos_integer(), number()}].
paired(Base, Values) ->
    [V / B || {Round, V} <- Values, {R, B} <- Base, R =:= Round, B > 0].

-spec summary([number()]) -> summary() | none.
summary([]) ->
    none;
summary(Values) ->
    {Min, Max} = spread(Values),
    #{median => median(Values), min => Min, max => Max, n => length(Values)}.

%% The change from Old to New, of which at least the part Threshold (0.05: 5 %) is asked.
-spec change([number(), ...], [number(), ...], float()) -> change() | none.
change(Old, New, Threshold) ->
    case median(Old) of
        M when M > 0 ->
            Factor = median(New) / M,
            P = permutation(Old, New),
            Large = Factor > 1 + Threshold orelse Factor < 1 / (1 + Threshold),
            Verdict =
                case {Large, P =< ?CHANCE} of
                    {false, _} -> small;
                    {true, true} -> clear;
                    {true, false} -> unclear
                end,
            #{factor => Factor, p => P, verdict => Verdict};
        _ ->
            none
    end.

%% Two-sided rank-sum test (Wilcoxon, Mann-Whitney), exact: of all ways to deal the ranks to two
%% groups of these sizes, the part in which the first group's sum lies as far from the middle or
%% farther. Rounds are few, so no normal approximation; nothing is asked of their distribution; one
%% wild round moves it by its rank only. Equal values share their ranks. Costs N * Na * N^2 / 2 steps:
%% 60 rounds together are some ten million.
-spec permutation([number(), ...], [number(), ...]) -> float().
permutation(As, Bs) ->
    Ranks = ranks(As ++ Bs),
    Na = length(As),
    Sum = lists:sum(lists:sublist(Ranks, Na)),
    Ways = ways(Ranks, Na),
    %% Twice the distance from the middle, so that all stays whole.
    Middle = Na * lists:sum(Ranks),
    N = length(Ranks),
    Far = abs(N * Sum - Middle),
    All = lists:sum(maps:values(Ways)),
    lists:sum([W || {S, W} <- maps:to_list(Ways), abs(N * S - Middle) >= Far]) / All.

%% Twice the rank of each value, in the order given: the middle of equal ones is whole then.
ranks(Values) ->
    Sorted = lists:sort(Values),
    Of = maps:from_list(rank_groups(Sorted, 1)),
    [maps:get(V * 1.0, Of) || V <- Values].

rank_groups([], _At) ->
    [];
rank_groups([V | _] = Sorted, At) ->
    {Same, Rest} = lists:splitwith(fun(X) -> X == V end, Sorted),
    N = length(Same),
    [{V * 1.0, 2 * At + N - 1} | rank_groups(Rest, At + N)].

%% Sum => number of ways to choose K of the ranks with that sum.
ways(Ranks, K) ->
    Start = #{0 => #{0 => 1}},
    Chosen = lists:foldl(fun(R, Table) -> add_rank(R, K, Table) end, Start, Ranks),
    maps:get(K, Chosen).

add_rank(R, K, Table) ->
    lists:foldl(
        fun(J, T) ->
            case T of
                #{J := Sums} ->
                    With = maps:from_list([{S + R, W} || {S, W} <- maps:to_list(Sums)]),
                    Add = fun(_, A, B) -> A + B end,
                    T#{J + 1 => maps:merge_with(Add, With, maps:get(J + 1, T, #{}))};
                #{} ->
                    T
            end
        end,
        Table,
        lists:seq(K - 1, 0, -1)
    ).
