%% The sockets of a connection, seen and touched by others: tools, users, kernel options. Each case runs on
%% inet_tcp, too (CARRIER=inet_tcp).
-module(socket_SUITE).

-include_lib("kernel/include/net_address.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([one_socket_by_peername/1, controller_is_no_socket/1, socket_closed_by_hand/1, forced_options/1]).

-import(pt_pair, [ipv6_opts/0, lanes_of/3, monitor_nodes/2, on/2, pair/0, pair/2, stop/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() -> [one_socket_by_peername, controller_is_no_socket, socket_closed_by_hand, forced_options].

%% Tools that show a connection's buffers and options find its socket by the address that net_kernel
%% knows (prometheus.erl does), and take anything but one match for none.
one_socket_by_peername(_) ->
    lists:foreach(fun({Lanes, Opts}) ->
                          Args = #{args => ["-partisan", "lanes", "4", "lanes_at_start",
                                            integer_to_list(Lanes)]},
                          {A, B} = pair(maps:merge(Opts, Args), maps:merge(Opts, Args)),
                          [begin
                               NQ = pt_peer:node(Q),
                               ?assert(pt_peer:wait(fun() -> lanes_of(P, NQ, Lanes) end)),
                               ?assertMatch([_], sockets_of(P, NQ)),
                               ok = pt_peer:call(P, net_kernel, setopts, [NQ, [{priority, 3}]]),
                               [Socket] = sockets_of(P, NQ),
                               ?assertEqual({ok, [{priority, 3}]},
                                            pt_peer:call(P, inet, getopts, [Socket, [priority]])),
                               ?assertEqual({ok, [{priority, 3}]},
                                            pt_peer:call(P, net_kernel, getopts, [NQ, [priority]])),
                               ok = pt_peer:call(P, inet, i, [])
                           end || {P, Q} <- [{A, B}, {B, A}]],
                          stop([A, B])
                  end, [{Lanes, Opts} || Lanes <- [2, 4], Opts <- [#{} | ipv6_opts()]]).

sockets_of(Peer, Node) ->
    on(Peer, fun() ->
                     {ok, Nodes} = net_kernel:nodes_info(),
                     #net_address{address = Address} =
                         proplists:get_value(address, proplists:get_value(Node, Nodes)),
                     [P || P <- erlang:ports(), erlang:port_info(P, name) =:= {name, "tcp_inet"},
                           inet:peername(P) =:= {ok, Address}]
             end).

%% What takes the distribution controller for a socket hears that it is none, and does no harm.
controller_is_no_socket(_) ->
    {A, B} = pair(),
    NB = pt_peer:node(B),
    case pt_peer:carrier() of
        "partisan" ->
            ok = on(A, fun() ->
                               Port = pt_peer:dist_port(NB),
                               {error, einval} = inet:getstat(Port),
                               {error, einval} = inet:getopts(Port, [nodelay]),
                               {error, einval} = inet:peername(Port),
                               [try erlang:port_control(Port, Verb, <<0:64>>) of
                                    Answer -> error({Verb, Answer})
                                catch
                                    error:badarg -> ok
                                end || Verb <- [0, 14, 255, 16#3f1a30b]],
                               {ok, _, _, _} = partisan_drv:stat(Port),
                               ok
                       end);
        _ ->
            ?assertMatch({ok, _}, on(A, fun() -> inet:getstat(pt_peer:dist_port(NB)) end))
    end,
    ?assertEqual(pong, on(A, fun() -> net_adm:ping(NB) end)),
    stop([A, B]).

%% It ends the connection at both ends, which can be made anew. A further lane goes on without.
socket_closed_by_hand(_) ->
    Alone = #{args => ["-connect_all", "false"]},
    {A, B} = pair(Alone, Alone),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    lists:foreach(fun pt_peer:log_start/1, [A, B]),
    lists:foreach(fun({P, NQ, Q, NP}) ->
                          Down = monitor_nodes(P, [nodedown_reason]),
                          DownQ = monitor_nodes(Q, [nodedown_reason]),
                          [Socket] = sockets_of(P, NQ),
                          ok = pt_peer:call(P, inet, close, [Socket]),
                          ?assert(pt_peer:wait(fun() -> pt_peer:collected(P, Down) =/= []
                                                            andalso pt_peer:collected(Q, DownQ) =/= []
                                               end)),
                          ?assertEqual([{nodedown, NQ, [{nodedown_reason, connection_closed}]}],
                                       pt_peer:collected(P, Down)),
                          ?assertEqual([{nodedown, NP, [{nodedown_reason, connection_closed}]}],
                                       pt_peer:collected(Q, DownQ)),
                          pt_peer:connect(A, B)
                  end, [{A, NB, B, NA}, {B, NA, A, NB}]),
    ?assert(pt_peer:wait(fun() -> lanes_of(A, NB, 2) end)),
    on(A, fun() -> [inet:close(P) || P <- erlang:ports(),
                                     erlang:port_info(P, name) =:= {name, "tcp_inet"},
                                     {ok, {_, 0}} <- [inet:peername(P)]]
          end),
    C = monitor_nodes(A, []),
    Big = rand:bytes(3000000),
    ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
    ?assert(lanes_of(A, NB, 2)),
    ok = pt_peer:call(A, net_kernel, setopts, [NB, [{priority, 3}]]),
    ?assertEqual({ok, [{priority, 3}]}, pt_peer:call(A, net_kernel, getopts, [NB, [priority]])),
    ?assertEqual([], pt_peer:collected(A, C)),
    [?assertMatch([_ | _], [L || {notice, L} <- pt_peer:logged(P),
                                 string:find(L, "its socket was closed on this node") =/= nomatch])
     || P <- [A, B], pt_peer:carrier() =:= "partisan"],
    stop([A, B]).

%% Options under which nobody could read a handshake do not get in its way. Stock leaves some out, too.
forced_options(_) ->
    Carrier = [["inet_dist_listen_options", "[{header,4},{active,true},list]",
                "inet_dist_connect_options", "[{header,4},{active,true},list]"]
               || pt_peer:carrier() =:= "partisan"],
    lists:foreach(fun(Given) ->
                          Opts = #{args => ["-kernel" | Given]},
                          {A, B} = pair(Opts, Opts),
                          [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
                          ?assert(pt_peer:wait(fun() -> lanes_of(A, NB, 2) end)),
                          ?assert(pt_peer:wait(fun() -> lanes_of(B, NA, 2) end)),
                          ?assertEqual(pong, on(A, fun() -> net_adm:ping(NB) end)),
                          stop([A, B])
                  end, [["inet_dist_connect_options", "[{header,4}]"] | Carrier]).
