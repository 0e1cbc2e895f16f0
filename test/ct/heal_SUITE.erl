%% Networks that break and come back under real nodes, each in a network namespace of its own
%% (docs/network-emulator.md): cut in halves, one node cut off, relays cut off and killed, all under
%% acknowledged traffic. Views and trees must heal, and nothing that was accepted may be missing,
%% doubled or out of order. And a network with near and far nodes, where X-BOT has to find the near
%% ones. Each case prints how long it took, in lines that begin with `heal:'.
%%
%% A broken network loses packets and tells nobody, so ticks find it out, or data that is not
%% acknowledged. The suite has short times, to be over soon; HEAL_TIMES=default runs it with the
%% times that users have, HEAL_NODES=16 with more nodes.
-module(heal_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([mesh/1, hyparview/1, hyparview_alone/1, xbot/1]).

suite() -> [{timetrap, {minutes, case default_times() of true -> 20; false -> 6 end}}].

%% Most of the time is waited for ticks, so all are tried at once.
all() -> [{group, together}].

groups() -> [{together, [parallel], [mesh, hyparview, hyparview_alone, xbot]}].

-define(wait(Condition), ?assert(pt_peer:wait(fun() -> Condition end, patience(), 50))).

%% Of the full HyParView the limit of neighbours alone is smaller: halves of four nodes that have
%% room for three are full with themselves, and miss nobody.
-define(NEAR, 3).
%% ms one way, to another region and inside one. Far enough to be told from what a busy machine adds.
-define(FAR, 40).
-define(CLOSE, 1).

default_times() -> os:getenv("HEAL_TIMES", "short") =:= "default".

patience() ->
    case default_times() of true -> 600000; false -> 120000 end.

%% Kernel's: ticks, of which 4 s are the least it takes, and the seconds that a dial may take where
%% nobody answers.
times() ->
    case default_times() of
        true -> [];
        false -> ["-kernel", "net_ticktime", "4", "-kernel", "net_setuptime", "2"]
    end.

init_per_suite(Config) ->
    case pt_net:start(["a", "b"], []) of
        {ok, Net} -> pt_net:stop(Net), Config;
        {unavailable, Why} -> {skip, Why}
    end.

end_per_suite(_Config) -> ok.

%% ------------------------------------------------------------------------------------------------

mesh(_Config) -> run(mesh, [fun halves/1, fun one_alone/1]).

hyparview(_Config) -> run(hyparview, [fun halves/1, fun relays/1]).

hyparview_alone(_Config) -> run(hyparview, [fun one_alone/1]).

%% One network and one cluster for all that is done to an overlay.
run(Overlay, Steps) ->
    {Net, Nodes} = cluster(Overlay),
    Config = #{overlay => Overlay, net => Net, nodes => Nodes},
    _ = pt_cluster:join(peers(Nodes), join),
    _ = [Step(Config) || Step <- Steps],
    _ = [pt_peer:stop(P) || {_, P} <- nodes_of(Config)],
    pt_net:stop(Net).

%% Three regions of four nodes. In a random graph 8 of 11 links lead to another region; nodes with three
%% neighbours, of which one stays whatever it is (the default), could have 1 of 3.
xbot(_Config) ->
    {Net, Nodes} = cluster(xbot),
    Config = #{overlay => xbot, net => Net, nodes => Nodes},
    _ = pt_cluster:join(peers(Nodes), join),
    ?wait(well(Config, Nodes)),
    Clock = clock(),
    Random = (8 * ?FAR + 3 * ?CLOSE) / 11,
    Before = mean_delay(Nodes),
    ?wait(mean_delay(Nodes) < 0.7 * Random),
    Took = Clock(),
    %% Nobody was lost over it.
    ?wait(well(Config, Nodes)),
    say(Config, xbot, "~b nodes in 3 regions, ~b ms from one to another, ~b ms inside: mean delay of a link ~.1f ms "
        "before (a random graph: ~.1f ms), under ~.1f ms after ~s, ~.1f ms at the end",
        [length(Nodes), ?FAR, ?CLOSE, Before, Random, 0.7 * Random, s(Took), mean_delay(Nodes)]),
    _ = [pt_peer:stop(P) || {_, P} <- Nodes],
    pt_net:stop(Net).

%% Of all links, as the emulator has them.
mean_delay(Nodes) ->
    Region = maps:from_list([{pt_peer:node(P), region(Place)} || {Place, P} <- Nodes]),
    Delays = [case Region of #{A := Same, B := Same} -> ?CLOSE; #{} -> ?FAR end
              || {A, Near} <- maps:to_list(pt_views:graph(peers(Nodes))), B <- Near],
    lists:sum(Delays) / max(1, length(Delays)).

region("n" ++ I) -> list_to_integer(I) rem 3.

cluster(Overlay) ->
    Places = [place(I) || I <- lists:seq(1, number(Overlay))],
    {ok, Net} = pt_net:start(Places, lists:append([["--link", Words] || Words <- network(Overlay, Places)])),
    {Net, [{Place, node_at(Place, Overlay, Net)} || Place <- Places]}.

network(xbot, Places) ->
    [lists:concat(["delay ", ?FAR, "ms"])
     | [lists:concat([A, " ", B, " delay ", ?CLOSE, "ms"]) || A <- Places, B <- Places, A < B,
                                                               region(A) =:= region(B)]];
network(_, _) ->
    ["delay 2ms"].

number(mesh) -> 6;
number(xbot) -> 12;
number(hyparview) -> list_to_integer(os:getenv("HEAL_NODES", "8")).

place(I) -> "n" ++ integer_to_list(I).

node_at(Place, Overlay, Net) ->
    Opts = pt_net:inside(Net, Place),
    Peer = pt_peer:start(heal, Opts#{args => ["-kernel", "connect_all", "false",
                                              "-kernel", "prevent_overlapping_partitions", "false"]
                                             ++ times() ++ lean()}),
    _ = pt_cluster:app(Peer, env(Overlay, default_times())),
    ok = pt_peer:call(Peer, pt_heard, start, []),
    Peer.

lean() -> string:lexemes("+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none", " ").

%% pt_cluster:app/2 shortens what it is not told.
env(mesh, false) ->
    [{retransmit_interval, 200}];
env(mesh, true) ->
    [{periodic_interval, 10000}, {connection_interval, 1000}];
env(hyparview, false) ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager}, {retransmit_interval, 200},
     {lazy_tick_period, 200},
     {hyparview, #{active_max_size => ?NEAR + 1, active_min_size => 2, shuffle_interval => 1000,
                   random_promotion_interval => 500, heal_interval => 500}}];
env(xbot, true) ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager},
     {hyparview, #{active_max_size => ?NEAR + 1, xbot_enabled => true}}];
env(xbot, false) ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager},
     {hyparview, #{active_max_size => ?NEAR + 1, active_min_size => 2, shuffle_interval => 500,
                   random_promotion_interval => 500, heal_interval => 500, xbot_enabled => true,
                   xbot_interval => 500}}];
env(hyparview, true) ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager},
     {hyparview, #{active_max_size => ?NEAR + 1}}].

%% [{Place, Peer}] of those that live.
nodes_of(#{nodes := Nodes}) ->
    [N || {_, P} = N <- Nodes, filelib:is_dir("/proc/" ++ pt_peer:os_pid(P))].

peers(Nodes) -> [P || {_, P} <- Nodes].

%% ------------------------------------------------------------------------------------------------

%% Two halves that do not hear of each other, each of which goes on alone; then the network is back.
halves(Config) ->
    All = nodes_of(Config),
    ?wait(well(Config, All)),
    broadcasts(All, 5),
    {Left, Right} = lists:split(length(All) div 2, All),
    broken(halves, Left, Right, Config).

%% One node cut off from all others.
one_alone(Config) ->
    [One | Rest] = All = nodes_of(Config),
    ?wait(well(Config, All)),
    broken(one_alone, [One], Rest, Config).

broken(Case, Left, Right, Config) ->
    All = Left ++ Right,
    [A, B] = [P || [{_, P} | _] <- [Left, Right]],
    {_, Z} = lists:last(All),
    Flows = [pt_flow:start(From, To, #{retransmission => true}) || {From, To} <- [{A, B}, {B, A}, {Z, B}]],
    [?wait(pt_flow:received(F) > 50) || F <- Flows],
    Cut = clock(),
    links("cut", Left, Right, Config),
    ?wait(apart(Left, Right)),
    Noticed = Cut(),
    %% Each side is as it should be by itself, and broadcasts.
    [?wait(side_well(Config, Side)) || Side <- [Left, Right]],
    Settled = Cut(),
    [broadcasts(Side, 1) || Side <- [Left, Right]],
    Healed = clock(),
    links("heal", Left, Right, Config),
    ?wait(well(Config, All)),
    Again = Healed(),
    [?wait(grows(F)) || F <- Flows],
    Flowing = Healed(),
    broadcasts(All, 1),
    Tree = Healed(),
    Sent = lists:sum([complete(F) || F <- Flows]),
    Copies = settled(All),
    say(Config, Case, "~b nodes: cut noticed by all after ~s, sides well after ~s; network back: "
        "overlay well after ~s, traffic goes on after ~s, a broadcast at all after ~s; "
        "~b acknowledged messages, none lost; copies of a broadcast then ~s a node",
        [length(All), s(Noticed), s(Settled), s(Again), s(Flowing), s(Tree), Sent, Copies]).

%% Acknowledged messages between two nodes that are no neighbours. The relay that they go by is cut off
%% from the network without a word; that of another pair is killed. Other ways are found.
relays(Config) ->
    Cut = broken_relay(cut, Config),
    Kill = broken_relay(kill, Config),
    say(Config, relays, "traffic goes on ~s after its relay was cut off, ~s after its relay was killed; "
        "~b acknowledged messages, none lost",
        [s(element(1, Cut)), s(element(1, Kill)), element(2, Cut) + element(2, Kill)]).

broken_relay(How, Config) ->
    All = nodes_of(Config),
    ?wait(well(Config, All)),
    {A, B, Relay} = pair(All, erlang:monotonic_time(millisecond) + patience()),
    Flows = [pt_flow:start(From, To, #{retransmission => true}) || {From, To} <- [{A, B}, {B, A}]],
    [?wait(pt_flow:received(F) > 50) || F <- Flows],
    Others = lists:delete(Relay, All),
    Clock = clock(),
    break(How, Relay, Others, Config),
    ?wait(not lists:member(pt_peer:node(element(2, Relay)), pt_cluster:neighbours(A))),
    [?wait(grows(F)) || F <- Flows],
    Took = Clock(),
    Sent = lists:sum([complete(F) || F <- Flows]),
    How =:= kill orelse links("heal", [Relay], Others, Config),
    {Took, Sent}.

%% Two nodes that are no neighbours, and whom the messages of the first to the second go to first.
pair(All, Deadline) ->
    ?assert(erlang:monotonic_time(millisecond) < Deadline),
    case [{A, B, Relay} || {_, A} <- All, {_, B} <- All, A =/= B, Relay <- relay(A, B, All)] of
        [Found | _] -> Found;
        [] -> pair(All, Deadline)
    end.

relay(A, B, All) ->
    case pt_peer:call(A, partisan_overlay_shell, route, [pt_peer:node(B)]) of
        {ok, Via} -> [N || {_, P} = N <- All, pt_peer:node(P) =:= Via];
        none -> []
    end.

break(cut, Relay, Others, Config) -> links("cut", [Relay], Others, Config);
break(kill, {_, Peer}, _, _) -> pt_peer:kill(Peer).

%% ------------------------------------------------------------------------------------------------

links(What, Left, Right, #{net := Net}) ->
    [pt_net:command(Net, lists:join(" ", [What, X, Y])) || {X, _} <- Left, {Y, _} <- Right],
    ok.

%% Nobody has a neighbour on the other side.
apart(Left, Right) ->
    lists:all(fun({Side, Others}) ->
                      Names = pt_cluster:names(peers(Others)),
                      [] =:= [N || {_, P} <- Side, N <- pt_cluster:neighbours(P), lists:member(N, Names)]
              end, [{Left, Right}, {Right, Left}]).

well(#{overlay := Overlay}, Nodes) ->
    Peers = peers(Nodes),
    case Overlay of
        mesh -> pt_cluster:is_mesh(Peers);
        _ -> pt_views:healthy(?NEAR, pt_views:graph(Peers)) andalso pt_views:routed(Peers)
    end.

%% Members of a full mesh stay members, with or without a link.
side_well(#{overlay := mesh}, Nodes) ->
    Names = pt_cluster:names(peers(Nodes)),
    lists:all(fun({_, P}) -> pt_cluster:neighbours(P) =:= Names -- [pt_peer:node(P)] end, Nodes);
side_well(#{overlay := hyparview} = Config, Nodes) ->
    well(Config, Nodes).

%% N of each of two nodes, at everybody.
broadcasts(Nodes, N) ->
    Peers = peers(Nodes),
    [begin
         Id = {pt_peer:node(From), erlang:unique_integer()},
         ok = pt_peer:call(From, pt_heard, send, [Id, payload]),
         ?wait(pt_views:all_heard(Id, Peers))
     end || From <- lists:usort([hd(Peers), lists:last(Peers)]), _ <- lists:seq(1, N)],
    ok.

%% After some rounds the trees are trees again: further messages make hardly any copies. Without
%% trees they would be a node's links less one.
settled(Nodes) -> settled(Nodes, 30).

settled(Nodes, Rounds) ->
    Peers = peers(Nodes),
    Before = pt_views:copies(Peers),
    broadcasts(Nodes, 10),
    case (pt_views:copies(Peers) - Before) / (2 * 10 * length(Peers)) of
        Copies when Copies =< 0.1 -> io_lib:format("~.2f", [Copies]);
        Copies when Rounds =:= 0 -> error({no_tree, Copies});
        _ -> settled(Nodes, Rounds - 1)
    end.

%% More arrives.
grows(Flow) ->
    Before = pt_flow:received(Flow),
    pt_peer:wait(fun() -> pt_flow:received(Flow) > Before + 20 end, 1000, 20).

%% Stops it; all that was accepted is there, once and in order.
complete(Flow) ->
    Sent = pt_flow:stop(Flow),
    ?wait(pt_flow:received(Flow) >= Sent),
    ?assertEqual(lists:seq(1, Sent), pt_flow:all(Flow)),
    Sent.

clock() ->
    Start = erlang:monotonic_time(millisecond),
    fun() -> erlang:monotonic_time(millisecond) - Start end.

s(Ms) -> io_lib:format("~.1f s", [Ms / 1000]).

say(#{overlay := Overlay}, Case, Format, Args) ->
    Line = io_lib:format("heal: ~s, ~s: " ++ Format ++ "~n", [Overlay, Case | Args]),
    io:format(user, "~s", [Line]),
    ct:log("~s", [Line]).
