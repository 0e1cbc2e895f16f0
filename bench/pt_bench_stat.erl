%% Medians, spread and paired ratios: the only arithmetic the tables rest on. Pure.
-module(pt_bench_stat).
-export([median/1, spread/1, paired/2, summary/1]).
-export_type([summary/0]).

-type summary() :: #{median := number(), min := number(), max := number(), n := pos_integer()}.

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
