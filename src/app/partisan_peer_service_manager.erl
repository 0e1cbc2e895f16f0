%% The behaviour of a manager, and what Partisan's users call in this module.
%%
%% To write an overlay, write a core (partisan_overlay); a manager only names it.
-module(partisan_peer_service_manager).

-export([mynode/0, myself/0, connect/1, connect/2, disconnect/1, deliver/2, send_message/2,
         supports_capability/2]).

-export_type([server_ref/0, forward_opts/0, on_event_fun/0, partitions/0]).

-type spec() :: partisan_node_spec:t().
-type server_ref() :: partisan_send:server_ref().
-type forward_opts() :: partisan_send:options().
-type on_event_fun() :: partisan_peer_watch:callback().
-type which() :: node() | spec() | any | '_'.
-type partitions() :: [{reference(), spec()}].

-callback start_link() -> {ok, pid()} | ignore | {error, term()}.
%% The core that partisan_overlay_shell runs. A manager that has its own way of running leaves it
%% out.
-callback overlay() -> partisan_overlay_shell:setup().
-callback members() -> {ok, [node()]} | {error, notalive}.
-callback members_for_orchestration() -> {ok, [spec()]} | {error, notalive}.
-callback update_members([term()]) -> ok | {error, term()}.
-callback get_local_state() -> {ok, term()} | {error, notalive}.
-callback on_up(which(), on_event_fun()) -> ok | {error, not_implemented}.
-callback on_up(which(), on_event_fun(), map()) -> ok | {error, not_implemented}.
-callback on_down(which(), on_event_fun()) -> ok | {error, not_implemented}.
-callback on_down(which(), on_event_fun(), map()) -> ok | {error, not_implemented}.
-callback join(term()) -> ok | {error, term()}.
-callback sync_join(term()) -> ok | {error, term()}.
-callback leave() -> ok | {error, term()}.
-callback leave(term()) -> ok | {error, term()}.
-callback send_message(node(), term()) -> ok | {error, term()}.
-callback receive_message(node(), partisan_channel:channel(), term()) -> ok.
-callback decode(term()) -> [node()].
-callback reserve(term()) -> ok | {error, no_available_slots}.
-callback cast_message(server_ref(), term()) -> ok | {error, term()}.
-callback cast_message(term(), term(), term()) -> ok | {error, term()}.
-callback cast_message(node(), term(), term(), term()) -> ok | {error, term()}.
-callback forward_message(server_ref(), term()) -> ok | {error, term()}.
-callback forward_message(term(), term(), term()) -> ok | {error, term()}.
-callback forward_message(node(), term(), term(), term()) -> ok | {error, term()}.
%% A message to a node that is no neighbour.
-callback relay_message(node(), server_ref(), term(), map()) -> ok | {error, term()}.
-callback supports_capability(atom()) -> boolean().
-callback partitions() -> {ok, partitions()} | {error, not_implemented}.
-callback inject_partition(spec(), integer()) -> {ok, reference()} | {error, not_implemented}.
-callback resolve_partition(reference()) -> ok | {error, not_implemented}.

-optional_callbacks([overlay/0, on_up/3, on_down/3, supports_capability/1, relay_message/4]).

-spec mynode() -> node().
mynode() -> node().

%% This node's spec.
-spec myself() -> spec().
myself() -> partisan_node_spec:own().

%% A connection, without a join. `ok` says that it is there.
-spec connect(spec() | node()) -> ok | {error, term()}.
connect(Node) ->
    case partisan_node_spec:from(Node) of
        {ok, Spec} -> partisan_manager:reach(Spec);
        {error, _} = Error -> Error
    end.

%% With `prune => true`, the answer also lists specs of which nothing is left to connect to: none,
%% since a node's name has one spec here.
-spec connect(spec() | node(), #{prune => boolean()}) -> ok | {ok, [spec()]} | {error, term()}.
connect(Node, #{prune := true}) ->
    case connect(Node) of
        ok -> {ok, []};
        {error, _} = Error -> Error
    end;
connect(Node, _Opts) ->
    connect(Node).

%% Cuts the connections; members are connected again before long.
-spec disconnect([spec() | node()]) -> ok.
disconnect(Nodes) ->
    lists:foreach(fun(Node) -> erlang:disconnect_node(partisan_node_spec:name(Node)) end, Nodes).

%% To a process of this node.
-spec deliver(server_ref(), term()) -> ok.
deliver(Dest, Message) -> partisan_send:deliver(Dest, Message).

%% Message to the manager of another node.
-spec send_message(node(), term()) -> ok | {error, term()}.
send_message(Node, Message) -> partisan_manager:send_message(Node, Message).

-spec supports_capability(module(), atom()) -> boolean().
supports_capability(Manager, Capability) ->
    _ = code:ensure_loaded(Manager),
    erlang:function_exported(Manager, supports_capability, 1)
        andalso Manager:supports_capability(Capability).
