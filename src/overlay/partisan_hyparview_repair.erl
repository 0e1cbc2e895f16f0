%% Of partisan_hyparview: whom to ask for a place in an active view, at a join, after a failure, and where
%% groups of nodes have lost each other.
-module(partisan_hyparview_repair).

-export([request/4, rejoin/1, unanswered/3, lose/3, forget/2, heal/1, latest/1, meet/1, fill/1,
         fill_if_few/1]).

-include("partisan_hyparview.hrl").

-import(partisan_hyparview_view,
        [active/1, after_ms/3, emit/2, get_link/2, pick/2, put_link/3, send/3, some/3, spread/3,
         remember/2, taken/1]).

%% --- joining ----------------------------------------------------------------------------------------

%% Asks for a place in the other's active view, if nothing else is under way with it.
-spec request(spec(), priority(), user | again, hpv()) -> hpv().
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
-spec rejoin(hpv()) -> hpv().
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
-spec unanswered(node(), Reason :: term(), hpv()) -> hpv().
unanswered(Name, Reason, #hpv{told = Told} = S) ->
    case lists:member(Name, Told) of
        true ->
            S;
        false ->
            emit({log, notice, "partisan: no answer from ~ts to a join (~0tp): trying on",
                  [Name, Reason]}, S#hpv{told = [Name | Told]})
    end.

%% --- failure and repair -----------------------------------------------------------------------------

%% It is dialled now and then; each time in vain makes it no younger. Those beyond the passive view have
%% their own times for that.
-spec lose(node(), spec(), hpv()) -> hpv().
lose(Name, Spec, #hpv{lost = Lost0, opt = #{passive_max_size := Max}} = S0) ->
    Lost = case partisan_hyparview_remembered:is_tried(Name, S0#hpv.remembered) of
               true -> Lost0;
               false -> orddict:update(Name, fun({_, Since}) -> {Spec, Since} end,
                                       {Spec, S0#hpv.now}, Lost0)
           end,
    S = S0#hpv{lost = Lost, passive = orddict:erase(Name, S0#hpv.passive)},
    case length(Lost) > Max of
        true ->
            {_, Oldest} = lists:min([{At, N} || {N, {_, At}} <- Lost]),
            {OldSpec, _} = orddict:fetch(Oldest, Lost),
            remember(OldSpec, S#hpv{lost = orddict:erase(Oldest, Lost)});
        false ->
            S
    end.

%% It has left.
-spec forget(node(), hpv()) -> hpv().
forget(Name, S) ->
    S#hpv{passive = orddict:erase(Name, S#hpv.passive), lost = orddict:erase(Name, S#hpv.lost),
          joining = orddict:erase(Name, S#hpv.joining),
          remembered = partisan_hyparview_remembered:forget(Name, S#hpv.remembered),
          contacts = [C || #{name := N} = C <- S#hpv.contacts, N =/= Name]}.

-spec heal(hpv()) -> hpv().
heal(#hpv{now = Now, opt = #{heal_ttl := Ttl}} = S) ->
    {Lost, Old} = lists:partition(fun({_, {_, At}}) -> Now - At < Ttl end, S#hpv.lost),
    Young = lists:foldl(fun({_, {Spec, _}}, Acc) -> remember(Spec, Acc) end, S#hpv{lost = Lost}, Old),
    case S#hpv.phase of
        member -> meet(word(ask_one(high, lost_specs(Young), Young)));
        _ -> Young
    end.

word(S) ->
    case partisan_hyparview_group:tick(S#hpv.now, S#hpv.group) of
        {false, Group} -> S#hpv{group = Group};
        {true, Group} -> spread(partisan_hyparview_group:latest(Group), active(S), S#hpv{group = Group})
    end.

-spec latest(hpv()) -> {first, node(), integer()}.
latest(#hpv{group = Group}) -> partisan_hyparview_group:latest(Group).

%% Asks somebody known by name whether it is of this group; its refusal, or none, brings on the next.
-spec meet(hpv()) -> hpv().
meet(S0) ->
    Passive = strangers(S0#hpv.passive, S0),
    Known = Passive ++ [E || {N, _} = E <- due(S0), not orddict:is_key(N, Passive)],
    {Name, Group} = partisan_hyparview_group:next([N || {N, _} <- Known], S0#hpv.now, S0#hpv.group),
    S = S0#hpv{group = Group},
    case Name of
        none -> S;
        _ -> ask(proplists:get_value(Name, Known), apart, S)
    end.

ask_one(Priority, Specs, S0) ->
    case pick(Specs, S0) of
        {{value, Spec}, S} -> request(Spec, Priority, again, S);
        {none, S} -> S
    end.

lost_specs(#hpv{lost = Lost} = S) ->
    [Spec || {N, {Spec, _}} <- Lost, get_link(N, S) =:= none].

%% Free places in the active view are offered to passive nodes, high in priority if it is empty.
-spec fill(hpv()) -> hpv().
fill(#hpv{phase = member} = S0) ->
    Wanted = max(0, maps:get(active_max_size, S0#hpv.opt) - taken(S0)),
    Free = case strangers(S0#hpv.passive, S0) of
               [] when Wanted > 0 -> due(S0);
               Passive -> [E || {N, _} = E <- Passive, not lists:member(N, S0#hpv.refused)]
           end,
    {Chosen, S} = some(Wanted, Free, S0),
    Priority = case active(S) of
                   [] -> high;
                   _ -> low
               end,
    lists:foldl(fun({_, Spec}, Acc) -> ask(Spec, Priority, Acc) end, S, Chosen);
fill(S) ->
    S.

%% Those beyond the passive view that may be asked now.
due(#hpv{remembered = Remembered, now = Now} = S) ->
    strangers(partisan_hyparview_remembered:due(Now, Remembered), S).

strangers(Known, S) ->
    [E || {N, _} = E <- Known, get_link(N, S) =:= none].

%% If it is one of those, it is not asked again soon.
ask(#{name := Name} = Spec, Priority, #hpv{remembered = Remembered} = S) ->
    Contact = lists:any(fun(#{name := N}) -> N =:= Name end, S#hpv.contacts),
    First = maps:get(heal_interval, S#hpv.opt),
    request(Spec, Priority, again,
            S#hpv{remembered = partisan_hyparview_remembered:tried(Name, First, Contact, S#hpv.now,
                                                                   Remembered)}).

%% Where all are full, asking round costs a dial each: who has enough waits for the next tick.
-spec fill_if_few(hpv()) -> hpv().
fill_if_few(S) ->
    case length(active(S)) < maps:get(active_min_size, S#hpv.opt) of
        true -> fill(S);
        false -> S
    end.
