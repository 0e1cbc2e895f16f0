%% The application's processes.
-module(partisan_sup).

-behaviour(supervisor).

-export([start_link/0, init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% Later ones may use earlier ones when they start; none needs another to go on living.
init([]) ->
    Children = [child(partisan_nodes, worker),
                child(partisan_timer, worker),
                child(partisan_inet, worker),
                child(partisan_rpc_backend, worker),
                child(partisan_reliable_sup, supervisor),
                child(partisan_member_sup, supervisor),
                child(partisan_plumtree_broadcast, worker)],
    {ok, {#{strategy => one_for_one, intensity => 5, period => 10}, Children}}.

child(Module, Type) ->
    #{id => Module, start => {Module, start_link, []}, type => Type, modules => [Module]}.
