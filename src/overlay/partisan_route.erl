%% The link-state map of an overlay: who has links with whom, as each node said last, and the
%% shortest ways that follow from it. Pure data; partisan_overlay_routed spreads it.
%%
%% A node's word is {Node, Version, Links}; the higher version counts. A link counts when both its
%% ends say so: the end that sees it fail first is enough to take it off the map. Our own links are
%% what we see ourselves, whatever the other end has said so far.
%%
%% Loops: each node sends on to a neighbour that is nearer by its map. With equal maps every hop is
%% one link nearer, so no message passes a node twice; while maps differ a message may run in a
%% circle, which is what the hop limit of a relayed message is for.
%%
%% Cost: a node's word is some 170 bytes for six links; routes/1 goes over every link once, 0.4 ms for
%% a thousand nodes with six links each.
-module(partisan_route).

-export([new/2, local/2, own/1, learn/2, is_known/3, find/2, words/2, lacking/2, digest/1, hash/1,
         routes/1, alternatives/1, reachable/1, forget/2, is_word/1, is_digest/1]).

-export_type([t/0, word/0, version/0]).

%% When the node started, and a count since.
-type version() :: {Incarnation :: integer(), non_neg_integer()}.
-type word() :: {node(), version(), [node()]}.

-record(route, {self :: node(),
                words = #{} :: #{node() => {version(), [node()]}}}).

-opaque t() :: #route{}.

%% Incarnation must grow from one start of the node to the next: the time will do.
-spec new(node(), integer()) -> t().
new(Self, Incarnation) ->
    #route{self = Self, words = #{Self => {{Incarnation, 0}, []}}}.

%% Our links are these now: the word to spread.
-spec local([node()], t()) -> {word(), t()}.
local(Links, #route{self = Self, words = Words} = R) ->
    #{Self := {{Incarnation, Count}, _}} = Words,
    Word = {{Incarnation, Count + 1}, lists:usort(Links)},
    {word(Self, Word), R#route{words = Words#{Self := Word}}}.

-spec own(t()) -> word().
own(#route{self = Self, words = Words}) ->
    word(Self, maps:get(Self, Words)).

%% `mine`: somebody spreads a word of ours that we did not say (the clock went back between two
%% starts); the next local/2 is above it and has to be spread.
-spec learn(term(), t()) -> {new | old | mine, t()}.
learn({Self, {Incarnation, Count} = Theirs, _}, #route{self = Self, words = Words} = R)
  when is_integer(Incarnation), is_integer(Count) ->
    #{Self := {Ours, Links}} = Words,
    case Theirs > Ours of
        true -> {mine, R#route{words = Words#{Self := {Theirs, Links}}}};
        false -> {old, R}
    end;
learn({Node, {Incarnation, Count} = Version, Links}, #route{words = Words} = R)
  when is_atom(Node), is_integer(Incarnation), is_integer(Count), is_list(Links) ->
    case is_known(Node, Version, R) of
        true -> {old, R};
        false -> {new, R#route{words = Words#{Node => {Version, Links}}}}
    end;
learn(_, R) ->
    {old, R}.

-spec is_word(term()) -> boolean().
is_word({Node, Version, Links}) ->
    is_version({Node, Version}) andalso partisan_overlay_shape:is_names(Links);
is_word(_) ->
    false.

-spec is_digest(term()) -> boolean().
is_digest(Digest) -> partisan_overlay_shape:all(fun is_version/1, Digest).

is_version({Node, {Incarnation, Count}}) ->
    is_atom(Node) andalso is_integer(Incarnation) andalso is_integer(Count);
is_version(_) ->
    false.

%% That word, or a later one.
-spec is_known(node(), version(), t()) -> boolean().
is_known(Node, Version, #route{words = Words}) ->
    case Words of
        #{Node := {Have, _}} -> Have >= Version;
        #{} -> false
    end.

-spec find(node(), t()) -> {ok, word()} | error.
find(Node, #route{words = Words}) ->
    case Words of
        #{Node := Word} -> {ok, word(Node, Word)};
        #{} -> error
    end.

-spec words([node()], t()) -> [word()].
words(Nodes, R) ->
    [Word || N <- Nodes, {ok, Word} <- [find(N, R)]].

%% Two maps compared by their digests: the words that the other lacks, the names that we lack.
-spec lacking([{node(), version()}], t()) -> {[word()], [node()]}.
lacking(Digest, #route{words = Words} = R) ->
    Theirs = maps:from_list(Digest),
    {[word(N, W) || {N, {V, _} = W} <- lists:sort(maps:to_list(Words)),
                    not is_map_key(N, Theirs) orelse map_get(N, Theirs) < V],
     [N || {N, V} <- Digest, not is_known(N, V, R)]}.

-spec digest(t()) -> [{node(), version()}].
digest(#route{words = Words}) ->
    lists:sort([{N, V} || {N, {V, _}} <- maps:to_list(Words)]).

-spec hash(t()) -> non_neg_integer().
hash(R) ->
    erlang:phash2(digest(R), 1 bsl 32).

%% The neighbour to give a message for each node to; neighbours themselves are not in it.
-spec routes(t()) -> #{node() => node()}.
routes(#route{self = Self} = R) ->
    maps:filter(fun(Node, Via) -> Node =/= Via andalso Node =/= Self end, ways(R)).

%% For each node the neighbours from which there is a way to it that does not lead back over this node,
%% the nearest first; of neighbours that are equally near, the smaller name. For when the neighbour that
%% routes/1 names is lost: the others have not heard of it yet.
-spec alternatives(t()) -> #{node() => [node()]}.
alternatives(#route{self = Self, words = Words}) ->
    #{Self := {_, Links}} = Words,
    Graph = maps:map(fun(Node, {_, Ls}) -> [L || L <- Ls, L =/= Self, says(L, Node, Words)] end,
                     maps:remove(Self, Words)),
    Found = lists:foldl(fun(Link, Acc) -> distances([Link], 0, #{Link => []}, Link, Graph, Acc) end,
                        #{}, Links),
    maps:map(fun(_, Ways) -> [Link || {_, Link} <- lists:sort(Ways)] end, Found).

distances([], _, _, _, _, Found) ->
    Found;
distances(Front, Hops, Seen0, Link, Graph, Found0) ->
    Found = lists:foldl(fun(Node, Acc) ->
                                Acc#{Node => [{Hops, Link} | maps:get(Node, Acc, [])]}
                        end, Found0, Front),
    {Next, Seen} = lists:foldl(fun(Node, {Ns, Sn}) when not is_map_key(Node, Sn) ->
                                       {[Node | Ns], Sn#{Node => []}};
                                  (_, Old) ->
                                       Old
                               end, {[], Seen0},
                               lists:append([maps:get(Node, Graph, []) || Node <- Front])),
    distances(Next, Hops + 1, Seen, Link, Graph, Found).

%% All nodes there is a way to, this one among them.
-spec reachable(t()) -> [node()].
reachable(R) ->
    lists:sort(maps:keys(ways(R))).

%% Breadth first: Via is handed down from the first link.
ways(#route{self = Self, words = Words}) ->
    #{Self := {_, Links}} = Words,
    First = [{L, L} || L <- Links],
    walk(First, maps:from_list([{Self, Self} | First]), Words).

walk([], Seen, _) ->
    Seen;
walk(Front, Seen0, Words) ->
    {Next, Seen} =
        lists:foldl(
          fun({Node, Via}, Acc) ->
                  lists:foldl(
                    fun(L, {Ns, Sn}) when not is_map_key(L, Sn) ->
                            case says(L, Node, Words) of
                                true -> {[{L, Via} | Ns], Sn#{L => Via}};
                                false -> {Ns, Sn}
                            end;
                       (_, Old) ->
                            Old
                    end, Acc, links(Node, Words))
          end, {[], Seen0}, Front),
    walk(lists:reverse(Next), Seen, Words).

links(Node, Words) ->
    case Words of
        #{Node := {_, Links}} -> Links;
        #{} -> []
    end.

says(Node, Other, Words) ->
    lists:member(Other, links(Node, Words)).

%% Without the words of those.
-spec forget([node()], t()) -> t().
forget(Nodes, #route{self = Self, words = Words} = R) ->
    R#route{words = maps:without(lists:delete(Self, Nodes), Words)}.

word(Node, {Version, Links}) -> {Node, Version, Links}.
