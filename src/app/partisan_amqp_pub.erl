%% Publishes: messages to other nodes' queues, and what this node says of itself to all.
%%
%% A message is kept until the broker confirms that it has it on disk (partisan_amqp_window). While the
%% window is full, because the broker is away, has blocked us or is slow, callers wait, each with the one
%% message it has in hand, up to their timeout: `{error, busy}`.
-module(partisan_amqp_pub).

-behaviour(gen_server).

-export([start_link/0, wake/0, send/4, announce/0, info/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(MANAGER, partisan_amqp_peer_service_manager).
-define(WAKE_MS, 100).
-define(WAKE_TRIES, 50).
-define(LINE_MS, 10000).
-define(LINGER_MS, 30000).
-define(FULL_MS, 1000). % that a full queue of a node keeps its senders away
-define(ROOM, 1024).    % of a frame, for all but the message

-type result() :: ok | {error, busy | unroutable | timeout | too_large | not_yet_connected}.
-export_type([result/0]).

-record(msg, {node :: node(), payload :: binary(), from = none :: none | gen_server:from()}).

-record(st, {link :: partisan_amqp_port:t(),
             conf = none :: none | partisan_amqp_conf:t(),
             inc :: integer(),
             window = none :: none | partisan_amqp_window:t(),
             blocked = false :: boolean(),
             waiting = queue:new() :: queue:queue(reference()),
             waiters = #{} :: #{reference() => {gen_server:from(), confirm | queued, #msg{}}},
             asked = #{} :: #{gen_server:from() => reference()},   % confirms awaited
             full = #{} :: #{node() => integer()},
             beat = none :: none | reference(),
             until = none :: none | integer(), % another overlay runs: when to give up what is left
             counters = #{} :: #{atom() => non_neg_integer()},
             line = none :: none | integer()}).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() -> gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% The manager is partisan_amqp_peer_service_manager from now on.
-spec wake() -> ok.
wake() -> gen_server:cast(?MODULE, wake).

%% `ok`: in the window, and will be in Node's queue as soon as the broker takes it. Options: `confirm`
%% (true: wait until the broker has it; then the error is `unroutable` if no node of that name has a
%% queue, `busy` if its queue is full, `timeout` if nobody knows), `timeout` in ms or infinity,
%% `nosuspend`.
-spec send(node(), term(), term(), map()) -> result().
send(Node, Dest, Msg, Opts) ->
    Mode = case Opts of
               #{confirm := true} -> confirm;
               #{} -> queued
           end,
    Payload = term_to_binary({Dest, Msg}),
    Timeout = case Opts of
                  #{nosuspend := true} when Mode =:= queued -> 0;
                  #{timeout := Given} -> Given;
                  #{} -> default
              end,
    case byte_size(Payload) + ?ROOM =< partisan_amqp_proto:max_frame() of
        true -> call({send, Mode, Timeout, #msg{node = Node, payload = Payload}});
        false -> {error, too_large}
    end.

call(Request) ->
    try gen_server:call(?MODULE, Request, infinity)
    catch exit:{_, _} -> {error, not_yet_connected} % the application is stopped, or has just been
    end.

%% Says what the overlay has to say now, and not with the next heartbeat.
-spec announce() -> ok.
announce() -> gen_server:cast(?MODULE, announce).

%% connected, blocked, problem (why not connected, or none); unconfirmed messages and their bytes, senders that wait; counters: confirmed,
%% unroutable, rejected (a node's queue was full).
-spec info() -> #{atom() => term()}.
info() -> gen_server:call(?MODULE, info).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    process_flag(trap_exit, true),
    process_flag(message_queue_data, off_heap),
    {ok, woken(#st{link = partisan_amqp_port:new(publisher),
                   inc = erlang:system_time(microsecond)})}.

woken(#st{conf = none, link = Link} = St) ->
    case wanted() andalso partisan_amqp_conf:check(partisan_config:get(amqp)) of
        {ok, #{window := Max, window_bytes := Bytes} = Conf} ->
            beat_in(0, St#st{conf = Conf, link = partisan_amqp_port:open(Conf, Link), blocked = false,
                             window = partisan_amqp_window:new(Max, Bytes)});
        _ ->
            St % the overlay does not run, or has said what is wrong with the options
    end;
woken(St) ->
    St.

% The shell says so itself only a moment after it has asked the manager what to run.
wake(Tries, St0) ->
    case woken(St0) of
        #st{conf = none} = St when Tries > 0 ->
            _ = erlang:start_timer(?WAKE_MS, self(), {wake, Tries - 1}),
            St;
        St ->
            St
    end.

wanted() -> partisan_overlay_shell:manager() =:= {ok, ?MANAGER}.

%% Another overlay runs. What is unconfirmed gets some time yet.
unwanted(_Now, #st{conf = none} = St) ->
    St;
unwanted(Now, #st{until = none} = St) ->
    unwanted(Now, St#st{until = Now + ?LINGER_MS});
unwanted(Now, #st{until = Until, window = W, conf = #{heartbeat_interval := Ms}} = St) ->
    case partisan_amqp_window:size(W) of
        0 ->
            asleep(St);
        _ when Now < Until ->
            beat_in(Ms, St);
        Lost ->
            ?LOG_WARNING("partisan: another overlay runs and the AMQP broker did not take what was left: "
                         "~b messages are lost", [Lost]),
            asleep(St)
    end.

asleep(#st{link = Link, waiters = Waiters, asked = Asked} = St) ->
    lists:foreach(fun({From, _, _}) -> gen_server:reply(From, {error, not_yet_connected}) end,
                  maps:values(Waiters)),
    lists:foreach(fun(From) -> gen_server:reply(From, {error, timeout}) end, maps:keys(Asked)),
    St#st{conf = none, window = none, until = none, link = partisan_amqp_port:close(Link), waiters = #{},
          asked = #{}, waiting = queue:new(), full = #{}}.

handle_call(info, _From, #st{window = none, counters = Counters} = St) ->
    {reply, #{connected => false, blocked => false, problem => none, unconfirmed => 0, bytes => 0, waiting => 0,
              counters => Counters}, St};
handle_call(info, _From, #st{link = Link, window = W, waiters = Waiters} = St) ->
    {reply, #{connected => partisan_amqp_port:is_up(Link), blocked => St#st.blocked,
              problem => partisan_amqp_port:problem(Link),
              unconfirmed => partisan_amqp_window:size(W), bytes => partisan_amqp_window:bytes(W),
              waiting => map_size(Waiters), counters => St#st.counters}, St};
handle_call({send, _, _, _}, _From, #st{conf = none} = St) ->
    {reply, {error, not_yet_connected}, St};
handle_call({send, Mode, default, Msg}, From, #st{conf = #{send_timeout := Ms}} = St) ->
    handle_call({send, Mode, Ms, Msg}, From, St);
handle_call({send, Mode, Timeout, #msg{node = Node} = Msg}, From, St) ->
    case is_full(Node, St) of
        true -> {reply, {error, busy}, St};
        false -> {noreply, pump(enter(Mode, Timeout, Msg, From, St))}
    end;
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast(wake, St) ->
    {noreply, wake(?WAKE_TRIES, St)};
handle_cast(announce, St) ->
    {noreply, beat(St)};
handle_cast(_Request, St) ->
    {noreply, St}.

handle_info({timeout, Ref, beat}, #st{beat = Ref} = St) ->
    case wanted() of
        true -> {noreply, beat(St#st{until = none})};
        false -> {noreply, unwanted(erlang:monotonic_time(millisecond), St#st{beat = none})}
    end;
handle_info({timeout, Ref, {waiter, From}}, St) ->
    {noreply, impatient(Ref, From, St)};
handle_info({timeout, _, {wake, Tries}}, St) ->
    {noreply, wake(Tries, St)};
handle_info(Message, #st{link = Link0} = St) ->
    case partisan_amqp_port:handle(Message, Link0) of
        {ok, Events, Link} ->
            {noreply, pump(lists:foldl(fun event/2, St#st{link = Link}, Events))};
        ignore ->
            {noreply, St}
    end.

%% ------------------------------------------------------------------------------------------------
%% Senders

%% One timer for each call, whatever it waits for.
enter(Mode, Timeout, Msg, From, #st{waiters = Waiters, waiting = Waiting} = St) ->
    Empty = map_size(Waiters) =:= 0,
    case Empty andalso admit(Mode, Msg, From, St) of
        {ok, St1} when Mode =:= queued ->
            St1;
        {ok, St1} ->
            St1#st{asked = (St1#st.asked)#{From => timer(Timeout, From)}};
        _ when Timeout =:= 0 ->
            gen_server:reply(From, {error, busy}),
            St;
        _ ->
            Ref = timer(Timeout, From),
            St#st{waiters = Waiters#{Ref => {From, Mode, Msg}}, waiting = queue:in(Ref, Waiting)}
    end.

timer(infinity, _From) -> make_ref();
timer(Ms, From) -> erlang:start_timer(Ms, self(), {waiter, From}).

admit(Mode, #msg{payload = Payload} = Msg, From, #st{window = W0} = St) ->
    Kept = case Mode of
               confirm -> Msg#msg{from = From};
               queued -> Msg
           end,
    case partisan_amqp_window:add(Kept, byte_size(Payload) + ?ROOM, W0) of
        {ok, _Id, W} ->
            Mode =:= queued andalso gen_server:reply(From, ok),
            {ok, St#st{window = W}};
        full ->
            full
    end.

impatient(Ref, From, #st{waiters = Waiters, asked = Asked} = St) ->
    case Waiters of
        #{Ref := _} ->
            gen_server:reply(From, {error, busy}),
            St#st{waiters = maps:remove(Ref, Waiters)}; % its place in the queue is skipped
        #{} when is_map_key(From, Asked) ->
            gen_server:reply(From, {error, timeout}),
            St#st{asked = maps:remove(From, Asked)};
        #{} ->
            St
    end.

%% Waiting senders enter in their order, as far as there is room.
refill(#st{waiting = Waiting0, waiters = Waiters} = St) ->
    case queue:out(Waiting0) of
        {empty, _} ->
            St;
        {{value, Ref}, Waiting} when not is_map_key(Ref, Waiters) ->
            refill(St#st{waiting = Waiting});
        {{value, Ref}, Waiting} ->
            #{Ref := {From, Mode, Msg}} = Waiters,
            case admit(Mode, Msg, From, St) of
                {ok, #st{asked = Asked} = St1} when Mode =:= confirm ->
                    refill(St1#st{waiting = Waiting, waiters = maps:remove(Ref, Waiters),
                                  asked = Asked#{From => Ref}});
                {ok, St1} ->
                    _ = erlang:cancel_timer(Ref),
                    refill(St1#st{waiting = Waiting, waiters = maps:remove(Ref, Waiters)});
                full ->
                    St
            end
    end.

is_full(Node, #st{full = Full}) ->
    case Full of
        #{Node := Until} -> erlang:monotonic_time(millisecond) < Until;
        #{} -> false
    end.

%% ------------------------------------------------------------------------------------------------
%% The broker

%% Everything in the window goes out, unless the broker asked us to stop: then what it has not
%% confirmed fills the window, and senders wait.
pump(#st{conf = none} = St) ->
    St;
pump(#st{link = Link, blocked = Blocked} = St0) ->
    St = refill(St0),
    case partisan_amqp_port:is_up(Link) andalso not Blocked of
        true -> publish(St);
        false -> St
    end.

publish(#st{window = W0, link = Link, inc = Inc, conf = Conf} = St) ->
    case partisan_amqp_window:next(W0) of
        none ->
            St;
        {Id, #msg{node = Node, payload = Payload}, W} ->
            Body = partisan_amqp_proto:message({atom_to_binary(node()), Inc}, {Id, partisan_amqp_window:low(W)}, Payload),
            partisan_amqp_port:send(partisan_amqp_proto:publish([mandatory, persistent], Id,
                                                                partisan_amqp_conf:queue(Node, Conf),
                                                                Body), Link),
            publish(St#st{window = W})
    end.

event(_Event, #st{conf = none} = St) ->
    St;
event(up, #st{window = W} = St) ->
    beat(St#st{blocked = false, window = partisan_amqp_window:reset(W)});
event(down, #st{window = W} = St) ->
    St#st{blocked = false, window = partisan_amqp_window:reset(W)};
event({confirm, Tag, Multiple}, St) ->
    settled(ok, partisan_amqp_window:confirm(Tag, Multiple, St#st.window), St);
event({nack, Tag, Multiple}, St) ->
    settled(rejected, partisan_amqp_window:confirm(Tag, Multiple, St#st.window), St);
event({returned, Id, _Code}, #st{window = W} = St) ->
    St#st{window = partisan_amqp_window:returned(Id, W)};
event({blocked, Why}, St) ->
    ?LOG_WARNING("partisan: the AMQP broker takes nothing for now: ~ts; senders wait", [Why]),
    St#st{blocked = true};
event(unblocked, St) ->
    ?LOG_NOTICE("partisan: the AMQP broker takes messages again"),
    St#st{blocked = false};
event(_Event, St) ->
    St.

settled(How, {Gone, W}, St) ->
    lists:foldl(fun({_Id, Msg, Returned}, Acc) -> outcome(How, Returned, Msg, Acc) end,
                St#st{window = W}, Gone).

outcome(ok, false, Msg, St) -> answer(ok, Msg, count(confirmed, St));
outcome(ok, true, Msg, St) -> answer({error, unroutable}, Msg, lost(unroutable, Msg, St));
outcome(rejected, _, #msg{node = Node} = Msg, #st{full = Full} = St) ->
    Until = erlang:monotonic_time(millisecond) + ?FULL_MS,
    answer({error, busy}, Msg, lost(rejected, Msg, St#st{full = Full#{Node => Until}})).

answer(_Result, #msg{from = none}, St) ->
    St;
answer(Result, #msg{from = From}, #st{asked = Asked} = St) ->
    case maps:take(From, Asked) of
        {Ref, Rest} ->
            _ = erlang:cancel_timer(Ref),
            gen_server:reply(From, Result),
            St#st{asked = Rest};
        error ->
            St
    end.

%% Nobody waits for the answer: at most a line in ten seconds, and the counters have them all.
lost(Why, #msg{from = none, node = Node}, #st{line = Last} = St) ->
    Now = erlang:monotonic_time(millisecond),
    case Last =:= none orelse Now - Last > ?LINE_MS of
        true ->
            ?LOG_WARNING("partisan: a message to ~ts is lost: ~ts (the counts are in "
                         "partisan_amqp_pub:info())", [Node, words(Why)]),
            count(Why, St#st{line = Now});
        false ->
            count(Why, St)
    end;
lost(Why, _Msg, St) ->
    count(Why, St).

words(unroutable) -> "no node of that name has a queue at the broker";
words(rejected) -> "its queue at the broker is full".

count(What, #st{counters = Counters} = St) ->
    St#st{counters = maps:update_with(What, fun(N) -> N + 1 end, 1, Counters)}.

%% ------------------------------------------------------------------------------------------------
%% Heartbeats

beat(#st{conf = none} = St) ->
    St;
beat(#st{conf = #{heartbeat_interval := Ms}, link = Link, blocked = Blocked, window = W} = St0) ->
    St = beat_in(Ms, St0),
    case partisan_amqp_port:is_up(Link) andalso not Blocked andalso terms() of
        [_ | _] = Terms ->
            Body = partisan_amqp_proto:heartbeat(Terms),
            partisan_amqp_port:send(partisan_amqp_proto:publish([fanout], 0, "", Body), Link),
            St#st{window = partisan_amqp_window:published(W)};
        _ ->
            St
    end.

terms() ->
    case partisan_overlay_shell:call(beat, infinity) of
        {publish, Terms} -> Terms;
        {error, _} -> [] % another overlay, which does not know the question
    end.

beat_in(Ms, #st{beat = Old} = St) ->
    _ = is_reference(Old) andalso erlang:cancel_timer(Old),
    St#st{beat = erlang:start_timer(Ms, self(), beat)}.
