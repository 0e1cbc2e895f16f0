%% The carrier over a long, lossy or broken network: round trips of milliseconds, packets lost, one
%% lane's connection cut or reset in the middle of large messages, a partition. Needs network
%% namespaces and tun devices; without them the suite is skipped and says why.
-module(network_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([lossy_link/1, halt_on_a_slow_link/1, lanes_by_need/1, lanes_by_window/1, lane_interrupted/1,
         lane_cut/1, lane_reset/1, small_lane_reset/1, partition/1, one_way_partition/1]).
-export([keeper/2, stream/5]).

-define(MB, 1000000).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [lossy_link, halt_on_a_slow_link, lanes_by_need, lanes_by_window, lane_interrupted, lane_cut, lane_reset,
     small_lane_reset, partition, one_way_partition].

init_per_suite(Config) ->
    case pt_net:start(["a", "b"], ["--cc", "cubic"]) of
        {ok, Net} -> pt_net:stop(Net), Config;
        {unavailable, Why} -> {skip, Why}
    end.

end_per_suite(_) -> ok.

%% ---- loss ------------------------------------------------------------------------------------

%% Large and small messages of several senders through loss in both directions: all arrive, once
%% and in each sender's order, and packets were lost indeed.
lossy_link(_) ->
    {Net, A, B} = network("delay 5ms loss 1%"),
    Sums = streams(A, B, 4, fun(I) -> {40, case I rem 2 of 0 -> 100; 1 -> 700000 end} end),
    await(B, Sums, 120000),
    ?assert(pt_net:stat(Net, "link a>b", "lost") > 0),
    over(Net, [A, B]).

%% What the driver has taken arrives although the node ends, also where it takes seconds: lane 0 is at its
%% end long before the lane that carries it.
halt_on_a_slow_link(_) ->
    {Net, A, B} = network("delay 5ms rate 256kbit"),
    [{_, Keeper, _}] = streams(A, B, 1, fun(_) -> {1, 100000} end),
    NodeB = pt_peer:node(B),
    ?assert(pt_peer:wait(fun() ->
                             #{bytes_out := Out} = pt_peer:call(A, partisan_dist, info, [NodeB]),
                             {ok, _, _, Left} = on(A, fun() -> partisan_drv:stat(pt_peer:dist_port(NodeB)) end),
                             Out > 100000 andalso Left =:= 0
                         end)),
    pt_pair:cast(A, fun() -> halt() end),
    ?assert(pt_peer:wait(fun() -> ask(B, Keeper) =:= {1, in_order} end, 60000)),
    over(Net, [B]).

%% Two lanes until packets are lost under bulk, then all of them: whoever sends it, the connector or
%% the acceptor, who asks for them over the connection.
lanes_by_need(_) ->
    [begin
         {Net, A, B} = network("delay 5ms rate 200mbit",
                               ["-partisan", "lanes", "6", "lanes_at_start", "2"], 2),
         {From, To} = case Who of connector -> {A, B}; acceptor -> {B, A} end,
         _ = pt_net:command(Net, "link a b loss 2%"),
         Sums = streams(From, To, 2, fun(_) -> {30, ?MB} end),
         ?assert(pt_peer:wait(fun() -> have_lanes(A, B, 6) end, 60000)),
         await(To, Sums, 120000),
         over(Net, [A, B])
     end || Who <- [connector, acceptor]].

%% A path that holds more than one connection's buffers, without a loss: the others help there, too. Half
%% of a minute on one lane, some seconds on five.
lanes_by_window(_) ->
    Small = "4096 65536 65536",
    {Net, A, B} = network("delay 50ms", ["-partisan", "lanes", "6", "lanes_at_start", "2"], 2,
                          ["--sysctl", "net.ipv4.tcp_rmem=" ++ Small, "--sysctl", "net.ipv4.tcp_wmem=" ++ Small]),
    Sums = streams(A, B, 2, fun(_) -> {8, ?MB} end),
    ?assert(pt_peer:wait(fun() -> spread(A, B) =:= window end, 30000)),
    ?assert(pt_peer:wait(fun() -> have_lanes(A, B, 6) end, 30000)),
    await(B, Sums, 120000),
    #{lanes := Lanes} = pt_peer:call(A, partisan_dist, info, [pt_peer:node(B)]),
    ?assert(length([L || #{bytes_out := Bytes} = L <- Lanes, Bytes > 200000]) >= 4),
    over(Net, [A, B]).

spread(P, Q) ->
    maps:get(spread, pt_peer:call(P, partisan_dist, info, [pt_peer:node(Q)])).

%% ---- one lane --------------------------------------------------------------------------------

%% The bulk lane's packets vanish for a while: nothing is lost, nobody is told anything.
lane_interrupted(_) ->
    {Net, A, B} = network("delay 5ms rate 200mbit"),
    Down = watch(A, B),
    Sums = streams(A, B, 3, fun(_) -> {6, 8 * ?MB} end),
    Flow = cut_busiest(Net, "cut"),
    %% long enough for several retransmissions, while small messages go on
    Until = erlang:monotonic_time(millisecond) + 1000,
    ?assert(pt_peer:wait(fun() ->
                             true = answers(A, B),
                             erlang:monotonic_time(millisecond) > Until
                         end)),
    _ = pt_net:command(Net, "flow heal " ++ Flow),
    await(B, Sums, 120000),
    ?assertEqual([], reasons(A, Down)),
    over(Net, [A, B]).

%% The bulk lane's packets vanish for good: after user_timeout the connection is given up, once, on
%% both sides, and a new one works. Small messages and ticks go on until then, so it is not the
%% tick that finds it.
lane_cut(_) ->
    {Net, A, B} = network("delay 5ms rate 200mbit", ["-partisan", "user_timeout", "3000"]),
    broken_in_stream(Net, A, B, fun() -> cut_busiest(Net, "cut") end),
    over(Net, [A, B]).

%% RST in the middle of large messages, on the lane for bulk.
lane_reset(_) ->
    {Net, A, B} = network("delay 10ms rate 200mbit"),
    broken_in_stream(Net, A, B, fun() -> cut_busiest(Net, "reset") end),
    over(Net, [A, B]).

%% The same on lane 0, which carries next to nothing meanwhile: the listening port of B with the
%% fewest bytes that is not idle.
small_lane_reset(_) ->
    {Net, A, B} = network("delay 10ms rate 200mbit"),
    broken_in_stream(Net, A, B, fun() ->
                                    Flow = first_flow(Net),
                                    _ = pt_net:command(Net, "flow reset " ++ Flow),
                                    Flow
                                end),
    over(Net, [A, B]).

broken_in_stream(Net, A, B, Break) ->
    DownA = watch(A, B),
    DownB = watch(B, A),
    Sums = streams(A, B, 3, fun(_) -> {1000, 8 * ?MB} end),
    ?assert(pt_peer:wait(fun() -> pt_net:stat(Net, "link a>b", "forwarded_bytes") > 10 * ?MB end)),
    _ = Break(),
    one_nodedown(A, DownA, any),
    one_nodedown(B, DownB, any),
    no_sender_hangs(A, Sums),
    [?assertEqual(in_order, keeper_state(B, Keeper)) || {_, Keeper, _} <- Sums],
    reconnects(A, B).

%% ---- the whole link ----------------------------------------------------------------------------

%% The tick finds it, as with inet_tcp; TCP_USER_TIMEOUT would be later.
partition(_) ->
    {Net, A, B} = network("delay 1ms", ["-kernel", "net_ticktime", "4"]),
    Downs = [{A, watch(A, B)}, {B, watch(B, A)}],
    _ = pt_net:command(Net, "cut a b"),
    [one_nodedown(P, W, [net_tick_timeout]) || {P, W} <- Downs],
    _ = pt_net:command(Net, "heal a b"),
    reconnects(A, B),
    over(Net, [A, B]).

%% Only what A sends is lost, while it streams: both must notice.
one_way_partition(_) ->
    {Net, A, B} = network("delay 1ms rate 200mbit", ["-kernel", "net_ticktime", "4"]),
    Downs = [{A, watch(A, B)}, {B, watch(B, A)}],
    Sums = streams(A, B, 2, fun(_) -> {1000, ?MB} end),
    ?assert(pt_peer:wait(fun() -> pt_net:stat(Net, "link a>b", "forwarded_bytes") > 5 * ?MB end)),
    _ = pt_net:command(Net, "cut-oneway a b"),
    [one_nodedown(P, W, any) || {P, W} <- Downs],
    no_sender_hangs(A, Sums),
    _ = pt_net:command(Net, "heal-oneway a b"),
    reconnects(A, B),
    over(Net, [A, B]).

%% ---- helpers -----------------------------------------------------------------------------------

network(Link) -> network(Link, []).
network(Link, Args) -> network(Link, Args, 4).
network(Link, Args, Lanes) -> network(Link, Args, Lanes, []).
network(Link, Args, Lanes, Options) ->
    {ok, Net} = pt_net:start(["a", "b"], ["--cc", "cubic", "--link", Link] ++ Options),
    Common = #{args => ["-kernel", "prevent_overlapping_partitions", "false",
                        "-connect_all", "false", "-partisan", "lanes", "4", "lanes_at_start", "4"] ++ Args},
    [A, B] = [pt_peer:start(net, maps:merge(Common, pt_net:inside(Net, N))) || N <- ["a", "b"]],
    [pt_peer:log_start(P) || P <- [A, B]],
    pt_peer:connect(A, B),
    all_lanes(A, B, Lanes),
    {Net, A, B}.

%% Until they are attached: otherwise bulk would still take lane 0.
all_lanes(A, B, N) ->
    ?assert(pt_peer:wait(fun() -> have_lanes(A, B, N) end)).

have_lanes(A, B, N) ->
    lists:all(fun({P, Q}) ->
                  #{lanes := Lanes} = pt_peer:call(P, partisan_dist, info, [pt_peer:node(Q)]),
                  length(Lanes) =:= N
              end, [{A, B}, {B, A}]).

over(Net, Peers) ->
    [?assertEqual([], bad_news(P)) || P <- Peers],
    [?assertEqual(pt_peer:node(P), pt_peer:call(P, erlang, node, [])) || P <- Peers],
    lists:foreach(fun pt_peer:stop/1, Peers),
    pt_net:stop(Net).

%% No broken network may look like a broken protocol.
bad_news(P) ->
    [Text || {_, Text} <- pt_peer:logged(P),
             Words <- ["malformed frame", "unknown frame type", "out of sequence", "does not fit",
                       "failed authentication", "ends too early"],
             string:find(Text, Words) =/= nomatch].

%% The number of the flow that was cut or reset: the one that carried most.
cut_busiest(Net, How) ->
    ?assert(pt_peer:wait(fun() -> pt_net:stat(Net, "link a>b", "forwarded_bytes") > 10 * ?MB end)),
    "flow " ++ Rest = pt_net:command(Net, "flow " ++ How ++ " busiest a b"),
    hd(string:lexemes(Rest, "\n")).

%% Lane 0 is the connection that was made first.
first_flow(Net) ->
    Lines = string:lexemes(pt_net:command(Net, "flows"), "\n"),
    Open = [list_to_integer(Id) || "flow " ++ _ = L <- Lines,
                                   ["flow", Id | Words] <- [string:lexemes(L, " ")],
                                   lists:last(Words) =:= "open"],
    integer_to_list(lists:min(Open)).

%% Senders on A with a receiver on B each; How tells number and size of the Ith one's messages.
streams(A, B, N, How) ->
    NodeA = pt_peer:node(A),
    [begin
         {Count, Size} = How(I),
         Keeper = on(B, fun() -> spawn(?MODULE, keeper, [1, in_order]) end),
         Sender = on(A, fun() -> spawn(?MODULE, stream, [Keeper, 1, Count, Size, NodeA]) end),
         {Sender, Keeper, Count}
     end || I <- lists:seq(1, N)].

%% Each message has its number, and content that follows from it.
stream(_, No, Count, _, _) when No > Count -> ok;
stream(Keeper, No, Count, Size, Node) ->
    Keeper ! {No, content(No, Size)},
    case node() of Node -> stream(Keeper, No + 1, Count, Size, Node) end.

content(No, Size) -> binary:copy(<<No:32>>, Size div 4).

%% Next number expected, and what came of it so far.
keeper(Next, State) ->
    receive
        {ask, From, Ref} -> From ! {Ref, {Next - 1, State}}, keeper(Next, State);
        {Next, Bin} when is_binary(Bin) ->
            case Bin =:= content(Next, byte_size(Bin)) of
                true -> keeper(Next + 1, State);
                false -> keeper(Next + 1, {damaged, Next})
            end;
        %% after a new connection the numbers go on with a gap; the first one is judged
        {No, _} when State =:= in_order, No > Next -> keeper(No + 1, {gap, Next, No});
        {No, _} -> keeper(No + 1, {State, then, No})
    end.

ask(B, Keeper) ->
    on(B, fun() ->
              Ref = make_ref(),
              Keeper ! {ask, self(), Ref},
              receive {Ref, X} -> X end
          end).

%% What arrived is whole and in order; a gap is legal, since these senders go on after nodedown.
keeper_state(B, Keeper) ->
    case ask(B, Keeper) of
        {_, {gap, _, _}} -> in_order;
        {_, State} -> State
    end.

await(B, Sums, Ms) ->
    Want = [{Count, in_order} || {_, _, Count} <- Sums],
    Have = fun() -> [ask(B, K) || {_, K, _} <- Sums] end,
    pt_peer:wait(fun() -> Have() =:= Want end, Ms) orelse ?assertEqual(Want, Have()).

no_sender_hangs(A, Sums) ->
    on(A, fun() -> [exit(S, kill) || {S, _, _} <- Sums], ok end),
    ?assert(pt_peer:wait(fun() ->
                             on(A, fun() -> not lists:any(fun is_process_alive/1, [S || {S, _, _} <- Sums]) end)
                         end, 60000)).

%% Collects nodedown and nodeup of the other, on P.
watch(P, Q) ->
    W = pt_peer:spawn_collector(P),
    NQ = pt_peer:node(Q),
    on(P, fun() ->
              Ref = make_ref(),
              W ! {pt_do, self(), Ref, fun() -> net_kernel:monitor_nodes(true, [nodedown_reason]),
                                                monitor_node(NQ, true) end},
              receive {Ref, true} -> ok end
          end),
    W.

reasons(P, W) -> [R || {nodedown, _, [{nodedown_reason, R}]} <- pt_peer:collected(P, W)].

%% Senders that go on may connect anew, so more than one connection may end here in the long run, but
%% never two ends without a beginning in between; monitor_node fires once.
one_nodedown(P, W, Reason) ->
    %% monitor_node/2 and net_kernel do not tell it at one time
    ?assert(pt_peer:wait(fun() ->
                             reasons(P, W) =/= [] andalso
                                 [M || {nodedown, _} = M <- pt_peer:collected(P, W)] =/= []
                         end, 60000)),
    All = pt_peer:collected(P, W),
    ?assertMatch([_], [M || {nodedown, _} = M <- All]),
    Kinds = [element(1, M) || M <- All, tuple_size(M) =:= 3],
    ?assertEqual(nodedown, hd(Kinds)),
    ?assertEqual([], [twice || {nodedown, nodedown} <- lists:zip(Kinds, tl(Kinds) ++ [none])]),
    [Why | _] = reasons(P, W),
    Reason =:= any orelse ?assert(lists:member(Why, Reason)).

reconnects(A, B) ->
    ?assert(pt_peer:wait(fun() -> answers(A, B) andalso answers(B, A) end, 60000)).

answers(A, B) ->
    NB = pt_peer:node(B),
    try NB =:= on(A, fun() -> erpc:call(NB, erlang, node, [], 20000) end)
    catch _:_ -> false
    end.

on(Peer, Fun) -> pt_peer:eval(Peer, Fun).
