%% Causal delivery (option `causal_label`): messages of one label are delivered at each node in an
%% order that respects what their senders had seen, whichever nodes they come from.
%%
%% A label is a process at each node, started when it is first used. Messages travel as acknowledged
%% ones, because one that got lost would be waited for. Order is between nodes: what a process sends
%% comes after everything with that label that was delivered to its node before.
-module(partisan_causality).

-behaviour(gen_server).

-export([start_link/0, send/5, incoming/2, info/0]).
-export([start_label/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(TABLE, ?MODULE).

-type label() :: term().

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, labels, []).

%% To Dest on another node. `ok`: as for `retransmission`.
-spec send(label(), node(), term(), term(), map()) -> ok | {error, partisan_transport:reason()}.
send(Label, Node, Dest, Msg, Opts) ->
    gen_server:call(label(Label), {send, Node, Dest, Msg, Opts}, infinity).

%% A message of the label has come, in a process that must not wait for its delivery.
-spec incoming(label(), term()) -> ok.
incoming(Label, Message) ->
    gen_server:cast(label(Label), {incoming, Message}).

%% The labels in use: messages that wait for their cause, entries that each message carries.
-spec info() -> #{label() => #{held := non_neg_integer(), stamp := non_neg_integer()}}.
info() ->
    maps:from_list([{Label, gen_server:call(Pid, info)} || {Label, Pid} <- ets:tab2list(?TABLE)]).

label(Label) ->
    case ets:lookup(?TABLE, Label) of
        [{_, Pid}] -> Pid;
        [] -> gen_server:call(?MODULE, {label, Label})
    end.

-spec start_label(label()) -> {ok, pid()} | {error, term()}.
start_label(Label) ->
    gen_server:start_link(?MODULE, {label, Label}, []).

%% ------------------------------------------------------------------------------------------------
%% Two kinds of processes: the one that starts labels, with state `labels`, and the labels.

init(labels) ->
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    _ = [new_label(Label) || Label <- partisan_config:get(causal_labels)],
    {ok, labels};
init({label, Label}) ->
    {ok, #{label => Label, timer => undefined,
           core => partisan_causality_core:new({node(), partisan_reliable:incarnation()})}}.

handle_call({label, Label}, _From, labels) ->
    {reply, new_label(Label), labels};
handle_call({send, Node, Dest, Msg, Opts}, _From, #{label := Label, core := Core0} = State) ->
    %% Stamped for this life of the receiver: it can wait for nothing that an earlier one got.
    Result = case partisan_reliable:incarnation(Node) of
                 {ok, Incarnation} ->
                     {Stamp, Core1} = partisan_causality_core:send({Node, Incarnation}, Core0),
                     case partisan_reliable:send(Node, {causal, Label}, {Stamp, Dest, Msg},
                                                 retransmit, Opts) of
                         ok -> {ok, Core1};
                         {error, _} = Error -> {Error, Core0}
                     end;
                 {error, _} = Error ->
                     {Error, Core0}
             end,
    {Answer, Core} = Result,
    {reply, Answer, State#{core := Core}};
handle_call(info, _From, #{core := Core} = State) ->
    {reply, #{held => partisan_causality_core:held(Core),
              stamp => partisan_causality_core:size(Core)}, State};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast({incoming, {Stamp, Dest, Msg}}, #{core := Core0} = State) ->
    {Ready, Core} = partisan_causality_core:accept(Stamp, {Dest, Msg}, Core0),
    lists:foreach(fun deliver/1, Ready),
    {noreply, watch(State#{core := Core}, Ready =/= [])};
handle_cast(_Msg, State) ->
    {noreply, State}.

%% Nothing was set free for `causal_hold` ms: what is waited for will not come (a node has died with
%% it).
handle_info({overdue, Ref}, #{timer := {_, Ref}, core := Core0, label := Label} = State) ->
    {Ready, Core} = partisan_causality_core:force(Core0),
    ?LOG_WARNING("partisan: ~b messages of causal label ~tp are delivered without one sent before "
                 "them, which has not come for ~b ms",
                 [length(Ready), Label, partisan_config:get(causal_hold)]),
    lists:foreach(fun deliver/1, Ready),
    {noreply, watch(State#{core := Core}, true)};
handle_info(_Other, State) ->
    {noreply, State}.

new_label(Label) ->
    case ets:lookup(?TABLE, Label) of
        [{_, Pid}] ->
            Pid;
        [] ->
            {ok, Pid} = start_label(Label),
            true = ets:insert(?TABLE, {Label, Pid}),
            Pid
    end.

deliver({Dest, Msg}) -> partisan_send:deliver(Dest, Msg).

%% The clock of the longest wait starts anew with each delivery.
watch(#{core := Core, timer := Timer} = State, Delivered) ->
    case partisan_causality_core:held(Core) of
        0 ->
            _ = stop(Timer),
            State#{timer := undefined};
        _ when Timer =/= undefined, not Delivered ->
            State;
        _ ->
            _ = stop(Timer),
            Ref = make_ref(),
            State#{timer := {erlang:send_after(partisan_config:get(causal_hold), self(),
                                               {overdue, Ref}), Ref}}
    end.

stop(undefined) -> ok;
stop({Timer, _}) -> erlang:cancel_timer(Timer).
