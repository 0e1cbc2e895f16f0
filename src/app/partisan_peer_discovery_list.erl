%% Peer discovery from the configuration: `config => #{peers => [...]}`, each a spec, a node name or
%% "host:port". A plain list (`addresses`, `name_list`) is taken too.
-module(partisan_peer_discovery_list).

-behaviour(partisan_peer_discovery_agent).

-export([init/1, lookup/2]).

init(Options) ->
    case maps:values(maps:with([peers, addresses, name_list], Options)) of
        [] -> {error, "option peers is missing"};
        Lists ->
            case lists:all(fun is_list/1, Lists) of
                true -> {ok, lists:append(Lists)};
                false -> {error, "option peers must be a list"}
            end
    end.

lookup(Peers, _Timeout) ->
    {ok, Peers, Peers}.
