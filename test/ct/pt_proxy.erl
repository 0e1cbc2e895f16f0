%% A man in the middle: forwards connections to a port, and lets a fun see and change every packet
%% of the handshake (2-byte length) before the stream is passed on as it is.
-module(pt_proxy).

-export([start/2, stop/1, port/1, on_connect/2, reset/2]).
-export([init/3]).

%% What to do with the Nth connection (from 1): close it, pass all on, or show the fun the first so
%% many packets of the connector's and of the acceptor's side. Or pass all on until the switch is 1, and
%% from then on what the acceptor's side says a byte every so many ms.
-type action() :: refuse | pass | {drip, Switch :: atomics:atomics_ref(), Ms :: pos_integer()} |
                  {packets, {non_neg_integer(), non_neg_integer()},
                   fun((connector | acceptor, Nth :: pos_integer(), binary()) -> binary() | close)}.
-export_type([action/0]).

-spec start(inet:port_number(), fun((pos_integer()) -> action())) -> pid().
start(Target, OnConnect) ->
    Self = self(),
    Pid = spawn_link(?MODULE, init, [Self, Target, OnConnect]),
    receive {Pid, ready} -> Pid end.

stop(Pid) ->
    unlink(Pid),
    exit(Pid, kill),
    ok.

port(Pid) -> call(Pid, port).
on_connect(Pid, Fun) -> call(Pid, {on_connect, Fun}).
%% Both halves of the Nth connection end with RST.
reset(Pid, N) -> call(Pid, {reset, N}).

call(Pid, What) ->
    Ref = monitor(process, Pid),
    Pid ! {Ref, self(), What},
    receive
        {Ref, Answer} -> demonitor(Ref, [flush]), Answer;
        {'DOWN', Ref, process, _, Reason} -> exit(Reason)
    end.

init(Owner, Target, OnConnect) ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}, {backlog, 64},
                                      {reuseaddr, true}]),
    Self = self(),
    spawn_link(fun() -> accept(Listen, Self) end),
    Owner ! {Self, ready},
    loop(#{listen => Listen, target => Target, action => OnConnect, n => 0, pairs => #{}}).

accept(Listen, Proxy) ->
    {ok, S} = gen_tcp:accept(Listen),
    ok = gen_tcp:controlling_process(S, Proxy),
    Proxy ! {accepted, S},
    accept(Listen, Proxy).

loop(#{listen := Listen, target := Target, action := Action, n := N, pairs := Pairs} = State) ->
    receive
        {accepted, S} ->
            case Action(N + 1) of
                refuse ->
                    gen_tcp:close(S),
                    loop(State#{n := N + 1});
                What ->
                    case gen_tcp:connect({127, 0, 0, 1}, Target, [binary, {active, false}]) of
                        {ok, T} ->
                            half(S, T, connector, What),
                            half(T, S, acceptor, What),
                            loop(State#{n := N + 1, pairs := Pairs#{N + 1 => {S, T}}});
                        {error, _} -> % the node is gone: so are we for the connector
                            gen_tcp:close(S),
                            loop(State#{n := N + 1})
                    end
            end;
        {Ref, From, port} ->
            {ok, Port} = inet:port(Listen),
            From ! {Ref, Port},
            loop(State);
        {Ref, From, {on_connect, Fun}} ->
            From ! {Ref, ok},
            loop(State#{action := Fun});
        {Ref, From, {reset, I}} ->
            {S, T} = maps:get(I, Pairs),
            [begin inet:setopts(X, [{linger, {true, 0}}]), gen_tcp:close(X) end || X <- [S, T]],
            From ! {Ref, ok},
            loop(State)
    end.

half(From, To, Side, What) ->
    spawn_link(fun() ->
                       case What of
                           pass -> stream(From, To);
                           {drip, _, _} when Side =:= connector -> stream(From, To);
                           {drip, Switch, Ms} -> drip(From, To, Switch, Ms);
                           {packets, Count, Fun} -> packets(From, To, Side, Count, Fun, 1)
                       end
               end).

%% All is taken at once, so who sends it sees nothing of this.
drip(From, To, Switch, Ms) ->
    Dripper = spawn_link(fun() -> dripper(To, Switch, Ms) end),
    drip_in(From, Dripper).

drip_in(From, Dripper) ->
    case gen_tcp:recv(From, 0) of
        {ok, Data} -> Dripper ! {data, Data}, drip_in(From, Dripper);
        {error, _} -> Dripper ! closed
    end.

dripper(To, Switch, Ms) ->
    receive
        {data, Data} ->
            case atomics:get(Switch, 1) of
                0 -> _ = gen_tcp:send(To, Data);
                1 -> [begin _ = gen_tcp:send(To, [Byte]), receive after Ms -> ok end end || <<Byte>> <= Data]
            end,
            dripper(To, Switch, Ms);
        closed ->
            gen_tcp:close(To)
    end.

packets(From, To, Side, Count, _Fun, N) when N > element(1, Count), Side =:= connector;
                                             N > element(2, Count), Side =:= acceptor ->
    stream(From, To);
packets(From, To, Side, Count, Fun, N) ->
    case packet(From) of
        {ok, Packet} ->
            case Fun(Side, N, Packet) of
                close ->
                    gen_tcp:close(From),
                    gen_tcp:close(To);
                New ->
                    _ = gen_tcp:send(To, [<<(byte_size(New)):16>>, New]),
                    packets(From, To, Side, Count, Fun, N + 1)
            end;
        {error, _} ->
            gen_tcp:close(To)
    end.

packet(From) ->
    case gen_tcp:recv(From, 2) of
        {ok, <<Length:16>>} -> gen_tcp:recv(From, Length);
        Error -> Error
    end.

stream(From, To) ->
    case gen_tcp:recv(From, 0) of
        {ok, Data} ->
            _ = gen_tcp:send(To, Data),
            stream(From, To);
        {error, _} ->
            gen_tcp:close(To)
    end.
