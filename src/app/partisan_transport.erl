%% What carries messages to other nodes.
%%
%% On the carrier: named channels (partisan_channel). On another carrier: its one connection, whose
%% order and busy limit are those of `!`, so there is one channel whatever the configuration says.
%% A node that is not distributed has only itself.
-module(partisan_transport).

-export([kind/0, init/0, configure/1, send/5, fallback/1, connected/0, connected/1, listen_addrs/0]).

-include_lib("kernel/include/logger.hrl").

-define(KIND, {?MODULE, kind}).

-type kind() :: channels | single | none.
-type reason() :: partisan_channel:reason().
-type dest() :: pid() | atom() | reference().
-export_type([kind/0, reason/0, dest/0]).

%% Found out once, when the node is distributed: a carrier cannot be changed under connections.
-spec kind() -> kind().
kind() ->
    case persistent_term:get(?KIND, none) of
        none ->
            case erlang:node() of
                nonode@nohost -> none;
                _ -> look()
            end;
        Kind ->
            Kind
    end.

look() ->
    Kind = case partisan_dist:info() of
               {error, not_started} -> single;
               #{} -> channels
           end,
    persistent_term:put(?KIND, Kind),
    configure(partisan_config:channels()),
    partisan_send:settle(),
    Kind.

%% At the start of the application: says, once, that channels are without effect.
-spec init() -> ok.
init() ->
    _ = persistent_term:erase(?KIND),
    case kind() of
        single ->
            ?LOG_NOTICE("partisan: this node's distribution is ~ts: messages travel over it with "
                        "one channel; for named channels start the node with -proto_dist partisan",
                        [carrier_name()]);
        _ ->
            ok
    end.

carrier_name() ->
    case init:get_argument(proto_dist) of
        {ok, [[Name] | _]} -> Name;
        _ -> "inet_tcp"
    end.

%% Hands the channels with their options to the carrier. The default channel is the distribution's
%% own stream, in order with `!`, unless the configuration names it.
-spec configure(partisan_config_table:channel_map()) -> ok.
configure(Map) ->
    case persistent_term:get(?KIND, none) of
        channels ->
            Kept = case partisan_config:default_channel_is_own() of
                       true -> Map;
                       false -> maps:remove(undefined, Map)
                   end,
            ok = partisan_channel:configure(maps:map(fun clamp/2, Kept));
        _ ->
            ok
    end.

clamp(Name, #{parallelism := N} = Opts) ->
    case partisan_config_table:clamp(Name, Opts) of
        #{parallelism := N} = Same ->
            Same;
        #{parallelism := Most} = Fewer ->
            ?LOG_NOTICE("partisan: channel ~tp: parallelism ~b counts as ~b, the most there is",
                        [Name, N, Most]),
            Fewer
    end.

%% Dest is on Node, which is another node. Opts as for partisan_channel:send/5, but `channel_fallback`
%% for its `fallback`: whether a message for a channel that there is not takes the distribution's own
%% stream. Other options mean nothing here.
-spec send(node(), partisan:channel(), dest(), term(), map()) -> ok | {error, reason()}.
send(Node, Channel, Dest, Msg, Opts) ->
    case persistent_term:get(?KIND, none) of
        channels ->
            case partisan_channel:send(Node, Channel, Dest, Msg, Opts) of
                ok -> ok;
                {error, Reason} -> not_sent(Reason, Node, Channel, Dest, Msg, Opts)
            end;
        single -> single(Node, Dest, Msg, Opts);
        none ->
            case kind() of
                none -> {error, not_yet_connected};
                _ -> send(Node, Channel, Dest, Msg, Opts)
            end
    end.

not_sent({unknown_channel, _} = Reason, Node, Channel, Dest, Msg, Opts) ->
    case Channel =:= undefined orelse fallback(Opts) of
        true -> single(Node, Dest, Msg, Opts);
        false -> {error, Reason}
    end;
not_sent(Reason, Node, _, _, _, _) when Reason =:= disconnected; Reason =:= not_yet_connected ->
    {error, partisan_nodes:why_not(Node)};
not_sent(Reason, _, _, _, _, _) ->
    {error, Reason}.

%% Whether a message for a channel that there is not goes without one.
-spec fallback(map()) -> boolean().
fallback(#{channel_fallback := Fallback}) -> Fallback;
fallback(#{}) -> partisan_config:get(channel_fallback).

single(Node, Name, Msg, Opts) when is_atom(Name) ->
    single(Node, {Name, Node}, Msg, Opts);
single(Node, Dest, Msg, Opts) ->
    Suspend = case Opts of
                  #{nosuspend := true} -> [noconnect, nosuspend];
                  _ -> [noconnect]
              end,
    case erlang:send(Dest, Msg, Suspend) of
        ok -> ok;
        noconnect -> {error, partisan_nodes:why_not(Node)};
        nosuspend -> {error, busy}
    end.

-spec connected() -> [node()].
connected() -> erlang:nodes(visible).

-spec connected(node()) -> boolean().
connected(Node) -> lists:member(Node, erlang:nodes(connected)).

%% Where the distribution listens; no addresses if it does not.
-spec listen_addrs() -> [partisan:listen_addr()].
listen_addrs() ->
    lists:usort([#{ip => real_ip(Ip), port => Port} || {Ip, Port} <- listeners()]).

%% The listen sockets are ports of net_kernel.
listeners() ->
    case whereis(net_kernel) of
        undefined ->
            [];
        Pid ->
            {links, Links} = process_info(Pid, links),
            [Address || Port <- Links, is_port(Port),
                        erlang:port_info(Port, name) =:= {name, "tcp_inet"},
                        {ok, Status} <- [prim_inet:getstatus(Port)], lists:member(listen, Status),
                        {ok, {_, _} = Address} <- [inet:sockname(Port)]]
    end.

%% The socket listens on all addresses: the one of the node's name is that under which peers know
%% it.
real_ip({0, 0, 0, 0}) -> named_ip(inet, {127, 0, 0, 1});
real_ip({0, 0, 0, 0, 0, 0, 0, 0}) -> named_ip(inet6, {0, 0, 0, 0, 0, 0, 0, 1});
real_ip(Ip) -> Ip.

named_ip(Family, Otherwise) ->
    [_, Host] = string:split(atom_to_list(erlang:node()), "@"),
    case inet:getaddr(Host, Family) of
        {ok, Ip} -> Ip;
        {error, _} -> Otherwise
    end.
