%% Names and addresses: what the carrier asks of epmd modules, node names and kernel options about
%% the way to a peer.
-module(partisan_dist_addr).

-include_lib("kernel/include/logger.hrl").
-include_lib("kernel/include/net_address.hrl").

-export([epmd/2, register_node/3]).
-export([select/2, is_node_name/1, resolve/3, peer_address/3]).
-export([hint/2]).
-export([local_address/2, allowed_ip/2]).
-export([hide_peer/2]).
-export([connect_options/0, setup_time/0, setopts/2, forced/2]).

-type driver() :: inet_tcp | inet6_tcp.
-export_type([driver/0]).

%% ------------------------------------------------------------------------------------------------
%% Discovery

%% Calls the node's epmd module, or erl_epmd where that one does not have the function.
-spec epmd(atom(), [term()]) -> term().
epmd(Function, Args) ->
    Module = net_kernel:epmd_module(),
    _ = code:ensure_loaded(Module),
    case erlang:function_exported(Module, Function, length(Args)) of
        true -> apply(Module, Function, Args);
        false -> apply(erl_epmd, Function, Args)
    end.

%% register_node/2 is what epmd modules of before OTP 19 have.
-spec register_node(atom(), inet:port_number(), driver()) -> {ok, integer()} | {error, term()}.
register_node(Name, Port, Driver) ->
    Module = net_kernel:epmd_module(),
    _ = code:ensure_loaded(Module),
    case erlang:function_exported(Module, register_node, 3)
        orelse not erlang:function_exported(Module, register_node, 2) of
        true -> epmd(register_node, [Name, Port, Driver]);
        false -> Module:register_node(Name, Port)
    end.

%% Whether this carrier can reach Node: its host has an address of the family.
-spec select(driver(), node()) -> boolean().
select(Driver, Node) ->
    case split(Node) of
        {Name, Host} ->
            case epmd(address_please, [Name, Host, Driver:family()]) of
                {ok, _Ip} -> true;
                {ok, _Ip, _Port, _Version} -> true;
                _ -> hinted(Driver, Node) =/= error
            end;
        error ->
            false
    end.

-spec is_node_name(term()) -> boolean().
is_node_name(Node) when is_atom(Node) -> split(Node) =/= error;
is_node_name(_) -> false.

%% Where Node listens.
-spec resolve(driver(), node(), longnames | shortnames) ->
          {ok, inet:ip_address(), inet:port_number(), Version :: term(), Host :: string()} | error.
resolve(Driver, Node, LongOrShort) ->
    case checked_split(Driver, Node, LongOrShort) of
        {Name, Host} ->
            case epmd(address_please, [Name, Host, Driver:family()]) of
                {ok, Ip, Port, Version} ->
                    {ok, Ip, Port, Version, Host};
                {ok, Ip} ->
                    case epmd(port_please, [Name, Ip]) of
                        {port, Port, Version} -> {ok, Ip, Port, Version, Host};
                        _ -> resolve_hinted(Driver, Node, Host)
                    end;
                _ ->
                    resolve_hinted(Driver, Node, Host)
            end;
        error ->
            error
    end.

%% Version 5 is what every release speaks that a carrier or a plain peer can run on.
resolve_hinted(Driver, Node, Host) ->
    case hinted(Driver, Node) of
        {Ip, Port} -> {ok, Ip, Port, 5, Host};
        error -> error
    end.

hinted(Driver, Node) ->
    Size = case Driver:family() of
               inet -> 4;
               inet6 -> 8
           end,
    case [{Ip, Port} || {Ip, Port} <- partisan_dist_reg:hints(Node), tuple_size(Ip) =:= Size] of
        [First | _] -> First;
        [] -> error
    end.

%% Where Node listens, as somebody said: asked when the epmd module does not know. An address that
%% is wrong does no harm: the handshake checks the name.
-spec hint(node(), [#{ip := inet:ip_address(), port := inet:port_number()}]) -> ok.
hint(_Node, []) -> ok;
hint(Node, Addresses) ->
    partisan_dist_reg:hint(Node, [{Ip, Port} || #{ip := Ip, port := Port} <- Addresses,
                                                is_tuple(Ip), is_integer(Port)]).

%% A name of the kind (long, short) that this node does not use would only ever fail later, with
%% less to go by.
checked_split(Driver, Node, LongOrShort) ->
    case split(Node) of
        {Name, Host} ->
            Dotted = lists:member($., Host),
            if
                LongOrShort =:= shortnames, Dotted ->
                    ?LOG_ERROR("** System NOT running to use fully qualified hostnames **~n"
                               "** Hostname ~ts is illegal **", [Host]),
                    error;
                LongOrShort =:= longnames, not Dotted ->
                    %% An address without dots is an IPv6 one.
                    case Driver:parse_address(Host) of
                        {ok, _} ->
                            {Name, Host};
                        _ ->
                            ?LOG_ERROR("** System running to use fully qualified hostnames **~n"
                                       "** Hostname ~ts is illegal **", [Host]),
                            error
                    end;
                true ->
                    {Name, Host}
            end;
        error ->
            ?LOG_ERROR("** Nodename ~p illegal, not of the form name@host **", [Node]),
            error
    end.

split(Node) ->
    case string:split(atom_to_list(Node), "@", all) of
        [[_ | _] = Name, [_ | _] = Host] -> {Name, Host};
        _ -> error
    end.

%% ------------------------------------------------------------------------------------------------
%% #net_address{}

%% Of this node; Host is the node's own, or `undefined` to ask.
-spec local_address(driver(), string() | undefined) -> #net_address{}.
local_address(Driver, undefined) ->
    {ok, Host} = inet:gethostname(),
    local_address(Driver, Host);
local_address(Driver, Host) ->
    #net_address{host = Host, protocol = tcp, family = Driver:family()}.

%% Of the peer behind an accepted socket.
-spec peer_address(driver(), inet:socket(), node()) -> {ok, #net_address{}} | error.
peer_address(Driver, Socket, Node) ->
    case {inet:peername(Socket), split(Node)} of
        {{ok, Address}, {_Name, Host}} ->
            {ok, #net_address{address = Address, host = Host, protocol = tcp,
                              family = Driver:family()}};
        _ ->
            error
    end.

%% Of a further lane's socket, inet:peername/1 shall say port 0. Tools find the socket of a distribution
%% connection by the address that net_kernel:nodes_info/0 has, and do not expect several; the lanes
%% that a peer accepted all go to that one. Nothing but inet:peername/1 and inet:i/0 reads it.
%% prim_inet is internal to OTP: without the function the socket shows its true peer, and works.
-spec hide_peer(inet:socket(), inet:ip_address()) -> ok.
hide_peer(Socket, Ip) ->
    _ = try prim_inet:setpeername(Socket, {Ip, 0})
        catch error:_ -> error
        end,
    ok.

%% Option check_ip of kernel: only peers of a network that this host is part of.
-spec allowed_ip(driver(), inet:socket()) -> true | {false, term()}.
allowed_ip(Driver, Socket) ->
    case application:get_env(kernel, check_ip) of
        {ok, true} ->
            case {inet:peername(Socket), inet:getif(Socket)} of
                {{ok, {PeerIp, _}}, {ok, Interfaces}} ->
                    Same = fun({OwnIp, _Broadcast, Mask}) ->
                                   Driver:mask(Mask, PeerIp) =:= Driver:mask(Mask, OwnIp)
                           end,
                    lists:any(Same, Interfaces) orelse {false, PeerIp};
                {Peer, _} ->
                    {false, Peer}
            end;
        _ ->
            true
    end.

%% ------------------------------------------------------------------------------------------------
%% Kernel options

%% For the first connection to a peer and for its further lanes.
-spec connect_options() -> [term()].
connect_options() ->
    Given = case application:get_env(kernel, inet_dist_connect_options) of
                {ok, Options} -> Options;
                undefined -> []
            end,
    forced(Given, []).

%% Options by the user, then Extra, then those that the handshake needs to read exact lengths.
-spec forced([term()], [term()]) -> [term()].
forced(Given, Extra) ->
    Keys = [active, packet, header, mode, deliver, inet_backend | [Key || {Key, _} <- Extra]],
    [Option || Option <- Given, not is_forced(Option, Keys)]
        ++ Extra ++ [{active, false}, {packet, raw}, {mode, binary}].

is_forced({Key, _}, Keys) -> lists:member(Key, Keys);
is_forced(Option, _Keys) -> Option =:= binary orelse Option =:= list.

%% ms that a connection may take to set up, as net_kernel reckons.
-spec setup_time() -> pos_integer().
setup_time() ->
    case application:get_env(kernel, net_setuptime) of
        {ok, Seconds} when is_number(Seconds), Seconds >= 120 -> 120000;
        {ok, Seconds} when is_number(Seconds), Seconds > 0 -> round(Seconds * 1000);
        _ -> 7000
    end.

%% inet:setopts/2 without the options that would take the socket out of our hands.
-spec setopts(inet:socket(), [term()]) -> ok | {error, term()}.
setopts(Socket, Options) ->
    case [Option || {Key, _} = Option <- Options, lists:member(Key, [active, deliver, packet])] of
        [] -> inet:setopts(Socket, Options);
        Bad -> {error, {badopts, Bad}}
    end.
