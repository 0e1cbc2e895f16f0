%% A large cluster of real nodes on this machine: how it comes together, what it costs, whether
%% broadcasts and messages reach everybody, and how it heals when many nodes die at once. Prints a
%% table; fails if anything does not arrive or does not heal.
%%
%% Nodes have the default options of the application, but for quick checks: times are those that users
%% have.
-module(pt_many).

-export([main/1, run/1]).

%% star: client-server, a server for each CLIENTS nodes; inet_tcp: a full mesh, without the application.
-type overlay() :: hyparview | star | mesh | inet_tcp.

-type setup() :: #{nodes := pos_integer(),
                   overlay := overlay(),
                   kill := 0..90,            % percent
                   ads := boolean(),
                   storm := boolean(),       % all join at the same moment, through nodes that do so themselves
                   quick := boolean(),       % a check: short times, no figures of idle traffic
                   figures := none | file:filename()}. % where a line of figures is added (pt_many_grow)
-export_type([setup/0, overlay/0]).

-define(WELL_MS, 300000).
-define(BROADCAST_MS, 60000).
-define(POLL_MS, 250).   % at most; what comes soon is not waited for that long
-define(WARM, 10).       % broadcasts until the tree of a root is a tree
-define(MEASURED, 20).
-define(LETTERS, 4).     % acknowledged messages of each node to others
-define(IDLE_MS, 15000).
-define(CLIENTS, 32).
-define(KB_A_NODE, 21000).
-define(KB_TO_SPARE, 1536000). % below that the machine begins to suffer, and the run gives up

%% pt_many:main(["512", "hyparview", "kill=30", "ads"])
-spec main([string()]) -> no_return().
main(Words) ->
    try run(setup(Words)) of
        ok -> halt(0)
    catch
        throw:usage ->
            io:format("many: NODES [hyparview | star | mesh | inet_tcp] [kill=PERCENT] [ads] [storm] [quick] "
                      "[figures=FILE]; nothing is killed with inet_tcp, which has no broadcast to see it heal by; "
                      "only nodes of hyparview join in a storm~n"),
            halt(2);
        throw:{not_run, Why} ->
            io:format("many: NOT RUN: ~s~n", [Why]),
            halt(77);
        Class:Reason:At ->
            say("FAILED", "~p: ~p~n  ~p", [Class, Reason, At]),
            halt(1)
    end.

setup([Nodes, Overlay | Words]) ->
    Files = [File || "figures=" ++ File <- Words],
    Kill = [try list_to_integer(P) catch error:badarg -> throw(usage) end || "kill=" ++ P <- Words],
    Valid = lists:member(Overlay, ["hyparview", "star", "mesh", "inet_tcp"])
        andalso lists:all(fun(W) -> lists:member(W, ["ads", "storm", "quick"])
                                        orelse lists:prefix("kill=", W) orelse lists:prefix("figures=", W)
                          end, Words)
        andalso not (lists:member("storm", Words) andalso Overlay =/= "hyparview")
        andalso lists:all(fun(P) -> P >= 0 andalso P =< 90 end, Kill)
        andalso not (Overlay =:= "inet_tcp" andalso Kill =/= [])
        andalso [] =/= Nodes andalso lists:all(fun(C) -> C >= $0 andalso C =< $9 end, Nodes)
        andalso list_to_integer(Nodes) > 1,
    Valid orelse throw(usage),
    #{nodes => list_to_integer(Nodes), overlay => list_to_existing_atom(Overlay), kill => hd(Kill ++ [0]),
      ads => lists:member("ads", Words), storm => lists:member("storm", Words),
      quick => lists:member("quick", Words), figures => hd(Files ++ [none])};
setup(_) ->
    throw(usage).

-spec run(setup()) -> ok.
run(#{nodes := N, overlay := Overlay, kill := Percent, ads := Ads, storm := Storm, quick := Quick, figures := File}) ->
    enough_memory(N),
    _ = rand:seed(exsss, N), % who joins whom, and who dies
    say("nodes", "~b, ~s", [N, Overlay]),
    Clock = clock(),
    Joined = joined(Overlay, servers(N), Quick),
    Hub = pt_many_hub:start(N, #{args => args(Overlay),
                                 joined => fun(Member, Hub) -> spare_memory(), Joined(Member, Hub) end}),
    say("started", "~s", [Clock()]),
    Since = clock(),
    together(case Storm of true -> storm; false -> Overlay end, Hub),
    well(Overlay, Hub),
    say("a well cluster", "~s later", [Since()]),
    Started = seconds(Clock()),
    views(Overlay, Hub),
    Cost = cost(Hub),
    [begin
         broadcasts(hd(Hub), Hub),
         letters(Hub)
     end || Overlay =/= inet_tcp],
    Idle = [{idle_kb_s, idle(Hub)} || not Quick],
    Counted = [{ads_kb_s, ads(Overlay, Hub)} || Ads],
    record(File, Overlay, N, maps:merge(Cost#{together_s => Started}, maps:from_list(Idle ++ Counted))),
    Percent =:= 0 orelse deaths(Percent, Overlay, Hub),
    say("done", "~s", [Clock()]).

seconds(Said) -> list_to_float(lists:droplast(lists:droplast(lists:flatten(Said)))).

record(none, _, _, _) ->
    ok;
record(File, Overlay, N, Figures) ->
    ok = file:write_file(File, io_lib:format("~0tp.~n", [{Overlay, N, Figures}]), [append]).

%% A machine without memory ends the processes of others as well.
enough_memory(N) ->
    Free = free_kb(),
    Free >= N * ?KB_A_NODE + ?KB_TO_SPARE
        orelse throw({not_run, io_lib:format("~b nodes need ~b MB of memory and ~b MB to spare, ~b MB are free",
                                             [N, N * ?KB_A_NODE div 1024, ?KB_TO_SPARE div 1024, Free div 1024])}).

%% Nodes end with us.
spare_memory() ->
    Free = free_kb(),
    Free >= ?KB_TO_SPARE
        orelse throw({not_run, io_lib:format("given up, all nodes are ended: ~b MB of memory are left, less than "
                                             "~b MB", [Free div 1024, ?KB_TO_SPARE div 1024])}).

free_kb() ->
    {ok, Text} = file:read_file("/proc/meminfo"),
    {match, [Free]} = re:run(Text, "MemAvailable: *([0-9]+)", [{capture, all_but_first, list}]),
    list_to_integer(Free).

args(inet_tcp) -> [];
args(_) -> ["-proto_dist", "partisan"].

%% A full mesh is made node by node. The others are started first; then the cluster doubles: as many join
%% at the same time as are in it, each a random one of those.
joined(inet_tcp, _, _) ->
    fun(Member, Hub) ->
            [] = pt_many_hub:one(Member, pt_many_node, connect, [pt_many_hub:names(Hub)])
    end;
joined(mesh, _, _) ->
    fun(Member, Hub) ->
            ok = pt_many_hub:one(Member, pt_many_node, application, [[]]),
            Hub =:= [] orelse (ok = pt_many_hub:one(Member, pt_many_node, join, [any(Hub)]))
    end;
joined(Overlay, Servers, Quick) ->
    fun(Member, Hub) ->
            Role = if length(Hub) < Servers -> server; true -> client end,
            ok = pt_many_hub:one(Member, pt_many_node, application, [env(Overlay, Role) ++ times(Quick)])
    end.

%% Each through one that was started before it, whose own join is not done either.
together(storm, Hub) ->
    [_ | Names] = Started = [Node || {Node, _, _} <- lists:reverse(Hub)],
    Contacts = maps:from_list([{Node, lists:nth(rand:uniform(I), Started)} || {I, Node} <- lists:enumerate(Names)]),
    [ok] = lists:usort(pt_many_hub:all(lists:droplast(Hub), pt_many_node, join,
                                       fun(Node) -> [map_get(Node, Contacts)] end)),
    Clock = clock(),
    Groups = groups(Hub),
    wait(fun() -> groups(Hub) =:= 1 end, ?WELL_MS, still_several_groups),
    say("all joined at once", "~b groups then, one after ~s", [Groups, Clock()]);
together(Overlay, Hub) when Overlay =:= hyparview; Overlay =:= star ->
    [First | Others] = lists:reverse(Hub),
    doubled(Overlay, servers(length(Hub)), [First], Others);
together(_, _) ->
    ok.

doubled(_, _, _, []) ->
    ok;
doubled(Overlay, Servers, In, Out) ->
    {Next, Later} = lists:split(min(length(In), length(Out)), Out),
    Contacts = case Overlay of star -> lists:sublist(In, Servers); hyparview -> In end,
    [ok] = lists:usort(pt_many_hub:all(Next, pt_many_node, join, fun(_) -> [any(Contacts)] end)),
    wait(fun() ->
                 lists:all(fun({Near, _}) -> Near =/= [] end, pt_many_hub:all(Next, pt_many_node, sight, []))
         end, ?WELL_MS, nodes_do_not_join),
    doubled(Overlay, Servers, In ++ Next, Later).

servers(N) -> 1 + N div ?CLIENTS.

any(Hub) -> element(1, lists:nth(rand:uniform(length(Hub)), Hub)).

env(hyparview, _) ->
    [{peer_service_manager, partisan_hyparview_peer_service_manager}, {direct_connect, refuse}];
env(star, Role) ->
    [{peer_service_manager, partisan_client_server_peer_service_manager}, {direct_connect, refuse}, {tag, Role}].

times(true) -> [{hyparview, #{shuffle_interval => 1000, random_promotion_interval => 500, heal_interval => 500}}];
times(false) -> [].

%% ------------------------------------------------------------------------------------------------
%% Views

%% Every link has two ends, everybody is reached over links, and everybody knows everybody (a client knows
%% its servers).
well(Overlay, Hub) ->
    wait(fun() -> is_well(Overlay, Hub) end, ?WELL_MS, cluster_not_well).

is_well(Overlay, Hub) ->
    Sights = pt_many_hub:all(Hub, pt_many_node, sight, []),
    N = length(Hub),
    Graph = graph(Hub, Sights),
    (Overlay =:= star orelse lists:all(fun({_, Known}) -> Known =:= N end, Sights))
        andalso lists:all(fun(Near) -> length(Near) =< most(Overlay, N) end, maps:values(Graph))
        andalso lists:all(fun({Node, Near}) ->
                                  lists:all(fun(Other) -> lists:member(Node, maps:get(Other, Graph, [])) end,
                                            Near)
                          end, maps:to_list(Graph))
        andalso pt_sim_graph:connected(Graph).

most(hyparview, _) -> 5;
most(_, N) -> N - 1.

graph(Hub, Sights) ->
    maps:from_list(lists:zipwith(fun({Node, _, _}, {Near, _}) -> {Node, Near} end, Hub, Sights)).

groups(Hub) ->
    Graph = graph(Hub, pt_many_hub:all(Hub, pt_many_node, sight, [])),
    groups(maps:keys(Graph), Graph, 0).

groups([], _, Count) -> Count;
groups([Node | _] = Left, Graph, Count) -> groups(Left -- maps:keys(pt_sim_graph:reach(Node, Graph)), Graph, Count + 1).

views(Overlay, Hub) ->
    Graph = graph(Hub, pt_many_hub:all(Hub, pt_many_node, sight, [])),
    Degrees = [length(Near) || Near <- maps:values(Graph)],
    say("links a node", "~s (mean ~.2f), every one with two ends; connected", [spread(Degrees),
                                                                               mean(Degrees)]),
    [begin
         Paths = lists:append([maps:values(maps:remove(Node, pt_sim_graph:reach(Node, Graph)))
                               || Node <- lists:sublist(maps:keys(Graph), 200)]),
         say("shortest ways", "mean ~.2f links, longest ~b", [mean(Paths), lists:max(Paths)]),
         say("clustering", "~.4f", [pt_sim_graph:clustering(Graph)])
     end || Overlay =:= hyparview orelse Overlay =:= star],
    ok.

%% ------------------------------------------------------------------------------------------------
%% Cost

cost(Hub) ->
    Costs = pt_many_hub:all(Hub, pt_many_node, memory, []),
    {Rss, Pss, Fds} = lists:unzip3(Costs),
    say("memory a node", "~.1f MB resident, ~.1f MB with shared pages divided", [mean(Rss) / 1024,
                                                                             mean(Pss) / 1024]),
    Connections = connections(length(Hub)),
    say("descriptors a node", "~s (mean ~.1f); ~.1f TCP connections a node", [spread(Fds), mean(Fds), Connections]),
    #{mb => mean(Pss) / 1024, descriptors => mean(Fds), connections => Connections}.

%% What is on the wire while nobody says anything, with all heads and acknowledgements: of the
%% whole loopback, which is the cluster's own in a namespace of its own.
idle(Hub) ->
    Before = wire(),
    receive after ?IDLE_MS -> ok end,
    Rate = (wire() - Before) / ?IDLE_MS / length(Hub),
    say("idle traffic a node", "~.2f kB/s", [Rate]),
    Rate.

wire() ->
    {ok, Text} = file:read_file("/proc/self/net/dev"),
    {match, [Received]} = re:run(Text, "\\blo: *([0-9]+)", [{capture, all_but_first, list}]),
    list_to_integer(Received).

%% Established ones; every one of a hub's is in it as well, and each has two ends.
connections(N) ->
    {ok, Text} = file:read_file("/proc/self/net/tcp"),
    Ends = length([x || Line <- binary:split(Text, <<"\n">>, [global]),
                        [_, _, _, <<"01">> | _] <- [binary:split(Line, <<" ">>, [global, trim_all])]]),
    (Ends - 2 * N) / N.

%% ------------------------------------------------------------------------------------------------
%% Broadcast

%% From one root: the first message floods, later ones run along the tree that is left of it.
broadcasts({Root, _, _} = From, Hub) ->
    {Ms1, Copies1} = cast([{Root, first, erlang:unique_integer()}], From, Hub),
    say("first broadcast", "at all after ~b ms; ~.3f copies a node beyond the first", [Ms1, Copies1]),
    _ = [cast([{Root, warm, erlang:unique_integer()}], From, Hub) || _ <- lists:seq(1, ?WARM)],
    Wire = wire(),
    {Ms, Copies} = cast([{Root, erlang:unique_integer(), I} || I <- lists:seq(1, ?MEASURED)], From, Hub),
    Bytes = round((wire() - Wire) / ?MEASURED / length(Hub)),
    say("broadcasts of 1 KB", "slowest of ~b at all after ~b ms; ~.3f copies a node beyond the first, ~b B on "
        "the wire a node and message; ~s", [?MEASURED, Ms, Copies, Bytes, depth(Root, Hub)]).

%% One after the other; until each is at all nodes. {ms of the slowest, copies a node and message}
cast(Ids, From, Hub) ->
    Copies = copies(Hub),
    Times = [begin
                 Sent = pt_many_hub:one(From, pt_many_node, cast, [Id, binary:copy(<<"x">>, 1024)]),
                 {Sent, all_have(Id, Hub)}
             end || Id <- Ids],
    {lists:max([(At - Sent) div 1000 || {Sent, At} <- Times]),
     (copies(Hub) - Copies) / length(Ids) / length(Hub)}.

%% When the last one got it.
all_have(Id, Hub) ->
    wait(fun() ->
                 case [At || [At] <- pt_many_hub:all(Hub, pt_many_node, times, [[Id]])] of
                     Ats -> lists:member(missing, Ats) orelse throw({at, lists:max(Ats)}), false
                 end
         end, ?BROADCAST_MS, {not_at_all, Id}).

copies(Hub) -> lists:sum(pt_many_hub:all(Hub, pt_many_node, copies, [])).

%% Hops from the root along links that carry messages.
depth(Root, Hub) ->
    Eager = maps:from_list(lists:zip([Node || {Node, _, _} <- Hub],
                                     pt_many_hub:all(Hub, pt_many_node, eager, [Root]))),
    Hops = pt_sim_graph:reach(Root, Eager),
    io_lib:format("last delivery after ~b hops", [lists:max(maps:values(Hops))]).

%% ------------------------------------------------------------------------------------------------
%% Messages to any member

letters(Hub) ->
    Names = pt_many_hub:names(Hub),
    Clock = clock(),
    To = fun(Node) -> lists:sublist(shuffle(lists:delete(Node, Names)), ?LETTERS) end,
    accepted(maps:from_list([{Node, To(Node)} || Node <- Names]), Hub,
             erlang:monotonic_time(millisecond) + ?WELL_MS),
    Before = ?LETTERS * length(Hub),
    wait(fun() -> lists:sum(pt_many_hub:all(Hub, pt_many_node, arrived, [])) >= Before end, ?WELL_MS,
         messages_missing),
    Before = lists:sum(pt_many_hub:all(Hub, pt_many_node, arrived, [])),
    say("messages to any member", "~b acknowledged ones between random nodes arrived once, after ~s",
        [Before, Clock()]).

%% Links come and go: one may know no way to another for a moment.
accepted(Due, Hub, Deadline) ->
    Refused = pt_many_hub:all(Hub, pt_many_node, forward,
                              fun(Node) -> [maps:get(Node, Due), #{retransmission => true}] end),
    Left = maps:from_list(lists:zipwith(fun({Node, _, _}, Nodes) -> {Node, Nodes} end, Hub, Refused)),
    case lists:append(Refused) of
        [] ->
            ok;
        Some ->
            erlang:monotonic_time(millisecond) < Deadline orelse error({refused, Some}),
            receive after ?POLL_MS -> ok end,
            accepted(Left, Hub, Deadline)
    end.

shuffle(List) -> [X || {_, X} <- lists:sort([{rand:uniform(), X} || X <- List])].

%% ------------------------------------------------------------------------------------------------
%% The advertisement counter

ads(Overlay, Hub) ->
    Partners = case lists:member(Overlay, [hyparview, star]) of true -> neighbours; false -> random end,
    #{shown := Shown, all_know_ms := Ms, bytes_a_node_s := Rate, state_bytes := State} =
        pt_many_ads:run(Hub, Partners, #{wire => fun wire/0,
                                         wait => fun(F) -> wait(F, ?WELL_MS, counters_differ) end}),
    say("advertisement counter", "~b shown, all nodes know that ~.1f s after the last; a state of ~.1f kB, "
        "~.1f kB/s on the wire a node", [Shown, Ms / 1000, State / 1000, Rate / 1000]),
    Rate / 1000.

%% ------------------------------------------------------------------------------------------------
%% Many die at once

deaths(Percent, Overlay, [Root | Others] = Hub) ->
    {Dead, Rest} = lists:split(length(Hub) * Percent div 100, shuffle(Others)),
    Alive = [Root | Rest],
    pt_many_hub:kill(Dead),
    Clock = clock(),
    {Ms, Copies} = cast([{at_once, erlang:unique_integer()}], Root, Alive),
    say("killed at once", "~b nodes (~b %); a broadcast in that moment was at all after ~b ms, ~.3f copies a node",
        [length(Dead), Percent, Ms, Copies]),
    well(Overlay, Alive),
    say("healed", "views, links and routes of all are right after ~s", [Clock()]),
    views(Overlay, Alive),
    broadcasts(Root, Alive),
    _ = cost(Alive),
    ok.

%% ------------------------------------------------------------------------------------------------

%% Condition: true, false, or it throws {at, Result}.
wait(Condition, Ms, Failure) ->
    wait_until(Condition, erlang:monotonic_time(millisecond) + Ms, 2, Failure).

wait_until(Condition, Deadline, Pause, Failure) ->
    case try Condition() catch throw:{at, _} = At -> At end of
        true ->
            true;
        {at, Result} ->
            Result;
        false ->
            erlang:monotonic_time(millisecond) < Deadline orelse error(Failure),
            spare_memory(),
            receive after Pause -> ok end,
            wait_until(Condition, Deadline, min(?POLL_MS, 2 * Pause), Failure)
    end.

clock() ->
    Start = erlang:monotonic_time(millisecond),
    fun() -> io_lib:format("~.1f s", [(erlang:monotonic_time(millisecond) - Start) / 1000]) end.

mean(Numbers) -> lists:sum(Numbers) / max(1, length(Numbers)).

spread(Numbers) -> io_lib:format("~b to ~b", [lists:min(Numbers), lists:max(Numbers)]).

say(What, Format, Args) ->
    io:format("  ~-24s" ++ Format ++ "~n", [What | Args]).
