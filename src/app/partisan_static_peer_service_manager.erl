%% Links from the configuration (option `static`, `#{peers => [Spec]}`) and from join/1, and nobody
%% tells anybody of others.
%%
%% A thin module: what all managers share is in partisan_manager.hrl, what this one is in its core.
-module(partisan_static_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-define(OWN_UPDATE, true).
-include("partisan_manager.hrl").

%% For partisan_overlay_shell.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    #{core => partisan_overlay_static, links => hidden, config => partisan_manager:static_options()}.

update_members(_Specs) -> {error, not_implemented}.
