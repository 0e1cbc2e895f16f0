%% Which group of nodes one belongs to: for partisan_hyparview, to notice that the cluster is split
%% where nobody failed and nobody misses a neighbour.
%%
%% Nodes whose active views are all full with each other never ask anybody outside for a place (three
%% nodes with room for two, say), and may know many by name. So each group has a first node: the one
%% with the smallest name. Its word goes round over the links each `heal_interval`, everybody passes
%% it on once; who hears none for LOST_AFTER intervals speaks for itself, and the smallest wins. The
%% first node then asks the ones it knows by name which first node they have, a few an interval, each
%% once before one is asked again. Words are as good as the links: while they are still going round,
%% a node is not settled, and neither asks nor counts as being of another group.
%%
%% Two groups that know of each other so come together within 7 intervals (LOST_AFTER, an election,
%% SETTLED), and one more for each ASKED names known.
%%
%% Cost: a message over each link an interval, and ASKED dials an interval in the whole cluster.
%% Rejected: that everybody asks now and then (the dials grow with the cluster), and that somebody
%% urgently asks for a place whoever the other is (the swap of links can itself split small views).
-module(partisan_hyparview_group).

-export([new/3, tick/2, heard/4, latest/1, is_other/3, next/3]).

-export_type([group/0]).

-define(LOST_AFTER, 3).
-define(SETTLED, 2).
-define(ASKED, 5).

-record(group, {own :: node(),
                every :: pos_integer(),                    %% ms
                first :: node(),
                word :: integer(),                         %% the latest of the first node
                at :: partisan_overlay:now_ms(),           %% when it was heard
                since :: partisan_overlay:now_ms(),        %% when that node became first
                asked = [] :: [node()],
                left = 0 :: non_neg_integer()}).           %% that may be asked in this interval

-opaque group() :: #group{}.

-spec new(node(), pos_integer(), partisan_overlay:now_ms()) -> group().
new(Own, Every, Now) ->
    #group{own = Own, every = Every, first = Own, word = Now, at = Now, since = Now}.

%% An interval is over. true: the latest word is the own, and goes to all neighbours.
-spec tick(partisan_overlay:now_ms(), group()) -> {boolean(), group()}.
tick(Now, #group{own = Own, first = Own, word = Word} = G) ->
    Next = max(Now, Word + 1),
    {true, G#group{word = Next, at = Now, left = ?ASKED}};
tick(Now, #group{own = Own, at = At, every = Every} = G) when Now - At > ?LOST_AFTER * Every ->
    tick(Now, G#group{first = Own, word = Now, since = Now, asked = []});
tick(_, G) ->
    {false, G}.

%% A neighbour passed a word on. true: it is new, and goes to the other neighbours.
-spec heard(node(), integer(), partisan_overlay:now_ms(), group()) -> {boolean(), group()}.
heard(First, Word, Now, #group{first = Known} = G) when First < Known ->
    {true, G#group{first = First, word = Word, at = Now, since = Now}};
heard(First, Word, Now, #group{own = Own, first = First, word = Last} = G)
  when First =/= Own, Word > Last ->
    {true, G#group{word = Word, at = Now}};
heard(_, _, _, G) ->
    {false, G}.

%% The latest word, as neighbours pass it on.
-spec latest(group()) -> {first, node(), integer()}.
latest(#group{first = First, word = Word}) -> {first, First, Word}.

%% Whether somebody whose first node is that one is of another group.
-spec is_other(node(), partisan_overlay:now_ms(), group()) -> boolean().
is_other(First, Now, #group{first = Own} = G) ->
    First =/= Own andalso is_settled(Now, G).

%% Who of these is to be asked now, if it is on this node to ask.
-spec next([node()], partisan_overlay:now_ms(), group()) -> {node() | none, group()}.
next(Names, Now, #group{own = Own, first = Own, asked = Asked, left = Left} = G) when Left > 0 ->
    case {is_settled(Now, G), Names -- Asked} of
        {true, [Name | _]} -> {Name, G#group{asked = [Name | Asked], left = Left - 1}};
        {true, []} -> {none, G#group{asked = [], left = 0}};      %% from the start next time
        {false, _} -> {none, G}
    end;
next(_, _, G) ->
    {none, G}.

is_settled(Now, #group{since = Since, every = Every}) ->
    Now - Since >= ?SETTLED * Every.
