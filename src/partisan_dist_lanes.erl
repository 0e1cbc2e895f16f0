%% A process a session, linked to the connection's owner: opens (connector) or receives (acceptor)
%% lanes 1 and up, owns their sockets, and logs the connection's beginning and end.
%%
%% `lanes` is how many there may be, `wanted` how many there shall be now: at first as many as option
%% lanes_at_start says, all of them once bulk needs them (proto/path.h). The driver says so on the side
%% that sends the bulk; an acceptor asks its connector, by a message over the connection.
-module(partisan_dist_lanes).

-export([start_link/1, port/3, up/1, setopts/2]).
-export([init/2, loop/1]).

-include_lib("kernel/include/logger.hrl").

-export_type([target/0, options/0]).

%% ms from one round of attempts to the next; after so many we do with the lanes there are, unless the
%% last round was long ago
-define(RETRIES, [1000, 5000, 30000]).
-define(RETRIES_ANEW, 600000).
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

%% The driver's port is there. Returns when the session's process hears of its end: of a connection that
%% ends at once the log would else not know why. Socket: that of lane 0, which the owner keeps.
-spec port(pid(), port(), inet:socket()) -> ok.
port(Pid, Port, Socket) ->
    Pid ! {port, self(), Port, Socket},
    receive {Pid, ready} -> ok end.

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
%% The session's process

init(Owner, #{session_id := Id} = Options) ->
    process_flag(trap_exit, true),
    Registry = partisan_dist_reg:enter(Id),
    Owner ! {self(), ready},
    ?MODULE:loop(Options#{owner => Owner, registry => Registry, port => undefined, up => false,
                          sockets => #{}, openers => #{}, waiting => [], retries => ?RETRIES,
                          retry => idle, retried => 0, lost => 0, asker => none,
                          wanted => min(maps:get(lanes, Options),
                                        partisan_dist_conf:get(lanes_at_start)),
                          events => [], chans => partisan_dist_chans:new(),
                          trouble => undefined, logged => false, closed => undefined}).

loop(#{owner := Owner, registry := Registry} = State) ->
    receive
        {attach, Pid, Ref, Lane} ->
            ?MODULE:loop(attach_request(Pid, Ref, Lane, State));
        {attached, Lane, Socket} ->
            ?MODULE:loop(attached(Lane, Socket, State));
        {opened, Lane, Socket} ->
            ?MODULE:loop(adopt(Lane, Socket, State));
        {failed, {Name, Lane}, Why} ->
            partisan_dist_chans:failed(Name, Lane, Why, State),
            ?MODULE:loop(State);
        {failed, Lane, Why} ->
            ?MODULE:loop(State#{trouble := io_lib:format("lane ~b: ~ts", [Lane, Why])});
        {port, From, Port, Socket} ->
            _ = partisan_drv:notify(Port),
            _ = erlang:monitor(port, Port),
            _ = erlang:monitor(port, Socket),
            From ! {self(), ready},
            ?MODULE:loop(State#{port := Port});
        {channel, Event} ->
            ?MODULE:loop(channel_event(Event, State));
        up ->
            ?MODULE:loop(came_up(State#{up := true}));
        open_lanes ->
            ?MODULE:loop(open_lanes(State#{retry := idle}));
        {partisan_lane_gone, _Port, 0, Lane} ->
            ?MODULE:loop(lane_gone(Lane, State));
        {partisan_lane_gone, _Port, Channel, Lane} ->
            #{chans := Chans} = State,
            ?MODULE:loop(State#{chans := partisan_dist_chans:lane_gone(Channel, Lane, State, Chans)});
        {partisan_more_lanes, _Port} ->
            ?MODULE:loop(more_lanes(State));
        more_lanes ->
            ?MODULE:loop(peer_wants_more(State));
        lanes_expected ->
            ?MODULE:loop(log_connected(State));
        {setopts, Options} ->
            #{sockets := Sockets, chans := Chans} = State,
            _ = [inet:setopts(Socket, Options)
                 || Socket <- maps:values(Sockets) ++ partisan_dist_chans:sockets(Chans)],
            ?MODULE:loop(State);
        {partisan_closed, _Port, Reason} ->
            ?MODULE:loop(State#{closed := Reason});
        {'EXIT', Owner, Reason} ->
            log_end(Reason, State),
            exit(shutdown); % takes openers under way along
        {'EXIT', Pid, _Reason} when is_pid(Pid) ->
            ?MODULE:loop(opener_done(Pid, State));
        {'DOWN', _, port, Port, _} ->
            %% Somebody called port_close/1 or inet:close/1: an exit with reason normal, which the
            %% owner's link to the port does not tell it. Nobody ticks it any more, or it has no socket
            %% options, statistics and address to show.
            ?MODULE:loop(port_closed(Port, State));
        {'DOWN', Registry, process, _, _} ->
            ?MODULE:loop(enter_again(State));
        _ ->
            ?MODULE:loop(State)
    after 0 ->
        %% Without a stack there is no old code to come back to: upgrades leave this process alone.
        erlang:hibernate(?MODULE, loop, [State])
    end.

%% The driver's port, or lane 0's socket. An owner that ends takes both along, and knows better why.
port_closed(Port, #{owner := Owner, port := Driver, closed := Closed} = State) ->
    case is_process_alive(Owner) of
        true when Port =/= Driver, Closed =:= undefined ->
            exit(Owner, connection_closed),
            State#{closed := "its socket was closed on this node (inet:close/1)"};
        _ ->
            exit(Owner, connection_closed),
            State
    end.

came_up(#{events := Events} = State) ->
    lists:foldr(fun channel_event/2, lanes_came_up(State#{events := []}), Events).

lanes_came_up(#{role := connector} = State) ->
    open_lanes(State);
lanes_came_up(#{role := acceptor, waiting := Waiting} = State0) ->
    State = lists:foldr(fun({Pid, Ref, Lane}, S) -> attach_request(Pid, Ref, Lane, S) end,
                        State0#{waiting := []}, Waiting),
    _ = erlang:send_after(?LANES_EXPECTED_IN, self(), lanes_expected),
    log_if_complete(State).

%% Who opens channels can find us before the connection is up.
channel_event(Event, #{up := false, events := Events} = State) ->
    State#{events := [Event | Events]};
channel_event(Event, #{chans := Chans} = State) ->
    State#{chans := partisan_dist_chans:handle(Event, State, Chans)}.

enter_again(#{session_id := Id, node := Node, port := Port} = State) ->
    Port =:= undefined orelse partisan_dist_reg:enter_node(Node, self()),
    State#{registry := partisan_dist_reg:enter(Id)}.

%% --- acceptor

attach_request(Pid, Ref, Lane, #{up := false, waiting := Waiting} = State) ->
    State#{waiting := [{Pid, Ref, Lane} | Waiting]};
attach_request(Pid, Ref, {_, _} = Lane, #{chans := Chans} = State) ->
    State#{chans := partisan_dist_chans:attach(Pid, Ref, Lane, State, Chans)};
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
attached({_, _} = Lane, Socket, #{chans := Chans} = State) ->
    State#{chans := partisan_dist_chans:attached(Lane, Socket, State, Chans)};
attached(Lane, Socket, #{driver := Driver} = State) ->
    case free(Lane, State) andalso partisan_dist_attach:accepted(Driver, Socket) of
        ok ->
            adopt(Lane, Socket, State);
        _ ->
            Driver:close(Socket),
            State
    end.

%% --- connector

open_lanes(#{openers := Openers} = State) ->
    New = maps:from_list([{spawn_link(partisan_dist_attach, open,
                                      [self(), Lane, maps:with([driver, target, session_id,
                                                                lane_key], State)]),
                           Lane} || Lane <- missing(State) -- maps:values(Openers)]),
    log_if_complete(State#{openers := maps:merge(Openers, New)}).

opener_done(Pid, #{asker := Pid} = State) ->
    State#{asker := none};
opener_done(Pid, #{chans := Chans} = State) ->
    case partisan_dist_chans:knows(Pid, Chans) of
        true -> State#{chans := partisan_dist_chans:opener_done(Pid, State, Chans)};
        false -> lane_opener_done(Pid, State)
    end.

lane_opener_done(Pid, #{openers := Openers} = State) when is_map_key(Pid, Openers) ->
    try_again(State#{openers := maps:remove(Pid, Openers)});
lane_opener_done(_Pid, State) ->
    State.

%% Another round a while later, if lanes are missing and nobody is at it.
try_again(#{openers := Openers, retry := idle, retries := Retries, retried := Last} = State)
  when map_size(Openers) =:= 0 ->
    Now = erlang:monotonic_time(millisecond),
    case {missing(State), Retries} of
        {[], _} ->
            State;
        {_, [Delay | Rest]} ->
            _ = erlang:send_after(Delay, self(), open_lanes),
            State#{retry := waiting, retries := Rest, retried := Now + Delay};
        {_, []} when Now - Last >= ?RETRIES_ANEW ->
            try_again(State#{retries := ?RETRIES});
        {_, []} ->
            log_connected(State)
    end;
try_again(State) ->
    State.

%% --- more lanes than at first

%% The driver repeats it every few seconds, as long as bulk needs lanes that are missing.
more_lanes(#{role := connector} = State) ->
    peer_wants_more(State);
more_lanes(#{role := acceptor, asker := none, node := Node, session_id := Id} = State) ->
    %% Another process, since a connection that is busy with bulk suspends who sends by it.
    State#{asker := spawn_link(partisan_channel_srv, ask, [Node, {more_lanes, Id}])};
more_lanes(State) ->
    State.

%% The first time they are opened at once; what fails then has the tries of any other lane.
peer_wants_more(#{role := connector, up := true, wanted := Wanted, lanes := Lanes, node := Node} = State)
  when Wanted < Lanes ->
    ?LOG_INFO("partisan: packets to or from ~ts are lost: opening all of the ~b lanes",
              [Node, Lanes]),
    open_lanes(State#{wanted := Lanes});
peer_wants_more(#{role := connector, up := true} = State) ->
    try_again(State);
peer_wants_more(State) ->
    State.

%% --- both

%% The driver has forgotten a lane that had carried nothing: it ended, or the peer's half never came to
%% be. Who opened it opens it again; who accepted it lets it be opened.
lane_gone(Lane, #{driver := Driver, sockets := Sockets, role := Role, lost := Lost} = State0)
  when is_map_key(Lane, Sockets) ->
    {Socket, Rest} = maps:take(Lane, Sockets),
    Driver:close(Socket),
    State = State0#{sockets := Rest, lost := Lost + 1},
    case Role of
        connector -> try_again(State);
        acceptor -> State
    end;
lane_gone(_Lane, State) ->
    State.

missing(#{wanted := Wanted, sockets := Sockets}) ->
    [Lane || Lane <- lists:seq(1, Wanted - 1), not is_map_key(Lane, Sockets)].

adopt({Name, Lane}, Socket, #{chans := Chans} = State) ->
    State#{chans := partisan_dist_chans:opened(Name, {Lane, Socket}, State, Chans)};
adopt(Lane, Socket, #{driver := Driver, port := Port, sockets := Sockets} = State) ->
    _ = inet:setopts(Socket, [partisan_dist_conn:nodelay()]),
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

log_connected(#{logged := true, lost := 0} = State) ->
    State;
log_connected(#{logged := true, node := Node, lanes := Lanes, lost := Lost,
                sockets := Sockets} = State) ->
    Level = case missing(State) of
                [] -> info;
                _ -> notice
            end,
    ?LOG(Level, "partisan: connection with ~ts: ~b unused lanes were lost; lanes now ~b of ~b",
         [Node, Lost, 1 + map_size(Sockets), Lanes]),
    State#{lost := 0};
log_connected(#{node := Node, role := Role, lanes := Lanes, wanted := Wanted,
                trouble := Trouble} = State) ->
    Backend = maps:get(backend, partisan_nif:info(), unknown),
    How = case Role of
              connector -> "to";
              acceptor -> "from"
          end,
    case length(missing(State)) of
        0 ->
            ?LOG_INFO("partisan: connection ~ts ~ts is up: carrier, lanes ~b~ts, backend ~ts",
                      [How, Node, Wanted, [[" of up to ", integer_to_list(Lanes)] || Wanted < Lanes],
                       Backend]);
        Missing ->
            ?LOG_NOTICE("partisan: connection ~ts ~ts is up: carrier, lanes ~b of ~b, "
                        "backend ~ts~ts",
                        [How, Node, Wanted - Missing, Wanted, Backend,
                         [["; ", Trouble] || Trouble =/= undefined]])
    end,
    State#{logged := true, lost := 0}.

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

%% Asked for on this node, given way to a newer connection of the same peer (wait_pending), or
%% logged by OTP already (net_tick_timeout).
is_expected(Reason) ->
    lists:member(Reason, [normal, shutdown, killed, disconnect, disconnected, wait_pending,
                          net_tick_timeout]).
