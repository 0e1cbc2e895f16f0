%% The experiments of the two papers, with the product's cores, beside the papers' figures: Leitao, Pereira,
%% Rodrigues, "HyParView" (DSN 2007; technical report DI-FCUL TR-07-13) and "Epidemic Broadcast Trees" (SRDS
%% 2007; TR-07-14). Numbers of the papers' tables are theirs; those of curves are read off them, with ~.
%%
%% HyParView: nodes join one after the other through one contact, then 50 shuffle rounds; graph
%% properties; then a share of all nodes dies at once and 1,000 floods go out from random nodes, every 10 ms.
%% A flood is taken as instant: it reaches what the active views reach at that moment, so it gets no help
%% from repair under way.
%% Plumtree: one sender, over the same overlay. The tree follows the quickest copies, so hops are counted
%% where all links are equally quick.
%%
%% All failure shares start from one and the same network: a simulation is a value.
-module(pt_sim_paper).

-export([main/1, network/2, names/1]).

-define(FLOODS, 1000).
%% When so many in a row have reached everybody, those that follow are taken as reaching them, too.
-define(ENOUGH, 50).

%% [Nodes, Seed]: prints the tables; false if a bound that holds for any size is missed.
-spec main([string()]) -> boolean().
main([NodesArg, SeedArg]) ->
    [N, Seed] = [list_to_integer(A) || A <- [NodesArg, SeedArg]],
    Start = erlang:monotonic_time(millisecond),
    {Store, Sim0} = network(N, Seed),
    Sim = pt_sim:run(50 * 10000, Sim0),
    io:format("~b nodes, seed ~b: joined, and 50 shuffle rounds~n~n", [N, Seed]),
    Checks = [graph(N, Sim)
              | [failures(P, Sim) || P <- head(failures, [10, 20, 30, 40, 50, 60, 70, 80, 90, 95])]]
        ++ [tree(Store, Sim)
            | [tree_failures(P, Store, Sim) || P <- head(tree, [10, 30, 50, 70])]],
    Missed = lists:append(Checks),
    [io:format("MISSED ~ts~n", [M]) || M <- Missed],
    io:format("~nsimulated in ~.1f s, ~b MB~n",
              [(erlang:monotonic_time(millisecond) - Start) / 1000,
               erlang:memory(total) div 1000000]),
    Missed =:= [].

names(N) ->
    [list_to_atom(lists:flatten(io_lib:format("n~5..0b", [I]))) || I <- lists:seq(1, N)].

%% N nodes, joined one by one with 20 ms between, not yet settled.
network(N, Seed) ->
    Store = pt_sim_tree:new(),
    Opts = pt_sim_tree:options(Store, #{}),
    [First | Others] = names(N),
    Sim0 = pt_sim:new(Opts#{overlay => {partisan_hyparview, #{}}, seed => Seed}),
    {Store, lists:foldl(fun(Name, Sim) ->
                                pt_sim:run(20, pt_sim:join(Name, First, pt_sim:start(Name, Sim)))
                        end, pt_sim:start(First, Sim0), Others)}.

%% --- HyParView --------------------------------------------------------------------------------------

graph(N, Sim0) ->
    Graph = pt_sim_graph:views(Sim0),
    {Sources, _} = pt_sim:sample(min(N, 50), pt_sim:alive(Sim0), Sim0),
    Floods = [Hops || S <- Sources, {_, Hops} <- [pt_sim_graph:flood(S, Graph)]],
    Degrees = pt_sim_graph:in_degrees(Graph),
    Connected = pt_sim_graph:connected(Graph),
    Asymmetric = length(pt_sim_graph:asymmetric(Graph)),
    Full = proplists:get_value(5, Degrees, 0) / N,
    io:format("  HyParView, views settled              here        paper, 10,000 nodes~n"
              "  connected                            ~5w        yes~n"
              "  links that one end does not have     ~5b        0~n"
              "  nodes with in-degree 5              ~5.1f %      nearly all (Figure 5)~n"
              "  clustering coefficient             ~.5f        0.00092 (Table 1)~n"
              "  mean shortest path                 ~7.3f        6.38542 (Table 1)~n"
              "  hops to the last delivery          ~7.1f        9.0 (Table 1)~n"
              "  in-degrees                           ~ts~n~n",
              [Connected, Asymmetric, Full * 100, pt_sim_graph:clustering(Graph),
               pt_sim_graph:paths(lists:sublist(Sources, 20), Graph),
               lists:sum(Floods) / length(Floods),
               lists:join(", ", [io_lib:format("~b: ~b", [D, C]) || {D, C} <- Degrees])]),
    [M || {false, M} <- [{Connected, "the settled overlay is not connected"},
                         {Asymmetric =:= 0, "views are not symmetric"},
                         {Full > 0.9, "active views are not full"},
                         {element(1, lists:last(Degrees)) =< 5, "an active view is too large"}]].

%% `heals`: virtual time until a flood reaches everybody that lives, shuffles included.
failures(Percent, Sim0) ->
    Names = pt_sim:alive(Sim0),
    {Dead, Sim1} = pt_sim:sample(length(Names) * Percent div 100, Names, Sim0),
    {Reach, Sim2} = floods(?FLOODS, 0, [], pt_sim:kill(Dead, Sim1)),
    {Heals, Sim} = heals(0, Sim2),
    Mean = (lists:sum(Reach) + ?FLOODS - length(Reach)) / ?FLOODS,
    Bad = length([R || R <- Reach, R < 1.0]),
    {First, PaperMean} = paper(Percent),
    Least = maps:get(Percent, #{80 => 0.98, 90 => 0.97, 95 => 0.8}, 0.99),
    io:format("  ~3b %      ~6.2f %  ~-8s  ~6.2f %  ~-8s  ~6b          ~s~n",
              [Percent, 100 * hd(Reach), First, 100 * Mean, PaperMean, Bad, Heals]),
    Graph = pt_sim_graph:views(Sim),
    [M || {false, M} <- [{Mean >= Least, io_lib:format("~b % dead: reliability ~.3f, at least ~.2f "
                                                       "expected", [Percent, Mean, Least])},
                         {Percent > 90 orelse pt_sim_graph:connected(Graph),
                          io_lib:format("~b % dead: not connected in the end", [Percent])}]].

%% The flood right after the deaths (Figure 6a of Plumtree's, the eager strategy), and the mean of 1,000
%% (Figure 2 of HyParView's).
paper(Percent) when Percent =< 20 -> {"~100", "~100"};
paper(30) -> {"~99.7", "~100"};
paper(40) -> {"~98.7", "~100"};
paper(50) -> {"~95", "~100"};
paper(60) -> {"~56", "~100"};
paper(70) -> {"~15", "~100"};
paper(80) -> {"~0", "~100"};
paper(90) -> {"~0", "~99.7"};
paper(95) -> {"~0", "~91"}.

floods(Left, InARow, Reach, Sim) when Left =:= 0; InARow =:= ?ENOUGH ->
    {lists:reverse(Reach), Sim};
floods(Left, InARow, Reach, Sim0) ->
    Graph = pt_sim_graph:views(Sim0),
    {[Source], Sim} = pt_sim:sample(1, pt_sim:alive(Sim0), Sim0),
    {Share, _} = pt_sim_graph:flood(Source, Graph),
    Good = case Share < 1.0 of true -> 0; false -> InARow + 1 end,
    floods(Left - 1, Good, [Share | Reach], pt_sim:run(10, Sim)).

heals(Waited, Sim) ->
    case pt_sim_graph:connected(pt_sim_graph:views(Sim)) of
        true when Waited =:= 0 -> {"at once", Sim};
        true -> {io_lib:format("~b s", [Waited]), Sim};
        false when Waited >= 300 -> {"not in 300 s", Sim};
        false -> heals(Waited + 5, pt_sim:run(5000, Sim))
    end.

%% --- Plumtree ---------------------------------------------------------------------------------------

tree(Store, Uneven) ->
    Sim0 = pt_sim:delay({5, 5}, Uneven),
    [Source | _] = pt_sim:alive(Sim0),
    {[First | Settled], _} = messages(Store, Source, stable, 12, Sim0),
    Last = lists:nthtail(2, Settled),
    Rmr = mean(rmr, Last),
    io:format("~n  Plumtree, one sender                  here        paper, 10,000 nodes~n"
              "  redundancy (RMR) of the first       ~6.3f        3, of flooding (Figure 2a, Table 1)~n"
              "  redundancy (RMR), settled           ~6.3f        0 (Figure 2a, Table 1)~n"
              "  reliability                         ~6.2f %      100 % (Figure 3a)~n"
              "  hops to the last delivery           ~6.1f        ~~10, of flooding ~~9 (Figure 2c)~n~n",
              [maps:get(rmr, First), Rmr, 100 * mean(reliability, Last), mean(hops, Last)]),
    [M || {false, M} <- [{Rmr < 0.05, io_lib:format("redundancy ~.3f of a settled tree", [Rmr])},
                         {mean(reliability, Last) == 1.0, "a message did not reach everybody"}]].

tree_failures(Percent, Store, Sim0) ->
    [Source | Names] = pt_sim:alive(Sim0),
    {_, Sim1} = messages(Store, Source, {before, Percent}, 4, Sim0),
    {Dead, Sim2} = pt_sim:sample(length(Names) * Percent div 100, Names, Sim1),
    {[First | After], _} = messages(Store, Source, {dead, Percent}, 12, pt_sim:kill(Dead, Sim2)),
    Reliability = mean(reliability, [First | After]),
    io:format("  ~3b %      ~6.2f %       ~6s ms       ~6.3f           ~6.3f           ~6s ms   ~4b~n",
              [Percent, 100 * Reliability, ms(First), maps:get(rmr, First),
               maps:get(rmr, lists:last(After)), ms(lists:last(After)),
               maps:get(hops, lists:last(After))]),
    [M || {false, M} <- [{Reliability >= 0.999 orelse Percent > 50,
                          io_lib:format("tree with ~b % dead: reliability ~.4f",
                                        [Percent, Reliability])},
                         {maps:get(ms, First) =/= never orelse Percent > 70,
                          io_lib:format("tree with ~b % dead: the first message did not reach "
                                        "everybody", [Percent])}]].

ms(#{ms := never}) -> "never";
ms(#{ms := Ms}) -> integer_to_list(Ms).

%% One after the other; each has the time it needs, and a second for copies that are still on the way.
messages(Store, Source, Run, Count, Sim) ->
    lists:mapfoldl(fun(I, Sim0) ->
                           Id = {Store, {Run, I}},
                           {Ms, Sim1} = pt_sim_tree:wait(Id, 30000,
                                                         pt_sim_tree:broadcast(Source, Id, Sim0)),
                           Sim2 = pt_sim:run(1000, Sim1),
                           #{copies := Copies, have := Have} = D = pt_sim_tree:delivered(Id, Sim2),
                           %% Not this one yet: its name is still to come over the lazy links.
                           ok = pt_sim_tree:forget({Store, {Run, I - 3}}),
                           {D#{ms => Ms, rmr => Copies / max(1, Have - 1) - 1}, Sim2}
                   end, Sim, lists:seq(1, Count)).

mean(Key, Maps) ->
    lists:sum([maps:get(Key, M) || M <- Maps]) / length(Maps).

head(failures, List) ->
    io:format("  dead at once  first flood, paper  mean of ~b, paper  not to all  then all are reached~n",
              [?FLOODS]),
    List;
head(tree, List) ->
    io:format("  dead at once   reliability   first after   its RMR   12th after   its time   hops~n"),
    List.
