%% A manager of the ring that, asked for the first time, cuts the connection with a node: whoever asks by
%% it finds it gone.
-module(pt_cut).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-include("partisan_manager.hrl").

overlay() ->
    case application:get_env(partisan, pt_cut) of
        {ok, Node} ->
            ok = application:unset_env(partisan, pt_cut),
            true = erlang:disconnect_node(Node);
        undefined ->
            ok
    end,
    pt_ring:overlay().
