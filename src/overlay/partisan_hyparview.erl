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
%%   - Nodes whose views are full with each other notice that they are cut off from the rest, and
%%     meet it: see partisan_hyparview_group.
%%
%% X-BOT (Leitao, Marques, Pereira, Rodrigues: X-BOT, SRDS 2009), if xbot_enabled: with a full view a
%% node now and then measures a passive one. If that is nearer than its farthest neighbour, four nodes
%% change partners: the initiator i gives up o for the candidate c, c gives up its own farthest, d,
%% and d takes o if o is nearer to it than c. Nobody's number of neighbours changes, every step is an
%% ordinary request, and wherever one fails the places are filled as after any loss. A node takes part
%% in one exchange at a time. The xbot_unbiased farthest stay: they keep the graph a random one.
%%
%% Cost a node: active_max_size links, a shuffle of 8 names each `shuffle_interval`, passive_max_size
%% names in memory; none of it grows with the cluster.
-module(partisan_hyparview).
-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-export_type([state/0]).

%% Nodes named by the user that are remembered for a time when nobody else is left.
-define(CONTACTS, 8).

-type spec() :: partisan_overlay:spec().
-type view() :: [{node(), spec()}].              %% sorted: the order must not depend on the VM
-type priority() :: join | high | low | apart.

-record(link, {state :: requested | active | draining | closing,
               spec :: spec(),
               priority = low :: priority(),
               instead = none :: none | node()}).          %% the neighbour it is to replace

-record(hpv, {self :: spec(),
              name :: node(),
              opt :: #{atom() => term()},
              rand :: rand:state(),
              phase = member :: member | leaving | left,
              links = [] :: [{node(), #link{}}],
              passive = [] :: view(),
              lost = [] :: [{node(), {spec(), partisan_overlay:now_ms()}}],
              joining = [] :: view(),            %% asked for by the user, not yet accepted
              told = [] :: [node()],             %% of these it was said that they do not answer
              contacts = [] :: [spec()],         %% asked for by the user, newest first
              refused = [] :: [node()],          %% said no since the last promotion tick
              shuffled = [] :: [node()],         %% what the last shuffle offered: first to go
              reserved = [] :: [term()],
              group :: partisan_hyparview_group:group(),
              latency = #{} :: #{node() => non_neg_integer()},   %% us; of neighbours
              exchange = none :: none
                               | {candidate, spec()}             %% i: being measured
                               | {asked, D :: node(), I :: node(), spec()}   %% c
                               | {asked_for, C :: node(), O :: spec(), I :: node()},   %% d
              now = 0 :: partisan_overlay:now_ms(),
              out = [] :: [partisan_overlay:effect()]}).

-opaque state() :: #hpv{}.

-spec init(spec(), partisan_overlay:config(), partisan_overlay:now_ms(), rand:state()) ->
          {state(), [partisan_overlay:effect()]}.
init(#{name := Name} = Self, Config, Now, Rand) ->
    Opt = partisan_overlay_opts:check(partisan_hyparview_opts:options(), Config),
    Group = partisan_hyparview_group:new(Name, maps:get(heal_interval, Opt), Now),
    S0 = #hpv{self = Self, name = Name, opt = Opt, rand = Rand, now = Now, group = Group},
    %% The first round is anywhere in the interval: nodes that start together must not tick so.
    S = lists:foldl(fun({T, Key}, Acc) -> first_tick(T, Key, Acc) end, S0,
                    [{shuffle, shuffle_interval}, {promote, random_promotion_interval},
                     {heal, heal_interval}]
                    ++ [{xbot, xbot_interval} || maps:get(xbot_enabled, Opt)]),
    done(members(S)).

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
      links => [{N, L#link.state} || {N, L} <- S#hpv.links],
      phase => Phase}.

%% --- events ---------------------------------------------------------------------------------------

event({join, #{name := Name}}, #hpv{name = Name} = S) ->
    S;
event({join, #{name := Name} = Spec}, S0) ->
    Others = [C || #{name := N} = C <- S0#hpv.contacts, N =/= Name],
    S = S0#hpv{phase = member, joining = orddict:store(Name, Spec, S0#hpv.joining),
               told = lists:delete(Name, S0#hpv.told),
               contacts = lists:sublist([Spec | Others], ?CONTACTS)},
    request(Spec, join, user, S);
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

%% The link is gone, or there never was one.
down(Name, Reason, S0) ->
    case take_link(Name, S0) of
        {#link{state = active, spec = Spec}, S} ->
            fill(lose(Name, Spec, freed(Name, members(notify({neighbour_down, Name, Reason}, S)))));
        {#link{state = requested, priority = join}, S} ->
            fill(unanswered(Name, Reason, cancel({request, Name}, S)));
        {#link{state = requested, spec = Spec} = L, S} ->
            fill(keep(L, lose(Name, Spec, cancel({request, Name}, S))));
        {#link{}, S} ->                          %% draining or closing: this is its end
            fill_if_few(left_when_alone(cancel({drain, Name}, S)));
        none ->
            S0
    end.

timer(shuffle, S) ->
    shuffle(tick(shuffle, shuffle_interval, S));
timer(promote, S0) ->
    S = tick(promote, random_promotion_interval, S0#hpv{refused = []}),
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
            full -> to_passive(Spec, S1#hpv{refused = [From | S1#hpv.refused],
                                            lost = orddict:erase(From, S1#hpv.lost)});
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

%% --- joining ----------------------------------------------------------------------------------------

forward_join(#{name := Name}, _, _, #hpv{name = Name} = S) ->
    S;
forward_join(#{name := Name} = Spec, Ttl, From, S0) ->
    S1 = S0#hpv{lost = orddict:erase(Name, S0#hpv.lost)},
    S2 = case Ttl =:= maps:get(passive_rwl, S1#hpv.opt) of
             true -> to_passive(Spec, S1);
             false -> S1
         end,
    {Next, S} = pick(active(S2) -- [From, Name], S2),
    case Next of
        {value, N} when Ttl > 0 -> send(N, {forward_join, Spec, Ttl - 1}, S);
        _ -> request(Spec, high, again, S)
    end.

%% Asks for a place in the other's active view, if nothing else is under way with it.
request(#{name := Name} = Spec, Priority, Who, S0) ->
    case get_link(Name, S0) of
        none ->
            S = put_link(Name, #link{state = requested, spec = Spec, priority = Priority},
                         S0#hpv{passive = orddict:erase(Name, S0#hpv.passive)}),
            Ask = case Priority of
                      join -> {join, S#hpv.self, Who};
                      apart -> {meet, element(2, latest(S)), S#hpv.self};
                      _ -> {neighbour, Priority, S#hpv.self}
                  end,
            after_ms({request, Name}, maps:get(request_timeout, S#hpv.opt),
                     send(Name, Ask, emit({connect, Spec}, S)));
        #link{state = active} when Priority =:= join ->
            S0#hpv{joining = orddict:erase(Name, S0#hpv.joining)};
        #link{} ->
            S0
    end.

%% Joins that nobody answered yet; and for a node that has nobody, those it had once.
rejoin(#hpv{phase = member} = S0) ->
    S = lists:foldl(fun({_, Spec}, Acc) -> request(Spec, join, user, Acc) end,
                    S0, S0#hpv.joining),
    case S#hpv.links =:= [] andalso S#hpv.passive =:= [] of
        true -> ask_one(join, lost_specs(S) ++ S#hpv.contacts, S);
        false -> S
    end;
rejoin(S) ->
    S.

%% Said once: it is tried again each promotion tick.
unanswered(Name, Reason, #hpv{told = Told} = S) ->
    case lists:member(Name, Told) of
        true ->
            S;
        false ->
            emit({log, notice, "partisan: no answer from ~ts to a join (~0tp): trying on",
                  [Name, Reason]}, S#hpv{told = [Name | Told]})
    end.

%% --- failure and repair -----------------------------------------------------------------------------

lose(Name, Spec, #hpv{lost = Lost0, opt = #{passive_max_size := Max}} = S) ->
    Lost1 = orddict:store(Name, {Spec, S#hpv.now}, Lost0),
    Lost = case length(Lost1) > Max of
               true ->
                   {_, Oldest} = lists:min([{At, N} || {N, {_, At}} <- Lost1]),
                   orddict:erase(Oldest, Lost1);
               false ->
                   Lost1
           end,
    S#hpv{lost = Lost, passive = orddict:erase(Name, S#hpv.passive)}.

forget(Name, S) ->
    S#hpv{passive = orddict:erase(Name, S#hpv.passive), lost = orddict:erase(Name, S#hpv.lost),
          joining = orddict:erase(Name, S#hpv.joining),
          contacts = [C || #{name := N} = C <- S#hpv.contacts, N =/= Name]}.

heal(#hpv{now = Now, opt = #{heal_ttl := Ttl}} = S) ->
    Young = S#hpv{lost = [E || {_, {_, At}} = E <- S#hpv.lost, Now - At < Ttl]},
    case S#hpv.phase of
        member -> meet(word(ask_one(high, lost_specs(Young), Young)));
        _ -> Young
    end.

word(S) ->
    case partisan_hyparview_group:tick(S#hpv.now, S#hpv.group) of
        {false, Group} -> S#hpv{group = Group};
        {true, Group} -> spread(partisan_hyparview_group:latest(Group), active(S), S#hpv{group = Group})
    end.

latest(#hpv{group = Group}) -> partisan_hyparview_group:latest(Group).

%% Asks somebody known by name whether it is of this group; its refusal brings on the next.
meet(#hpv{passive = Passive} = S0) ->
    Names = [N || {N, _} <- Passive, get_link(N, S0) =:= none],
    {Name, Group} = partisan_hyparview_group:next(Names, S0#hpv.now, S0#hpv.group),
    S = S0#hpv{group = Group},
    case Name of
        none -> S;
        _ -> request(orddict:fetch(Name, Passive), apart, again, S)
    end.

ask_one(Priority, Specs, S0) ->
    case pick(Specs, S0) of
        {{value, Spec}, S} -> request(Spec, Priority, again, S);
        {none, S} -> S
    end.

lost_specs(#hpv{lost = Lost} = S) ->
    [Spec || {N, {Spec, _}} <- Lost, get_link(N, S) =:= none].

%% Free places in the active view are offered to passive nodes, high in priority if it is empty.
fill(#hpv{phase = member} = S0) ->
    Wanted = maps:get(active_max_size, S0#hpv.opt) - taken(S0),
    Free = [Spec || {N, Spec} <- S0#hpv.passive, get_link(N, S0) =:= none,
                    not lists:member(N, S0#hpv.refused)],
    {Chosen, S} = some(max(0, Wanted), Free, S0),
    Priority = case active(S) of
                   [] -> high;
                   _ -> low
               end,
    lists:foldl(fun(Spec, Acc) -> request(Spec, Priority, again, Acc) end, S, Chosen);
fill(S) ->
    S.

%% Where all are full, asking round costs a dial each: who has enough waits for the next tick.
fill_if_few(S) ->
    case length(active(S)) < maps:get(active_min_size, S#hpv.opt) of
        true -> fill(S);
        false -> S
    end.

%% --- leaving ----------------------------------------------------------------------------------------

leave(S0) ->
    S1 = lists:foldl(fun({N, #link{state = St} = L}, Acc)
                           when St =:= active; St =:= requested ->
                             drain(N, L, left, cancel({request, N}, Acc));
                        (_, Acc) ->
                             Acc
                     end, S0, S0#hpv.links),
    left_when_alone(S1#hpv{phase = leaving, passive = [], lost = [], joining = [],
                              contacts = []}).

left_when_alone(#hpv{phase = leaving, links = []} = S) ->
    notify(left, S#hpv{phase = left});
left_when_alone(S) ->
    S.

%% --- shuffles ---------------------------------------------------------------------------------------

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

integrate(Specs, S) ->
    lists:foldl(fun(#{name := N} = Spec, Acc) ->
                        case orddict:is_key(N, Acc#hpv.lost) of
                            true -> Acc;
                            false -> to_passive(Spec, Acc)
                        end
                end, S, Specs).

%% --- X-BOT ------------------------------------------------------------------------------------------

%% i: measures its neighbours, and one node that might be a better one.
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
keep(#link{instead = none}, S) -> S;
keep(#link{instead = Old}, S) -> send(Old, keep, S).

%% c: d gave us up for o, or was lost, so there is room for i.
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

%% --- views ------------------------------------------------------------------------------------------

%% Into the active view, with somebody put out if it is full. Its own word brought it here.
activate(Name, Spec, #hpv{opt = #{active_max_size := Max}} = S0) ->
    S1 = S0#hpv{passive = orddict:erase(Name, S0#hpv.passive),
                lost = orddict:erase(Name, S0#hpv.lost)},
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
            S#hpv{passive = orddict:erase(N, Passive), shuffled = Rest};
        [] ->
            {{value, {N, _}}, S1} = pick(Passive, S),
            S1#hpv{passive = orddict:erase(N, Passive), shuffled = []}
    end.

has_place(Spec, #hpv{opt = #{active_max_size := Max}} = S) ->
    Held = length(S#hpv.reserved) - length([Sp || Sp <- active_specs(S), is_reserved(Sp, S)]),
    case is_reserved(Spec, S) of
        true -> taken(S) < Max;
        false -> taken(S) + max(0, Held) < Max
    end.

%% A place in the active view for a node whose spec has that tag.
reserve(Tag, What, #hpv{reserved = Reserved, opt = #{active_max_size := Max}} = S) ->
    case lists:member(What, Reserved) orelse length(Reserved) < Max of
        true ->
            emit({reply, Tag, ok}, S#hpv{reserved = lists:usort([What | Reserved])});
        false ->
            emit({reply, Tag, {error, no_available_slots}}, S)
    end.

is_reserved(#{tag := Tag}, #hpv{reserved = Reserved}) -> lists:member(Tag, Reserved);
is_reserved(_, _) -> false.

active(#hpv{links = Links}) ->
    [N || {N, #link{state = active}} <- Links].

active_specs(#hpv{links = Links}) ->
    [Spec || {_, #link{state = active, spec = Spec}} <- Links].

%% Places that are filled or spoken for.
taken(#hpv{links = Links}) ->
    length([N || {N, #link{state = St}} <- Links, St =:= active orelse St =:= requested]).

%% --- links ------------------------------------------------------------------------------------------

get_link(Name, #hpv{links = Links}) ->
    case lists:keyfind(Name, 1, Links) of
        {_, L} -> L;
        false -> none
    end.

put_link(Name, L, #hpv{links = Links} = S) ->
    S#hpv{links = orddict:store(Name, L, Links)}.

take_link(Name, #hpv{links = Links} = S) ->
    case lists:keytake(Name, 1, Links) of
        {value, {_, L}, Rest} -> {L, S#hpv{links = Rest}};
        false -> none
    end.

state_of(Name, S) ->
    case get_link(Name, S) of
        #link{state = State} -> State;
        none -> none
    end.

%% Out of the active view; the link stays until the other side has said goodbye.
drain(Name, #link{state = Before} = L, Why, S0) ->
    S1 = put_link(Name, L#link{state = draining}, S0),
    S2 = case Before =:= active andalso state_of(Name, S0) =:= active of
             true -> members(notify({neighbour_down, Name, Why}, S1));
             false -> S1
         end,
    after_ms({drain, Name}, maps:get(drain_timeout, S2#hpv.opt), send(Name, {disconnect, Why}, S2)).

%% The end of a link is told by {down, _, _}; until then nothing new is begun with that node.
close(Name, L, S) ->
    emit({disconnect, Name},
         put_link(Name, L#link{state = closing}, cancel({drain, Name}, S))).

%% --- effects ----------------------------------------------------------------------------------------

emit(Effect, #hpv{out = Out} = S) -> S#hpv{out = [Effect | Out]}.
send(To, Msg, S) -> emit({send, To, Msg}, S).
spread(Msg, To, S) -> lists:foldl(fun(N, Acc) -> send(N, Msg, Acc) end, S, To).
notify(What, S) -> emit({notify, What}, S).
members(S) -> emit({members, [S#hpv.self | active_specs(S)]}, S).
after_ms(Name, Ms, S) -> emit({timer, Name, Ms}, S).
cancel(Name, S) -> emit({cancel, Name}, S).

done(#hpv{out = Out} = S) ->
    {S#hpv{out = []}, lists:reverse(Out)}.

first_tick(Name, Key, #hpv{opt = Opt, rand = Rand0} = S) ->
    {Ms, Rand} = rand:uniform_s(maps:get(Key, Opt), Rand0),
    after_ms(Name, Ms, S#hpv{rand = Rand}).

tick(Name, Key, #hpv{opt = Opt, rand = Rand0} = S) ->
    {Ms, Rand} = partisan_sample:jitter(maps:get(Key, Opt), Rand0),
    after_ms(Name, Ms, S#hpv{rand = Rand}).

pick(List, #hpv{rand = Rand0} = S) ->
    {Found, Rand} = partisan_sample:one(List, Rand0),
    {Found, S#hpv{rand = Rand}}.

some(0, _, S) ->
    {[], S};
some(N, List, #hpv{rand = Rand0} = S) ->
    {Found, Rand} = partisan_sample:some(N, List, Rand0),
    {Found, S#hpv{rand = Rand}}.
