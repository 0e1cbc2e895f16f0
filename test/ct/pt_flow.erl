%% A sender on one node of numbered messages to a collector on another, which goes on until it is told
%% to stop: a number that was not accepted is offered again.
-module(pt_flow).

-export([start/3, stop/1, received/1, all/1]).
-export([source/4]).

-record(flow, {from :: pt_peer:peer(), to :: pt_peer:peer(), source :: pid(), sink :: pid()}).

start(From, To, Opts) ->
    Sink = pt_peer:spawn_collector(To),
    Source = pt_peer:call(From, erlang, spawn, [?MODULE, source, [pt_peer:node(To), Sink, Opts, 1]]),
    #flow{from = From, to = To, source = Source, sink = Sink}.

%% How many were accepted.
stop(#flow{from = From, source = Source}) ->
    pt_peer:eval(From, fun() -> Source ! {stop, self()}, receive {sent, N} -> N end end).

received(#flow{to = To, sink = Sink}) -> pt_peer:how_many(To, Sink).

all(#flow{to = To, sink = Sink}) -> pt_peer:collected(To, Sink).

source(To, Sink, Opts, N) ->
    receive
        {stop, From} -> From ! {sent, N - 1}
    after 5 ->
        case partisan:forward_message(To, Sink, N, Opts) of
            ok -> source(To, Sink, Opts, N + 1);
            {error, _} -> source(To, Sink, Opts, N)
        end
    end.
