%% How channels end, and what they survive: lost connections, killed peers, nonsense.
-module(channel_end_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([peer_killed_under_load/1, waiting_when_the_peer_ends/1, races_with_disconnect/1,
         halt_delivers_what_was_taken/1, lost_lane_ends_the_connection/1, unused_lanes_come_back/1,
         reopened_after_reconnect/1,
         nothing_is_kept/1, bad_arguments/1, nonsense_on_the_wire/1, strangers_at_the_port/1,
         stale_handles/1, closed_when_idle/1, closed_by_hand/1, configured_anew/1,
         configured_anew_under_load/1, configured_anew_while_it_stands/1,
         asked_by_one_that_stands_still/1]).

-import(pt_chan, [info/3, lanes/4, pair/1, send/5, send/6, sink/1, sink/2, wait_info/4, wait_seen/3]).
-import(pt_pair, [on/2, stop/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [peer_killed_under_load, waiting_when_the_peer_ends, races_with_disconnect,
     halt_delivers_what_was_taken, lost_lane_ends_the_connection, unused_lanes_come_back,
     reopened_after_reconnect,
     nothing_is_kept, bad_arguments, nonsense_on_the_wire, strangers_at_the_port, stale_handles,
     closed_when_idle, closed_by_hand, configured_anew,
     configured_anew_under_load, configured_anew_while_it_stands, asked_by_one_that_stands_still].

%% Senders on a node: each sends until an answer is no `ok`, which is the answer.
senders(A, B, Sink, Channels) ->
    Node = pt_peer:node(B),
    on(A, fun() ->
              [{spawn(fun() -> pt_parent ! {ended, self(), flood(Node, C, Sink, Size)} end), C}
               || C <- Channels, Size <- [10, 5000, 100000]]
          end).

flood(Node, Channel, Sink, Size) ->
    case partisan_channel:send(Node, Channel, Sink, binary:copy(<<3>>, Size)) of
        ok -> flood(Node, Channel, Sink, Size);
        Other -> Other
    end.

ended(A, Pid, Count) ->
    Ended = fun() -> [X || {ended, _, X} <- pt_peer:collected(A, Pid)] end,
    true = pt_peer:wait(fun() -> length(Ended()) >= Count end),
    Ended().

%% Neither knows of the other any more: one of them may be a second behind.
apart(A, B) ->
    pt_peer:wait(fun() -> [pt_peer:call(P, erlang, nodes, []) || P <- [A, B]] =:= [[], []] end).

parent(A) ->
    Pid = pt_peer:spawn_collector(A),
    true = pt_peer:call(A, erlang, register, [pt_parent, Pid]),
    Pid.

peer_killed_under_load(_) ->
    {A, B} = pair(#{}),
    Parent = parent(A),
    Sink = sink(B, fun(M) -> byte_size(M) end),
    Channels = [small, bulk, wide, gossip, zip, tiny],
    Senders = senders(A, B, Sink, Channels),
    [?assert(wait_info(A, B, C, fun(#{messages_out := N}) -> N > 5; (_) -> false end))
     || C <- Channels],
    pt_peer:kill(B),
    Answers = ended(A, Parent, length(Senders)),
    ?assertEqual([], [X || X <- Answers, X =/= {error, disconnected}]),
    ?assertEqual({error, disconnected}, send(A, B, small, name, x)),
    ?assertEqual(#{}, pt_peer:call(A, partisan_channel, info, [pt_peer:node(B)])),
    stop([A]).

%% Who waits for room hears of the end.
waiting_when_the_peer_ends(_) ->
    {A, B} = pair(#{}),
    Parent = parent(A),
    Node = pt_peer:node(B),
    Sink = sink(B),
    lanes(A, B, tiny, pause_send),
    Senders = senders(A, B, Sink, [tiny]),
    Notified = pt_peer:spawn_collector(A),
    ?assert(wait_info(A, B, tiny, fun(#{waiting := 3}) -> true; (_) -> false end)),
    {error, busy} = pt_pair:do_on(A, Notified,
                                  fun() -> partisan_channel:send(Node, tiny, Sink, x,
                                                                 #{notify => true}) end),
    pt_peer:disconnect(A, B),
    ?assertEqual([{error, disconnected}], lists:usort(ended(A, Parent, length(Senders)))),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, Notified) =/= [] end)),
    ?assertEqual([{partisan_channel, Node, tiny, writable}], pt_peer:collected(A, Notified)),
    stop([A, B]).

%% Connections come and go under processes that send all the time: each answer is one of the
%% documented ones, nobody hangs, and in the end everything works.
races_with_disconnect(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B, fun(M) when is_binary(M) -> byte_size(M); (M) -> M end),
    Node = pt_peer:node(B),
    Workers = on(A, fun() ->
                        [spawn(fun() -> worker(Node, C, Sink, #{}) end)
                         || C <- [small, wide, tiny, gossip], _ <- [1, 2]]
                    end),
    [begin
         pt_peer:connect(A, B),
         ?assert(wait_info(A, B, wide, fun(#{messages_out := N}) -> N > 20; (_) -> false end)),
         case I rem 3 of
             0 -> pt_peer:disconnect(A, B);
             1 -> pt_peer:disconnect(B, A);
             2 ->
                 on(A, fun() -> port_close(pt_peer:dist_port(Node)) end),
                 ?assert(apart(A, B))
         end
     end || I <- lists:seq(1, 12)],
    Answers = on(A, fun() ->
                        lists:foldl(fun(W, Acc) ->
                                        W ! {stop, self()},
                                        receive {W, Counts} -> maps:merge(Acc, Counts) end
                                    end, #{}, Workers)
                    end),
    ?assertEqual([], maps:keys(Answers) -- [ok, {error, disconnected}, {error, timeout}]),
    pt_peer:connect(A, B),
    Last = sink(B),
    ok = send(A, B, wide, Last, at_last),
    ?assertEqual([at_last], wait_seen(B, Last, 1)),
    stop([A, B]).

worker(Node, Channel, Sink, Counts) ->
    receive
        {stop, From} -> From ! {self(), Counts}
    after 0 ->
            Message = binary:copy(<<4>>, rand:uniform(30000)),
            Answer = partisan_channel:send(Node, Channel, Sink, Message, #{timeout => 5000}),
            Answer =:= ok orelse receive after 5 -> ok end,
            worker(Node, Channel, Sink, Counts#{Answer => true})
    end.

%% As with `!`: what the driver has taken leaves before the node ends.
halt_delivers_what_was_taken(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Node = pt_peer:node(B),
    ok = pt_peer:call(A, partisan_channel, open, [Node, wide]),
    ?assert(wait_info(A, B, wide, fun(#{lanes_attached := N}) -> N =:= 4 end)),
    lanes(A, B, wide, pause_send),
    Messages = [{I, binary:copy(<<I>>, 10000)} || I <- lists:seq(1, 200)],
    on(A, fun() -> [ok = partisan_channel:send(Node, wide, Sink, M) || M <- Messages] end),
    #{channel := No} = info(A, B, wide),
    pt_pair:cast(A, fun() ->
                        Port = pt_peer:dist_port(Node),
                        [ok = partisan_drv:test(Port, resume_send, L, No) || L <- [0, 1, 2, 3]],
                        halt()
                    end),
    ?assertEqual(Messages, wait_seen(B, Sink, 200)),
    stop([B]).

lost_lane_ends_the_connection(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    ok = send(A, B, wide, Sink, [1]),
    [1] = hd(wait_seen(B, Sink, 1)),
    ?assert(wait_info(A, B, wide, fun(#{lanes_attached := N}) -> N =:= 4 end)),
    [ok = send(A, B, wide, Sink, I, #{partition_key => I}) || I <- lists:seq(1, 40)],
    _ = wait_seen(B, Sink, 41),
    #{channel := No} = info(A, B, wide),
    Node = pt_peer:node(B),
    %% one of them: the port may be gone before the next could be named
    ok = on(A, fun() -> partisan_drv:test(pt_peer:dist_port(Node), shut, 2, No) end),
    ?assert(apart(A, B)),
    ?assertEqual({error, disconnected}, send(A, B, wide, Sink, x)),
    stop([A, B]).

%% Lanes that carried nothing: whoever opened them opens them again, whichever side lost them, and be it
%% all of the channel's.
unused_lanes_come_back(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    [begin
         ok = pt_peer:call(A, partisan_channel, open, [pt_peer:node(B), Channel]),
         AllThere = fun() ->
                        ?assert(lists:all(fun({P, Q}) ->
                            wait_info(P, Q, Channel, fun(#{lanes_attached := N}) -> N =:= Lanes;
                                                        (_) -> false end)
                        end, [{A, B}, {B, A}]))
                    end,
         AllThere(),
         Local = fun(#{lanes := Ls}) -> [{Lane, Addr} || #{lane := Lane, local := Addr} <- Ls] end,
         Before = Local(info(A, B, Channel)),
         #{channel := No} = info(Side, Other, Channel),
         Node = pt_peer:node(Other),
         on(Side, fun() ->
             Port = pt_peer:dist_port(Node),
             [ok = partisan_drv:test(Port, shut, Lane, No) || Lane <- Shut]
         end),
         ?assert(wait_info(A, B, Channel, fun(#{lanes_attached := N} = Info) ->
                                              N =:= Lanes andalso length(Before -- Local(Info)) =:= length(Shut)
                                          end)),
         AllThere(),
         ok = send(A, B, Channel, Sink, Channel)
     end || {Channel, Lanes, Shut, Side, Other} <- [{wide, 4, [1, 3], A, B}, {small, 1, [0], B, A}]],
    ?assertEqual([small, wide], lists:sort(wait_seen(B, Sink, 2))),
    stop([A, B]).

reopened_after_reconnect(_) ->
    {A, B} = pair(#{}),
    [begin
         Sink = sink(To),
         ok = send(From, To, wide, Sink, {hello, I}),
         ok = send(From, To, small, Sink, {hello, I}),
         ?assertEqual([{hello, I}, {hello, I}], wait_seen(To, Sink, 2)),
         pt_peer:disconnect(A, B),
         pt_peer:connect(B, A)
     end || I <- [1, 2, 3], {From, To} <- [{A, B}, {B, A}]],
    stop([A, B]).

%% Binaries that were sent, waited for, replaced and thrown away with a connection are referred to by
%% nobody, and the memory of both VMs is what it was.
nothing_is_kept(_) ->
    {A, B} = pair(#{}),
    Node = pt_peer:node(B),
    Round = fun(Channel) ->
                    Sink = sink(B, fun(_) -> taken end),
                    ok = pt_peer:call(A, partisan_channel, open, [Node, Channel]),
                    on(A, fun() ->
                              Bin = binary:copy(<<6>>, 300000),
                              [ok = partisan_channel:send(Node, Channel, Sink, {I, Bin})
                               || I <- lists:seq(1, 100)],
                              Gone = fun() ->
                                         garbage_collect(),
                                         {binary, Refs} = process_info(self(), binary),
                                         lists:all(fun({_, 300000, N}) -> N =< 2; (_) -> true end, Refs)
                                     end,
                              {Channel, true} = {Channel, pt_peer:wait(Gone)},
                              byte_size(Bin)
                          end)
            end,
    Memory = fun() -> [pt_peer:eval(P, fun() ->
                                            [garbage_collect(X) || X <- processes()],
                                            %% not known to a VM with malloc (sanitizers)
                                            try erlang:memory(binary)
                                            catch error:notsup -> 0
                                            end
                                        end) || P <- [A, B]] end,
    _ = [Round(C) || C <- [small, wide, gossip, zip]],
    Before = Memory(),
    _ = [Round(C) || C <- [small, wide, gossip, zip], _ <- [1, 2, 3]],
    %% and thrown away
    [begin
         lanes(A, B, C, pause_send),
         Sink = sink(B),
         on(A, fun() -> [partisan_channel:send(Node, C, Sink, binary:copy(<<I>>, 100000),
                                               #{nosuspend => true})
                         || I <- lists:seq(1, 100)] end)
     end || C <- [small, gossip, tiny]],
    pt_peer:disconnect(A, B),
    Close = fun() -> lists:all(fun({X, Y}) -> X < Y + 2000000 end, lists:zip(Memory(), Before)) end,
    ?assert(pt_peer:wait(Close, 30000, 200), {Before, Memory()}),
    ?assert(pt_peer:wait(fun() ->
                             #{queue_bytes := Left} = pt_peer:call(A, partisan_nif, info, []),
                             Left =:= 0
                         end)),
    stop([A, B]).

%% --- nonsense

bad_arguments(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    ok = send(A, B, small, Sink, first),
    ok = send(A, B, gossip, Sink, first),
    Node = pt_peer:node(B),
    ?assertEqual(done, pt_peer:call(A, erlang, apply, [fun() -> fuzz(Node, Sink) end, []], 60000)),
    ok = send(A, B, small, Sink, last),
    %% what was made at random may have been a message, too
    ?assert(pt_peer:wait(fun() -> lists:member(last, pt_chan:seen(B, Sink)) end)),
    stop([A, B]).

%% Arguments of the NIFs, one or more of them wrong: badarg, and nothing sent.
fuzz(Node, Sink) ->
    Handles = [H || C <- [small, gossip], {_, H, _, _, _} <- [partisan_channel_srv:lookup(Node, C)]],
    2 = length(Handles),
    [Small | _] = Handles,
    Good = erlang:term_to_iovec({{22, self(), Sink}, ok}),
    Wrong = [make_ref(), foo, -1, 1 bsl 70, 1.5, "", "x", {}, {a, b, c}, #{}, <<>>, <<1>>, <<1:3>>,
             [<<1:3>>], [<<131, 104, 2>>], [<<131>>, <<104, 2>>], [<<131, 104, 3, 1, 2, 3>>], [a | b],
             [<<>> | <<>>], self(), fun() -> ok end],
    Refused = fun(F, Args) ->
                      try apply(partisan_nif, F, Args) of
                          Any -> error({accepted, F, Args, Any})
                      catch error:badarg -> ok
                      end
              end,
    [Refused(channel_send, [W, Good, none, none, none]) || W <- Wrong],
    [Refused(channel_send, [Small, W, none, none, none]) || W <- Wrong],
    [Refused(channel_send, [Small, Good, W, none, none]) || W <- Wrong, not is_atom(W)],
    [Refused(channel_send, [Small, Good, none, none, W]) || W <- Wrong, not is_atom(W)],
    [Refused(channel_send, [lists:last(Handles), Good, none, W, none])
     || W <- Wrong, not is_binary(W)],
    [Refused(channel_send_term, [W, {{22, self(), Sink}, x}, none, none]) || W <- Wrong],
    [Refused(channel_send_term, [Small, W, none, none]) || W <- Wrong],
    [Refused(channel_cancel, [W, 1]) || W <- Wrong],
    [Refused(channel_cancel, [Small, W]) || W <- Wrong],
    [Refused(channel, [W, 1]) || W <- Wrong],
    ok = partisan_nif:channel_cancel(Small, 12345),
    undefined = partisan_nif:channel(<<0:128>>, 1),
    flatten = partisan_nif:channel_send(Small, Good ++ lists:duplicate(5000, <<0>>), none, none, none),
    %% many at random
    All = [none, Small, Good, 7, <<"key">>, {wait, x}, {notify, x} | Wrong],
    Any = fun() -> lists:nth(rand:uniform(length(All)), All) end,
    [try partisan_nif:channel_send(Any(), Any(), Any(), Any(), Any()) of
         _ -> ok
     catch error:badarg -> ok
     end || _ <- lists:seq(1, 20000)],
    done.

%% What a peer may send on a channel is judged by the receiving side: it ends the connection, says
%% so in one line, and lives on.
nonsense_on_the_wire(_) ->
    Zip = fun(Size, Data) -> [<<$z, Size:32, (zlib:compress(Data))/binary>>] end,
    Packet = fun(Bytes) -> [<<131, 104, 2, Bytes/binary>>] end,
    Cases = [{"a bomb", Zip(1000, binary:copy(<<0>>, 10000000))},
             {"too little", Zip(1000000, <<"x">>)},
             {"too large", Zip(1 bsl 31, <<"x">>)},
             {"no stream", [<<$z, 1000:32, "this is no zlib stream">>]},
             {"no packet inside", Zip(5, <<"hello">>)},
             {"no control message", Packet(<<97, 1, 97, 2>>)},
             {"an unknown operation", Packet(<<104, 2, 97, 99, 97, 1, 97, 1>>)},
             {"a term cut off", Packet(<<104, 3, 97, 22, 88, 119>>)},
             {"atom references", [<<131, 104, 2, 82, 0, 82, 1, 82, 2, 82, 3>>]}],
    {A, B} = pair(#{}),
    pt_peer:log_start(B),
    Node = pt_peer:node(B),
    [begin
         pt_peer:connect(A, B),
         ok = pt_peer:call(A, partisan_channel, open, [Node, small]),
         on(A, fun() ->
                   {_, Handle, _, _, _} = partisan_channel_srv:lookup(Node, small),
                   ok = partisan_nif:channel_send(Handle, Data, none, none, none)
               end),
         ?assert(apart(A, B), What)
     end || {What, Data} <- Cases],
    %% a line for each of the first five; of a packet that came whole the VM is the judge, in its own words
    Lost = fun() ->
               [Line || {_, Line} <- pt_peer:logged(B),
                        string:find(Line, "lane 0 of channel small: m") =/= nomatch]
           end,
    ?assert(pt_peer:wait(fun() -> length(Lost()) >= 5 end), Lost()),
    ?assertEqual(5, length(Lost()), Lost()),
    pt_peer:connect(A, B),
    Sink = sink(B),
    ok = send(A, B, small, Sink, alive),
    ?assertEqual([alive], wait_seen(B, Sink, 1)),
    stop([A, B]).

%% A lane of a channel needs the session's key, and a channel that both sides agreed on.
strangers_at_the_port(_) ->
    {A, B} = pair(#{}),
    ok = pt_peer:call(A, partisan_channel, open, [pt_peer:node(B), small]),
    #{session_id := Id} = pt_peer:call(B, partisan_nif, session, [pt_peer:node(A)]),
    [begin
         {ok, S} = gen_tcp:connect({127, 0, 0, 1}, pt_pair:listen_port(B),
                                   [binary, {active, false}, {packet, 2}]),
         ok = gen_tcp:send(S, Request),
         Answer = gen_tcp:recv(S, 0, 30000),
         _ = case Answer of
                 {ok, <<$P, _:48/binary>>} -> % it proved itself; we cannot
                     ok = gen_tcp:send(S, <<$P, 0:256>>),
                     ?assertEqual({error, closed}, gen_tcp:recv(S, 0, 30000));
                 _ ->
                     ?assertEqual({error, closed}, Answer)
             end,
         gen_tcp:close(S)
     end || Request <- [<<"Ptsc", 1, Id/binary, 0, 0:128, 5, "small">>,
                        <<"Ptsc", 1, Id/binary, 0, 0:128, 7, "unknown">>,
                        <<"Ptsc", 1, Id/binary, 99, 0:128, 5, "small">>,
                        <<"Ptsc", 1, Id/binary, 0, 0:128, 99, "small">>,
                        <<"Ptsc", 2, Id/binary, 0, 0:128, 5, "small">>,
                        <<"Ptsc", 1, 0:128, 0, 0:128, 5, "small">>]],
    ?assert(pt_peer:connected(A, B)),
    ?assert(wait_info(B, A, small, fun(Info) -> maps:get(lanes_attached, Info, 0) =:= 1 end)),
    stop([A, B]).

stale_handles(_) ->
    {A, B} = pair(#{}),
    Node = pt_peer:node(B),
    Sink = sink(B),
    ok = send(A, B, small, Sink, 1),
    Keeper = pt_peer:spawn_collector(A),
    pt_pair:do_on(A, Keeper, fun() -> put(h, element(2, partisan_channel_srv:lookup(Node, small))) end),
    pt_peer:disconnect(A, B),
    pt_peer:connect(A, B),
    ?assertEqual([closed, closed, ok],
                 pt_pair:do_on(A, Keeper,
                               fun() ->
                                   Term = {{22, self(), Sink}, 2},
                                   Data = erlang:term_to_iovec(Term),
                                   [partisan_nif:channel_send_term(get(h), Term, none, none),
                                    partisan_nif:channel_send(get(h), Data, none, none, {wait, x}),
                                    partisan_nif:channel_cancel(get(h), 1)]
                               end)),
    ok = send(A, B, small, Sink, 2, #{timeout => 30000}),
    ?assertEqual([1, 2], wait_seen(B, Sink, 2)),
    stop([A, B]).

%% A channel that is not used is closed on both sides, its sockets with it, and opens again on use;
%% one that is used now and then, at the very moment of closing too, loses nothing.
closed_when_idle(_) ->
    {A, B} = pair(#{idle => #{idle => 100, parallelism => 2}}),
    Sink = sink(B),
    Complete = fun(X, Y) ->
                       #{lanes_attached := N} =
                           pt_peer:call(X, partisan_nif, session, [pt_peer:node(Y)]),
                       N =:= 2 % lanes_at_start
               end,
    ?assert(pt_peer:wait(fun() -> Complete(A, B) andalso Complete(B, A) end)),
    Fds = [pt_peer:fds(P) || P <- [A, B]],
    ok = send(A, B, idle, Sink, 1),
    [begin
         ?assert(pt_peer:wait(fun() -> info(From, To, idle) =:= #{} end)),
         ?assert(pt_peer:wait(fun() -> info(To, From, idle) =:= #{} end))
     end || {From, To} <- [{A, B}]],
    %% not more than before; less if something else was just being closed then
    ?assert(pt_peer:wait(fun() ->
                             lists:all(fun({P, N}) -> pt_peer:fds(P) =< N end, lists:zip([A, B], Fds))
                         end)),
    ?assert(pt_peer:connected(A, B)),
    ok = send(A, B, idle, Sink, 2),
    Back = sink(A),
    Node = pt_peer:node(B),
    Senders = [{A, Node, Sink}, {B, pt_peer:node(A), Back}],
    Self = self(),
    [spawn_link(fun() ->
                    Self ! pt_peer:call(P, erlang, apply, [fun() -> slowly(N, S) end, []], 60000)
                end) || {P, N, S} <- Senders],
    ?assertEqual([ok, ok], [receive Answer -> Answer after 60000 -> timeout end || _ <- Senders]),
    ?assertEqual([1, 2 | lists:seq(1, 40)], wait_seen(B, Sink, 42)),
    ?assertEqual(lists:seq(1, 40), wait_seen(A, Back, 40)),
    ?assert(pt_peer:connected(A, B)),
    stop([A, B]).

%% Pauses around the time in which it is closed.
slowly(Node, Sink) ->
    lists:foreach(fun(I) ->
                      ok = partisan_channel:send(Node, idle, Sink, I),
                      receive after 80 + rand:uniform(160) -> ok end
                  end, lists:seq(1, 40)).

%% B asks A for a channel that A has not, and does not take the answer. A serves others all the same.
asked_by_one_that_stands_still(_) ->
    {A, B} = pair(#{}),
    C = pt_peer:start(tr, #{args => ["-connect_all", "false", "-kernel", "dist_auto_connect", "never"]}),
    ok = pt_peer:call(C, partisan_channel, configure, [#{small => #{}}]),
    NodeA = pt_peer:node(A),
    NodeB = pt_peer:node(B),
    pt_peer:connect(C, A),
    %% all that are to be paused
    ?assert(pt_peer:wait(fun() ->
                             #{lanes_attached := N, lanes := Ls} =
                                 pt_peer:call(A, partisan_dist, info, [NodeB]),
                             [N, length(Ls)] =:= [2, 2] % lanes_at_start
                         end)),
    on(A, fun() ->
        Port = pt_peer:dist_port(NodeB),
        #{lanes := Lanes} = partisan_dist:info(NodeB),
        [ok = partisan_drv:test(Port, pause_send, Lane, 0) || #{lane := Lane} <- Lanes],
        ok = partisan_drv:set_max_queue(Port, 0),
        spawn(fun() -> [{nobody, NodeB} ! binary:copy(<<1>>, 1 bsl 20) || _ <- [1, 2, 3]] end)
    end),
    Suspended = fun() ->
                    on(A, fun() ->
                        [process_info(P, [registered_name, initial_call])
                         || P <- processes(), process_info(P, status) =:= {status, suspended}]
                    end)
                end,
    ?assert(pt_peer:wait(fun() -> Suspended() =/= [] end)),
    on(B, fun() ->
        ok = partisan_channel:configure(#{only_here => #{}}),
        spawn(fun() -> partisan_channel:open(NodeA, only_here) end)
    end),
    %% whoever answers it: as before there was one, and now
    Answers = [[{registered_name, partisan_channel_srv}, {initial_call, {proc_lib, init_p, 5}}],
               [{registered_name, []}, {initial_call, {erlang, send, 3}}]],
    ?assert(pt_peer:wait(fun() -> Answers -- Suspended() =/= Answers end)),
    ?assertEqual(ok, pt_peer:call(C, partisan_channel, open, [NodeA, small, 30000])),
    stop([A, B, C]).

%% Closed on both sides once it is quiet, whoever asks for it; the connection stays, and the next message
%% opens the channel as it was configured.
closed_by_hand(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Closed = fun(C) -> ?assert(pt_peer:wait(fun() -> info(A, B, C) =:= #{} andalso info(B, A, C) =:= #{} end)) end,
    [ok = send(A, B, C, Sink, {C, 1}) || C <- [small, wide]],
    ok = pt_peer:call(A, partisan_channel, close, [pt_peer:node(B), small]),
    Closed(small),
    ?assertMatch(#{messages_out := 1}, info(A, B, wide)),
    [begin
         [ok = send(A, B, C, Sink, {C, From}) || C <- [small, wide]],
         ok = pt_peer:call(From, partisan_channel, close, [pt_peer:node(To)]),
         [Closed(C) || C <- [small, wide]]
     end || {From, To} <- [{A, B}, {B, A}]],
    ok = send(A, B, wide, Sink, last),
    ?assert(wait_info(A, B, wide, fun(#{lanes := Lanes}) -> length(Lanes) =:= 4 end)),
    ?assertEqual(7, length(wait_seen(B, Sink, 7))),
    ?assert(pt_peer:connected(A, B)),
    ok = pt_peer:call(A, partisan_channel, close, ['nobody@nowhere.invalid']),
    stop([A, B]).

%% The set of channels replaced while they are open, by the side that connected and by the other.
configured_anew(_) ->
    {A, B} = pair(#{}),
    {Sink, Wide} = {sink(B), sink(B)},
    Bytes = binary:copy(<<"compress me ">>, 1000),
    Set = fun(P, Conf) -> ok = pt_peer:call(P, partisan_channel, configure, [Conf]) end,
    [ok = send(A, B, C, Sink, 0) || C <- [small, gossip]],
    _ = wait_seen(B, Sink, 2), % no order between channels
    ok = send(A, B, wide, Wide, 4),
    ?assert(wait_info(A, B, wide, fun(#{lanes := Lanes}) -> length(Lanes) =:= 4 end)),
    %% At once: compression, and a channel that is no more.
    Set(A, #{small => #{compression => true}, wide => #{parallelism => 4}}),
    ?assertEqual({error, {unknown_channel, gossip}}, send(A, B, gossip, Sink, 1)),
    ?assert(pt_peer:wait(fun() ->
                                 #{bytes_out := Before} = info(A, B, small),
                                 ok = send(A, B, small, Sink, Bytes),
                                 #{bytes_out := After} = info(A, B, small),
                                 After > Before andalso After - Before < byte_size(Bytes)
                         end)),
    ?assert(pt_peer:wait(fun() -> info(B, A, gossip) =:= #{} end)),
    %% What a channel is made with. Two nodes use the smaller number of lanes.
    [begin
         Set(P, #{wide => Conf}),
         ?assert(pt_peer:wait(fun() -> info(A, B, wide) =:= #{} end)),
         ok = send(A, B, wide, Wide, N),
         ?assert(wait_info(A, B, wide, fun(#{lanes := Lanes}) -> length(Lanes) =:= N end))
     end || {P, Conf, N} <- [{B, #{parallelism => 2}, 2}, {A, #{parallelism => 1}, 1},
                             {A, #{parallelism => 3, monotonic => true}, 2},
                             {B, #{parallelism => 3, max_queue => 100000}, 3}]],
    ?assertEqual([4, 2, 1, 2, 3], wait_seen(B, Wide, 5)),
    ?assertMatch([0, 0, Bytes | _], wait_seen(B, Sink, 3)),
    ?assert(pt_peer:connected(A, B)),
    stop([A, B]).

%% A channel that is never quiet, in either direction, follows too: senders wait for a moment, nothing is
%% lost, and what each says with one key stays in order.
configured_anew_under_load(_) ->
    {A, B} = pair(#{}),
    Kept = fun({S, I, Bin}) -> {S, I, Bin =:= bytes(S, I)} end,
    Sides = [{A, B, sink(B, Kept)}, {B, A, sink(A, Kept)}],
    Lanes = fun(N) ->
                Has = fun(#{lanes_wanted := M, lanes := Ls}) -> M =:= N andalso length(Ls) =:= N;
                         (#{}) -> false % being opened
                      end,
                [?assert(wait_info(P, Q, wide, Has)) || {P, Q} <- [{A, B}, {B, A}]]
            end,
    Workers = [{P, on(P, fun() -> [spawn(fun() -> steady(Node, Sink, S, 1) end) || S <- lists:seq(1, 6)] end)}
               || {P, Q, Sink} <- Sides, Node <- [pt_peer:node(Q)]],
    Lanes(4),
    [begin
         ok = pt_peer:call(P, partisan_channel, configure, [#{wide => Conf}]),
         Lanes(N)
     end || {P, Conf, N} <- [{A, #{parallelism => 2}, 2}, {B, #{parallelism => 1}, 1},
                             {B, #{parallelism => 8, max_queue => 100000}, 2},
                             {A, #{parallelism => 3}, 3}]],
    Counts = [[on(P, fun() -> W ! {stop, self()}, receive {W, Count} -> Count end end) || W <- Ws]
              || {P, Ws} <- Workers],
    [begin
         Seen = wait_seen(Q, Sink, lists:sum(Each)),
         ?assertEqual(lists:sum(Each), length(Seen)),
         [?assertEqual(lists:seq(1, N), [I || {S1, I, true} <- Seen, S1 =:= S])
          || {S, N} <- lists:enumerate(Each)]
     end || {{_, Q, Sink}, Each} <- lists:zip(Sides, Counts)],
    ?assert(pt_peer:connected(A, B)),
    stop([A, B]).

%% At most a few messages a ms, so that the sinks can keep them all, but without a quiet moment.
steady(Node, Sink, S, I) ->
    ok = partisan_channel:send(Node, wide, Sink, {S, I, bytes(S, I)}),
    receive
        {stop, From} -> From ! {self(), I}
    after 1 ->
            steady(Node, Sink, S, I + 1)
    end.

bytes(S, I) -> binary:copy(<<S>>, I rem 7 * 700).

%% Lanes that stand still hold up the change. Meanwhile the channel is full, for each as he asked, and
%% no other channel is; then all that was taken arrives, before what came after.
configured_anew_while_it_stands(_) ->
    {A, B} = pair(#{}),
    Sink = sink(B),
    Node = pt_peer:node(B),
    lanes(A, B, tiny, pause_send),
    [ok = send(A, B, tiny, Sink, I) || I <- [1, 2, 3]],
    ok = pt_peer:call(A, partisan_channel, configure, [#{small => #{}, tiny => #{max_queue => 100000}}]),
    ?assert(pt_peer:wait(fun() -> send(A, B, tiny, Sink, 4, #{nosuspend => true}) =:= {error, busy} end),
            info(A, B, tiny)),
    ?assertEqual({error, timeout}, send(A, B, tiny, Sink, lost, #{timeout => 50})),
    Notified = pt_peer:spawn_collector(A),
    {error, busy} = pt_pair:do_on(A, Notified,
                                  fun() -> partisan_channel:send(Node, tiny, Sink, lost, #{notify => true}) end),
    Parent = parent(A),
    on(A, fun() -> [spawn(fun() -> pt_parent ! {ended, self(), partisan_channel:send(Node, tiny, Sink, late)} end)
                    || _ <- [1, 2, 3]] end),
    ?assert(wait_info(A, B, tiny, fun(#{waiting := N}) -> N >= 3 end)),
    ok = send(A, B, small, Sink, small),
    ?assert(pt_peer:wait(fun() -> lists:member(small, pt_chan:seen(B, Sink)) end)),
    ?assertEqual([], pt_peer:collected(A, Notified)),
    lanes_again(A, B, tiny),
    ?assertEqual([ok, ok, ok], ended(A, Parent, 3)),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, Notified) =/= [] end)),
    ?assertEqual([{partisan_channel, Node, tiny, writable}], pt_peer:collected(A, Notified)),
    Seen = [M || M <- wait_late(B, Sink), M =/= small],
    {Before, [late, late, late]} = lists:split(length(Seen) - 3, Seen),
    ?assertEqual([1, 2, 3], lists:sort([M || M <- Before, M =/= 4])), % of several senders
    stop([A, B]).

lanes_again(A, B, Channel) ->
    #{channel := No, lanes := Lanes} = info(A, B, Channel),
    Node = pt_peer:node(B),
    on(A, fun() ->
        Port = pt_peer:dist_port(Node),
        [ok = partisan_drv:test(Port, resume_send, Lane, No) || #{lane := Lane} <- Lanes]
    end),
    ok.

wait_late(B, Sink) ->
    ?assert(pt_peer:wait(fun() -> length([M || M <- pt_chan:seen(B, Sink), M =:= late]) =:= 3 end)),
    pt_chan:seen(B, Sink).
