%% Streams of acknowledged messages, and causal delivery on top of them. One for all: what they know
%% of each other and of other nodes' ends is worth nothing when one of them starts anew.
-module(partisan_reliable_sup).

-behaviour(supervisor).

-export([start_link/0, init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

init([]) ->
    Children = [#{id => Module, start => {Module, start_link, []}, modules => [Module]}
                || Module <- [partisan_reliable, partisan_causality]],
    {ok, {#{strategy => one_for_all, intensity => 5, period => 10}, Children}}.
