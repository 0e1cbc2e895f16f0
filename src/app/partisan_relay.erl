%% Messages to nodes without a link to us, from neighbour to neighbour, as the overlay's routes say.
%% Best effort: what cannot go on is counted and dropped. A hop limit ends what runs in circles.
%%
%% The next hop is found where the message is, so a relay that dies costs what it had in hand and
%% what was sent before the routes changed. Order of one sender to one destination holds while the
%% way stays the same: one process a node, then one link a neighbour, in order.
-module(partisan_relay).

-behaviour(gen_server).

-export([start_link/0, send/4, counters/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(LINE_MS, 10000).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% `ok`: on its way to the first relay. No route: the caller knows no way either.
-spec send(node(), partisan_send:server_ref(), term(), pos_integer()) ->
          ok | {error, not_yet_connected}.
send(Node, Dest, Message, Hops) ->
    case partisan_overlay_shell:route(Node) of
        {ok, Via} ->
            case erlang:send({?MODULE, Via}, {relay, Node, Dest, Message, Hops}, [noconnect]) of
                ok -> ok;
                noconnect -> {error, not_yet_connected}
            end;
        none ->
            {error, not_yet_connected}
    end.

%% delivered here; passed on; dropped for want of a route, of hops, or of room towards a neighbour.
-spec counters() -> #{delivered | passed | no_route | no_hops | overrun => non_neg_integer()}.
counters() ->
    gen_server:call(?MODULE, counters).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    {ok, #{links => #{}, counters => #{}, line => none}}.

handle_call(counters, _From, #{counters := Counters} = State) ->
    {reply, Counters, State}.

handle_cast(_Request, State) ->
    {noreply, State}.

handle_info({relay, Node, Dest, Message, _Hops}, State) when Node =:= node() ->
    partisan_send:deliver(Dest, Message),
    {noreply, count(delivered, State)};
handle_info({relay, Node, _Dest, _Message, Hops}, State) when Hops =< 1 ->
    {noreply, dropped(no_hops, Node, State)};
handle_info({relay, Node, Dest, Message, Hops}, State) ->
    case next(Node) of
        {ok, Via} -> {noreply, pass(Via, {relay, Node, Dest, Message, Hops - 1}, Node, State)};
        none -> {noreply, dropped(no_route, Node, State)}
    end;
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

next(Node) ->
    case lists:member(Node, nodes(connected)) of
        true -> {ok, Node};
        false -> partisan_overlay_shell:route(Node)
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
            ?LOG_NOTICE("partisan: dropped a message to ~ts that was to be relayed: ~ts (the counts "
                        "are in partisan_relay:counters())", [Node, words(Why)]),
            count(Why, State#{line := Now});
        false ->
            count(Why, State)
    end.

words(no_hops) -> "too many hops";
words(no_route) -> "no way is known";
words(overrun) -> "the next neighbour does not keep up".
