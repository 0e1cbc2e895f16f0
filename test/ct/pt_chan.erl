%% Channels between nodes of the suites: short words for what is done with them, and processes that
%% say what came.
-module(pt_chan).

-export([pair/1, pair/3, lanes/4, info/3, wait_info/4, sink/1, sink/2, seen/2, wait_seen/3]).
-export([send/5, send/6, many/6, sink_loop/2]).

-define(ALL, #{small => #{}, bulk => #{}, wide => #{parallelism => 4}, gossip => #{monotonic => true},
               zip => #{compression => true}, tiny => #{max_queue => 65536}}).

%% Two connected nodes that have the same channels.
pair(Channels) ->
    pair(#{}, #{}, Channels).

pair(OptsA, OptsB, Channels) ->
    %% Nobody but the test connects, or ends a connection: `global` does, when a node goes while it says
    %% hello to it, and when not all of three nodes are connected.
    Never = fun(Opts) ->
                Opts#{args => ["-connect_all", "false", "-kernel", "dist_auto_connect", "never"
                               | maps:get(args, Opts, [])]}
            end,
    {A, B} = pt_pair:pair(Never(OptsA), Never(OptsB)),
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

%% A process on the node that keeps what it gets; or what Fun makes of it.
sink(P) ->
    sink(P, fun(Message) -> Message end).

sink(P, Fun) ->
    pt_peer:call(P, erlang, spawn, [?MODULE, sink_loop, [Fun, []]]).

sink_loop(Fun, Seen) ->
    receive
        {pt_seen, From, Ref} -> From ! {Ref, lists:reverse(Seen)}, sink_loop(Fun, Seen);
        {pt_count, From, Ref} -> From ! {Ref, length(Seen)}, sink_loop(Fun, Seen);
        {pt_alias, From, Ref} -> From ! {Ref, alias()}, sink_loop(Fun, Seen);
        {pt_name, From, Ref, Name} -> register(Name, self()), From ! {Ref, ok}, sink_loop(Fun, Seen);
        Message -> sink_loop(Fun, [Fun(Message) | Seen])
    end.

ask(P, Sink, What) ->
    pt_peer:eval(P, fun() ->
                        Ref = make_ref(),
                        Sink ! {What, self(), Ref},
                        receive {Ref, Answer} -> Answer end
                    end).

seen(P, Sink) ->
    ask(P, Sink, pt_seen).

%% Until so many came; what came then.
wait_seen(P, Sink, Count) ->
    case pt_peer:wait(fun() -> ask(P, Sink, pt_count) >= Count end, 60000) of
        true -> seen(P, Sink);
        false -> error({only, ask(P, Sink, pt_count), Count, seen(P, Sink)})
    end.

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
