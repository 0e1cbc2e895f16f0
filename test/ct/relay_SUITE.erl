%% Relay from lane to lane, on a line of real nodes and on other graphs.
-module(relay_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([undecoded/1, in_order/1, to_anybody/1, hops/1, twice/1, malformed/1, full/1, first_full/1,
         restarted/1, other_way_at_once/1, killed/1, called/1, held/1, without/1]).
-export([sleepers/0]). % for the nodes
-export([corrupt/1, by_channel/1, by_key/1, notified/1, opened_again/1, not_everywhere/1, separate/1]).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [undecoded, in_order, to_anybody, hops, twice, malformed, corrupt, full, first_full, by_channel, by_key, notified,
     separate, opened_again, restarted, other_way_at_once, killed, called, held, not_everywhere, without].

-define(CHANNEL, '$partisan_relay').
-define(CHANNELS, #{bulk => #{parallelism => 3}, mono => #{monotonic => true}, zip => #{compression => true},
                    brief => #{idle => 100}}).
-define(wait(Condition), ?assert(pt_peer:wait(fun() -> Condition end, 60000, 50))).

lean() ->
    string:lexemes("+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none", " ").

start(N) -> [start_one(#{}) || _ <- lists:seq(1, N)].

start_one(Opts) ->
    pt_cluster:app(pt_peer:start(rl, maps:remove(channels, Opts#{args => lean()})),
                   [{peer_service_manager, pt_graph}, {retransmit_interval, 200},
                    {channels, maps:get(channels, Opts, ?CHANNELS)}]).

%% A line of four for the cases that leave it as it was.
init_per_suite(Config) ->
    Self = self(),
    Keeper = spawn(fun() ->
                           Nodes = line(4),
                           Self ! {nodes, Nodes},
                           receive stop -> pt_cluster:stop(Nodes) end
                   end),
    receive {nodes, Nodes} -> [{keeper, Keeper}, {line, Nodes} | Config]
    after 120000 -> error(no_nodes)
    end.

end_per_suite(Config) ->
    proplists:get_value(keeper, Config) ! stop,
    ok.

line(N) ->
    Nodes = start(N),
    linked(lists:zip(lists:droplast(Nodes), tl(Nodes)), Nodes).

linked(Links, Nodes) ->
    [ok = pt_cluster:service(B, join, [pt_peer:node(A)]) || {A, B} <- Links],
    ready(Nodes),
    Nodes.

%% Everybody has a way to everybody, and relay channels with all neighbours.
ready(Nodes) ->
    routed(Nodes),
    [?wait(is_open(N)) || N <- Nodes].

routed(Nodes) ->
    Names = pt_cluster:names(Nodes),
    [?wait(lists:sort([pt_peer:node(N) | pt_cluster:neighbours(N)] ++ routes(N)) =:= Names) || N <- Nodes].

routes(N) -> [Dest || {Dest, _} <- pt_peer:call(N, partisan_overlay_shell, routes, [])].

is_open(N) ->
    #{open := Open} = lanes_info(N),
    lists:sort(Open) =:= pt_cluster:neighbours(N).

%% As of the table in force.
lanes_info(N) -> pt_peer:call(N, partisan_relay_lanes, info, []).

info(N) ->
    #{relay := Relay} = pt_peer:call(N, partisan_dist, info, []),
    Relay.

%% The carrier's counters of a node, as they change while Fun runs until Until is true of the changes.
changes(N, Fun, Until) ->
    Before = info(N),
    Fun(),
    Now = fun() -> maps:map(fun(Key, Value) -> Value - map_get(Key, Before) end, info(N)) end,
    ?wait(Until(Now())),
    Now().

forward(From, To, Dest, Message) -> forward(From, To, Dest, Message, #{}).

forward(From, To, Dest, Message, Opts) ->
    pt_peer:call(From, partisan, forward_message, [pt_peer:node(To), Dest, Message, Opts]).

numbers(From, To, Dest, First, Last) ->
    Node = pt_peer:node(To),
    ok = pt_peer:eval(From, fun() ->
                                    [ok = partisan:forward_message(Node, Dest, I, #{})
                                     || I <- lists:seq(First, Last)],
                                    ok
                            end).

is_atom_of(N, Text) ->
    try is_atom(pt_peer:call(N, erlang, binary_to_existing_atom, [Text, utf8]))
    catch error:badarg -> false
    end.

%% ------------------------------------------------------------------------------------------------

%% Relays do not decode: an atom of the message never comes to be there; nor does their Erlang hear of
%% it. Small messages are copied, large ones go on in the binary in which they came.
undecoded(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    lists:foreach(
      fun(Size) ->
              Text = list_to_binary(["only_at_the_ends_", integer_to_list(Size), $_,
                                     integer_to_list(erlang:unique_integer([positive]))]),
              Node = pt_peer:node(D),
              Send = fun() ->
                             ok = pt_peer:eval(A, fun() ->
                                 Atom = binary_to_atom(Text, utf8),
                                 partisan:forward_message(Node, Sink, {Atom, binary:copy(<<7>>, Size)}, #{})
                             end)
                     end,
              Got = fun() -> pt_peer:collected(D, Sink) end,
              Before = length(Got()),
              ?assertMatch(#{passed := 1, handed := 0, delivered := 0},
                           changes(B, Send, fun(#{passed := Passed}) -> Passed =:= 1 end)),
              ?wait(length(Got()) =:= Before + 1),
              ?assert(pt_peer:eval(D, fun() -> is_atom(binary_to_existing_atom(Text, utf8)) end)),
              ?assertEqual([false, false], [is_atom_of(N, Text) || N <- [B, C]]),
              ?assert(pt_peer:eval(D, fun() ->
                  Ref = make_ref(),
                  Sink ! {pt_collected, self(), Ref},
                  receive {Ref, L} -> element(2, lists:last(L)) =:= binary:copy(<<7>>, Size) end
              end))
      end, [0, 300, 10000, 100000, 3000000]),
    ?assertMatch(#{sent := Sent} when Sent >= 5, info(A)),
    ?assertMatch(#{delivered := N} when N >= 5, info(D)),
    %% The Erlang relay had nothing to do anywhere.
    [?assertEqual(#{}, pt_peer:call(N, gen_server, call, [partisan_relay, counters])) || N <- [A, B, C, D]].

%% From one sender to one process, sizes mixed, while others send, too. Less than a relay's queue holds.
in_order(Config) ->
    [A, B, _, D] = proplists:get_value(line, Config),
    Node = pt_peer:node(D),
    Numbers = lists:seq(1, 1000),
    Flows = [{From, pt_peer:spawn_collector(D)} || From <- [A, A, B]],
    [true = is_pid(pt_peer:eval(From, fun() ->
         spawn(fun() -> [ok = partisan:forward_message(Node, Sink, sized(I), #{}) || I <- Numbers] end)
     end)) || {From, Sink} <- Flows],
    [begin
         ?wait(pt_peer:eval(D, fun() -> length(got(Sink)) =:= 1000 end)),
         ?assert(pt_peer:eval(D, fun() -> got(Sink) =:= [sized(I) || I <- Numbers] end))
     end || {_, Sink} <- Flows].

sized(I) -> {I, binary:copy(<<I:8>>, size_of(I))}.

size_of(I) when I rem 100 =:= 0 -> 70000;
size_of(I) when I rem 10 =:= 0 -> 5000;
size_of(I) -> I rem 200.

%% On the node of the collector.
got(Sink) ->
    Ref = make_ref(),
    Sink ! {pt_collected, self(), Ref},
    receive {Ref, L} -> L end.

%% Names, aliases, processes that are no more; with a trace token, too.
to_anybody(Config) ->
    [A, _, _, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    true = pt_peer:call(D, erlang, register, [relay_sink, Sink]),
    Alias = pt_peer:eval(D, fun() ->
                                    Self = self(),
                                    Sink ! {pt_do, Self, alias, fun() -> alias() end},
                                    receive {alias, Alias} -> Alias end
                            end),
    Dead = pt_peer:eval(D, fun() -> spawn(fun() -> ok end) end),
    [?assertEqual(ok, forward(A, D, Dest, Message))
     || {Dest, Message} <- [{Dead, x}, {nobody_has_this_name, x}, {relay_sink, 1}, {Alias, 2}]],
    Node = pt_peer:node(D),
    ok = pt_peer:eval(A, fun() ->
                                 _ = seq_trace:set_token(label, 17),
                                 Results = [partisan:forward_message(Node, Dest, Message, #{})
                                            || {Dest, Message} <- [{relay_sink, 3}, {Sink, 4}, {Alias, 5}]],
                                 _ = seq_trace:set_token([]),
                                 [ok, ok, ok] = Results,
                                 ok
                         end),
    ?wait(pt_peer:how_many(D, Sink) >= 5),
    ?assertEqual([1, 2, 3, 4, 5], lists:sort(pt_peer:collected(D, Sink))),
    true = pt_peer:call(D, erlang, unregister, [relay_sink]).

%% A message may take so many links and no more.
hops(Config) ->
    [A, _, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Send = fun(Hops) -> ok = pt_peer:call(A, partisan_relay, send, [pt_peer:node(D), Sink, Hops, Hops]) end,
    ?assertMatch(#{no_hops := 2, passed := 0},
                 changes(C, fun() -> [Send(2), Send(2)] end, fun(#{no_hops := N}) -> N >= 2 end)),
    [Send(Hops) || Hops <- [3, 255, 1000]],
    ?wait(pt_peer:collected(D, Sink) =:= [3, 255, 1000]).

%% ------------------------------------------------------------------------------------------------

%% An envelope made by hand, with the packet that partisan_channel would make.
envelope(Node, Hops, Number, Packet) ->
    Name = atom_to_binary(Node, utf8),
    <<$r, 1, Hops, 4711:64, Number:64, 1:64, (byte_size(Name)):16, Name/binary, Packet/binary>>.

packet(Control, Message) ->
    <<131, 104, 2, Rest/binary>> = term_to_binary({Control, Message}),
    <<131, 68, 0, Rest/binary>>.

%% As if From had been handed it, to the neighbour To.
hand_on(From, To, Envelope) ->
    pt_peer:call(From, partisan_nif, relay_hand_on, [handle(From, To), Envelope]).

handle(From, To) ->
    {_, Handle, _, _, _} = pt_peer:call(From, partisan_channel_srv, lookup, [pt_peer:node(To), ?CHANNEL]),
    Handle.

%% What comes a second time is not delivered again, whatever way it takes.
twice(Config) ->
    [_, B, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Send = fun(From, To, N) ->
                   ok = hand_on(From, To, envelope(pt_peer:node(D), 9, N, packet({22, Sink, Sink}, N)))
           end,
    ?assertMatch(#{delivered := 3, doubled := 3},
                 changes(D, fun() -> [Send(F, T, N) || {F, T, N} <- [{C, D, 1}, {B, C, 2}, {C, D, 1},
                                                                    {C, D, 2}, {B, C, 3}, {B, C, 1}]]
                            end, fun(#{delivered := X, doubled := Y}) -> X + Y >= 6 end)),
    ?assertEqual([1, 2, 3], lists:sort(pt_peer:collected(D, Sink))).

%% What is no envelope, and packets that the VM would end the connection for: dropped and counted, and
%% the connection stands.
malformed(Config) ->
    [_, B, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Node = pt_peer:node(D),
    Session = fun() -> #{session_id := Id} = pt_peer:call(C, partisan_nif, session, [Node]), Id end,
    Before = Session(),
    Bad = [packet(Control, x) || Control <- [{22, Sink, not_a_pid}, {22, Sink}, {22, '', Sink}, {6, Sink, '', Sink},
                                             {1, Sink, Sink}, {3, Sink, Sink, kill}, {4711, Sink, Sink},
                                             {33, Sink, Sink}, {22, Sink, Sink, Sink}, {},
                                             %% a VM that got one of these would fall
                                             {23, Sink, Sink, not_a_token}, {16, Sink, '', x, {1, 2, 3}}]]
        ++ [<<1, 2, 3>>, <<131, 68, 0>>, <<131, 68, 1, 104>>, <<131, 69, 0:200>>],
    Raw = [<<131, 104, 2, 97, 1, 97, 2>>, <<$z, 10:32, 1, 2, 3>>],
    ?assertMatch(#{delivered := 0},
                 changes(D, fun() ->
                                    [ok = hand_on(C, D, envelope(Node, 9, I, Packet))
                                     || {I, Packet} <- lists:zip(lists:seq(1, length(Bad)), Bad)],
                                    [ok = pt_peer:call(C, partisan_nif, channel_send,
                                                       [handle(C, D), [Bytes], none, none, none])
                                     || Bytes <- Raw]
                            end, fun(#{malformed := N}) -> N >= length(Bad) + length(Raw) end)),
    [?assertEqual(malformed, hand_on(B, C, Bytes))
     || Bytes <- [<<>>, <<"r">>, <<$r, 1, 9, 1:64, 2:64, 3:64, 5:16, "abc">>, envelope(Node, 1, 1, <<"x">>),
                  envelope(Node, 9, 1, <<>>)]],
    [?assertError(badarg, pt_peer:call(B, partisan_nif, Function, Args))
     || {Function, Args} <- [{relay_hand_on, [make_ref(), <<>>]}, {relay_hand_on, [x, x]},
                             {relay_send, [<<"n">>, 1, <<"c">>, false, none, [<<"zzzzzzzzz">>], none]},
                             {relay_send, [<<"n">>, 1, <<"c">>, false, none, x, none]},
                             {relay_send_term, [<<"n">>, 1, <<"c">>, false, none, x]},
                             {relay_set, [<<"n">>, [<<"c">>], [x], <<>>, true]},
                             {relay_set, [<<"n">>, [<<"c">>], [{x}], <<>>, true]},
                             {relay_set, [<<"n">>, [<<"c">>], [{}], <<>>, true]},
                             {relay_set, [<<"n">>, [<<"c">>], x, <<>>, true]},
                             {relay_set, [<<"n">>, [], [], <<>>, true]},
                             {relay_set, [<<"n">>, [<<>>], [], <<>>, true]},
                             {relay_set, [<<"n">>, [c], [], <<>>, true]},
                             {relay_set, [<<"n">>, c, [], <<>>, true]},
                             {relay_set, [<<"n">>, [binary:copy(<<"c">>, 256)], [], <<>>, true]},
                             {relay_set, [<<>>, [<<"c">>], [], <<>>, true]},
                             {relay_set, [<<"n">>, [<<"c">>], [], <<1>>, true]}]
         ++ [{Function, Given ++ Rest}
             || Given <- [[<<>>, 1, <<"c">>, false, none], [<<"n">>, 0, <<"c">>, false, none],
                          [<<"n">>, 256, <<"c">>, false, none], [<<"n">>, 1, <<>>, false, none],
                          [<<"n">>, 1, c, false, none], [<<"n">>, 1, <<"c">>, 1, none],
                          [<<"n">>, 1, binary:copy(<<"c">>, 256), false, none],
                          [<<"n">>, 1, <<"c">>, false, -1], [<<"n">>, 1, <<"c">>, false, <<>>],
                          [<<"n">>, 1, <<"c">>, false, 1 bsl 32], [x, 1, <<"c">>, false, none],
                          [binary:copy(<<"n">>, 1021), 1, <<"c">>, false, none]],
                {Function, Rest} <- [{relay_send, [[<<131, 104, 2, 1, 2, 3>>], none]},
                                     {relay_send_term, [{{}, x}]}]]],
    ok = forward(B, D, Sink, 'after'),
    ?wait(pt_peer:collected(D, Sink) =:= ['after']),
    ?assertEqual(Before, Session()).

%% A message that no VM can decode, behind a good control tuple, costs itself and a line in the log; the
%% connection with the relay that it came from stands. What is only unusual arrives.
corrupt(Config) ->
    [_, _, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Node = pt_peer:node(D),
    Session = fun() -> #{session_id := Id} = pt_peer:call(C, partisan_nif, session, [Node]), Id end,
    Before = Session(),
    Whole = packet({22, Sink, Sink}, []),                                  % the last byte is the message
    Front = binary:part(Whole, 0, byte_size(Whole) - 1),
    Base = erlang:unique_integer([positive]) bsl 16,
    Good = [0, -1, 1 bsl 62, -(1 bsl 100), 1 bsl 5000, 0.5, -1.0e300, '', atom, 'größe', '日本', [], [1, 2 | 3],
            "string", lists:seq(1, 1000), lists:seq(1, 70000), <<>>, <<5:3>>, binary:copy(<<1>>, 5000), {}, {a, {b}},
            list_to_tuple(lists:seq(1, 300)), #{}, #{a => 1, b => #{2 => 3}}, maps:from_list([{I, I} || I <- lists:seq(1, 50)]),
            Sink, make_ref(), pt_peer:call(D, erlang, make_ref, []), hd(erlang:ports()), fun lists:map/2, fun() -> Base end],
    Bad = [<<>>, <<131>>, <<106, 106>>, <<109, 5:32, 1>>, <<70, 16#7ff0:16, 0:48>>, <<70, 16#fff8:16, 0:48>>,
           <<99, 0:248>>, <<119, 2, 16#c3, 16#28>>, <<118, 300:16, 0:2400>>, <<100, 300:16, 0:2400>>, <<82, 0>>,
           <<108, 1:32, 97, 1>>, <<108, 16#ffffffff:32, 106>>, <<104, 2, 97, 1>>, <<105, 16#ffffffff:32>>,
           <<116, 2:32, 97, 1, 97, 1, 97, 1, 97, 2>>, <<116, 2:32, 97, 1, 97, 1, 98, 1:32, 97, 2>>,
           <<116, 16#ffffffff:32>>, <<77, 1:32, 9, 1>>, <<88, 97, 1, 0:96>>, <<112, 0:200>>, <<113, 119, 0, 119, 0, 106>>,
           <<117, 0:64>>, <<90, 9:16, 119, 0, 0:320>>, <<75, 0, 1>>, <<200>>],
    Send = fun({I, Message}) -> ok = hand_on(C, D, envelope(Node, 9, Base + I, <<Front/binary, Message/binary>>)) end,
    Count = length(Bad),
    ?assertMatch(#{delivered := 0, malformed := Count},
                 changes(D, fun() -> lists:foreach(Send, lists:enumerate(Bad)) end,
                         fun(#{malformed := M, delivered := X}) -> M + X >= Count end)),
    ?assertEqual([], pt_peer:collected(D, Sink)),
    lists:foreach(Send, [{Count + I, <<Rest/binary>>} || {I, Term} <- lists:enumerate(Good),
                                                         <<131, Rest/binary>> <- [term_to_binary(Term)]]),
    ?wait(pt_peer:eval(D, fun() -> length(got(Sink)) >= length(Good) end)),
    ?assert(pt_peer:eval(D, fun() -> got(Sink) =:= Good end)),
    ?assertEqual(Before, Session()).

%% ------------------------------------------------------------------------------------------------

%% A neighbour that takes nothing: what is for it waits, then is dropped and counted, and keeps up
%% nothing else. What was not dropped arrives in order.
full(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    [SinkC, SinkD] = [pt_peer:spawn_collector(N) || N <- [C, D]],
    pt_chan:lanes(C, D, ?CHANNEL, pause_send),
    #{overrun := LostBefore} = info(B),
    #{overrun := LostBeforeC, passed := PassedBefore} = info(C),
    %% Some may be lost at B, which does not know how much C has taken yet.
    Accounted = fun(Count) ->
                        #{overrun := LostAtB} = info(B),
                        #{overrun := Lost, passed := Passed} = info(C),
                        Passed - PassedBefore + Lost - LostBeforeC + LostAtB - LostBefore =:= Count
                end,
    Passed = until_lost(fun(First, Last) ->
                                numbers(A, D, SinkD, First, Last),
                                ?wait(Accounted(Last)),
                                #{overrun := Lost, passed := P} = info(C),
                                {Lost - LostBeforeC, P - PassedBefore}
                        end, 1, 9000),       % the queue takes 8192
    ok = forward(A, C, SinkC, hello),
    ?wait(pt_peer:collected(C, SinkC) =:= [hello]),
    ?assertEqual([], pt_peer:collected(D, SinkD)),
    pt_chan:lanes(C, D, ?CHANNEL, resume_send),
    ?wait(pt_peer:how_many(D, SinkD) =:= Passed),
    Got = pt_peer:collected(D, SinkD),
    ?assertEqual(lists:usort(Got), Got),
    ?assertMatch(#{overrun := N} when N > 0, pt_peer:call(C, partisan_relay, counters, [])).

until_lost(Send, First, Last) ->
    case Send(First, Last) of
        {0, _} -> until_lost(Send, Last + 1, Last + 1000);
        {_, Passed} -> Passed
    end.

%% The first neighbour takes nothing: the sender waits, if it wants to.
first_full(Config) ->
    [_, B, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Node = pt_peer:node(D),
    pt_chan:lanes(B, C, ?CHANNEL, pause_send),
    Large = binary:copy(<<1>>, 1 bsl 20),
    ok = pt_peer:eval(B, fun() -> until_busy(Node, Sink, Large, #{}, 100) end),
    ?assertEqual({error, timeout}, forward(B, D, Sink, x, #{timeout => 10})),
    ?assertEqual({error, timeout}, forward(B, D, Sink, Large, #{timeout => 0})),
    Self = self(),
    Waiting = spawn_link(fun() -> Self ! {self(), forward(B, D, Sink, x)} end),
    ?wait(1 =:= maps:get(waiting, pt_chan:info(B, C, ?CHANNEL))),
    pt_chan:lanes(B, C, ?CHANNEL, resume_send),
    receive {Waiting, Result} -> ?assertEqual(ok, Result) after 60000 -> error(waits) end,
    arrives(B, D, Sink).

until_busy(_Node, _Sink, _Message, _Opts, 0) -> never;
until_busy(Node, Sink, Message, Opts, N) ->
    case partisan:forward_message(Node, Sink, Message, Opts#{nosuspend => true}) of
        ok -> until_busy(Node, Sink, Message, Opts, N - 1);
        {error, busy} -> ok
    end.

%% Best effort, so again until it does.
arrives(From, To, Sink) -> arrives(From, To, Sink, #{}).

arrives(From, To, Sink, Opts) ->
    Ref = make_ref(),
    ?wait(begin
              ok = forward(From, To, Sink, Ref, Opts),
              lists:member(Ref, pt_peer:collected(To, Sink))
          end).

%% ------------------------------------------------------------------------------------------------
%% Options

relayed(Channel) -> binary_to_atom(<<"$partisan_relay.", (atom_to_binary(Channel, utf8))/binary>>, utf8).

%% Messages that a node has sent to its neighbour on a channel.
out(From, To, Channel) -> maps:get(messages_out, pt_chan:info(From, To, Channel), 0).

%% A message takes the channel it is for at every hop, and no other one's; the first ones in order, too,
%% though each relay has to open it for them.
by_channel(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    Node = pt_peer:node(D),
    Links = [{A, B}, {B, C}, {C, D}],
    [begin
         Sink = pt_peer:spawn_collector(D),
         Before = [{out(X, Y, ?CHANNEL), out(X, Y, relayed(Channel))} || {X, Y} <- Links],
         ok = pt_peer:eval(A, fun() ->
                                      [ok = partisan:forward_message(Node, Sink, sized(I), #{channel => Channel})
                                       || I <- lists:seq(1, 300)],
                                      ok
                              end),
         ?wait(pt_peer:eval(D, fun() -> length(got(Sink)) >= 300 end)),
         ?assert(pt_peer:eval(D, fun() -> got(Sink) =:= [sized(I) || I <- lists:seq(1, 300)] end)),
         ?assertEqual([{Common, Own + 300} || {Common, Own} <- Before],
                      [{out(X, Y, ?CHANNEL), out(X, Y, relayed(Channel))} || {X, Y} <- Links]),
         [?assert(lists:member(pt_peer:node(Y), maps:get(Channel, maps:get(channels, lanes_info(X)))))
          || {X, Y} <- Links]
     end || Channel <- [bulk, mono, zip]],
    ?assertMatch([3, 3, 3], [maps:get(lanes_wanted, pt_chan:info(X, Y, relayed(bulk))) || {X, Y} <- Links]),
    %% No such channel here: by the common one, if that may be.
    Sink = pt_peer:spawn_collector(D),
    ?assertEqual(ok, forward(A, D, Sink, 1, #{channel => nobody_has_this})),
    ?assertEqual({error, {unknown_channel, nobody_has_this}},
                 forward(A, D, Sink, 2, #{channel => nobody_has_this, channel_fallback => false})),
    ?assertEqual(ok, forward(A, D, Sink, 3, #{channel => bulk, channel_fallback => false})),
    ?wait(lists:sort(pt_peer:collected(D, Sink)) =:= [1, 3]),
    %% Acknowledged ones take it as well.
    Acked = out(B, C, relayed(bulk)),
    ?assertEqual(ok, forward(A, D, Sink, 4, #{channel => bulk, retransmission => true})),
    ?wait(lists:member(4, pt_peer:collected(D, Sink))),
    ?assert(out(B, C, relayed(bulk)) > Acked).

%% Messages of one key take the same lane at all hops, whoever sends them, and different keys do not all.
%% One message at a time: a lane that is in use leaves what comes to another one.
by_key(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    Node = pt_peer:node(D),
    Sink = pt_peer:spawn_collector(D),
    Links = [{A, B}, {B, C}, {C, D}],
    Lanes = fun() -> [[Sends || #{sends := Sends} <- maps:get(lanes, pt_chan:info(X, Y, relayed(bulk)), [])]
                      || {X, Y} <- Links]
            end,
    One = fun(Key) ->
                  Ref = make_ref(),
                  ok = forward(A, D, Sink, Ref, #{channel => bulk, partition_key => Key}),
                  ?wait(lists:member(Ref, pt_peer:collected(D, Sink)))
          end,
    One(0),
    ?wait(lists:all(fun(Of) -> length(Of) =:= 3 end, Lanes())),
    Used = fun(Key) ->
                   Before = Lanes(),
                   [One(Key) || _ <- lists:seq(1, 5)],
                   [[I || {I, More} <- lists:zip([0, 1, 2], lists:zipwith(fun erlang:'-'/2, Now, Then)), More > 0]
                    || {Now, Then} <- lists:zip(Lanes(), Before)]
           end,
    Taken = [Used(Key) || Key <- lists:seq(1, 8)],
    [?assertMatch([[Lane], [Lane], [Lane]], Of) || Of <- Taken],
    ?assert(length(lists:usort(Taken)) > 1),
    %% In order for each key, all at once.
    Keyed = pt_peer:spawn_collector(D),
    ok = pt_peer:eval(A, fun() ->
                                 [ok = partisan:forward_message(Node, Keyed, {I rem 5, I},
                                                                #{channel => bulk, partition_key => I rem 5})
                                  || I <- lists:seq(1, 1000)],
                                 ok
                         end),
    ?wait(length(pt_peer:collected(D, Keyed)) =:= 1000),
    Got = pt_peer:collected(D, Keyed),
    [?assertEqual([I || I <- lists:seq(1, 1000), I rem 5 =:= Key], [I || {K, I} <- Got, K =:= Key])
     || Key <- lists:seq(0, 4)].

%% A first neighbour that takes nothing: `busy`, and a message for each node when it is worth trying again.
notified(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    Sinks = [{N, pt_peer:node(N), pt_peer:spawn_collector(N)} || N <- [C, D]],
    [{C, _, SinkC}, {D, NodeD, SinkD}] = Sinks,
    [begin
         ok = forward(A, D, SinkD, first, #{channel => Channel}),
         Relay = case Channel of undefined -> ?CHANNEL; _ -> relayed(Channel) end,
         pt_chan:lanes(A, B, Relay, pause_send),
         Large = binary:copy(<<1>>, 1 bsl 20),
         ok = pt_peer:eval(A, fun() -> until_busy(NodeD, SinkD, Large, #{channel => Channel}, 100) end),
         Collector = pt_peer:spawn_collector(A),
         Ask = fun(Node, Sink) ->
                       pt_peer:eval(A, fun() ->
                           Self = self(),
                           Collector ! {pt_do, Self, asked, fun() ->
                               partisan:forward_message(Node, Sink, x, #{channel => Channel, notify => true})
                           end},
                           receive {asked, Answer} -> Answer end
                       end)
               end,
         [?assertEqual({error, busy}, Ask(Node, Sink)) || {_, Node, Sink} <- Sinks, _ <- [1, 2]],
         ?assertEqual([], pt_peer:collected(A, Collector)),
         pt_chan:lanes(A, B, Relay, resume_send),
         ?wait(length(pt_peer:collected(A, Collector)) >= 2),
         ?assertEqual(lists:sort([{partisan_channel, Node, Channel, writable} || {_, Node, _} <- Sinks]),
                      lists:sort(pt_peer:collected(A, Collector))),
         [?assertEqual(ok, Ask(Node, Sink)) || {_, Node, Sink} <- Sinks]
     end || Channel <- [bulk, undefined]],
    [arrives(A, N, Sink) || {N, Sink} <- [{C, SinkC}, {D, SinkD}]].

%% A full channel at a relay keeps nothing up that is on another one.
separate(Config) ->
    [A, _, C, D] = proplists:get_value(line, Config),
    [Bulk, Small] = [pt_peer:spawn_collector(D) || _ <- [1, 2]],
    ok = forward(A, D, Bulk, 0, #{channel => bulk}),
    ?wait(pt_peer:collected(D, Bulk) =:= [0]),
    pt_chan:lanes(C, D, relayed(bulk), pause_send),
    Large = binary:copy(<<1>>, 1 bsl 20),
    #{overrun := Before} = info(C),
    ?wait(begin
              ok = forward(A, D, Bulk, Large, #{channel => bulk}),
              #{overrun := Lost} = info(C),
              Lost > Before
          end),
    numbers(A, D, Small, 1, 100),
    ?wait(pt_peer:collected(D, Small) =:= lists:seq(1, 100)),
    pt_chan:lanes(C, D, relayed(bulk), resume_send),
    arrives(A, D, Bulk).

%% A channel that was closed since nobody used it is opened by the next message, at each relay.
opened_again(Config) ->
    [A, B, C, D] = proplists:get_value(line, Config),
    Sink = pt_peer:spawn_collector(D),
    Links = [{A, B}, {B, C}, {C, D}],
    [begin
         ok = forward(A, D, Sink, I, #{channel => brief}),
         ?wait(lists:member(I, pt_peer:collected(D, Sink))),
         [?wait(pt_chan:info(X, Y, relayed(brief)) =:= #{}) || {X, Y} <- Links]
     end || I <- [1, 2, 3]],
    %% Without patience a sender has it opened and comes back.
    ?wait(case forward(A, D, Sink, 4, #{channel => brief, nosuspend => true}) of
              ok -> true;
              {error, busy} -> false
          end),
    ?wait(lists:member(4, pt_peer:collected(D, Sink))).

%% The process that makes the table fails: the overlay starts anew, and all is as before.
restarted(Config) ->
    [A, B, _, D] = Nodes = proplists:get_value(line, Config),
    Old = pt_peer:call(B, erlang, whereis, [partisan_relay_lanes]),
    true = pt_peer:call(B, erlang, exit, [Old, kill]),
    ?wait(not lists:member(pt_peer:call(B, erlang, whereis, [partisan_relay_lanes]), [Old, undefined])),
    [ok = pt_cluster:service(Y, join, [pt_peer:node(X)])
     || {X, Y} <- lists:zip(lists:droplast(Nodes), tl(Nodes))],
    ready(Nodes),
    Sink = pt_peer:spawn_collector(D),
    ?assertMatch(#{passed := 100, handed := 0},
                 changes(B, fun() -> numbers(A, D, Sink, 1, 100) end, fun(#{passed := N}) -> N >= 100 end)),
    ?wait(pt_peer:collected(D, Sink) =:= lists:seq(1, 100)).

%% ------------------------------------------------------------------------------------------------

diamond() ->
    [A, B, C, D] = start(4),
    linked([{A, B}, {A, C}, {B, D}, {C, D}], [A, B, C, D]).

via(From, To, Nodes) ->
    {ok, Via} = pt_peer:call(From, partisan_overlay_shell, route, [pt_peer:node(To)]),
    hd([N || N <- Nodes, pt_peer:node(N) =:= Via]).

%% The neighbour that the route names is gone, and nobody knows it yet.
other_way_at_once(_Config) ->
    [A, B, C, D] = Nodes = diamond(),
    Via = via(A, D, Nodes),
    [Other] = [B, C] -- [Via],
    Sink = pt_peer:spawn_collector(D),
    ?wait(begin #{ways := Ways} = lanes_info(A), length(maps:get(pt_peer:node(D), Ways, [])) =:= 2 end),
    [ok = pt_peer:call(A, sys, suspend, [P]) || P <- [partisan_overlay_shell, partisan_relay_lanes]],
    _ = pt_peer:call(A, erlang, disconnect_node, [pt_peer:node(Via)]),
    ?wait(not lists:member(pt_peer:node(Via), pt_peer:call(A, erlang, nodes, [connected]))),
    ?assertMatch(#{passed := 100},
                 changes(Other, fun() -> numbers(A, D, Sink, 1, 100) end, fun(#{passed := N}) -> N >= 100 end)),
    ?wait(pt_peer:collected(D, Sink) =:= lists:seq(1, 100)),
    [ok = pt_peer:call(A, sys, resume, [P]) || P <- [partisan_overlay_shell, partisan_relay_lanes]],
    pt_cluster:stop(Nodes).

%% Relays die under traffic, in both directions; what is acknowledged arrives once and in order.
killed(_Config) ->
    [A, B, C, D] = Nodes = diamond(),
    Flows = [pt_flow:start(From, To, #{retransmission => true}) || {From, To} <- [{A, D}, {D, A}]],
    [?wait(pt_flow:received(Flow) > 50) || Flow <- Flows],
    Via = via(A, D, Nodes),
    [Other] = [B, C] -- [Via],
    pt_peer:kill(Via),
    Left = [A, Other, D],
    [begin
         Before = pt_flow:received(Flow),
         ?wait(pt_flow:received(Flow) > Before + 50)
     end || Flow <- Flows],
    [begin
         Sent = pt_flow:stop(Flow),
         ?wait(pt_flow:received(Flow) >= Sent),
         ?assertEqual(lists:seq(1, Sent), pt_flow:all(Flow))
     end || Flow <- Flows],
    ?wait(pt_peer:call(A, partisan_overlay_shell, route, [pt_peer:node(D)]) =:= {ok, pt_peer:node(Other)}),
    ?assertMatch(#{passed := N} when N > 0, info(Other)),
    arrives(A, D, pt_peer:spawn_collector(D)),
    pt_cluster:stop(Left).

%% ------------------------------------------------------------------------------------------------

%% partisan_rpc reaches any member, and no connection is made for it; a call that waits for an answer is told
%% when the overlay has no way to that node any more.
called(_Config) ->
    [A, B, C] = line(3),
    NodeC = pt_peer:node(C),
    Call = fun(Args) -> pt_peer:call(A, partisan_rpc, call, [NodeC | Args]) end,
    Big = binary:copy(<<"big">>, 300000),
    ?assertEqual(NodeC, Call([erlang, node, []])),
    ?assertEqual(Big, Call([erlang, iolist_to_binary, [[Big]], #{timeout => 60000}])),
    ?assertEqual({badrpc, badarg}, Call([erlang, atom_to_list, [1], 60000])),
    ?assertEqual({badrpc, timeout}, Call([timer, sleep, [infinity], 50])),
    ?assertNot(lists:member(NodeC, pt_peer:call(A, erlang, nodes, [connected]))),
    Sink = pt_peer:spawn_collector(A),
    pt_peer:eval(A, fun() ->
                            _ = spawn(fun() -> Sink ! partisan_rpc:call(NodeC, timer, sleep, [infinity]) end),
                            ok
                    end),
    ?wait(pt_peer:call(C, ?MODULE, sleepers, []) >= 2),
    pt_peer:kill(C),
    ?wait(pt_peer:collected(A, Sink) =:= [{badrpc, disconnected}]),
    pt_cluster:stop([A, B]).

%% Processes that sleep for ever, of a call.
sleepers() ->
    length([P || P <- processes(),
                 {current_function, {timer, sleep, 1}} =:= erlang:process_info(P, current_function)]).

%% A neighbour whose channel is being opened: messages wait, and go before those that follow them.
held(_Config) ->
    [A, B] = line(2),
    [E] = start(1),
    SinkE = pt_peer:spawn_collector(E),
    SinkA = pt_peer:spawn_collector(A),
    ok = pt_peer:call(B, sys, suspend, [partisan_channel_srv]),
    ok = pt_cluster:service(E, join, [pt_peer:node(B)]),
    [?wait(pt_peer:call(X, partisan_overlay_shell, route, [pt_peer:node(Y)]) =:= {ok, pt_peer:node(B)})
     || {X, Y} <- [{A, E}, {E, A}]],
    changes(B, fun() -> numbers(A, E, SinkE, 1, 100) end, fun(#{handed := N}) -> N >= 100 end),
    Self = self(),
    Sender = spawn_link(fun() -> Self ! {self(), forward(E, A, SinkA, waited)} end),
    ok = pt_peer:call(B, sys, resume, [partisan_channel_srv]),
    receive {Sender, Result} -> ?assertEqual(ok, Result) after 60000 -> error(waits) end,
    ?wait(pt_peer:collected(A, SinkA) =:= [waited]),
    ?wait(pt_peer:how_many(E, SinkE) >= 100),
    ?wait(is_open(B)),
    ?assertMatch(#{handed := 0},
                 changes(B, fun() -> numbers(A, E, SinkE, 101, 200) end, fun(#{passed := N}) -> N >= 100 end)),
    ?wait(pt_peer:how_many(E, SinkE) >= 200),
    ?assertEqual(lists:seq(1, 200), pt_peer:collected(E, SinkE)),
    pt_cluster:stop([A, B, E]).

%% A relay that does not have the channel: what is for it goes by the common one from there on, and takes it
%% again once the relay has it. A sender that wants no other is told so where it is its own neighbour.
not_everywhere(_Config) ->
    [A, B, D] = [start_one(#{}), start_one(#{channels => #{}}), start_one(#{})],
    C = start_one(#{}),
    Nodes = [A, C, B, D],
    linked(lists:zip(lists:droplast(Nodes), tl(Nodes)), Nodes),
    Sink = pt_peer:spawn_collector(D),
    Opts = #{channel => bulk},
    Node = pt_peer:node(D),
    ok = pt_peer:eval(A, fun() ->
                                 [ok = partisan:forward_message(Node, Sink, I, Opts) || I <- lists:seq(1, 50)],
                                 partisan:forward_message(Node, Sink, 51, Opts#{channel_fallback => false})
                         end),
    ?wait(length(pt_peer:collected(D, Sink)) >= 51),
    ?assertEqual(lists:seq(1, 51), pt_peer:collected(D, Sink)),
    ?assertEqual([51, 0, 0], [out(X, Y, relayed(bulk)) || {X, Y} <- [{A, C}, {C, B}, {B, D}]]),
    ?assertEqual({error, {unknown_channel, bulk}}, forward(C, D, Sink, x, Opts#{channel_fallback => false})),
    ok = pt_peer:call(B, partisan_config, set, [channels, ?CHANNELS]),
    arrives(B, A, pt_peer:spawn_collector(A), Opts),
    ?wait(begin
              ok = forward(A, D, Sink, more, Opts),
              out(B, D, relayed(bulk)) > 0
          end),
    ?assertEqual(ok, forward(C, D, Sink, last, Opts#{channel_fallback => false})),
    ?wait(lists:member(last, pt_peer:collected(D, Sink))),
    pt_cluster:stop(Nodes).

%% A node in the middle that runs another carrier: from its neighbours on messages go by Erlang.
without(_Config) ->
    [A, B, D] = start(3),
    C = start_one(#{carrier => "inet_tcp"}),
    Nodes = [A, B, C, D],
    [ok = pt_cluster:service(Y, join, [pt_peer:node(X)])
     || {X, Y} <- lists:zip(lists:droplast(Nodes), tl(Nodes))],
    routed(Nodes),
    ?wait(is_open_with(A, B)),
    lists:foreach(fun({From, To}) ->
                          Sink = pt_peer:spawn_collector(To),
                          numbers(From, To, Sink, 1, 200),
                          ?wait(pt_peer:how_many(To, Sink) >= 200),
                          ?assertEqual(lists:seq(1, 200), pt_peer:collected(To, Sink))
                  end, [{A, D}, {D, A}, {C, A}, {A, C}]),
    ?assertMatch(#{sent := 400}, info(A)),
    ?assertMatch(#{handed := 400}, info(B)),
    ?assertMatch(#{passed := 400}, pt_peer:call(C, partisan_relay, counters, [])),
    undecodable(A, B, D),
    pt_cluster:stop(Nodes).

%% Nobody between the first relay and B has looked into them: they cost themselves, not the process that
%% decodes for all.
undecodable(A, B, D) ->
    Lanes = pt_peer:call(B, erlang, whereis, [partisan_relay_lanes]),
    Bad = [packet(Control, x) || Control <- [{}, x, {22, x}, {22, x, y}, {6, x, y}, {6, x, y, 1}, {1, x, y}, {33, x, y, z}]]
        ++ [<<131, 68, 0>>, <<131, 68, 0, 104, 1>>, <<131, 68, 0, 131, 68>>, <<1, 2, 3>>],
    Envelopes = [envelope(pt_peer:node(D), 9, I, Packet) || {I, Packet} <- lists:zip(lists:seq(1, length(Bad)), Bad)],
    [?assertEqual(ok, hand_on(A, B, Envelope)) || Envelope <- Envelopes],
    ?wait(case pt_peer:call(B, partisan_relay, counters, []) of
              #{malformed := N} -> N >= length(Bad);
              #{} -> false
          end),
    ?assertEqual(Lanes, pt_peer:call(B, erlang, whereis, [partisan_relay_lanes])),
    arrives(A, D, pt_peer:spawn_collector(D)).

is_open_with(A, B) ->
    #{open := Open} = lanes_info(A),
    lists:member(pt_peer:node(B), Open).
