%% partisan_plumtree, one node of it: names that go together, timers before a message is asked for, shorter
%% ways, one tree a root or one for all. What many nodes make of it is in prop_overlay.
-module(partisan_plumtree_tests).

-include_lib("eunit/include/eunit.hrl").

names_wait_for_others_test() ->
    S0 = lazy([c], r, new([a, b, c], #{})),
    {S1, E1} = payload(r, 1, a, S0),
    ?assertEqual([{payload, r, key(1), 2, x}], to(b, E1)),
    ?assertEqual([], to(c, E1)),
    ?assertEqual([{timer, lazy, 1000}], [T || {timer, lazy, _} = T <- E1]),
    {S2, E2} = payload(r, 2, a, S1),
    ?assertEqual([], [T || {timer, lazy, _} = T <- E2]),
    {S3, E3} = event({timer, lazy}, S2),
    ?assertEqual([{i_have, [{r, key(1), 2}, {r, key(2), 2}]}], to(c, E3)),
    ?assertEqual({S3, []}, event({timer, lazy}, S3)).

full_batch_does_not_wait_test() ->
    S0 = lazy([c], r, new([a, c], #{batch => 3})),
    {S1, E1} = payload(r, 1, a, S0),
    {S2, E2} = payload(r, 2, a, S1),
    {S3, E3} = payload(r, 3, a, S2),
    ?assertEqual([[], []], [to(c, E) || E <- [E1, E2]]),
    ?assertEqual([{i_have, [{r, key(I), 2} || I <- [1, 2, 3]]}], to(c, E3)),
    {_, E4} = event({timer, lazy}, S3),
    ?assertEqual([], to(c, E4)).

%% Asked for when the time is over, of the first that has it; then of the next.
missing_test() ->
    S0 = lazy([b, c], r, new([a, b, c], #{graft_timeout => 70, graft_retry => 30})),
    {S1, E1} = i_have(r, 1, 5, b, S0),
    ?assertEqual([{timer, {missing, key(1)}, 70}], E1),
    {S2, []} = i_have(r, 1, 3, c, S1),
    {S3, E3} = event({timer, {missing, key(1)}}, S2),
    ?assertEqual([{graft, r, {key(1), 5}}], to(b, E3)),
    ?assert(lists:member({timer, {missing, key(1)}, 30}, E3)),
    ?assertEqual({[a, b], [c]}, partisan_plumtree:peers(r, S3)),
    {_, E4} = event({timer, {missing, key(1)}}, S3),
    ?assertEqual([{graft, r, {key(1), 3}}], to(c, E4)),
    %% When it comes nobody is asked any more.
    {S5, E5} = payload(r, 1, a, S3),
    ?assert(lists:member({cancel, {missing, key(1)}}, E5)),
    ?assertEqual({S5, []}, event({timer, {missing, key(1)}}, S5)).

copies_make_links_lazy_test() ->
    S0 = new([a, b], #{}),
    {S1, _} = payload(r, 1, a, S0),
    {S2, E2} = event({msg, b, {payload, r, key(1), 4, x}, [false]}, S1),
    ?assertEqual([{prune, r}], to(b, E2)),
    ?assertEqual({[a], [b]}, partisan_plumtree:peers(r, S2)),
    %% That is one tree; another root's is another tree.
    ?assertEqual({[a, b], []}, partisan_plumtree:peers(s, S2)),
    {S3, E3} = event({msg, b, {graft, r, {key(1), 2}}, [{ok, x}]}, S2),
    ?assertEqual([{payload, r, key(1), 2, x}], to(b, E3)),
    ?assertEqual({[a, b], []}, partisan_plumtree:peers(r, S3)).

%% A name over fewer links than the message: that way is taken, if it is shorter by as much as is asked.
shorter_ways_test_() ->
    [fun() ->
             S0 = lazy([c], r, new([a, c], Options)),
             {S1, _} = event({msg, a, {payload, r, key(1), 8, x}, [true]}, S0),
             {S2, E2} = event({msg, c, {i_have, [{r, key(1), Round}]}, [true]}, S1),
             case Taken of
                 true ->
                     ?assertEqual({[{graft, r, none}], [{prune, r}]}, {to(c, E2), to(a, E2)}),
                     ?assertEqual({[c], [a]}, partisan_plumtree:peers(r, S2));
                 false ->
                     ?assertEqual([], E2),
                     ?assertEqual({[a], [c]}, partisan_plumtree:peers(r, S2))
             end
     end || {Options, Round, Taken} <- [{#{optimisation => 3}, 5, true}, {#{optimisation => 3}, 6, false},
                                        {#{}, 1, false}]].

root_or_shared_test() ->
    [?assertEqual([{payload, Root, key(1), 1, x}],
                  to(a, element(2, event({broadcast, m, 1, x}, new([a], #{trees => Trees})))))
     || {Trees, Root} <- [{root, me}, {shared, shared}]].

%% --- parts ------------------------------------------------------------------------------------------

new(Neighbours, Options) ->
    {S, _} = partisan_plumtree:init(#{name => me}, Options, 0, rand:seed_s(exsss, 1)),
    lists:foldl(fun(N, Acc) -> element(1, event({neighbour_up, #{name => N}}, Acc)) end, S, Neighbours).

event(Event, S) -> partisan_plumtree:handle(Event, 0, S).

lazy(Nodes, Root, S) ->
    lists:foldl(fun(N, Acc) -> element(1, event({msg, N, {prune, Root}, []}, Acc)) end, S, Nodes).

payload(Root, I, From, S) -> event({msg, From, {payload, Root, key(I), 1, x}, [true]}, S).

i_have(Root, I, Round, From, S) -> event({msg, From, {i_have, [{Root, key(I), Round}]}, [false]}, S).

key(I) -> {m, I}.

to(Name, Effects) -> [Msg || {send, N, Msg} <- Effects, N =:= Name].
