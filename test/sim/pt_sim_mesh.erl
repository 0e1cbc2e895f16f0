%% The simplest overlay: links with whom one joined, for ever. Gives a layer a graph of the test's
%% choosing that nothing repairs.
-module(pt_sim_mesh).
-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

init(Self, _Config, _Now, _Rand) ->
    {{Self, []}, []}.

handle({join, Spec}, _, State) ->
    {State, [{connect, Spec}]};
handle({up, Node}, _, {Self, Near}) ->
    {{Self, ordsets:add_element(Node, Near)}, [{notify, {neighbour_up, #{name => Node}}}]};
handle({down, Node, Reason}, _, {Self, Near}) ->
    case ordsets:is_element(Node, Near) of
        true ->
            {{Self, ordsets:del_element(Node, Near)}, [{notify, {neighbour_down, Node, Reason}}]};
        false ->
            {{Self, Near}, []}
    end;
handle(_, _, State) ->
    {State, []}.

info({Self, Near}) ->
    #{members => [Self], neighbours => Near}.
