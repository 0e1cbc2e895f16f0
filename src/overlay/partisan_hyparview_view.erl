%% The state of partisan_hyparview: views, links and effects, and what every part of it does to them.
-module(partisan_hyparview_view).

-export([activate/3, to_passive/2, lives/2, remember/2, has_place/2, is_reserved/2, active/1, active_specs/1, taken/1,
         get_link/2, put_link/3, take_link/2, state_of/2, drain/4, close/3, emit/2, send/3,
         spread/3, notify/2, members/1, after_ms/3, cancel/2, done/1, first_tick/3, tick/3, early_tick/3, pick/2,
         some/3]).

-include("partisan_hyparview.hrl").

%% --- views ------------------------------------------------------------------------------------------

%% Into the active view, with somebody put out if it is full. Its own word brought it here.
-spec activate(node(), spec(), hpv()) -> hpv().
activate(Name, Spec, #hpv{opt = #{active_max_size := Max}} = S0) ->
    S1 = lives(Name, S0#hpv{passive = orddict:erase(Name, S0#hpv.passive)}),
    case get_link(Name, S1) of
        #link{state = active} = L ->
            put_link(Name, L#link{spec = Spec}, S1);
        Before ->
            S2 = case Before of
                     #link{state = requested} -> cancel({request, Name}, S1);
                     none -> S1
                 end,
            S3 = evict(length(active(S2)) - Max + 1, S2),
            S = put_link(Name, #link{state = active, spec = Spec},
                         S3#hpv{joining = orddict:erase(Name, S3#hpv.joining)}),
            members(notify({neighbour_up, Spec}, S))
    end.

%% Those in a reserved place stay, unless there are none but such.
evict(N, S) when N =< 0 ->
    S;
evict(N, S0) ->
    Active = active_specs(S0),
    {Kept, Free} = lists:partition(fun(Spec) -> is_reserved(Spec, S0) end, Active),
    {{value, #{name := Name} = Spec}, S1} = pick(case Free of [] -> Kept; _ -> Free end, S0),
    S2 = drain(Name, get_link(Name, S1), demoted, S1),
    evict(N - 1, to_passive(Spec, S2)).

-spec to_passive(spec(), hpv()) -> hpv().
to_passive(#{name := Name}, #hpv{name = Name} = S) ->
    S;
to_passive(#{name := Name} = Spec, #hpv{passive = Passive, opt = #{passive_max_size := Max}} = S) ->
    case state_of(Name, S) of
        State when State =:= active; State =:= requested ->
            S;
        _ ->
            case orddict:is_key(Name, Passive) orelse length(Passive) < Max of
                true -> S#hpv{passive = orddict:store(Name, Spec, Passive)};
                false when Max =:= 0 -> S;
                false -> to_passive(Spec, drop_passive(S))
            end
    end.

%% What was offered to others goes first: they have it now.
drop_passive(#hpv{passive = Passive, shuffled = Shuffled} = S) ->
    case [N || N <- Shuffled, orddict:is_key(N, Passive)] of
        [N | Rest] ->
            drop_passive(N, S#hpv{shuffled = Rest});
        [] ->
            {{value, {N, _}}, S1} = pick(Passive, S),
            drop_passive(N, S1#hpv{shuffled = []})
    end.

drop_passive(Name, #hpv{passive = Passive} = S) ->
    remember(orddict:fetch(Name, Passive), S#hpv{passive = orddict:erase(Name, Passive)}).

%% A sign of life from itself.
-spec lives(node(), hpv()) -> hpv().
lives(Name, #hpv{lost = Lost, remembered = R} = S) ->
    S#hpv{lost = orddict:erase(Name, Lost), remembered = partisan_hyparview_remembered:forget(Name, R)}.

%% For when the passive view is exhausted.
-spec remember(spec(), hpv()) -> hpv().
remember(Spec, #hpv{remembered = R} = S) ->
    S#hpv{remembered = partisan_hyparview_remembered:add(Spec, R)}.

%% Is there a place for a node that asks with priority low?
-spec has_place(spec(), hpv()) -> boolean().
has_place(Spec, #hpv{opt = #{active_max_size := Max}} = S) ->
    Held = length(S#hpv.reserved) - length([Sp || Sp <- active_specs(S), is_reserved(Sp, S)]),
    case is_reserved(Spec, S) of
        true -> taken(S) < Max;
        false -> taken(S) + max(0, Held) < Max
    end.

%% Has its tag a place of its own?
-spec is_reserved(spec(), hpv()) -> boolean().
is_reserved(#{tag := Tag}, #hpv{reserved = Reserved}) -> lists:member(Tag, Reserved);
is_reserved(_, _) -> false.

%% The active view, in order.
-spec active(hpv()) -> [node()].
active(#hpv{links = Links}) ->
    [N || {N, #link{state = active}} <- Links].

-spec active_specs(hpv()) -> [spec()].
active_specs(#hpv{links = Links}) ->
    [Spec || {_, #link{state = active, spec = Spec}} <- Links].

%% Places that are filled or spoken for.
-spec taken(hpv()) -> non_neg_integer().
taken(#hpv{links = Links}) ->
    length([N || {N, #link{state = St}} <- Links, St =:= active orelse St =:= requested]).

%% --- links ------------------------------------------------------------------------------------------

-spec get_link(node(), hpv()) -> #link{} | none.
get_link(Name, #hpv{links = Links}) ->
    case lists:keyfind(Name, 1, Links) of
        {_, L} -> L;
        false -> none
    end.

-spec put_link(node(), #link{}, hpv()) -> hpv().
put_link(Name, L, #hpv{links = Links} = S) ->
    S#hpv{links = orddict:store(Name, L, Links)}.

-spec take_link(node(), hpv()) -> {#link{}, hpv()} | none.
take_link(Name, #hpv{links = Links} = S) ->
    case lists:keytake(Name, 1, Links) of
        {value, {_, L}, Rest} -> {L, S#hpv{links = Rest}};
        false -> none
    end.

-spec state_of(node(), hpv()) -> requested | active | draining | closing | none.
state_of(Name, S) ->
    case get_link(Name, S) of
        #link{state = State} -> State;
        none -> none
    end.

%% Out of the active view; the link stays until the other side has said goodbye.
-spec drain(node(), #link{}, Why :: atom(), hpv()) -> hpv().
drain(Name, #link{state = Before} = L, Why, S0) ->
    S1 = put_link(Name, L#link{state = draining}, S0),
    S2 = case Before =:= active andalso state_of(Name, S0) =:= active of
             true -> members(notify({neighbour_down, Name, Why}, S1));
             false -> S1
         end,
    after_ms({drain, Name}, maps:get(drain_timeout, S2#hpv.opt), send(Name, {disconnect, Why}, S2)).

%% The end of a link is told by {down, _, _}; until then nothing new is begun with that node.
-spec close(node(), #link{}, hpv()) -> hpv().
close(Name, L, S) ->
    emit({disconnect, Name},
         put_link(Name, L#link{state = closing}, cancel({drain, Name}, S))).

%% --- effects ----------------------------------------------------------------------------------------

%% Effects are kept newest first until done/1.
-spec emit(partisan_overlay:effect(), hpv()) -> hpv().
emit(Effect, #hpv{out = Out} = S) -> S#hpv{out = [Effect | Out]}.

-spec send(node(), term(), hpv()) -> hpv().
send(To, Msg, S) -> emit({send, To, Msg}, S).

-spec spread(term(), [node()], hpv()) -> hpv().
spread(Msg, To, S) -> lists:foldl(fun(N, Acc) -> send(N, Msg, Acc) end, S, To).

-spec notify(partisan_overlay:notice(), hpv()) -> hpv().
notify(What, S) -> emit({notify, What}, S).

-spec members(hpv()) -> hpv().
members(S) -> emit({members, [S#hpv.self | active_specs(S)]}, S).

-spec after_ms(term(), non_neg_integer(), hpv()) -> hpv().
after_ms(Name, Ms, S) -> emit({timer, Name, Ms}, S).

-spec cancel(term(), hpv()) -> hpv().
cancel(Name, S) -> emit({cancel, Name}, S).

-spec done(hpv()) -> {hpv(), [partisan_overlay:effect()]}.
done(#hpv{out = Out} = S) ->
    {S#hpv{out = []}, lists:reverse(Out)}.

%% Key: the option that has the interval of the timer Name.
-spec first_tick(Name :: atom(), Key :: atom(), hpv()) -> hpv().
first_tick(Name, Key, #hpv{opt = Opt, rand = Rand0} = S) ->
    {Ms, Rand} = rand:uniform_s(maps:get(Key, Opt), Rand0),
    after_ms(Name, Ms, S#hpv{rand = Rand}).

-spec tick(Name :: atom(), Key :: atom(), hpv()) -> hpv().
tick(Name, Key, #hpv{opt = Opt, rand = Rand0} = S) ->
    {Ms, Rand} = partisan_sample:jitter(maps:get(Key, Opt), Rand0),
    after_ms(Name, Ms, S#hpv{rand = Rand}).

%% As tick/3, but sooner while the node is new: when many join at the same moment, nobody knows names to
%% fill its view with. The time since the join is waited once more, so that is four rounds more in all.
-spec early_tick(Name :: atom(), Key :: atom(), hpv()) -> hpv().
early_tick(Name, Key, #hpv{opt = Opt, joined = Joined, now = Now, rand = Rand0} = S) ->
    Usual = maps:get(Key, Opt),
    case Joined =/= none andalso max(Usual div 16, Now - Joined) of
        Ms when is_integer(Ms), Ms < Usual ->
            {K, Rand} = rand:uniform_s(Ms + 1, Rand0),
            after_ms(Name, Ms div 2 + K, S#hpv{rand = Rand});
        _ ->
            tick(Name, Key, S)
    end.

%% --- chance -----------------------------------------------------------------------------------------

-spec pick([T], hpv()) -> {{value, T} | none, hpv()}.
pick(List, #hpv{rand = Rand0} = S) ->
    {Found, Rand} = partisan_sample:one(List, Rand0),
    {Found, S#hpv{rand = Rand}}.

-spec some(non_neg_integer(), [T], hpv()) -> {[T], hpv()}.
some(0, _, S) ->
    {[], S};
some(N, List, #hpv{rand = Rand0} = S) ->
    {Found, Rand} = partisan_sample:some(N, List, Rand0),
    {Found, S#hpv{rand = Rand}}.
