%% Publish-subscribe through an AMQP 0-9-1 broker: no connections between the nodes at all. Membership by
%% heartbeats on a fanout exchange, a queue for each node, messages with publisher confirms
%% (docs/overlays-amqp.md).
%%
%% A thin module: what all managers share is in partisan_manager, membership in partisan_overlay_amqp, the
%% broker in partisan_amqp_pub and partisan_amqp_sub.
-module(partisan_amqp_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0, start_link/0]).
-export([members/0, members_for_orchestration/0, update_members/1, get_local_state/0, connections/0,
         member/1]).
-export([on_up/2, on_up/3, on_down/2, on_down/3]).
-export([join/1, sync_join/1, leave/0, leave/1, reserve/1]).
-export([send_message/2, receive_message/1, receive_message/2, receive_message/3, decode/1]).
-export([forward_message/2, forward_message/3, forward_message/4, forward_message/5]).
-export([cast_message/2, cast_message/3, cast_message/4, cast_message/5, relay_message/4]).
-export([supports_capability/1, partitions/0, inject_partition/2, resolve_partition/1]).

-define(SYNC_MS, 60000).

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

start_link() -> partisan_overlay_shell:start_link(?MODULE).

members() -> partisan_manager:members().
members_for_orchestration() -> partisan_manager:members_for_orchestration().
update_members(_Specs) -> {error, not_implemented}.
get_local_state() -> partisan_manager:get_local_state().
connections() -> partisan_manager:connections_dict().
member(Node) -> partisan_manager:member(Node).

on_up(Node, Fun) -> partisan_manager:on(up, Node, Fun, #{}).
on_up(Node, Fun, Opts) -> partisan_manager:on(up, Node, Fun, Opts).
on_down(Node, Fun) -> partisan_manager:on(down, Node, Fun, #{}).
on_down(Node, Fun, Opts) -> partisan_manager:on(down, Node, Fun, Opts).

%% Every node at the broker is a member once it has started. A join brings a node back that left, this
%% one or the other.
join(Node) -> each(Node, fun join_one/1).
sync_join(Node) -> each(Node, fun sync_join_one/1).
leave() -> announce(partisan_manager:leave()).
leave(Node) -> announce(partisan_manager:leave(Node)).
reserve(Tag) -> partisan_manager:reserve(Tag).

send_message(Node, Message) ->
    partisan_amqp_pub:send(Node, partisan_overlay_shell, {partisan_manager, node(), Message}, #{}).
receive_message(Message) -> receive_message(node(), undefined, Message).
receive_message(Node, Message) -> receive_message(Node, undefined, Message).
receive_message(Node, Channel, Message) -> partisan_manager:receive_message(Node, Channel, Message).
decode(State) -> partisan_manager:decode(State).

forward_message(A, B) -> partisan_send:forward_message(A, B).
forward_message(A, B, C) -> partisan_send:forward_message(A, B, C).
forward_message(A, B, C, D) -> partisan_send:forward_message(A, B, C, D).
forward_message(A, B, C, D, E) -> partisan_send:forward_message(A, B, C, D, E).
cast_message(A, B) -> partisan_send:cast_message(A, B).
cast_message(A, B, C) -> partisan_send:cast_message(A, B, C).
cast_message(A, B, C, D) -> partisan_send:cast_message(A, B, C, D).
cast_message(A, B, C, D, E) -> partisan_send:cast_message(A, B, C, D, E).

relay_message(Node, Dest, Message, Opts) -> partisan_amqp_pub:send(Node, Dest, Message, Opts).

supports_capability(Capability) -> partisan_manager:supports_capability(Capability).
partitions() -> {error, not_implemented}.
inject_partition(_Origin, _TTL) -> {error, not_implemented}.
resolve_partition(_Reference) -> {error, not_implemented}.

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
