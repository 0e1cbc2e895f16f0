%% Measures the round trip to a node for a core (effect `measure`), in a process of its own, so that
%% an answer that does not come costs nobody anything. Over the link if there is one, and otherwise
%% by asking the other listener for its name on a connection that is closed again: two round trips,
%% the connection's and the question's, so half the time is told. Otherwise a node without a link
%% would have to be twice as near to count as nearer.
-module(partisan_overlay_ping).

-export([start/2]).

-define(MS, 2000).

%% The caller gets `{latency, Node, Microseconds | unreachable}`. Shell: registered name on both.
-spec start(partisan_overlay:spec(), atom()) -> pid().
start(#{name := Node} = Spec, Shell) ->
    Caller = self(),
    spawn(fun() -> Caller ! {latency, Node, measure(Spec, Shell)} end).

measure(#{name := Node} = Spec, Shell) ->
    Ref = make_ref(),
    Start = erlang:monotonic_time(microsecond),
    case erlang:send({Shell, Node}, {partisan_overlay_ping, self(), Ref}, [noconnect]) of
        ok ->
            receive {partisan_overlay_pong, Ref} -> erlang:monotonic_time(microsecond) - Start
            after ?MS -> unreachable
            end;
        noconnect ->
            knock(maps:get(listen_addrs, Spec, []))
    end.

knock([#{ip := Ip, port := Port} | Rest]) ->
    Start = erlang:monotonic_time(microsecond),
    case partisan_dist_who:ask(Ip, Port, ?MS) of
        {ok, _Name} -> (erlang:monotonic_time(microsecond) - Start) div 2;
        {error, _} -> knock(Rest)
    end;
knock(_) ->
    unreachable.
