%% The receiving end of a stream of acknowledged messages: delivers each once and in order.
%%
%% It outlives the connection, for as long as the sender keeps its messages: what it has delivered
%% is the only protection against doing it twice. Relays do not tell of the end of the other end: then
%% silence does, of more than twice the time for which the sender keeps messages.
-module(partisan_reliable_in).

-behaviour(gen_server).

-export([start_link/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% An acknowledgement for so many messages, or when none came for a while.
-define(ACK_EVERY, 64).
-define(ACK_MS, 5).
-define(MARGIN_MS, 60000).

-record(state, {stream :: term(),
                core :: partisan_reliable_core:receiver(),
                out :: pid() | undefined,
                monitor :: reference() | undefined,
                %% Something may still be on its way over relays, even if a connection is up again.
                relayed = false :: boolean(),
                heard = now_ms() :: integer(),
                due = 0 :: non_neg_integer(), % messages not acknowledged
                timer :: reference() | undefined}).

%% Oldest is the number of the first message that the sender has kept.
-spec start_link(term(), pos_integer()) -> {ok, pid()} | {error, term()}.
start_link(Stream, Oldest) ->
    gen_server:start_link(?MODULE, {Stream, Oldest},
                          [{spawn_opt, [{message_queue_data, off_heap}]}]).

init({Stream, Oldest}) ->
    {ok, #state{stream = Stream, core = partisan_reliable_core:receiver(Oldest)}}.

handle_call(_Request, _From, State) -> {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({frame, {N, What}}, #state{core = Core0} = State) ->
    {Ready, Core} = partisan_reliable_core:accept(N, What, Core0),
    lists:foreach(fun deliver/1, Ready),
    {noreply, due(State#state{core = Core, heard = now_ms()})};
handle_info({open, Out, Incarnation}, State) ->
    _ = State#state.monitor =:= undefined orelse erlang:demonitor(State#state.monitor, [flush]),
    Core = partisan_reliable_core:reopened(State#state.core),
    Expected = partisan_reliable_core:expected(Core),
    ok = partisan_reliable:tell(Out, {opened, self(), Expected, Incarnation}),
    Opened = State#state{core = Core, out = Out, heard = now_ms()},
    case partisan_reliable:is_direct(node(Out)) of
        true -> {noreply, Opened#state{monitor = partisan_monitor:monitor(Out, [])}};
        false -> {noreply, silence(Opened#state{relayed = true})}
    end;
handle_info(acknowledge, State) ->
    {noreply, acknowledge(State#state{timer = undefined})};
handle_info({'DOWN', Ref, process, _, _}, #state{monitor = Ref, relayed = true} = State) ->
    {noreply, silence(State)};
handle_info({'DOWN', Ref, process, _, noconnection}, #state{monitor = Ref} = State) ->
    _ = erlang:send_after(partisan_config:get(retransmit_timeout), self(), {forget, Ref}),
    {noreply, State};
handle_info({'DOWN', Ref, process, _, _}, #state{monitor = Ref} = State) ->
    finish(State);
handle_info({forget, Ref}, #state{monitor = Ref, relayed = true, heard = Heard} = State) ->
    case now_ms() - Heard >= silence_ms() of
        true -> finish(State);
        false -> {noreply, silence(State)}
    end;
handle_info({forget, Ref}, #state{monitor = Ref} = State) ->
    finish(State);
handle_info(_Other, State) ->
    {noreply, State}.

silence(#state{heard = Heard} = State) ->
    Ref = make_ref(),
    _ = erlang:send_after(max(now_ms(), Heard + silence_ms()), self(), {forget, Ref}, [{abs, true}]),
    State#state{monitor = Ref}.

silence_ms() -> 2 * partisan_config:get(retransmit_timeout) + ?MARGIN_MS.

now_ms() -> erlang:monotonic_time(millisecond).

finish(State) ->
    partisan_reliable:leave({in, State#state.stream}),
    {stop, normal, State}.

deliver({{causal, Label}, Message}) -> partisan_causality:incoming(Label, Message);
deliver({Dest, Message}) -> partisan_send:deliver(Dest, Message).

due(#state{due = Due} = State) when Due + 1 >= ?ACK_EVERY ->
    acknowledge(State);
due(#state{due = Due, timer = undefined} = State) ->
    State#state{due = Due + 1, timer = erlang:send_after(?ACK_MS, self(), acknowledge)};
due(#state{due = Due} = State) ->
    State#state{due = Due + 1}.

acknowledge(#state{out = Out, core = Core} = State) ->
    Expected = partisan_reliable_core:expected(Core),
    ok = partisan_reliable:tell(Out, {acknowledged, self(), Expected}),
    State#state{due = 0}.
