%% An overlay with routes: any core, and beside it the link-state map of its neighbours, so that a
%% message finds its way to a member that is no neighbour. A core made of cores, itself pure.
%%
%% Each change of the own neighbours is spread over a broadcast tree (partisan_plumtree, shared by
%% all), after `advertise` so that several changes go as one. What a broadcast missed, comparisons
%% find: with each new neighbour at once, with one at random each exchange_tick_period. They begin
%% with a hash, so that equal maps cost one small message.
%%
%% The routes go to the shell as differences: `{routes, [{Node, Via}], Gone}`. They change at once
%% when an own neighbour comes or goes, and after `settle` for news from elsewhere, since routes of a
%% large cluster are not worked out for each of a thousand news.
%%
%% Memory grows with the cluster: a word of about 170 bytes a node, kept for `keep` beyond the time
%% the node was last reachable.
-module(partisan_overlay_routed).
-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1, defaults/0]).

-export_type([state/0]).

-record(rt, {core :: module(),
             overlay :: term(),
             tree :: partisan_plumtree:state(),
             map :: partisan_route:t(),
             opt :: #{atom() => term()},
             neighbours = [] :: [node()],
             table = #{} :: #{node() => node()},
             %% Nodes with a word but no way to them, since when.
             away = #{} :: #{node() => partisan_overlay:now_ms()},
             now :: partisan_overlay:now_ms(),
             settling = false :: boolean(),
             out = [] :: [partisan_overlay:effect()]}).

-opaque state() :: #rt{}.

%% core: the overlay's core. incarnation: grows from one start of the node to the next.
%% options: those of the core. tree: those of the broadcast tree.
-spec defaults() -> partisan_overlay:config().
defaults() ->
    #{core => partisan_hyparview, options => #{}, incarnation => 0, tree => #{},
      advertise => 50, settle => 50, keep => 3600000}.

%% Words are small and a stale route loses messages: repair is faster than for users' broadcasts.
tree_defaults() ->
    #{trees => shared, lazy_tick_period => 100, graft_timeout => 200, graft_retry => 100,
      %% Maps are compared with each new neighbour: that finds what names would.
      exchange_tick_period => 5000, introduce => off}.

-spec init(partisan_overlay:spec(), partisan_overlay:config(), partisan_overlay:now_ms(),
           rand:state()) -> {state(), [partisan_overlay:effect()]}.
init(#{name := Name} = Self, Config, Now, Rand0) ->
    #{core := Core, options := Options, incarnation := Incarnation, tree := Tree} = Opt =
        maps:merge(defaults(), Config),
    [error({bad_option, Key, Value, "no such option"})
     || {Key, Value} <- maps:to_list(Opt), not is_map_key(Key, defaults())],
    {K, Rand} = rand:uniform_s(1 bsl 58, Rand0),
    {OState, OEffects} = Core:init(Self, Options, Now, Rand),
    {TState, TEffects} = partisan_plumtree:init(Self, maps:merge(tree_defaults(), Tree), Now,
                                                rand:seed_s(exsss, K)),
    S = #rt{core = Core, overlay = OState, tree = TState, opt = Opt, now = Now,
            map = partisan_route:new(Name, Incarnation)},
    done(effects(tree, TEffects, effects(overlay, OEffects, S))).

-spec handle(partisan_overlay:event(), partisan_overlay:now_ms(), state()) ->
          {state(), [partisan_overlay:effect()]}.
handle(Event, Now, S) ->
    done(event(Event, S#rt{now = Now})).

%% The core's, with what it knows of other nodes: `known`, all that there is a way to; `routes`.
-spec info(state()) -> partisan_overlay:info().
info(#rt{core = Core, overlay = Overlay, map = Map, table = Table, tree = Tree}) ->
    Info = Core:info(Overlay),
    Info#{known => partisan_route:reachable(Map),
          routes => Table,
          words => partisan_route:words([N || {N, _} <- partisan_route:digest(Map)], Map),
          tree => maps:get(trees, partisan_plumtree:info(Tree))}.

%% --- events -----------------------------------------------------------------------------------------

event({msg, From, {overlay, Msg}}, S) ->
    overlay({msg, From, Msg}, S);                %% that core knows what it can take
event({msg, From, Msg}, S) ->
    case well_formed(Msg) of
        true -> msg(Msg, From, S);
        false -> emit({malformed, From}, S)
    end;
event({timer, {overlay, Name}}, S) ->
    overlay({timer, Name}, S);
event({timer, {tree, Name}}, S) ->
    tree({timer, Name}, S);
event({timer, advertise}, S) ->
    advertise(S);
event({timer, settle}, S) ->
    routes(S#rt{settling = false});
event({timer, sweep}, S) ->
    sweep(S);
event(Event, S) ->
    overlay(Event, S).

msg({tree, Msg}, From, S0) ->
    {Answers, S} = lists:mapfoldl(fun answer/2, S0, partisan_plumtree:questions(Msg)),
    tree({msg, From, Msg, Answers}, S);
msg({map, Msg}, From, S) ->
    compare(Msg, From, S).

%% Of the tree's payloads those that are to become part of the map count.
well_formed({tree, {payload, _, {partisan_route, _}, _, Word} = Msg}) ->
    partisan_plumtree:well_formed(Msg) andalso partisan_route:is_word(Word);
well_formed({tree, Msg}) -> partisan_plumtree:well_formed(Msg);
well_formed({map, {hash, Hash}}) -> is_integer(Hash);
well_formed({map, {digest, Digest}}) -> partisan_route:is_digest(Digest);
well_formed({map, {words, Words, Want}}) ->
    partisan_overlay_shape:all(fun partisan_route:is_word/1, Words)
        andalso partisan_overlay_shape:is_names(Want);
well_formed(_) -> false.

overlay(Event, #rt{core = Core, overlay = State0, now = Now} = S) ->
    {State, Effects} = Core:handle(Event, Now, State0),
    effects(overlay, Effects, S#rt{overlay = State}).

tree(Event, #rt{tree = State0, now = Now} = S) ->
    {State, Effects} = partisan_plumtree:handle(Event, Now, State0),
    effects(tree, Effects, S#rt{tree = State}).

effects(Who, Effects, S) ->
    lists:foldl(fun(E, Acc) -> effect(E, Who, Acc) end, S, Effects).

effect({send, Node, Msg}, Who, S) ->
    emit({send, Node, {Who, Msg}}, S);
effect({timer, Name, Ms}, Who, S) ->
    emit({timer, {Who, Name}, Ms}, S);
effect({cancel, Name}, Who, S) ->
    emit({cancel, {Who, Name}}, S);
effect({exchange, Node}, tree, S) ->
    emit({send, Node, {map, {hash, partisan_route:hash(S#rt.map)}}}, S);
effect({notify, {neighbour_up, #{name := Node}} = Notice}, overlay, S0) ->
    S1 = tree(Notice, emit({notify, Notice}, S0)),
    S2 = changed(ordsets:add_element(Node, S1#rt.neighbours), S1),
    emit({send, Node, {map, {hash, partisan_route:hash(S2#rt.map)}}}, S2);
effect({notify, {neighbour_down, Node, _} = Notice}, overlay, S0) ->
    S1 = tree(Notice, emit({notify, Notice}, S0)),
    changed(ordsets:del_element(Node, S1#rt.neighbours), S1);
effect(Effect, overlay, S) ->
    emit(Effect, S).

%% The handlers of the tree's messages: the map is the store.
answer({merge, partisan_route, _, Word}, S) ->
    learn(Word, S);
answer({is_stale, partisan_route, {Node, Version}}, #rt{map = Map} = S) ->
    {partisan_route:is_known(Node, Version, Map), S};
answer({graft, partisan_route, {Node, Version}}, #rt{map = Map} = S) ->
    case partisan_route:find(Node, Map) of
        {ok, {_, Version, _} = Word} -> {{ok, Word}, S};
        _ -> {stale, S}                          %% a later word is on its way by itself
    end;
answer(_, S) ->
    {false, S}.

%% --- our own word -----------------------------------------------------------------------------------

%% Our routes at once, our word to the others a little later. The map has our links from now on: a
%% way over a link that is gone must not be taken even once.
changed(Neighbours, #rt{neighbours = Before, opt = Opt} = S0) when Neighbours =/= Before ->
    {_, Map} = partisan_route:local(Neighbours, S0#rt.map),
    S = S0#rt{neighbours = Neighbours, map = Map},
    routes(emit({timer, advertise, maps:get(advertise, Opt)}, S));
changed(_, S) ->
    S.

advertise(#rt{map = Map} = S) ->
    {Node, Version, _} = Word = partisan_route:own(Map),
    tree({broadcast, partisan_route, {Node, Version}, Word}, S).

%% --- others' words ----------------------------------------------------------------------------------

learn(Word, #rt{map = Map0, neighbours = Neighbours, opt = Opt} = S) ->
    case partisan_route:learn(Word, Map0) of
        {new, Map} ->
            {true, settle(S#rt{map = Map})};
        {old, _} ->
            {false, S};
        {mine, Map1} ->
            {_, Map} = partisan_route:local(Neighbours, Map1),
            {true, emit({timer, advertise, maps:get(advertise, Opt)}, S#rt{map = Map})}
    end.

compare({hash, Hash}, From, #rt{map = Map} = S) ->
    case partisan_route:hash(Map) of
        Hash -> S;
        _ -> emit({send, From, {map, {digest, partisan_route:digest(Map)}}}, S)
    end;
compare({digest, Digest}, From, #rt{map = Map} = S) ->
    {Words, Want} = partisan_route:lacking(Digest, Map),
    emit({send, From, {map, {words, Words, Want}}}, S);
compare({words, Words, Want}, From, S0) ->
    S = lists:foldl(fun(Word, Acc0) -> {_, Acc} = learn(Word, Acc0), Acc end, S0, Words),
    case Want of
        [] -> S;
        _ -> emit({send, From, {map, {words, partisan_route:words(Want, S#rt.map), []}}}, S)
    end.

%% --- routes -----------------------------------------------------------------------------------------

settle(#rt{settling = true} = S) ->
    S;
settle(#rt{opt = Opt} = S) ->
    emit({timer, settle, maps:get(settle, Opt)}, S#rt{settling = true}).

routes(#rt{map = Map, table = Old, away = Away, now = Now, opt = Opt} = S0) ->
    New = partisan_route:routes(Map),
    Add = [R || {Node, Via} = R <- lists:sort(maps:to_list(New)), maps:get(Node, Old, none) =/= Via],
    Gone = lists:sort([N || N <- maps:keys(Old), not is_map_key(N, New)]),
    Reachable = partisan_route:reachable(Map),
    Lost = [N || {N, _} <- partisan_route:digest(Map)] -- Reachable,
    S = S0#rt{table = New, away = maps:from_list([{N, maps:get(N, Away, Now)} || N <- Lost])},
    S1 = case map_size(Away) =:= 0 andalso Lost =/= [] of
             true -> emit({timer, sweep, maps:get(keep, Opt)}, S);
             false -> S
         end,
    S2 = case {Add, Gone} of
             {[], []} -> S1;
             _ -> emit({routes, Add, Gone}, S1)
         end,
    emit({ways, Map}, S2).

sweep(#rt{away = Away, now = Now, map = Map, opt = #{keep := Keep}} = S) ->
    {Old, Young} = lists:partition(fun({_, Since}) -> Now - Since >= Keep end, maps:to_list(Away)),
    S1 = S#rt{map = partisan_route:forget([N || {N, _} <- Old], Map), away = maps:from_list(Young)},
    case Young of
        [] -> S1;
        _ -> emit({timer, sweep, Keep - (Now - lists:min([Since || {_, Since} <- Young]))}, S1)
    end.

emit(Effect, #rt{out = Out} = S) -> S#rt{out = [Effect | Out]}.

done(#rt{out = Out} = S) ->
    {S#rt{out = []}, lists:reverse(Out)}.
