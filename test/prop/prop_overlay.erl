%% HyParView, Plumtree and routes, on simulated nodes: what must hold whatever happens.
-module(prop_overlay).

-include("pt_proper.hrl").

-export([prop_views/0, prop_join/0, prop_full_groups_meet/0,
         prop_isolated_halves_meet_again/0,
         prop_left_nodes_stay_away/0, prop_nobody_is_given_up/0, prop_forgotten_halves_meet_again/0, prop_xbot/0, prop_broadcast/0, prop_patience/0,
         prop_gone_neighbours/0, prop_latecomers/0, prop_broadcast_with_exchange/0, prop_routes/0, prop_words/0,
         prop_links/0, prop_alternatives/0, prop_same_seed_same_run/0]).

-import(proper, [conjunction/1]).
-import(proper_types, [choose/2, frequency/1, list/1]).

-define(HEAL_MS, 30000).                         %% heal_interval
-define(QUIET_MS, 300000).                       %% several of them

%% --- views ------------------------------------------------------------------------------------------

%% At any time: never self, never larger than the option says, never in both views. When all has
%% been quiet for a while: links have two ends, and who lives is connected, unless so many died
%% that somebody may have lost everyone it knew.
prop_views() ->
    ?FORALL({Seed, Max, Ops}, {seed(), choose(2, 5), list(operation())},
            begin
                Sim0 = sim(Seed, #{active_max_size => Max, active_min_size => 1}),
                {Steady, Sim1} = perform(Ops, Max, Sim0),
                Sim = quiet(pt_sim:lossy({0.0, fun(_, _) -> true end}, pt_sim:mend(Sim1))),
                Graph = pt_sim_graph:views(Sim),
                ?WHENFAIL(io:format("views ~p~nat ~p~n", [Graph, pt_sim:now(Sim)]),
                          conjunction([{steady, Steady},
                                       {symmetric, symmetric(Sim)},
                                       {sound, sound(Max, Sim)},
                                       {connected, kills(Ops) > 0
                                        orelse pt_sim_graph:connected(Graph)}]))
            end).

operation() ->
    frequency([{6, {join, choose(1, 12), choose(1, 12)}},
               {3, {run, choose(1, 20000)}},
               {1, {kill, choose(2, 12)}},
               {1, {restart, choose(2, 12)}},
               {1, {cut, choose(2, 11)}},
               {1, mend},
               {1, {loss, choose(0, 30)}}]).

perform(Ops, Max, Sim) ->
    lists:foldl(fun(Op, {Good, S0}) ->
                        S = pt_sim:run(17, operate(Op, S0)),
                        {Good andalso sound(Max, S), S}
                end, {true, Sim}, Ops).

%% A node that dies and comes back is the same name with nothing in mind.
operate({join, A, B}, S) -> pt_sim:join(name(A), name(B), up(B, up(A, S)));
operate({run, Ms}, S) -> pt_sim:run(Ms, S);
operate({kill, A}, S) -> pt_sim:kill([name(A)], S);
operate({restart, A}, S) -> pt_sim:restart(name(A), S);
operate({cut, K}, S) -> pt_sim:cut([names(1, K), names(K + 1, 12)], S);
operate(mend, S) -> pt_sim:mend(S);
operate({loss, P}, S) -> pt_sim:lossy({P / 100, fun(_, _) -> true end}, S).

up(A, S) ->
    case pt_sim:is_alive(name(A), S) of
        true -> S;
        false -> pt_sim:start(name(A), S)
    end.

kills(Ops) ->
    length([x || {Op, _} <- Ops, Op =:= kill orelse Op =:= restart])
        %% Who never joined anybody is alone; two groups that never met are two.
        + case joined(Ops) of true -> 0; false -> 1 end.

%% Whether the joins alone connect everybody that was started.
joined(Ops) ->
    Edges = [{name(A), name(B)} || {join, A, B} <- Ops],
    Graph = lists:foldl(fun({A, B}, G) ->
                                add(A, B, add(B, A, G))
                        end, #{}, Edges),
    pt_sim_graph:connected(Graph).

add(A, B, G) -> G#{A => [B | maps:get(A, G, [])]}.

sound(Max, Sim) ->
    lists:all(fun(Name) ->
                      #{neighbours := Active, passive := Specs} = pt_sim:overlay(Name, Sim),
                      Passive = [N || #{name := N} <- Specs],
                      length(Active) =< Max andalso length(Passive) =< 30
                          andalso not lists:member(Name, Active ++ Passive)
                          andalso Active -- Passive =:= Active
                          andalso lists:usort(Active) =:= lists:sort(Active)
              end, pt_sim:alive(Sim)).

%% Two groups that are full, so that nobody misses a neighbour, and one node of one hears of one of
%% the other: the two are one within 7 heal intervals and one more for each 5 names a node can know.
prop_full_groups_meet() ->
    ?FORALL({Seed, Max, Rest}, {seed(), choose(2, 5), choose(0, 5)},
            begin
                Sim0 = sim(Seed, #{active_max_size => Max}),
                N = Max + 1,
                Sim1 = pt_sim:run(60000, group(1, N, group(N + 1, 2 * N, Sim0))),
                Apart = pt_sim_graph:views(Sim1),
                One = name(1 + Seed rem N),
                Other = pt_sim:spec(name(N + 1 + Rest rem N)),
                Rumour = {msg, hd(maps:get(One, Apart)), {shuffle_reply, [Other], [One]}},
                Sim2 = pt_sim:tell(One, overlay, Rumour, Sim1),
                Sim = pt_sim:run(?HEAL_MS * (7 + 2 * N div 5), Sim2),
                Graph = pt_sim_graph:views(Sim),
                ?WHENFAIL(io:format("~p~n", [Graph]),
                          conjunction([{full, lists:all(fun(V) -> length(V) =:= Max end,
                                                        maps:values(Apart))},
                                       {apart, not pt_sim_graph:connected(Apart)},
                                       {together, pt_sim_graph:connected(Graph)}]))
            end).

group(From, To, Sim0) ->
    lists:foldl(fun(I, Sim) ->
                        pt_sim:run(100, pt_sim:join(name(I), name(From), up(I, Sim)))
                end, up(From, Sim0), lists:seq(From + 1, To)).

%% Forward joins alone, with all repair off, make more than a star around the contact. They do not
%% promise that all hang together: two that were put out may have found only each other. The ordinary
%% repair sees to that.
prop_join() ->
    ?FORALL({Seed, N}, {seed(), choose(3, 20)},
            begin
                Never = 1 bsl 30,
                Alone = grown(N, sim(Seed, #{shuffle_interval => Never, heal_interval => Never,
                                             random_promotion_interval => Never})),
                Links = lists:append(maps:values(pt_sim_graph:views(Alone))),
                Repaired = pt_sim:run(?HEAL_MS * 11, grown(N, sim(Seed, #{}))),
                conjunction([{linked, length(Links) > 2 * (N - 1)},
                             {connected, pt_sim_graph:connected(pt_sim_graph:views(Repaired))}])
            end).

%% Cut long enough that each half has filled its views with its own, and grown for a while.
prop_isolated_halves_meet_again() ->
    ?FORALL({Seed, N}, {seed(), choose(6, 24)},
            begin
                Sim0 = grown(N, sim(Seed, #{})),
                {Half, Others} = lists:split(N div 2, names(1, N)),
                Sim1 = pt_sim:run(120000, pt_sim:cut([Half, Others], Sim0)),
                Apart = pt_sim_graph:views(Sim1),
                Sim = quiet(pt_sim:mend(Sim1)),
                Graph = pt_sim_graph:views(Sim),
                conjunction([{apart, not pt_sim_graph:connected(Apart)},
                             {together, pt_sim_graph:connected(Graph)},
                             {symmetric, symmetric(Sim)}])
            end).

%% Cut for so long that lost nodes are no longer counted as such, with no rumours to bring them back.
prop_forgotten_halves_meet_again() ->
    ?FORALL({Seed, N}, {seed(), choose(6, 24)},
            begin
                Sim0 = grown(N, sim(Seed, #{shuffle_interval => 1 bsl 30, heal_interval => 5000,
                                            heal_ttl => 20000})),
                {Half, Others} = lists:split(N div 2, names(1, N)),
                Sim1 = pt_sim:run(120000, pt_sim:cut([Half, Others], Sim0)),
                Apart = pt_sim_graph:views(Sim1),
                Sim = quiet(pt_sim:mend(Sim1)),
                conjunction([{apart, not pt_sim_graph:connected(Apart)},
                             {together, pt_sim_graph:connected(pt_sim_graph:views(Sim))}])
            end).

%% Most die at once, and those of the passive views with them: who lives and knows somebody who does, by
%% whatever way, is not alone.
prop_nobody_is_given_up() ->
    ?FORALL({Seed, N, Percent}, {seed(), choose(20, 40), choose(50, 90)},
            begin
                Sim0 = pt_sim:run(60000, grown(N, sim(Seed, #{active_max_size => 3, active_min_size => 1,
                                                              passive_max_size => 3,
                                                              remembered_max_size => 20}))),
                {Dead, Sim1} = pt_sim:sample(N * Percent div 100, pt_sim:alive(Sim0), Sim0),
                Sim = pt_sim:run(60000, pt_sim:kill(Dead, Sim1)),
                Alone = [{A, Knows} || {A, []} <- maps:to_list(pt_sim_graph:views(Sim)),
                                       Knows <- [[K || K <- known(A, Sim), pt_sim:is_alive(K, Sim)]]],
                Largest = lists:max([length(maps:get(remembered, pt_sim:overlay(A, Sim)))
                                     || A <- pt_sim:alive(Sim)]),
                ?WHENFAIL(io:format("alone, knowing: ~p~n", [Alone]),
                          conjunction([{nobody, [] =:= [A || {A, Knows} <- Alone, Knows =/= []]},
                                       {bounded, Largest =< 25}]))
            end).

known(Name, Sim) ->
    #{passive := Passive, lost := Lost, remembered := Remembered} = pt_sim:overlay(Name, Sim),
    [N || #{name := N} <- Passive] ++ Lost ++ Remembered.

%% A node that left is in nobody's active view again, whatever old rumours say, and the others stay
%% together.
prop_left_nodes_stay_away() ->
    ?FORALL({Seed, N}, {seed(), choose(4, 16)},
            begin
                Sim0 = grown(N, sim(Seed, #{})),
                Leaver = name(1 + Seed rem N),
                Sim = quiet(pt_sim:tell(Leaver, overlay, {leave, Leaver}, Sim0)),
                Graph = pt_sim_graph:views(Sim),
                conjunction([{alone, maps:get(Leaver, Graph) =:= []},
                             {forgotten, not lists:member(Leaver, lists:append(maps:values(Graph)))},
                             {others, pt_sim_graph:connected(maps:remove(Leaver, Graph))},
                             {told, lists:member({Leaver, left}, pt_sim:collected(Sim))}])
            end).

%% Nodes on a circle, latency the way along it. X-BOT brings neighbours together, and keeps the views
%% sound, symmetric and connected, while nodes die as well.
prop_xbot() ->
    ?FORALL({Seed, N, Dead}, {seed(), choose(30, 40), list(choose(2, 20))},
            begin
                Index = maps:from_list([{name(I), I} || I <- lists:seq(1, N)]),
                Distance = fun(A, B) ->
                                   D = abs(map_get(A, Index) - map_get(B, Index)),
                                   1000 * min(D, N - D)
                           end,
                Config = #{xbot_enabled => true, xbot_interval => 5000},
                Sim0 = grown(N, sim(Seed, Config, #{distance => Distance})),
                Sim1 = pt_sim:run(20000, Sim0),
                {Steady, Sim2} = lists:foldl(fun(_, {Good, S0}) ->
                                                     S = pt_sim:run(1501, S0),
                                                     {Good andalso sound(5, S), S}
                                             end, {true, Sim1}, lists:seq(1, 200)),
                Before = cost(Distance, Sim1),
                After = cost(Distance, Sim2),
                Hurt = lists:foldl(fun(I, S) -> pt_sim:run(3000, pt_sim:kill([name(I)], S)) end,
                                   Sim2, lists:sublist(Dead, 3)),
                Sim = quiet(Hurt),
                Graph = pt_sim_graph:views(Sim),
                ?WHENFAIL(io:format("cost ~p, then ~p~n", [Before, After]),
                          conjunction([{nearer, After < 0.9 * Before},
                                       {steady, Steady},
                                       {connected, pt_sim_graph:connected(Graph)},
                                       {symmetric, symmetric(Sim)}]))
            end).

%% Mean distance of neighbours.
cost(Distance, Sim) ->
    All = [Distance(A, B) || {A, Near} <- maps:to_list(pt_sim_graph:views(Sim)), B <- Near],
    lists:sum(All) / length(All).

%% --- broadcast --------------------------------------------------------------------------------------

%% Over links that nothing repairs, so that all the repair is Plumtree's own: nodes die that leave the
%% others connected, and messages go out at once. Everybody gets them over eager links or, where
%% the tree is cut, by graft; the tree is whole again then, and carries no copies and no grafts.
prop_broadcast() ->
    ?FORALL({Seed, N, Doomed, Senders}, {seed(), choose(1, 20), list(choose(1, 20)),
                                         [choose(1, 20) | list(choose(1, 20))]},
            begin
                Store = pt_sim_tree:new(),
                Tree = lists:nth(1 + Seed rem 2, [root, shared]),
                Sim0 = pt_sim:new((pt_sim_tree:options(Store, #{trees => Tree}))
                                  #{overlay => {pt_sim_mesh, #{}}, seed => Seed}),
                Sim1 = settle(Store, first, name(1), meshed(N, Sim0)),
                Sim2 = lists:foldl(fun kill_safely/2, Sim1, Doomed),
                Alive = pt_sim:alive(Sim2),
                Froms = [{lists:nth(1 + K rem length(Alive), Alive), I}
                         || {I, K} <- lists:enumerate(Senders)],
                Sim3 = lists:foldl(fun({From, I}, S) ->
                                           pt_sim:run(10, pt_sim_tree:broadcast(From, {Store, I}, S))
                                   end, Sim2, Froms),
                Sim4 = pt_sim:run(60000, Sim3),
                Got = [reliability(Store, I, Sim4) || {_, I} <- Froms],
                Left = [A || A <- Alive,
                             maps:get(missing, partisan_plumtree:info(pt_sim:layer(A, tree, Sim4))) > 0],
                Sim5 = settle(Store, last, hd(Alive), Sim4),
                Id = {Store, {last, 6}},
                Sim6 = pt_sim:run(5000, pt_sim_tree:broadcast(hd(Alive), Id,
                                                              pt_sim:reset_counters(Sim5))),
                #{copies := Copies, have := Have} = pt_sim_tree:delivered(Id, Sim6),
                true = ets:delete(Store),
                conjunction([{everybody, lists:all(fun(R) -> R == 1.0 end, Got)},
                             {nothing_kept, Left =:= []},
                             {no_copies, Copies =:= Have - 1},
                             {no_grafts, not is_map_key({tree, graft}, pt_sim:counters(Sim6))}])
            end).

%% A random tree of links, and about as many again.
meshed(N, Sim0) ->
    lists:foldl(fun(I, S0) ->
                        {A, S1} = pt_sim:uniform(I - 1, S0),
                        {B, S2} = pt_sim:uniform(I - 1, S1),
                        S3 = pt_sim:join(name(I), name(A), pt_sim:start(name(I), S2)),
                        pt_sim:run(100, pt_sim:join(name(I), name(B), S3))
                end, pt_sim:start(name(1), Sim0), lists:seq(2, N)).

kill_safely(I, Sim) ->
    Left = pt_sim:kill([name(I)], Sim),
    case pt_sim:alive(Left) =/= [] andalso pt_sim_graph:connected(pt_sim_graph:views(Left)) of
        true -> Left;
        false -> Sim
    end.

%% Five messages of one sender.
settle(Store, Run, From, Sim) ->
    lists:foldl(fun(I, S) ->
                        pt_sim:run(5000, pt_sim_tree:broadcast(From, {Store, {Run, I}}, S))
                end, Sim, lists:seq(1, 5)).

reliability(Store, Id, Sim) ->
    maps:get(reliability, pt_sim_tree:delivered({Store, Id}, Sim)).

%% Names may overtake messages. A tree over slow links asks for nothing that is merely late.
prop_patience() ->
    ?FORALL({Seed, N}, {seed(), choose(2, 20)},
            begin
                Store = pt_sim_tree:new(),
                Config = #{lazy_tick_period => 1, graft_timeout => 1000},
                Sim0 = pt_sim:new((pt_sim_tree:options(Store, Config))
                                  #{overlay => {pt_sim_mesh, #{}}, seed => Seed}),
                Sim1 = pt_sim:reset_counters(settle(Store, first, name(1), meshed(N, Sim0))),
                Sim = settle(Store, slow, name(1), pt_sim:delay({1, 45}, Sim1)),
                true = ets:delete(Store),
                not is_map_key({tree, graft}, pt_sim:counters(Sim))
            end).

%% Of a neighbour that is gone nothing is kept: no names, no links, no queue.
prop_gone_neighbours() ->
    ?FORALL({Seed, Events}, {seed(), list({choose(1, 4), choose(1, 5)})},
            begin
                {S0, _} = partisan_plumtree:init(#{name => name(9)}, #{}, 0, rand:seed_s(exsss, Seed)),
                Near = names(1, 4),
                S1 = feed([{neighbour_up, #{name => N}} || N <- Near], S0),
                Names = [{msg, name(A), {i_have, [{name(8), {test, I}, 1}]}, [false]}
                         || {A, I} <- Events],
                Prunes = [{msg, name(A), {prune, name(9)}, []} || {A, _} <- Events],
                Sent = [{broadcast, test, I, x} || {_, I} <- Events],
                S2 = feed(Names ++ Prunes ++ Sent, S1),
                S = feed([{neighbour_down, N, gone} || N <- Near], S2),
                #{neighbours := Left, missing := Missing, trees := Trees} =
                    partisan_plumtree:info(S),
                {_, Late} = partisan_plumtree:handle({timer, lazy}, 1, S),
                {Left, Missing, Late, [T || {_, {E, L}} = T <- Trees, E ++ L =/= []]}
                    =:= {[], 0, [], []}
            end).

feed(Events, S) ->
    lists:foldl(fun(E, Acc0) -> {Acc, _} = partisan_plumtree:handle(E, 0, Acc0), Acc end, S, Events).

%% A message goes out at the moment when most nodes die. Whoever of the rest is connected with the
%% others in the end gets it, without the handlers' exchange: new neighbours tell of it.
prop_latecomers() ->
    ?FORALL({Seed, N, Share}, {seed(), choose(10, 40), choose(40, 75)},
            begin
                Store = pt_sim_tree:new(),
                Sim0 = grown(N, sim(Seed, #{}, pt_sim_tree:options(Store, #{}))),
                Sim1 = settle(Store, before, name(1), Sim0),
                {Dead, Sim2} = pt_sim:sample(N * Share div 100, tl(names(1, N)), Sim1),
                Sim3 = pt_sim_tree:broadcast(name(1), {Store, 1}, pt_sim:kill(Dead, Sim2)),
                %% groups that meet late must have the time for a tick and a graft
                Sim4 = pt_sim:run(40000, Sim3),
                Sim = pt_sim:run(10000, Sim4),
                All = reliability(Store, 1, Sim) == 1.0,
                true = ets:delete(Store),
                All orelse not pt_sim_graph:connected(pt_sim_graph:views(Sim4))
            end).

%% With everything that can go wrong, the handlers' exchange has the last word.
prop_broadcast_with_exchange() ->
    ?FORALL({Seed, N, Share, Loss}, {seed(), choose(2, 25), choose(0, 40), choose(0, 30)},
            begin
                Store = pt_sim_tree:new(),
                Sim0 = grown(N, sim(Seed, #{}, pt_sim_tree:options(Store, #{}, exchange))),
                Sim1 = pt_sim:lossy({Loss / 100, fun(Layer, _) -> Layer =:= tree end}, Sim0),
                Sim2 = pt_sim_tree:broadcast(name(1), {Store, 1}, Sim1),
                {Dead, Sim3} = pt_sim:sample(N * Share div 100, tl(names(1, N)), Sim2),
                Sim = quiet(pt_sim:kill(Dead, pt_sim:run(5, Sim3))),
                All = reliability(Store, 1, Sim) == 1.0,
                true = ets:delete(Store),
                All orelse not pt_sim_graph:connected(pt_sim_graph:views(Sim))
            end).

%% --- routes -----------------------------------------------------------------------------------------

%% Once news are round, every node knows a way to every other, each hop is nearer (so nothing passes
%% a node twice), and nobody has a way to the dead.
prop_routes() ->
    ?FORALL({Seed, N, Share}, {seed(), choose(2, 25), choose(0, 40)},
            begin
                Sim0 = grown(N, pt_sim:new(#{overlay => {partisan_overlay_routed, #{}},
                                             seed => Seed})),
                {Dead, Sim1} = pt_sim:sample(N * Share div 100, tl(names(1, N)), Sim0),
                Sim = quiet(pt_sim:kill(Dead, Sim1)),
                within_a_second(fun(S) -> misrouted(Dead, S) =:= [] end, Sim)
            end).

misrouted(Dead, Sim) ->
    Infos = maps:from_list([{A, pt_sim:overlay(A, Sim)} || A <- pt_sim:alive(Sim)]),
    Graph = maps:map(fun(_, #{neighbours := Ns}) -> Ns end, Infos),
    Ways = [{A, B, way(A, B, [], Infos)} || A <- maps:keys(Infos), B <- maps:keys(Infos), A =/= B],
    [W || {A, _, _} = W <- Ways, not shortest(W, pt_sim_graph:reach(A, Graph))]
        ++ [{A, D, ghost} || {A, #{routes := R}} <- maps:to_list(Infos), D <- Dead, is_map_key(D, R)].

way(B, B, Passed, _) ->
    {hops, length(Passed)};
way(A, B, Passed, Infos) ->
    case {lists:member(A, Passed), Infos} of
        {true, _} -> loop;
        {false, #{A := #{neighbours := Near, routes := Routes}}} ->
            case {lists:member(B, Near), Routes} of
                {true, _} -> {hops, length(Passed) + 1};
                {false, #{B := Via}} -> way(Via, B, [A | Passed], Infos);
                {false, _} -> none
            end;
        {false, _} -> dead
    end.

%% No way only where there is none.
shortest({_, B, {hops, Hops}}, Distance) -> maps:get(B, Distance, none) =:= Hops;
shortest({_, B, none}, Distance) -> not is_map_key(B, Distance);
shortest(_, _) -> false.

%% In whatever order words come, the latest of each node is what counts.
prop_words() ->
    ?FORALL(Words, list({choose(1, 3), choose(1, 3), choose(0, 5), list(choose(1, 5))}),
            begin
                All = [{name(N), {I, C}, names_of(Links)} || {N, I, C, Links} <- Words],
                Map = lists:foldl(fun(W, M0) -> {_, M} = partisan_route:learn(W, M0), M end,
                                  partisan_route:new(name(9), 1), All),
                lists:all(fun({N, V, _}) ->
                                  {ok, {N, Have, _}} = partisan_route:find(N, Map),
                                  Have =:= lists:max([V1 || {N1, V1, _} <- All, N1 =:= N])
                                      andalso partisan_route:is_known(N, V, Map)
                          end, All)
            end).

%% There is a way over links that both ends speak of, and the first hop of it is a neighbour.
prop_links() ->
    ?FORALL({Own, Words}, {list(choose(1, 6)), list({choose(1, 6), list(choose(1, 6))})},
            begin
                {_, Map0} = partisan_route:local(names_of(Own), partisan_route:new(name(9), 1)),
                Said = maps:from_list([{name(N), names_of(Ls)} || {N, Ls} <- Words]),
                Map = maps:fold(fun(N, Ls, M0) ->
                                        {new, M} = partisan_route:learn({N, {1, 1}, Ls}, M0),
                                        M
                                end, Map0, Said),
                Both = maps:map(fun(N, Ls) ->
                                        [L || L <- Ls, lists:member(N, maps:get(L, Said, []))]
                                end, Said),
                Quiet = maps:from_list([{N, []} || N <- names_of(Own)]),
                Graph = (maps:merge(Quiet, Both))#{name(9) => names_of(Own)},
                lists:sort(maps:keys(pt_sim_graph:reach(name(9), Graph))) =:= partisan_route:reachable(Map)
                    andalso lists:all(fun(Via) -> lists:member(Via, names_of(Own)) end,
                                      maps:values(partisan_route:routes(Map)))
            end).

%% To each node the neighbours that have a way which is not over us, the nearest first.
prop_alternatives() ->
    ?FORALL({Own, Words}, {list(choose(1, 6)), list({choose(1, 6), list(choose(1, 9))})},
            begin
                {_, Map0} = partisan_route:local(names_of(Own), partisan_route:new(name(9), 1)),
                Said = maps:from_list([{name(N), names_of(Ls)} || {N, Ls} <- Words]),
                Map = maps:fold(fun(N, Ls, M0) -> {new, M} = partisan_route:learn({N, {1, 1}, Ls}, M0), M end,
                                Map0, Said),
                Both = maps:map(fun(N, Ls) -> [L || L <- Ls, L =/= name(9),
                                                    lists:member(N, maps:get(L, Said, []))]
                                end, Said),
                Graph = maps:merge(maps:from_list([{N, []} || N <- names_of(Own)]), Both),
                Ways = [{Node, {Hops, Near}} || Near <- lists:usort(names_of(Own)),
                                                {Node, Hops} <- maps:to_list(pt_sim_graph:reach(Near, Graph))],
                partisan_route:alternatives(Map)
                    =:= maps:from_list([{Node, [Near || {_, Near} <- lists:sort([W || {N, W} <- Ways, N =:= Node])]}
                                        || {Node, _} <- Ways])
            end).

names_of(Numbers) -> [name(I) || I <- Numbers].

%% --- the simulator ----------------------------------------------------------------------------------

prop_same_seed_same_run() ->
    ?FORALL({Seed, N}, {seed(), choose(2, 12)},
            begin
                Run = fun(S) ->
                              Sim = quiet(pt_sim:kill([name(2)], grown(N, sim(S, #{})))),
                              {pt_sim:counters(Sim), pt_sim_graph:views(Sim)}
                      end,
                Run(Seed) =:= Run(Seed)
            end).

%% --- parts ------------------------------------------------------------------------------------------

seed() -> choose(1, 1 bsl 30).

sim(Seed, Config) ->
    sim(Seed, Config, #{}).

sim(Seed, Config, More) ->
    Left = fun(Name, overlay, {notify, left}, Acc) -> [{Name, left} | Acc];
              (_, _, _, Acc) -> Acc
           end,
    pt_sim:new(maps:merge(#{overlay => {partisan_hyparview, Config}, seed => Seed, acc => [],
                            collect => Left}, More)).

grown(N, Sim) ->
    group(1, N, Sim).

quiet(Sim) ->
    pt_sim:run(?QUIET_MS, Sim).

symmetric(Sim) ->
    within_a_second(fun(S) -> pt_sim_graph:asymmetric(pt_sim_graph:views(S)) =:= [] end, Sim).

%% Links change hands now and then even when all is quiet; soon after everybody knows.
within_a_second(Holds, Sim) ->
    lists:any(fun(Ms) -> Holds(pt_sim:run(Ms, Sim)) end, lists:seq(0, 1000, 100)).

names(From, To) -> [name(I) || I <- lists:seq(From, To)].

name(I) -> list_to_atom("n" ++ integer_to_list(100 + I)).
