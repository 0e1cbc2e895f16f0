%% The listening side: one port for nodes of every kind and for the further lanes of peers.
%%
%% The acceptor hands each socket to a process of its own (a *door*), which reads the first packet
%% and tells a node (net_kernel takes over) from a lane (partisan_dist_attach takes over) from a
%% question (partisan_dist_who answers) from garbage (closed). A door lives until its connection is
%% up, so the number of doors is the number of half-open connections, and that is bounded. When the
%% bound is reached, a door that has not
%% authenticated itself is shut for each new connection: the oldest that is silent for 100 ms, or else
%% in its handshake for a second; if there is neither, the new connection waits for one.
%% (Rejected: always shutting the newest. A hundred strangers who connect, or say hello, and go silent
%% would then lock every peer out for net_setuptime, while a peer goes through its handshake at once.)
%%
%% A door and its handshake are shut by the acceptor and authenticate themselves on their own; who
%% comes first is decided at the door's *gate*, so a connection that is up is never shut.
-module(partisan_dist_listen).

-export([listen/3, accept/2]).
-export([accept_loop/1, door/6, half_open/2]).
-export([authenticated/1, connection_up/1, recv_packet/3, left/1, deadline/1, text/1]).

-export_type([gate/0]).

-include_lib("kernel/include/logger.hrl").
-include_lib("kernel/include/net_address.hrl").

-define(FIRST_PACKET_MAX, 4096).
%% ms; accepting is interrupted now and then so that the acceptor moves on to new code
-define(ACCEPT_INTERVAL, 5000).
-define(BACK_OFF, 200).
%% ms that a handshake may take while others want its place: many times what it takes on a busy
%% machine, and short for those who wait
-define(PATIENCE, 1000).
%% ms that a first packet may take then: a peer sends it with its connection
-define(PATIENCE_FIRST, 100).
%% ms that a new connection waits for a place; more than PATIENCE, after which there is one unless all
%% doors have just authenticated themselves
-define(WAIT_FOR_PLACE, 3000).

%% 0: open; 1: passed, the other side has proved that it may come in; 2: shut.
-opaque gate() :: atomics:atomics_ref().
-type door() :: {Since :: integer(), Age :: non_neg_integer(), pid(), gate(), waiting | served}.
-type state() :: #{driver := partisan_dist_addr:driver(), kernel := pid(), listen := inet:socket(),
                   next := non_neg_integer(), doors := #{reference() => door()}}.

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
               partisan_dist_attach, partisan_dist_who, partisan_dist_addr, partisan_dist_conf],
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

%% inet:format_error/1 has words for POSIX errors only.
-spec text(atom()) -> string().
text(Reason) ->
    case inet:format_error(Reason) of
        "unknown POSIX" ++ _ -> atom_to_list(Reason);
        Text -> Text
    end.

%% Takes note of doors that closed or got their first packet; waits for the first such note until
%% Timeout. Bounded: a door sends two messages.
reap(State) -> reap(0, State).

reap(Timeout, #{doors := Doors} = State) ->
    receive
        {'DOWN', Ref, process, _, _} when is_map_key(Ref, Doors) ->
            reap(0, State#{doors := maps:remove(Ref, Doors)});
        {served, Ref} when is_map_key(Ref, Doors) ->
            {Since, Age, Pid, Gate, _} = maps:get(Ref, Doors),
            reap(0, State#{doors := Doors#{Ref := {Since, Age, Pid, Gate, served}}});
        {served, _} ->
            reap(Timeout, State)
    after Timeout ->
            State
    end.

admit(Socket, State) ->
    admit(Socket, deadline(?WAIT_FOR_PLACE), State).

admit(Socket, Deadline, #{driver := Driver, doors := Doors} = State) ->
    Max = partisan_dist_conf:get(max_half_open),
    case map_size(Doors) < Max of
        true ->
            open_door(Socket, State);
        false ->
            case shut_one(candidates(Doors), State) of
                {ok, Less} ->
                    partisan_dist_reg:count(evicted),
                    partisan_dist_reg:log_limited(
                      half_open, warning, "partisan: ~b half-open connections, more than option "
                      "max_half_open allows: closed one that did not authenticate itself",
                      [Max + 1]),
                    open_door(Socket, Less);
                none ->
                    case left(Deadline) of
                        0 ->
                            partisan_dist_reg:count(turned_away),
                            partisan_dist_reg:log_limited(
                              turned_away, warning, "partisan: turned a connection away: ~b "
                              "half-open connections (option max_half_open) are all being served",
                              [Max]),
                            Driver:close(Socket),
                            State;
                        Left ->
                            Wait = min(Left, until_next(Doors)),
                            admit(Socket, Deadline, reap(Wait, State))
                    end
            end
    end.

%% Who may be shut, worst first: the silent, then those in their handshake.
candidates(Doors) ->
    Now = erlang:monotonic_time(millisecond),
    lists:sort([{Phase =:= served, Age, Ref}
                || {Ref, {Since, Age, _, _, Phase}} <- maps:to_list(Doors),
                   Now - Since >= patience(Phase)]).

patience(waiting) -> ?PATIENCE_FIRST;
patience(served) -> ?PATIENCE.

%% ms until the next one's time is up. Those whose time is up have passed their gates: they end soon,
%% and their end is heard.
until_next(Doors) ->
    Now = erlang:monotonic_time(millisecond),
    lists:min([?PATIENCE | [Left || {Since, _, _, _, Phase} <- maps:values(Doors),
                                    Left <- [Since + patience(Phase) - Now], Left > 0]]).

shut_one([{_Served, _Age, Ref} | Rest], #{doors := Doors} = State) ->
    #{Ref := {_, _, Pid, Gate, _}} = Doors,
    case atomics:compare_exchange(Gate, 1, 0, 2) of
        ok ->
            erlang:demonitor(Ref, [flush]),
            exit(Pid, shutdown), % its socket or its handshake, which is linked to it, goes with it
            {ok, State#{doors := maps:remove(Ref, Doors)}};
        _ ->
            shut_one(Rest, State)
    end;
shut_one([], _State) ->
    none.

open_door(Socket, #{driver := Driver, kernel := Kernel, next := Age, doors := Doors} = State) ->
    Deadline = deadline(partisan_dist_addr:setup_time()),
    Gate = atomics:new(1, []),
    {Pid, Ref} = spawn_opt(?MODULE, door, [Driver, Kernel, self(), Socket, Deadline, Gate],
                           [monitor, {priority, high}]),
    _ = case Driver:controlling_process(Socket, Pid) of
            ok -> Pid ! {self(), socket, Ref};
            {error, _} -> Driver:close(Socket), exit(Pid, kill)
        end,
    Since = erlang:monotonic_time(millisecond),
    State#{next := Age + 1, doors := Doors#{Ref => {Since, Age, Pid, Gate, waiting}}}.

%% ------------------------------------------------------------------------------------------------
%% A door

door(Driver, Kernel, Acceptor, Socket, Deadline, Gate) ->
    AcceptorRef = erlang:monitor(process, Acceptor),
    Door = receive
               {Acceptor, socket, Ref} -> Ref;
               {'DOWN', AcceptorRef, process, _, _} -> exit(normal)
           end,
    erlang:demonitor(AcceptorRef, [flush]),
    First = recv_packet(Driver, Socket, Deadline),
    Acceptor ! {served, Door},
    case First of
        {ok, <<Tag, _/binary>> = Packet} when Tag =:= $N; Tag =:= $n ->
            partisan_dist_reg:count(nodes),
            node_knocks(Driver, Kernel, Socket, Packet, Gate);
        {ok, Packet} ->
            case {partisan_dist_attach:is_attach(Packet), partisan_dist_who:is_question(Packet)} of
                {true, _} -> partisan_dist_attach:accept(Driver, Socket, Packet, Deadline, Gate);
                {_, true} -> partisan_dist_who:answer(Driver, Socket);
                _ -> garbage(Driver, Socket, "an unknown first packet")
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
node_knocks(Driver, Kernel, Socket, Packet, Gate) ->
    KernelRef = erlang:monitor(process, Kernel),
    Kernel ! {accept, self(), {Socket, Packet, Gate}, Driver:family(), tcp},
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

%% The other side has proved that it may come in: from now on the door is not shut any more. False: it
%% has just been shut, and the caller should end.
-spec authenticated(gate()) -> boolean().
authenticated(Gate) ->
    atomics:compare_exchange(Gate, 1, 0, 1) =:= ok.

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
