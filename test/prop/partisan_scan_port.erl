%% The C packet scanner (scan_main.c) as an Erlang function. One process owns the port, so that it
%% can be called from whichever process PropEr evaluates a property in.
-module(partisan_scan_port).

-export([start/0, stop/1, scan/2]).

-define(TIMEOUT, 30000).

-spec start() -> pid().
start() ->
    Owner = self(),
    Pid = spawn_link(fun() ->
        Port = open_port({spawn_executable, "tools/sanitized"},
                         [{args, ["build/prop/scan"]}, {packet, 4}, binary, exit_status]),
        Owner ! {self(), started},
        loop(Port)
    end),
    receive {Pid, started} -> Pid after ?TIMEOUT -> error(scanner_does_not_start) end.

-spec stop(pid()) -> ok.
stop(Pid) ->
    unlink(Pid),
    Ref = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Ref, process, Pid, _} -> ok end.

%% As partisan_dop_twin:scan/2, but with the C key and the operation's name.
-spec scan(pid(), {binary(), non_neg_integer()}) -> map().
scan(Pid, {Seen, Total}) ->
    Ref = monitor(process, Pid),
    Pid ! {scan, self(), Ref, <<Total:64, Seen/binary>>},
    receive
        {Ref, Answer} -> demonitor(Ref, [flush]), decode(Answer);
        {'DOWN', Ref, process, Pid, Why} -> error({scanner_died, Why})
    after ?TIMEOUT ->
        error(scanner_hangs)
    end.

loop(Port) ->
    receive
        {scan, From, Ref, Request} ->
            true = port_command(Port, Request),
            receive
                {Port, {data, Answer}} -> From ! {Ref, Answer};
                {Port, {exit_status, Status}} -> exit({exit_status, Status})
            end,
            loop(Port);
        {Port, {exit_status, Status}} ->
            exit({exit_status, Status})
    end.

decode(<<Form, Order, Op, Atoms, Cut, Key:64, Seq:64, Frag:64, Header:32, Name/binary>>) ->
    #{form => element(1 + Form, {tick, whole, frag_first, frag_next, other}),
      order => element(1 + Order, {sender, free, half_fence, fence}),
      op => Op, atoms => Atoms, cut => Cut =/= 0, key => Key, seq => Seq, frag => Frag,
      header => Header, name => Name}.
