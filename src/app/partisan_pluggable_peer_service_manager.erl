%% The full mesh: every member has a connection to every other. The default.
%%
%% A thin module: what all managers share is in partisan_manager.hrl, what this one is in its core.
-module(partisan_pluggable_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-include("partisan_manager.hrl").

%% For partisan_overlay_shell. Connections of the full mesh are ordinary ones of Erlang, which rpc,
%% global and everybody use: leaving the cluster closes channels, not those.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    #{core => partisan_overlay_full, links => visible,
      config => (partisan_manager:full_options())#{keep_links => true}}.
