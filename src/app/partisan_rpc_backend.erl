%% The other side of partisan_rpc: takes requests and gives each a process.
-module(partisan_rpc_backend).

-behaviour(gen_server).

-export([start_link/0, call/5, call_with/6]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% As Partisan 1 to 4 offered it.
-spec call(node(), module(), atom(), [term()], timeout()) -> term() | {badrpc, term()}.
call(Node, M, F, A, Timeout) ->
    partisan_rpc:call(Node, M, F, A, Timeout).

%% The monitor's reference is also the alias that the answer comes to: once the call is over, a late
%% answer reaches nobody.
-spec call_with(node(), module(), atom(), [term()], timeout(), map()) -> term() | {badrpc, term()}.
call_with(Node, M, F, A, Timeout, _Opts) when Node =:= node() ->
    Tag = erlang:alias([reply]),
    {_, Ref} = spawn_monitor(fun() -> Tag ! {?MODULE, Tag, run(M, F, A)} end),
    Answer = receive
                 {?MODULE, Tag, Result} -> Result;
                 {'DOWN', Ref, process, _, Reason} -> {badrpc, Reason}
             after Timeout ->
                     {badrpc, timeout}
             end,
    erlang:demonitor(Ref, [flush]),
    _ = erlang:unalias(Tag),
    receive {?MODULE, Tag, _Late} -> Answer
    after 0 -> Answer
    end;
call_with(Node, M, F, A, Timeout, Opts) ->
    Until = partisan_gen:deadline(Timeout),
    Ref = partisan_monitor:monitor({?MODULE, Node}, [{alias, reply_demonitor}]),
    case partisan_send:forward(Node, ?MODULE, {call, Ref, M, F, A}, Opts#{timeout => Timeout}) of
        ok ->
            receive
                {?MODULE, Ref, Answer} -> Answer;
                {'DOWN', Ref, process, _, Reason} -> {badrpc, reason(Reason)}
            after partisan_gen:left(Until) ->
                    erlang:demonitor(Ref, [flush]),
                    receive {?MODULE, Ref, Answer} -> Answer
                    after 0 -> {badrpc, timeout}
                    end
            end;
        {error, Reason} ->
            erlang:demonitor(Ref, [flush]),
            {badrpc, Reason}
    end.

reason(noconnection) -> disconnected;
reason(noproc) -> notalive; % the application does not run there
reason(Other) -> Other.

init([]) -> {ok, none}.

handle_call(_Request, _From, State) -> {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({call, Ref, M, F, A}, State) ->
    _ = spawn(fun() -> erlang:send(Ref, {?MODULE, Ref, run(M, F, A)}, [noconnect]) end),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.

run(M, F, A) ->
    try apply(M, F, A)
    catch _:Reason -> {badrpc, Reason}
    end.
