%% The other side of partisan_rpc: takes requests and gives each a process.
-module(partisan_rpc_backend).

-behaviour(gen_server).

-export([start_link/0, call/5, call_with/6]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(LOOK_MS, 2000).

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
    case partisan_transport:connected(Node) of
        true -> monitored(Node, M, F, A, Until, Opts#{timeout => Timeout});
        false -> relayed(Node, M, F, A, Until, Opts#{timeout => Timeout})
    end.

monitored(Node, M, F, A, Until, Opts) ->
    Ref = partisan_monitor:monitor({?MODULE, Node}, [{alias, reply_demonitor}]),
    case partisan_send:forward(Node, ?MODULE, {call, Ref, M, F, A}, Opts) of
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

%% The overlay may have a way to it; a monitor would connect. If it has none, that is left to Erlang and the
%% options of the distribution.
relayed(Node, M, F, A, Until, Opts) ->
    Tag = erlang:alias([reply]),
    case partisan_send:forward(Node, ?MODULE, {call, Tag, M, F, A}, Opts) of
        ok ->
            Answer = relayed_answer(Tag, Node, Until, 0),
            _ = erlang:unalias(Tag),
            receive {?MODULE, Tag, Late} -> Late
            after 0 -> Answer
            end;
        {error, Reason} when Reason =:= not_yet_connected; Reason =:= disconnected ->
            _ = erlang:unalias(Tag),
            monitored(Node, M, F, A, Until, Opts);
        {error, Reason} ->
            _ = erlang:unalias(Tag),
            {badrpc, Reason}
    end.

%% No DOWN comes from a node without a connection: the overlay is asked now and then whether it still has a way.
%% Missed: how often it had none, in a row. Once may be a relay that is being replaced.
relayed_answer(Tag, Node, Until, Missed) ->
    Left = partisan_gen:left(Until),
    receive
        {?MODULE, Tag, Answer} -> Answer
    after min(Left, ?LOOK_MS) -> % infinity, an atom, is more than any number
            case {Left, reaches(Node)} of
                {Ms, _} when Ms =< ?LOOK_MS -> {badrpc, timeout};
                {_, true} -> relayed_answer(Tag, Node, Until, 0);
                {_, false} when Missed > 0 -> {badrpc, disconnected};
                {_, false} -> relayed_answer(Tag, Node, Until, Missed + 1)
            end
    end.

%% An overlay without routes that reached it has a way of its own to members, such as a broker.
reaches(Node) ->
    partisan_transport:connected(Node) orelse
        case {partisan_overlay_shell:routes(), partisan_overlay_shell:members()} of
            {[_ | _], _} -> partisan_overlay_shell:route(Node) =/= none;
            {[], {ok, Members}} -> lists:member(Node, Members);
            {[], {error, _}} -> false
        end.

reason(noconnection) -> disconnected;
reason(noproc) -> notalive; % the application does not run there
reason(Other) -> Other.

init([]) -> {ok, none}.

handle_call(_Request, _From, State) -> {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({call, Ref, M, F, A}, State) ->
    _ = spawn(fun() -> answer(Ref, {?MODULE, Ref, run(M, F, A)}) end),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.

%% A caller without a connection came over the overlay, and is answered so.
answer(Ref, Answer) when is_reference(Ref) ->
    case partisan_transport:connected(node(Ref)) of
        true -> erlang:send(Ref, Answer, [noconnect]);
        false -> partisan_send:forward(node(Ref), Ref, Answer, #{})
    end;
answer(_Ref, _Answer) ->
    none.

run(M, F, A) ->
    try apply(M, F, A)
    catch _:Reason -> {badrpc, Reason}
    end.
