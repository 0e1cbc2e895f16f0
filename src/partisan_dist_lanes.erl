%% A process a session, linked to the connection's owner: opens (connector) or receives (acceptor)
%% lanes 1 and up, owns their sockets, and logs the connection's beginning and end.
%%
%% Attaching a lane. Packets with a 2-byte length on a new connection to the peer's listen port:
%%
%%   connector  "P" "tsn" Version:8 SessionId:16/binary Lane:8 NonceC:16/binary
%%   acceptor   "P" NonceA:16/binary MacA:32/binary
%%   connector  "P" MacC:32/binary
%%   acceptor   "P" 0
%%
%% MacA and MacC = HMAC-SHA256(lane key, Label, SessionId, Lane, NonceC, NonceA) with the labels
%% "partisan lane acceptor" and "partisan lane connector". Each side proves the key before the other
%% lets it near the session, and fresh nonces on both sides make a recording worthless. The acceptor
%% adopts the lane right after its last packet, the connector when it has read it: a lane that is
%% refused was never part of the session. Frames may follow the last packet at once; they wait in
%% the kernel, because nothing here reads more than the packet.
-module(partisan_dist_lanes).

-export([start_link/1, port/2, up/1, setopts/2]).
-export([is_attach/1, accept_lane/4]).
-export([init/2, loop/1, open_lane/3]).

-include_lib("kernel/include/logger.hrl").

-export_type([target/0, options/0]).

-define(TAG, $P).
-define(VERSION, 1).
%% ms from one round of attempts to the next
-define(RETRIES, [1000, 5000, 30000]).
%% ms after which the accepting side says how many lanes it got
-define(LANES_EXPECTED_IN, 10000).

-type target() :: {inet:ip_address(), inet:port_number()}.
-type options() :: #{driver := partisan_dist_addr:driver(), role := connector | acceptor,
                     node := node(), lanes := 1..255, target := target() | undefined,
                     session_id := <<_:128>>, lane_key := <<_:256>>}.

%% ------------------------------------------------------------------------------------------------
%% For the connection's owner

%% Returns when the session can be found by lanes that knock.
-spec start_link(options()) -> pid().
start_link(Options) ->
    Pid = spawn_link(?MODULE, init, [self(), Options]),
    receive {Pid, ready} -> Pid end. % if it dies instead, so do we

%% The driver's port is there.
-spec port(pid(), port()) -> ok.
port(Pid, Port) ->
    Pid ! {port, Port},
    ok.

%% The connection is up: lanes may attach.
-spec up(pid()) -> ok.
up(Pid) ->
    Pid ! up,
    ok.

%% Socket options for the lanes that are there.
-spec setopts(pid(), [term()]) -> ok.
setopts(Pid, Options) ->
    Pid ! {setopts, Options},
    ok.

%% ------------------------------------------------------------------------------------------------
%% For the door that a lane knocks at (partisan_dist_listen)

-spec is_attach(binary()) -> boolean().
is_attach(<<?TAG, "tsn", _/binary>>) -> true;
is_attach(_) -> false.

%% Runs in the door's process, which owns Socket; ends with the socket closed or given to the
%% session's process.
-spec accept_lane(partisan_dist_addr:driver(), inet:socket(), binary(), Deadline :: integer()) -> ok.
accept_lane(Driver, Socket, Packet, Deadline) ->
    case try_accept(Driver, Socket, Packet, Deadline) of
        ok ->
            partisan_dist_reg:count(lanes);
        {error, Why} ->
            partisan_dist_reg:count(refused_lanes),
            partisan_dist_reg:log_limited(refused_lane, notice, "partisan: refused a lane: ~ts",
                                          [Why]),
            Driver:close(Socket),
            ok
    end.

try_accept(Driver, Socket, <<?TAG, "tsn", ?VERSION:8, Id:16/binary, Lane:8, NonceC:16/binary>>,
           Deadline) ->
    case partisan_dist_reg:lookup(Id) of
        {ok, Pid} ->
            case ask(Pid, Lane, Deadline) of
                {ok, Key} ->
                    NonceA = partisan_nif:random(16),
                    {MacC, MacA} = macs(Key, Id, Lane, NonceC, NonceA),
                    maybe_ok([fun() -> send(Driver, Socket, <<?TAG, NonceA/binary, MacA/binary>>) end,
                              fun() -> expect_mac(Driver, Socket, MacC, Deadline) end,
                              fun() -> give(Driver, Socket, Pid, {attached, Lane, Socket}) end]);
                {error, _} = Error ->
                    Error
            end;
        error ->
            {error, "no such session (it may just have ended)"}
    end;
try_accept(_Driver, _Socket, _Packet, _Deadline) ->
    {error, "an attach request of another version"}.

%% The session may be a moment away from being up.
ask(Pid, Lane, Deadline) ->
    Ref = erlang:monitor(process, Pid),
    Pid ! {attach, self(), Ref, Lane},
    receive
        {Ref, Answer} ->
            erlang:demonitor(Ref, [flush]),
            Answer;
        {'DOWN', Ref, process, _, _} ->
            {error, "the session has just ended"}
    after partisan_dist_listen:left(Deadline) ->
            {error, "the session did not come up in time"}
    end.

%% ------------------------------------------------------------------------------------------------
%% The connector's side of one lane, in a process of its own

open_lane(Owner, Lane, #{driver := Driver, target := {Ip, Port}} = Options) ->
    Deadline = partisan_dist_listen:deadline(partisan_dist_addr:setup_time()),
    case Driver:connect(Ip, Port, partisan_dist_addr:connect_options(),
                        partisan_dist_listen:left(Deadline)) of
        {ok, Socket} ->
            case knock(Driver, Socket, Lane, Options, Deadline) of
                ok ->
                    case give(Driver, Socket, Owner, {opened, Lane, Socket}) of
                        ok -> ok;
                        {error, Why} -> Owner ! {failed, Lane, Why}
                    end;
                {error, Why} ->
                    Owner ! {failed, Lane, Why}
            end;
        {error, Reason} ->
            Owner ! {failed, Lane, words(Reason)}
    end.

knock(Driver, Socket, Lane, #{session_id := Id, lane_key := Key}, Deadline) ->
    NonceC = partisan_nif:random(16),
    Request = <<?TAG, "tsn", ?VERSION:8, Id/binary, Lane:8, NonceC/binary>>,
    case send(Driver, Socket, Request) of
        ok ->
            case recv(Driver, Socket, Deadline) of
                {ok, <<?TAG, NonceA:16/binary, Theirs:32/binary>>} ->
                    {MacC, MacA} = macs(Key, Id, Lane, NonceC, NonceA),
                    case partisan_nif:equal(MacA, Theirs) of
                        true ->
                            maybe_ok([fun() -> send(Driver, Socket, <<?TAG, MacC/binary>>) end,
                                      fun() -> expect(Driver, Socket, <<?TAG, 0>>, Deadline) end]);
                        false ->
                            {error, "whoever answers at the peer's address is not the peer"}
                    end;
                {ok, _} ->
                    {error, "the peer answered with nonsense"};
                {error, _} = Error ->
                    Error
            end;
        {error, _} = Error ->
            Error
    end.

%% ------------------------------------------------------------------------------------------------
%% Small parts of both

macs(Key, Id, Lane, NonceC, NonceA) ->
    Context = [Id, Lane, NonceC, NonceA],
    {partisan_nif:hmac(Key, ["partisan lane connector" | Context]),
     partisan_nif:hmac(Key, ["partisan lane acceptor" | Context])}.

maybe_ok([Step | Rest]) ->
    case Step() of
        ok -> maybe_ok(Rest);
        {error, _} = Error -> Error
    end;
maybe_ok([]) ->
    ok.

send(Driver, Socket, Packet) ->
    case Driver:send(Socket, [<<(byte_size(Packet)):16>>, Packet]) of
        ok -> ok;
        {error, Reason} -> {error, words(Reason)}
    end.

recv(Driver, Socket, Deadline) ->
    case partisan_dist_listen:recv_packet(Driver, Socket, Deadline) of
        {ok, _} = Ok -> Ok;
        {error, closed} -> {error, "refused by the peer"};
        {error, Reason} -> {error, words(Reason)}
    end.

expect(Driver, Socket, Packet, Deadline) ->
    case recv(Driver, Socket, Deadline) of
        {ok, Packet} -> ok;
        {ok, _} -> {error, "the peer answered with nonsense"};
        {error, _} = Error -> Error
    end.

expect_mac(Driver, Socket, Mac, Deadline) ->
    case partisan_dist_listen:recv_packet(Driver, Socket, Deadline) of
        {ok, <<?TAG, Theirs:32/binary>>} ->
            case partisan_nif:equal(Mac, Theirs) of
                true -> ok;
                false -> {error, "its proof of the session's key is wrong"}
            end;
        {ok, _} -> {error, "it answered with nonsense"};
        {error, Reason} -> {error, words(Reason)}
    end.

give(Driver, Socket, Pid, Message) ->
    case Driver:controlling_process(Socket, Pid) of
        ok -> Pid ! Message, ok;
        {error, Reason} -> {error, words(Reason)}
    end.

words({too_long, Length}) -> io_lib:format("a packet of ~b bytes", [Length]);
words(closed) -> "closed";
words(timeout) -> "no answer in time";
words(Reason) when is_atom(Reason) -> inet:format_error(Reason);
words(Reason) -> io_lib:format("~0tp", [Reason]).

%% ------------------------------------------------------------------------------------------------
%% The session's process

init(Owner, #{session_id := Id} = Options) ->
    process_flag(trap_exit, true),
    Registry = partisan_dist_reg:enter(Id),
    Owner ! {self(), ready},
    ?MODULE:loop(Options#{owner => Owner, registry => Registry, port => undefined, up => false,
                          sockets => #{}, openers => #{}, waiting => [], retries => ?RETRIES,
                          trouble => undefined, logged => false, closed => undefined}).

loop(#{owner := Owner, registry := Registry} = State) ->
    receive
        {attach, Pid, Ref, Lane} ->
            ?MODULE:loop(attach_request(Pid, Ref, Lane, State));
        {attached, Lane, Socket} ->
            ?MODULE:loop(attached(Lane, Socket, State));
        {opened, Lane, Socket} ->
            ?MODULE:loop(adopt(Lane, Socket, State));
        {failed, Lane, Why} ->
            ?MODULE:loop(State#{trouble := io_lib:format("lane ~b: ~ts", [Lane, Why])});
        {port, Port} ->
            _ = partisan_drv:notify(Port),
            ?MODULE:loop(State#{port := Port});
        up ->
            ?MODULE:loop(came_up(State#{up := true}));
        open_lanes ->
            ?MODULE:loop(open_lanes(State));
        lanes_expected ->
            ?MODULE:loop(log_connected(State));
        {setopts, Options} ->
            #{sockets := Sockets} = State,
            _ = [inet:setopts(Socket, Options) || Socket <- maps:values(Sockets)],
            ?MODULE:loop(State);
        {partisan_closed, _Port, Reason} ->
            ?MODULE:loop(State#{closed := Reason});
        {'EXIT', Owner, Reason} ->
            log_end(Reason, State),
            exit(shutdown); % takes openers under way along
        {'EXIT', Pid, _Reason} when is_pid(Pid) ->
            ?MODULE:loop(opener_done(Pid, State));
        {'DOWN', Registry, process, _, _} ->
            ?MODULE:loop(State#{registry := partisan_dist_reg:enter(maps:get(session_id, State))});
        _ ->
            ?MODULE:loop(State)
    after 0 ->
        %% Without a stack there is no old code to come back to: upgrades leave this process alone.
        erlang:hibernate(?MODULE, loop, [State])
    end.

came_up(#{role := connector} = State) ->
    open_lanes(State);
came_up(#{role := acceptor, waiting := Waiting} = State0) ->
    State = lists:foldr(fun({Pid, Ref, Lane}, S) -> attach_request(Pid, Ref, Lane, S) end,
                        State0#{waiting := []}, Waiting),
    _ = erlang:send_after(?LANES_EXPECTED_IN, self(), lanes_expected),
    log_if_complete(State).

%% --- acceptor

attach_request(Pid, Ref, Lane, #{up := false, waiting := Waiting} = State) ->
    State#{waiting := [{Pid, Ref, Lane} | Waiting]};
attach_request(Pid, Ref, Lane, #{lane_key := Key} = State) ->
    Pid ! {Ref, case free(Lane, State) of
                    true -> {ok, Key};
                    false -> {error, io_lib:format("lane ~b is not to be had", [Lane])}
                end},
    State.

free(Lane, #{role := acceptor, lanes := Lanes, sockets := Sockets}) ->
    Lane > 0 andalso Lane < Lanes andalso not is_map_key(Lane, Sockets);
free(_Lane, #{role := connector}) ->
    false.

%% Two may have asked for one lane at a time; the first to prove the key has it.
attached(Lane, Socket, #{driver := Driver} = State) ->
    case free(Lane, State) andalso send(Driver, Socket, <<?TAG, 0>>) of
        ok ->
            adopt(Lane, Socket, State);
        _ ->
            Driver:close(Socket),
            State
    end.

%% --- connector

open_lanes(#{openers := Openers} = State) ->
    New = maps:from_list([{spawn_link(?MODULE, open_lane,
                                      [self(), Lane, maps:with([driver, target, session_id,
                                                                lane_key], State)]),
                           Lane} || Lane <- missing(State)]),
    log_if_complete(State#{openers := maps:merge(Openers, New)}).

opener_done(Pid, #{openers := Openers, retries := Retries} = State0) when is_map_key(Pid, Openers) ->
    State = State0#{openers := maps:remove(Pid, Openers)},
    case {map_size(Openers) - 1, missing(State), Retries} of
        {0, [_ | _], [Delay | Rest]} ->
            _ = erlang:send_after(Delay, self(), open_lanes),
            State#{retries := Rest};
        {0, [_ | _], []} ->
            log_connected(State);
        _ ->
            State
    end;
opener_done(_Pid, State) ->
    State.

%% --- both

missing(#{lanes := Lanes, sockets := Sockets}) ->
    [Lane || Lane <- lists:seq(1, Lanes - 1), not is_map_key(Lane, Sockets)].

adopt(Lane, Socket, #{driver := Driver, port := Port, sockets := Sockets} = State) ->
    case partisan_drv:lane(Port, Lane, Socket) of
        ok ->
            log_if_complete(State#{sockets := Sockets#{Lane => Socket}});
        {error, Words} ->
            Driver:close(Socket),
            State#{trouble := io_lib:format("lane ~b: ~ts", [Lane, Words])}
    end.

%% ------------------------------------------------------------------------------------------------
%% The log: one line when all lanes are there, or when we gave up on some, and one at an end that
%% nobody asked for.

log_if_complete(State) ->
    case missing(State) of
        [] -> log_connected(State);
        [_ | _] -> State
    end.

log_connected(#{logged := true} = State) ->
    State;
log_connected(#{node := Node, role := Role, lanes := Lanes, trouble := Trouble} = State) ->
    Backend = maps:get(backend, partisan_nif:info(), unknown),
    How = case Role of
              connector -> "to";
              acceptor -> "from"
          end,
    case length(missing(State)) of
        0 ->
            ?LOG_INFO("partisan: connection ~ts ~ts is up: carrier, lanes ~b, backend ~ts",
                      [How, Node, Lanes, Backend]);
        Missing ->
            ?LOG_NOTICE("partisan: connection ~ts ~ts is up: carrier, lanes ~b of ~b, backend ~ts~ts",
                        [How, Node, Lanes - Missing, Lanes, Backend,
                         [["; ", Trouble] || Trouble =/= undefined]])
    end,
    State#{logged := true}.

log_end(_Reason, #{up := false}) ->
    ok;
log_end(connection_closed, #{node := Node, closed := Words}) when Words =/= undefined ->
    %% An orderly end of the stream is how a node that halts looks, remote shells and command line
    %% tools included: nobody wants to read about each of them.
    Level = case string:find(Words, "closed by the peer") of
                nomatch -> notice;
                _ -> info
            end,
    ?LOG(Level, "partisan: connection with ~ts lost: ~ts", [Node, Words]);
log_end(Reason, #{node := Node}) ->
    case is_expected(Reason) of
        true -> ok;
        false -> ?LOG_NOTICE("partisan: connection with ~ts lost: ~0tp", [Node, Reason])
    end.

%% Asked for on this node, or already logged by OTP (net_tick_timeout).
is_expected(Reason) ->
    lists:member(Reason, [normal, shutdown, killed, disconnect, disconnected, net_tick_timeout]).
