%% Which messages have come already. A broker delivers at least once: a sender that lost its connection
%% publishes again what was not confirmed, and what we did not acknowledge is delivered again. Pure.
%%
%% Every message has its origin (a node and the time it started), an id, and the origin's lowest
%% unconfirmed id at the moment it was published. Below that nothing is published again, and whatever
%% was, is in front of this message in our queue, of which we are the only consumer. So ids below are
%% copies, and of those above a window's worth has to be kept for each origin.
-module(partisan_amqp_seen).

-export([new/0, check/5, prune/2, size/1]).

-export_type([t/0, origin/0]).

-type origin() :: {Node :: binary(), Incarnation :: integer()}.
-opaque t() :: #{origin() => {Low :: pos_integer(), gb_sets:set(pos_integer()), integer()}}.

-spec new() -> t().
new() -> #{}.

%% Now in ms, for prune/2.
-spec check(origin(), pos_integer(), pos_integer(), integer(), t()) -> {new | copy, t()}.
check(Origin, Id, Low0, Now, Seen) ->
    {Known, Ids0} = case Seen of
                        #{Origin := {L, I, _}} -> {L, I};
                        #{} -> {1, gb_sets:new()}
                    end,
    Low = max(Low0, Known),
    Ids = above(Low, Ids0),
    case Id < Low orelse gb_sets:is_member(Id, Ids) of
        true -> {copy, Seen#{Origin => {Low, Ids, Now}}};
        false -> {new, Seen#{Origin => {Low, gb_sets:add(Id, Ids), Now}}}
    end.

above(Low, Ids) ->
    case gb_sets:is_empty(Ids) orelse gb_sets:smallest(Ids) >= Low of
        true -> Ids;
        false -> above(Low, gb_sets:delete(gb_sets:smallest(Ids), Ids))
    end.

%% Origins that were last heard before Then are forgotten.
-spec prune(integer(), t()) -> t().
prune(Then, Seen) ->
    maps:filter(fun(_, {_, _, At}) -> At >= Then end, Seen).

%% Ids kept, of all origins.
-spec size(t()) -> non_neg_integer().
size(Seen) ->
    maps:fold(fun(_, {_, Ids, _}, Sum) -> Sum + gb_sets:size(Ids) end, 0, Seen).
