%% The two connections to an AMQP broker. Two, because a broker that is short of memory or disk stops to
%% read from connections that publish, and acknowledgements must go on. Both sleep while another overlay
%% runs.
-module(partisan_amqp_sup).

-behaviour(supervisor).

-export([start_link/0, init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Children = [#{id => Module, start => {Module, start_link, []}, modules => [Module]}
                || Module <- [partisan_amqp_pub, partisan_amqp_sub]],
    {ok, {#{strategy => one_for_one, intensity => 5, period => 10}, Children}}.
