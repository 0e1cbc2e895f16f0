%% Choosing at random from lists, with the random state handed in and back, as pure cores need it.
-module(partisan_sample).

-export([one/2, some/3, jitter/2]).

%% One element, each as likely as any other; `none` of an empty list.
-spec one([T], rand:state()) -> {{value, T} | none, rand:state()}.
one([], Rand) ->
    {none, Rand};
one(List, Rand0) ->
    {I, Rand} = rand:uniform_s(length(List), Rand0),
    {{value, lists:nth(I, List)}, Rand}.

%% N different elements in random order; all of them, shuffled, where there are no more than N.
-spec some(non_neg_integer(), [T], rand:state()) -> {[T], rand:state()}.
some(N, List, Rand0) ->
    {Keyed, Rand} = lists:mapfoldl(fun(X, R0) ->
                                           {K, R} = rand:uniform_s(R0),
                                           {{K, X}, R}
                                   end, Rand0, List),
    {lists:sublist([X || {_, X} <- lists:keysort(1, Keyed)], N), Rand}.

%% A duration within a tenth of the given one: timers of nodes that started together drift apart.
-spec jitter(non_neg_integer(), rand:state()) -> {non_neg_integer(), rand:state()}.
jitter(Ms, Rand0) when Ms < 10 ->
    {Ms, Rand0};
jitter(Ms, Rand0) ->
    {K, Rand} = rand:uniform_s(2 * (Ms div 10) + 1, Rand0),
    {Ms - Ms div 10 + K - 1, Rand}.
