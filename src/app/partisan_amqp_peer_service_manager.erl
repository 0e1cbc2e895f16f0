%% Publish-subscribe through an AMQP 0-9-1 broker: no connections between the nodes at all. Membership by
%% heartbeats on a fanout exchange, a queue for each node, messages with publisher confirms
%% (docs/overlays-amqp.md).
%%
%% A thin module: what all managers share is in partisan_manager.hrl, membership in partisan_overlay_amqp,
%% the broker in partisan_amqp_pub and partisan_amqp_sub.
-module(partisan_amqp_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-define(SYNC_MS, 60000).

-define(OWN_UPDATE, true).
-define(OWN_JOIN, true).
-define(OWN_SEND_MESSAGE, true).
-define(OWN_RELAY, true).
-include("partisan_manager.hrl").

%% For partisan_overlay_shell. Called when this overlay starts, also on a running node, so it wakes those
%% that talk to the broker.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    Options = case partisan_amqp_conf:check(partisan_config:get(amqp)) of
                  {ok, Conf} -> partisan_amqp_conf:core(Conf);
                  {error, Line} -> #{invalid => Line}
              end,
    partisan_amqp_pub:wake(),
    partisan_amqp_sub:wake(),
    #{core => partisan_overlay_amqp, links => hidden,
      config => Options#{incarnation => erlang:system_time(microsecond)}}.

update_members(_Specs) -> {error, not_implemented}.

%% Every node at the broker is a member once it has started. A join brings a node back that left, this
%% one or the other.
join(Node) -> each(Node, fun join_one/1).
sync_join(Node) -> each(Node, fun sync_join_one/1).
leave() -> announce(partisan_manager:leave()).
leave(Node) -> announce(partisan_manager:leave(Node)).

send_message(Node, Message) ->
    partisan_amqp_pub:send(Node, partisan_overlay_shell, {partisan_manager, node(), Message}, #{}).

relay_message(Node, Dest, Message, Opts) -> partisan_amqp_pub:send(Node, Dest, Message, Opts).

%% ------------------------------------------------------------------------------------------------

announce(ok) -> partisan_amqp_pub:announce();
announce(Error) -> Error.

%% Nobody is asked whether it exists: it need not be up now.
join_one(#{name := Name}) when Name =:= node() -> {error, self_join};
join_one(Spec) -> announce(alive(fun() -> partisan_overlay_shell:join(Spec) end)).

sync_join_one(#{name := Name} = Spec) ->
    case join_one(Spec) of
        ok -> alive(fun() -> partisan_overlay_shell:await(Name, ?SYNC_MS) end);
        {error, _} = Error -> Error
    end.

each(Nodes, Fun) when is_list(Nodes), not is_integer(hd(Nodes)) ->
    lists:foldl(fun(Node, ok) -> each(Node, Fun);
                   (_, Error) -> Error
                end, ok, Nodes);
each(Node, Fun) ->
    case partisan_node_spec:from(Node) of
        {ok, Spec} -> Fun(Spec);
        {error, _} = Error -> Error
    end.

alive(Fun) ->
    try Fun()
    catch
        exit:{noproc, _} -> {error, notalive}
    end.
