%% Who is in the cluster, for applications: Partisan's module, with the arities of both generations.
%% Everything goes to the manager that was configured when the application started.
-module(partisan_peer_service).

-export([join/1, join/2, join/3, sync_join/1, sync_join/2, sync_join/3, attempt_join/1,
         attempt_sync_join/1, leave/0, leave/1]).
-export([members/0, member/1, members_for_orchestration/0, update_members/1, connections/0,
         manager/0, get_local_state/0, decode/1]).
-export([on_up/2, on_up/3, on_down/2, on_down/3, add_sup_callback/1, reserve/1]).
-export([partitions/0, inject_partition/2, resolve_partition/1]).
-export([broadcast_members/0, broadcast_members/1, exchanges/0, exchanges/1, cancel_exchanges/1]).
-export([forward_message/3, cast_message/3]).
-export([stop/0, stop/1]).

-include("partisan.hrl").

-type spec() :: partisan_node_spec:t().
-type nodes() :: spec() | node() | string() | binary() | [spec() | node()].

%% ------------------------------------------------------------------------------------------------
%% Joining and leaving

%% `ok`: accepted, not yet connected; see sync_join/1.
-spec join(nodes()) -> ok | {error, term()}.
join(Node) -> (manager()):join(Node).

%% Of Partisan 1 to 4; whether to answer at once was never honoured.
-spec join(nodes(), boolean()) -> ok | {error, term()}.
join(Node, _Auto) -> join(Node).

-spec join(node(), nodes(), boolean()) -> ok | {error, term()}.
join(Self, Node, _Auto) when Self =:= node() -> join(Node);
join(_Self, _Node, _Auto) -> {error, self_join}.

%% Returns when the node is connected and the channels to it are open.
-spec sync_join(nodes()) -> ok | {error, term()}.
sync_join(Node) -> (manager()):sync_join(Node).

-spec sync_join(nodes(), boolean()) -> ok | {error, term()}.
sync_join(Node, _Auto) -> sync_join(Node).

-spec sync_join(node(), nodes(), boolean()) -> ok | {error, term()}.
sync_join(Self, Node, _Auto) when Self =:= node() -> sync_join(Node);
sync_join(_Self, _Node, _Auto) -> {error, self_join}.

-spec attempt_join(nodes()) -> ok | {error, term()}.
attempt_join(Node) -> join(Node).

-spec attempt_sync_join(nodes()) -> ok | {error, term()}.
attempt_sync_join(Node) -> sync_join(Node).

%% This node leaves.
-spec leave() -> ok | {error, term()}.
leave() -> (manager()):leave().

%% Takes a node out, which learns of it if it is connected.
-spec leave(nodes()) -> ok | {error, term()}.
leave(Node) -> (manager()):leave(Node).

%% ------------------------------------------------------------------------------------------------
%% Members

%% Those that are down included, as in Partisan; connections/0 has who is connected.
-spec members() -> {ok, [node()]} | {error, notalive}.
members() -> (manager()):members().

-spec member(node() | spec()) -> boolean().
member(Node) ->
    case members() of
        {ok, Names} -> lists:member(partisan_node_spec:name(Node), Names);
        {error, _} -> false
    end.

-spec members_for_orchestration() -> {ok, [spec()]} | {error, notalive}.
members_for_orchestration() -> (manager()):members_for_orchestration().

-spec update_members([spec() | node()]) -> ok | {error, term()}.
update_members(Nodes) -> (manager()):update_members(Nodes).

-spec connections() -> {ok, [#partisan_peer_connection{}]} | {error, notalive}.
connections() -> partisan_manager:connections().

%% The manager that runs; before the application is started, the one that would.
-spec manager() -> module().
manager() ->
    case partisan_overlay_shell:manager() of
        {ok, Manager} -> Manager;
        {error, notalive} ->
            partisan_config:get(peer_service_manager, ?DEFAULT_PEER_SERVICE_MANAGER)
    end.

-spec get_local_state() -> {ok, term()} | {error, notalive}.
get_local_state() -> (manager()):get_local_state().

%% Names of the members in what get_local_state/0 returns and callbacks get.
-spec decode(term()) -> [node()].
decode(State) -> (manager()):decode(State).

%% ------------------------------------------------------------------------------------------------
%% Callbacks

%% Calls Fun, of up to two arguments (node, channel), each time Node (`any`, '_': any node) becomes
%% connected as a member. With option `channel`: each time that channel to it is open.
-spec on_up(term(), partisan_peer_watch:callback()) -> ok | {error, term()}.
on_up(Node, Fun) -> (manager()):on_up(Node, Fun).

-spec on_up(term(), partisan_peer_watch:callback(), map()) -> ok | {error, term()}.
on_up(Node, Fun, Opts) -> (manager()):on_up(Node, Fun, Opts).

-spec on_down(term(), partisan_peer_watch:callback()) -> ok | {error, term()}.
on_down(Node, Fun) -> (manager()):on_down(Node, Fun).

-spec on_down(term(), partisan_peer_watch:callback(), map()) -> ok | {error, term()}.
on_down(Node, Fun, Opts) -> (manager()):on_down(Node, Fun, Opts).

%% Fun is called with what decode/1 takes, on each change of the members, as long as the caller
%% lives.
-spec add_sup_callback(fun((term()) -> term())) -> term().
add_sup_callback(Fun) -> partisan_peer_service_events:add_sup_callback(Fun).

%% ------------------------------------------------------------------------------------------------
%% What only some managers have

-spec reserve(term()) -> ok | {error, term()}.
reserve(Tag) -> (manager()):reserve(Tag).

-spec partitions() -> {ok, list()} | {error, not_implemented}.
partitions() -> (manager()):partitions().

-spec inject_partition(spec(), integer()) -> {ok, reference()} | {error, not_implemented}.
inject_partition(Origin, TTL) -> (manager()):inject_partition(Origin, TTL).

-spec resolve_partition(reference()) -> ok | {error, not_implemented}.
resolve_partition(Reference) -> (manager()):resolve_partition(Reference).

%% ------------------------------------------------------------------------------------------------
%% Of the broadcast trees

-spec broadcast_members() -> term().
broadcast_members() -> partisan_plumtree_broadcast:broadcast_members().

-spec broadcast_members(timeout()) -> term().
broadcast_members(Timeout) -> partisan_plumtree_broadcast:broadcast_members(Timeout).

-spec exchanges() -> term().
exchanges() -> partisan_plumtree_broadcast:exchanges().

-spec exchanges(node()) -> term().
exchanges(Node) -> partisan_plumtree_broadcast:exchanges(Node).

-spec cancel_exchanges(term()) -> term().
cancel_exchanges(Which) -> partisan_plumtree_broadcast:cancel_exchanges(Which).

%% ------------------------------------------------------------------------------------------------
%% Of Partisan 1 to 4

-spec forward_message(node(), partisan_send:server_ref(), term()) -> partisan_send:result().
forward_message(Node, Dest, Message) -> partisan_send:old_forward_message(Node, Dest, Message).

-spec cast_message(node(), partisan_send:server_ref(), term()) -> partisan_send:result().
cast_message(Node, Dest, Message) -> partisan_send:old_cast_message(Node, Dest, Message).

%% Stops the node, as in Partisan.
-spec stop() -> ok.
stop() -> stop("received stop request").

-spec stop(term()) -> ok.
stop(Reason) ->
    logger:notice("partisan: partisan_peer_service:stop: ~0tp", [Reason]),
    init:stop().
