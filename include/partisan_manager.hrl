%% What all managers have in common, for a module of the behaviour partisan_peer_service_manager that
%% has overlay/0. Everything is sent on to partisan_manager and partisan_send.
%%
%% A manager that does something in a way of its own defines, before it includes this,
%%
%%   OWN_UPDATE        update_members/1
%%   OWN_JOIN          join/1, sync_join/1, leave/0, leave/1
%%   OWN_SEND_MESSAGE  send_message/2
%%   OWN_ARGUMENTS     forward_message/2..5, cast_message/2..5
%%   OWN_RELAY         relay_message/4
%%
%% and these functions; they are exported here.

-export([start_link/0]).
-export([members/0, members_for_orchestration/0, update_members/1, get_local_state/0, connections/0,
         member/1]).
-export([on_up/2, on_up/3, on_down/2, on_down/3]).
-export([join/1, sync_join/1, leave/0, leave/1, reserve/1]).
-export([send_message/2, receive_message/1, receive_message/2, receive_message/3, decode/1]).
-export([forward_message/2, forward_message/3, forward_message/4, forward_message/5]).
-export([cast_message/2, cast_message/3, cast_message/4, cast_message/5, relay_message/4]).
-export([supports_capability/1, partitions/0, inject_partition/2, resolve_partition/1]).

start_link() -> partisan_overlay_shell:start_link(?MODULE).

members() -> partisan_manager:members().
members_for_orchestration() -> partisan_manager:members_for_orchestration().
get_local_state() -> partisan_manager:get_local_state().
connections() -> partisan_manager:connections_dict().
member(Node) -> partisan_manager:member(Node).

-ifndef(OWN_UPDATE).
update_members(Specs) -> partisan_manager:update_members(Specs).
-endif.

on_up(Node, Fun) -> partisan_manager:on(up, Node, Fun, #{}).
on_up(Node, Fun, Opts) -> partisan_manager:on(up, Node, Fun, Opts).
on_down(Node, Fun) -> partisan_manager:on(down, Node, Fun, #{}).
on_down(Node, Fun, Opts) -> partisan_manager:on(down, Node, Fun, Opts).

-ifndef(OWN_JOIN).
join(Node) -> partisan_manager:join(Node).
sync_join(Node) -> partisan_manager:sync_join(Node).
leave() -> partisan_manager:leave().
leave(Node) -> partisan_manager:leave(Node).
-endif.
reserve(Tag) -> partisan_manager:reserve(Tag).

-ifndef(OWN_SEND_MESSAGE).
send_message(Node, Message) -> partisan_manager:send_message(Node, Message).
-endif.
receive_message(Message) -> receive_message(node(), undefined, Message).
receive_message(Node, Message) -> receive_message(Node, undefined, Message).
receive_message(Node, Channel, Message) -> partisan_manager:receive_message(Node, Channel, Message).
decode(State) -> partisan_manager:decode(State).

-ifndef(OWN_ARGUMENTS).
forward_message(A, B) -> partisan_send:forward_message(A, B).
forward_message(A, B, C) -> partisan_send:forward_message(A, B, C).
forward_message(A, B, C, D) -> partisan_send:forward_message(A, B, C, D).
forward_message(A, B, C, D, E) -> partisan_send:forward_message(A, B, C, D, E).
cast_message(A, B) -> partisan_send:cast_message(A, B).
cast_message(A, B, C) -> partisan_send:cast_message(A, B, C).
cast_message(A, B, C, D) -> partisan_send:cast_message(A, B, C, D).
cast_message(A, B, C, D, E) -> partisan_send:cast_message(A, B, C, D, E).
-endif.

-ifndef(OWN_RELAY).
relay_message(Node, Dest, Message, Opts) -> partisan_manager:relay_message(Node, Dest, Message, Opts).
-endif.

supports_capability(Capability) -> partisan_manager:supports_capability(Capability).
partitions() -> {error, not_implemented}.
inject_partition(_Origin, _TTL) -> {error, not_implemented}.
resolve_partition(_Reference) -> {error, not_implemented}.
