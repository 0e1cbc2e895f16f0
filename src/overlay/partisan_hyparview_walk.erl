%% Of partisan_hyparview: what goes from node to node at random, joins and shuffles.
-module(partisan_hyparview_walk).

-export([forward_join/4, shuffle/1, shuffled/5, integrate/2]).

-include("partisan_hyparview.hrl").

-import(partisan_hyparview_view,
        [active/1, active_specs/1, lives/2, pick/2, send/3, some/3, to_passive/2]).
-import(partisan_hyparview_repair,
        [request/4]).

%% A join on its way: into the passive view at passive_rwl hops, into the active one at the last.
-spec forward_join(spec(), Ttl :: integer(), From :: node(), hpv()) -> hpv().
forward_join(#{name := Name}, _, _, #hpv{name = Name} = S) ->
    S;
forward_join(#{name := Name} = Spec, Ttl, From, S0) ->
    S1 = lives(Name, S0),
    S2 = case Ttl =:= maps:get(passive_rwl, S1#hpv.opt) of
             true -> to_passive(Spec, S1);
             false -> S1
         end,
    {Next, S} = pick(active(S2) -- [From, Name], S2),
    case Next of
        {value, N} when Ttl > 0 -> send(N, {forward_join, Spec, Ttl - 1}, S);
        _ -> request(Spec, high, again, S)
    end.

%% Offers some of both views to somebody some hops away, for some of that one's.
-spec shuffle(hpv()) -> hpv().
shuffle(#hpv{opt = #{shuffle_k_active := Ka, shuffle_k_passive := Kp}} = S0) ->
    {Target, S1} = pick(active(S0), S0),
    case Target of
        none ->
            S1;
        {value, N} ->
            {FromActive, S2} = some(Ka, [Sp || #{name := A} = Sp <- active_specs(S1), A =/= N], S1),
            {FromPassive, S} = some(Kp, [Sp || {_, Sp} <- S2#hpv.passive], S2),
            send(N, {shuffle, [S#hpv.self | FromActive ++ FromPassive],
                     maps:get(active_rwl, S#hpv.opt), [S#hpv.name]},
                 S#hpv{shuffled = [P || #{name := P} <- FromPassive]})
    end.

%% Path: the nodes it has passed, newest first; the answer goes back that way.
-spec shuffled([spec()], Ttl :: integer(), Path :: [node()], From :: node(), hpv()) -> hpv().
shuffled(Specs, Ttl, Path, From, S0) ->
    {Next, S1} = pick(active(S0) -- [From | Path], S0),
    case Next of
        {value, N} when Ttl > 1 ->
            send(N, {shuffle, Specs, Ttl - 1, [S1#hpv.name | Path]}, S1);
        _ ->
            {Reply, S} = some(length(Specs), [Sp || {_, Sp} <- S1#hpv.passive], S1),
            integrate(Specs, send(From, {shuffle_reply, Reply, Path},
                                  S#hpv{shuffled = [N || #{name := N} <- Reply]}))
    end.

%% Rumours bring no lost node back, nor one that did not answer lately.
-spec integrate([spec()], hpv()) -> hpv().
integrate(Specs, S) ->
    lists:foldl(fun(#{name := N} = Spec, Acc) ->
                        case orddict:is_key(N, Acc#hpv.lost)
                            orelse partisan_hyparview_remembered:waits(N, Acc#hpv.now, Acc#hpv.remembered) of
                            true -> Acc;
                            false -> to_passive(Spec, Acc)
                        end
                end, S, Specs).
