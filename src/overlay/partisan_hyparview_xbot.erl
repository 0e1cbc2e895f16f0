%% X-BOT (Leitao, Marques, Pereira, Rodrigues: X-BOT, SRDS 2009), if xbot_enabled: with a full view a
%% node now and then measures a passive one. If that is nearer than its farthest neighbour, four nodes
%% change partners: the initiator i gives up o for the candidate c, c gives up its own farthest, d,
%% and d takes o if o is nearer to it than c. Nobody's number of neighbours changes, every step is an
%% ordinary request, and wherever one fails the places are filled as after any loss. A node takes part
%% in one exchange at a time. The xbot_unbiased farthest stay: they keep the graph a random one.
-module(partisan_hyparview_xbot).

-export([look_around/1, measured/3, optimise/5, replace/4, switch/4, replaced/2, keep/2, freed/2,
         no_exchange/1]).

-include("partisan_hyparview.hrl").

-import(partisan_hyparview_view,
        [activate/3, active/1, active_specs/1, after_ms/3, cancel/2, drain/4, emit/2, get_link/2,
         has_place/2, is_reserved/2, pick/2, put_link/3, send/3, state_of/2, to_passive/2]).

%% i: measures its neighbours, and one node that might be a better one.
-spec look_around(hpv()) -> hpv().
look_around(#hpv{phase = member, exchange = none, opt = #{active_max_size := Max}} = S0) ->
    Near = active_specs(S0),
    case pick([Spec || {N, Spec} <- S0#hpv.passive, get_link(N, S0) =:= none], S0) of
        {{value, Candidate}, S} when length(Near) >= Max ->
            lists:foldl(fun(Spec, Acc) -> emit({measure, Spec}, Acc) end,
                        exchange({candidate, Candidate}, S), Near ++ [Candidate]);
        {_, S} ->
            S
    end;
look_around(S) ->
    S.

%% The answer to an effect `measure`.
-spec measured(node(), non_neg_integer() | term(), hpv()) -> hpv().
measured(Name, Time, #hpv{exchange = {candidate, #{name := Name} = Candidate}} = S0) ->
    S = over(S0),
    case farthest([], S) of
        {Far, Worst} when is_integer(Time), Time < Far, Candidate =/= Worst ->
            Ask = {optimise, S#hpv.self, Worst, Time},
            request_instead(Candidate, maps:get(name, Worst), Ask, S);
        _ ->
            S
    end;
measured(Name, Time, #hpv{exchange = {asked_for, C, #{name := Name} = Other, I}} = S) ->
    case S#hpv.latency of
        #{C := Far} when is_integer(Time), Time < Far ->
            request_instead(Other, C, {switch, S#hpv.self, I}, over(S));
        _ ->
            send(C, keep, over(S))
    end;
measured(Name, Time, #hpv{latency = Latency} = S) when is_integer(Time) ->
    Known = maps:with(active(S), Latency#{Name => Time}),
    S#hpv{latency = Known};
measured(_, _, S) ->
    S.

%% c: takes i for its own farthest, if there is one farther than i; or at once, where there is room.
-spec optimise(I :: node(), spec(), Other :: spec(), non_neg_integer(), hpv()) -> hpv().
optimise(I, Spec, #{name := O} = Other, Latency, S) ->
    case {has_place(Spec, S), S#hpv.exchange, farthest([I, O], S)} of
        {true, _, _} ->
            S1 = activate(I, Spec, S),
            send(I, {accept, S1#hpv.self}, S1);
        {false, none, {Far, #{name := D}}} when Latency < Far ->
            send(D, {replace, Other, I}, exchange({asked, D, I, Spec}, S));
        _ ->
            send(I, {refuse, full}, S)
    end.

%% d: is o nearer than c?
-spec replace(C :: node(), Other :: spec(), I :: node(), hpv()) -> hpv().
replace(C, #{name := O} = Other, I, #hpv{exchange = none, name = Own} = S) ->
    case get_link(O, S) of
        none when is_map_key(C, S#hpv.latency), O =/= Own ->
            emit({measure, Other}, exchange({asked_for, C, Other, I}, S));
        _ ->
            send(C, keep, S)
    end;
replace(C, _, _, S) ->
    send(C, keep, S).

%% o: d comes in the place of i.
-spec switch(D :: node(), spec(), I :: node(), hpv()) -> hpv().
switch(D, Spec, I, S0) ->
    case get_link(I, S0) of
        #link{state = active, spec = ISpec} = L ->
            S1 = to_passive(ISpec, drain(I, L, demoted, S0)),
            S = activate(D, Spec, S1),
            send(D, {accept, S#hpv.self}, S);
        _ ->
            send(D, {refuse, full}, S0)
    end.

request_instead(#{name := Name} = Spec, Instead, Ask, S0) ->
    case get_link(Name, S0) of
        none ->
            L = #link{state = requested, spec = Spec, instead = Instead},
            S = put_link(Name, L, S0#hpv{passive = orddict:erase(Name, S0#hpv.passive)}),
            after_ms({request, Name}, maps:get(request_timeout, S#hpv.opt),
                     send(Name, Ask, emit({connect, Spec}, S)));
        #link{} ->
            keep(#link{state = requested, spec = Spec, instead = Instead}, S0)
    end.

%% The new neighbour said yes: the old one makes room, if it is still there.
-spec replaced(#link{}, hpv()) -> hpv().
replaced(#link{instead = Old}, #hpv{opt = #{active_max_size := Max}} = S) ->
    case get_link(Old, S) of
        #link{state = active, spec = Spec} = L ->
            case length(active(S)) >= Max of
                true -> to_passive(Spec, drain(Old, L, demoted, S));
                false -> S
            end;
        _ ->
            S
    end.

%% It did not: c, if the request was d's, need not wait. To anybody else this says nothing.
-spec keep(#link{}, hpv()) -> hpv().
keep(#link{instead = none}, S) -> S;
keep(#link{instead = Old}, S) -> send(Old, keep, S).

%% c: d gave us up for o, or was lost, so there is room for i.
-spec freed(node(), hpv()) -> hpv().
freed(D, #hpv{exchange = {asked, D, I, Spec}} = S0) ->
    case state_of(I, S0) of
        none ->
            S = activate(I, Spec, over(S0)),
            send(I, {accept, S#hpv.self}, S);
        _ ->
            over(S0)
    end;
freed(_, S) ->
    S.

%% The exchange under way, if there is one, is over without a result: whoever waits is told.
-spec no_exchange(hpv()) -> hpv().
no_exchange(#hpv{exchange = {asked, _, I, _}} = S) -> send(I, {refuse, full}, over(S));
no_exchange(#hpv{exchange = {asked_for, C, _, _}} = S) -> send(C, keep, over(S));
no_exchange(S) -> over(S).

%% Shorter than what the initiator waits, so that it hears of the end.
exchange(What, S) ->
    after_ms(exchange, maps:get(request_timeout, S#hpv.opt) div 2, S#hpv{exchange = What}).

over(S) ->
    cancel(exchange, S#hpv{exchange = none}).

%% The neighbour with the longest round trip, but for the unbiased ones; {Time, Spec} or none.
farthest(Except, #hpv{latency = Latency, opt = #{xbot_unbiased := Stay}} = S) ->
    Known = lists:reverse(lists:sort([{map_get(N, Latency), Spec}
                                      || #{name := N} = Spec <- active_specs(S),
                                         is_map_key(N, Latency), not is_reserved(Spec, S)])),
    case [E || {_, #{name := N}} = E <- lists:nthtail(min(Stay, length(Known)), Known),
               not lists:member(N, Except)] of
        [Far | _] -> Far;
        [] -> none
    end.
