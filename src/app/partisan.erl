%% Partisan's API: what `erlang`, `net_kernel` and gen_* offer, over named channels, with native and
%% encoded references (partisan_remote_ref) accepted alike. docs/api.md is for those who use it.
-module(partisan).

-export([start/0, stop/0]).
%% erlang's counterparts
-export([self/0, self/1, make_ref/0, node/0, node/1, nodes/0, nodes/1, nodestring/0, is_alive/0]).
-export([send/2, send/3, send_after/3, send_after/4, cancel_timer/1, cancel_timer/2]).
-export([monitor/1, monitor/2, monitor/3, demonitor/1, demonitor/2]).
-export([monitor_node/2, monitor_node/3, monitor_nodes/1, monitor_nodes/2, disconnect_node/1]).
-export([spawn/2, spawn/4, spawn_monitor/2, spawn_monitor/4, exit/2, whereis/1,
         is_process_alive/1, process_info/1, process_info/2]).
-export([is_pid/1, is_reference/1, is_local/1, is_local_pid/1, is_local_pid/2, is_local_name/1,
         is_local_name/2, is_local_reference/1, is_local_reference/2, is_self/1]).
%% Partisan's own
-export([forward_message/2, forward_message/3, forward_message/4]).
-export([cast_message/2, cast_message/3, cast_message/4]).
-export([broadcast/2, join/1, leave/0, topology/0, topology/1]).
-export([overlay/0, set_overlay/1]).
-export([node_spec/0, node_spec/1, node_spec/2, is_connected/1, is_connected/2,
         is_fully_connected/1, kill_connections/1, channel_opts/1, default_channel/0]).

-export_type([actor/0, channel/0, channel_opts/0, listen_addr/0, node_spec/0, node_type/0,
              message/0, server_ref/0, forward_opts/0, monitor_opt/0, monitor_nodes_opt/0,
              demonitor_opt/0, any_pid/0, any_reference/0, any_name/0, remote_pid/0,
              remote_reference/0, remote_name/0]).

-compile({no_auto_import, [self/0, make_ref/0, node/0, node/1, nodes/0, nodes/1, is_alive/0,
                           send/2, send/3, send_after/3, send_after/4, cancel_timer/1,
                           cancel_timer/2, monitor/1, monitor/2, monitor/3, demonitor/1,
                           demonitor/2, monitor_node/2, monitor_node/3, disconnect_node/1, spawn/2,
                           spawn/4, spawn_monitor/2, spawn_monitor/4, exit/2, whereis/1,
                           is_process_alive/1, process_info/1, process_info/2, is_pid/1,
                           is_reference/1]}).

-type actor() :: binary().
-type channel() :: atom().
-type channel_opts() :: #{parallelism := pos_integer(), monotonic => boolean(),
                          compression => boolean() | 0..9, atom() => term()}.
-type listen_addr() :: #{ip := inet:ip_address(), port := inet:port_number()}.
-type node_spec() :: #{name := node(), listen_addrs := [listen_addr()],
                       channels := #{channel() => channel_opts()}}.
-type node_type() :: this | known | visible | connected | hidden.
-type message() :: term().
-type remote_pid() :: partisan_remote_ref:p().
-type remote_reference() :: partisan_remote_ref:r().
-type remote_name() :: partisan_remote_ref:n().
-type any_pid() :: pid() | remote_pid().
-type any_reference() :: reference() | remote_reference().
-type any_name() :: atom() | remote_name().
-type server_ref() :: partisan_send:server_ref().
-type forward_opts() :: partisan_send:options().
-type monitor_opt() :: {tag, term()} | {alias, explicit_unalias | demonitor | reply_demonitor} |
                       {channel, channel()}.
-type demonitor_opt() :: flush | info.
-type monitor_nodes_opt() :: nodedown_reason | connection_id | {node_type, visible | hidden | all} |
                             {channel, channel()} | {channel_fallback, boolean()}.

-define(ASK_MS, 5000).

%% ------------------------------------------------------------------------------------------------
%% The application

-spec start() -> {ok, [atom()]} | {error, term()}.
start() -> application:ensure_all_started(partisan).

-spec stop() -> ok | {error, term()}.
stop() -> application:stop(partisan).

%% The application runs.
-spec is_alive() -> boolean().
is_alive() -> partisan_app:running().

%% ------------------------------------------------------------------------------------------------
%% Names and references

%% Encoded, unless the option `pid_encoding` is false.
-spec self() -> any_pid().
self() ->
    case partisan_config:get(pid_encoding, true) of
        true -> partisan_remote_ref:from_term(erlang:self());
        false -> erlang:self()
    end.

%% `cache` is taken for compatibility: encoding is cheap here.
-spec self([cache]) -> any_pid().
self(Opts) when is_list(Opts) -> self().

%% Encoded, unless the option `ref_encoding` is false.
-spec make_ref() -> any_reference().
make_ref() ->
    case partisan_config:get(ref_encoding, true) of
        true -> partisan_remote_ref:from_term(erlang:make_ref());
        false -> erlang:make_ref()
    end.

-spec node() -> node().
node() -> erlang:node().

-spec node(any_pid() | any_reference() | port() | remote_name()) -> node().
node(Port) when is_port(Port) -> erlang:node(Port);
node(Name) when is_atom(Name) -> error(badarg, [Name]);
node(Ref) -> partisan_remote_ref:node(Ref).

-spec nodestring() -> binary().
nodestring() -> atom_to_binary(erlang:node(), utf8).

-spec nodes() -> [node()].
nodes() -> nodes(visible).

%% `known` are the members, connected or not.
-spec nodes(node_type() | [node_type()]) -> [node()].
nodes(Types) when is_list(Types) -> lists:usort(lists:append([nodes(Type) || Type <- Types]));
nodes(this) -> [erlang:node()];
nodes(hidden) -> [];
nodes(Type) when Type =:= visible; Type =:= connected -> partisan_transport:connected();
nodes(known) ->
    {ok, Members} = partisan_peer_service:members(),
    lists:usort(Members);
nodes(Other) -> error(badarg, [Other]).

-spec is_pid(term()) -> boolean().
is_pid(Term) -> partisan_remote_ref:is_pid(Term).

-spec is_reference(term()) -> boolean().
is_reference(Term) -> partisan_remote_ref:is_reference(Term).

-spec is_local(any_pid() | any_reference() | remote_name()) -> boolean().
is_local(Ref) -> node(Ref) =:= erlang:node().

-spec is_local_pid(term()) -> boolean().
is_local_pid(Term) -> partisan_remote_ref:is_local_pid(Term).

-spec is_local_pid(term(), pid()) -> boolean().
is_local_pid(Term, Pid) -> partisan_remote_ref:is_local_pid(Term, Pid).

-spec is_local_name(term()) -> boolean().
is_local_name(Term) -> partisan_remote_ref:is_local_name(Term).

-spec is_local_name(term(), atom()) -> boolean().
is_local_name(Term, Name) -> partisan_remote_ref:is_local_name(Term, Name).

-spec is_local_reference(term()) -> boolean().
is_local_reference(Term) -> partisan_remote_ref:is_local_reference(Term).

-spec is_local_reference(term(), reference()) -> boolean().
is_local_reference(Term, Ref) -> partisan_remote_ref:is_local_reference(Term, Ref).

-spec is_self(term()) -> boolean().
is_self(Term) -> partisan_remote_ref:is_local_pid(Term, erlang:self()).

%% ------------------------------------------------------------------------------------------------
%% Messages

-spec forward_message(server_ref(), message()) -> partisan_send:result().
forward_message(Dest, Msg) -> partisan_send:forward(Dest, Msg).

-spec forward_message(server_ref(), message(), forward_opts()) -> partisan_send:result().
forward_message(Dest, Msg, Opts) -> partisan_send:forward(Dest, Msg, Opts).

-spec forward_message(node(), server_ref(), message(), forward_opts()) -> partisan_send:result().
forward_message(Node, Dest, Msg, Opts) -> partisan_send:forward(Node, Dest, Msg, Opts).

%% To a gen_server; whether it left is not told, as with gen_server:cast/2.
-spec cast_message(server_ref(), message()) -> ok.
cast_message(Dest, Msg) -> cast_message(Dest, Msg, #{}).

-spec cast_message(server_ref(), message(), forward_opts()) -> ok.
cast_message(Dest, Msg, Opts) ->
    _ = partisan_send:cast(Dest, Msg, Opts),
    ok.

-spec cast_message(node(), server_ref(), message(), forward_opts()) -> ok.
cast_message(Node, Dest, Msg, Opts) ->
    _ = partisan_send:cast(Node, Dest, Msg, Opts),
    ok.

-spec send(server_ref(), message()) -> message().
send(Dest, Msg) ->
    ok = send(Dest, Msg, []),
    Msg.

%% As forward_message/3; with `nosuspend` and `noconnect` it answers as erlang:send/3 does.
-spec send(server_ref(), message(), forward_opts()) ->
          ok | nosuspend | noconnect | {error, term()}.
send(Dest, Msg, Opts) ->
    case partisan_send:forward(Dest, Msg, Opts) of
        ok -> ok;
        {error, busy} -> nosuspend;
        {error, Reason} = Error when Reason =:= not_yet_connected; Reason =:= disconnected ->
            case partisan_send:options(Opts) of
                #{noconnect := true} -> noconnect;
                _ -> Error
            end;
        {error, _} = Error -> Error
    end.

-spec send_after(non_neg_integer(), server_ref(), message()) -> reference().
send_after(Time, Dest, Msg) -> partisan_timer:send_after(Time, Dest, Msg, []).

%% Option {abs, boolean()} as in erlang:send_after/4, the others as in forward_message/3.
-spec send_after(integer(), server_ref(), message(), forward_opts()) -> reference().
send_after(Time, Dest, Msg, Opts) -> partisan_timer:send_after(Time, Dest, Msg, Opts).

-spec cancel_timer(any_reference()) -> non_neg_integer() | false.
cancel_timer(Ref) -> erlang:cancel_timer(partisan_remote_ref:to_reference(Ref)).

-spec cancel_timer(any_reference(), [{async | info, boolean()}]) -> non_neg_integer() | false | ok.
cancel_timer(Ref, Opts) -> erlang:cancel_timer(partisan_remote_ref:to_reference(Ref), Opts).

-spec broadcast(term(), module()) -> ok.
broadcast(Msg, Mod) -> partisan_plumtree_broadcast:broadcast(Msg, Mod).

%% Who has links with whom; a picture of it is partisan_view:svg/1.
-spec topology() -> {ok, partisan_topology:t()} | {error, notalive}.
topology() -> partisan_topology:read().

%% The same with options: `all` asks every member, so that a picture shows lanes and traffic of all links
%% and the whole broadcast tree.
-spec topology(partisan_topology:options()) -> {ok, partisan_topology:t()} | {error, notalive}.
topology(Options) -> partisan_topology:read(Options).

%% ------------------------------------------------------------------------------------------------
%% Monitors: native references, see partisan_monitor

-spec monitor(server_ref()) -> reference().
monitor(Item) -> monitor(process, Item, []).

-spec monitor(process | port | time_offset, term()) -> reference().
monitor(Type, Item) -> monitor(Type, Item, []).

-spec monitor(process | port | time_offset, term(), [monitor_opt()]) -> reference().
monitor(process, Item, Opts) -> partisan_monitor:monitor(Item, Opts);
monitor(port, Item, Opts) -> erlang:monitor(port, Item, partisan_monitor:erlang_options(Opts));
monitor(time_offset, Item, Opts) ->
    erlang:monitor(time_offset, Item, partisan_monitor:erlang_options(Opts));
monitor(Type, Item, Opts) -> error(badarg, [Type, Item, Opts]).

-spec demonitor(any_reference()) -> true.
demonitor(Ref) -> erlang:demonitor(partisan_remote_ref:to_reference(Ref)).

-spec demonitor(any_reference(), [demonitor_opt()]) -> boolean().
demonitor(Ref, Opts) -> erlang:demonitor(partisan_remote_ref:to_reference(Ref), Opts).

-spec monitor_node(node() | node_spec(), boolean()) -> true.
monitor_node(Node, Flag) -> monitor_node(Node, Flag, []).

-spec monitor_node(node() | node_spec(), boolean(), list()) -> true.
monitor_node(Node, Flag, _Opts) -> partisan_monitor:monitor_node(name(Node), Flag).

-spec monitor_nodes(boolean()) -> ok | {error, notalive | badarg}.
monitor_nodes(Flag) -> monitor_nodes(Flag, []).

-spec monitor_nodes(boolean(), [monitor_nodes_opt()]) -> ok | {error, notalive | badarg}.
monitor_nodes(Flag, Opts) -> partisan_monitor:monitor_nodes(Flag, Opts).

%% Takes the node out of the membership, as in Partisan, and closes the connection with it behind
%% what was sent; erlang:disconnect_node/1 cuts a connection of nodes that stay members.
-spec disconnect_node(node()) -> boolean().
disconnect_node(Node) ->
    case partisan_manager:part(Node) of
        ok -> true;
        {error, _} -> false
    end.

%% ------------------------------------------------------------------------------------------------
%% Processes

-spec spawn(node(), fun(() -> term())) -> any_pid().
spawn(Node, Fun) -> outside(Node, erlang:spawn(Node, Fun)).

-spec spawn(node(), module(), atom(), [term()]) -> any_pid().
spawn(Node, M, F, A) -> outside(Node, erlang:spawn(Node, M, F, A)).

%% The reference is native: it is the one in the 'DOWN' message.
-spec spawn_monitor(node(), fun(() -> term())) -> {any_pid(), reference()}.
spawn_monitor(Node, Fun) ->
    {Pid, Ref} = erlang:spawn_monitor(Node, Fun),
    {outside(Node, Pid), Ref}.

-spec spawn_monitor(node(), module(), atom(), [term()]) -> {any_pid(), reference()}.
spawn_monitor(Node, M, F, A) ->
    {Pid, Ref} = erlang:spawn_monitor(Node, M, F, A),
    {outside(Node, Pid), Ref}.

outside(Node, Pid) when Node =:= erlang:node() -> Pid;
outside(_Node, Pid) ->
    case partisan_config:get(pid_encoding, true) of
        true -> partisan_remote_ref:from_term(Pid);
        false -> Pid
    end.

-spec exit(any_pid() | any_name(), term()) -> true.
exit(Pid, Reason) when erlang:is_pid(Pid) -> erlang:exit(Pid, Reason);
exit(Ref, Reason) ->
    case partisan_remote_ref:to_pid_or_name(Ref) of
        Pid when erlang:is_pid(Pid) -> erlang:exit(Pid, Reason);
        Name when is_atom(Name) -> erlang:exit(erlang:whereis(Name), Reason);
        {Name, Node} ->
            case ask(Node, erlang, whereis, [Name]) of
                {ok, Pid} when erlang:is_pid(Pid) -> erlang:exit(Pid, Reason);
                _ -> true
            end
    end.

%% A name on another node is asked for there; an error with the reason if that cannot be done.
-spec whereis(any_name() | {atom(), node()}) -> pid() | port() | undefined.
whereis(Name) when is_atom(Name) -> erlang:whereis(Name);
whereis(Ref) ->
    Name = partisan_remote_ref:to_name(Ref),
    case partisan_remote_ref:node(Ref) of
        Node when Node =:= erlang:node() -> erlang:whereis(Name);
        Node -> answer(ask(Node, erlang, whereis, [Name]))
    end.

-spec is_process_alive(any_pid()) -> boolean().
is_process_alive(Ref) ->
    Pid = partisan_remote_ref:to_pid(Ref),
    case erlang:node(Pid) of
        Node when Node =:= erlang:node() -> erlang:is_process_alive(Pid);
        Node -> answer(ask(Node, erlang, is_process_alive, [Pid]))
    end.

%% Of local processes only, as erlang:process_info/1.
-spec process_info(any_pid()) -> [tuple()] | undefined.
process_info(Ref) -> erlang:process_info(partisan_remote_ref:to_pid(Ref)).

-spec process_info(any_pid(), atom() | [atom()]) -> term().
process_info(Ref, Items) -> erlang:process_info(partisan_remote_ref:to_pid(Ref), Items).

ask(Node, M, F, A) ->
    case partisan_rpc:call(Node, M, F, A, ?ASK_MS) of
        {badrpc, Reason} -> {error, Reason};
        Answer -> {ok, Answer}
    end.

answer({ok, Answer}) -> Answer;
answer({error, Reason}) -> error(Reason).

%% ------------------------------------------------------------------------------------------------
%% The cluster

-spec join(node_spec() | node() | string() | binary() | list()) -> ok | {error, term()}.
join(Node) -> partisan_peer_service:join(Node).

-spec leave() -> ok | {error, term()}.
leave() -> partisan_peer_service:leave().

%% The manager whose overlay runs.
-spec overlay() -> module().
overlay() -> partisan_peer_service:manager().

%% Moves all members that can be reached to another one, see docs/membership.md.
-spec set_overlay(module()) ->
          ok | {error, notalive | {bad_manager, node(), term()} | {unreached, [node()]}}.
set_overlay(Manager) -> partisan_overlay_switch:set(Manager).

-spec node_spec() -> node_spec().
node_spec() ->
    #{name => erlang:node(), listen_addrs => partisan_config:listen_addrs(),
      channels => partisan_config:channels()}.

-spec node_spec(node() | string() | binary()) -> {ok, node_spec()} | {error, term()}.
node_spec(Node) -> node_spec(Node, #{}).

%% Asks the node, for rpc_timeout ms (5000).
-spec node_spec(node() | string() | binary(), #{rpc_timeout => timeout()} | list()) ->
          {ok, node_spec()} | {error, term()}.
node_spec(Node, Opts) when is_list(Opts) -> node_spec(Node, proplists:to_map(Opts));
node_spec(Node, Opts) when is_map(Opts) ->
    case name(Node) of
        Name when Name =:= erlang:node() -> {ok, node_spec()};
        Name ->
            case partisan_rpc:call(Name, ?MODULE, node_spec, [],
                                   maps:get(rpc_timeout, Opts, ?ASK_MS)) of
                #{name := Name} = Spec -> {ok, Spec};
                {badrpc, Reason} -> {error, Reason}
            end
    end.

-spec is_connected(node() | node_spec()) -> boolean().
is_connected(Node) -> partisan_transport:connected(name(Node)).

%% Channels open when they are first used: any that is configured counts.
-spec is_connected(node() | node_spec(), channel() | [channel()]) -> boolean().
is_connected(Node, Channels) when is_list(Channels) ->
    is_connected(Node) andalso
        lists:all(fun(Channel) -> is_map_key(Channel, partisan_config:channels()) end, Channels);
is_connected(Node, Channel) ->
    is_connected(Node, [Channel]).

-spec is_fully_connected(node() | node_spec()) -> boolean().
is_fully_connected(Node) -> is_connected(Node).

%% Cuts the connections with these nodes; they stay members and are connected to again.
-spec kill_connections(node() | node_spec() | [node() | node_spec()]) -> ok.
kill_connections(Nodes) when is_list(Nodes) ->
    _ = [erlang:disconnect_node(name(Node)) || Node <- Nodes],
    ok;
kill_connections(Node) ->
    kill_connections([Node]).

%% badarg for a channel that is not configured.
-spec channel_opts(channel()) -> channel_opts().
channel_opts(Channel) -> partisan_config:channel_opts(Channel).

-spec default_channel() -> channel().
default_channel() -> partisan_config:default_channel().

name(Node) when is_atom(Node) -> Node;
name(#{name := Node}) when is_atom(Node) -> Node;
name(Node) when is_binary(Node) -> binary_to_atom(Node, utf8);
name([C | _] = Node) when is_integer(C) -> list_to_atom(Node);
name(Other) -> error(badarg, [Other]).
