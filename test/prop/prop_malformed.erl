%% Cores and peers of another version: some messages on the way between simulated nodes get a part
%% replaced by something else, often by a part of another message. Whatever that makes of them, a core
%% takes it or drops it, and goes on; and it drops nothing that was not changed.
-module(prop_malformed).

-include("pt_proper.hrl").

-import(proper_types, [choose/2, list/1]).

-export([prop_hyparview/0, prop_full_mesh/0, prop_client_server/0, prop_static/0, prop_ring/0,
         prop_plumtree/0]).
%% The overlay that pt_sim runs: the core, behind a wire that changes messages.
-export([init/4, handle/3, info/1]).

-record(s, {core, state, rand, seen = [] :: [term()]}).      % terms that came, to take parts of

%% Messages in a hundred that are changed.
-define(SHARE, 10).
-define(SEEN, 20).

%% With the tree and the map of routes around it.
prop_hyparview() ->
    survives(partisan_overlay_routed,
             fun(_) -> #{options => #{shuffle_interval => 500, random_promotion_interval => 300,
                                      heal_interval => 1000, active_max_size => 3,
                                      xbot_enabled => true, xbot_interval => 500},
                         tree => #{exchange_tick_period => 500, introduce => 10}} end).

prop_full_mesh() ->
    survives(partisan_overlay_full, fun(_) -> #{gossip_interval => 500, tombstone_keep => 1000} end).

prop_client_server() ->
    survives(partisan_overlay_client_server,
             fun(I) -> #{tag => case I =< 3 of true -> server; false -> client end} end).

prop_static() -> survives(partisan_overlay_static, fun(_) -> #{} end).

prop_ring() -> survives(partisan_ring, fun(_) -> #{} end).

survives(Core, Config) ->
    ?FORALL({Seed, N, Ops}, {choose(1, 1 bsl 30), choose(2, 8), list(choose(1, 16))},
            alive(fun() ->
                Names = [name(I) || I <- lists:seq(1, N)],
                Configs = maps:from_list([{name(I), Config(I)} || I <- lists:seq(1, N)]),
                Sim0 = pt_sim:new(#{overlay => {?MODULE, #{core => Core, configs => Configs}},
                                    seed => Seed}),
                Sim1 = lists:foldl(fun(Name, S) ->
                                           pt_sim:run(100, pt_sim:join(Name, hd(Names),
                                                                       pt_sim:start(Name, S)))
                                   end, pt_sim:start(hd(Names), Sim0), tl(Names)),
                Sim = lists:foldl(fun(I, S) -> pt_sim:run(1500, operate(I, Names, S)) end, Sim1, Ops),
                lists:foreach(fun(Name) -> pt_sim:overlay(Name, Sim) end, pt_sim:alive(Sim))
            end)).

%% This PropEr does not survive an exception itself.
alive(Fun) ->
    try Fun() of
        _ -> true
    catch
        Class:Reason:Stack -> ?WHENFAIL(io:format("~p:~p~n~p~n", [Class, Reason, Stack]), false)
    end.

%% Each node at random: starts anew, leaves, joins.
operate(I, Names, S) ->
    Name = lists:nth(1 + I rem length(Names), Names),
    case I rem 3 of
        0 -> pt_sim:restart(Name, S);
        1 -> pt_sim:tell(Name, overlay, {leave, Name}, S);
        2 -> pt_sim:join(Name, hd(Names), S)
    end.

%% The tree as partisan_plumtree_broadcast runs it.
prop_plumtree() ->
    ?FORALL({Seed, Ops}, {choose(1, 1 bsl 30), list({choose(1, 4), choose(0, 5)})},
            alive(fun() ->
                {S0, _} = partisan_plumtree:init(#{name => name(9)}, #{optimisation => 1}, 0,
                                                 rand:seed_s(exsss, Seed)),
                S1 = lists:foldl(fun(I, S) -> step({neighbour_up, #{name => name(I)}}, S) end, S0,
                                 lists:seq(1, 4)),
                {S, _} = lists:foldl(fun({I, K}, {S2, Rand0}) ->
                                             {Msg, Rand} = changed(message(K), [], Rand0),
                                             {heard(name(I), Msg, S2), Rand}
                                     end, {S1, rand:seed_s(exsss, Seed)}, Ops),
                partisan_plumtree:info(step({timer, lazy}, step({timer, exchange}, S)))
            end)).

step(Event, S) ->
    {S1, _} = partisan_plumtree:handle(Event, 1000, S),
    S1.

heard(From, Msg, S) ->
    case partisan_plumtree:well_formed(Msg) of
        true ->
            Answers = [case Q of
                           {graft, _, _} -> {ok, x};
                           _ -> erlang:phash2({From, Q}) rem 2 =:= 0
                       end || Q <- partisan_plumtree:questions(Msg)],
            step({msg, From, Msg, Answers}, S);
        false ->
            S
    end.

message(0) -> {payload, name(1), {test, 1}, 2, x};
message(1) -> {i_have, [{name(1), {test, 1}, 3}, {name(2), {test, 2}, 1}]};
message(2) -> {graft, name(1), {{test, 1}, 2}};
message(3) -> {graft, name(1), none};
message(4) -> {prune, name(2)};
message(5) -> {i_have, []}.

%% ------------------------------------------------------------------------------------------------

init(#{name := Name} = Self, #{core := Core, configs := Configs}, Now, Rand) ->
    Config = maps:get(Name, Configs),
    Incarnation = case Core of
                      partisan_overlay_routed -> #{incarnation => Now};
                      partisan_overlay_full -> #{incarnation => Now + 1};
                      _ -> #{}
                  end,
    {State, Effects} = Core:init(Self, maps:merge(Config, Incarnation), Now, Rand),
    {#s{core = Core, state = State, rand = Rand}, Effects}.

handle({msg, From, Term}, Now, #s{seen = Seen0, rand = Rand0} = S) ->
    Seen = lists:sublist([Term | Seen0], ?SEEN),
    case rand:uniform_s(100, Rand0) of
        {P, Rand} when P =< ?SHARE ->
            {Other, Rand1} = changed(Term, Seen, Rand),
            step({msg, From, Other}, Now, S#s{rand = Rand1, seen = Seen}, any);
        {_, Rand} ->
            step({msg, From, Term}, Now, S#s{rand = Rand, seen = Seen}, Term)
    end;
handle(Event, Now, S) ->
    step(Event, Now, S, any).

%% Meant: what was sent and came unchanged.
step(Event, Now, #s{core = Core, state = State0} = S, Meant) ->
    {State, Effects} = Core:handle(Event, Now, State0),
    Malformed = [E || {malformed, _} = E <- Effects],
    Malformed =:= [] orelse Meant =:= any orelse error({dropped, Meant}),
    {S#s{state = State}, Effects -- Malformed}.

info(#s{core = Core, state = State}) -> Core:info(State).

%% Term with one part of it replaced, or left out, or there twice.
changed(Term, Seen, Rand0) ->
    {Roll, Rand1} = rand:uniform_s(3, Rand0),
    Parts = [P || T <- Seen, P <- parts(T)],
    {New, Rand2} = case Roll =:= 1 orelse Parts =:= [] of
                       true -> one(junk(), Rand1);
                       false -> one(Parts, Rand1)
                   end,
    {At, Rand3} = rand:uniform_s(length(parts(Term)), Rand2),
    {How, Rand} = one([replace, replace, replace, drop, twice], Rand3),
    {_, Changed} = put_at(Term, At, How, New),
    {Changed, Rand}.

junk() ->
    [nobody, 'else@127.0.0.1', all, left, 0, -1, 1 bsl 70, 2.5, <<"x">>, [], [a | b], [[]], {}, {a}, #{},
     #{name => "x"}, #{name => n1, listen_addrs => [#{ip => {1, 2}, port => x}]}].

one(List, Rand0) ->
    {I, Rand} = rand:uniform_s(length(List), Rand0),
    {lists:nth(I, List), Rand}.

%% The term and all terms in it.
parts(T) when is_tuple(T) -> [T | parts_in(tuple_to_list(T))];
parts([_ | _] = T) -> [T | parts_in(T)];
parts(#{} = T) -> [T | parts_in(maps:values(T))];
parts(T) -> [T].

parts_in([First | Rest]) -> parts(First) ++ parts_in(Rest);
parts_in([]) -> [];
parts_in(Tail) -> parts(Tail).

%% {what is left to count, the term}.
put_at(_, 1, replace, New) -> {0, New};
put_at([First | Rest], 1, drop, _) when First =/= Rest -> {0, Rest};
put_at([First | Rest], 1, twice, _) -> {0, [First, First | Rest]};
put_at(T, 1, drop, _) when is_tuple(T), tuple_size(T) > 0 -> {0, erlang:delete_element(1, T)};
put_at(T, 1, twice, _) when is_tuple(T) -> {0, {T, T}};
put_at(_, 1, _, New) -> {0, New};
put_at(T, At, How, New) when is_tuple(T) ->
    {Left, List} = put_in(tuple_to_list(T), At - 1, How, New),
    {Left, list_to_tuple(List)};
put_at([_ | _] = T, At, How, New) ->
    put_in(T, At - 1, How, New);
put_at(#{} = T, At, How, New) ->
    {Left, Values} = put_in(maps:values(T), At - 1, How, New),
    {Left, maps:from_list(lists:zip(maps:keys(T), Values))};
put_at(T, At, _, _) ->
    {At - 1, T}.

put_in(List, 0, _, _) ->
    {0, List};
put_in([First | Rest], At, How, New) ->
    {Left, Changed} = put_at(First, At, How, New),
    {Left1, Others} = put_in(Rest, Left, How, New),
    {Left1, [Changed | Others]};
put_in([], At, _, _) ->
    {At, []};
put_in(Tail, At, How, New) ->
    put_at(Tail, At, How, New).

name(I) -> list_to_atom("n" ++ integer_to_list(I)).
