%% What one receiver knows about its senders: the rule "signals of one sender arrive in the order in
%% which they were sent, whatever address was used, without a gap and once". Pure.
%%
%% Every stamped signal of a pair carries a number, 1, 2, 3... The receiver also sees nodeup and
%% nodedown in order with the signals of the connection (net_kernel:monitor_nodes/1). A gap is
%% wrong until the first connection is lost. After that it is legal: what a lost connection loses is
%% the end of what was sent over it, and right after a reconnection stock inet_tcp (OTP 25.2.3) also
%% drops single signals that were sent while the new connection was pending.
-module(oracle_rx).

-export([new/1, seen/3, nodeup/2, nodedown/2, closed/2, last/2, pairs/1, is_up/2]).

-record(rx, {mode :: strict | sessions | loose,
             sess = #{} :: #{node() => {up | down, non_neg_integer()}},
             from = #{} :: #{pid() => non_neg_integer()},
             closed = #{} :: #{pid() => []}}).

%% strict: no connection is lost in this round, any gap is wrong.
%% sessions: connections may be lost; nodeup/2 and nodedown/2 are told.
%% loose: connections may be lost and nobody tells, so a number says nothing.
new(Mode) -> #rx{mode = Mode}.

seen(From, _Seq, #rx{closed = C} = Rx) when is_map_key(From, C) ->
    {{signal_after_death, From}, Rx};
seen(From, Seq, #rx{from = F} = Rx) ->
    {State, Sess} = session(node(From), Rx),
    Last = maps:get(From, F, 0),
    Rx1 = Rx#rx{from = F#{From => max(Seq, Last)}},
    if
        State =:= down -> {{signal_after_nodedown, From, Seq}, Rx1};
        Rx#rx.mode =:= loose -> {ok, Rx1};
        Seq =< Last -> {{reordered_or_repeated, From, {got, Seq}, {after_number, Last}}, Rx1};
        Seq =:= Last + 1 -> {ok, Rx1};
        Rx#rx.mode =:= sessions, Sess > 1 -> {ok, Rx1};
        true -> {{gap, From, {got, Seq}, {after_number, Last}}, Rx1}
    end.

%% Only a receiver that is told of nodes (sessions, strict with nodeup) can judge "after nodedown".
session(Node, #rx{sess = S}) ->
    maps:get(Node, S, {unknown, 0}).

nodeup(Node, #rx{sess = S} = Rx) ->
    {_, N} = maps:get(Node, S, {down, 0}),
    Rx#rx{sess = S#{Node => {up, N + 1}}}.

nodedown(Node, #rx{sess = S} = Rx) ->
    {_, N} = maps:get(Node, S, {up, 0}),
    Rx#rx{sess = S#{Node => {down, N}}}.

is_up(Node, Rx) ->
    element(1, session(Node, Rx)) =:= up.

%% The sender is dead, known from its DOWN or EXIT: nothing of it may come any more.
closed(From, #rx{closed = C} = Rx) -> Rx#rx{closed = C#{From => []}}.

last(From, #rx{from = F}) -> maps:get(From, F, 0).

pairs(#rx{from = F}) -> maps:size(F).
