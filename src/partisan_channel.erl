%% Named channels: classes of traffic to a node, each with its own queue, limits and lanes, so that
%% one that is full or slow delays no other. docs/channels.md is for those who use them.
%%
%% What travels on a channel are ordinary distribution signals: the receiving process decodes the
%% message, and pids, registered names and aliases are addressed as `!` addresses them. Order holds
%% for one sender, one channel and one partition key.
-module(partisan_channel).

-export([configure/1, channels/0]).
-export([send/4, send/5, open/2, info/1]).

-export_type([channel/0, config/0, options/0, destination/0, reason/0]).

-type channel() :: atom().
-type config() :: #{parallelism => 1..16, monotonic => boolean(), compression => boolean() | 0..9,
                    max_queue => pos_integer(), idle => non_neg_integer() | infinity}.
%% A reference is an alias.
-type destination() :: pid() | atom() | reference().
-type options() :: #{partition_key => term(), key => term(), timeout => timeout(),
                     nosuspend => boolean(), notify => boolean(), fallback => boolean()}.
-type reason() :: not_yet_connected | disconnected | busy | timeout |
                  {unknown_channel, channel()} | {wrong_node, node()} | {badarg, string()}.

%% Replaces the set of channels of this node. Channels that are open keep what they were opened with.
-spec configure(#{channel() => config()}) -> ok | {error, Line :: string()}.
configure(Channels) ->
    partisan_channel_conf:set(Channels).

%% The channels of this node, in order.
-spec channels() -> [channel()].
channels() ->
    lists:sort(maps:keys(partisan_channel_conf:get())).

-spec send(node(), channel(), destination(), term()) -> ok | {error, reason()}.
send(Node, Channel, Dest, Message) ->
    send(Node, Channel, Dest, Message, #{}).

%% Sends Message to Dest on Node. `ok`: it is queued, and will arrive unless the connection is lost.
%% An error: it was not queued.
-spec send(node(), channel(), destination(), term(), options()) -> ok | {error, reason()}.
send(Node, _Channel, Dest, Message, _Options) when Node =:= node() ->
    deliver_here(Dest, Message);
send(Node, Channel, Dest, Message, Options)
  when is_atom(Node), is_atom(Channel), is_map(Options),
       (is_pid(Dest) orelse is_atom(Dest) orelse is_reference(Dest)) ->
    case is_atom(Dest) orelse node(Dest) =:= Node of
        false ->
            {error, {wrong_node, node(Dest)}};
        true ->
            case partisan_channel_conf:find(Channel) of
                {ok, _} -> default(Node, Dest, Message, Options);
                error when map_get(fallback, Options) -> default(Node, Dest, Message, Options);
                error -> {error, {unknown_channel, Channel}}
            end
    end;
send(Node, Channel, Dest, _Message, Options) ->
    {error, {badarg, lists:flatten(io_lib:format("send(~0tp, ~0tp, ~0tp, _, ~0tp)",
                                                 [Node, Channel, Dest, Options]))}}.

%% Opens the channel now rather than on first use.
-spec open(node(), channel()) -> ok | {error, reason()}.
open(Node, Channel) ->
    case partisan_channel_conf:find(Channel) of
        error -> {error, {unknown_channel, Channel}};
        {ok, _} when Node =:= node() -> ok;
        {ok, _} ->
            case lists:member(Node, nodes(connected)) of
                true -> ok;
                false -> {error, not_connected(Node)}
            end
    end.

%% What the channels with Node are doing: `#{}` if none is open.
-spec info(node()) -> #{channel() => map()}.
info(_Node) ->
    #{}.

%% ------------------------------------------------------------------------------------------------

%% The distribution's own stream: where a message goes that has no channel.
default(Node, Dest, Message, Options) ->
    To = case is_atom(Dest) of
             true -> {Dest, Node};
             false -> Dest
         end,
    Suspend = [nosuspend || maps:get(nosuspend, Options, false)],
    case erlang:send(To, Message, [noconnect | Suspend]) of
        ok -> ok;
        nosuspend -> {error, busy};
        noconnect -> {error, not_connected(Node)}
    end.

deliver_here(Dest, Message) ->
    try
        _ = Dest ! Message,
        ok
    catch
        error:badarg -> ok % nobody has that name, as with a name on another node
    end.

not_connected(Node) ->
    case lists:member(Node, nodes(known)) of
        true -> disconnected;
        false -> not_yet_connected
    end.
