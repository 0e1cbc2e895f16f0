%% What runs on each node of the demonstration: senders, receivers that check what comes, probes of
%% latency, and the counters of all of them.
%%
%% A flow is one sender process and one receiver process on another node. Its messages are
%% {Sequence number, CRC-32, Payload}; the payload is another stretch of random bytes each time. The
%% receiver checks number, size and CRC of every message and answers each, which bounds what is under
%% way.
-module(pt_demo_node).

-export([start/0, flows/3, snapshot/0, node_events/0, broken_off/1, forget/1, finish/0, finished/0]).

-export_type([totals/0, snapshot/0]).

-define(SINK, pt_demo_sink).
-define(TABLE, pt_demo).
-define(RANDOM, pt_demo_random).
-define(PROBE_BYTES, 64).
-define(PROBE_INTERVAL, 4). % ms

%% messages, bytes: checked by receivers here. confirmed: flows from here whose receiver got all.
%% cut: flows from here that ended because the other node went down.
-type totals() :: #{messages | bytes | confirmed | cut => non_neg_integer(),
                    faults := [string()]}.
%% received: by sending node and size. rtt: by node, a histogram: eighths of an octave of
%% microseconds => how often.
-type snapshot() :: #{received := #{{node(), pos_integer()} => non_neg_integer()},
                      rtt := #{node() => #{non_neg_integer() => pos_integer()}},
                      faults := non_neg_integer(),
                      sessions := #{node() => map()}}.

%% ------------------------------------------------------------------------------------------------
%% For the controller

-spec start() -> ok.
start() ->
    Owner = self(),
    Pid = spawn(fun() ->
                        register(?SINK, self()),
                        ?TABLE = ets:new(?TABLE, [named_table, public]),
                        persistent_term:put(?RANDOM, rand:bytes(lists:max([8 bsl 20, 64]) + 65536)),
                        ok = net_kernel:monitor_nodes(true),
                        Owner ! {self(), ready},
                        sink()
                end),
    receive {Pid, ready} -> ok end.

%% One flow to Node for each {Size, messages under way, pause in ms}, and a probe of latency.
-spec flows(node(), pos_integer(), [{pos_integer(), pos_integer(), non_neg_integer()}]) -> ok.
flows(Node, Gen, Sizes) ->
    _ = [begin
             Pid = spawn(fun() -> sender(Node, Gen, Flow) end),
             ets:insert(?TABLE, {{flow, Pid}, Node})
         end || Flow <- Sizes],
    Probe = spawn(fun() -> probe(Node) end),
    ets:insert(?TABLE, {{flow, Probe}, Node}),
    ok.

-spec snapshot() -> snapshot().
snapshot() ->
    Rtt = lists:foldl(fun([Node, Bucket, N], Acc) ->
                              Old = maps:get(Node, Acc, #{}),
                              Acc#{Node => Old#{Bucket => N}}
                      end, #{}, ets:match(?TABLE, {{rtt, '$1', '$2'}, '$3'})),
    #{received => maps:from_list([{{Node, Size}, N} || [Node, Size, N] <-
                                      ets:match(?TABLE, {{received, '$1', '$2'}, '$3'})]),
      rtt => Rtt,
      faults => length(faults()),
      sessions => maps:from_list([{Node, Info} || Node <- nodes(),
                                                  Info <- [partisan_dist:info(Node)], is_map(Info)])}.

%% [{nodeup | nodedown, Node, system time in microseconds}]
-spec node_events() -> [{nodeup | nodedown, node(), integer()}].
node_events() ->
    [{What, Node, At} || [What, Node, At] <- ets:match(?TABLE, {{event, '$1', '$2', '$3'}})].

%% No process of a flow to or from Node is left.
-spec broken_off(node()) -> boolean().
broken_off(Node) ->
    ets:match(?TABLE, {{flow, '_'}, Node}) =:= [] andalso
        ets:match(?TABLE, {{from, '_'}, Node}) =:= [].

-spec finish() -> ok.
finish() ->
    _ = [Pid ! finish || [Pid] <- ets:match(?TABLE, {{flow, '$1'}, '_'})],
    ok.

-spec finished() -> boolean().
finished() ->
    ets:match(?TABLE, {{flow, '_'}, '_'}) =:= [] andalso ets:match(?TABLE, {{from, '_'}, '_'}) =:= [].

%% What was counted of flows with Node, or with all nodes, which is forgotten.
-spec forget(node() | all) -> totals().
forget(Which) ->
    Node = case Which of all -> '$1'; _ -> Which end,
    Received = [{Size, N} || {{received, From, Size}, N} <- ets:tab2list(?TABLE),
                             Which =:= all orelse From =:= Which],
    Ends = [What || {{ended, To, _, What}} <- ets:tab2list(?TABLE),
                    Which =:= all orelse To =:= Which],
    Totals = #{messages => lists:sum([N || {_, N} <- Received]),
               bytes => lists:sum([Size * N || {Size, N} <- Received]),
               confirmed => length([1 || confirmed <- Ends]),
               cut => length([1 || cut <- Ends]),
               faults => faults()},
    _ = [ets:match_delete(?TABLE, Row) || Row <- [{{received, Node, '_'}, '_'},
                                                  {{ended, Node, '_', '_'}},
                                                  {{rtt, Node, '_'}, '_'},
                                                  {{fault, '_'}, '_'}]],
    Totals.

faults() -> [Text || [Text] <- ets:match(?TABLE, {{fault, '_'}, '$1'})].

%% ------------------------------------------------------------------------------------------------
%% Processes

%% Starts receivers, and hears of nodes.
sink() ->
    receive
        {open, Sender, Gen, Size} ->
            Pid = spawn(fun() -> receiver(Sender, Gen, Size) end),
            ets:insert(?TABLE, {{from, Pid}, node(Sender)}),
            Pid ! go;
        {What, Node} when What =:= nodeup; What =:= nodedown ->
            ets:insert(?TABLE, {{event, What, Node, erlang:system_time(microsecond)}});
        {probe, From, Ref, Filler} ->
            From ! {Ref, Filler}
    end,
    sink().

sender(Node, Gen, {Size, Window, Pause}) ->
    Ref = erlang:monitor(process, {?SINK, Node}),
    {?SINK, Node} ! {open, self(), Gen, Size},
    Result = receive
                 {opened, Receiver} ->
                     erlang:demonitor(Ref, [flush]),
                     send(#{to => Receiver, ref => erlang:monitor(process, Receiver), size => Size,
                            pause => Pause, window => Window, seq => 1});
                 {'DOWN', Ref, process, _, Why} ->
                     down(Why)
             end,
    case Result of
        {fault, Why2} -> fault("sender of ~b bytes to ~s: ~0p", [Size, Node, Why2]);
        Ended -> ets:insert(?TABLE, {{ended, Node, self(), Ended}})
    end,
    ets:delete(?TABLE, {flow, self()}).

send(#{window := 0} = F) ->
    wait(F, infinity);
send(#{to := Receiver, size := Size, seq := Seq, window := Window, pause := Pause} = F) ->
    Payload = binary:part(persistent_term:get(?RANDOM), Seq * 37 rem 65536, Size),
    Receiver ! {Seq, erlang:crc32(Payload), Payload},
    wait(F#{seq := Seq + 1, window := Window - 1}, Pause).

%% For the pause and, with nothing more allowed under way, for an answer.
wait(#{to := Receiver, ref := Ref, seq := Seq, window := Window} = F, Timeout) ->
    receive
        {Receiver, got} when Timeout =:= infinity -> send(F#{window := Window + 1});
        {Receiver, got} -> wait(F#{window := Window + 1}, Timeout);
        {'DOWN', Ref, process, _, Why} -> down(Why);
        finish -> Receiver ! {finished, Seq - 1}, confirmed(Receiver, Ref)
    after Timeout ->
            send(F)
    end.

confirmed(Receiver, Ref) ->
    receive
        {Receiver, got} -> confirmed(Receiver, Ref);
        {Receiver, all} -> confirmed;
        {'DOWN', Ref, process, _, Why} -> down(Why)
    end.

down(noconnection) -> cut;
down(Why) -> {fault, Why}.

receiver(Sender, Gen, Size) ->
    receive go -> ok end,
    Ref = erlang:monitor(process, Sender),
    Sender ! {opened, self()},
    take(Sender, Ref, {node(Sender), Gen, Size}, 1),
    ets:delete(?TABLE, {from, self()}).

take(Sender, Ref, {Node, _, Size} = Flow, Next) ->
    receive
        {Next, Crc, <<Payload:Size/binary>>} ->
            case erlang:crc32(Payload) of
                Crc ->
                    _ = ets:update_counter(?TABLE, {received, Node, Size}, 1,
                                           {{received, Node, Size}, 0}),
                    Sender ! {self(), got},
                    take(Sender, Ref, Flow, Next + 1);
                _ ->
                    fault("message ~b of ~0p is damaged", [Next, Flow])
            end;
        {finished, Sent} when Sent =:= Next - 1 ->
            Sender ! {self(), all};
        {'DOWN', Ref, process, _, noconnection} ->
            ok;
        Other -> % a number left out, repeated or out of turn; a wrong size; a count that differs
            fault("message ~b of ~0p was due, but there came ~0P", [Next, Flow, Other, 6])
    end.

%% Round trips of a small message beside all the others.
probe(Node) ->
    Ref = erlang:monitor(process, {?SINK, Node}),
    probe(Node, Ref, rand:bytes(?PROBE_BYTES)),
    ets:delete(?TABLE, {flow, self()}).

probe(Node, Ref, Filler) ->
    At = erlang:monotonic_time(microsecond),
    Tag = make_ref(),
    {?SINK, Node} ! {probe, self(), Tag, Filler},
    receive
        {Tag, Filler} ->
            Bucket = bucket(erlang:monotonic_time(microsecond) - At),
            _ = ets:update_counter(?TABLE, {rtt, Node, Bucket}, 1, {{rtt, Node, Bucket}, 0}),
            receive
                finish -> ok;
                {'DOWN', Ref, process, _, _} -> ok
            after ?PROBE_INTERVAL -> probe(Node, Ref, Filler)
            end;
        {'DOWN', Ref, process, _, _} ->
            ok
    end.

bucket(Us) -> round(8 * math:log2(max(1, Us))).

fault(Format, Args) ->
    ets:insert(?TABLE, {{fault, make_ref()}, lists:flatten(io_lib:format(Format, Args))}).
