%% What is broadcast to one neighbour: a process that may wait for it, so that the broadcast itself
%% never does. A neighbour that does not keep up loses messages, not memory: they are still known
%% elsewhere, and the handlers' exchange finds them.
-module(partisan_plumtree_link).

-export([start/1, send/3, stop/1, is/2]).
-export([init/3, loop/3]).

-export_type([link/0]).

-define(BACKLOG, 10000).
-define(QUIET_MS, 1000). % as in partisan_overlay_link

-opaque link() :: {pid(), atomics:atomics_ref()}.

-spec start(node()) -> link().
start(Node) ->
    Counter = atomics:new(1, []),
    {spawn_link(?MODULE, init, [self(), Node, Counter]), Counter}.

%% Message goes to the broadcast process of that node.
-spec send(partisan:channel(), term(), link()) -> ok | overrun.
send(Channel, Message, {Pid, Counter}) ->
    case atomics:add_get(Counter, 1, 1) of
        N when N > ?BACKLOG ->
            ok = atomics:sub(Counter, 1, 1),
            overrun;
        _ ->
            Pid ! {send, Channel, Message},
            ok
    end.

%% Is that process the link's?
-spec is(pid(), link()) -> boolean().
is(Pid, {Of, _}) -> Pid =:= Of.

-spec stop(link()) -> ok.
stop({Pid, _}) ->
    unlink(Pid),
    exit(Pid, kill),
    ok.

init(Parent, Node, Counter) ->
    loop(monitor(process, Parent), Node, Counter).

-spec loop(reference(), node(), atomics:atomics_ref()) -> ok.
loop(Parent, Node, Counter) ->
    receive
        {send, Channel, Message} ->
            %% An error is a link that is gone, and that the overlay reports.
            _ = partisan_transport:send(Node, Channel, partisan_plumtree_broadcast, Message,
                                        #{channel_fallback => true}),
            ok = atomics:sub(Counter, 1, 1),
            ?MODULE:loop(Parent, Node, Counter);
        {'DOWN', Parent, process, _, _} ->
            ok
    after ?QUIET_MS ->
        erlang:hibernate(?MODULE, loop, [Parent, Node, Counter])
    end.
