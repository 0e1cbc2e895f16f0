%% Nodes that one heard of, beyond the passive view: for partisan_hyparview, for the case that all in that
%% are dead, too.
%%
%% With nine of ten nodes dead, one in forty has lost all its 35 acquaintances of the paper's views, and
%% some of these are known to nobody who lives: without more names they are alone for good. So what drops
%% out of the passive view, or out of the list of lost nodes, is kept here, the newest `max` of them, and
%% asked for a place when no name is left in the passive view.
%%
%% A name that did not answer waits, twice as long each time and an hour at most, and is given up after
%% TRIES; those that the user named once never are. So the names are gone through once as fast as they
%% can be dialled, and then cost less and less.
-module(partisan_hyparview_remembered).

-export([new/1, add/2, forget/2, due/2, waits/3, tried/5, is_tried/2, names/1]).

-export_type([remembered/0]).

-define(LONGEST, 3600000).
-define(TRIES, 12).                              %% some six hours, with 30 s as the first wait

-record(entry, {age :: integer(),                          %% the larger the newer
                spec :: partisan_overlay:spec(),
                tries = 0 :: non_neg_integer(),
                again = none :: none | partisan_overlay:now_ms()}).    %% not before

-record(remembered, {max :: non_neg_integer(),
                     age = 0 :: integer(),
                     nodes = #{} :: #{node() => #entry{}}}).

-opaque remembered() :: #remembered{}.

-spec new(Max :: non_neg_integer()) -> remembered().
new(Max) -> #remembered{max = Max}.

%% A name heard again is new again, but no more likely to answer than before.
-spec add(partisan_overlay:spec(), remembered()) -> remembered().
add(_, #remembered{max = 0} = R) ->
    R;
add(#{name := Name} = Spec, #remembered{nodes = Nodes, age = Age} = R) ->
    Entry = maps:get(Name, Nodes, #entry{age = Age, spec = Spec}),
    shrink(R#remembered{age = Age + 1, nodes = Nodes#{Name => Entry#entry{age = Age, spec = Spec}}}).

%% Not at each name: the oldest are found by looking at all.
shrink(#remembered{max = Max, nodes = Nodes} = R) when map_size(Nodes) =< Max + Max div 4 ->
    R;
shrink(#remembered{max = Max, nodes = Nodes} = R) ->
    Oldest = lists:sort([{Age, N} || {N, #entry{age = Age}} <- maps:to_list(Nodes)]),
    R#remembered{nodes = maps:without([N || {_, N} <- lists:sublist(Oldest, map_size(Nodes) - Max)], Nodes)}.

-spec forget(node(), remembered()) -> remembered().
forget(Name, #remembered{nodes = Nodes} = R) ->
    R#remembered{nodes = maps:remove(Name, Nodes)}.

%% Who may be asked now, in the order of names.
-spec due(partisan_overlay:now_ms(), remembered()) -> [{node(), partisan_overlay:spec()}].
due(Now, #remembered{nodes = Nodes}) ->
    lists:sort([{N, Spec} || {N, #entry{spec = Spec, again = Again}} <- maps:to_list(Nodes),
                             Again =:= none orelse Again =< Now]).

%% Whether it did not answer and is not to be asked again yet.
-spec waits(node(), partisan_overlay:now_ms(), remembered()) -> boolean().
waits(Name, Now, #remembered{nodes = Nodes}) ->
    case Nodes of
        #{Name := #entry{again = Again}} -> Again =/= none andalso Again > Now;
        #{} -> false
    end.

%% It is being asked. First: the wait after the first time in vain, ms. Keep: is it never given up?
-spec tried(node(), First :: pos_integer(), Keep :: boolean(), partisan_overlay:now_ms(), remembered()) ->
          remembered().
tried(Name, First, Keep, Now, #remembered{nodes = Nodes} = R) ->
    case Nodes of
        #{Name := #entry{tries = Tries}} when Tries + 1 >= ?TRIES, not Keep ->
            forget(Name, R);
        #{Name := #entry{tries = Tries} = Entry} ->
            Wait = min(?LONGEST, First bsl min(Tries, ?TRIES)),
            R#remembered{nodes = Nodes#{Name => Entry#entry{tries = Tries + 1, again = Now + Wait}}};
        #{} ->
            R
    end.

%% Whether it was asked since it last gave a sign of life.
-spec is_tried(node(), remembered()) -> boolean().
is_tried(Name, #remembered{nodes = Nodes}) ->
    case Nodes of
        #{Name := #entry{tries = Tries}} -> Tries > 0;
        #{} -> false
    end.

-spec names(remembered()) -> [node()].
names(#remembered{nodes = Nodes}) -> lists:sort(maps:keys(Nodes)).
