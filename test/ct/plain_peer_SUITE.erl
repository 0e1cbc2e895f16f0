%% A carrier node among peers that have never heard of it: stock inet_tcp nodes, erl_call, C nodes.
%%
%% CARRIER=inet_tcp runs the suite without the carrier: what must hold is what holds there.
-module(plain_peer_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([plain_connects/1, carrier_connects/1, atom_cache_and_fragments/1, hidden_nodes/1,
         many_at_once/1, idle_connections_tick/1, goes_and_comes_back/1, erl_call/1,
         cnode_connects/1, cnode_accepts/1, cnode_dies/1, rolling_upgrade/1]).
%% Run on the nodes.
-export([receive_terms/2, send_terms/2, big_exit/1, cnode_echo/2]).

suite() ->
    [{timetrap, {seconds, 300}}].

all() ->
    [plain_connects, carrier_connects, atom_cache_and_fragments, hidden_nodes, many_at_once,
     idle_connections_tick, goes_and_comes_back, erl_call, cnode_connects, cnode_accepts, cnode_dies,
     rolling_upgrade].

init_per_suite(Config) ->
    Ei = code:lib_dir(erl_interface),
    Exe = filename:join(?config(priv_dir, Config), "cnode"),
    Source = filename:join(?config(data_dir, Config), "cnode.c"),
    %% _REENTRANT: the threaded library, libei.a, defines the erl_errno that ei.h declares with it.
    Out = os:cmd(lists:join(" ", [os:getenv("CC", "cc"), "-std=gnu17 -Wall -Wextra -Werror -O1 -g",
                                  "-D_REENTRANT -I", Ei ++ "/include", "-o", Exe, Source,
                                  "-L", Ei ++ "/lib -lei -lpthread; echo $?"])),
    ?assertEqual("0\n", Out),
    [{cnode, Exe} | Config].

end_per_suite(_Config) ->
    ok.

%% ------------------------------------------------------------------------------------------------

plain_connects(_Config) ->
    talk(plain).

carrier_connects(_Config) ->
    talk(carrier).

%% One connection, everything arrives, nobody says a word about it.
talk(Connector) ->
    {C, P, Count} = pair(),
    {From, To} = case Connector of plain -> {P, C}; carrier -> {C, P} end,
    pt_peer:connect(From, To),
    %% At the same time in both directions, from several processes: sizes around every limit there is.
    exchange(C, P),
    signals(C, P),
    signals(P, C),
    [?assertEqual("tcp_inet", driver(A, B)) || {A, B} <- [{C, P}, {P, C}]],
    %% Only now: connections behind the first would have been tried by now.
    ?assertEqual({1, 0}, {Count(To), Count(From)}),
    quiet([C, P]),
    stop([C, P]).

%% The sending port tells what went over the wire, in both directions: an atom much shorter than its
%% text, and a large message in packets of 64 KB.
atom_cache_and_fragments(_Config) ->
    {C, P, _} = pair(),
    pt_peer:connect(C, P),
    [begin
         Atom = list_to_atom(lists:duplicate(255, $a)),
         N = 2000,
         ok = exchange_terms(A, B, [Atom]),
         {_, Bytes, ok} = measured(A, B, fun() -> exchange_terms(A, B, lists:duplicate(N, Atom)) end),
         ?assert(Bytes < N * 255, {Bytes, A, B}),
         Large = 4 bsl 20,
         {Packets, _, ok} = measured(A, B, fun() -> exchange_terms(A, B, [{size, Large}]) end),
         ?assert(Packets >= Large div (64 bsl 10), {Packets, A, B})
     end || {A, B} <- [{C, P}, {P, C}]],
    quiet([C, P]),
    stop([C, P]).

hidden_nodes(_Config) ->
    [begin
         C = start(carrier, HC),
         P = start(plain, HP),
         {From, To} = case Dir of to_plain -> {C, P}; to_carrier -> {P, C} end,
         true = pt_peer:call(From, net_kernel, connect_node, [pt_peer:node(To)]),
         [begin
              ?assert(pt_peer:wait(fun() -> pt_peer:call(A, erlang, nodes, [hidden]) =:=
                                                [pt_peer:node(B)] end)),
              ?assertEqual([], pt_peer:call(A, erlang, nodes, []))
          end || {A, B} <- [{C, P}, {P, C}]],
         exchange(C, P),
         quiet([C, P]),
         stop([C, P])
     end || Dir <- [to_plain, to_carrier], {HC, HP} <- [{["-hidden"], []}, {[], ["-hidden"]}]].

%% Carriers and plain nodes in one mesh, everyone with everyone.
many_at_once(_Config) ->
    Cs = [start(carrier, []) || _ <- [1, 2]],
    Ps = [start(plain, []) || _ <- [1, 2]],
    All = Cs ++ Ps,
    [pt_peer:connect(hd(All), X) || X <- tl(All)],
    ?assert(pt_peer:wait(fun() -> lists:all(fun(X) -> length(pt_peer:call(X, erlang, nodes, [])) =:= 3 end,
                                            All) end)),
    Pairs = [{A, B} || A <- All, B <- All, A =/= B],
    ok = parallel([fun() -> exchange_terms(A, B, terms(200_000)) end || {A, B} <- Pairs]),
    [?assertEqual(expected_driver(A, B, Cs), driver(A, B)) || {A, B} <- Pairs],
    quiet(All),
    stop(All).

%% Ticks in both directions keep an idle connection over several tick times, towards a plain node and
%% a C node.
idle_connections_tick(Config) ->
    Tick = 4,
    Args = ["-kernel", "net_ticktime", integer_to_list(Tick)],
    C = start(carrier, Args),
    P = start(plain, Args),
    pt_peer:connect(P, C),
    Cnode = cnode(Config, "accept", []),
    pong = cnode_ping(C, Cnode),
    Events = pt_peer:spawn_collector(C),
    pt_peer:call(C, erlang, apply, [fun monitor_nodes/1, [Events]]),
    Nodes = [pt_peer:node(P), maps:get(node, Cnode)],
    Stat = fun(Port) -> pt_peer:eval(C, fun() -> stat(Port) end) end,
    Before = [Stat(X) || X <- Nodes],
    %% A node is given up after at most 1.25 tick times of silence. Packets leave a quarter of a tick time
    %% apart, so seven of them take more than that.
    Enough = 7,
    ?assert(pt_peer:wait(fun() -> lists:all(fun({{_, S0}, {_, S1}}) -> S1 - S0 >= Enough end,
                                            lists:zip(Before, [Stat(X) || X <- Nodes])) end,
                         60000, 200)),
    [{R0, _} | _] = Before,
    {R1, _} = Stat(hd(Nodes)),
    ?assert(R1 > R0),
    ?assertEqual([], pt_peer:collected(C, Events)),
    pong = cnode_ping(C, Cnode),
    cnode_stop(C, Cnode),
    quiet([C, P]),
    stop([C, P]).

monitor_nodes(To) ->
    Self = self(),
    spawn(fun() ->
              ok = net_kernel:monitor_nodes(true, #{node_type => all}),
              Self ! ready,
              (fun Loop() -> receive M -> To ! M, Loop() end end)()
          end),
    receive ready -> ok end.

%% {received, sent} packets of the tcp_inet port towards a node.
stat(Node) ->
    {ok, L} = inet:getstat(pt_peer:dist_port(Node), [recv_cnt, send_cnt]),
    {proplists:get_value(recv_cnt, L), proplists:get_value(send_cnt, L)}.

%% Either side leaves, orderly or not: one nodedown, links and monitors fire, and a new connection in
%% either direction works.
goes_and_comes_back(_Config) ->
    {C, P, _} = pair(["-connect_all", "false"]), % nobody connects but the test
    [begin
         Events = pt_peer:spawn_collector(A),
         pt_peer:call(A, erlang, apply, [fun monitor_nodes/1, [Events]]),
         pt_peer:connect(From, To),
         Remote = pt_peer:eval(B, fun() -> spawn(fun() -> receive never -> ok end end) end),
         Collector = pt_peer:spawn_collector(A),
         pt_peer:eval(A, fun() ->
                             spawn(fun() ->
                                       process_flag(trap_exit, true),
                                       link(Remote),
                                       Ref = monitor(process, Remote),
                                       Collector ! armed,
                                       receive {'DOWN', Ref, _, _, Why1} -> Collector ! {down, Why1} end,
                                       receive {'EXIT', Remote, Why2} -> Collector ! {exit, Why2} end
                                   end)
                         end),
         ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, Collector) =:= [armed] end)),
         pt_peer:disconnect(Leaver, case Leaver of A -> B; B -> A end),
         ?assert(pt_peer:wait(fun() -> pt_peer:collected(A, Collector) =:=
                                           [armed, {down, noconnection}, {exit, noconnection}] end)),
         NodeB = pt_peer:node(B),
         ?assert(pt_peer:wait(fun() -> [W || {W, N, _} <- pt_peer:collected(A, Events), N =:= NodeB]
                                           =:= [nodeup, nodedown] end))
     end || {A, B} <- [{C, P}, {P, C}], Leaver <- [A, B], {From, To} <- [{A, B}, {B, A}]],
    exchange(C, P),
    quiet([C, P]),
    stop([C, P]).

%% ------------------------------------------------------------------------------------------------

%% OTP's own erl_call, with its fixed name and, several at once, with dynamic ones (-R); a result
%% larger than a fragment.
erl_call(_Config) ->
    C = start(carrier, []),
    Call = fun(How, What) ->
               os:cmd(lists:concat(["erl_call -timeout 60 ", How, " -c ", cookie(), " -name ", pt_peer:node(C),
                                    " -a '", What, "' </dev/null 2>&1"]))
           end,
    ?assertEqual(atom_to_list(pt_peer:node(C)), string:trim(Call("", "erlang node []"), both, "'")),
    ok = parallel([fun() -> ?assertEqual(integer_to_list(N * N), Call("-R", io_lib:format("erlang * [~b,~b]", [N, N])))
                   end || N <- lists:seq(1, 20)]),
    {ok, Tokens, _} = erl_scan:string(Call("-R", "lists seq [1,40000]") ++ "."),
    ?assertEqual({ok, lists:seq(1, 40_000)}, erl_parse:parse_term(Tokens)),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(C, erlang, nodes, [connected]) =:= [] end)),
    quiet([C]),
    stop([C]).

cnode_connects(Config) ->
    C = start(carrier, []),
    Collector = pt_peer:spawn_collector(C),
    true = pt_peer:call(C, erlang, register, [pt_cnode, Collector]),
    Cnode = cnode(Config, "connect", [atom_to_list(pt_peer:node(C))]),
    ?assert(pt_peer:wait(fun() -> match =:= case pt_peer:collected(C, Collector) of
                                                [{up, Pid}] when is_pid(Pid) -> match;
                                                Other -> Other
                                            end end)),
    cnode_talk(C, Cnode).

cnode_accepts(Config) ->
    C = start(carrier, []),
    Cnode = cnode(Config, "accept", []),
    cnode_talk(C, Cnode).

%% Killed with messages on the way: nodedown once, no more said about it than with inet_tcp.
cnode_dies(Config) ->
    C = start(carrier, []),
    Cnode = #{node := Node} = cnode(Config, "accept", []),
    pong = cnode_ping(C, Cnode),
    Events = pt_peer:spawn_collector(C),
    pt_peer:call(C, erlang, apply, [fun monitor_nodes/1, [Events]]),
    [] = os:cmd("kill -KILL " ++ maps:get(os_pid, Cnode)),
    ?assert(pt_peer:wait(fun() -> [{W, N} || {W, N, _} <- pt_peer:collected(C, Events)]
                                      =:= [{nodedown, Node}] end)),
    quiet([C]),
    stop([C]).

cnode_talk(C, #{node := Node} = Cnode) ->
    Terms = [expand(T) || T <- terms(2_000_000)],
    ?assertEqual(ok, pt_peer:call(C, ?MODULE, cnode_echo, [Node, Terms], 120000)),
    ?assertEqual([Node], pt_peer:call(C, erlang, nodes, [hidden])),
    ?assertEqual("tcp_inet", driver(C, Cnode)),
    cnode_stop(C, Cnode),
    ?assert(pt_peer:wait(fun() -> pt_peer:call(C, erlang, nodes, [connected]) =:= [] end)),
    quiet([C]),
    stop([C]).

%% On the carrier node: every term comes back as it went, in order.
cnode_echo(Node, Terms) ->
    [{any, Node} ! {echo, self(), T} || T <- Terms],
    [receive {cnode, Back} -> Back =:= T orelse exit({not_the_same, T}) after 60000 -> exit({lost, T}) end
     || T <- Terms],
    ok.

cnode_ping(C, #{node := Node}) ->
    case pt_peer:call(C, ?MODULE, cnode_echo, [Node, [ping]], 120000) of ok -> pong end.

%% The C node's exit status tells of a second connection.
cnode_stop(C, #{node := Node, port := Port}) ->
    pt_peer:eval(C, fun() -> {any, Node} ! {stop, self()} end),
    receive {Port, {exit_status, Status}} -> ?assertEqual(0, Status)
    after 60000 -> error(cnode_does_not_stop)
    end.

cnode(Config, Mode, More) ->
    Name = pt_peer:opts_name(ptc) ++ "@127.0.0.1",
    Port = open_port({spawn_executable, ?config(cnode, Config)},
                     [{args, [Mode, Name, cookie() | More]}, {line, 1000}, exit_status,
                      stderr_to_stdout]),
    receive {Port, {data, {eol, "ready"}}} -> ok
    after 60000 -> error(cnode_does_not_start)
    end,
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    #{node => list_to_atom(Name), port => Port, os_pid => integer_to_list(OsPid)}.

%% ------------------------------------------------------------------------------------------------

%% Three nodes, inet_tcp to the carrier and back, one at a time, while all of them send to each other.
rolling_upgrade(_Config) ->
    Names = [pt_peer:opts_name(L) || L <- [pta, ptb, ptc]],
    Nodes = [list_to_atom(N ++ "@127.0.0.1") || N <- Names],
    Boot = fun(Name, Carrier) ->
               Peer = pt_peer:start(roll, #{name => Name, carrier => Carrier}),
               ok = pt_peer:call(Peer, plain_peer_roll, start, [Nodes]),
               {Name, {Carrier, Peer}}
           end,
    Start = maps:from_list([Boot(N, "inet_tcp") || N <- Names]),
    flowing(Start),
    Steps = [{N, Carrier} || Carrier <- [pt_peer:carrier(), "inet_tcp"], N <- Names],
    End = lists:foldl(
            fun({Name, Carrier}, Cluster) ->
                {_, Peer} = maps:get(Name, Cluster),
                Others = maps:remove(Name, Cluster),
                Before = streams(Others),
                pt_peer:stop(Peer),
                {Name, New} = Boot(Name, Carrier),
                Rolled = Others#{Name => New},
                flowing(Rolled),
                %% The streams between the nodes that stayed have not been begun anew.
                ?assertEqual(Before, streams(Others)),
                Rolled
            end, Start, Steps),
    Peers = [P || {_, P} <- maps:values(End)],
    %% No more is sent; what was sent in the streams that live has arrived, once and in order.
    Sent = maps:from_list(lists:append([pt_peer:call(P, plain_peer_roll, finish, []) || P <- Peers])),
    ?assertEqual(6, map_size(Sent)),
    Got = fun() -> maps:with(maps:keys(Sent), received(Peers)) end,
    ?assert(pt_peer:wait(fun() -> Got() =:= Sent end, 60000, 100), {Sent, Got()}),
    ?assertEqual([], lists:append([pt_peer:call(P, plain_peer_roll, wrong, []) || P <- Peers])),
    stop(Peers).

%% Every node gets fresh messages of every other, over the expected carrier.
flowing(Cluster) ->
    Peers = [P || {_, P} <- maps:values(Cluster)],
    Then = received(Peers),
    New = 100,
    Flows = fun() ->
                %% A stream begun since then counts from 0.
                Now = received(Peers),
                Pairs = [{From, To} || {{From, To, _} = S, Last} <- maps:to_list(Now),
                                       Last >= maps:get(S, Then, 0) + New],
                length(lists:usort(Pairs)) =:= 6
            end,
    ?assert(pt_peer:wait(Flows, 60000, 100), {Then, received(Peers)}),
    [?assertEqual(case [CA, CB] of ["partisan", "partisan"] -> "partisan_drv"; _ -> "tcp_inet" end,
                  driver(A, B), {CA, CB})
     || {CA, A} <- maps:values(Cluster), {CB, B} <- maps:values(Cluster), A =/= B].

received(Peers) ->
    maps:from_list(lists:append([pt_peer:call(P, plain_peer_roll, received, []) || P <- Peers])).

%% The streams between these nodes.
streams(Cluster) ->
    Nodes = [pt_peer:node(P) || {_, P} <- maps:values(Cluster)],
    lists:sort(lists:append([[S || {_, To, _} = S <- pt_peer:call(P, plain_peer_roll, streams, []),
                                   lists:member(To, Nodes)] || {_, P} <- maps:values(Cluster)])).

%% ------------------------------------------------------------------------------------------------

start(Kind, Args) ->
    Carrier = case Kind of carrier -> pt_peer:carrier(); plain -> "inet_tcp" end,
    P = pt_peer:start(Kind, #{carrier => Carrier, args => Args, cookie => cookie()}),
    pt_peer:log_start(P),
    P.

stop(Peers) ->
    [pt_peer:stop(P) || P <- Peers],
    ok.

cookie() -> "plain_peer_" ++ os:getpid().

%% A carrier and a plain node that find each other through a counting proxy; Count(Peer) is the number
%% of connections that somebody opened to it.
pair() -> pair([]).
pair(Args) ->
    [C, P] = [start(Kind, ["-epmd_module", "pt_epmd" | Args]) || Kind <- [carrier, plain]],
    Counts = maps:from_list(
               [begin
                    [Name, _] = string:split(atom_to_list(pt_peer:node(To)), "@"),
                    {port, Port, _} = erl_epmd:port_please(Name, {127, 0, 0, 1}),
                    Counter = counters:new(1, []),
                    Proxy = pt_proxy:start(Port, fun(_) -> counters:add(Counter, 1, 1), pass end),
                    pt_peer:call(From, pt_epmd, detour, [Name, pt_proxy:port(Proxy)]),
                    {pt_peer:node(To), Counter}
                end || {From, To} <- [{C, P}, {P, C}]]),
    {C, P, fun(Peer) -> counters:get(maps:get(pt_peer:node(Peer), Counts), 1) end}.

%% The name of the driver whose port carries A's side of the connection.
driver(A, #{node := Node}) ->
    pt_peer:eval(A, fun() ->
                        {name, Name} = erlang:port_info(pt_peer:dist_port(Node), name),
                        Name
                    end).

expected_driver(A, B, Carriers) ->
    case pt_peer:carrier() =:= "partisan" andalso lists:member(A, Carriers)
        andalso lists:member(B, Carriers) of
        true -> "partisan_drv";
        false -> "tcp_inet"
    end.

%% Nothing at notice or above on any of the nodes.
quiet(Peers) ->
    [?assertEqual([], [L || {Level, _} = L <- pt_peer:logged(P), Level =/= info, Level =/= debug])
     || P <- Peers],
    ok.

%% Packets and bytes that A's port to B sent during Fun.
measured(A, B, Fun) ->
    Node = pt_peer:node(B),
    Stat = fun() ->
               pt_peer:eval(A, fun() ->
                                   {ok, L} = inet:getstat(pt_peer:dist_port(Node), [send_cnt, send_oct]),
                                   [proplists:get_value(K, L) || K <- [send_cnt, send_oct]]
                               end)
           end,
    [N0, O0] = Stat(),
    Result = Fun(),
    [N1, O1] = Stat(),
    {N1 - N0, O1 - O0, Result}.

%% All sizes, both directions at once, three processes a direction.
exchange(A, B) ->
    ok = parallel([fun() -> exchange_terms(X, Y, terms(Max)) end
                   || {X, Y} <- [{A, B}, {B, A}], Max <- [70_000, 1_200_000, 20_000_000]]).

%% Terms travel from a process on From to one on To, which compares each with what it makes itself.
exchange_terms(From, To, Terms) ->
    Me = self(),
    Receiver = pt_peer:call(To, erlang, apply, [fun() -> spawn(?MODULE, receive_terms, [Me, Terms]) end, []]),
    ok = pt_peer:call(From, ?MODULE, send_terms, [Receiver, Terms], 120000).

send_terms(Receiver, Terms) ->
    Ref = monitor(process, Receiver),
    Receiver ! {who, self()},
    lists:foreach(fun(T) -> Receiver ! {term, expand(T)} end, Terms),
    receive
        {Receiver, Result} -> demonitor(Ref, [flush]), Result;
        {'DOWN', Ref, _, _, Why} -> {receiver_died, Why}
    after 110000 -> {timeout, Receiver}
    end.

receive_terms(_Test, Terms) ->
    From = receive {who, Pid} -> Pid end,
    From ! {self(), receive_all(Terms)}.

receive_all([]) ->
    receive Extra -> {extra, Extra} after 0 -> ok end;
receive_all([T | Rest]) ->
    Expected = expand(T),
    %% Any next message, not the fitting one: the order counts.
    receive
        {term, Expected} -> receive_all(Rest);
        {term, Other} -> {wrong, T, erlang:external_size(Other), erlang:phash2(Other)}
    end.

%% Sizes around the limits of heap binaries, of fragments (64 KB) and of buffers, up to Max bytes.
terms(Max) ->
    Sizes = [S || S <- [0, 1, 63, 64, 65, 255, 256, 1023, 4096, 16_384, 65_535, 65_536, 65_537, 131_072,
                        200_000, 1_000_003, 5_000_000, 20_000_000], S =< Max],
    Around = lists:seq(65_400, min(65_700, Max), 37),
    [some_atom, {tuple, self_made, 1.5, "list"}, #{map => [<<"of">>, things]}]
        ++ [{size, S} || S <- Sizes] ++ [{list, S} || S <- Sizes, S =< 100_000] ++ [{size, S} || S <- Around].

expand({size, N}) -> binary:copy(<<"0123456789abcde">>, N div 15 + 1);
expand({list, N}) -> lists:seq(1, N);
expand(T) -> T.

%% Links, monitors by pid and name, exits with large reasons, spawn, group leader.
signals(A, B) ->
    ?assertEqual(ok, pt_peer:call(A, ?MODULE, big_exit, [pt_peer:node(B)], 60000)).

big_exit(Node) ->
    process_flag(trap_exit, true),
    Reason = binary:copy(<<"why">>, 100_000),
    Wait = fun(Name) -> fun() -> register(Name, self()), receive {go, R} -> exit(R) end end end,
    Unique = list_to_atom("pt_" ++ integer_to_list(erlang:unique_integer([positive]))),
    {Pid, Mon} = erpc:call(Node, erlang, apply, [fun() -> ok end, []]) =:= ok andalso
        spawn_opt(Node, Wait(Unique), [link, monitor]),
    %% The name is there once the process answers to it.
    ByName = by_name(Unique, Node),
    {Unique, Node} ! {go, Reason},
    Expect = [{'EXIT', Pid, Reason}, {'DOWN', Mon, process, Pid, Reason},
              {'DOWN', ByName, process, {Unique, Node}, Reason}],
    Got = [receive M -> M after 50000 -> nothing end || _ <- Expect],
    case lists:sort(Expect) =:= lists:sort(Got) of
        true -> group_leader() =:= erpc:call(Node, fun() -> group_leader() end) orelse exit(leader), ok;
        false -> {unexpected, [erlang:phash2(M) || M <- Got]}
    end.

by_name(Name, Node) ->
    Ref = monitor(process, {Name, Node}),
    receive
        {'DOWN', Ref, _, _, noproc} -> by_name(Name, Node)
    after 0 ->
        case erpc:call(Node, erlang, whereis, [Name]) of
            undefined -> demonitor(Ref, [flush]), by_name(Name, Node);
            _ -> confirm(Ref, Name, Node)
        end
    end.

%% A noproc that was on its way is ahead of the answer of the erpc call.
confirm(Ref, Name, Node) ->
    receive {'DOWN', Ref, _, _, noproc} -> by_name(Name, Node) after 0 -> Ref end.

%% Runs the funs at the same time; the first failure is the caller's.
parallel(Funs) ->
    Pids = [spawn_monitor(fun() -> F(), exit(done) end) || F <- Funs],
    [receive {'DOWN', Ref, _, _, Why} -> ?assertEqual(done, Why) end || {_, Ref} <- Pids],
    ok.
