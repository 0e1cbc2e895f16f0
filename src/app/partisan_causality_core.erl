%% Causal order between nodes, for messages from one to one (Schiper, Eggli, Sandoz 1989). Pure.
%%
%% A clock counts, for each node, the messages it has sent. Each message carries its sender's clock,
%% and for other destinations the clock of the last message to them that its sender knows of. A
%% message waits until the receiver's clock has reached what the message knows of messages to that
%% receiver: then all that were sent before it, by whomever, have been delivered.
%%
%% It needs that each message arrives once; order on the way does not matter.
-module(partisan_causality_core).

-export([new/1, send/2, accept/3, force/1, held/1, clock/1, size/1]).

-export_type([state/0, stamp/0, actor/0]).

-type actor() :: term().
-type clock() :: #{actor() => pos_integer()}.
-type stamp() :: {From :: actor(), clock(), #{actor() => clock()}}.
-opaque state() :: #{me := actor(), clock := clock(), known := #{actor() => clock()},
                     held := [{stamp(), term()}]}. % oldest last

-spec new(actor()) -> state().
new(Me) -> #{me => Me, clock => #{}, known => #{}, held => []}.

%% The stamp of a message to To.
-spec send(actor(), state()) -> {stamp(), state()}.
send(To, #{me := Me, clock := Clock0, known := Known} = S) ->
    Clock = maps:update_with(Me, fun(N) -> N + 1 end, 1, Clock0),
    {{Me, Clock, Known}, S#{clock := Clock, known := Known#{To => Clock}}}.

%% What may be delivered now, in order.
-spec accept(stamp(), term(), state()) -> {[term()], state()}.
accept(Stamp, Message, #{held := Held} = S) ->
    case may_deliver(Stamp, S) of
        true -> release([Message], deliver(Stamp, S));
        false -> {[], S#{held := [{Stamp, Message} | Held]}}
    end.

%% Delivers the message that waits longest though its cause is missing, and what that sets free.
-spec force(state()) -> {[term()], state()}.
force(#{held := []} = S) -> {[], S};
force(#{held := Held} = S) ->
    {Stamp, Message} = lists:last(Held),
    release([Message], deliver(Stamp, S#{held := lists:droplast(Held)})).

-spec held(state()) -> non_neg_integer().
held(#{held := Held}) -> length(Held).

-spec clock(state()) -> clock().
clock(#{clock := Clock}) -> Clock.

%% Entries of what each message carries.
-spec size(state()) -> non_neg_integer().
size(#{clock := Clock, known := Known}) ->
    map_size(Clock) + lists:sum([map_size(C) || C <- maps:values(Known)]).

release(Acc, #{held := Held} = S) ->
    case lists:search(fun({Stamp, _}) -> may_deliver(Stamp, S) end, lists:reverse(Held)) of
        {value, {Stamp, Message} = Entry} ->
            release([Message | Acc], deliver(Stamp, S#{held := lists:delete(Entry, Held)}));
        false ->
            {lists:reverse(Acc), S}
    end.

may_deliver({_From, _Clock, Known}, #{me := Me, clock := Mine}) ->
    case Known of
        #{Me := Needed} -> reached(Needed, Mine);
        _ -> true
    end.

%% A message's knowledge about its sender that the sender itself has caught up with is old news, and
%% so is anything about us: such entries would travel for ever.
deliver({From, Clock, Theirs}, #{me := Me, clock := Mine, known := Known} = S) ->
    Both = maps:merge_with(fun(_, A, B) -> merge(A, B) end, Known, maps:remove(Me, Theirs)),
    Fresh = case Both of
                #{From := Needed} ->
                    case reached(Needed, Clock) of
                        true -> maps:remove(From, Both);
                        false -> Both
                    end;
                _ -> Both
            end,
    S#{clock := merge(Mine, Clock), known := Fresh}.

reached(Needed, Clock) ->
    lists:all(fun({Actor, N}) -> maps:get(Actor, Clock, 0) >= N end, maps:to_list(Needed)).

merge(A, B) ->
    maps:merge_with(fun(_, X, Y) -> max(X, Y) end, A, B).
