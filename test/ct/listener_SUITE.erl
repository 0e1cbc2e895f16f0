%% What knocks at the listening port: nodes, lanes, garbage, silence, too much of it.
-module(listener_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([garbage_is_closed_and_counted/1, silence_ends_with_the_setup_time/1,
         half_open_connections_are_bounded/1, silent_handshakes_lock_nobody_out/1,
         slow_handshake_without_pressure/1, doors_do_not_leak/1, lane_of_no_session/1,
         lane_attach_garbage/1, lane_of_ended_session/1, out_of_descriptors/1, code_upgrade_of_the_acceptor/1,
         registry_comes_back/1, strange_hello/1, plain_peers_refused/1]).

suite() ->
    [{timetrap, {seconds, 240}}].

all() ->
    [garbage_is_closed_and_counted, silence_ends_with_the_setup_time,
     half_open_connections_are_bounded, silent_handshakes_lock_nobody_out,
     slow_handshake_without_pressure, doors_do_not_leak, lane_of_no_session, lane_of_ended_session,
     lane_attach_garbage,
     out_of_descriptors, code_upgrade_of_the_acceptor, registry_comes_back, strange_hello,
     plain_peers_refused].

init_per_testcase(_Case, Config) -> Config.
end_per_testcase(_Case, _Config) -> ok.

%% ------------------------------------------------------------------------------------------------

%% Nothing that is no distribution packet gets an answer, waits for the timeout, or is logged more
%% than once in a while.
garbage_is_closed_and_counted(_Config) ->
    P = start(["-kernel", "net_setuptime", "100"]),
    Garbage = [<<"GET / HTTP/1.1\r\n\r\n">>, <<22, 3, 1, 0, 200, 1>>, <<0, 0>>, <<0, 1, "x">>,
               <<16#10, 16#01>>, <<255, 255>>, <<0, 5, "hello">>, <<0, 4, "Ptsm">>],
    lists:foreach(fun(Bytes) ->
                          {ok, S} = connect(P),
                          ok = gen_tcp:send(S, Bytes),
                          ?assertMatch({error, _}, gen_tcp:recv(S, 0, 60000), Bytes),
                          ?assertNotEqual({error, timeout}, gen_tcp:recv(S, 0, 0))
                  end, Garbage),
    N = length(Garbage),
    ?assert(pt_peer:wait(fun() -> counter(P, garbage) =:= N end)),
    said_seldom(P, notice, "closed a connection from 127.0.0.1"),
    is_well(P),
    pt_peer:stop(P).

%% Three connections that say nothing, one byte, half a packet: each is closed when the setup time
%% is over and not before.
silence_ends_with_the_setup_time(_Config) ->
    P = start(["-kernel", "net_setuptime", "2"]),
    Start = erlang:monotonic_time(millisecond),
    Sockets = [begin
                   {ok, S} = connect(P),
                   ok = gen_tcp:send(S, Bytes),
                   S
               end || Bytes <- [<<>>, <<0>>, <<0, 30, "N">>]],
    [?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)) || S <- Sockets],
    ?assert(erlang:monotonic_time(millisecond) - Start >= 1900),
    ?assert(pt_peer:wait(fun() -> counter(P, silent) =:= 3 end)),
    ?assertEqual([], logs(P, "partisan: closed")),
    is_well(P),
    pt_peer:stop(P).

%% Idle connections beyond the bound push out the oldest idle one; a peer still gets in.
half_open_connections_are_bounded(_Config) ->
    Max = 8,
    P = start(["-partisan", "max_half_open", integer_to_list(Max),
               "-kernel", "net_setuptime", "60"]),
    First = [begin {ok, S} = connect(P), S end || _ <- lists:seq(1, Max)],
    ?assert(pt_peer:wait(fun() -> counter(P, accepted) >= Max end)),
    ?assertEqual(0, counter(P, evicted)),
    More = [begin {ok, S} = connect(P), S end || _ <- lists:seq(1, 3)],
    [?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)) || S <- lists:sublist(First, 3)],
    Left = lists:nthtail(3, First) ++ More,
    [?assertEqual({error, timeout}, gen_tcp:recv(S, 0, 50)) || S <- Left],
    ?assert(pt_peer:wait(fun() -> counter(P, evicted) =:= 3 end)),
    is_well(P),
    said_seldom(P, warning, "half-open"),
    pt_peer:stop(P).

%% Strangers who say hello as a node does and go silent fill all places for net_setuptime. A peer gets in
%% at once all the same, with all its lanes, and so does the next; the handshakes that give way to them
%% end without a word of their own in the log. A stranger without a cookie cannot push out a peer.
silent_handshakes_lock_nobody_out(_Config) ->
    Max = 12,
    Setup = 60000,
    P = start(["-partisan", "max_half_open", integer_to_list(Max),
               "-kernel", "net_setuptime", integer_to_list(Setup div 1000)]),
    Strangers = [half_way(P) || _ <- lists:seq(1, Max)],
    ?assertEqual(0, counter(P, evicted)),
    Lanes = 4,
    Peers = [pt_peer:start(visitor, #{args => ["-connect_all", "false",
                                               "-partisan", "lanes", integer_to_list(Lanes),
                                               "lanes_at_start", integer_to_list(Lanes),
                                               "-kernel", "net_setuptime", "30"]})
             || _ <- [1, 2]],
    [begin
         %% true at the first attempt: nobody tries again behind the test's back
         ?assertEqual(true, pt_peer:call(Peer, net_kernel, connect_node, [pt_peer:node(P)])),
         ?assert(pt_peer:wait(fun() -> lanes(Peer, P) =:= Lanes andalso lanes(P, Peer) =:= Lanes end))
     end || Peer <- Peers],
    %% as many places as were needed at a time, not more: one for each that came later. A lane that says
    %% nothing for a moment, on a busy machine, may be shut, too, and comes again.
    Evicted = counter(P, evicted),
    Gone = [S || S <- Strangers, gen_tcp:recv(S, 0, 0) =:= {error, closed}],
    ?assert(Evicted > 0),
    ?assert(length(Gone) > 0),
    ?assert(pt_peer:wait(fun() -> length(Gone) =< counter(P, evicted) end)),
    ?assert(counter(P, evicted) =< counter(P, accepted) - Max),
    %% pressure by newcomers of the same kind: the peers' connections stay
    More = [half_way(P) || _ <- lists:seq(1, Max)],
    [?assertEqual(Lanes, lanes(P, Peer)) || Peer <- Peers],
    said_seldom(P, warning, "half-open"),
    ?assertEqual([], pt_peer:unexpected_logs(P) -- logs(P, "half-open")),
    [gen_tcp:close(S) || S <- Strangers ++ More],
    [pt_peer:stop(Peer) || Peer <- Peers],
    is_well(P),
    pt_peer:stop(P).

%% As long as there are places, a handshake may take its time: longer than one that others wait for.
slow_handshake_without_pressure(_Config) ->
    P = start(["-partisan", "max_half_open", "8", "-kernel", "net_setuptime", "30"]),
    Slow = [half_way(P) || _ <- lists:seq(1, 3)],
    Silent = lists:duplicate(length(Slow), {error, timeout}),
    ?assertEqual(Silent, [gen_tcp:recv(S, 0, 1000) || S <- Slow]),
    is_well(P), % with all its lanes; there is room for them
    ?assertEqual(Silent, [gen_tcp:recv(S, 0, 0) || S <- Slow]),
    ?assertEqual(0, counter(P, evicted)),
    pt_peer:stop(P).

%% After many connections of all kinds the node has the processes, ports and descriptors it had.
doors_do_not_leak(_Config) ->
    P = start([]),
    is_well(P),
    Before = resources(P),
    SetupTime = fun(Seconds) -> pt_peer:call(P, application, set_env, [kernel, net_setuptime, Seconds]) end,
    ok = SetupTime(1),
    lists:foreach(fun(I) ->
                          {ok, S} = connect(P),
                          _ = gen_tcp:send(S, element(I rem 4 + 1, {<<"garbage">>, <<0, 9, "N">>,
                                                                    attach(<<I:128>>), <<>>})),
                          I rem 3 =:= 0 orelse gen_tcp:close(S)
                  end, lists:seq(1, 100)),
    ?assert(pt_peer:wait(fun() -> counter(P, accepted) >= 100 end)),
    %% each of them
    ?assert(pt_peer:wait(fun() ->
                             lists:all(fun({Now, Then}) -> Now =< Then end, lists:zip(resources(P), Before))
                         end), {Before, resources(P)}),
    ok = SetupTime(60),
    is_well(P),
    pt_peer:stop(P).

%% A lane whose session is unknown is closed at once: no key, no answer.
lane_of_no_session(_Config) ->
    P = start([]),
    {ok, S} = connect(P),
    ok = gen_tcp:send(S, attach(crypto:strong_rand_bytes(16))),
    ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)),
    ?assert(pt_peer:wait(fun() -> counter(P, refused_lanes) =:= 1 end)),
    said_seldom(P, notice, "refused a lane"),
    is_well(P),
    pt_peer:stop(P).

%% A lane that was on its way when its session ended is no stranger: nobody needs to read of it.
lane_of_ended_session(_Config) ->
    P = start([]),
    Id = crypto:strong_rand_bytes(16),
    Session = pt_peer:eval(P, fun() ->
                                      spawn(fun() ->
                                                    _ = partisan_dist_reg:enter(Id),
                                                    receive stop -> ok end
                                            end)
                              end),
    Lookup = fun() -> pt_peer:call(P, partisan_dist_reg, lookup, [Id]) end,
    ?assert(pt_peer:wait(fun() -> Lookup() =:= {ok, Session} end)),
    pt_peer:eval(P, fun() -> Session ! stop end),
    ?assert(pt_peer:wait(fun() -> Lookup() =:= ended end)),
    {ok, S} = connect(P),
    ok = gen_tcp:send(S, attach(Id)),
    ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000)),
    said_seldom(P, info, "a lane came after its session had ended"),
    ?assertEqual([], logs(P, "refused a lane")),
    is_well(P),
    pt_peer:stop(P).

lane_attach_garbage(_Config) ->
    P = start([]),
    Requests = [<<"Ptsn">>, <<"Ptsn", 1>>, <<"Ptsn", 2, 0:128, 1, 0:128>>,
                <<"Ptsn", 1, 0:128, 1, 0:128, "more">>],
    lists:foreach(fun(Body) ->
                          {ok, S} = connect(P),
                          ok = gen_tcp:send(S, [<<(byte_size(Body)):16>>, Body]),
                          ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 30000), Body)
                  end, Requests),
    N = length(Requests),
    ?assert(pt_peer:wait(fun() -> counter(P, refused_lanes) =:= N end)),
    is_well(P),
    pt_peer:stop(P).

%% No descriptor left: the acceptor says so once, does not spin, and goes on when there are some.
out_of_descriptors(_Config) ->
    P = start(["-kernel", "net_setuptime", "100"]),
    is_well(P),
    Used = pt_peer:fds(P),
    Limit = fun(N) ->
                    [] = os:cmd("prlimit --nofile=" ++ integer_to_list(N) ++ ": --pid "
                                ++ pt_peer:os_pid(P))
            end,
    Limit(Used),
    %% some, in case something else was just being closed; the kernel takes what finds no descriptor into
    %% the backlog
    Sockets = [begin {ok, S} = connect(P), S end || _ <- lists:seq(1, 10)],
    ?assert(pt_peer:wait(fun() -> counter(P, accept_errors) >= 2 end)),
    ?assert(counter(P, accept_errors) < 100),
    Limit(Used + 100),
    [begin
         ok = gen_tcp:send(S, <<"GET / HTTP">>),
         ?assertMatch({error, closed}, gen_tcp:recv(S, 0, 60000))
     end || S <- Sockets],
    said_seldom(P, warning, "cannot accept"),
    is_well(P),
    pt_peer:stop(P).

%% The carrier's modules are loaded twice (which kills what still runs the code of before); the
%% acceptor, and a connection that is up, stay.
code_upgrade_of_the_acceptor(_Config) ->
    A = start([]),
    B = start([]),
    pt_peer:connect(A, B),
    Owner = owner(A, pt_peer:node(B)),
    Modules = [partisan_dist, partisan_dist_listen, partisan_dist_hs, partisan_dist_conn,
               partisan_dist_lanes, partisan_dist_attach, partisan_dist_reg, partisan_dist_addr,
               partisan_dist_conf, partisan_dist_hello, partisan_drv, partisan_nif],
    Upgrade = fun() ->
                      pt_peer:eval(A, fun() ->
                          [begin
                               true = pt_peer:wait(fun() -> code:soft_purge(M) end, 30000),
                               {module, M} = code:load_file(M)
                           end || M <- Modules],
                          ok
                      end)
              end,
    ok = Upgrade(),
    ok = Upgrade(),
    is_well(A),
    ?assertEqual(Owner, owner(A, pt_peer:node(B))),
    ?assertEqual(pong, pt_peer:call(A, erpc, call, [pt_peer:node(B), net_adm, ping,
                                                    [pt_peer:node(A)]])),
    ?assertEqual(ok, pt_peer:call(A, net_kernel, setopts, [pt_peer:node(B), [{nodelay, true}]])),
    pt_peer:disconnect(A, B),
    pt_peer:connect(A, B),
    pt_peer:stop(A),
    pt_peer:stop(B).

%% The process that everything else leans on is killed: connections stay, new ones come.
registry_comes_back(_Config) ->
    A = start([]),
    B = start([]),
    pt_peer:connect(A, B),
    Owner = owner(A, pt_peer:node(B)),
    true = pt_peer:eval(A, fun() -> exit(whereis(partisan_dist_reg), kill) end),
    is_well(A),
    ?assertEqual(Owner, owner(A, pt_peer:node(B))),
    pt_peer:disconnect(A, B),
    pt_peer:connect(B, A),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(A, erlang, whereis, [partisan_dist_reg])
                                      =/= undefined end)),
    pt_peer:stop(A),
    pt_peer:stop(B).

%% A hello that cannot be read makes its sender a plain peer, said in one line; so does one of a
%% version that we do not speak. The challenge then holds no hello.
strange_hello(_Config) ->
    P = start([]),
    Nonce = crypto:strong_rand_bytes(16),
    Body = <<2, 1:16, 4, 3, 16:16, Nonce/binary>>,
    Good = fun(Version, Oldest) ->
                   <<"ptsn", Version, Oldest, (byte_size(Body)):16, Body/binary>>
           end,
    ?assertMatch({ok, _}, challenge_hello(P, Good(1, 1))),
    ?assertMatch({ok, _}, challenge_hello(P, Good(200, 1))),
    ?assertEqual(none, challenge_hello(P, <<>>)),
    ?assertEqual([], logs(P, "plain peer")),
    ?assertEqual(none, challenge_hello(P, Good(200, 150))),
    ?assertEqual(none, challenge_hello(P, <<"ptsn", 1, 1, 9:16>>)),
    ?assert(pt_peer:wait(fun() -> length(logs(P, "plain peer")) =:= 2 end)),
    is_well(P),
    pt_peer:stop(P).

%% Option plain_peers refuse: a stock node is told so by the protocol's own means, both ways.
plain_peers_refused(_Config) ->
    P = start(["-partisan", "plain_peers", "refuse"]),
    Plain = pt_peer:start(plain, #{carrier => "inet_tcp"}),
    ?assertEqual(false, pt_peer:call(Plain, net_kernel, connect_node, [pt_peer:node(P)])),
    ?assertEqual(false, pt_peer:call(P, net_kernel, connect_node, [pt_peer:node(Plain)])),
    ?assert(pt_peer:wait(fun() -> length(logs(P, "plain_peers")) >= 2 end)),
    is_well(P),
    pt_peer:stop(Plain),
    pt_peer:stop(P).

%% ------------------------------------------------------------------------------------------------

start(Args) ->
    P = pt_peer:start(listener, #{carrier => "partisan", args => ["-connect_all", "false" | Args]}),
    pt_peer:log_start(P),
    P#{since => erlang:monotonic_time(second)}.

%% The node is reachable for a peer, over the carrier.
is_well(P) ->
    Peer = pt_peer:start(visitor, #{carrier => "partisan", args => ["-connect_all", "false"]}),
    pt_peer:connect(Peer, P),
    ?assert(pt_peer:eval(Peer, fun() ->
                                   pt_peer:is_partisan_port(pt_peer:dist_port(hd(nodes())))
                               end)),
    pt_peer:stop(Peer),
    ?assert(pt_peer:wait(fun() -> not lists:member(pt_peer:node(Peer),
                                                   pt_peer:call(P, erlang, nodes, [])) end)).

connect(P) ->
    gen_tcp:connect({127, 0, 0, 1}, listen_port(P), [binary, {active, false}]).

listen_port(P) ->
    [Name, _] = string:split(atom_to_list(pt_peer:node(P)), "@"),
    {port, Port, _} = erl_epmd:port_please(Name, {127, 0, 0, 1}),
    Port.

counter(P, Name) ->
    maps:get(Name, pt_peer:call(P, partisan_dist_reg, counters, []), 0).

logs(P, Part) ->
    [Line || {_, Text} = Line <- pt_peer:logged(P), string:find(Text, Part) =/= nomatch].

%% Once, and again after ten seconds at the earliest.
said_seldom(#{since := Since} = P, Level, Part) ->
    ?assert(pt_peer:wait(fun() -> logs(P, Part) =/= [] end)),
    Lines = logs(P, Part),
    ?assertEqual([], [Line || {Other, _} = Line <- Lines, Other =/= Level]),
    Most = 1 + (1 + erlang:monotonic_time(second) - Since) div 10,
    ?assert(length(Lines) =< Most, {Most, Lines}).

resources(P) ->
    [pt_peer:call(P, erlang, system_info, [process_count]),
     pt_peer:call(P, erlang, system_info, [port_count]),
     pt_peer:fds(P)].

owner(P, Node) ->
    {ok, Info} = pt_peer:call(P, net_kernel, node_info, [Node]),
    proplists:get_value(owner, Info).

attach(SessionId) ->
    Body = <<"Ptsn", 1, SessionId/binary, 1, 0:128>>,
    <<(byte_size(Body)):16, Body/binary>>.

lanes(P, Peer) ->
    case pt_peer:call(P, partisan_dist, info, [pt_peer:node(Peer)]) of
        #{lanes_attached := N} -> N;
        _ -> 0
    end.

%% A connection in the middle of its handshake: the other side waits for our answer to its challenge.
half_way(P) ->
    {S, _Challenge} = challenged(P, <<>>),
    S.

%% As a connector: send_name with the given bytes behind the name; what stands in the challenge.
challenge_hello(P, Behind) ->
    {S, Challenge} = challenged(P, Behind),
    gen_tcp:close(S),
    partisan_dist_hello:find({challenge, Challenge}).

challenged(P, Behind) ->
    {ok, S} = connect(P),
    Flags = pt_peer:eval(P, fun() -> element(2, erts_internal:get_dflags()) end),
    Name = "hello_" ++ integer_to_list(erlang:unique_integer([positive])) ++ "@127.0.0.1",
    SendName = [<<$N, Flags:64, 1:32, (length(Name)):16>>, Name, Behind],
    ok = gen_tcp:send(S, [<<(iolist_size(SendName)):16>>, SendName]),
    {ok, <<"sok">>} = packet(S),
    {ok, Challenge} = packet(S),
    {S, Challenge}.

packet(S) ->
    {ok, <<Length:16>>} = gen_tcp:recv(S, 2, 30000),
    gen_tcp:recv(S, Length, 30000).
