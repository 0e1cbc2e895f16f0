%% A stream of acknowledged messages to one peer, both ends. Pure.
%%
%% The sender numbers what it is given and keeps it until it is acknowledged. A connection may be
%% lost at any moment with whatever is on its way. When it is back, the receiver says which number
%% it expects, and everything from there is sent again: the receiver delivers each number once and
%% in order, so nothing is lost, doubled or overtaken as long as both ends live.
-module(partisan_reliable_core).

-export([sender/0, submit/4, acknowledge/2, reopen/2, outstanding/1, oldest/1]).
-export([receiver/1, reopened/1, accept/3, expected/1]).

-export_type([sender/0, receiver/0, mode/0, frame/0]).

%% ack: when the connection is lost, so is what was not acknowledged; the receiver is told to skip
%% it.
-type mode() :: retransmit | ack.
-type frame() :: {Number :: pos_integer(), {message, term()} | skip}.
%% fresh: `ack`, and not sent yet.
-opaque sender() :: #{next := pos_integer(),
                      kept := queue:queue({pos_integer(), mode() | fresh, term()}),
                      count := non_neg_integer()}.
-opaque receiver() :: #{expected := pos_integer(),
                        early := #{pos_integer() => {message, term()} | skip}}.

-spec sender() -> sender().
sender() -> #{next => 1, kept => queue:new(), count => 0}.

%% Open: the frame is sent now. Otherwise reopen/2 will tell what to send.
-spec submit(term(), mode(), Open :: boolean(), sender()) -> {frame(), sender()}.
submit(Message, Mode, Open, #{next := N, kept := Kept, count := Count} = S) ->
    As = case Mode of
             ack when not Open -> fresh;
             _ -> Mode
         end,
    {{N, {message, Message}},
     S#{next := N + 1, kept := queue:in({N, As, Message}, Kept), count := Count + 1}}.

%% Everything below Expected has arrived.
-spec acknowledge(pos_integer(), sender()) -> sender().
acknowledge(Expected, #{kept := Kept, count := Count} = S) ->
    case queue:peek(Kept) of
        {value, {N, _, _}} when N < Expected ->
            acknowledge(Expected, S#{kept := queue:drop(Kept), count := Count - 1});
        _ ->
            S
    end.

%% After the connection was lost. What is to be sent now, in order, and how many messages were lost
%% for good. What is skipped stays kept until the receiver has acknowledged that it skipped it.
-spec reopen(pos_integer(), sender()) -> {[frame()], Lost :: non_neg_integer(), sender()}.
reopen(Expected, S0) ->
    #{kept := Kept} = S = acknowledge(Expected, S0),
    Lost = length([N || {N, ack, Message} <- queue:to_list(Kept), Message =/= skip]),
    Frames = [{N, case Mode of
                      ack -> skip;
                      _ -> {message, Message}
                  end} || {N, Mode, Message} <- queue:to_list(Kept)],
    Again = queue:filtermap(fun({N, ack, _}) -> {true, {N, ack, skip}};
                               ({N, fresh, Message}) -> {true, {N, ack, Message}};
                               (_) -> true
                            end, Kept),
    {Frames, Lost, S#{kept := Again}}.

-spec outstanding(sender()) -> non_neg_integer().
outstanding(#{count := Count}) -> Count.

%% The number that is waited for longest.
-spec oldest(sender()) -> pos_integer().
oldest(#{next := Next, kept := Kept}) ->
    case queue:peek(Kept) of
        {value, {N, _, _}} -> N;
        empty -> Next
    end.

%% A new one starts with what the sender has kept longest: everything before has been acknowledged,
%% maybe by another that this one comes after.
-spec receiver(Oldest :: pos_integer()) -> receiver().
receiver(Oldest) -> #{expected => Oldest, early => #{}}.

%% The connection was lost. What came too early is sent again, or has been given up by the sender.
-spec reopened(receiver()) -> receiver().
reopened(R) -> R#{early := #{}}.

%% What may be delivered now, in order.
-spec accept(pos_integer(), {message, term()} | skip, receiver()) -> {[term()], receiver()}.
accept(N, _What, #{expected := Expected} = R) when N < Expected ->
    {[], R};
accept(N, What, #{early := Early} = R) ->
    ready([], R#{early := Early#{N => What}}).

ready(Acc, #{expected := Expected, early := Early} = R) ->
    case maps:take(Expected, Early) of
        {{message, Message}, Rest} ->
            ready([Message | Acc], R#{expected := Expected + 1, early := Rest});
        {skip, Rest} ->
            ready(Acc, R#{expected := Expected + 1, early := Rest});
        error -> {lists:reverse(Acc), R}
    end.

-spec expected(receiver()) -> pos_integer().
expected(#{expected := Expected}) -> Expected.
