%% What a set of views is as a graph: reach, paths, clustering, degrees.
-module(pt_sim_graph).

-export([views/1, reach/2, flood/2, connected/1, asymmetric/1, in_degrees/1, clustering/1,
         paths/2]).

-type graph() :: #{node() => [node()]}.

%% The active views of the nodes that live; who is dead is left in them.
-spec views(pt_sim:sim()) -> graph().
views(Sim) ->
    maps:from_list([{N, pt_sim:neighbours(N, Sim)} || N <- pt_sim:alive(Sim)]).

%% Distance of every node that a flood from Source gets to.
-spec reach(node(), graph()) -> #{node() => non_neg_integer()}.
reach(Source, Graph) ->
    reach([Source], 1, #{Source => 0}, Graph).

reach([], _, Seen, _) ->
    Seen;
reach(Front, Depth, Seen0, Graph) ->
    {Next, Seen} =
        lists:foldl(fun(N, Acc) ->
                            lists:foldl(fun(P, {Ns, Sn}) when not is_map_key(P, Sn),
                                                              is_map_key(P, Graph) ->
                                                {[P | Ns], Sn#{P => Depth}};
                                           (_, Old) ->
                                                Old
                                        end, Acc, maps:get(N, Graph))
                    end, {[], Seen0}, Front),
    reach(Next, Depth + 1, Seen, Graph).

%% {Share of the living nodes that a flood from Source reaches, hops to the last of them}.
-spec flood(node(), graph()) -> {float(), non_neg_integer()}.
flood(Source, Graph) ->
    Seen = reach(Source, Graph),
    {map_size(Seen) / map_size(Graph), lists:max(maps:values(Seen))}.

-spec connected(graph()) -> boolean().
connected(Graph) ->
    case maps:keys(Graph) of
        [] -> true;
        [N | _] -> map_size(reach(N, Graph)) =:= map_size(Graph)
    end.

%% Edges that only one end has.
-spec asymmetric(graph()) -> [{node(), node()}].
asymmetric(Graph) ->
    [{A, B} || {A, Bs} <- maps:to_list(Graph), B <- Bs, not lists:member(A, maps:get(B, Graph, []))].

%% [{Degree, Nodes}]: how many nodes are in how many views.
-spec in_degrees(graph()) -> [{non_neg_integer(), pos_integer()}].
in_degrees(Graph) ->
    Zero = maps:map(fun(_, _) -> 0 end, Graph),
    In = lists:foldl(fun(B, Acc) when is_map_key(B, Acc) -> Acc#{B := map_get(B, Acc) + 1};
                        (_, Acc) -> Acc
                     end, Zero, lists:append(maps:values(Graph))),
    lists:sort(maps:to_list(lists:foldl(fun(D, Acc) -> Acc#{D => maps:get(D, Acc, 0) + 1} end,
                                        #{}, maps:values(In)))).

%% Mean over the nodes of the share of pairs of neighbours that are neighbours of each other.
-spec clustering(graph()) -> float().
clustering(Graph) ->
    lists:sum([coefficient(Ns, Graph) || Ns <- maps:values(Graph)]) / map_size(Graph).

coefficient(Ns, _) when length(Ns) < 2 ->
    0.0;
coefficient(Ns, Graph) ->
    Links = length([x || A <- Ns, B <- maps:get(A, Graph, []), lists:member(B, Ns)]),
    Links / (length(Ns) * (length(Ns) - 1)).

%% Mean shortest path from the given nodes to all others.
-spec paths([node()], graph()) -> float().
paths(Sources, Graph) ->
    All = [D || S <- Sources, D <- maps:values(reach(S, Graph)), D > 0],
    lists:sum(All) / length(All).
