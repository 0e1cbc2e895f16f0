%% The sending end of a stream of acknowledged messages to one peer, on one channel.
%%
%% closed: no connection, or none of our stream. Every `retransmit_interval` ms it is tried to open
%% it. open: messages leave as they come; the peer acknowledges what it has delivered. A stream that
%% has nothing to keep for a minute ends.
%%
%% Over relays nothing tells that something was lost on the way. So an open stream is closed when
%% nothing of what it waits for was acknowledged for a while (`retransmit_interval`, twice as long
%% after each time in vain, since whoever cannot keep up must not get everything once more each
%% second), and opened again: the peer says what it expects, and all from there is sent again.
-module(partisan_reliable_out).

-behaviour(gen_server).

-export([start_link/2, call/3]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(IDLE_MS, 60000).
-define(FULL_MS, 5000). % of a channel that takes nothing, until the stream is tried anew
%% Over relays: unacknowledged messages, so that what is in a relay's hands is bounded, and the
%% longest that it is waited for a sign.
-define(RELAY_WINDOW, 512).
-define(PATIENCE_MS, 30000).

-record(state, {node :: node(),
                channel :: partisan:channel(),
                stream :: {node(), reference()},
                core = partisan_reliable_core:sender() :: partisan_reliable_core:sender(),
                peer = closed :: closed | {open, pid(), reference() | relayed},
                %% relayed: what was waited for when the guard started
                guard = none :: none | {reference(), Oldest :: pos_integer()},
                patience = 0 :: non_neg_integer(), % milliseconds; 0: as configured
                moved = now_ms() :: integer(), % when an acknowledgement came last
                %% since when, and so when to give up; milliseconds
                closed_since = now_ms() :: integer(),
                %% senders that the window has no room for, oldest first, by reference
                waiting = #{} :: #{reference() => tuple()},
                order = queue:new() :: queue:queue(reference()),
                asking = [] :: [gen_server:from()],
                tick :: reference() | undefined}).

-spec start_link(node(), partisan:channel()) -> {ok, pid()} | {error, term()}.
start_link(Node, Channel) ->
    gen_server:start_link(?MODULE, {Node, Channel}, []).

%% `gone`: the stream has ended without taking the request.
-spec call(pid(), term(), map()) -> term() | gone.
call(Pid, Request, Opts) ->
    Until = case maps:get(timeout, Opts, infinity) of
                infinity -> infinity;
                Ms -> now_ms() + Ms
            end,
    Patience = case Opts of
                   #{nosuspend := true} -> nosuspend;
                   _ -> Until
               end,
    try gen_server:call(Pid, {Request, Patience}, infinity)
    catch
        exit:{noproc, _} -> gone;
        exit:{normal, _} -> gone;
        exit:{Reason, _} -> exit(Reason)
    end.

now_ms() -> erlang:monotonic_time(millisecond).

init({Node, Channel}) ->
    State = #state{node = Node, channel = Channel, stream = {node(), make_ref()}},
    {ok, State, {continue, open}}.

%% A send may wait for as long as the peer takes nothing: not while partisan_reliable, which serves all
%% peers, waits for our start.
handle_continue(open, State) ->
    {noreply, try_open(State)}.

handle_call({{submit, Message, Mode, Wire}, Patience}, From, State) ->
    case has_room(State) of
        true ->
            {reply, ok, submit(Message, Mode, Wire, State)};
        false when Patience =:= nosuspend ->
            {reply, {error, busy}, State};
        false ->
            Ref = make_ref(),
            Timer = case Patience of
                        infinity -> none;
                        _ -> erlang:send_after(max(Patience, now_ms()), self(), {impatient, Ref},
                                               [{abs, true}])
                    end,
            Entry = {From, Timer, Message, Mode, Wire},
            {noreply, State#state{waiting = (State#state.waiting)#{Ref => Entry},
                                  order = queue:in(Ref, State#state.order)}}
    end;
handle_call({incarnation, Patience}, From, State) ->
    case State#state.peer of
        {open, _, _} ->
            {reply, partisan_reliable:incarnation(State#state.node), State};
        closed ->
            _ = erlang:send_after(max(Patience, now_ms()), self(), {no_answer, From},
                                  [{abs, true}]),
            {noreply, State#state{asking = [From | State#state.asking]}}
    end;
handle_call({info, _}, _From, #state{core = Core} = State) ->
    {reply, #{node => State#state.node, channel => State#state.channel,
              unacknowledged => partisan_reliable_core:outstanding(Core),
              waiting => map_size(State#state.waiting),
              relayed => case State#state.peer of
                             {open, _, relayed} -> true;
                             _ -> false
                         end,
              state => case State#state.peer of
                           closed -> closed;
                           _ -> open
                       end}, State, ?IDLE_MS};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({acknowledged, In, Expected}, #state{peer = {open, In, _}} = State) ->
    Core = partisan_reliable_core:acknowledge(Expected, State#state.core),
    idle(admit(State#state{core = Core, patience = 0, moved = now_ms()}));
handle_info({opened, In, Expected, Incarnation}, #state{peer = closed} = State) ->
    true = ets:insert(partisan_reliable, {{incarnation, State#state.node}, Incarnation}),
    {Frames, Lost, Core} = partisan_reliable_core:reopen(Expected, State#state.core),
    Lost =:= 0 orelse
        ?LOG_WARNING("partisan: ~b messages to ~ts were lost with the connection before they were "
                     "acknowledged; the option retransmission keeps them",
                     [Lost, State#state.node]),
    Ref = case partisan_reliable:is_direct(State#state.node) of
              true -> partisan_monitor:monitor(In, []);
              false -> relayed
          end,
    Open = lists:foldl(fun(Frame, Acc) -> transmit(Frame, #{}, Acc) end,
                       guarded(State#state{core = Core, peer = {open, In, Ref}}), Frames),
    _ = [gen_server:reply(From, {ok, Incarnation}) || From <- State#state.asking],
    idle(admit(Open#state{asking = []}));
handle_info({'DOWN', Ref, process, _, _}, #state{peer = {open, _, Ref}} = State) ->
    case partisan_reliable_core:outstanding(State#state.core) of
        0 -> finish(State);
        _ -> {noreply, try_open(closed(State))}
    end;
handle_info({guard, Ref}, #state{guard = {Ref, Oldest}, core = Core} = State) ->
    case partisan_reliable_core:outstanding(Core) > 0
        andalso partisan_reliable_core:oldest(Core) =:= Oldest of
        true ->
            Longer = min(?PATIENCE_MS, 2 * patience(State)),
            {noreply, try_open(closed(State#state{guard = none, patience = Longer}))};
        false ->
            idle(guarded(State#state{guard = none}))
    end;
handle_info({impatient, Ref}, #state{waiting = Waiting} = State) ->
    case maps:take(Ref, Waiting) of
        {{From, _, _, _, _}, Rest} ->
            gen_server:reply(From, {error, timeout}),
            {noreply, State#state{waiting = Rest}};
        error ->
            {noreply, State}
    end;
handle_info({no_answer, From}, #state{asking = Asking} = State) ->
    _ = [gen_server:reply(From, {error, timeout}) || lists:member(From, Asking)],
    {noreply, State#state{asking = lists:delete(From, Asking)}};
handle_info(tick, #state{peer = closed} = State) ->
    Away = now_ms() - State#state.closed_since,
    case Away >= partisan_config:get(retransmit_timeout) of
        true -> give_up(Away, State);
        false -> {noreply, try_open(State#state{tick = undefined})}
    end;
handle_info(tick, State) ->
    idle(State#state{tick = undefined});
handle_info(timeout, #state{core = Core} = State) ->
    case partisan_reliable_core:outstanding(Core) of
        0 -> finish(State);
        _ -> {noreply, State}
    end;
handle_info(_Other, State) ->
    {noreply, State}.

key(State) -> {out, State#state.node, State#state.channel}.

has_room(#state{core = Core, waiting = Waiting} = State) ->
    map_size(Waiting) =:= 0 andalso
        partisan_reliable_core:outstanding(Core) < window(State).

window(#state{peer = {open, _, relayed}}) ->
    min(?RELAY_WINDOW, partisan_config:get(retransmit_window));
window(_State) ->
    partisan_config:get(retransmit_window).

submit(Message, Mode, Wire, State) ->
    {Frame, Core} = partisan_reliable_core:submit(Message, Mode, State#state.peer =/= closed,
                                                  State#state.core),
    transmit(Frame, Wire, guarded(State#state{core = Core})).

%% A relayed stream with something unacknowledged has a guard, whatever becomes of its messages.
guarded(#state{peer = {open, _, relayed}, guard = none, core = Core} = State) ->
    case partisan_reliable_core:outstanding(Core) of
        0 ->
            State;
        _ ->
            Ref = make_ref(),
            _ = erlang:send_after(patience(State), self(), {guard, Ref}),
            State#state{guard = {Ref, partisan_reliable_core:oldest(Core)}}
    end;
guarded(State) ->
    State.

patience(#state{patience = 0}) -> partisan_config:get(retransmit_interval);
patience(#state{patience = Ms}) -> Ms.

%% What cannot be sent now is sent when the stream is opened again; what can never be sent is
%% skipped, or nothing would get past it.
transmit({N, What} = Frame, Wire, #state{peer = {open, _, _}} = State) ->
    case put_out(Frame, Wire, State) of
        ok ->
            State;
        {error, Reason} when What =/= skip, Reason =/= disconnected, Reason =/= not_yet_connected,
                             Reason =/= timeout, Reason =/= busy ->
            ?LOG_ERROR("partisan: a message to ~ts cannot be sent and is dropped: ~0tp",
                       [State#state.node, Reason]),
            transmit({N, skip}, Wire, State);
        {error, _} ->
            try_open(closed(State))
    end;
transmit(_Frame, _Wire, State) ->
    State.

%% Each frame has a key of its own: on a monotonic channel the next one would replace it.
put_out({N, _} = Frame, Wire, #state{node = Node, channel = Channel, peer = {open, In, _}}) ->
    partisan_reliable:carry(Node, Channel, In, {frame, Frame},
                            Wire#{key => N, channel_fallback => true, timeout => ?FULL_MS}).

closed(#state{peer = {open, _, relayed}, moved = Moved} = State) ->
    State#state{peer = closed, guard = none, closed_since = Moved};
closed(#state{peer = {open, _, Ref}} = State) ->
    erlang:demonitor(Ref, [flush]),
    State#state{peer = closed, closed_since = now_ms()}.

%% Asks the peer to open, and comes back to it if there is no answer.
try_open(#state{tick = undefined} = State) ->
    Oldest = partisan_reliable_core:oldest(State#state.core),
    _ = partisan_reliable:carry(State#state.node, undefined, partisan_reliable,
                                {open, State#state.stream, Oldest, self()}, #{}),
    Tick = erlang:send_after(partisan_config:get(retransmit_interval), self(), tick),
    State#state{tick = Tick};
try_open(State) ->
    State.

admit(#state{order = Order, waiting = Waiting} = State) ->
    case queue:out(Order) of
        {empty, _} ->
            State;
        {{value, Ref}, Rest} when not is_map_key(Ref, Waiting) ->
            admit(State#state{order = Rest});
        {{value, Ref}, Rest} ->
            case partisan_reliable_core:outstanding(State#state.core) < window(State) of
                true ->
                    {{From, Timer, Message, Mode, Wire}, Others} = maps:take(Ref, Waiting),
                    _ = Timer =:= none orelse erlang:cancel_timer(Timer),
                    gen_server:reply(From, ok),
                    admit(submit(Message, Mode, Wire, State#state{order = Rest, waiting = Others}));
                false ->
                    State
            end
    end.

idle(#state{core = Core} = State) ->
    case partisan_reliable_core:outstanding(Core) of
        0 -> {noreply, State, ?IDLE_MS};
        _ -> {noreply, State}
    end.

give_up(Away, #state{node = Node, core = Core} = State) ->
    case partisan_reliable_core:outstanding(Core) of
        0 -> ok;
        N -> ?LOG_WARNING("partisan: gave up ~b unacknowledged messages to ~ts, which has been "
                          "away for ~b s", [N, Node, Away div 1000])
    end,
    _ = [gen_server:reply(element(1, Entry), {error, disconnected})
         || Entry <- maps:values(State#state.waiting)],
    _ = [gen_server:reply(From, {error, disconnected}) || From <- State#state.asking],
    finish(State).

%% Out of the table first, so that nobody new comes. Whoever has come already must go to the next
%% stream: two at a time would keep no order.
finish(State) ->
    partisan_reliable:leave(key(State)),
    turn_away(),
    {stop, normal, State}.

turn_away() ->
    receive
        {'$gen_call', From, _} ->
            gen_server:reply(From, gone),
            turn_away()
    after 0 -> ok
    end.
