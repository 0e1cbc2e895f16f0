%% An epmd module (-epmd_module pt_epmd) that knows only some of the functions, and that can send a
%% node's connections through a proxy of the test: see pt_proxy.
-module(pt_epmd).

-export([start_link/0, register_node/3, names/1, address_please/3]).
-export([detour/2]).

-define(KEY(Name), {?MODULE, Name}).

%% On the connecting node: Name (before the @) is at 127.0.0.1:Port.
detour(Name, Port) ->
    persistent_term:put(?KEY(Name), Port).

start_link() -> erl_epmd:start_link().
register_node(Name, Port, Driver) -> erl_epmd:register_node(Name, Port, Driver).
names(Host) -> erl_epmd:names(Host).

address_please(Name, Host, Family) ->
    case persistent_term:get(?KEY(Name), undefined) of
        undefined -> erl_epmd:address_please(Name, Host, Family);
        Port -> {ok, {127, 0, 0, 1}, Port, 5}
    end.
