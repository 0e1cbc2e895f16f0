%% Whether the host has a network: an IPv4 address on an interface that is not the loopback and is
%% up. Looked at every two seconds; those who asked are told of a change.
-module(partisan_inet).

-behaviour(gen_server).

-export([start_link/0, monitor/1, net_status/0, net_status/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-compile({no_auto_import, [monitor/1]}).

-define(CHECK_MS, 2000).

-type status() :: connected | disconnected.
-export_type([status/0]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% The caller gets {network_connected, Ref} and {network_disconnected, Ref}; Ref is a reference that
%% stays the same. Once a process, however often it asks.
-spec monitor(boolean()) -> ok.
monitor(Flag) when is_boolean(Flag) ->
    gen_server:call(?MODULE, {monitor, Flag}).

%% As of the last look.
-spec net_status() -> status().
net_status() ->
    try gen_server:call(?MODULE, status)
    catch exit:_ -> look()
    end.

-spec net_status([nocache]) -> status().
net_status(Opts) ->
    case lists:member(nocache, Opts) of
        true -> look();
        false -> net_status()
    end.

init([]) ->
    again(),
    {ok, {look(), #{}}}.

handle_call({monitor, true}, {Pid, _}, {Status, Pids}) ->
    case Pids of
        #{Pid := _} -> {reply, ok, {Status, Pids}};
        _ -> {reply, ok, {Status, Pids#{Pid => erlang:monitor(process, Pid)}}}
    end;
handle_call({monitor, false}, {Pid, _}, {Status, Pids}) ->
    case maps:take(Pid, Pids) of
        {Ref, Rest} ->
            erlang:demonitor(Ref, [flush]),
            {reply, ok, {Status, Rest}};
        error ->
            {reply, ok, {Status, Pids}}
    end;
handle_call(status, _From, {Status, _} = State) ->
    {reply, Status, State};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({'DOWN', _Ref, process, Pid, _}, {Status, Pids}) ->
    {noreply, {Status, maps:remove(Pid, Pids)}};
handle_info(check, {Status, Pids}) ->
    again(),
    Now = look(),
    _ = [Pid ! {word(Now), Ref} || Now =/= Status, {Pid, Ref} <- maps:to_list(Pids)],
    {noreply, {Now, Pids}, hibernate};
handle_info(_Other, State) ->
    {noreply, State}.

word(connected) -> network_connected;
word(disconnected) -> network_disconnected.

again() ->
    _ = erlang:send_after(?CHECK_MS, self(), check),
    ok.

look() ->
    Interfaces = case inet:getifaddrs() of
                     {ok, List} -> List;
                     {error, _} -> []
                 end,
    Up = [Name || {Name, Options} <- Interfaces, {flags, Flags} <- Options,
                  lists:member(up, Flags), not lists:member(loopback, Flags),
                  {addr, {_, _, _, _}} <- Options],
    case Up of
        [] -> disconnected;
        _ -> connected
    end.
