%% A broadcast handler that keeps everything in a table, and counts how often it was new.
-module(pt_heard).
-behaviour(partisan_plumtree_broadcast_handler).

-export([start/0, send/2, heard/0, copies/0]).
-export([broadcast_data/1, merge/2, is_stale/1, graft/1, exchange/1]).

start() ->
    Parent = self(),
    _ = spawn(fun() ->
                      ?MODULE = ets:new(?MODULE, [named_table, public]),
                      Parent ! started,
                      receive stop -> ok end
              end),
    receive started -> ok end.

%% This node has its own message before anybody else.
send(Id, Payload) ->
    true = ets:insert_new(?MODULE, {Id, Payload}),
    partisan_plumtree_broadcast:broadcast({Id, Payload}, ?MODULE).

heard() -> lists:sort([Id || {Id, _} <- ets:tab2list(?MODULE), Id =/= copies]).

copies() ->
    case ets:lookup(?MODULE, copies) of
        [{_, N}] -> N;
        [] -> 0
    end.

broadcast_data({Id, Payload}) -> {Id, Payload}.

merge(Id, Payload) ->
    New = ets:insert_new(?MODULE, {Id, Payload}),
    _ = [ets:update_counter(?MODULE, copies, 1, {copies, 0}) || not New],
    New.

is_stale(Id) -> ets:member(?MODULE, Id).

graft(Id) ->
    case ets:lookup(?MODULE, Id) of
        [{_, Payload}] -> {ok, Payload};
        [] -> {error, not_found}
    end.

exchange(_Node) -> ignore.
