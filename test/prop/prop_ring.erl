%% The ring of docs/overlays.md: one property for what it is, one for what it survives.
-module(prop_ring).

-include("pt_proper.hrl").

-import(proper_types, [choose/2, list/1, oneof/1]).

-export([prop_ring/0, prop_leave/0]).

%% Whatever happened to it: when all is quiet, each node's neighbours are the ones beside it.
prop_ring() ->
    ?FORALL({Seed, N, Ops}, {choose(1, 1 bsl 30), choose(1, 10), list(operation())},
            begin
                Sim = lists:foldl(fun(Op, S) -> pt_sim:run(500, operate(Op, N, S)) end,
                                  joined(N, Seed), Ops),
                is_ring(pt_sim:run(30000, pt_sim:mend(Sim)))
            end).

operation() ->
    oneof([{kill, choose(2, 10)}, {restart, choose(1, 10)}, {cut, choose(1, 10)}, mend]).

operate({kill, I}, _, S) -> pt_sim:kill([name(I)], S);
operate({restart, I}, _, S) ->
    %% A new node of that name, which is told where to go.
    case pt_sim:is_alive(name(I), S) of
        false when I > 1 -> pt_sim:join(name(I), name(1), pt_sim:start(name(I), S));
        _ -> S
    end;
operate({cut, I}, N, S) -> pt_sim:cut(tuple_to_list(lists:split(min(I, N), names(N))), S);
operate(mend, _, S) -> pt_sim:mend(S).

%% Nobody believes in a node that left, and it can come back.
prop_leave() ->
    ?FORALL({Seed, N}, {choose(1, 1 bsl 30), choose(3, 10)},
            begin
                Leaver = name(2),
                Sim0 = pt_sim:run(10000, joined(N, Seed)),
                Sim1 = pt_sim:run(10000, pt_sim:tell(Leaver, overlay, {leave, Leaver}, Sim0)),
                Others = [pt_sim:neighbours(A, Sim1) || A <- names(N) -- [Leaver]],
                Sim2 = pt_sim:run(70000, pt_sim:join(Leaver, name(1), pt_sim:run(60000, Sim1))),
                pt_sim:neighbours(Leaver, Sim1) =:= []
                    andalso not lists:member(Leaver, lists:append(Others))
                    andalso is_ring(Sim2)
            end).

joined(N, Seed) ->
    Sim0 = pt_sim:new(#{overlay => {partisan_ring, #{}}, seed => Seed, dial_timeout => 2000}),
    lists:foldl(fun(A, S) -> pt_sim:run(10, pt_sim:join(A, name(1), pt_sim:start(A, S))) end,
                pt_sim:start(name(1), Sim0), tl(names(N))).

is_ring(Sim) ->
    Alive = pt_sim:alive(Sim),
    lists:all(fun({A, Beside}) -> pt_sim:neighbours(A, Sim) =:= Beside end, beside(Alive)).

beside([A]) -> [{A, []}];
beside(Alive) ->
    [{A, lists:usort([Before, After])}
     || {Before, A, After} <- lists:zip3([lists:last(Alive) | lists:droplast(Alive)], Alive,
                                         tl(Alive) ++ [hd(Alive)])].

names(N) -> [name(I) || I <- lists:seq(1, N)].

name(I) -> list_to_atom("n" ++ integer_to_list(100 + I)).
