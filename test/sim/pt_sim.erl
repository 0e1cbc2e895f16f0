%% A network of overlay cores under a virtual clock, in one process: the cores are the product's,
%% only the shell is another. Everything random comes from one seed, so a run can be repeated.
%%
%% A node is an overlay core and any number of cores above it (layers), which are told the overlay's
%% notices as events and send over its links. Links are as the behaviour promises them: both ways,
%% in order, with a delay of their own for each message; they end with a node, with a cut, or by
%% `disconnect`. Time is in whole milliseconds.
-module(pt_sim).

-export([new/1, start/2, join/3, run/2, tell/4, kill/2, restart/2, cut/2, mend/1, lossy/2, delay/2]).
-export([now/1, alive/1, is_alive/2, overlay/2, layer/3, neighbours/2, counters/1, reset_counters/1,
         collected/1, set_collected/2, sample/3, uniform/2, spec/1]).

-export_type([sim/0]).

-record(node, {spec, overlay, layers = #{}, timers = #{},
               %% Links as this end sees them, with the time the last message sent will arrive.
               ends = #{} :: #{node() => {Epoch :: integer(), non_neg_integer()}},
               %% Dials under way, with what waits for them, newest first.
               dials = #{} :: #{node() => {integer(), [{atom(), term()}]}}}).

-record(sim, {now = 0 :: non_neg_integer(),
              seq = 0 :: non_neg_integer(),
              wheel = #{} :: #{non_neg_integer() => [tuple()]},
              nodes = #{} :: #{node() => #node{}},
              groups = none :: none | #{node() => term()},
              rand :: rand:state(),
              opts :: map(),
              counters = #{} :: #{term() => non_neg_integer()},
              collected :: term()}).

-opaque sim() :: #sim{}.

%% Options:
%%   overlay => {Module, Config}
%%   layers => [{Name, Module, Config}]          events {neighbour_up, Spec}, {neighbour_down, N, R}
%%   shell => fun(Event, Name, LayerState) -> Event    what a layer's shell adds to an event
%%   collect => fun(Node, Layer, Effect, Acc) -> Acc   effects that are nobody's, Acc in `acc`
%%   seed, delay => {Min, Max} ms a message, detect => {Min, Max} ms until a death is seen,
%%   dial_timeout => ms until a dial across a cut fails
%%   distance => fun(A, B) -> us, what a core measures
new(Opts0) ->
    Opts = maps:merge(#{seed => 1, delay => {1, 10}, detect => {1, 20}, dial_timeout => 7000,
                        loss => 0.0, which => fun(_, _) -> true end, layers => [], acc => none,
                        distance => fun(_, _) -> 1000 end,
                        shell => fun(Event, _, _) -> Event end,
                        collect => fun(_, _, _, Acc) -> Acc end}, Opts0),
    #sim{opts = Opts, collected = maps:get(acc, Opts),
         rand = rand:seed_s(exsss, maps:get(seed, Opts))}.

spec(Name) ->
    #{name => Name}.

start(Name, #sim{opts = #{overlay := {Mod, Config}, layers := Layers}} = S0) ->
    Spec = spec(Name),
    {Seed, S1} = seed(S0),
    {State, Effects} = Mod:init(Spec, Config, S1#sim.now, Seed),
    S2 = put_node(Name, #node{spec = Spec, overlay = State}, S1),
    S3 = lists:foldl(fun({L, LMod, LConfig}, Acc0) ->
                             {LSeed, Acc1} = seed(Acc0),
                             {LState, LEffects} = LMod:init(Spec, LConfig, Acc1#sim.now, LSeed),
                             #node{layers = Ls} = N = maps:get(Name, Acc1#sim.nodes),
                             Acc = put_node(Name, N#node{layers = Ls#{L => {LMod, LState}}}, Acc1),
                             effects(LEffects, Name, L, Acc)
                     end, S2, Layers),
    effects(Effects, Name, overlay, S3).

join(Name, Contact, S) ->
    tell(Name, overlay, {join, spec(Contact)}, S).

%% An event for one core, now.
tell(Name, Layer, Event, #sim{nodes = Nodes} = S) ->
    case Nodes of
        #{Name := Node} -> handle(Layer, Event, Name, Node, S);
        #{} -> S
    end.

%% On by Ms of virtual time.
run(Ms, #sim{now = Now} = S) ->
    loop(Now + Ms, S).

loop(End, #sim{now = Now, wheel = Wheel} = S) ->
    case maps:take(Now, Wheel) of
        {Events, Rest} ->
            loop(End, lists:foldl(fun happen/2, S#sim{wheel = Rest}, lists:reverse(Events)));
        error when Now >= End ->
            S;
        error ->
            loop(End, S#sim{now = Now + 1})
    end.

%% Dead at once; the others see their links end after `detect`.
kill(Names, S) ->
    lists:foldl(fun kill_one/2, S, Names).

kill_one(Name, #sim{nodes = Nodes, opts = #{detect := Detect}} = S) ->
    case maps:take(Name, Nodes) of
        {#node{ends = Ends}, Rest} ->
            lists:foldl(fun({Peer, {Epoch, _}}, Acc0) ->
                                {D, Acc} = between(Detect, Acc0),
                                at(D, {lost, Peer, Name, Epoch}, Acc)
                        end, S#sim{nodes = Rest}, lists:sort(maps:to_list(Ends)));
        error ->
            S
    end.

%% The overlay's core starts anew on a node whose links stand: what a crash of its shell looks like.
restart(Name, #sim{nodes = Nodes, opts = #{overlay := {Mod, Config}}} = S0) ->
    case Nodes of
        #{Name := #node{spec = Spec, ends = Ends, timers = Timers} = Node} ->
            {Seed, S1} = seed(S0),
            {State, Effects} = Mod:init(Spec, Config, S1#sim.now, Seed),
            Kept = maps:filter(fun({Layer, _}, _) -> Layer =/= overlay end, Timers),
            S2 = put_node(Name, Node#node{overlay = State, timers = Kept, dials = #{}}, S1),
            lists:foldl(fun(Peer, S) -> tell(Name, overlay, {up, Peer}, S) end,
                        effects(Effects, Name, overlay, S2), lists:sort(maps:keys(Ends)));
        #{} ->
            S0
    end.

%% Only nodes of one group reach each other from now on; nodes that are in none are alone.
cut(Groups, #sim{nodes = Nodes, opts = #{detect := Detect}} = S0) ->
    Of = maps:from_list([{N, I} || {I, G} <- lists:enumerate(Groups), N <- G]),
    S1 = S0#sim{groups = Of},
    Ends = [{A, B, Epoch} || {A, #node{ends = Es}} <- maps:to_list(Nodes),
                             {B, {Epoch, _}} <- maps:to_list(Es), not reachable(A, B, S1)],
    lists:foldl(fun({A, B, Epoch}, Acc0) ->
                        {D, Acc} = between(Detect, Acc0),
                        at(D, {lost, A, B, Epoch}, Acc)
                end, S1, lists:sort(Ends)).

mend(S) ->
    S#sim{groups = none}.

%% From now on each message that Which(Layer, Message) picks is lost with this probability, on a link
%% that stands: harder than TCP is.
lossy({Share, Which}, #sim{opts = Opts} = S) ->
    S#sim{opts = Opts#{loss => Share, which => Which}}.

%% From now on messages take this long, {Min, Max} ms.
delay(Delay, #sim{opts = Opts} = S) ->
    S#sim{opts = Opts#{delay => Delay}}.

%% --- looking ----------------------------------------------------------------------------------------

now(#sim{now = Now}) -> Now.
alive(#sim{nodes = Nodes}) -> lists:sort(maps:keys(Nodes)).
is_alive(Name, #sim{nodes = Nodes}) -> is_map_key(Name, Nodes).

overlay(Name, #sim{nodes = Nodes, opts = #{overlay := {Mod, _}}}) ->
    Mod:info((maps:get(Name, Nodes))#node.overlay).

layer(Name, Layer, #sim{nodes = Nodes}) ->
    {_, State} = maps:get(Layer, (maps:get(Name, Nodes))#node.layers),
    State.

neighbours(Name, S) ->
    maps:get(neighbours, overlay(Name, S)).

%% Messages sent, by {Layer, Kind}; deaths, dials.
counters(#sim{counters = C}) -> C.
reset_counters(S) -> S#sim{counters = #{}}.

collected(#sim{collected = Acc}) -> Acc.
set_collected(Acc, S) -> S#sim{collected = Acc}.

%% N different elements, chosen with the simulation's own randomness.
sample(N, List, #sim{rand = R0} = S) ->
    {Chosen, R} = partisan_sample:some(N, List, R0),
    {Chosen, S#sim{rand = R}}.

uniform(N, #sim{rand = R0} = S) ->
    {K, R} = rand:uniform_s(N, R0),
    {K, S#sim{rand = R}}.

%% --- what happens -----------------------------------------------------------------------------------

happen({timer, Name, Layer, Timer, Ref}, #sim{nodes = Nodes} = S) ->
    case Nodes of
        #{Name := #node{timers = #{{Layer, Timer} := Ref} = Timers} = Node} ->
            handle(Layer, {timer, Timer}, Name,
                   Node#node{timers = maps:remove({Layer, Timer}, Timers)}, S);
        #{} ->
            S
    end;
happen({msg, From, To, Epoch, Layer, Msg}, S) ->
    case link(To, From, S) of
        {Epoch, _} ->
            case reachable(From, To, S) of
                true -> tell(To, Layer, {msg, From, Msg}, S);
                false -> S
            end;
        _ ->
            S
    end;
happen({dialled, From, To, Ref}, S0) ->
    case take_dial(From, To, S0) of
        {{Ref, Queue}, S} ->
            case is_alive(To, S) andalso reachable(From, To, S) of
                true -> established(From, To, Queue, S);
                false -> tell(From, overlay, {down, To, refused}, S)
            end;
        _ ->
            S0
    end;
happen({lost, At, Peer, Epoch}, S) ->
    case link(At, Peer, S) of
        {Epoch, _} -> lost(At, Peer, S);
        _ -> S
    end;
happen({measured, From, To}, #sim{opts = #{distance := Distance}} = S) ->
    Time = case is_alive(To, S) andalso reachable(From, To, S) of
               true -> Distance(From, To);
               false -> unreachable
           end,
    tell(From, overlay, {latency, To, Time}, S);
happen({hung_up, Name, Peer}, S) ->
    tell(Name, overlay, {down, Peer, not_linked}, S);
happen({linked, Name, Peer, Epoch}, S) ->
    case link(Name, Peer, S) of
        {Epoch, _} -> tell(Name, overlay, {up, Peer}, S);
        _ -> S                                   %% its down has been told meanwhile
    end.

established(From, To, Queue, S0) ->
    {Other, S1} = case take_dial(To, From, S0) of
                      {{_, Q}, Acc} -> {Q, Acc};
                      none -> {[], S0}
                  end,
    %% An end that has not yet seen the old link go sees that first.
    S2 = lost(To, From, lost(From, To, S1)),
    {Epoch, S3} = next(S2),
    S4 = put_end(From, To, {Epoch, 0}, put_end(To, From, {Epoch, 0}, S3)),
    S5 = tell(To, overlay, {up, From}, tell(From, overlay, {up, To}, S4)),
    flush(To, From, Other, flush(From, To, Queue, S5)).

flush(From, To, Queue, S) ->
    lists:foldr(fun({Layer, Msg}, Acc) -> transmit(From, To, Layer, Msg, Acc) end, S, Queue).

lost(At, Peer, #sim{nodes = Nodes} = S) ->
    case link(At, Peer, S) of
        none ->
            S;
        _ ->
            #{At := #node{ends = Ends} = Node} = Nodes,
            tell(At, overlay, {down, Peer, lost},
                 put_node(At, Node#node{ends = maps:remove(Peer, Ends)}, S))
    end.

%% --- effects ----------------------------------------------------------------------------------------

handle(overlay, Event, Name, #node{overlay = State0} = Node, #sim{opts = #{overlay := {Mod, _}}} = S) ->
    {State, Effects} = Mod:handle(Event, S#sim.now, State0),
    effects(Effects, Name, overlay, put_node(Name, Node#node{overlay = State}, S));
handle(Layer, Event0, Name, #node{layers = Layers} = Node, #sim{opts = #{shell := Shell}} = S) ->
    #{Layer := {Mod, State0}} = Layers,
    Event = Shell(Event0, Name, State0),
    {State, Effects} = Mod:handle(Event, S#sim.now, State0),
    effects(Effects, Name, Layer,
            put_node(Name, Node#node{layers = Layers#{Layer => {Mod, State}}}, S)).

effects(Effects, Name, Layer, S) ->
    lists:foldl(fun(E, Acc) -> effect(E, Name, Layer, Acc) end, S, Effects).

effect({send, To, Msg}, From, Layer, S) ->
    transmit(From, To, Layer, Msg, S);
effect({timer, Timer, Ms}, Name, Layer, S0) ->
    {Ref, S} = next(S0),
    #node{timers = Ts} = Node = maps:get(Name, S#sim.nodes),
    at(Ms, {timer, Name, Layer, Timer, Ref},
       put_node(Name, Node#node{timers = Ts#{{Layer, Timer} => Ref}}, S));
effect({cancel, Timer}, Name, Layer, S) ->
    #node{timers = Ts} = Node = maps:get(Name, S#sim.nodes),
    put_node(Name, Node#node{timers = maps:remove({Layer, Timer}, Ts)}, S);
effect({connect, #{name := To}}, From, overlay, S) ->
    dial(From, To, S);
effect({disconnect, To}, From, overlay, S) ->
    hang_up(From, To, S);
effect({members, _}, _, _, S) ->
    S;
effect({measure, #{name := To}}, From, overlay, S) ->
    at(3, {measured, From, To}, S);
effect({notify, Notice}, Name, overlay, #sim{opts = #{layers := Layers}} = S0) ->
    S = collect(Name, overlay, {notify, Notice}, S0),
    case Notice of
        left -> S;
        _ -> lists:foldl(fun({L, _, _}, Acc) -> tell(Name, L, Notice, Acc) end, S, Layers)
    end;
effect({tell, Layer, Event}, Name, _, S) ->
    tell(Name, Layer, Event, S);
effect(Other, Name, Layer, S) ->
    collect(Name, Layer, Other, S).

collect(Name, Layer, Effect, #sim{opts = #{collect := F}, collected = Acc} = S) ->
    S#sim{collected = F(Name, Layer, Effect, Acc)}.

transmit(From, To, Layer, Msg, #sim{opts = #{loss := Loss, which := Which, delay := Delay}} = S0) ->
    case link(From, To, S0) of
        {Epoch, Last} ->
            {Bad, S1} = chance(Loss, count({Layer, kind(Msg)}, S0)),
            case Bad andalso Which(Layer, Msg) of
                true ->
                    count({lost, Layer}, S1);
                false ->
                    {D, S2} = between(Delay, S1),
                    Time = max(Last, S2#sim.now + D),
                    S = put_end(From, To, {Epoch, Time}, S2),
                    at(Time - S#sim.now, {msg, From, To, Epoch, Layer, Msg}, S)
            end;
        none ->
            case take_dial(From, To, S0) of
                {{Ref, Queue}, S} -> put_dial(From, To, {Ref, [{Layer, Msg} | Queue]}, S);
                none -> count({nowhere, Layer}, S0)
            end
    end.

kind(Msg) when is_tuple(Msg) -> element(1, Msg);
kind(Msg) -> Msg.

dial(From, To, #sim{opts = #{delay := Delay, dial_timeout := Timeout}} = S0) ->
    case {link(From, To, S0), take_dial(From, To, S0)} of
        {{Epoch, _}, _} ->
            at(0, {linked, From, To, Epoch}, S0);
        {none, none} ->
            {Ref, S1} = next(count(dial, S0)),
            {D, S2} = between(Delay, S1),
            Ms = case reachable(From, To, S2) of
                     true -> 2 * D;
                     false -> Timeout
                 end,
            at(Ms, {dialled, From, To, Ref}, put_dial(From, To, {Ref, []}, S2));
        {none, _} ->
            S0
    end.

%% Closed at both ends once what was sent before has arrived.
hang_up(From, To, S) ->
    case {link(From, To, S), take_dial(From, To, S)} of
        {{Epoch, Last}, _} ->
            Wait = max(Last - S#sim.now, 0) + 1,
            at(Wait, {lost, From, To, Epoch}, at(Wait, {lost, To, From, Epoch}, S));
        {none, {_, Undialled}} ->
            at(0, {hung_up, From, To}, Undialled);
        {none, none} ->
            at(0, {hung_up, From, To}, S)
    end.

%% --- parts ------------------------------------------------------------------------------------------

link(At, Peer, #sim{nodes = Nodes}) ->
    case Nodes of
        #{At := #node{ends = #{Peer := End}}} -> End;
        #{} -> none
    end.

put_end(At, Peer, End, #sim{nodes = Nodes} = S) ->
    #{At := #node{ends = Ends} = Node} = Nodes,
    put_node(At, Node#node{ends = Ends#{Peer => End}}, S).

take_dial(From, To, #sim{nodes = Nodes} = S) ->
    case Nodes of
        #{From := #node{dials = #{To := Dial} = Dials} = Node} ->
            {Dial, put_node(From, Node#node{dials = maps:remove(To, Dials)}, S)};
        #{} ->
            none
    end.

put_dial(From, To, Dial, #sim{nodes = Nodes} = S) ->
    #{From := #node{dials = Dials} = Node} = Nodes,
    put_node(From, Node#node{dials = Dials#{To => Dial}}, S).

reachable(_, _, #sim{groups = none}) -> true;
reachable(A, B, #sim{groups = Of}) -> maps:get(A, Of, A) =:= maps:get(B, Of, B).

put_node(Name, Node, #sim{nodes = Nodes} = S) ->
    S#sim{nodes = Nodes#{Name => Node}}.

at(Ms, What, #sim{now = Now, wheel = Wheel} = S) ->
    Time = Now + Ms,
    S#sim{wheel = Wheel#{Time => [What | maps:get(Time, Wheel, [])]}}.

next(#sim{seq = Seq} = S) ->
    {Seq, S#sim{seq = Seq + 1}}.

seed(S0) ->
    {K, S} = uniform(1 bsl 58, S0),
    {rand:seed_s(exsss, K), S}.

between({Min, Min}, S) ->
    {Min, S};
between({Min, Max}, S0) ->
    {K, S} = uniform(Max - Min + 1, S0),
    {Min + K - 1, S}.

chance(P, S) when P == 0 ->
    {false, S};
chance(P, #sim{rand = R0} = S) ->
    {X, R} = rand:uniform_s(R0),
    {X < P, S#sim{rand = R}}.

count(What, #sim{counters = C} = S) ->
    S#sim{counters = C#{What => maps:get(What, C, 0) + 1}}.
