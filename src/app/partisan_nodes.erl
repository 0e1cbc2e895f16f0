%% Which nodes have been connected since the application started. The VM does not tell: a name that
%% was only ever sent to is as known to it as one that was connected. A name costs some 20 words.
-module(partisan_nodes).

-behaviour(gen_server).

-export([start_link/0, seen/1, why_not/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TABLE, ?MODULE).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec seen(node()) -> boolean().
seen(Node) ->
    try ets:member(?TABLE, Node)
    catch error:badarg -> false
    end.

%% What a send to a node that is not connected is answered with.
-spec why_not(node()) -> not_yet_connected | disconnected.
why_not(Node) ->
    case seen(Node) of
        true -> disconnected;
        false -> not_yet_connected
    end.

init([]) ->
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    true = ets:insert(?TABLE, [{Node} || Node <- erlang:nodes(connected)]),
    {ok, none}.

handle_call(_Request, _From, State) -> {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

handle_info({nodeup, Node, _}, State) ->
    true = ets:insert(?TABLE, {Node}),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.
