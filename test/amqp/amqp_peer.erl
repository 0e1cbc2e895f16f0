%% What runs in the nodes of the check: a process that remembers what it gets, and senders that remember
%% what was accepted.
-module(amqp_peer).

-export([start/2, sink/0, received/1, sender/4, accepted/1, busy/1, stop/1, pid/0, await_pid/2]).

%% The sink is there before anything can arrive for it.
start(Manager, Options) ->
    sink(),
    _ = application:load(partisan), % the carrier may have
    application:set_env(partisan, peer_service_manager, Manager),
    application:set_env(partisan, amqp, Options),
    {ok, _} = application:ensure_all_started(partisan),
    ok.

sink() ->
    Caller = self(),
    Pid = spawn(fun() -> register(amqp_sink, self()), Caller ! {self(), ready}, sink(#{}) end),
    receive {Pid, ready} -> Pid end.

%% Sender => numbers, newest first.
sink(Got) ->
    receive
        {n, Sender, N, Sum, Bytes} ->
            Sum = erlang:crc32(Bytes),
            sink(maps:update_with(Sender, fun(Ns) -> [N | Ns] end, [N], Got));
        {pid, From} ->
            ok = partisan:forward_message(From, {pong, self()}),
            sink(Got);
        {get, From, Sender} ->
            From ! {got, maps:get(Sender, Got, [])},
            sink(Got)
    end.

%% Oldest first.
received(Sender) ->
    amqp_sink ! {get, self(), Sender},
    receive {got, Ns} -> lists:reverse(Ns) end.

pid() -> whereis(amqp_sink).

%% By pid and back by pid: {pong, _} from a process that nobody is connected with.
await_pid(Pid, Ms) ->
    ok = partisan:forward_message(Pid, {pid, self()}),
    receive {pong, Pid} -> ok after Ms -> timeout end.

%% Sends 1, 2, 3 ... to the sink on Node until stop/1. Queued: `ok` is the window's word; what was busy
%% is tried again, so that nothing is left out. Confirm: a number whose fate nobody knows is given up.
sender(Name, Node, Mode, Large) ->
    Opts = case Mode of
               queued -> #{timeout => 200};
               confirm -> #{timeout => 20000, confirm => true}
           end,
    Caller = self(),
    spawn(fun() ->
        register(Name, self()),
        rand:seed(exsss, erlang:phash2(Name)),
        Caller ! {self(), ready},
        send(Name, Node, Opts, Large, 1, [], 0)
    end),
    receive {_, ready} -> ok end.

send(Name, Node, Opts, Large, N, Ok, Busy) ->
    receive
        {get, From, accepted} -> From ! {got, Ok}, send(Name, Node, Opts, Large, N, Ok, Busy);
        {get, From, busy} -> From ! {got, Busy}, send(Name, Node, Opts, Large, N, Ok, Busy);
        {stop, From} -> From ! {got, lists:reverse(Ok)}
    after 0 ->
        Bytes = rand:bytes(some_size(Large)),
        case partisan:forward_message(Node, amqp_sink, {n, Name, N, erlang:crc32(Bytes), Bytes}, Opts) of
            ok -> send(Name, Node, Opts, Large, N + 1, [N | Ok], Busy);
            {error, busy} -> send(Name, Node, Opts, Large, N, Ok, Busy + 1);
            {error, timeout} -> send(Name, Node, Opts, Large, N + 1, Ok, Busy);
            Other -> io:format("~ts got ~tp for number ~b~n", [Name, Other, N]), exit(Other)
        end
    end.

some_size(Large) ->
    case rand:uniform(100) of
        1 -> Large;
        N when N < 20 -> 8000;
        _ -> 100
    end.

accepted(Name) -> get(Name, accepted).
busy(Name) -> get(Name, busy).

get(Name, What) ->
    Name ! {get, self(), What},
    receive {got, Answer} -> Answer end.

%% What was accepted, oldest first.
stop(Name) ->
    Name ! {stop, self()},
    receive {got, Ok} -> Ok end.
