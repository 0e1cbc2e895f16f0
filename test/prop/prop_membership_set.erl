%% Replicas of the membership set, with messages that are late, doubled, lost and out of order, node
%% restarts, leaves, and tombstones collected on the way, against a model that knows everything.
-module(prop_membership_set).

-include("pt_proper.hrl").

-import(proper_types, [frequency/1, integer/2, list/1, oneof/1]).

-export([prop_replicas_converge/0, prop_merge_is_a_join/0, prop_hash/0]).

-define(KEEP, 100). % ms that a message may be on its way

%% Whatever happened, once everybody has talked to everybody all replicas hold what the model does;
%% no replica ever takes a node for a member in an incarnation that left, after it knew better; and
%% when that is so for long enough, no tombstone is left.
prop_replicas_converge() ->
    ?FORALL({Size, Commands}, {integer(2, 5), list(command())},
        begin
            World = lists:foldl(fun step/2, world(Size), Commands),
            Talked = settle(World),
            Old = settle(later(settle(later(Talked)))),
            ?WHENFAIL(io:format("commands ~p~nend ~p~n", [Commands, Talked]),
                      agree(Talked) andalso agree(Old) andalso clean(Old))
        end).

command() ->
    frequency([{2, {restart, node_no()}},
               {3, {leave, node_no(), node_no()}},
               {6, {send, node_no(), node_no()}},
               {6, {talk, node_no(), node_no()}},
               {8, {deliver, integer(1, 50)}},
               {2, {lose, integer(1, 50)}},
               {2, {double, integer(1, 50)}},
               {3, {wait, oneof([1, 10, ?KEEP + 1])}},
               {4, {collect, node_no()}}]).

node_no() -> integer(1, 5).

%% replicas: name => set; model: name => {incarnation, up | left}; bag: [{sent, to, items}]
world(Size) ->
    Names = [name(N) || N <- lists:seq(1, Size)],
    Replicas = maps:from_list([{Name, partisan_membership_set:new(Name, 1, spec(Name, 1))}
                               || Name <- Names]),
    Model = maps:from_list([{Name, {1, up}} || Name <- Names]),
    %% As after a join: everybody has heard of everybody.
    All = lists:append([partisan_membership_set:take_all(S) || S <- maps:values(Replicas)]),
    #{now => 0, names => Names, model => Model, bag => [],
      replicas => maps:map(fun(_, S) -> element(2, partisan_membership_set:merge(All, S)) end,
                           Replicas)}.

name(N) -> list_to_atom("n" ++ integer_to_list(N)).
spec(Name, Incarnation) -> #{name => Name, incarnation => Incarnation}.

pick(N, #{names := Names}) -> lists:nth((N - 1) rem length(Names) + 1, Names).

%% A node that starts again knows nothing but a higher incarnation, and asks a member to let it in.
%% What was on its way to it is lost with the connection.
step({restart, N}, #{model := Model, replicas := Replicas, bag := Bag} = World) ->
    Name = pick(N, World),
    case alone_knows(Name, World) of
        true ->
            World;
        false ->
            {Old, _} = maps:get(Name, Model),
            Set = partisan_membership_set:new(Name, Old + 1, spec(Name, Old + 1)),
            entered(Name, World#{model := Model#{Name := {Old + 1, up}},
                                 replicas := Replicas#{Name := Set},
                                 bag := [Message || {_, To, _} = Message <- Bag, To =/= Name]})
    end;
%% A takes B out, or B leaves and tells A. From then on B takes no part, until it starts again.
step({leave, N, M}, #{model := Model, replicas := Replicas} = World) ->
    {A, B} = {pick(N, World), pick(M, World)},
    #{A := Set} = Replicas,
    case {maps:get(B, Model), A =/= B andalso partisan_membership_set:lookup(B, Set)} of
        {{Incarnation, up}, {Incarnation, up}} ->
            Left = partisan_membership_set:leave(B, Set),
            case alive(A, World) andalso not alone_knows(B, World) of
                true ->
                    World#{model := Model#{B := {Incarnation, left}},
                           replicas := Replicas#{A := Left}};
                false ->
                    World
            end;
        _ ->
            World
    end;
step({send, N, M}, #{replicas := Replicas, bag := Bag, now := Now} = World) ->
    {A, B} = {pick(N, World), pick(M, World)},
    case alive(A, World) of
        true ->
            Items = partisan_membership_set:take_all(maps:get(A, Replicas)),
            World#{bag := [{Now, B, Items} | Bag]};
        false ->
            World
    end;
step({talk, N, M}, World) ->
    {A, B} = {pick(N, World), pick(M, World)},
    case A =/= B andalso alive(A, World) andalso alive(B, World) of
        true -> talk(A, B, World);
        false -> World
    end;
step({deliver, K}, #{bag := Bag} = World) ->
    case take_out(K, Bag) of
        {{_, To, Items}, Rest} -> receives(To, Items, World#{bag := Rest});
        none -> World
    end;
step({lose, K}, #{bag := Bag} = World) ->
    case take_out(K, Bag) of
        {_, Rest} -> World#{bag := Rest};
        none -> World
    end;
step({double, K}, #{bag := Bag} = World) ->
    case take_out(K, Bag) of
        {Message, _} -> World#{bag := [Message | Bag]};
        none -> World
    end;
step({wait, Ms}, #{now := Now, bag := Bag} = World) ->
    World#{now := Now + Ms,
           bag := [Message || {Sent, _, _} = Message <- Bag, Now + Ms - Sent =< ?KEEP]};
step({collect, N}, #{replicas := Replicas, now := Now} = World) ->
    Name = pick(N, World),
    #{Name := Set} = Replicas,
    World#{replicas := Replicas#{Name := partisan_membership_set:collect(Now, ?KEEP, Set)}}.

take_out(_K, []) -> none;
take_out(K, Bag) ->
    {Before, [Message | After]} = lists:split((K - 1) rem length(Bag), Bag),
    {Message, Before ++ After}.

%% The overlay's part of a join: somebody who is there and the node that comes talk.
entered(Name, #{names := Names} = World) ->
    case [Other || Other <- Names, Other =/= Name, alive(Other, World)] of
        [Other | _] -> talk(Name, Other, World);
        [] -> World
    end.

%% Of some node that left, nobody else that takes part has the tombstone, and somebody would need it:
%% what one node alone knows is lost with it, which no replica can mend.
alone_knows(Name, #{names := Names, model := Model, replicas := Replicas} = World) ->
    Sees = fun(Other, Left) -> partisan_membership_set:lookup(Left, maps:get(Other, Replicas)) end,
    Others = [Other || Other <- Names, Other =/= Name, alive(Other, World)],
    lists:any(fun({Left, {Incarnation, left}}) ->
                      Sees(Name, Left) =:= {Incarnation, left}
                          andalso not lists:any(fun(O) -> Sees(O, Left) =:= {Incarnation, left} end,
                                                Others)
                          andalso lists:any(fun(O) -> is_up(Sees(O, Left)) end, Others);
                 (_) ->
                      false
              end, maps:to_list(Model)).

is_up({_, up}) -> true;
is_up(_) -> false.

alive(Name, #{model := Model}) -> element(2, maps:get(Name, Model)) =:= up.

receives(To, Items, #{replicas := Replicas} = World) ->
    #{To := Set} = Replicas,
    {Changes, Merged} = partisan_membership_set:merge(Items, Set),
    %% No node comes back in the incarnation in which it left.
    [begin
         {Before, BeforeState} = known(partisan_membership_set:lookup(Name, Set)),
         {After, up} = partisan_membership_set:lookup(Name, Merged),
         true = After > Before orelse BeforeState =:= none
     end || {What, Name} <- Changes, What =:= added orelse What =:= renewed],
    World#{replicas := Replicas#{To := Merged}}.

known(none) -> {-1, none};
known(Known) -> Known.

%% One whole exchange, as the overlay does it: hash, summary, what is newer, what is wanted.
talk(A, B, #{replicas := Replicas} = World) ->
    #{A := SetA, B := SetB} = Replicas,
    case partisan_membership_set:hash(SetA) =:= partisan_membership_set:hash(SetB) of
        true ->
            World#{replicas := Replicas#{A := partisan_membership_set:confirm(B, SetA),
                                         B := partisan_membership_set:confirm(A, SetB)}};
        false ->
            Summary = partisan_membership_set:summary(SetB),
            Confirmed = partisan_membership_set:confirm(B, Summary, SetA),
            {Newer, Wanted} = partisan_membership_set:compare(Summary, Confirmed),
            World1 = receives(B, Newer, World#{replicas := Replicas#{A := Confirmed}}),
            #{replicas := #{B := SetB1}} = World1,
            receives(A, partisan_membership_set:take(Wanted, SetB1), World1)
    end.

settle(#{names := Names} = World0) ->
    Alive = [Name || Name <- Names, alive(Name, World0)],
    Pairs = [{A, B} || A <- Alive, B <- Alive, A =/= B],
    %% Three rounds: to hear of all, to tell all, and to see that all hold it.
    lists:foldl(fun({A, B}, World) -> talk(A, B, World) end, World0#{bag := []},
                Pairs ++ Pairs ++ Pairs).

later(World0) ->
    #{names := Names} = World = step({wait, ?KEEP + 1}, World0),
    lists:foldl(fun(N, Acc) -> step({collect, N}, Acc) end, World, lists:seq(1, length(Names))).

agree(#{names := Names, model := Model, replicas := Replicas} = World) ->
    Expected = lists:sort([Name || Name <- Names, alive(Name, World)]),
    lists:all(fun(Name) ->
                      Set = maps:get(Name, Replicas),
                      partisan_membership_set:names(Set) =:= Expected
                          andalso lists:all(fun(Member) ->
                                                    partisan_membership_set:lookup(Member, Set)
                                                        =:= maps:get(Member, Model)
                                            end, Expected)
              end, Expected).

clean(#{names := Names, replicas := Replicas} = World) ->
    lists:all(fun(Name) -> partisan_membership_set:tombstones(maps:get(Name, Replicas)) =:= 0 end,
              [Name || Name <- Names, alive(Name, World)]).

%% ------------------------------------------------------------------------------------------------

%% Any pieces, in any order and number, make the same set; and merging it all again changes nothing.
prop_merge_is_a_join() ->
    ?FORALL({Items, Seed}, {list(item()), integer(0, 1 bsl 20)},
        begin
            Set = partisan_membership_set:new(self, 1, spec(self, 1)),
            {_, One} = partisan_membership_set:merge(Items, Set),
            Shuffled = shuffle(Items ++ Items, Seed),
            Two = lists:foldl(fun(Piece, Acc) ->
                                      element(2, partisan_membership_set:merge([Piece], Acc))
                              end, Set, Shuffled),
            {Changes, One} = partisan_membership_set:merge(Items, One),
            lists:sort(partisan_membership_set:take_all(One))
                =:= lists:sort(partisan_membership_set:take_all(Two))
                andalso partisan_membership_set:hash(One) =:= partisan_membership_set:hash(Two)
                andalso Changes =:= []
        end).

%% Equal hashes, equal contents; what compare/2 finds makes the contents equal.
prop_hash() ->
    ?FORALL({ItemsA, ItemsB}, {list(item()), list(item())},
        begin
            {_, A} = partisan_membership_set:merge(ItemsA, partisan_membership_set:new(x, 0, #{name => x})),
            {_, B} = partisan_membership_set:merge(ItemsB, partisan_membership_set:new(x, 0, #{name => x})),
            Same = lists:sort(partisan_membership_set:take_all(A))
                =:= lists:sort(partisan_membership_set:take_all(B)),
            {Newer, Wanted} = partisan_membership_set:compare(partisan_membership_set:summary(B), A),
            {_, A1} = partisan_membership_set:merge(partisan_membership_set:take(Wanted, B), A),
            {_, B1} = partisan_membership_set:merge(Newer, B),
            Same =:= (partisan_membership_set:hash(A) =:= partisan_membership_set:hash(B))
                andalso Same =:= ({Newer, Wanted} =:= {[], []})
                andalso partisan_membership_set:hash(A1) =:= partisan_membership_set:hash(B1)
        end).

item() ->
    ?LET({N, Incarnation, State}, {integer(1, 6), integer(1, 4), oneof([up, left])},
         case State of
             up -> {name(N), Incarnation, {up, spec(name(N), Incarnation)}};
             left -> {name(N), Incarnation, left}
         end).

shuffle(List, Seed) ->
    {Keyed, _} = lists:mapfoldl(fun(X, S0) ->
                                        {K, S} = rand:uniform_s(S0),
                                        {{K, X}, S}
                                end, rand:seed_s(exsss, Seed), List),
    [X || {_, X} <- lists:sort(Keyed)].
