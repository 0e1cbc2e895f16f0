%% A ring: every node is linked with its successor and its predecessor, in the order of names. The
%% worked example of docs/overlays.md: the smallest overlay that heals.
%%
%% Everybody knows everybody's spec (a set, compared with both neighbours now and then), so a node
%% finds its place by itself: whom to dial follows from who is thought alive. A node that cannot be
%% reached is passed over and tried again later.
%%
%% Cost a node: two links, a comparison with two nodes each gossip_interval; the specs grow with
%% the ring. A message over a ring of N nodes takes N/4 hops on average: an example, not a choice
%% for a large cluster.
-module(partisan_ring).
-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1, defaults/0]).

-export_type([state/0]).

%% Rumours of a node that left have died out by then. Until then it cannot come back.
-define(GONE_MS, 60000).

-record(ring, {self :: partisan_overlay:spec(),
               name :: node(),
               opt :: #{atom() => term()},
               known = [] :: [{node(), partisan_overlay:spec()}],   %% sorted, without this node
               away = [] :: [node()],                               %% passed over for now
               %% Left, until when rumours of them are not believed.
               gone = #{} :: #{node() => partisan_overlay:now_ms()},
               linked = [] :: [node()],
               near = [] :: [node()]}).

-opaque state() :: #ring{}.

-spec defaults() -> partisan_overlay:config().
defaults() ->
    #{gossip_interval => 1000, retry_interval => 3000}.

-spec init(partisan_overlay:spec(), partisan_overlay:config(), partisan_overlay:now_ms(),
           rand:state()) -> {state(), [partisan_overlay:effect()]}.
init(#{name := Name} = Self, Config, _Now, _Rand) ->
    Opt = #{gossip_interval := Gossip, retry_interval := Retry} = maps:merge(defaults(), Config),
    {#ring{self = Self, name = Name, opt = Opt},
     [{members, [Self]}, {timer, gossip, Gossip}, {timer, retry, Retry}]}.

-spec handle(partisan_overlay:event(), partisan_overlay:now_ms(), state()) ->
          {state(), [partisan_overlay:effect()]}.
handle({join, #{name := Name} = Spec}, _, #ring{known = Known} = S) ->
    {S1, Effects} = place(S#ring{known = orddict:store(Name, Spec, Known)}),
    {S1, [{connect, Spec} | Effects]};
handle({leave, Name}, _, #ring{name = Name, near = Near, linked = Linked} = S) ->
    {Alone, Effects} = place(S#ring{known = [], away = []}),
    {Alone, [{send, N, {left, Name}} || N <- Near] ++ [{disconnect, N} || N <- Linked]
     ++ Effects ++ [{notify, left}]};
handle({leave, Name}, Now, S) ->
    forget(Name, Now, S);
handle({call, Tag, _}, _, S) ->
    {S, [{reply, Tag, {error, not_implemented}}]};
handle({up, Node}, _, #ring{linked = Linked, away = Away} = S) ->
    {S1, Effects} = place(S#ring{linked = ordsets:add_element(Node, Linked),
                                 away = ordsets:del_element(Node, Away)}),
    {S1, [{send, Node, specs(S1)} | Effects]};
handle({down, Node, _}, _, #ring{linked = Linked, known = Known, away = Away} = S) ->
    %% A neighbour that is lost, or a dial that failed: passed over, though not for ever. Any other
    %% link was one too many.
    Missed = orddict:is_key(Node, Known)
        andalso (lists:member(Node, wanted(S)) orelse not lists:member(Node, Linked)),
    place(S#ring{linked = ordsets:del_element(Node, Linked),
                 away = case Missed of
                            true -> ordsets:add_element(Node, Away);
                            false -> Away
                        end});
handle({msg, From, {specs, Specs}}, Now, #ring{known = Known, gone = Gone, name = Own} = S) ->
    case partisan_overlay_shape:is_specs(Specs) of
        true ->
            New = orddict:from_list([{N, Spec} || #{name := N} = Spec <- Specs, N =/= Own,
                                                  maps:get(N, Gone, Now) =< Now]),
            place(S#ring{known = orddict:merge(fun(_, _, Spec) -> Spec end, Known, New)});
        false ->
            {S, [{malformed, From}]}
    end;
handle({msg, _, {left, Node}}, Now, #ring{known = Known, near = Near} = S0) ->
    case orddict:is_key(Node, Known) of
        true ->
            {S, Effects} = forget(Node, Now, S0),
            {S, [{send, N, {left, Node}} || N <- Near, N =/= Node] ++ Effects};
        false ->
            {S0, []}
    end;
handle({msg, From, _}, _, S) ->
    {S, [{malformed, From}]};
handle({timer, gossip}, Now, #ring{near = Near, linked = Linked, gone = Gone, opt = Opt} = S) ->
    %% By now the other end knows as much as we do, so it does not want that link either.
    {S#ring{gone = maps:filter(fun(_, Until) -> Until > Now end, Gone)},
     [{timer, gossip, maps:get(gossip_interval, Opt)}]
     ++ [{send, N, specs(S)} || N <- Near]
     ++ [{disconnect, N} || N <- Linked -- wanted(S)]};
handle({timer, retry}, _, #ring{away = Away, known = Known, opt = Opt} = S) ->
    {S, [{timer, retry, maps:get(retry_interval, Opt)}
         | [{connect, Spec} || {N, Spec} <- Known, lists:member(N, Away)]]};
handle(_, _, S) ->
    {S, []}.

-spec info(state()) -> partisan_overlay:info().
info(#ring{near = Near, away = Away} = S) ->
    #{members => members(S), neighbours => Near, away => Away}.

%% The links that follow from what is known: dials what is missing, says who is a neighbour now.
place(#ring{known = Known, linked = Linked, near = Before} = S) ->
    Wanted = wanted(S),
    Near = ordsets:intersection(Wanted, Linked),
    {S#ring{near = Near},
     [{connect, orddict:fetch(N, Known)} || N <- Wanted -- Linked]
     ++ [{notify, {neighbour_down, N, replaced}} || N <- Before -- Near]
     ++ [{notify, {neighbour_up, orddict:fetch(N, Known)}} || N <- Near -- Before]
     ++ [{members, members(S)}]}.

%% Successor and predecessor among those that are not away.
wanted(#ring{name = Name, known = Known, away = Away}) ->
    {Below, Above} = lists:partition(fun(N) -> N < Name end, [N || {N, _} <- Known] -- Away),
    case Above ++ Below of
        [] -> [];
        Around -> lists:usort([hd(Around), lists:last(Around)])
    end.

forget(Node, Now, #ring{known = Known, away = Away, gone = Gone} = S) ->
    place(S#ring{known = orddict:erase(Node, Known), away = ordsets:del_element(Node, Away),
                 gone = Gone#{Node => Now + ?GONE_MS}}).

specs(S) -> {specs, members(S)}.

members(#ring{self = Self, known = Known}) -> [Self | [Spec || {_, Spec} <- Known]].
