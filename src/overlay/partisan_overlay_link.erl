%% A process a link of the overlay: it dials, sends what the overlay's core says, and closes.
%%
%% All that may wait is done here, so that the shell never does: connect_node takes seconds where
%% nobody answers, and a send waits while the peer's queue is full. The link ends when the shell
%% says so, or with the shell.
-module(partisan_overlay_link).

-export([start/4, pid/1, send/2, close/1, stop/1]).
-export([init/5, loop/3]).

-export_type([link/0, kind/0]).

-type kind() :: visible | hidden.
-opaque link() :: {pid(), atomics:atomics_ref()}.

-define(FLUSH_MS, 2000).
%% ms without a message, after which the link sleeps without a stack: whoever waits in code that is replaced
%% twice is killed, and with a link the shell.
-define(QUIET_MS, 1000).
%% Messages that may wait in a link. They are small and a peer that is well takes them at once.
-define(BACKLOG, 10000).

%% Starts a link of the calling process; `up`: the connection stands already. When a dial is over
%% the caller gets `{partisan_link, Pid, Node, connected | Reason :: term()}`.
-spec start(partisan_overlay:spec(), dial | up, kind(), Name :: atom()) -> link().
start(Spec, How, Kind, Name) ->
    Counter = atomics:new(1, []),
    Pid = spawn_link(?MODULE, init, [self(), Spec, {How, Kind}, Name, Counter]),
    {Pid, Counter}.

-spec pid(link()) -> pid().
pid({Pid, _}) -> Pid.

%% Message goes to the process of that name on the other node, behind what was sent before.
-spec send(link(), term()) -> ok | overrun.
send({Pid, Counter}, Message) ->
    case atomics:add_get(Counter, 1, 1) of
        N when N > ?BACKLOG ->
            ok = atomics:sub(Counter, 1, 1),
            overrun;
        _ ->
            Pid ! {send, Message},
            ok
    end.

%% Closes the connection when what was sent before has arrived, or after two seconds.
-spec close(link()) -> ok.
close({Pid, _}) ->
    Pid ! close,
    ok.

%% Ends the process; the connection stays as it is.
-spec stop(link()) -> ok.
stop({Pid, _}) ->
    unlink(Pid),
    exit(Pid, kill),
    ok.

%% Links that have lost the shell must not stay behind, hence no trap_exit here.
init(Shell, #{name := Node} = Spec, {How, Kind}, Name, Counter) ->
    How =:= up orelse dial(Shell, Node, Spec, Kind),
    loop(Node, {Name, Node}, Counter).

dial(Shell, Node, Spec, Kind) ->
    partisan_dist_addr:hint(Node, maps:get(listen_addrs, Spec, [])),
    Answer = case Kind of
                 visible -> net_kernel:connect_node(Node);
                 hidden -> net_kernel:hidden_connect_node(Node)
             end,
    Result = case Answer of
                 true -> connected;
                 false -> unreachable;
                 ignored -> not_distributed
             end,
    Shell ! {partisan_link, self(), Node, Result}.

-spec loop(node(), {atom(), node()}, atomics:atomics_ref()) -> no_return().
loop(Node, To, Counter) ->
    receive
        {send, Message} ->
            _ = erlang:send(To, Message, [noconnect]),
            ok = atomics:sub(Counter, 1, 1),
            ?MODULE:loop(Node, To, Counter);
        close ->
            Ref = make_ref(),
            _ = erlang:send(To, {partisan_overlay_flush, self(), Ref}, [noconnect]),
            receive {partisan_overlay_flushed, Ref} -> ok
            after ?FLUSH_MS -> ok
            end,
            _ = erlang:disconnect_node(Node),
            ?MODULE:loop(Node, To, Counter) % until the shell has seen the connection go
    after ?QUIET_MS ->
        erlang:hibernate(?MODULE, loop, [Node, To, Counter])
    end.
