%% A connection that is up, or about to be: what dist_util's loop calls in the process that owns it.
%%
%% The functions that the loop keeps (tick, getstat, setopts, getopts) are exported, and stateless
%% but for one entry in the process dictionary, so that code can be upgraded under connections.
-module(partisan_dist_conn).

-export([open/3, plain_pre_nodeup/1, post_nodeup/1, getll/1]).
-export([tick/1, getstat/1, setopts/2, getopts/2]).
-export([nodelay/0]).

%% #{port => port(), lanes => pid()} of a carrier; not there for a plain peer.
-define(KEY, ?MODULE).

%% ------------------------------------------------------------------------------------------------
%% Before and after nodeup

%% Opens the driver's port for the session and gives it the socket as lane 0.
-spec open(inet:socket(), pid(), partisan_drv:init()) -> ok | {error, term()}.
open(Socket, Lanes, Init) ->
    _ = inet:setopts(Socket, [nodelay()]),
    case partisan_drv:open() of
        {ok, Port} ->
            put(?KEY, #{port => Port, lanes => Lanes}),
            case partisan_drv:init(Port, Init) of
                ok ->
                    partisan_dist_lanes:port(Lanes, Port, Socket),
                    partisan_dist_reg:enter_node(maps:get(node, Init), Lanes),
                    partisan_drv:lane(Port, 0, Socket);
                {error, _} = Error ->
                    Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec plain_pre_nodeup(inet:socket()) -> ok | {error, term()}.
plain_pre_nodeup(Socket) ->
    inet:setopts(Socket, [{active, false}, {packet, 4}, nodelay()]).

-spec getll(inet:socket()) -> {ok, port()}.
getll(Socket) ->
    case get(?KEY) of
        undefined -> inet:getll(Socket);
        #{port := Port} -> {ok, Port}
    end.

%% From here on signals are delivered. In mode plain the emulator gets them from the tcp_inet port.
-spec post_nodeup(inet:socket()) -> ok | {error, term()}.
post_nodeup(Socket) ->
    case get(?KEY) of
        undefined ->
            inet:setopts(Socket, [{active, true}, {deliver, port}, {packet, 4}, binary, nodelay()]);
        #{port := Port, lanes := Lanes} ->
            case partisan_drv:start(Port) of
                ok -> partisan_dist_lanes:up(Lanes);
                {error, _} = Error -> Error
            end
    end.

%% Option dist_nodelay of kernel, for every lane: with Nagle's algorithm the last segment of each message
%% waits for the acknowledgement of those before it, a round trip.
-spec nodelay() -> {nodelay, boolean()}.
nodelay() ->
    {nodelay, application:get_env(kernel, dist_nodelay) =/= {ok, false}}.

%% ------------------------------------------------------------------------------------------------
%% In dist_util's loop

%% When the connection is gone, the loop expects to find tcp_closed in its mailbox.
tick(Socket) ->
    case send_tick(Socket) of
        {error, closed} ->
            self() ! {tcp_closed, Socket},
            {error, closed};
        Result ->
            Result
    end.

send_tick(Socket) ->
    case get(?KEY) of
        undefined ->
            inet_tcp:send(Socket, [], [force]); % the same for both families
        #{port := Port} ->
            case partisan_drv:tick(Port) of
                ok -> ok;
                {error, _} -> {error, closed}
            end
    end.

getstat(Socket) ->
    case get(?KEY) of
        undefined ->
            case inet:getstat(Socket, [recv_cnt, send_cnt, send_pend]) of
                {ok, Stat} ->
                    [In, Out, Pending] = [proplists:get_value(Key, Stat, 0)
                                          || Key <- [recv_cnt, send_cnt, send_pend]],
                    {ok, In, Out, Pending};
                {error, _} = Error ->
                    Error
            end;
        #{port := Port} ->
            partisan_drv:stat(Port)
    end.

%% Options apply to all lanes; the answer is that of the first one.
setopts(Socket, Options) ->
    Result = partisan_dist_addr:setopts(Socket, Options),
    case get(?KEY) of
        #{lanes := Lanes} when Result =:= ok -> partisan_dist_lanes:setopts(Lanes, Options);
        _ -> ok
    end,
    Result.

getopts(Socket, Options) ->
    inet:getopts(Socket, Options).
