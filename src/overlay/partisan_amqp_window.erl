%% What a node has given to the broker and the broker has not confirmed yet: bounded in number and in
%% bytes, numbered, and sent again in the old order over the next connection when one is lost. Pure.
%%
%% Two numbers for a message. Its id counts over all connections: ids from the lowest unconfirmed one
%% (low/1) on may be sent again, those below never, which is what a receiver needs to know copies
%% (partisan_amqp_seen). Its tag counts what was published over this connection, as the broker does;
%% heartbeats have tags, too, and no id.
-module(partisan_amqp_window).

-export([new/2, add/3, next/1, published/1, confirm/3, returned/2, reset/1]).
-export([low/1, size/1, bytes/1]).

-export_type([t/0, id/0, tag/0]).

-type id() :: pos_integer().
-type tag() :: pos_integer().

-record(w, {max :: pos_integer(),
            max_bytes :: pos_integer(),
            bytes = 0 :: non_neg_integer(),
            next = 1 :: id(),       % of the next message
            low = 1 :: id(),        % the lowest in `kept`; next if there is none
            unsent = 1 :: id(),     % the lowest that this connection has not seen
            kept = #{} :: #{id() => {term(), non_neg_integer(), Returned :: boolean()}},
            tag = 1 :: tag(),       % of the next publish
            first_tag = 1 :: tag(), % the lowest that may be in `tags`
            tags = #{} :: #{tag() => id()}}).
-opaque t() :: #w{}.

%% Messages from the lowest unconfirmed one to the newest; bytes of all.
-spec new(pos_integer(), pos_integer()) -> t().
new(Max, MaxBytes) ->
    #w{max = Max, max_bytes = MaxBytes}.

%% One that alone is larger than the window goes when nothing else is in it.
-spec add(term(), non_neg_integer(), t()) -> {ok, id(), t()} | full.
add(_Item, Bytes, #w{next = Next, low = Low, max = Max, bytes = Have, max_bytes = Most})
  when Next - Low >= Max; Have > 0, Have + Bytes > Most ->
    full;
add(Item, Bytes, #w{next = Id, kept = Kept, bytes = Have} = W) ->
    {ok, Id, W#w{next = Id + 1, kept = Kept#{Id => {Item, Bytes, false}}, bytes = Have + Bytes}}.

%% The oldest message that has yet to be published over this connection; it has been, after this.
-spec next(t()) -> {id(), term(), t()} | none.
next(#w{unsent = Id, next = Id}) ->
    none;
next(#w{unsent = Id, kept = Kept, tag = Tag, tags = Tags} = W) ->
    case Kept of
        #{Id := {Item, _, _}} ->
            {Id, Item, W#w{unsent = Id + 1, tag = Tag + 1, tags = Tags#{Tag => Id}}};
        #{} ->
            next(W#w{unsent = Id + 1})
    end.

%% Something else was published, that is nobody's concern when it is lost.
-spec published(t()) -> t().
published(#w{tag = Tag} = W) ->
    W#w{tag = Tag + 1}.

%% The broker has taken, or refused, the one with that tag or (`true`) all up to it. What leaves the
%% window by that, oldest first, and whether it had come back as unroutable.
-spec confirm(tag(), boolean(), t()) -> {[{id(), term(), Returned :: boolean()}], t()}.
confirm(Tag, _, #w{tag = Next, first_tag = First} = W) when Tag >= Next; Tag < First ->
    {[], W};
confirm(Tag, false, W) ->
    {Gone, W1} = take([Tag], [], W),
    {Gone, settle(W1)};
confirm(Tag, true, #w{first_tag = First} = W) ->
    {Gone, W1} = take(lists:seq(First, Tag), [], W),
    {Gone, settle(W1#w{first_tag = Tag + 1})}.

take([], Gone, W) ->
    {lists:reverse(Gone), W};
take([Tag | Rest], Gone, #w{tags = Tags0, kept = Kept0, bytes = Have} = W) ->
    case maps:take(Tag, Tags0) of
        {Id, Tags} ->
            {{Item, Bytes, Returned}, Kept} = maps:take(Id, Kept0),
            take(Rest, [{Id, Item, Returned} | Gone],
                 W#w{tags = Tags, kept = Kept, bytes = Have - Bytes});
        error ->
            take(Rest, Gone, W)
    end.

%% Low goes up to what is still kept.
settle(#w{low = Next, next = Next} = W) -> W;
settle(#w{low = Low, kept = Kept} = W) when is_map_key(Low, Kept) -> W;
settle(#w{low = Low} = W) -> settle(W#w{low = Low + 1}).

%% No queue takes this message; the broker confirms it all the same, after this.
-spec returned(id(), t()) -> t().
returned(Id, #w{kept = Kept} = W) ->
    case Kept of
        #{Id := {Item, Bytes, _}} -> W#w{kept = Kept#{Id := {Item, Bytes, true}}};
        #{} -> W
    end.

%% The connection is lost: everything unconfirmed goes again over the next one.
-spec reset(t()) -> t().
reset(#w{low = Low} = W) ->
    W#w{unsent = Low, tag = 1, first_tag = 1, tags = #{},
        kept = maps:map(fun(_, {Item, Bytes, _}) -> {Item, Bytes, false} end, W#w.kept)}.

-spec low(t()) -> id().
low(#w{low = Low}) -> Low.

-spec size(t()) -> non_neg_integer().
size(#w{kept = Kept}) -> map_size(Kept).

-spec bytes(t()) -> non_neg_integer().
bytes(#w{bytes = Bytes}) -> Bytes.
