%% Runs on each node of a cluster that is rolled (plain_peer_SUITE): one process that receives, and a
%% sender for every other node.
%%
%% A stream is {From, To, Id}: numbered messages from one sender. It ends, and a new one begins, when
%% the connection to the receiver is lost; within a stream no number may be missing, doubled or late.
-module(plain_peer_roll).

-export([start/1, received/0, streams/0, wrong/0, finish/0]).
-export([receiver/2, sender/2]).

%% Messages on the way, so that nothing but the carrier bounds the memory of the test.
-define(WINDOW, 64).
-define(RETRY_MS, 50).

start(Nodes) ->
    register(?MODULE, spawn(?MODULE, receiver, [#{}, []])),
    Senders = [spawn(?MODULE, sender, [N, node()]) || N <- Nodes, N =/= node()],
    persistent_term:put(?MODULE, Senders),
    ok.

%% [{Stream, LastNumber}]
received() -> ask(whereis(?MODULE), received).
%% What broke the rules.
wrong() -> ask(whereis(?MODULE), wrong).
%% The streams that this node's senders are at.
streams() -> [S || {S, _} <- [ask(P, stream) || P <- persistent_term:get(?MODULE)]].
%% Senders stop: [{Stream, LastNumber}] of those they were at.
finish() -> [ask(P, finish) || P <- persistent_term:get(?MODULE)].

ask(Pid, What) ->
    Ref = monitor(process, Pid),
    Pid ! {ask, What, self(), Ref},
    receive
        {Ref, Answer} -> demonitor(Ref, [flush]), Answer;
        {'DOWN', Ref, _, _, Why} -> exit({What, Why})
    end.

receiver(Streams, Wrong) ->
    receive
        {roll, Stream, Seq, Crc, Body, From} ->
            Seq rem (?WINDOW div 2) =:= 0 andalso (From ! {ack, Stream, Seq}),
            Bad = [crc || Crc =/= erlang:crc32(Body)] ++
                [{after_, maps:get(Stream, Streams, 0)} || maps:get(Stream, Streams, 0) + 1 =/= Seq],
            receiver(Streams#{Stream => Seq}, [{Stream, Seq, B} || B <- Bad] ++ Wrong);
        {hello, Stream, From} ->
            From ! {ack, Stream, 0},
            receiver(Streams, Wrong);
        {ask, received, From, Ref} ->
            From ! {Ref, maps:to_list(Streams)},
            receiver(Streams, Wrong);
        {ask, wrong, From, Ref} ->
            From ! {Ref, Wrong},
            receiver(Streams, Wrong)
    end.

sender(To, Node) ->
    Ref = monitor(process, {?MODULE, To}),
    Stream = {Node, To, {erlang:system_time(), erlang:unique_integer([positive])}},
    {?MODULE, To} ! {hello, Stream, self()},
    begin_stream(Stream, To, Ref).

%% Nothing is sent before the receiver has answered: of messages sent on the chance that it is there,
%% the first could come before it is registered and the next after that.
begin_stream(Stream, To, Ref) ->
    receive
        {ack, Stream, 0} ->
            send(Stream, To, Ref, 0, 0);
        {'DOWN', Ref, _, _, _} ->
            retry(To);
        {ask, _, From, R} ->
            From ! {R, {Stream, 0}},
            begin_stream(Stream, To, Ref)
    end.

send(Stream, To, Ref, Sent, Acked) ->
    Wait = case Sent - Acked >= ?WINDOW of true -> infinity; false -> 0 end,
    receive
        {'DOWN', Ref, _, _, _} ->
            retry(To);
        {ack, Stream, Seq} ->
            send(Stream, To, Ref, Sent, Seq);
        {ask, stream, From, R} ->
            From ! {R, {Stream, Sent}},
            send(Stream, To, Ref, Sent, Acked);
        {ask, finish, From, R} ->
            From ! {R, {Stream, Sent}}
    after Wait ->
        Body = binary:copy(<<Sent:32>>, body_size(Sent)),
        {?MODULE, To} ! {roll, Stream, Sent + 1, erlang:crc32(Body), Body, self()},
        send(Stream, To, Ref, Sent + 1, Acked)
    end.

%% The receiver is gone or not there yet.
retry(To) ->
    receive
        {ask, _, From, R} -> From ! {R, {{node(), To, none}, 0}}, retry(To);
        {ack, _, _} -> retry(To)
    after ?RETRY_MS -> sender(To, node())
    end.

%% Words; now and then some fragments.
body_size(N) when N rem 50 =:= 49 -> 40_000;
body_size(N) -> N rem 300.
