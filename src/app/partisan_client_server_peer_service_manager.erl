%% Servers in a full mesh, and clients that connect to servers only. Option `tag` says which this
%% node is: `client` or `server`. Messages from client to client go through a server.
%%
%% A thin module: what all managers share is in partisan_manager.hrl, what this one is in its core.
-module(partisan_client_server_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-define(OWN_UPDATE, true).
-include("partisan_manager.hrl").

%% For partisan_overlay_shell.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    %% Servers are a full mesh of their own; what a client connects is hidden from `global`.
    Links = case partisan_config:get(tag) of
                server -> visible;
                _ -> hidden
            end,
    #{core => partisan_overlay_client_server, links => Links,
      config => partisan_manager:client_server_options()}.

update_members(_Specs) -> {error, not_implemented}.
