%% What a channel promises while the connection lives: addressing, order, room, replacement,
%% compression. How channels end is in channel_end_SUITE.
-module(channel_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([addresses/1, names_are_references/1, trace_token/1, refusals/1, fallback/1,
         plain_peer/1, opened_by_either_side/1, opened_by_both/1, order_under_load/1, keys_spread/1, sizes/1, own_node/1,
         full_delays_no_other/1, suspended_senders_go_on/1, timeout_and_nosuspend/1, notified/1,
         newest_only/1, explicit_keys/1, compressed/1, not_worth_compressing/1, configuration/1]).

-import(pt_chan, [info/3, lanes/4, many/6, pair/1, pair/3, send/5, send/6, sink/1, sink/2,
                  wait_info/4, wait_seen/3]).
-import(pt_pair, [on/2, stop/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [addresses, names_are_references, trace_token, refusals, fallback, plain_peer,
     opened_by_either_side, opened_by_both,
     order_under_load, keys_spread, sizes, own_node, full_delays_no_other, suspended_senders_go_on,
     timeout_and_nosuspend, notified, newest_only, explicit_keys, compressed,
     not_worth_compressing, configuration].

%% --- addressing

addresses(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Ask = fun(What) -> on(B, fun() ->
                                 Ref = make_ref(),
                                 Sink ! setelement(3, setelement(2, What, self()), Ref),
                                 receive {Ref, Answer} -> Answer end
                             end) end,
    Alias = Ask({pt_alias, none, none}),
    ok = Ask({pt_name, none, none, pt_named_sink}),
    ok = send(A, B, small, Sink, by_pid),
    ok = send(A, B, small, pt_named_sink, by_name),
    ok = send(A, B, small, Alias, by_alias),
    %% nobody there: as with `!`, nothing happens
    ok = send(A, B, small, pt_nobody_has_this_name, lost),
    Dead = on(B, fun() -> {Pid, Ref} = spawn_monitor(fun() -> ok end),
                          receive {'DOWN', Ref, _, _, _} -> Pid end end),
    ok = send(A, B, small, Dead, lost),
    ok = send(A, B, small, Sink, last),
    ?assertEqual([by_pid, by_name, by_alias, last], lists:sort(fun order/2, wait_seen(B, Sink, 4))),
    stop([A, B]).

%% The calls come from different processes, so the channel owes them no order.
order(X, Y) -> place(X) =< place(Y).
place(X) -> length(lists:takewhile(fun(E) -> E =/= X end, [by_pid, by_name, by_alias, last])).

%% What a message and its address take is less than the address as a term.
names_are_references(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Node = pt_peer:node(B),
    ok = send(A, B, small, Sink, first),
    [first] = wait_seen(B, Sink, 1),
    #{bytes_out := Before} = info(A, B, small),
    Numbers = lists:seq(1, 100),
    Size = on(A, fun() ->
                     [ok = partisan_channel:send(Node, small, Sink, N) || N <- Numbers],
                     byte_size(term_to_binary({self(), Sink}))
                 end),
    ?assertEqual([first | Numbers], wait_seen(B, Sink, 101)),
    #{bytes_out := After} = info(A, B, small),
    ?assert(After - Before < 100 * Size),
    stop([A, B]).

trace_token(_) ->
    {A, B} = pair(#{}),
    Node = pt_peer:node(B),
    Sink = on(B, fun() -> spawn(fun() -> receive {token, From} ->
                                             From ! {got, seq_trace:get_token()}
                                         end end) end),
    Got = on(A, fun() ->
                    _ = seq_trace:set_token(label, 4711),
                    _ = seq_trace:set_token('receive', true),
                    Before = seq_trace:get_token(),
                    ok = partisan_channel:send(Node, small, Sink, {token, self()}),
                    receive {got, Token} -> {Before, Token, self()} end
                end),
    {{Flags, 4711, Serial, _, _}, {Flags, 4711, Next, _, _}, _} = Got,
    ?assert(Next > Serial),
    stop([A, B]).

refusals(_) ->
    {A, B} = pair(#{}),
    C = pt_peer:start(tr),
    ?assertEqual({error, {unknown_channel, nope}}, send(A, B, nope, name, x)),
    ?assertEqual({error, {wrong_node, pt_peer:node(A)}}, send(A, B, small, sink(A), x)),
    ?assertEqual({error, not_yet_connected}, send(A, C, small, name, x)),
    ?assertMatch({error, {badarg, _}}, send(A, B, small, "name", x)),
    ?assertMatch({error, {badarg, _}}, send(A, B, small, name, x, [])),
    ok = send(A, B, small, name, x),
    pt_peer:disconnect(A, B),
    ?assertEqual({error, disconnected}, send(A, B, small, name, x)),
    ?assertEqual({error, disconnected}, send(A, B, bulk, name, x)),
    %% sending connects nobody
    ?assertEqual([], pt_peer:call(A, erlang, nodes, [])),
    stop([A, B, C]).

%% Known here and not there.
fallback(_) ->
    {A, B} = pair(#{}),
    ok = pt_peer:call(B, partisan_channel, configure, [#{small => #{}}]),
    Sink = sink(B),
    ?assertEqual({error, {unknown_channel, bulk}}, send(A, B, bulk, Sink, x)),
    ?assertEqual({error, {unknown_channel, bulk}}, send(A, B, bulk, Sink, x)),
    ok = send(A, B, bulk, Sink, by_default, #{fallback => true}),
    ok = send(A, B, nowhere, Sink, by_default, #{fallback => true}),
    ?assertEqual([by_default, by_default], wait_seen(B, Sink, 2)),
    ?assertEqual(#{}, info(A, B, bulk)),
    %% and learnt later: the answer is forgotten after a while
    ok = pt_peer:call(B, partisan_channel, configure, [#{small => #{}, bulk => #{}}]),
    ?assert(pt_peer:wait(fun() -> send(A, B, bulk, Sink, late) =:= ok end, 40000, 200)),
    ?assertEqual([by_default, by_default, late], wait_seen(B, Sink, 3)),
    stop([A, B]).

plain_peer(_) ->
    {A, B} = pt_pair:pair(#{}, #{carrier => "inet_tcp"}),
    ok = pt_peer:call(A, partisan_channel, configure, [#{small => #{}}]),
    Sink = sink(B),
    ?assertEqual({error, {unknown_channel, small}}, send(A, B, small, Sink, x)),
    ok = send(A, B, small, Sink, by_default, #{fallback => true}),
    ?assertEqual([by_default], wait_seen(B, Sink, 1)),
    stop([A, B]).

%% --- opening

opened_by_either_side(_) ->
    {A, B} = pair(#{}),
    [begin
         Sink = sink(To),
         ok = send(From, To, wide, Sink, hello),
         ?assertEqual([hello], wait_seen(To, Sink, 1)),
         ?assert(wait_info(From, To, wide, fun(#{lanes_attached := N}) -> N =:= 4; (_) -> false end)),
         ?assert(wait_info(To, From, wide, fun(#{lanes_attached := N}) -> N =:= 4; (_) -> false end))
     end || {From, To} <- [{A, B}, {B, A}]],
    %% here the side that accepted the session is the first to want a channel
    Back = sink(A),
    ok = send(B, A, zip, Back, hello),
    ?assertEqual([hello], wait_seen(A, Back, 1)),
    stop([A, B]).

%% At one time, with different wishes: the smaller one counts.
opened_by_both(_) ->
    {A, B} = pair(#{}),
    Three = #{three => #{parallelism => 3}},
    ok = pt_peer:call(A, partisan_channel, configure, [Three]),
    ok = pt_peer:call(B, partisan_channel, configure, [#{three => #{parallelism => 16}}]),
    Self = self(),
    [spawn_link(fun() -> Self ! pt_peer:call(X, partisan_channel, open, [pt_peer:node(Y), three]) end)
     || {X, Y} <- [{A, B}, {B, A}], _ <- lists:seq(1, 5)],
    ?assertEqual(lists:duplicate(10, ok), [receive Answer -> Answer end || _ <- lists:seq(1, 10)]),
    Complete = fun(#{lanes_attached := 3, lanes_wanted := 3}) -> true; (_) -> false end,
    ?assert(wait_info(A, B, three, Complete)),
    ?assert(wait_info(B, A, three, Complete)),
    stop([A, B]).

%% --- order and lanes

%% Many senders, keys and sizes at a time, over four lanes: for each sender and key, in order.
order_under_load(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B, fun({S, K, I, Bin}) -> {S, K, I, Bin =:= blob(S, I)} end),
    Node = pt_peer:node(B),
    {Senders, Each} = {12, 400},
    on(A, fun() ->
              Self = self(),
              [spawn_link(fun() ->
                              [ok = partisan_channel:send(Node, wide, Sink,
                                                          {S, I rem 3, I, blob(S, I)},
                                                          #{partition_key => I rem 3})
                               || I <- lists:seq(1, Each)],
                              Self ! done
                          end) || S <- lists:seq(1, Senders)],
              [receive done -> ok end || _ <- lists:seq(1, Senders)]
          end),
    Seen = wait_seen(B, Sink, Senders * Each),
    ?assertEqual(Senders * Each, length(Seen)),
    [?assertEqual([I || I <- lists:seq(1, Each), I rem 3 =:= K],
                  [I || {S1, K1, I, true} <- Seen, S1 =:= S, K1 =:= K])
     || S <- lists:seq(1, Senders), K <- [0, 1, 2]],
    stop([A, B]).

blob(S, I) when I rem 50 =:= 7 -> binary:copy(<<S>>, 200000 + I);
blob(S, I) when I rem 10 =:= 3 -> binary:copy(<<S>>, 20000 + I);
blob(S, I) -> binary:copy(<<S>>, I).

%% The partitions of a Riak ring are multiples of 2^160/64: all low bits are zero.
keys_spread(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    ok = pt_peer:call(A, partisan_channel, open, [pt_peer:node(B), wide]),
    ?assert(wait_info(A, B, wide, fun(#{lanes_attached := N}) -> N =:= 4; (_) -> false end)),
    Node = pt_peer:node(B),
    Frames = fun(Keys) ->
                     Before = frames(A, B),
                     Base = length(pt_chan:seen(B, Sink)),
                     on(A, fun() -> % one process: the sender makes no difference
                               [begin
                                    ok = partisan_channel:send(Node, wide, Sink, {I, self()},
                                                               #{partition_key => Key}),
                                    receive after 2 -> ok end % quiet: the first choice is free
                                end || {I, Key} <- Keys]
                           end),
                     _ = wait_seen(B, Sink, Base + length(Keys)),
                     lists:zipwith(fun(X, Y) -> X - Y end, frames(A, B), Before)
             end,
    Ring = Frames([{I, I * ((1 bsl 160) div 64)} || I <- lists:seq(0, 63)]),
    ?assertEqual(64, lists:sum(Ring)),
    ?assertEqual([], [N || N <- Ring, N < 4], Ring),
    %% one key stays where it is
    ?assertEqual([0, 0, 0, 20], lists:sort(Frames([{I, key} || I <- lists:seq(1, 20)]))),
    stop([A, B]).

frames(A, B) ->
    #{lanes := Lanes} = info(A, B, wide),
    [N || #{frames_out := N} <- Lanes].

%% Whatever is sent arrives as it was: edges of copying, pieces, frames and chunks.
sizes(_) ->
    {A, B} = pair(#{}),
    %% From OTP 27 on a node writes itself into any fun that it encodes: what it gives is compared.
    Digest = fun(T) when is_function(T, 0) -> {gives, T()};
                (T) -> erlang:phash2(term_to_binary(T))
             end,
    Sink = sink(B, Digest),
    Node = pt_peer:node(B),
    Terms = fun() ->
                [binary:copy(<<5>>, N) || N <- [0, 1, 63, 64, 65, 255, 256, 257, 4000, 4096, 4200,
                                                16384, 65535, 65536, 66048, 70000, 1000000, 9000000]]
                    ++ [[binary:copy(<<I>>, 300) || I <- lists:seq(1, 6000)], % 12000 pieces
                        fun lists:map/2, <<1:3>>, 1 bsl 5000, -1.5, #{a => [b | c], {} => ""},
                        lists:seq(1, 100000), self(), make_ref(),
                        fun() -> Node end]
            end,
    Sent = on(A, fun() ->
                     Ts = Terms(),
                     [ok = partisan_channel:send(Node, wide, Sink, T) || T <- Ts],
                     [Digest(T) || T <- Ts]
                 end),
    ?assertEqual(Sent, wait_seen(B, Sink, length(Sent))),
    stop([A, B]).

own_node(_) ->
    {A, B} = pair(#{}),
    Sink = sink(A),
    ok = send(A, A, small, Sink, here),
    ok = send(A, A, small, pt_nobody_has_this_name, lost),
    ?assertEqual([here], wait_seen(A, Sink, 1)),
    stop([A, B]).

%% --- room

full_delays_no_other(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    lanes(A, B, tiny, pause_send),
    Answers = many(A, B, tiny, Sink, {100, fun(I) -> {tiny, I, binary:copy(<<1>>, 3000)} end},
                   #{nosuspend => true}),
    #{ok := Taken, {error, busy} := Refused} = Answers,
    ?assertEqual(100, Taken + Refused),
    ?assert(Taken * 3000 >= 65536 andalso Taken < 40),
    #{queue_messages := Taken, busy_count := Busy} = info(A, B, tiny),
    ?assert(Busy >= Refused),
    %% the others, and the distribution itself
    ok = send(A, B, small, Sink, small),
    ok = send(A, B, wide, Sink, wide),
    on(A, fun() -> Sink ! plain end),
    ?assertEqual([plain, small, wide], lists:sort(wait_seen(B, Sink, 3))),
    lanes(A, B, tiny, resume_send),
    Tiny = [I || {tiny, I, _} <- wait_seen(B, Sink, 3 + Taken)],
    ?assertEqual(lists:seq(1, Taken), Tiny),
    stop([A, B]).

%% Two hundred senders wait in a full channel; when it moves again nobody is forgotten.
suspended_senders_go_on(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Node = pt_peer:node(B),
    lanes(A, B, tiny, pause_send),
    N = 200,
    Pids = on(A, fun() ->
                     [spawn(fun() ->
                                ok = partisan_channel:send(Node, tiny, Sink,
                                                           {S, binary:copy(<<2>>, 4000)}),
                                ok = partisan_channel:send(Node, tiny, Sink, {again, S})
                            end) || S <- lists:seq(1, N)]
                 end),
    Waiting = fun(#{waiting := W, queue_bytes := Q}) -> W >= 150 andalso Q > 65536; (_) -> false end,
    ?assert(wait_info(A, B, tiny, Waiting)),
    ?assert(length([P || P <- Pids, pt_peer:call(A, erlang, is_process_alive, [P])]) >= 150),
    lanes(A, B, tiny, resume_send),
    Seen = wait_seen(B, Sink, 2 * N),
    ?assertEqual(lists:seq(1, N), lists:sort([S || {S, _} <- Seen, is_integer(S)])),
    ?assertEqual(lists:seq(1, N), lists:sort([S || {again, S} <- Seen])),
    ?assertMatch(#{waiting := 0}, info(A, B, tiny)),
    stop([A, B]).

fill(A, B, Sink) ->
    lanes(A, B, tiny, pause_send),
    #{ok := Taken} = many(A, B, tiny, Sink, {40, fun(I) -> {I, binary:copy(<<1>>, 3000)} end},
                          #{nosuspend => true}),
    Taken.

timeout_and_nosuspend(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Taken = fill(A, B, Sink),
    {Time, Answer} = timer:tc(fun() -> send(A, B, tiny, Sink, late, #{timeout => 300}) end),
    ?assertEqual({error, timeout}, Answer),
    ?assert(Time >= 290000, Time), % two VMs' clocks may be corrected differently, by a percent
    ?assertEqual({error, timeout}, send(A, B, tiny, Sink, late, #{timeout => 0})),
    ?assertEqual({error, busy}, send(A, B, tiny, Sink, late, #{nosuspend => true})),
    ?assertMatch(#{waiting := 0}, info(A, B, tiny)),
    lanes(A, B, tiny, resume_send),
    ok = send(A, B, tiny, Sink, in_time, #{timeout => 30000}),
    Seen = wait_seen(B, Sink, Taken + 1),
    ?assertEqual([in_time], [M || M <- Seen, is_atom(M)]),
    stop([A, B]).

notified(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Node = pt_peer:node(B),
    _ = fill(A, B, Sink),
    Caller = pt_peer:spawn_collector(A),
    Try = fun() -> pt_pair:do_on(A, Caller, fun() ->
                                                partisan_channel:send(Node, tiny, Sink, noted,
                                                                      #{notify => true})
                                            end) end,
    ?assertEqual([{error, busy}, {error, busy}], [Try(), Try()]),
    ?assertEqual([], pt_peer:collected(A, Caller)),
    ?assertMatch(#{waiting := 1}, info(A, B, tiny)),
    lanes(A, B, tiny, resume_send),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, Caller) =/= [] end)),
    ?assertEqual([{partisan_channel, Node, tiny, writable}], pt_peer:collected(A, Caller)),
    ?assertEqual(ok, Try()),
    stop([A, B]).

%% --- monotonic channels

%% What can be sent is sent; of what waits only the newest remains, for each destination.
newest_only(_) ->
    {A, B} = pair(#{}),
    [S1, S2] = Sinks = [sink(B), sink(B)],
    Node = pt_peer:node(B),
    lanes(A, B, gossip, pause_send),
    Big = binary:copy(<<9>>, 20000), % takes all that may be ready to leave
    on(A, fun() ->
              ok = partisan_channel:send(Node, gossip, S1, {big, Big}),
              [ok = partisan_channel:send(Node, gossip, S, I) || I <- lists:seq(1, 1000), S <- Sinks]
          end),
    ?assertMatch(#{queue_messages := 3, dropped := 1998}, info(A, B, gossip)),
    lanes(A, B, gossip, resume_send),
    ?assertEqual([{big, Big}, 1000], wait_seen(B, S1, 2)),
    ?assertEqual([1000], wait_seen(B, S2, 1)),
    %% without backlog nothing is left out
    on(A, fun() ->
              [begin
                   ok = partisan_channel:send(Node, gossip, S1, {one, I, self()}),
                   pt_peer:wait(fun() -> maps:get(queue_messages, maps:get(gossip,
                                           partisan_channel:info(Node))) =:= 0 end)
               end || I <- lists:seq(1, 20)]
          end),
    ?assertEqual(lists:seq(1, 20), [I || {one, I, _} <- wait_seen(B, S1, 22)]),
    stop([A, B]).

%% Senders do not replace each other's messages; an explicit key counts for all of them, and for one
%% destination.
explicit_keys(_) ->
    {A, B} = pair(#{}),
    [S1, S2] = [sink(B), sink(B)],
    lanes(A, B, gossip, pause_send),
    ok = send(A, B, gossip, S1, {big, binary:copy(<<9>>, 20000)}),
    [ok = send(A, B, gossip, S1, {sender, I}) || I <- [1, 2, 3]], % three processes
    [ok = send(A, B, gossip, S, {key, K, I}, #{key => K})
     || I <- [1, 2, 3], K <- [a, b], S <- [S1, S2]],
    lanes(A, B, gossip, resume_send),
    [_ | Seen1] = wait_seen(B, S1, 6),
    ?assertEqual([{sender, 1}, {sender, 2}, {sender, 3}, {key, a, 3}, {key, b, 3}], lists:sort(Seen1)),
    ?assertEqual([{key, a, 3}, {key, b, 3}], lists:sort(wait_seen(B, S2, 2))),
    stop([A, B]).

%% --- compression

compressed(_) ->
    {A, B} = pair(#{}),
    %% What is large is made and looked at where it is: on the way to the test it would take minutes.
    Sink = sink(B, fun erlang:phash2/1),
    Node = pt_peer:node(B),
    Send = fun(Terms) ->
                   on(A, fun() ->
                             Ts = Terms(),
                             [ok = partisan_channel:send(Node, zip, Sink, T) || T <- Ts],
                             {[erlang:phash2(T) || T <- Ts], lists:sum([erlang:external_size(T) || T <- Ts])}
                         end)
           end,
    {Sent, Size} = Send(fun() ->
                            [lists:duplicate(N, {key, <<"some words that come again">>})
                             || N <- [1, 30, 3000, 100000]]
                        end),
    ?assertEqual(Sent, wait_seen(B, Sink, 4)),
    #{bytes_out := Out} = info(A, B, zip),
    ?assert(Out * 20 < Size, {Out, Size}),
    %% beyond the largest that is compressed
    {Large, LargeSize} = Send(fun() -> [binary:copy(<<"abcdefgh">>, 2200000)] end),
    ?assertEqual(Sent ++ Large, wait_seen(B, Sink, 5)),
    ?assert(wait_info(A, B, zip, fun(#{bytes_out := After}) -> After - Out > LargeSize end)),
    stop([A, B]).

not_worth_compressing(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Random = rand:bytes(100000),
    ok = send(A, B, zip, Sink, Random),
    ok = send(A, B, zip, Sink, short),
    ?assertEqual([Random, short], lists:reverse(lists:sort(wait_seen(B, Sink, 2)))),
    %% counted a moment after the socket took them
    ?assert(wait_info(A, B, zip, fun(#{bytes_out := Out}) -> Out > 100000 end)),
    #{bytes_out := Out} = info(A, B, zip),
    ?assert(Out < 101000, Out),
    stop([A, B]).

%% --- configuration

configuration(_) ->
    A = pt_peer:start(tr),
    Configure = fun(C) -> pt_peer:call(A, partisan_channel, configure, [C]) end,
    ok = Configure(#{b => #{parallelism => 16, compression => 9}, a => #{}}),
    ?assertEqual([a, b], pt_peer:call(A, partisan_channel, channels, [])),
    [begin
         {error, Line} = Configure(C),
         ?assertMatch({C, "partisan: " ++ _}, {C, Line}),
         ?assertNot(lists:member($\n, Line))
     end || C <- [[], #{"a" => #{}}, #{a => []}, #{a => #{parallelism => 0}},
                  #{a => #{parallelism => 17}}, #{a => #{monotonic => 1}},
                  #{a => #{compression => 10}}, #{a => #{max_queue => 1}}, #{a => #{idle => 0}},
                  #{a => #{colour => red}}, #{binary_to_atom(binary:copy(<<"ü"/utf8>>, 200)) => #{}}]],
    ?assertEqual([a, b], pt_peer:call(A, partisan_channel, channels, [])),
    stop([A]).
