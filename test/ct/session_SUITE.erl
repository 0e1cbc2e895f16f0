%% From the hello to the last lane: negotiation, attaching, and people who should not be there.
-module(session_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([lanes_by_need/1, wish_for_lanes_is_bounded/1, idle_lanes_cost_little/1,
         many_are_inspected/1]).
-export([fewer_lanes_win/1, log_lines/1, options_reach_all_lanes/1, lanes_attach_later/1,
         edited_hello_is_noticed/1, half_stripped_hello_is_noticed/1, stripped_hello_is_plain/1,
         attach_without_the_key/1, recorded_attach_is_worthless/1, attached_lane_is_not_to_be_had/1,
         simultaneous_connects/1, dynamic_name/1, no_listener/1, bulk_without_lane_1/1,
         raised_limit_frees_senders/1, small_messages_fill_a_queue/1,
         refused_no_earlier/1, limit_of_the_node/1,
         memory_of_a_peak/1,
         memory_of_a_channels_peak/1]).

suite() ->
    [{timetrap, {seconds, 240}}].

all() ->
    [fewer_lanes_win, log_lines, options_reach_all_lanes, lanes_attach_later,
     edited_hello_is_noticed, half_stripped_hello_is_noticed, stripped_hello_is_plain,
     attach_without_the_key, recorded_attach_is_worthless, attached_lane_is_not_to_be_had,
     simultaneous_connects, dynamic_name, no_listener, bulk_without_lane_1,
     raised_limit_frees_senders, small_messages_fill_a_queue,
     refused_no_earlier, limit_of_the_node, memory_of_a_peak,
     memory_of_a_channels_peak, lanes_by_need, wish_for_lanes_is_bounded, idle_lanes_cost_little, many_are_inspected].

%% ------------------------------------------------------------------------------------------------

fewer_lanes_win(_Config) ->
    One = start(["-partisan", "lanes", "1"]),
    Two = start(["-partisan", "lanes", "2"]),
    Many = start(["-partisan", "lanes", "16"]),
    [begin
         pt_peer:connect(From, To),
         ?assert(pt_peer:wait(fun() -> [attached(From, To), attached(To, From)] =:= [N, N] end)),
         ?assertEqual(N, wanted(From, To))
     end || {From, To, N} <- [{One, Many, 1}, {Many, Two, 2}, {Two, One, 1}]],
    stop([One, Two, Many]).

%% Lanes attach in any order, and one may never come: bulk takes another then.
bulk_without_lane_1(_Config) ->
    A = start([]),
    ?assertMatch({ok, <<_:500000/binary>>}, pt_peer:eval(A, fun bulk_on_lane_2/0)),
    stop([A]).

bulk_on_lane_2() ->
    [{Lane0, _}, {Lane2, Peer2}] = [socket_pair(), socket_pair()],
    Port = driver_port(),
    ok = partisan_drv:lane(Port, 0, Lane0),
    ok = partisan_drv:lane(Port, 2, Lane2),
    ok = partisan_drv:start(Port),
    true = port_command(Port, dist_packet(1000000)),
    Received = gen_tcp:recv(Peer2, 500000, 30000),
    true = port_close(Port),
    Received.

%% More than are looked at in one go, while others come and go: those that stay are told once each.
many_are_inspected(_Config) ->
    A = start([]),
    ?assertEqual([], pt_peer:eval(A, fun inspect_many/0)),
    stop([A]).

inspect_many() ->
    Stay = [driver_port(1 bsl 20, <<I:128>>) || I <- lists:seq(1, 100)],
    Others = spawn_link(fun come_and_go/0),
    Wrong = [Ids || _ <- lists:seq(1, 20),
                    Ids <- [[Id || #{session_id := <<Id:128>>} <- partisan_nif:sessions(), Id > 0]],
                    lists:sort(Ids) =/= lists:seq(1, 100)],
    unlink(Others),
    exit(Others, kill),
    _ = [port_close(Port) || Port <- Stay],
    Wrong.

come_and_go() ->
    Ports = [driver_port() || _ <- lists:seq(1, 10)],
    _ = [port_close(Port) || Port <- Ports],
    come_and_go().

%% A port whose peer takes nothing is not looked at: the new limit alone must let senders go on.
raised_limit_frees_senders(_Config) ->
    A = start([]),
    ?assertEqual([true, false, true], pt_peer:eval(A, fun raise_limit/0)),
    stop([A]).

raise_limit() ->
    Port = driver_port(),
    Command = fun() -> port_command(Port, dist_packet(1 bsl 21), [nosuspend]) end,
    Sent = [Command(), Command()],
    ok = partisan_drv:set_max_queue(Port, 1 bsl 30),
    Free = Command(),
    true = port_close(Port),
    Sent ++ [Free].

%% A queue of small messages alone is full long before max_queue. With a large one in it, more than
%% that still find their way: small messages do not wait because large ones do.
small_messages_fill_a_queue(_Config) ->
    A = start([]),
    Limit = 64 bsl 20,
    {Size, Alone, Beside} = pt_peer:eval(A, fun() -> fill_with_small(Limit) end),
    ?assert(Alone * Size > Limit div 1000),
    ?assert(Alone * Size < Limit div 5),
    ?assert(Beside),
    stop([A]).

fill_with_small(Limit) ->
    Size = 1000,
    [Alone, Beside] = [driver_port(Limit), driver_port(Limit)],
    Command = fun(Port, Bytes) -> port_command(Port, dist_packet(Bytes), [nosuspend]) end,
    Taken = length(lists:takewhile(fun(_) -> Command(Alone, Size) end, lists:seq(1, Limit div Size))),
    true = Command(Beside, Limit div 2),
    All = lists:all(fun(_) -> Command(Beside, Size) end, lists:seq(1, Taken + Taken div 4)),
    true = port_close(Alone),
    true = port_close(Beside),
    {Size, Taken, All}.

%% Who sends with `nosuspend' to a peer that stands still is refused no earlier than over inet_tcp, whose
%% socket takes as much as the system lets it before the VM's own limit counts.
refused_no_earlier(_Config) ->
    {ok, Text} = file:read_file("/proc/sys/net/ipv4/tcp_wmem"),
    case binary_to_integer(lists:last(string:lexemes(Text, "\t\n "))) of
        Most when Most =< 4 bsl 20 ->
            [?assertMatch({Size, Ours, Inet} when Ours >= Inet,
                          {Size, taken("partisan", Size), taken("inet_tcp", Size)}) || Size <- [64, 1000]];
        Most ->
            {skip, lists:concat(["tcp_wmem lets sockets grow to ", Most, " bytes"])}
    end.

taken(Carrier, Size) ->
    [A, B] = [pt_peer:start(se, #{carrier => Carrier, args => ["-connect_all", "false"]}) || _ <- [1, 2]],
    Sink = pt_peer:spawn_collector(B),
    pt_peer:connect(A, B),
    pt_peer:sigstop(B),
    Taken = pt_peer:eval(A, fun() -> send_until_refused(Sink, binary:copy(<<7>>, Size), 0, 0) end),
    pt_peer:kill(B),
    stop([A]),
    Taken.

%% Refused for a second: the VM also refuses while it has not handed over yet what it took.
send_until_refused(_Sink, _Payload, Taken, 50) ->
    Taken;
send_until_refused(Sink, Payload, Taken, Refused) ->
    case erlang:send(Sink, [Taken | Payload], [nosuspend, noconnect]) of
        ok ->
            send_until_refused(Sink, Payload, Taken + 1, 0);
        nosuspend ->
            receive after 20 -> ok end,
            send_until_refused(Sink, Payload, Taken, Refused + 1)
    end.

%% All queues together have a limit. Beyond it a peer that has more than its share is busy, one that has
%% less is not; and when what the others had is gone, it is free again.
limit_of_the_node(_Config) ->
    Limit = 20 bsl 20,
    A = start(["-partisan", "max_queue_node", integer_to_list(Limit)]),
    {Alone, Second, Freed} = pt_peer:eval(A, fun() -> share_of_a_limit(Limit) end),
    %% up to the limit, or half of it, and the packet that went beyond; the sum is told in lumps
    Packets = Limit div (2 bsl 20),
    ?assert(lists:member(Alone, [Packets, Packets + 1])),
    ?assert(lists:member(Second, [Packets div 2, Packets div 2 + 1])),
    ?assertEqual(true, Freed),
    stop([A]).

%% How many 2 MB packets the first and the second take before they are busy, and whether the second is
%% free again without the first.
share_of_a_limit(Limit) ->
    #{queue_max := Limit} = partisan_nif:info(),
    [One, Two] = [driver_port(1 bsl 30), driver_port(1 bsl 30)],
    Command = fun(Port) -> port_command(Port, dist_packet(2 bsl 20), [nosuspend]) end,
    Counts = [length(lists:takewhile(fun(_) -> Command(Port) end, lists:seq(1, 100)))
              || Port <- [One, Two]],
    #{queue_bytes := Queued} = partisan_nif:info(),
    true = Queued >= lists:sum(Counts) * (2 bsl 20),
    true = port_close(One),
    {ok, _, _, _} = partisan_drv:stat(Two), % what its owner asks at each tick
    Free = Command(Two),
    true = port_close(Two),
    list_to_tuple(Counts ++ [Free]).

%% What thousands of messages at a time needed is given back when there are few. The receiver keeps its
%% acknowledgements back: they then are unacknowledged whatever the sockets take. The memory is looked at
%% with each tick, so there is none but what the case asks for.
memory_of_a_peak(_Config) ->
    [A, B] = [start(["-kernel", "net_ticktime", "3600"]) || _ <- [1, 2]],
    pt_peer:connect(A, B),
    %% an acknowledgement leaves by any lane, also by one that comes later
    ?assert(pt_peer:wait(fun() -> [attached(A, B), attached(B, A)] =:= [4, 4] end)),
    {NA, NB} = {pt_peer:node(A), pt_peer:node(B)},
    C = pt_peer:spawn_collector(B),
    Verb = fun(P, To, What, Lanes) ->
                   pt_peer:eval(P, fun() ->
                                       [ok = partisan_drv:test(pt_peer:dist_port(To), What, Lane, 0)
                                        || Lane <- Lanes]
                                   end)
           end,
    Memory = fun() ->
                     #{pool_bytes := Pool, unacked_bytes := Ring, unacked := Unacked} =
                         pt_peer:call(A, partisan_dist, info, [NB]),
                     {Unacked, Pool, Ring}
             end,
    Verb(B, NA, pause_send, [0, 1, 2, 3]),
    Verb(A, NB, pause_send, [0]),
    pt_peer:eval(A, fun() -> [C ! I || I <- lists:seq(1, 6000)], ok end),
    Verb(A, NB, resume_send, [0]),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(B, C)) =:= 6000 end)),
    {Unacked, Pool, Ring} = Memory(),
    ?assert(Unacked >= 6000, Unacked),
    ?assert(Pool > 1000000, Pool),
    ?assert(Ring >= 6000 * 16, Ring),
    Verb(B, NA, resume_send, [0, 1, 2, 3]),
    %% now and then the last acknowledgement waits for the next message
    ?assert(pt_peer:wait(fun() -> {Left, _, _} = Memory(), Left < 300 end)),
    Stat = fun() -> pt_peer:eval(A, fun() -> partisan_drv:stat(pt_peer:dist_port(NB)) end) end,
    [{ok, _, _, _} = Stat() || _ <- lists:seq(1, 20)],
    {_, PoolAfter, RingAfter} = Memory(),
    ?assert(PoolAfter =< 40 * 640, PoolAfter),
    ?assert(RingAfter < Ring div 2, {RingAfter, Ring}),
    ?assertEqual(pong, pt_peer:call(A, net_adm, ping, [NB])),
    stop([A, B]).

%% The same on a channel.
memory_of_a_channels_peak(_Config) ->
    Quiet = #{args => ["-kernel", "net_ticktime", "3600"]},
    {A, B} = pt_chan:pair(Quiet, Quiet, #{}),
    NB = pt_peer:node(B),
    Sink = pt_chan:sink(B),
    pt_chan:lanes(A, B, small, resume_send), % it is open then
    ?assert(pt_chan:wait_info(B, A, small, fun(#{lanes_attached := N}) -> N =:= 1; (_) -> false end)),
    pt_chan:lanes(B, A, small, pause_send),
    pt_peer:eval(A, fun() -> [ok = partisan_channel:send(NB, small, Sink, I)
                              || I <- lists:seq(1, 6000)], ok end),
    ?assertEqual(lists:seq(1, 6000), pt_chan:wait_seen(B, Sink, 6000)),
    #{unacked := 6000, unacked_bytes := Ring} = pt_chan:info(A, B, small),
    ?assert(Ring >= 6000 * 16, Ring),
    pt_chan:lanes(B, A, small, resume_send),
    ?assert(pt_chan:wait_info(A, B, small, fun(#{unacked := N}) -> N < 300 end)),
    Stat = fun() -> pt_peer:eval(A, fun() -> partisan_drv:stat(pt_peer:dist_port(NB)) end) end,
    [{ok, _, _, _} = Stat() || _ <- lists:seq(1, 20)],
    #{unacked_bytes := RingAfter} = pt_chan:info(A, B, small),
    ?assert(RingAfter < Ring div 2, {RingAfter, Ring}),
    ok = pt_peer:call(A, partisan_channel, send, [NB, small, Sink, last]),
    ?assertEqual(lists:seq(1, 6000) ++ [last], pt_chan:wait_seen(B, Sink, 6001)),
    stop([A, B]).

driver_port() -> driver_port(1 bsl 20).

driver_port(MaxQueue) -> driver_port(MaxQueue, <<0:128>>).

driver_port(MaxQueue, SessionId) ->
    {ok, Port} = partisan_drv:open(),
    ok = partisan_drv:init(Port, #{lanes => 3, atom_cache => true, session_id => SessionId,
                                   my_mac => <<0:256>>, peer_mac => <<0:256>>, node => node(),
                                   max_queue => MaxQueue, max_message => 1 bsl 30}),
    Port.

dist_packet(Size) ->
    <<131, Control/binary>> = term_to_binary({2, '', self()}),
    [<<131, 68, 0>>, Control, <<131, 109, Size:32, 0:(Size * 8)>>].

socket_pair() ->
    Options = [binary, {active, false}],
    {ok, Listen} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}} | Options]),
    {ok, Number} = inet:port(Listen),
    {ok, A} = gen_tcp:connect({127, 0, 0, 1}, Number, Options),
    {ok, B} = gen_tcp:accept(Listen),
    {A, B}.

%% One line at connect, on both sides, nothing louder than that; none at a disconnect on request.
log_lines(_Config) ->
    [A, B] = Peers = [start([]), start([])],
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> [logs(P, "lanes 4") || P <- Peers] =/= [[], []] end)),
    [?assert(pt_peer:wait(fun() -> length(logs(P, "lanes 4")) =:= 1 end)) || P <- Peers],
    pt_peer:disconnect(A, B),
    ?assertEqual([], [L || {Level, _} = L <- pt_peer:logged(A), Level =/= info]),
    ?assertEqual([], [L || {Level, _} = L <- pt_peer:logged(B), Level =/= info]),
    ?assertEqual([], logs(A, "lost")),
    stop(Peers).

%% net_kernel:setopts/2 means the connection, which is four sockets here.
options_reach_all_lanes(_Config) ->
    [A, B] = Peers = [start([]), start([])],
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> attached(A, B) =:= 4 end)),
    %% A lane without it makes each message wait for an acknowledgement.
    Quick = fun(P) -> length([S || S <- tcp_ports(P), option(P, S, nodelay) =:= true]) end,
    [?assert(pt_peer:wait(fun() -> Quick(P) =:= 4 end)) || P <- Peers],
    ok = pt_peer:call(A, net_kernel, setopts, [pt_peer:node(B), [{priority, 3}]]),
    ?assertEqual({ok, [{priority, 3}]},
                 pt_peer:call(A, net_kernel, getopts, [pt_peer:node(B), [priority]])),
    With = fun() -> [S || S <- tcp_ports(A), option(A, S, priority) =:= 3] end,
    ?assert(pt_peer:wait(fun() -> length(With()) =:= 4 end)),
    [?assertMatch({error, {badopts, [_]}},
                  pt_peer:call(A, net_kernel, setopts, [pt_peer:node(B), [Bad]]))
     || Bad <- [{active, true}, {packet, 0}, {deliver, term}]],
    stop(Peers).

%% Lanes that find no way are said in a line; the connection works without them, and they come when
%% the way is free.
lanes_attach_later(_Config) ->
    {A, B, Proxy} = with_proxy(fun(1) -> pass;
                                  (_) -> refuse
                               end),
    pt_peer:connect(A, B),
    echo(A, B, 1000000),
    ?assertEqual(1, attached(A, B)),
    pt_proxy:on_connect(Proxy, fun(_) -> pass end),
    %% at the second try or, half a minute later, at the third
    ?assert(pt_peer:wait(fun() -> attached(A, B) =:= 4 andalso attached(B, A) =:= 4 end, 60000)),
    ?assert(pt_peer:wait(fun() -> length(logs(A, "lanes 4")) =:= 1 end)),
    echo(A, B, 1000000),
    stop(A, B, Proxy).

%% Any byte of either hello changed on the way: no connection, and the reason in a log.
edited_hello_is_noticed(_Config) ->
    Edits = [{connector, fun set_lanes/1}, {acceptor, fun set_lanes/1},
             {connector, fun change_last_byte/1}, {acceptor, fun change_last_byte/1},
             {connector, fun(P) -> <<P/binary, "more">> end},
             {acceptor, fun(P) -> <<P/binary, "more">> end}],
    {A, B, Proxy} = with_proxy(fun(_) -> pass end),
    lists:foreach(fun({Side, Edit}) ->
                          pt_proxy:on_connect(Proxy, edit(Side, Edit)),
                          no_connection(A, B)
                  end, Edits),
    ?assertNotEqual([], logs(A, "authentication") ++ logs(B, "authentication")),
    pt_proxy:on_connect(Proxy, fun(_) -> pass end),
    pt_peer:connect(A, B),
    echo(A, B, 1000000),
    stop(A, B, Proxy).

%% The hello taken out of one direction only.
half_stripped_hello_is_noticed(_Config) ->
    {A, B, Proxy} = with_proxy(edit(acceptor, fun strip_challenge/1)),
    no_connection(A, B),
    stop(A, B, Proxy).

%% The hello taken out of send_name makes both plain: what the option plain_peers is for.
stripped_hello_is_plain(_Config) ->
    {A, B, Proxy} = with_proxy(edit(connector, fun strip_name/1)),
    pt_peer:connect(A, B),
    echo(A, B, 1000000),
    ?assertEqual(undefined, pt_peer:call(A, partisan_dist, info, [pt_peer:node(B)])),
    ?assertEqual([], pt_peer:unexpected_logs(A) ++ pt_peer:unexpected_logs(B)),
    stop(A, B, Proxy).

%% Somebody knows the session id and waits for its chance: a free lane.
attach_without_the_key(_Config) ->
    {A, B, Proxy} = with_proxy(fun(1) -> pass;
                                  (_) -> refuse
                               end),
    pt_peer:connect(A, B),
    #{session_id := Id} = pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)]),
    Port = listen_port(B),
    S = attach(Port, Id, 1),
    {ok, <<$P, _Nonce:16/binary, _Mac:32/binary>>} = packet(S),
    ok = gen_tcp:send(S, [<<33:16>>, $P, crypto:strong_rand_bytes(32)]),
    ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)),
    %% Lanes that cannot be: the first, and beyond the agreed number.
    [?assertMatch({error, closed}, packet(attach(Port, Id, Lane))) || Lane <- [0, 4, 255]],
    ?assert(pt_peer:wait(fun() -> refused_lanes(B) >= 4 end)),
    ?assertEqual(1, attached(B, A)),
    echo(A, B, 1000),
    stop(A, B, Proxy).

%% What the connector of a lane said is played again on another connection.
recorded_attach_is_worthless(_Config) ->
    Tape = ets:new(tape, [public, bag]),
    Record = fun(Side, N, Packet) ->
                     true = ets:insert(Tape, {Side, N, Packet}),
                     case {Side, N} of
                         {connector, 2} -> close; % it never arrives, so the lane stays free
                         _ -> Packet
                     end
             end,
    {A, B, Proxy} = with_proxy(fun(1) -> pass;
                                  (2) -> {packets, {2, 2}, Record};
                                  (_) -> refuse
                               end),
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> ets:member(Tape, connector)
                                      andalso length(ets:lookup(Tape, connector)) =:= 2 end)),
    [Request] = [P || {_, 1, P} <- ets:lookup(Tape, connector)],
    [Proof] = [P || {_, 2, P} <- ets:lookup(Tape, connector)],
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, listen_port(B), [binary, {active, false}]),
    send(S, Request),
    {ok, <<$P, _/binary>>} = packet(S),
    send(S, Proof),
    ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)),
    ?assertEqual(1, attached(B, A)),
    stop(A, B, Proxy).

attached_lane_is_not_to_be_had(_Config) ->
    [A, B] = Peers = [start([]), start([])],
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> attached(A, B) =:= 4 andalso attached(B, A) =:= 4 end)),
    #{session_id := Id} = pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)]),
    [?assertMatch({error, closed}, packet(attach(listen_port(P), Id, Lane)))
     || P <- Peers, Lane <- [1, 3]],
    ?assertEqual([4, 4], [attached(A, B), attached(B, A)]),
    echo(A, B, 1000),
    stop(Peers).

%% Both sides connect at once, again and again: one connection comes out of it, with all its lanes,
%% and nothing stays behind.
simultaneous_connects(_Config) ->
    [A, B] = Peers = [start([]), start([])],
    Before = [ports(P) || P <- Peers],
    lists:foreach(
      fun(_) ->
              At = erlang:system_time(millisecond) + 20,
              Connect = fun(From, To) ->
                                Node = pt_peer:node(To),
                                pt_peer:eval(From, fun() ->
                                    pt_peer:wait(fun() -> erlang:system_time(millisecond) >= At end,
                                                 1000, 0),
                                    net_kernel:connect_node(Node)
                                end)
                        end,
              Self = self(),
              Pids = [spawn_link(fun() -> Self ! {self(), Connect(X, Y)} end)
                      || {X, Y} <- [{A, B}, {B, A}]],
              ?assertEqual([true, true], [receive {Pid, R} -> R end || Pid <- Pids]),
              ?assert(pt_peer:wait(fun() -> pt_peer:connected(A, B) end)),
              ?assert(pt_peer:wait(fun() -> attached(A, B) =:= 4 andalso attached(B, A) =:= 4 end)),
              #{session_id := Id} = pt_peer:call(A, partisan_dist, info, [pt_peer:node(B)]),
              ?assertMatch(#{session_id := Id},
                           pt_peer:call(B, partisan_dist, info, [pt_peer:node(A)])),
              pt_peer:disconnect(A, B)
      end, lists:seq(1, 20)),
    ?assert(pt_peer:wait(fun() -> [ports(P) || P <- Peers] =:= Before end),
            #{before => Before, now => [ports(P) || P <- Peers]}),
    stop(Peers).

%% The acceptor gives the connector its name: keys and logs must go by that one.
dynamic_name(_Config) ->
    B = start([]),
    [_, Host] = string:split(atom_to_list(pt_peer:node(B)), "@"),
    Node = pt_peer:node(B),
    {ok, Ctl, _} = peer:start_link(
                     #{connection => standard_io, wait_boot => 60000,
                       args => ["-name", "undefined@" ++ Host, "-setcookie", "pt_" ++ os:getpid(),
                                "-partisan", "lanes_at_start", "16"
                                | pt_peer:dist_args("partisan")]}),
    ?assertEqual(nonode@nohost, peer:call(Ctl, erlang, node, [])),
    true = peer:call(Ctl, net_kernel, connect_node, [Node], 60000),
    Name = peer:call(Ctl, erlang, node, []),
    ?assertNotEqual(nonode@nohost, Name),
    ?assertEqual(4000000, byte_size(peer:call(Ctl, erpc, call, [Node, binary, copy,
                                                                [<<1>>, 4000000]], 60000))),
    ?assert(pt_peer:wait(fun() -> attached(B, #{node => Name}) =:= 4 end)),
    peer:stop(Ctl),
    stop([B]).

%% Two lanes at first. All when the driver of either side misses them: the connector opens them, the
%% acceptor asks it to.
lanes_by_need(_Config) ->
    [begin
         [A, B] = Peers = [start(["-partisan", "lanes", "8", "lanes_at_start", "2"]) || _ <- [1, 2]],
         pt_peer:connect(A, B),
         ?assert(pt_peer:wait(fun() -> [attached(A, B), attached(B, A)] =:= [2, 2] end)),
         ?assert(pt_peer:wait(fun() ->
                                  [length(logs(P, "lanes 2 of up to 8")) || P <- Peers] =:= [1, 1]
                              end)),
         {From, To} = case Misses of connector -> {A, B}; acceptor -> {B, A} end,
         miss_lanes(From, To),
         ?assert(pt_peer:wait(fun() -> [attached(A, B), attached(B, A)] =:= [8, 8] end)),
         ?assertMatch([{info, _}], logs(A, "opening all of the 8 lanes")),
         miss_lanes(From, To), % too late: nothing happens
         echo(A, B, 1000000),
         ?assertEqual([8, 8], [attached(A, B), attached(B, A)]),
         ?assertMatch([{info, _}], logs(A, "opening all of the 8 lanes")),
         stop(Peers)
     end || Misses <- [connector, acceptor]].

%% What the driver tells the lanes process.
miss_lanes(From, To) ->
    #{session_id := Id} = pt_peer:call(From, partisan_dist, info, [pt_peer:node(To)]),
    {ok, Pid} = pt_peer:call(From, partisan_dist_reg, lookup, [Id]),
    _ = pt_peer:call(From, erlang, send, [Pid, {partisan_more_lanes, none}]),
    ok.

%% Lanes that find no way are tried a few times, however often the driver asks; traffic goes on.
wish_for_lanes_is_bounded(_Config) ->
    Tried = counters:new(1, []),
    Start = erlang:monotonic_time(millisecond),
    A = start(["-epmd_module", "pt_epmd", "-partisan", "lanes_at_start", "1"]),
    B = start(["-kernel", "dist_auto_connect", "never"]),
    Proxy = pt_proxy:start(listen_port(B), fun(1) -> pass;
                                              (_) -> counters:add(Tried, 1, 1), refuse
                                           end),
    [Name, _] = string:split(atom_to_list(pt_peer:node(B)), "@"),
    ok = pt_peer:call(A, pt_epmd, detour, [Name, pt_proxy:port(Proxy)]),
    pt_peer:connect(A, B),
    miss_lanes(A, B),
    ?assert(pt_peer:wait(fun() -> counters:get(Tried, 1) >= 3 end)),
    [miss_lanes(P, Q) || _ <- lists:seq(1, 100), {P, Q} <- [{A, B}, {B, A}]],
    %% the second round of three, a second later, and nothing between
    ?assert(pt_peer:wait(fun() -> counters:get(Tried, 1) >= 6 end)),
    [miss_lanes(P, Q) || _ <- lists:seq(1, 100), {P, Q} <- [{A, B}, {B, A}]],
    echo(A, B, 1000000),
    %% the third round is another five seconds later, which a busy machine may have reached by now
    Rounds = case erlang:monotonic_time(millisecond) - Start of
                 Ms when Ms < 5500 -> 2;
                 Ms when Ms < 35000 -> 3;
                 _ -> 4
             end,
    ?assertMatch({N, Most, 1} when N =< Most, {counters:get(Tried, 1), 3 * Rounds, attached(A, B)}),
    stop(A, B, Proxy).

%% Lanes that have nothing to send keep no buffers for it: after a while in quiet, what sixteen lanes
%% take is less than the sending buffers of three.
idle_lanes_cost_little(_Config) ->
    case erlang:system_info({allocator_sizes, driver_alloc}) of
        false -> {skip, "no allocators to ask: +Mea min, as under a sanitizer"};
        _ -> idle_lanes_cost_little()
    end.

idle_lanes_cost_little() ->
    [A, B] = Peers = [start(["-partisan", "lanes", "16", "lanes_at_start", "16"]) || _ <- [1, 2]],
    Before = driver_memory(A),
    pt_peer:connect(A, B),
    ?assert(pt_peer:wait(fun() -> [attached(A, B), attached(B, A)] =:= [16, 16] end)),
    echo(A, B, 1000000),
    NB = pt_peer:node(B),
    Quiet = fun() ->
                {ok, _, _, _} = pt_peer:eval(A, fun() -> partisan_drv:stat(pt_peer:dist_port(NB)) end),
                driver_memory(A) - Before
            end,
    ?assert(pt_peer:wait(fun() -> Quiet() < 150000 end), Quiet()),
    echo(A, B, 1000000), % and they come back
    stop(Peers).

%% Bytes that the drivers of the node have allocated.
driver_memory(P) ->
    Instances = pt_peer:call(P, erlang, system_info, [{allocator_sizes, driver_alloc}]),
    lists:sum([element(2, lists:keyfind(size, 1, Types))
               || {instance, _, Carriers} <- Instances,
                  {Kind, Blocks} <- Carriers, Kind =:= mbcs orelse Kind =:= sbcs,
                  {blocks, ByType} <- Blocks, {driver_alloc, Types} <- ByType]).

%% -dist_listen false: loads the carrier when it is needed, and is a carrier.
no_listener(_Config) ->
    A = start(["-dist_listen", "false"]),
    B = start([]),
    true = pt_peer:call(A, net_kernel, connect_node, [pt_peer:node(B)]),
    ?assert(pt_peer:wait(fun() -> attached(A, B) =:= 4 end)),
    echo(A, B, 1000000),
    stop([A, B]).

%% ------------------------------------------------------------------------------------------------

%% Four lanes, all with the connection, unless Args say something else. Nobody connects but the test:
%% global does after a nodeup, also when the connection is gone again. A test that calls connect_node/1
%% then joins the attempt of global and gets its `true', and that attempt may have gone through what the
%% test has just changed: edited_hello_is_noticed once in a hundred times, on a busy machine.
start(Args) ->
    P = pt_peer:start(session, #{carrier => "partisan",
                                 args => ["-connect_all", "false",
                                          "-partisan", "lanes", "4", "lanes_at_start", "4" | Args]}),
    pt_peer:log_start(P),
    P.

stop(Peers) ->
    [pt_peer:stop(P) || P <- Peers],
    ok.

stop(A, B, Proxy) ->
    stop([A, B]),
    pt_proxy:stop(Proxy).

%% A connects to B through a proxy; B, which knows the direct way, does not connect.
with_proxy(OnConnect) ->
    A = start(["-epmd_module", "pt_epmd"]),
    B = start(["-kernel", "dist_auto_connect", "never"]),
    Proxy = pt_proxy:start(listen_port(B), OnConnect),
    [Name, _] = string:split(atom_to_list(pt_peer:node(B)), "@"),
    ok = pt_peer:call(A, pt_epmd, detour, [Name, pt_proxy:port(Proxy)]),
    {A, B, Proxy}.

%% Both packets that may hold a hello have the tag N; no packet of a lane has.
edit(Side, Edit) ->
    fun(_) ->
            {packets, {2, 3}, fun(S, _, <<$N, _/binary>> = Packet) when S =:= Side -> Edit(Packet);
                                 (_, _, Packet) -> Packet
                              end}
    end.

%% Neither the connecting node nor the other one ever counts the other as connected for long, and
%% nothing of a session is left.
no_connection(A, B) ->
    _ = pt_peer:call(A, net_kernel, connect_node, [pt_peer:node(B)]),
    ?assertEqual({badrpc, nodedown},
                 pt_peer:call(A, rpc, call, [pt_peer:node(B), erlang, node, []])),
    [begin
         ?assert(pt_peer:wait(fun() -> pt_peer:call(P, erlang, nodes, [connected]) =:= [] end)),
         ?assert(pt_peer:wait(fun() -> pt_peer:alone(P) end)),
         ?assert(pt_peer:wait(fun() -> pt_peer:call(P, partisan_nif, sessions, []) =:= [] end))
     end || P <- [A, B]].

set_lanes(Packet) ->
    [Head, <<_, Tail/binary>>] = binary:split(Packet, <<2, 0, 1>>),
    <<Head/binary, 2, 0, 1, 2, Tail/binary>>.

change_last_byte(Packet) ->
    Size = byte_size(Packet) - 1,
    <<Head:Size/binary, Last>> = Packet,
    <<Head/binary, (Last bxor 1)>>.

strip_name(<<$N, Fixed:12/binary, Size:16, Name:Size/binary, "ptsn", _/binary>>) ->
    <<$N, Fixed/binary, Size:16, Name/binary>>.

strip_challenge(<<$N, Fixed:16/binary, Size:16, Name:Size/binary, "ptsn", _/binary>>) ->
    <<$N, Fixed/binary, Size:16, Name/binary>>.

echo(A, B, Size) ->
    Node = pt_peer:node(B),
    Data = crypto:strong_rand_bytes(Size),
    ?assertEqual(erlang:md5(Data),
                 erlang:md5(pt_peer:call(A, erpc, call, [Node, lists, last, [[Data]]]))).

attached(From, To) ->
    case pt_peer:call(From, partisan_dist, info, [pt_peer:node(To)]) of
        #{lanes_attached := N} -> N;
        _ -> none
    end.

wanted(From, To) ->
    maps:get(lanes_wanted, pt_peer:call(From, partisan_dist, info, [pt_peer:node(To)])).

refused_lanes(P) ->
    maps:get(refused_lanes, pt_peer:call(P, partisan_dist_reg, counters, []), 0).

logs(P, Part) ->
    [Line || {_, Text} = Line <- pt_peer:logged(P), string:find(Text, Part) =/= nomatch].

tcp_ports(P) ->
    pt_peer:eval(P, fun() ->
                        [Port || Port <- erlang:ports(),
                                 erlang:port_info(Port, name) =:= {name, "tcp_inet"}]
                    end).

option(P, Socket, Option) ->
    case pt_peer:call(P, inet, getopts, [Socket, [Option]]) of
        {ok, [{Option, Value}]} -> Value;
        _ -> none
    end.

%% The sockets and sessions that are open.
ports(P) ->
    pt_peer:eval(P, fun() ->
                        lists:sort([Name || Port <- erlang:ports(),
                                            {name, Name} <- [erlang:port_info(Port, name)],
                                            lists:member(Name, ["tcp_inet", "partisan_drv"])])
                    end).

listen_port(P) ->
    [Name, _] = string:split(atom_to_list(pt_peer:node(P)), "@"),
    {port, Port, _} = erl_epmd:port_please(Name, {127, 0, 0, 1}),
    Port.

attach(Port, Id, Lane) ->
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    send(S, <<"Ptsn", 1, Id/binary, Lane, (crypto:strong_rand_bytes(16))/binary>>),
    S.

send(S, Packet) ->
    ok = gen_tcp:send(S, [<<(byte_size(Packet)):16>>, Packet]).

packet(S) ->
    case gen_tcp:recv(S, 2, 30000) of
        {ok, <<Length:16>>} -> gen_tcp:recv(S, Length, 30000);
        {error, _} = Error -> Error
    end.
