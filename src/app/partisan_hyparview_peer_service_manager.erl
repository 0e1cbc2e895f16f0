%% HyParView: a few neighbours each, whatever the size of the cluster, and messages to all other
%% members by relay (docs/overlays.md).
%%
%% A thin module: what all managers share is in partisan_manager.hrl, what this one is in its core.
-module(partisan_hyparview_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).
-export([active/0, active/1, passive/0]).

%% A message to a member must not run in circles for ever while routes change; ways in a thousand
%% nodes with five neighbours each have at most seven hops or so.
-define(HOPS, 32).

-define(OWN_RELAY, true).
-include("partisan_manager.hrl").

%% For partisan_overlay_shell.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    #{core => partisan_overlay_routed, links => hidden,
      config => #{core => partisan_hyparview, options => options(),
                  incarnation => erlang:system_time(microsecond)}}.

%% Partisan counts the node itself among its active view.
options() ->
    case partisan_config:get(hyparview) of
        #{active_max_size := N} = Given when is_integer(N) -> Given#{active_max_size := N - 1};
        Given -> Given
    end.

relay_message(Node, Dest, Message, Opts) ->
    partisan_relay:send(Node, Dest, Message, max(?HOPS, partisan_config:get(relay_ttl)), Opts).

%% The views, as sets of specs; of the active view also those with a tag.
-spec active() -> {ok, sets:set(partisan_node_spec:t())}.
active() ->
    {ok, [_Self | Active]} = partisan_overlay_shell:members(),
    {ok, sets:from_list(Active)}.

-spec active(term()) -> {ok, sets:set(partisan_node_spec:t())}.
active(Tag) ->
    {ok, Active} = active(),
    {ok, sets:filter(fun(Spec) -> maps:get(tag, Spec, undefined) =:= Tag end, Active)}.

-spec passive() -> {ok, sets:set(partisan_node_spec:t())}.
passive() ->
    #{passive := Passive} = partisan_overlay_shell:info(),
    {ok, sets:from_list(Passive)}.
