%% Channels between nodes of the suites: short words for what is done with them, and processes that
%% say what came.
-module(pt_chan).

-export([pair/1, pair/3, lanes/4, info/3, wait_info/4, sink/1, seen/2, wait_seen/3, send/5, send/6]).
-export([many/6, sink_loop/1]).

-define(ALL, #{small => #{}, bulk => #{}, wide => #{parallelism => 4}, gossip => #{monotonic => true},
               zip => #{compression => true}, tiny => #{max_queue => 65536}}).

%% Two connected nodes that have the same channels.
pair(Channels) ->
    pair(#{}, #{}, Channels).

pair(OptsA, OptsB, Channels) ->
    {A, B} = pt_pair:pair(OptsA, OptsB),
    Conf = maps:merge(?ALL, Channels),
    [ok = pt_peer:call(P, partisan_channel, configure, [Conf]) || P <- [A, B]],
    {A, B}.

%% pause_send, resume_send, .. on all lanes of the channel from A to B, which is opened if need be.
lanes(A, B, Channel, What) ->
    ok = pt_peer:call(A, partisan_channel, open, [pt_peer:node(B), Channel]),
    #{channel := No, lanes := Lanes} = info(A, B, Channel),
    Node = pt_peer:node(B),
    pt_peer:eval(A, fun() ->
                        Port = pt_peer:dist_port(Node),
                        [ok = partisan_drv:test(Port, What, Lane, No) || #{lane := Lane} <- Lanes]
                    end),
    ok.

info(A, B, Channel) ->
    maps:get(Channel, pt_peer:call(A, partisan_channel, info, [pt_peer:node(B)]), #{}).

wait_info(A, B, Channel, Test) ->
    pt_peer:wait(fun() -> Test(info(A, B, Channel)) end).

%% A process on the node that keeps what it gets.
sink(P) ->
    pt_peer:call(P, erlang, spawn, [?MODULE, sink_loop, [[]]]).

sink_loop(Seen) ->
    receive
        {pt_seen, From, Ref} -> From ! {Ref, lists:reverse(Seen)}, sink_loop(Seen);
        {pt_alias, From, Ref} -> From ! {Ref, alias()}, sink_loop(Seen);
        {pt_name, From, Ref, Name} -> register(Name, self()), From ! {Ref, ok}, sink_loop(Seen);
        Message -> sink_loop([Message | Seen])
    end.

seen(P, Sink) ->
    pt_peer:eval(P, fun() ->
                        Ref = make_ref(),
                        Sink ! {pt_seen, self(), Ref},
                        receive {Ref, Seen} -> Seen end
                    end).

%% Until so many came; what came then.
wait_seen(P, Sink, Count) ->
    true = pt_peer:wait(fun() -> length(seen(P, Sink)) >= Count end, 20000),
    seen(P, Sink).

send(A, B, Channel, Dest, Message) ->
    send(A, B, Channel, Dest, Message, #{}).

send(A, B, Channel, Dest, Message, Options) ->
    pt_peer:call(A, partisan_channel, send, [pt_peer:node(B), Channel, Dest, Message, Options]).

%% In one process of A: Fun(I) for 1 .. N, each message sent with Options; the answers, counted.
many(A, B, Channel, Dest, {N, Fun}, Options) ->
    Node = pt_peer:node(B),
    pt_peer:call(A, erlang, apply,
                 [fun() ->
                      lists:foldl(fun(I, Acc) ->
                                      Answer = partisan_channel:send(Node, Channel, Dest, Fun(I),
                                                                     Options),
                                      maps:update_with(Answer, fun(C) -> C + 1 end, 1, Acc)
                                  end, #{}, lists:seq(1, N))
                  end, []], 60000).
