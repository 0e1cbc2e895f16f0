%% partisan_hyparview, one node of it: reserved places, and what a neighbour that is put out is told.
-module(partisan_hyparview_tests).

-include_lib("eunit/include/eunit.hrl").

reserved_places_test() ->
    S0 = new(2),
    {S1, [{reply, t, ok}]} = event({call, t, {reserve, db}}, S0),
    %% One place is for anybody, the other one is kept.
    {S2, _} = asked(a, #{}, low, S1),
    {S3, E3} = asked(b, #{}, low, S2),
    ?assertEqual([{refuse, full}], to(b, E3)),
    {S4, E4} = asked(c, #{tag => db}, low, S3),
    ?assertMatch([{accept, _}], to(c, E4)),
    ?assertEqual([a, c], neighbours(S4)),
    %% Who has to be let in puts out one that has no place of its own.
    {S5, _} = asked(d, #{}, high, S4),
    ?assertEqual([c, d], neighbours(S5)),
    {S6, _} = asked(e, #{}, high, S5),
    ?assertEqual([c, e], neighbours(S6)),
    %% No more places than there are.
    {S7, [{reply, t, ok}]} = event({call, t, {reserve, web}}, S6),
    {S8, [{reply, t, {error, no_available_slots}}]} = event({call, t, {reserve, other}}, S7),
    {_, [{reply, t, ok}]} = event({call, t, {reserve, web}}, S8).

%% The connection of a neighbour that is put out stays until it has said goodbye, behind all that it
%% had sent.
demotion_drains_test() ->
    {S1, _} = asked(a, #{}, low, new(1)),
    {S2, E2} = asked(b, #{}, high, S1),
    ?assertEqual([{disconnect, demoted}], to(a, E2)),
    ?assert(lists:member({notify, {neighbour_down, a, demoted}}, E2)),
    ?assertNot(lists:member({disconnect, a}, E2)),
    %% What was on its way is still taken.
    {S3, E3} = event({msg, a, {forward_join, spec(f, #{}), 2}}, S2),
    ?assertEqual([{forward_join, spec(f, #{}), 1}], to(b, E3)),
    {S4, E4} = event({msg, a, goodbye}, S3),
    ?assert(lists:member({disconnect, a}, E4)),
    ?assert(lists:member({cancel, {drain, a}}, E4)),
    {S5, _} = event({down, a, closed}, S4),
    ?assertEqual([b], neighbours(S5)),
    %% One that never says it is not waited for.
    {_, E6} = event({timer, {drain, a}}, S3),
    ?assert(lists:member({disconnect, a}, E6)).

%% Whoever joins alone shuffles and asks for places soon, then after as long again as it has been in, until
%% that is the usual time.
newcomer_is_quick_test() ->
    {S1, E1} = event({join, spec(a, #{})}, new(2)),
    ?assert(timer(shuffle, E1) =< 10000 div 16 * 3 div 2),
    ?assert(timer(promote, E1) =< 5000 div 16 * 3 div 2),
    {S2, E2} = partisan_hyparview:handle({timer, shuffle}, 4000, S1),
    ?assert(timer(shuffle, E2) >= 2000 andalso timer(shuffle, E2) =< 6000),
    {S3, E3} = partisan_hyparview:handle({timer, shuffle}, 20000, S2),
    ?assert(timer(shuffle, E3) >= 9000),
    %% One that has neighbours does not begin again.
    {S4, _} = asked(b, #{}, low, S3),
    {_, E5} = event({join, spec(c, #{})}, S4),
    ?assertEqual(none, timer(shuffle, E5)).

timer(Name, Effects) ->
    case [Ms || {timer, N, Ms} <- Effects, N =:= Name] of
        [Ms] -> Ms;
        [] -> none
    end.

%% --- parts ------------------------------------------------------------------------------------------

new(Max) ->
    {S, _} = partisan_hyparview:init(spec(me, #{}), #{active_max_size => Max, active_min_size => 0}, 0,
                                     rand:seed_s(exsss, 1)),
    S.

event(Event, S) -> partisan_hyparview:handle(Event, 0, S).

%% A node dials us and asks for a place.
asked(Name, More, Priority, S0) ->
    {S, []} = event({up, Name}, S0),
    event({msg, Name, {neighbour, Priority, spec(Name, More)}}, S).

to(Name, Effects) -> [Msg || {send, N, Msg} <- Effects, N =:= Name].

neighbours(S) -> lists:sort(maps:get(neighbours, partisan_hyparview:info(S))).

spec(Name, More) -> More#{name => Name}.
