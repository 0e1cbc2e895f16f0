%% Of partisan_hyparview: whom to ask for a place in an active view, at a join, after a failure, and where
%% groups of nodes have lost each other.
-module(partisan_hyparview_repair).

-export([request/4, rejoin/1, unanswered/3, lose/3, forget/2, heal/1, latest/1, meet/1, fill/1,
         fill_if_few/1]).

-include("partisan_hyparview.hrl").

-import(partisan_hyparview_view,
        [active/1, after_ms/3, emit/2, get_link/2, pick/2, put_link/3, send/3, some/3, spread/3,
         taken/1]).

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

%% It is remembered, and dialled now and then.
-spec lose(node(), spec(), hpv()) -> hpv().
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

%% It has left.
-spec forget(node(), hpv()) -> hpv().
forget(Name, S) ->
    S#hpv{passive = orddict:erase(Name, S#hpv.passive), lost = orddict:erase(Name, S#hpv.lost),
          joining = orddict:erase(Name, S#hpv.joining),
          contacts = [C || #{name := N} = C <- S#hpv.contacts, N =/= Name]}.

-spec heal(hpv()) -> hpv().
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

-spec latest(hpv()) -> {first, node(), integer()}.
latest(#hpv{group = Group}) -> partisan_hyparview_group:latest(Group).

%% Asks somebody known by name whether it is of this group; its refusal brings on the next.
-spec meet(hpv()) -> hpv().
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
-spec fill(hpv()) -> hpv().
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
-spec fill_if_few(hpv()) -> hpv().
fill_if_few(S) ->
    case length(active(S)) < maps:get(active_min_size, S#hpv.opt) of
        true -> fill(S);
        false -> S
    end.
