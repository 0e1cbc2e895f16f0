%% Timers for processes of other nodes. The VM's timer fires at this process, so that the reference
%% is an ordinary one, and a timer that is cancelled leaves nothing behind.
-module(partisan_timer).

-behaviour(gen_server).

-export([start_link/0, send_after/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec send_after(integer(), partisan_send:server_ref(), term(), partisan_send:options()) ->
          reference().
send_after(Time, Dest, Msg, Opts) when is_integer(Time) ->
    Map = partisan_send:options(Opts),
    Abs = [{abs, true} || maps:get(abs, Map, false)],
    Abs =/= [] orelse Time >= 0 orelse error(badarg, [Time, Dest, Msg, Opts]),
    case local(Dest) of
        {ok, Native} -> erlang:send_after(Time, Native, Msg, Abs);
        remote -> erlang:send_after(Time, ?MODULE, {fire, Dest, Msg, maps:remove(abs, Map)}, Abs)
    end;
send_after(Time, Dest, Msg, Opts) ->
    error(badarg, [Time, Dest, Msg, Opts]).

local(Pid) when is_pid(Pid), node(Pid) =:= node() -> {ok, Pid};
local(Name) when is_atom(Name) -> {ok, Name};
local({Kind, _}) when Kind =:= global -> remote;
local({via, _, _}) -> remote;
local(Ref) ->
    case partisan_remote_ref:is_local(Ref) andalso partisan_remote_ref:to_term(Ref) of
        Native when is_pid(Native); is_atom(Native), Native =/= false -> {ok, Native};
        _ -> remote
    end.

init([]) -> {ok, none}.

handle_call(_Request, _From, State) -> {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

%% A send may be suspended by a full channel: not here, where other timers wait.
handle_info({fire, Dest, Msg, Opts}, State) ->
    _ = spawn(fun() -> partisan_send:forward(Dest, Msg, Opts) end),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.
