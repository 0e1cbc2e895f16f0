%% Messages to nodes without a link to us, from neighbour to neighbour, as the overlay's routes say.
%% Best effort: what cannot go on is counted and dropped. A hop limit ends what runs in circles.
%%
%% The carrier does this from lane to lane (partisan_relay_lanes). What follows is for neighbours that
%% cannot: an older version, or another carrier.
%%
%% The next hop is found where the message is, so a relay that dies costs what it had in hand and
%% what was sent before the routes changed. Order of one sender to one destination holds while the
%% way stays the same: one process a node, then one link a neighbour, in order.
%%
%% A message has an identity, its origin's name, creation and a number, by which its receiver knows
%% what it was given already: the last ?SEEN messages at least, the last two times as many at most.
%% Relays look at no identity: the second visit of one that ran in a circle may be the one that gets on.
-module(partisan_relay).

-behaviour(gen_server).

-export([start_link/0, send/4, send/5, counters/0, dropped/2, log_dropped/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(LINE_MS, 10000).
-define(SEEN, 2048). % about 80 bytes each

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% `ok`: on its way to the first relay. No route: the caller knows no way either.
-spec send(node(), partisan_send:server_ref(), term(), non_neg_integer()) -> ok | {error, term()}.
send(Node, Dest, Message, Hops) ->
    send(Node, Dest, Message, Hops, #{}).

%% By the carrier, from lane to lane (partisan_relay_lanes); where that cannot be, by this module. Opts:
%% `channel` and `partition_key` hold at every hop, `timeout`, `nosuspend`, `notify` and `channel_fallback`
%% at the first one.
-spec send(node(), partisan_send:server_ref(), term(), non_neg_integer(), map()) -> ok | {error, term()}.
send(Node, Dest, Message, Hops, Opts) ->
    case partisan_relay_lanes:send(Node, Dest, Message, Hops, Opts) of
        none -> by_erlang(Node, Dest, Message, Hops, Opts);
        Result -> Result
    end.

%% The channel counts as far as the first relay. Where that is a monotonic one it would take messages to
%% the same relay for newer versions of each other. `notify` would name that relay: the sender waits.
by_erlang(Node, Dest, Message, Hops, Opts) ->
    case partisan_overlay_shell:route(Node) of
        {ok, Via} ->
            Relayed = {relay, Node, Dest, Message, Hops, identity()},
            Channel = maps:get(channel, Opts, undefined),
            case partisan_transport:send(Via, may_take(Channel), ?MODULE, Relayed,
                                         maps:without([notify, key, clock], Opts)) of
                {error, disconnected} -> {error, not_yet_connected};
                Result -> Result
            end;
        none ->
            {error, not_yet_connected}
    end.

may_take(Channel) ->
    case partisan_config:channels() of
        #{Channel := #{monotonic := true}} -> undefined;
        #{} -> Channel
    end.

%% No other message of any life of any node has this one.
identity() ->
    {node(), erlang:system_info(creation), erlang:unique_integer([positive])}.

%% delivered here; passed on; not delivered a second time; dropped for want of a route, of hops, of
%% room towards a neighbour, because it is none that this version knows, or for this node on a
%% connection that was closing. Of the carrier's also: sent by this node; handed to Erlang. What both
%% did is added up; the carrier's part alone is in partisan_dist:info().
-spec counters() -> #{delivered | passed | doubled | no_route | no_hops | overrun | malformed | closing
                      | sent | handed => non_neg_integer()}.
counters() ->
    maps:fold(fun(What, N, Sum) -> maps:update_with(What, fun(M) -> M + N end, N, Sum) end,
              gen_server:call(?MODULE, counters), partisan_relay_lanes:counters()).

%% Counts and logs a message that was dropped elsewhere.
-spec dropped(atom(), node() | binary()) -> ok.
dropped(Why, Node) ->
    gen_server:cast(?MODULE, {dropped, Why, Node}).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    {ok, #{links => #{}, counters => #{}, line => none, seen => {#{}, #{}}}}.

handle_call(counters, _From, #{counters := Counters} = State) ->
    {reply, Counters, State};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast({dropped, Why, Node}, State) ->
    {noreply, dropped(Why, Node, State)};
handle_cast(_Request, State) ->
    {noreply, State}.

handle_info({relay, Node, Dest, Message, Hops, Id}, State)
  when is_atom(Node), is_integer(Hops), is_pid(Dest) orelse is_atom(Dest) orelse is_reference(Dest) ->
    {noreply, relay(Node, Dest, Message, Hops, Id, State)};
handle_info(Relay, State) when is_tuple(Relay), element(1, Relay) =:= relay ->
    {noreply, dropped(malformed, unknown, State)};
handle_info({nodedown, Node, _Info}, #{links := Links} = State) ->
    case maps:take(Node, Links) of
        {Link, Rest} ->
            partisan_overlay_link:stop(Link),
            {noreply, State#{links := Rest}};
        error ->
            {noreply, State}
    end;
handle_info(_Message, State) ->
    {noreply, State}.

relay(Node, Dest, Message, _Hops, Id, #{seen := Seen0} = State) when Node =:= node() ->
    case note(Id, Seen0) of
        {new, Seen} ->
            partisan_send:deliver(Dest, Message),
            count(delivered, State#{seen := Seen});
        seen ->
            count(doubled, State)
    end;
relay(Node, _Dest, _Message, Hops, _Id, State) when Hops =< 1 ->
    dropped(no_hops, Node, State);
relay(Node, Dest, Message, Hops, Id, State) ->
    case next(Node) of
        {ok, Via} -> pass(Via, {relay, Node, Dest, Message, Hops - 1, Id}, Node, State);
        none -> dropped(no_route, Node, State)
    end.

%% Two generations: when the younger is full the older one goes.
note(Id, {Young, Old}) when is_map_key(Id, Young); is_map_key(Id, Old) -> seen;
note(Id, {Young, _Old}) when map_size(Young) >= ?SEEN -> {new, {#{Id => []}, Young}};
note(Id, {Young, Old}) -> {new, {Young#{Id => []}, Old}}.

%% A connection that is none of the overlay's links may be on its way down: any route is better.
next(Node) ->
    case partisan_overlay_shell:way(Node) of
        relay ->
            partisan_overlay_shell:route(Node);
        direct ->
            case lists:member(Node, nodes(connected)) of
                true -> {ok, Node};
                false -> partisan_overlay_shell:route(Node)
            end
    end.

%% Through a link, so that a neighbour that does not keep up makes nobody else wait.
pass(Via, Message, Node, #{links := Links} = State) ->
    Link = case Links of
               #{Via := Known} -> Known;
               #{} -> partisan_overlay_link:start(#{name => Via}, up, visible, ?MODULE)
           end,
    State1 = State#{links := Links#{Via => Link}},
    case partisan_overlay_link:send(Link, Message) of
        ok -> count(passed, State1);
        overrun -> dropped(overrun, Node, State1)
    end.

count(What, #{counters := Counters} = State) ->
    State#{counters := maps:update_with(What, fun(N) -> N + 1 end, 1, Counters)}.

%% At most a line in ten seconds; the counters have them all.
dropped(Why, Node, #{line := Last} = State) ->
    Now = erlang:monotonic_time(millisecond),
    case Last =:= none orelse Now - Last > ?LINE_MS of
        true ->
            log_dropped(Why, Node),
            count(Why, State#{line := Now});
        false ->
            count(Why, State)
    end.

-spec log_dropped(atom(), node() | binary()) -> ok.
log_dropped(Why, Node) ->
    ?LOG_NOTICE("partisan: dropped a message to ~ts that was to be relayed: ~ts (the counts "
                "are in partisan_relay:counters())", [Node, words(Why)]).

words(malformed) -> "it is none that this version knows";
words(no_hops) -> "too many hops";
words(no_route) -> "no way is known";
words(closing) -> "its connection is being closed";
words(overrun) -> "the next neighbour does not keep up".
