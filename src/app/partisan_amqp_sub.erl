%% Receives: what is in this node's queue at the broker, and the heartbeats of all.
%%
%% Each message is delivered to its process and then acknowledged. At most `prefetch` unacknowledged ones
%% are here at any time, whatever waits at the broker.
-module(partisan_amqp_sub).

-behaviour(gen_server).

-export([start_link/0, wake/0, info/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(MANAGER, partisan_amqp_peer_service_manager).
-define(WAKE_MS, 100).
-define(WAKE_TRIES, 50).
-define(PRUNE_MS, 60000).
-define(KEEP_MS, 3600000). % what a sender that was not heard for so long sends again counts as new

-record(st, {link :: partisan_amqp_port:t(),
             on = false :: boolean(),
             seen = partisan_amqp_seen:new() :: partisan_amqp_seen:t(),
             counters = #{} :: #{atom() => non_neg_integer()}}).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() -> gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% See partisan_amqp_pub:wake/0.
-spec wake() -> ok.
wake() -> gen_server:cast(?MODULE, wake).

%% connected, problem (why not, or none); counters: delivered, copies (dropped), bad (in no form that we know; dropped).
-spec info() -> #{atom() => term()}.
info() -> gen_server:call(?MODULE, info).

init([]) ->
    process_flag(trap_exit, true),
    process_flag(message_queue_data, off_heap),
    _ = erlang:start_timer(?PRUNE_MS, self(), prune),
    {ok, woken(#st{link = partisan_amqp_port:new(consumer)})}.

woken(#st{on = false, link = Link} = St) ->
    case wanted() andalso partisan_amqp_conf:check(partisan_config:get(amqp)) of
        {ok, #{heartbeat_interval := Ms} = Conf} ->
            _ = erlang:start_timer(Ms, self(), {look, Ms}),
            St#st{on = true, link = partisan_amqp_port:open(Conf, Link)};
        _ ->
            St
    end;
woken(St) ->
    St.

% The shell says so itself only a moment after it has asked the manager what to run.
wake(Tries, St0) ->
    case woken(St0) of
        #st{on = false} = St when Tries > 0 ->
            _ = erlang:start_timer(?WAKE_MS, self(), {wake, Tries - 1}),
            St;
        St ->
            St
    end.

wanted() -> partisan_overlay_shell:manager() =:= {ok, ?MANAGER}.

handle_call(info, _From, #st{link = Link, counters = Counters, seen = Seen} = St) ->
    {reply, #{connected => partisan_amqp_port:is_up(Link),
              problem => partisan_amqp_port:problem(Link), counters => Counters,
              ids => partisan_amqp_seen:size(Seen)}, St};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast(wake, St) -> {noreply, wake(?WAKE_TRIES, St)};
handle_cast(_Request, St) -> {noreply, St}.

handle_info({timeout, _, {look, Ms}}, #st{link = Link} = St) ->
    case wanted() of
        true ->
            _ = erlang:start_timer(Ms, self(), {look, Ms}),
            {noreply, St};
        false ->
            {noreply, St#st{on = false, link = partisan_amqp_port:close(Link)}}
    end;
handle_info({timeout, _, prune}, #st{seen = Seen} = St) ->
    _ = erlang:start_timer(?PRUNE_MS, self(), prune),
    {noreply, St#st{seen = partisan_amqp_seen:prune(now_ms() - ?KEEP_MS, Seen)}};
handle_info({timeout, _, {wake, Tries}}, St) ->
    {noreply, wake(Tries, St)};
handle_info(Message, #st{link = Link0} = St) ->
    case partisan_amqp_port:handle(Message, Link0) of
        {ok, Events, Link} -> {noreply, lists:foldl(fun event/2, St#st{link = Link}, Events)};
        ignore -> {noreply, St}
    end.

%% A message of the broker is acknowledged even if nothing can be done with it: it would come again.
event({deliver, fanout, _Tag, Body}, St) ->
    case partisan_amqp_proto:body(Body) of
        {heartbeat, Terms} ->
            case [Term || Term <- Terms, partisan_overlay_shell:call({heard, Term}, infinity) =:= malformed] of
                [] -> St;
                _ -> bad(St)
            end;
        _ ->
            bad(St)
    end;
event({deliver, direct, Tag, Body}, #st{link = Link} = St0) ->
    St = case partisan_amqp_proto:body(Body) of
             {message, Origin, Number, Dest, Msg} -> message(Origin, Number, Dest, Msg, St0);
             _ -> bad(St0)
         end,
    partisan_amqp_port:send(partisan_amqp_proto:ack(Tag), Link),
    St;
event(_Event, St) ->
    St.

message(Origin, {Id, Low}, Dest, Msg, #st{seen = Seen0} = St) ->
    case partisan_amqp_seen:check(Origin, Id, Low, now_ms(), Seen0) of
        {new, Seen} ->
            deliver(Dest, Msg),
            count(delivered, St#st{seen = Seen});
        {copy, Seen} ->
            count(copies, St#st{seen = Seen})
    end.

deliver(Dest, Msg) ->
    try partisan_send:deliver(Dest, Msg)
    catch _:_ -> ok % no destination that exists here
    end.

bad(#st{counters = Counters} = St) ->
    is_map_key(bad, Counters) orelse
        ?LOG_WARNING("partisan: a message from the AMQP broker is not of a form that this node knows: "
                     "is something else publishing to its exchanges? (all are counted in "
                     "partisan_amqp_sub:info())"),
    count(bad, St).

count(What, #st{counters = Counters} = St) ->
    St#st{counters = maps:update_with(What, fun(N) -> N + 1 end, 1, Counters)}.

now_ms() -> erlang:monotonic_time(millisecond).
