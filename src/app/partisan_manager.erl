%% What managers share: Partisan's functions on top of the overlay's shell.
-module(partisan_manager).

-export([members/0, member/1, members_for_orchestration/0, get_local_state/0, update_members/1]).
-export([connections/0, connections_dict/0]).
-export([on/4, join/1, sync_join/1, leave/0, leave/1, part/1, reserve/1, reach/1]).
-export([send_message/2, receive_message/3, decode/1, relay_message/4, supports_capability/1]).
-export([partial/1]).
-export([full_options/0, static_options/0, client_server_options/0]).

-include("partisan.hrl").
-include_lib("kernel/include/logger.hrl").

-type spec() :: partisan_node_spec:t().

-define(SYNC_MS, 60000).

%% ------------------------------------------------------------------------------------------------
%% Members

-spec members() -> {ok, [node()]} | {error, notalive}.
members() ->
    case partisan_overlay_shell:members() of
        {ok, Specs} -> {ok, decode(Specs)};
        {error, _} = Error -> Error
    end.

-spec member(node() | spec()) -> boolean().
member(Node) ->
    case members() of
        {ok, Names} -> lists:member(partisan_node_spec:name(Node), Names);
        {error, _} -> false
    end.

-spec members_for_orchestration() -> {ok, [spec()]} | {error, notalive}.
members_for_orchestration() ->
    partisan_overlay_shell:members().

-spec get_local_state() -> {ok, [spec()]} | {error, notalive}.
get_local_state() ->
    partisan_overlay_shell:members().

%% Names in what get_local_state/0 and callbacks of partisan_peer_service_events have.
-spec decode([spec()]) -> [node()].
decode(Specs) ->
    [Name || #{name := Name} <- Specs].

%% These and this node are the members, nobody else. All or none: one bad spec, and nothing is done.
-spec update_members([term()]) -> ok | {error, term()}.
update_members(Nodes) ->
    case specs(Nodes) of
        {ok, Specs} -> alive(fun() -> partisan_overlay_shell:call({update, Specs}, infinity) end);
        {error, _} = Error -> Error
    end.

%% ------------------------------------------------------------------------------------------------
%% Connections

%% An entry for each neighbour and channel.
-spec connections() -> {ok, [#partisan_peer_connection{}]} | {error, notalive}.
connections() ->
    case partisan_overlay_shell:members() of
        {ok, Specs} ->
            {ok, Neighbours} = partisan_overlay_shell:neighbours(),
            {ok, lists:append([of_node(Name, address(Name, Specs)) || Name <- Neighbours])};
        {error, _} = Error ->
            Error
    end.

of_node(Node, Address) ->
    Channels = lists:usort([partisan_config:default_channel()
                            | maps:keys(partisan_channel:info(Node))]),
    [#partisan_peer_connection{pid = controller(Node), node = Node, channel = Channel,
                               listen_addr = Address, timestamp = undefined}
     || Channel <- Channels].

%% The port or process that carries the connection.
controller(Node) ->
    proplists:get_value(Node, erlang:system_info(dist_ctrl)).

address(Node, Specs) ->
    case [Address || #{name := Name, listen_addrs := [Address | _]} <- Specs, Name =:= Node] of
        [Address | _] -> Address;
        [] -> undefined
    end.

%% As up to Partisan 4: a dict, spec => [{Address, Channel, Controller}].
-spec connections_dict() -> {ok, dict:dict(spec(), [tuple()])} | {error, notalive}.
connections_dict() ->
    case partisan_overlay_shell:members() of
        {ok, Specs} ->
            {ok, Neighbours} = partisan_overlay_shell:neighbours(),
            {ok, dict:from_list([{Spec, [{Address, Channel, Pid}
                                         || #partisan_peer_connection{pid = Pid, channel = Channel,
                                                                      listen_addr = Address}
                                                <- of_node(Name, address(Name, Specs))]}
                                 || #{name := Name} = Spec <- Specs,
                                    lists:member(Name, Neighbours)])};
        {error, _} = Error ->
            Error
    end.

%% ------------------------------------------------------------------------------------------------
%% Callbacks

-spec on(up | down, term(), partisan_peer_watch:callback(), map()) -> ok | {error, notalive}.
on(What, Which, Fun, Opts)
  when is_function(Fun, 0); is_function(Fun, 1); is_function(Fun, 2) ->
    alive(fun() -> partisan_peer_watch:on(What, partisan_node_spec:name(Which), Fun, Opts) end);
on(What, Which, Fun, Opts) ->
    error(badarg, [What, Which, Fun, Opts]).

%% ------------------------------------------------------------------------------------------------
%% Joining and leaving

%% A spec, a node name, "host:port", or a list of them. `ok`: the join is under way, and is tried
%% again until it succeeds or the node leaves. A node given by name or address must answer now:
%% nothing else tells a wrong name from a node that is down.
-spec join(term()) -> ok | {error, term()}.
join(Node) ->
    each(Node, fun(Spec) -> join_one(Spec, Node) end).

%% Up to Partisan 4 a join with the own spec did nothing and said ok, and Riak Core relies on that.
%% Only specs of that time have `parallelism`.
join_one(#{name := Name}, #{parallelism := _}) when Name =:= node() ->
    ok;
join_one(#{name := Name}, _) when Name =:= node() ->
    {error, self_join};
join_one(Spec, Given) ->
    case is_map(Given) of
        true -> alive(fun() -> partisan_overlay_shell:join(Spec) end);
        false ->
            case alive(fun() -> reach(Spec) end) of
                ok -> alive(fun() -> partisan_overlay_shell:join(Spec) end);
                {error, _} = Error -> Error
            end
    end.

%% As join/1, and waits until the node is connected and the channels are open, up to a minute.
-spec sync_join(term()) -> ok | {error, term()}.
sync_join(Node) ->
    each(Node, fun(#{name := Name} = Spec) ->
                       case join_one(Spec, Node) of
                           ok when Name =:= node() -> ok;
                           ok -> connected(Name);
                           {error, _} = Error -> Error
                       end
               end).

connected(Name) ->
    case alive(fun() -> partisan_overlay_shell:await(Name, ?SYNC_MS) end) of
        ok -> partisan_peer_watch:open_channels(Name, maps:keys(partisan_config:channels()));
        {error, _} = Error -> Error
    end.

%% Connects, with the kind of connection that the overlay uses.
-spec reach(spec()) -> ok | {error, not_yet_connected}.
reach(#{name := Name} = Spec) ->
    partisan_dist_addr:hint(Name, maps:get(listen_addrs, Spec, [])),
    Connected = lists:member(Name, nodes(connected))
        orelse case kind() of
                   hidden -> net_kernel:hidden_connect_node(Name);
                   visible -> net_kernel:connect_node(Name)
               end,
    case Connected of
        true -> ok;
        _ -> {error, not_yet_connected}
    end.

kind() ->
    case partisan_overlay_shell:manager() of
        {ok, Manager} -> maps:get(links, Manager:overlay());
        {error, notalive} -> visible
    end.

%% The members are told; this node is its own only member when this returns. Connections: in the full
%% mesh they stay, in overlays with fewer links they are closed behind the message.
-spec leave() -> ok | {error, notalive}.
leave() ->
    alive(fun() -> partisan_overlay_shell:leave(node()) end).

%% Takes a node out. One that is no member: nothing happens.
-spec leave(term()) -> ok | {error, notalive}.
leave(Node) ->
    Name = partisan_node_spec:name(Node),
    alive(fun() -> partisan_overlay_shell:leave(Name) end).

%% As leave/1, and the connection is closed with every overlay.
-spec part(term()) -> ok | {error, notalive}.
part(Node) ->
    Name = partisan_node_spec:name(Node),
    alive(fun() ->
                  case Name =:= node() of
                      true -> partisan_overlay_shell:leave(Name);
                      false -> partisan_overlay_shell:part(Name)
                  end
          end).

-spec reserve(term()) -> ok | {error, term()}.
reserve(Tag) ->
    alive(fun() -> partisan_overlay_shell:call({reserve, Tag}, infinity) end).

%% ------------------------------------------------------------------------------------------------
%% Messages

%% To the manager on Node, which gets it in receive_message/3.
-spec send_message(node(), term()) -> ok | {error, not_yet_connected | disconnected}.
send_message(Node, Message) ->
    partisan_overlay_shell:send_to_manager(Node, Message).

%% What Partisan's managers say to each other that still means something.
-spec receive_message(node(), partisan_channel:channel(), term()) -> ok.
receive_message(_Node, _Channel, {forward_message, Dest, Message}) ->
    partisan_send:deliver(Dest, Message);
receive_message(_Node, _Channel, {forward_message, _Source, _Clock, _Key, Dest, Message, _Opts}) ->
    partisan_send:deliver(Dest, Message);
receive_message(_Node, _Channel, _Message) ->
    ok.

%% Through other nodes. Options that promise more than best effort are partisan_send's business.
-spec relay_message(node(), partisan_send:server_ref(), term(), map()) ->
          ok | {error, not_yet_connected | busy | timeout | system_limit}.
relay_message(Node, Dest, Message, Opts) ->
    partisan_relay:send(Node, Dest, Message, partisan_config:get(relay_ttl), Opts).

-spec supports_capability(atom()) -> boolean().
supports_capability(monitoring) -> true;
supports_capability(_) -> false.

%% ------------------------------------------------------------------------------------------------
%% Overlays that are no full mesh. Their links are hidden connections: `global` does not look at
%% those, so it neither connects everybody with everybody nor cuts nodes off that do not see all
%% others. What is left is what a plain send to a node without a link does, by option
%% direct_connect: `allow` lets Erlang connect, as always; `refuse` sets kernel's dist_auto_connect.

-spec partial(module()) -> ok.
partial(Manager) ->
    Auto = application:get_env(kernel, dist_auto_connect),
    case partisan_config:get(direct_connect) of
        refuse ->
            application:set_env(kernel, dist_auto_connect, never);
        allow when Auto =:= {ok, never}; Auto =:= {ok, once} ->
            ok;
        allow ->
            meshed() andalso
                ?LOG_NOTICE("partisan: ~ts links some nodes only, but a plain send to another node "
                            "opens a connection, and kernel's global then connects all nodes that "
                            "have such: set option direct_connect to refuse, or start the node with "
                            "-kernel connect_all false", [Manager]),
            ok
    end.

%% Whether global makes a full mesh of what it sees.
meshed() ->
    application:get_env(kernel, connect_all, true) =/= false
        andalso init:get_argument(connect_all) =/= {ok, [["false"]]}.

%% ------------------------------------------------------------------------------------------------
%% Options of the cores, from the application's

-spec full_options() -> partisan_overlay:config().
full_options() ->
    #{incarnation => erlang:system_time(microsecond),
      gossip_interval => partisan_config:get(periodic_interval),
      fanout => partisan_config:get(fanout),
      tombstone_keep => partisan_config:get(tombstone_keep),
      connection_interval => partisan_config:get(connection_interval)}.

-spec static_options() -> partisan_overlay:config().
static_options() ->
    Options = maps:with([peers], partisan_config:get(static, #{})),
    Base = #{connection_interval => partisan_config:get(connection_interval)},
    case specs(maps:get(peers, Options, [])) of
        {ok, Specs} -> Base#{peers => Specs};
        {error, _} -> maps:merge(Base, Options) % the core says what is wrong with it
    end.

-spec client_server_options() -> partisan_overlay:config().
client_server_options() ->
    (full_options())#{tag => partisan_config:get(tag)}.

%% ------------------------------------------------------------------------------------------------

%% Calls Fun with the spec of Node, or of each in a list; the first error ends it.
each(Node, Fun) ->
    case partisan_node_spec:from(Node) of
        {ok, Spec} ->
            Fun(Spec);
        {error, {bad_node_spec, Nodes}} when is_list(Nodes) ->
            lists:foldl(fun(One, ok) ->
                                case partisan_node_spec:from(One) of
                                    {ok, Spec} -> Fun(Spec);
                                    {error, _} = Error -> Error
                                end;
                           (_, Error) ->
                                Error
                        end, ok, Nodes);
        {error, _} = Error ->
            Error
    end.

specs(Nodes) when is_list(Nodes) ->
    lists:foldr(fun(Node, {ok, Specs}) ->
                        case partisan_node_spec:from(Node) of
                            {ok, Spec} -> {ok, [Spec | Specs]};
                            {error, _} = Error -> Error
                        end;
                   (_, Error) ->
                        Error
                end, {ok, []}, Nodes);
specs(Other) ->
    {error, {bad_node_spec, Other}}.

%% The calls of an application that does not run.
alive(Fun) ->
    try Fun()
    catch
        exit:{noproc, _} -> {error, notalive}
    end.
