%% For release scripts that call it: who is a member, as text.
-module(partisan_peer_service_console).

-export([members/1]).

%% The arguments of the command line: none.
-spec members([]) -> ok | {error, notalive}.
members([]) ->
    case partisan_peer_service:members() of
        {ok, Nodes} ->
            io:format("Members, and whether they are connected:~n"),
            lists:foreach(fun(Node) -> io:format("  ~ts ~ts~n", [Node, state(Node)]) end, lists:sort(Nodes));
        {error, _} = Error ->
            Error
    end.

state(Node) ->
    case partisan_transport:connected(Node) of
        _ when Node =:= node() -> "this node";
        true -> "connected";
        false -> "not connected"
    end.
