%% Strangers at the port, and junk from peers: it is over with them, and with nobody else.
-module(stranger_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([garbage_before_authentication/1, half_open/1, slow_bytes/1,
         garbage_after_authentication/1]).

-import(pt_failure, [pair/0, pair/2, nodes_of/2, stop/1, on/2, watcher/2, watcher_only/2, downs/2,
                     one_end/4, healthy/1, ports/1, sockets/1, settle/1, listen_port/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [garbage_before_authentication, half_open, slow_bytes, garbage_after_authentication].

garbage_before_authentication(_) ->
    {A, B} = pair(),
    W = watcher(A, B),
    Port = listen_port(A),
    settle(A),
    {Ports, Fds} = {ports(A), sockets(A)},
    Junk = [<<>>, <<0>>, <<0, 0>>, <<255, 255>>, <<0, 1, $x>>, <<"GET / HTTP/1.1\r\n\r\n">>,
            <<22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3>>, binary:copy(<<255>>, 100000),
            <<0, 7, $n, 0, 5, 255, 255, 255, 255>>, <<0, 15, $N, 0:64, 0:32, 0:16>>,
            <<255, 255, $N, 0:64, 0:32, 65535:16, 0:80000>>,
            <<0, 3, $s, 0, 0>>, rand:bytes(1000), binary:copy(<<0>>, 5000)],
    [begin
         {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}], 30000),
         _ = gen_tcp:send(S, J),
         case I rem 3 of
             0 -> ok;
             1 -> gen_tcp:shutdown(S, write);
             2 -> inet:setopts(S, [{linger, {true, 0}}])
         end,
         gen_tcp:close(S)
     end || J <- Junk, I <- lists:seq(1, 6)],
    ?assert(pt_peer:wait(fun() -> ports(A) =< Ports andalso sockets(A) =< Fds end)),
    ?assertEqual([], downs(A, W)),
    NA = pt_peer:node(A),
    ?assertEqual(NA, on(B, fun() -> erpc:call(NA, erlang, node, []) end)),
    healthy(A),
    stop([A, B]).

half_open(_) ->
    {A, B} = nodes_of(#{}, #{}),
    Port = listen_port(A),
    pt_peer:connect(B, A),
    settle(A),
    Fds = sockets(A),
    pt_peer:disconnect(B, A),
    SetupTime = fun(Seconds) -> pt_peer:call(A, application, set_env, [kernel, net_setuptime, Seconds]) end,
    ok = SetupTime(3),
    Before = accepted(A, 0),
    Socks = [begin {ok, S} = gen_tcp:connect({127, 0, 0, 1}, Port, [{active, false}], 30000), S end
             || _ <- lists:seq(1, 60)],
    %% Real nodes come through while they wait, and they are thrown out in the end.
    ?assert(pt_peer:wait(fun() -> accepted(A, 60) >= Before + 60 end)),
    ok = SetupTime(60),
    pt_peer:connect(B, A),
    ?assert(pt_peer:wait(fun() -> sockets(A) =< Fds end)),
    [?assertEqual({error, closed}, gen_tcp:recv(S, 0, 30000)) || S <- Socks],
    healthy(A),
    stop([A, B]).

%% Connections so far; stock inet_tcp does not count them.
accepted(A, Else) ->
    case pt_peer:carrier() of
        "partisan" -> maps:get(accepted, pt_peer:call(A, partisan_dist_reg, counters, []), 0);
        _ -> Else
    end.

%% A byte now and then does not buy more time than net_setuptime.
slow_bytes(_) ->
    A = pt_peer:start(fa, #{args => ["-kernel", "net_setuptime", "2"]}),
    {ok, S} = gen_tcp:connect({127, 0, 0, 1}, listen_port(A), [binary, {active, true}], 30000),
    T0 = erlang:monotonic_time(millisecond),
    ok = slow(S, <<1000:16, $N, 0:8000>>),
    T = erlang:monotonic_time(millisecond) - T0,
    %% all of it would take 200 s
    ?assert(T < 60000, T),
    healthy(A),
    stop([A]).

slow(S, <<B, Rest/binary>>) ->
    case gen_tcp:send(S, <<B>>) of
        ok ->
            receive
                {tcp_closed, S} -> ok;
                {tcp_error, S, _} -> ok
            after 200 -> slow(S, Rest)
            end;
        {error, _} -> ok
    end.

%% Junk on an authenticated connection, as a broken or hostile node would send it: that connection
%% ends, on both sides, and nothing else.
garbage_after_authentication(_) ->
    A = pt_peer:start(fa),
    pt_peer:log_start(A),
    [begin
         B = pt_peer:start(fa),
         pt_peer:connect(A, B),
         W = watcher_only(A, B),
         NA = pt_peer:node(A),
         ct:log("junk: ~0P", [Junk, 20]),
         on(B, fun() ->
                   Ctrl = pt_peer:dist_port(NA),
                   [try port_command(Ctrl, J) catch error:_ -> ended end || J <- Junk],
                   ok
               end),
         one_end(A, W, B, any),
         healthy(A),
         healthy(B),
         stop([B])
     end || Junk <- [[<<131, 68, 0, 104, 255>>],
                     [<<131, 68, 0, (term_to_ctl({22}))/binary>>],
                     [<<1, 2, 3, 4, 5>>],
                     [<<112, 131, 104, 3, 97, 2, 100, 0, 0, 97, 9>>],
                     [<<131, 68, 0, (term_to_ctl({99, self(), hello}))/binary>>],
                     %% a fragment of nothing, and a first fragment twice
                     [<<131, 70, 77:64, 3:64, "abc">>],
                     [<<131, 69, 77:64, 3:64, 0, (term_to_ctl({6, self(), '', nobody}))/binary, 131>>,
                      <<131, 69, 77:64, 3:64, 0, (term_to_ctl({6, self(), '', nobody}))/binary, 131>>],
                     [rand:bytes(100000)]]],
    stop([A]).

term_to_ctl(T) -> <<131, Rest/binary>> = term_to_binary(T), Rest.
