%% Membership: callbacks first, then the overlay of the configured manager, then what looks for
%% nodes to join. What comes later is of no use without what comes before.
-module(partisan_member_sup).

-behaviour(supervisor).

-export([start_link/0, init/1]).

-include_lib("kernel/include/logger.hrl").

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Manager = partisan_config:get(peer_service_manager),
    {module, Manager} = loaded(Manager),
    Children = [child(partisan_peer_service_events, dynamic),
                child(partisan_peer_watch, [partisan_peer_watch]),
                child(partisan_relay, [partisan_relay]),
                child(partisan_relay_lanes, [partisan_relay_lanes]),
                child(Manager, [partisan_overlay_shell]),
                (child(partisan_amqp_sup, [partisan_amqp_sup]))#{type => supervisor},
                child(partisan_peer_discovery_agent, [partisan_peer_discovery_agent])],
    {ok, {#{strategy => rest_for_one, intensity => 5, period => 10}, Children}}.

loaded(Manager) ->
    case code:ensure_loaded(Manager) of
        {module, _} = Loaded ->
            Loaded;
        {error, _} ->
            ?LOG_ERROR("partisan: bad option peer_service_manager: there is no module ~ts", [Manager]),
            exit({bad_option, peer_service_manager, Manager})
    end.

child(Module, Modules) ->
    #{id => Module, start => {Module, start_link, []}, modules => Modules}.
