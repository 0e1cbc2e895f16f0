%% The listening side: one port for nodes of every kind and for the further lanes of peers.
%%
%% The acceptor hands each socket to a process of its own (a *door*), which reads the first packet
%% and tells a node (net_kernel takes over) from a lane (partisan_dist_attach takes over) from
%% garbage (closed). A door lives until its connection is up, so the number of doors is the number
%% of half-open connections, and that is bounded: when it is reached, the oldest door that has not
%% got its first packet yet is shut. (Rejected: always shutting the newest. A hundred idle
%% connections would then lock every peer out, while a peer sends its first packet at once.)
-module(partisan_dist_listen).

-export([listen/3, accept/2]).
-export([accept_loop/1, door/5, half_open/2]).
-export([connection_up/1, recv_packet/3, left/1, deadline/1]).

-include_lib("kernel/include/logger.hrl").
-include_lib("kernel/include/net_address.hrl").

-define(FIRST_PACKET_MAX, 4096).
%% ms; accepting is interrupted now and then so that the acceptor moves on to new code
-define(ACCEPT_INTERVAL, 5000).
-define(BACK_OFF, 200).

-type state() :: #{driver := partisan_dist_addr:driver(), kernel := pid(), listen := inet:socket(),
                   next := non_neg_integer(),
                   doors := #{reference() => {Age :: non_neg_integer(), pid(), waiting | served}}}.

%% ------------------------------------------------------------------------------------------------
%% Listening

-spec listen(partisan_dist_addr:driver(), atom(), string()) ->
          {ok, {inet:socket(), #net_address{}, integer()}} | {error, term()}.
listen(Driver, Name, Host) ->
    case partisan_dist_reg:start_carrier() of
        ok ->
            preload(),
            case open(Driver, Name, Host) of
                {ok, Socket} -> register_node(Driver, Name, Host, Socket);
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% In interactive mode a module is loaded when first called, which takes a descriptor: the words for
%% having none must be there before, and what serves a connection.
preload() ->
    _ = text(emfile),
    Modules = [partisan_dist_hs, partisan_dist_hello, partisan_dist_conn, partisan_dist_lanes,
               partisan_dist_attach, partisan_dist_addr, partisan_dist_conf],
    lists:foreach(fun(Module) -> _ = code:ensure_loaded(Module) end, Modules).

open(Driver, Name, Host) ->
    {First, Last} = case partisan_dist_addr:epmd(listen_port_please, [Name, Host]) of
                        {ok, 0} -> port_range();
                        {ok, Port} -> {Port, Port}
                    end,
    open_one(Driver, First, Last, listen_options()).

open_one(_Driver, Port, Last, _Options) when Port > Last ->
    {error, eaddrinuse};
open_one(Driver, Port, Last, Options) ->
    case Driver:listen(Port, Options) of
        {error, eaddrinuse} -> open_one(Driver, Port + 1, Last, Options);
        Other -> Other
    end.

port_range() ->
    case {application:get_env(kernel, inet_dist_listen_min),
          application:get_env(kernel, inet_dist_listen_max)} of
        {{ok, Min}, {ok, Max}} when is_integer(Min), is_integer(Max) -> {Min, Max};
        {{ok, Min}, _} when is_integer(Min) -> {Min, Min};
        _ -> {0, 0}
    end.

listen_options() ->
    Given = case application:get_env(kernel, inet_dist_listen_options) of
                {ok, Options} -> Options;
                undefined -> []
            end,
    Interface = case application:get_env(kernel, inet_dist_use_interface) of
                    {ok, Ip} -> [{ip, Ip}];
                    undefined -> []
                end,
    Default = [Option || {Key, _} = Option <- [{reuseaddr, true}, {backlog, 128}],
                         not lists:keymember(Key, 1, Given)],
    Default ++ partisan_dist_addr:forced(Given, Interface).

register_node(Driver, Name, Host, Socket) ->
    {ok, {_, Port} = Address} = inet:sockname(Socket),
    case partisan_dist_addr:register_node(Name, Port, Driver) of
        {ok, Creation} ->
            Local = partisan_dist_addr:local_address(Driver, Host),
            {ok, {Socket, Local#net_address{address = Address}, Creation}};
        Error ->
            Driver:close(Socket),
            Error
    end.

%% ------------------------------------------------------------------------------------------------
%% The acceptor

-spec accept(partisan_dist_addr:driver(), inet:socket()) -> pid().
accept(Driver, Listen) ->
    State = #{driver => Driver, kernel => self(), listen => Listen, next => 0, doors => #{}},
    spawn_opt(?MODULE, accept_loop, [State], [link, {priority, max}]).

%% Called by its full name, and again before long, so that an upgrade finds nobody in old code.
-spec accept_loop(state()) -> no_return().
accept_loop(#{driver := Driver, listen := Listen} = State0) ->
    State = reap(State0),
    case Driver:accept(Listen, ?ACCEPT_INTERVAL) of
        {ok, Socket} ->
            _ = partisan_dist_reg:start_carrier(), % comes back if somebody killed it
            partisan_dist_reg:count(accepted),
            ?MODULE:accept_loop(admit(Socket, reap(State)));
        {error, timeout} ->
            ?MODULE:accept_loop(State);
        {error, closed} ->
            exit({error, closed});
        {error, Reason} when Reason =:= einval; Reason =:= ebadf; Reason =:= enotsock ->
            exit({error, Reason});
        {error, Reason} ->
            %% emfile, enfile, enobufs, enomem, system_limit pass when something is closed;
            %% econnaborted and its like concern one connection. Waiting a little keeps the first
            %% kind from eating a scheduler.
            partisan_dist_reg:count(accept_errors),
            partisan_dist_reg:log_limited(
              accept, warning, "partisan: cannot accept a connection: ~ts; trying again",
              [text(Reason)]),
            receive after ?BACK_OFF -> ok end,
            ?MODULE:accept_loop(State)
    end.

text(Reason) ->
    case inet:format_error(Reason) of
        "unknown POSIX" ++ _ -> atom_to_list(Reason);
        Text -> Text
    end.

%% Takes note of doors that closed or got their first packet. Bounded: a door sends two messages.
reap(#{doors := Doors} = State) ->
    receive
        {'DOWN', Ref, process, _, _} when is_map_key(Ref, Doors) ->
            reap(State#{doors := maps:remove(Ref, Doors)});
        {served, Pid} ->
            reap(State#{doors := maps:map(fun(_, {Age, P, _}) when P =:= Pid -> {Age, P, served};
                                             (_, Door) -> Door
                                          end, Doors)})
    after 0 ->
            State
    end.

admit(Socket, #{driver := Driver, doors := Doors} = State) ->
    Max = partisan_dist_conf:get(max_half_open),
    case map_size(Doors) < Max of
        true ->
            open_door(Socket, State);
        false ->
            partisan_dist_reg:count(evicted),
            partisan_dist_reg:log_limited(
              half_open, warning, "partisan: ~b half-open connections, more than option "
              "max_half_open allows: closing one", [Max + 1]),
            Silent = [{Age, Pid, Ref} || {Ref, {Age, Pid, waiting}} <- maps:to_list(Doors)],
            case lists:sort(Silent) of
                [{_Age, Pid, Ref} | _] ->
                    erlang:demonitor(Ref, [flush]),
                    exit(Pid, kill), % its socket goes with it
                    open_door(Socket, State#{doors := maps:remove(Ref, Doors)});
                [] ->
                    %% All are in the middle of a handshake: the new one has to try again.
                    Driver:close(Socket),
                    State
            end
    end.

open_door(Socket, #{driver := Driver, kernel := Kernel, next := Age, doors := Doors} = State) ->
    Deadline = deadline(partisan_dist_addr:setup_time()),
    {Pid, Ref} = spawn_opt(?MODULE, door, [Driver, Kernel, self(), Socket, Deadline],
                           [monitor, {priority, high}]),
    _ = case Driver:controlling_process(Socket, Pid) of
            ok -> Pid ! {self(), socket};
            {error, _} -> Driver:close(Socket), exit(Pid, kill)
        end,
    State#{next := Age + 1, doors := Doors#{Ref => {Age, Pid, waiting}}}.

%% ------------------------------------------------------------------------------------------------
%% A door

door(Driver, Kernel, Acceptor, Socket, Deadline) ->
    AcceptorRef = erlang:monitor(process, Acceptor),
    receive
        {Acceptor, socket} -> ok;
        {'DOWN', AcceptorRef, process, _, _} -> exit(normal)
    end,
    erlang:demonitor(AcceptorRef, [flush]),
    First = recv_packet(Driver, Socket, Deadline),
    Acceptor ! {served, self()},
    case First of
        {ok, <<Tag, _/binary>> = Packet} when Tag =:= $N; Tag =:= $n ->
            partisan_dist_reg:count(nodes),
            node_knocks(Driver, Kernel, Socket, Packet);
        {ok, Packet} ->
            case partisan_dist_attach:is_attach(Packet) of
                true -> partisan_dist_attach:accept(Driver, Socket, Packet, Deadline);
                false -> garbage(Driver, Socket, "an unknown first packet")
            end;
        {error, {too_long, _}} ->
            garbage(Driver, Socket, "no distribution packet");
        {error, _} ->
            %% Closed or silent: port scanners, health checks of load balancers.
            partisan_dist_reg:count(silent),
            Driver:close(Socket)
    end.

garbage(Driver, Socket, What) ->
    partisan_dist_reg:count(garbage),
    Peer = case inet:peername(Socket) of
               {ok, {Ip, Port}} -> io_lib:format("~s port ~b", [inet:ntoa(Ip), Port]);
               {error, _} -> "an unknown address"
           end,
    partisan_dist_reg:log_limited(garbage, notice,
                                  "partisan: closed a connection from ~s: it sent ~s",
                                  [Peer, What]),
    Driver:close(Socket).

%% net_kernel knows this process as the one that accepted, and answers with the process that does
%% the handshake (partisan_dist_hs).
node_knocks(Driver, Kernel, Socket, Packet) ->
    KernelRef = erlang:monitor(process, Kernel),
    Kernel ! {accept, self(), {Socket, Packet}, Driver:family(), tcp},
    receive
        {Kernel, controller, Pid} ->
            erlang:demonitor(KernelRef, [flush]),
            Ref = erlang:monitor(process, Pid),
            %% If this fails the socket is closed, and the handshake finds out.
            _ = Driver:controlling_process(Socket, Pid),
            Pid ! {self(), controller},
            ?MODULE:half_open(Pid, Ref);
        {Kernel, unsupported_protocol} ->
            Driver:close(Socket);
        {'DOWN', KernelRef, process, _, _} ->
            Driver:close(Socket)
    end.

%% The handshake has a timer of its own; only the count needs us.
half_open(Pid, Ref) ->
    receive
        {connection_up, Pid} -> ok;
        {'DOWN', Ref, process, _, _} -> ok
    end.

%% The handshake's process tells its door that the connection is no longer half open.
-spec connection_up(Door :: pid()) -> ok.
connection_up(Door) ->
    Door ! {connection_up, self()},
    ok.

%% ------------------------------------------------------------------------------------------------
%% Packets before the connection is up: a 2-byte length, then the body. Nothing beyond is read.

-spec recv_packet(partisan_dist_addr:driver(), inet:socket(), Deadline :: integer()) ->
          {ok, binary()} | {error, term()}.
recv_packet(Driver, Socket, Deadline) ->
    case Driver:recv(Socket, 2, left(Deadline)) of
        {ok, <<Length:16>>} when Length > 0, Length =< ?FIRST_PACKET_MAX ->
            Driver:recv(Socket, Length, left(Deadline));
        {ok, <<Length:16>>} ->
            {error, {too_long, Length}};
        {error, _} = Error ->
            Error
    end.

-spec deadline(non_neg_integer()) -> integer().
deadline(Ms) -> erlang:monotonic_time(millisecond) + Ms.

-spec left(integer()) -> non_neg_integer().
left(Deadline) -> max(0, Deadline - erlang:monotonic_time(millisecond)).
