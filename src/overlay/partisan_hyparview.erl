%% HyParView: a small active view, whose members are linked both ways, and a larger passive view to
%% replace the ones that fail (Leitao, Pereira, Rodrigues: HyParView, DSN 2007). A pure core; see
%% partisan_overlay for what its shell promises.
%%
%% Views. A link has one state a side: `requested` (a join or neighbour request is on its way),
%% `active`, `draining` (demoted here, what was under way still arrives), `closing` (given up,
%% waiting for its end). The active view is the links in state active. Somebody becomes active here
%% only by asking and being told `accept`, or by asking us; so both ends agree once messages have
%% arrived. Where they do not (a message was lost with a link that came back), the next shuffle over
%% that link is answered by `disconnect`.
%%
%% Demotion. The side that demotes says `disconnect`, the other answers `goodbye` behind everything
%% it had sent before, and only then the link is closed: nothing sent before is cut off.
%%
%% Beyond the paper:
%%   - The answer to a shuffle goes back the way the shuffle came, not over a connection made for
%%     it: a connection is a whole distribution handshake here, and would show as nodeup.
%%   - As many requests as there are free places are out at a time; a dead host takes seconds to
%%     be found out, and after a mass failure most of the passive view is dead.
%%   - A node that was lost is remembered for `heal_ttl` and dialled now and then (one every
%%     `heal_interval`): without that the halves of a cut network never meet again, since each
%%     half has filled its views with its own. Rumours do not bring a lost node back, only a
%%     sign from itself.
%%   - More names than the passive view has are remembered, for when all in that are dead, too:
%%     partisan_hyparview_remembered.
%%   - Nodes whose views are full with each other notice that they are cut off from the rest, and
%%     meet it: see partisan_hyparview_group.
%%
%% X-BOT, which moves links to nearer nodes, is in partisan_hyparview_xbot.
%%
%% Cost a node: active_max_size links, a shuffle of 8 names each `shuffle_interval`, passive_max_size
%% and remembered_max_size names in memory; none of it grows with the cluster.
%%
%% Made of: this module, which says what happens at each event and message; partisan_hyparview_view, the
%% state and what is done to it; partisan_hyparview_repair, whom to ask for a place;
%% partisan_hyparview_walk, what goes from node to node; partisan_hyparview_xbot; _group; _remembered; _message; _opts.
-module(partisan_hyparview).
-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-export_type([state/0]).

-include("partisan_hyparview.hrl").

-import(partisan_hyparview_view,
        [activate/3, active/1, active_specs/1, after_ms/3, cancel/2, close/3, done/1, drain/4, early_tick/3, emit/2,
         first_tick/3, get_link/2, has_place/2, lives/2, members/1, notify/2, put_link/3, send/3, spread/3,
         state_of/2, take_link/2, tick/3, to_passive/2]).
-import(partisan_hyparview_repair,
        [fill/1, fill_if_few/1, forget/2, heal/1, latest/1, lose/3, meet/1, rejoin/1, request/4,
         unanswered/3]).
-import(partisan_hyparview_walk, [forward_join/4, integrate/2, shuffle/1, shuffled/5]).
-import(partisan_hyparview_xbot,
        [freed/2, keep/2, look_around/1, measured/3, no_exchange/1, optimise/5, replace/4, replaced/2,
         switch/4]).

%% Nodes named by the user that are remembered for a time when nobody else is left.
-define(CONTACTS, 8).

-opaque state() :: #hpv{}.

-spec init(spec(), partisan_overlay:config(), partisan_overlay:now_ms(), rand:state()) ->
          {state(), [partisan_overlay:effect()]}.
init(#{name := Name} = Self, Config, Now, Rand) ->
    Opt = partisan_overlay_opts:check(partisan_hyparview_opts:options(), Config),
    Group = partisan_hyparview_group:new(Name, maps:get(heal_interval, Opt), Now),
    S0 = #hpv{self = Self, name = Name, opt = Opt, rand = Rand, now = Now, group = Group,
              remembered = no_names(Opt)},
    %% The first round is anywhere in the interval: nodes that start together must not tick so.
    S = lists:foldl(fun({T, Key}, Acc) -> first_tick(T, Key, Acc) end, S0,
                    [{shuffle, shuffle_interval}, {promote, random_promotion_interval},
                     {heal, heal_interval}]
                    ++ [{xbot, xbot_interval} || maps:get(xbot_enabled, Opt)]),
    done(members(S)).

no_names(Opt) -> partisan_hyparview_remembered:new(maps:get(remembered_max_size, Opt)).

-spec handle(partisan_overlay:event(), partisan_overlay:now_ms(), state()) ->
          {state(), [partisan_overlay:effect()]}.
handle(Event, Now, S) ->
    done(event(Event, S#hpv{now = Now})).

-spec info(state()) -> partisan_overlay:info().
info(#hpv{self = Self, passive = Passive, lost = Lost, phase = Phase} = S) ->
    #{members => [Self | active_specs(S)],
      neighbours => active(S),
      passive => [Spec || {_, Spec} <- Passive],
      lost => [N || {N, _} <- Lost],
      remembered => partisan_hyparview_remembered:names(S#hpv.remembered),
      links => [{N, L#link.state} || {N, L} <- S#hpv.links],
      phase => Phase}.

%% --- events -----------------------------------------------------------------------------------------

event({join, #{name := Name}}, #hpv{name = Name} = S) ->
    S;
event({join, #{name := Name} = Spec}, S0) ->
    Others = [C || #{name := N} = C <- S0#hpv.contacts, N =/= Name],
    S = S0#hpv{phase = member, joining = orddict:store(Name, Spec, S0#hpv.joining),
               told = lists:delete(Name, S0#hpv.told),
               remembered = partisan_hyparview_remembered:add(Spec, S0#hpv.remembered),
               contacts = lists:sublist([Spec | Others], ?CONTACTS)},
    request(Spec, join, user, newcomer(S));
event({leave, Name}, #hpv{name = Name} = S) ->
    leave(S);
event({leave, Name}, S) ->
    case state_of(Name, S) of
        active -> send(Name, leave, S);
        _ -> emit({log, warning, "~ts is no neighbour: leave it on that node itself", [Name]}, S)
    end;
event({call, Tag, {reserve, What}}, S) ->
    reserve(Tag, What, S);
event({call, Tag, _}, S) ->
    emit({reply, Tag, {error, not_implemented}}, S);
event({up, _}, S) ->
    S;
event({down, Name, Reason}, S) ->
    down(Name, Reason, S);
event({timer, Name}, S) ->
    timer(Name, S);
event({latency, Name, Time}, S) ->
    measured(Name, Time, S);
event({msg, From, Msg}, #hpv{phase = Phase} = S) ->
    case state_of(From, S) of
        closing -> S;                            %% it dies with the link, and so would an answer
        State ->
            case partisan_hyparview_message:well_formed(From, Msg) of
                true when Phase =:= member -> msg(Msg, From, State, S);
                true -> away(Msg, From, S);
                false -> emit({malformed, From}, S)
            end
    end;
event(_, S) ->
    S.

newcomer(#hpv{now = Now} = S) ->
    case active(S) of
        [] -> early_tick(promote, random_promotion_interval,
                         early_tick(shuffle, shuffle_interval, S#hpv{joined = Now}));
        _ -> S
    end.

%% The link is gone, or there never was one.
down(Name, Reason, S0) ->
    case take_link(Name, S0) of
        {#link{state = active, spec = Spec}, S} ->
            fill(lose(Name, Spec, freed(Name, members(notify({neighbour_down, Name, Reason}, S)))));
        {#link{state = requested, priority = join}, S} ->
            fill(unanswered(Name, Reason, cancel({request, Name}, S)));
        {#link{state = requested, spec = Spec, priority = Priority} = L, S1} ->
            S = fill(keep(L, lose(Name, Spec, cancel({request, Name}, S1)))),
            case Priority of
                apart -> meet(S);
                _ -> S
            end;
        {#link{}, S} ->                          %% draining or closing: this is its end
            fill_if_few(left_when_alone(cancel({drain, Name}, S)));
        none ->
            S0
    end.

timer(shuffle, S) ->
    shuffle(early_tick(shuffle, shuffle_interval, S));
timer(promote, S0) ->
    S = early_tick(promote, random_promotion_interval, S0#hpv{refused = []}),
    case maps:get(random_promotion, S#hpv.opt) of
        true -> fill(rejoin(S));
        false -> rejoin(S)
    end;
timer(heal, S) ->
    heal(tick(heal, heal_interval, S));
timer(xbot, S) ->
    look_around(tick(xbot, xbot_interval, S));
timer(exchange, S) ->
    no_exchange(S);
timer({request, Name}, S0) ->
    %% The link may stand, and the other side may have us: tell it.
    case get_link(Name, S0) of
        #link{state = requested, spec = Spec} = L ->
            S = keep(L, drain(Name, L, demoted, S0)),
            case L#link.priority of
                join -> S;
                _ -> fill(lose(Name, Spec, S))
            end;
        _ ->
            S0
    end;
timer({drain, Name}, S) ->
    case get_link(Name, S) of
        #link{state = State} = L when State =:= draining; State =:= closing ->
            close(Name, L, S);
        _ ->
            S
    end;
timer(_, S) ->
    S.

%% --- messages ---------------------------------------------------------------------------------------

msg({join, Spec, _}, From, State, S0) when State =/= draining ->
    S1 = activate(From, Spec, S0),
    S = send(From, {accept, S1#hpv.self}, S1),
    Ttl = maps:get(active_rwl, S#hpv.opt),
    spread({forward_join, Spec, Ttl}, active(S) -- [From], S);
msg({neighbour, Priority, Spec}, From, State, S) when State =/= draining ->
    case Priority =:= high orelse State =/= none orelse has_place(Spec, S) of
        true ->
            S1 = activate(From, Spec, S),
            send(From, {accept, S1#hpv.self}, S1);
        false ->
            send(From, {refuse, full}, to_passive(Spec, S))
    end;
msg({meet, First, Spec}, From, State, S) when State =/= draining ->
    case State =/= none orelse partisan_hyparview_group:is_other(First, S#hpv.now, S#hpv.group) of
        true -> send(From, latest(S), msg({neighbour, high, Spec}, From, State, S));
        false -> send(From, {refuse, full}, to_passive(Spec, S))
    end;
msg({first, First, Word}, From, active, S) ->
    case partisan_hyparview_group:heard(First, Word, S#hpv.now, S#hpv.group) of
        {true, Group} -> spread({first, First, Word}, active(S) -- [From], S#hpv{group = Group});
        {false, _} -> S
    end;
msg({accept, Spec}, From, requested, S0) ->
    #link{priority = Priority} = L = get_link(From, S0),
    S1 = cancel({request, From}, S0#hpv{joining = orddict:erase(From, S0#hpv.joining)}),
    S = replaced(L, S1),
    %% The place may be taken meanwhile. A low request is not worth another's eviction.
    Others = length(active(S)),
    case Priority =:= low andalso Others >= maps:get(active_max_size, S#hpv.opt) of
        true -> to_passive(Spec, drain(From, L, demoted, S));
        %% Groups that met are one at once, or they would meet a second time.
        false when Priority =:= apart -> send(From, latest(S), fill(activate(From, Spec, S)));
        false -> fill(activate(From, Spec, S))
    end;
msg({accept, Spec}, From, none, S) ->
    %% The answer to a request that was given up.
    drain(From, #link{state = active, spec = Spec}, demoted, S);
msg({refuse, Why}, From, requested, S0) ->
    #link{spec = Spec} = L = get_link(From, S0),
    S1 = keep(L, close(From, L, cancel({request, From}, S0))),
    S = case Why of
            full -> to_passive(Spec, lives(From, S1#hpv{refused = [From | S1#hpv.refused]}));
            _ -> forget(From, S1)
        end,
    case L#link.priority of
        apart -> meet(fill_if_few(S));
        _ -> fill_if_few(S)
    end;
msg({disconnect, Why}, From, State, S) ->
    disconnected(Why, From, State, S);
msg({optimise, Spec, Other, Latency}, From, State, S) when State =/= draining ->
    optimise(From, Spec, Other, Latency, S);
msg({replace, Other, I}, From, active, S) ->
    replace(From, Other, I, S);
msg({switch, Spec, I}, From, State, S) when State =/= draining ->
    switch(From, Spec, I, S);
msg(keep, From, _, #hpv{exchange = {asked, From, _, _}} = S) ->
    no_exchange(S);
msg(goodbye, From, draining, S) ->
    close(From, get_link(From, S), S);
msg(leave, _, active, S) ->
    leave(S);
msg({forward_join, Spec, Ttl}, From, State, S0) ->
    forward_join(Spec, Ttl, From, stranger(From, State, S0));
msg({shuffle, Specs, Ttl, Path}, From, State, S0) ->
    shuffled(Specs, Ttl, Path, From, stranger(From, State, S0));
msg({shuffle_reply, Specs, [Name]}, _, _, #hpv{name = Name} = S) ->
    (integrate(Specs, S))#hpv{shuffled = []};
msg({shuffle_reply, Specs, [Name, Next | Path]}, _, _, #hpv{name = Name} = S) ->
    send(Next, {shuffle_reply, Specs, [Next | Path]}, S);
msg(_, _, _, S) ->
    S.

%% What a node that leaves, or has left, still answers: it wants no new neighbour, but whoever's
%% user asks it to make a cluster gets one.
away({join, _, user} = Join, From, #hpv{phase = left} = S) ->
    msg(Join, From, state_of(From, S), S#hpv{phase = member});
away({Ask, _, _}, From, S) when Ask =:= join; Ask =:= meet; Ask =:= neighbour ->
    send(From, {refuse, left}, S);
away({optimise, _, _, _}, From, S) ->
    send(From, {refuse, left}, S);
away({switch, _, _}, From, S) ->
    send(From, {refuse, full}, S);
away({replace, _, _}, From, S) ->
    send(From, keep, S);
away({accept, _}, From, S) ->
    send(From, {disconnect, left}, S);
away({disconnect, Why}, From, S) ->
    disconnected(Why, From, state_of(From, S), S);
away(goodbye, From, S) ->
    case get_link(From, S) of
        #link{state = draining} = L -> close(From, L, S);
        _ -> S
    end;
away(_, _, S) ->
    S.

%% The other side gave the link up. It closes it when our goodbye is there; the timer is for the
%% case that it does not.
disconnected(Why, From, State, S0) ->
    S1 = send(From, goodbye, S0),
    case State of
        none ->
            S1;
        draining ->                              %% both at once: both say goodbye, both close
            S1;
        _ ->
            {#link{spec = Spec} = L, S2} = take_link(From, S1),
            S3 = case State of
                     active -> freed(From, members(notify({neighbour_down, From, Why}, S2)));
                     requested -> keep(L, cancel({request, From}, S2))
                 end,
            S4 = put_link(From, L#link{state = closing}, S3),
            S5 = after_ms({drain, From}, 2 * maps:get(drain_timeout, S4#hpv.opt), S4),
            fill(case Why of
                     left -> forget(From, S5);
                     _ -> to_passive(Spec, S5)
                 end)
    end.

%% Only neighbours shuffle and forward: whoever does and is none holds us for one.
stranger(From, none, S) ->
    drain(From, #link{state = active, spec = #{name => From}}, demoted, S);
stranger(_, _, S) ->
    S.

%% --- leaving ----------------------------------------------------------------------------------------

leave(S0) ->
    S1 = lists:foldl(fun({N, #link{state = St} = L}, Acc)
                           when St =:= active; St =:= requested ->
                             drain(N, L, left, cancel({request, N}, Acc));
                        (_, Acc) ->
                             Acc
                     end, S0, S0#hpv.links),
    left_when_alone(S1#hpv{phase = leaving, passive = [], lost = [], joining = [], contacts = [],
                           remembered = no_names(S1#hpv.opt)}).

left_when_alone(#hpv{phase = leaving, links = []} = S) ->
    notify(left, S#hpv{phase = left});
left_when_alone(S) ->
    S.

%% --- reserved places --------------------------------------------------------------------------------

%% A place in the active view for a node whose spec has that tag.
reserve(Tag, What, #hpv{reserved = Reserved, opt = #{active_max_size := Max}} = S) ->
    case lists:member(What, Reserved) orelse length(Reserved) < Max of
        true ->
            emit({reply, Tag, ok}, S#hpv{reserved = lists:usort([What | Reserved])});
        false ->
            emit({reply, Tag, {error, no_available_slots}}, S)
    end.
