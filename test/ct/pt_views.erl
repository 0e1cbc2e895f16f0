%% What the suites of overlays ask of a cluster: who is linked with whom, and whether that is as it
%% should be.
-module(pt_views).

-export([graph/1, healthy/2, connected/1, is_ring/1, all_heard/2, copies/1, routed/1]).

-type graph() :: #{node() => [node()]}.

%% The neighbours of each, as it says itself.
-spec graph([pt_peer:peer()]) -> graph().
graph(Peers) ->
    maps:from_list([{pt_peer:node(P), pt_cluster:neighbours(P)} || P <- Peers]).

%% Everybody is reached over links; every link has two ends; nobody has more than Max, nor itself.
-spec healthy(pos_integer(), graph()) -> boolean().
healthy(Max, Graph) ->
    connected(Graph) andalso
        lists:all(fun({Node, Near}) ->
                          length(Near) =< Max andalso not lists:member(Node, Near)
                              andalso lists:all(fun(Other) ->
                                                        lists:member(Node, maps:get(Other, Graph, []))
                                                end, Near)
                  end, maps:to_list(Graph)).

%% Nodes that are no key of the graph (they are dead, or cut off) are no way.
-spec connected(graph()) -> boolean().
connected(Graph) ->
    [First | _] = maps:keys(Graph),
    map_size(reach([First], #{First => []}, Graph)) =:= map_size(Graph).

reach([], Seen, _) -> Seen;
reach([N | Rest], Seen, Graph) ->
    New = [M || M <- maps:get(N, Graph), is_map_key(M, Graph), not is_map_key(M, Seen)],
    reach(New ++ Rest, maps:merge(Seen, maps:from_keys(New, [])), Graph).

%% Everybody's neighbours are the ones before and after it in the order of names.
-spec is_ring(graph()) -> boolean().
is_ring(Graph) ->
    Names = lists:sort(maps:keys(Graph)),
    Beside = lists:zip3([lists:last(Names) | lists:droplast(Names)], Names, tl(Names) ++ [hd(Names)]),
    Graph =:= maps:from_list([{N, lists:usort([Before, After])} || {Before, N, After} <- Beside]).

%% Whether a message of pt_heard is at each of them.
all_heard(Id, Peers) ->
    lists:all(fun(P) -> lists:member(Id, pt_peer:call(P, pt_heard, heard, [])) end, Peers).

%% Copies of broadcasts beyond the first, of all together.
copies(Peers) ->
    lists:sum([pt_peer:call(P, pt_heard, copies, []) || P <- Peers]).

%% Whether each of them knows a way to each other, and to nobody else (overlays with routes).
routed(Peers) ->
    Names = pt_cluster:names(Peers),
    lists:all(fun(P) ->
                      #{known := Known} = pt_peer:call(P, partisan_overlay_shell, info, []),
                      Known =:= Names
              end, Peers).
