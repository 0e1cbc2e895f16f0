%% Nodes for the suites and the oracle.
%%
%% A node is started with the carrier under test (environment CARRIER=partisan|inet_tcp) and is
%% controlled over its standard input and output, never over the distribution that is being tested.
%% A guardian outlives the test process and kills what it left behind, stopped (SIGSTOP) nodes
%% included, by operating system pid.
-module(pt_peer).

-export([carrier/0, dist_args/0, dist_args/1, ebin/0]).
-export([start/1, start/2, stop/1, kill/1, sigstop/1, sigcont/1]).
-export([call/4, call/5, node/1, os_pid/1]).
-export([eval/2, wait/1, wait/2, wait/3]).
-export([connect/2, disconnect/2, connected/2, alone/1]).
-export([spawn_collector/1, collected/2, how_many/2, collector_loop/1]).
-export([log_start/1, logged/1, log/2, log_loop/1, unexpected_logs/1]).
-export([is_partisan_port/1, dist_port/1, fds/1]).
-export([start_raw/3, opts_name/1]).

%% ms. What they end is a test that would wait for ever; a machine that stands still for some seconds
%% must not.
-define(BOOT_MS, 60000).
-define(CALL_MS, 90000). % a wait is often inside
-define(WAIT_MS, 30000).
-define(DEAD_MS, 10000).

-type peer() :: #{ctl := pid(), node := node(), os_pid := string()}.
-export_type([peer/0]).

-spec carrier() -> string().
carrier() ->
    os:getenv("CARRIER", "partisan").

%% Where the carrier's beams are: two levels above this file's directory, or PARTISAN_EBIN.
ebin() ->
    case os:getenv("PARTISAN_EBIN") of
        false ->
            Src = proplists:get_value(source, ?MODULE:module_info(compile)),
            Root = filename:dirname(filename:dirname(filename:dirname(filename:absname(Src)))),
            filename:join(Root, "ebin");
        Dir ->
            filename:absname(Dir)
    end.

dist_args() ->
    dist_args(carrier()).

dist_args(Carrier) ->
    ["-proto_dist", Carrier, "-pa", ebin(), "-pa", filename:dirname(code:which(?MODULE))].

%% start(Tag) or start(Tag, Opts). Opts: args (appended), env, carrier, cookie (none: no option),
%% name (none | string(): instead of a unique one), longnames, host, link (default true), wait,
%% wrap (words before `erl', see pt_net:inside/2), erl (the one to run instead of the one in the path).
start(Tag) ->
    start(Tag, #{}).

-spec start(atom(), map()) -> peer().
start(Tag, Opts) ->
    {ok, Ctl, Node} = start_raw(Tag, Opts, ?BOOT_MS),
    OsPid = peer:call(Ctl, os, getpid, [], ?CALL_MS),
    guard(self(), OsPid),
    #{ctl => Ctl, node => Node, os_pid => OsPid}.

start_raw(Tag, Opts, Wait) ->
    Cookie = case maps:get(cookie, Opts, default) of
                 none -> [];
                 default -> ["-setcookie", "pt_" ++ os:getpid()];
                 C -> ["-setcookie", C]
             end,
    Name = case maps:get(name, Opts, unique) of
               none -> #{};
               unique ->
                   add_host(Opts, #{name => opts_name(Tag)});
               N ->
                   add_host(Opts, #{name => N})
           end,
    Args = dist_args(maps:get(carrier, Opts, carrier())) ++ Cookie ++ maps:get(args, Opts, []),
    Erl = maps:get(erl, Opts, os:find_executable("erl")),
    Exec = case maps:get(wrap, Opts, []) of
               [] when is_map_key(erl, Opts) -> #{exec => Erl};
               [] -> #{};
               [Command | Words] -> #{exec => {Command, Words ++ [Erl]}}
           end,
    Base = maps:merge(Name, Exec),
    peer:start_link(Base#{connection => standard_io,
                          args => Args,
                          env => maps:get(env, Opts, []),
                          wait_boot => Wait,
                          shutdown => close}).

add_host(#{longnames := false}, Name) -> Name#{longnames => false};
add_host(Opts, Name) -> Name#{longnames => true, host => maps:get(host, Opts, "127.0.0.1")}.

%% Unique over the suites that run at the same time on this machine.
opts_name(Tag) ->
    lists:concat([Tag, "_", os:getpid(), "_", erlang:unique_integer([positive])]).

guard(Owner, OsPid) ->
    spawn(fun() ->
              Ref = erlang:monitor(process, Owner),
              receive {'DOWN', Ref, process, _, _} -> reap(OsPid) end
          end).

%% Ends one node we started; a stopped one as well. Not an error if it is gone.
reap(OsPid) ->
    case file:read_file("/proc/" ++ OsPid ++ "/cmdline") of
        {ok, Cmd} ->
            case binary:match(Cmd, <<"beam">>) of
                nomatch -> ok;
                _ -> os:cmd("kill -KILL " ++ OsPid ++ " 2>/dev/null"), ok
            end;
        _ ->
            ok
    end.

stop(#{ctl := Ctl, os_pid := OsPid}) ->
    unlink(Ctl),
    try peer:stop(Ctl) catch _:_ -> gone end,
    wait(fun() -> dead(OsPid) end, ?DEAD_MS) orelse reap(OsPid),
    ok.

dead(OsPid) -> not filelib:is_dir("/proc/" ++ OsPid) orelse zombie(OsPid).

zombie(OsPid) ->
    case file:read_file("/proc/" ++ OsPid ++ "/stat") of
        {ok, S} -> binary:match(S, <<") Z ">>) =/= nomatch;
        _ -> true
    end.

%% It is dead when this returns; that others know it is another matter.
kill(#{ctl := Ctl, os_pid := OsPid}) ->
    unlink(Ctl),
    os:cmd("kill -KILL " ++ OsPid),
    _ = wait(fun() -> dead(OsPid) end, ?DEAD_MS),
    ok.

sigstop(#{os_pid := OsPid}) -> [] = os:cmd("kill -STOP " ++ OsPid), ok.
sigcont(#{os_pid := OsPid}) -> [] = os:cmd("kill -CONT " ++ OsPid), ok.

node(#{node := N}) -> N.
os_pid(#{os_pid := P}) -> P.

call(P, M, F, A) -> call(P, M, F, A, ?CALL_MS).
call(#{ctl := Ctl}, M, F, A, Timeout) -> peer:call(Ctl, M, F, A, Timeout).

%% Runs a fun of a test module on the node (its beam is on the node's path).
eval(P, Fun) when is_function(Fun, 0) ->
    call(P, erlang, apply, [Fun, []]).

%% Polls a condition until it is true or the deadline (milliseconds) has passed.
wait(Fun) -> wait(Fun, ?WAIT_MS).
wait(Fun, Ms) -> wait(Fun, Ms, 10).
wait(Fun, Ms, Step) ->
    wait_until(Fun, erlang:monotonic_time(millisecond) + Ms, Step).

%% It is looked at once more after the deadline: it may have come true while this machine stood still.
wait_until(Fun, Deadline, Step) ->
    Late = erlang:monotonic_time(millisecond) >= Deadline,
    case Fun() of
        true -> true;
        _ when Late -> false;
        _ -> receive after Step -> ok end, wait_until(Fun, Deadline, Step)
    end.

connect(A, B) ->
    true = call(A, net_kernel, connect_node, [node_of(B)]),
    true = wait(fun() -> connected(A, B) end),
    ok.

connected(A, B) ->
    lists:member(node_of(B), call(A, erlang, nodes, [connected])) andalso
        lists:member(node_of(A), call(B, erlang, nodes, [connected])).

disconnect(A, B) ->
    _ = call(A, erlang, disconnect_node, [node_of(B)]),
    true = wait(fun() -> not lists:member(node_of(B), call(A, erlang, nodes, [connected])) andalso
                             not lists:member(node_of(A), call(B, erlang, nodes, [connected]))
                end),
    ok.

%% net_kernel has no connection, none that it is making or that somebody makes to it, and none that it
%% has not yet seen the end of. nodes/1 does not tell: a call of connect_node/1 joins an attempt under
%% way, and shares its fate.
alone(P) ->
    call(P, ets, tab2list, [sys_dist]) =:= [].

node_of(#{node := N}) -> N;
node_of(N) when is_atom(N) -> N.

%% A process on the node that keeps every message it gets, in order.
spawn_collector(P) ->
    call(P, erlang, apply, [fun() -> spawn(?MODULE, collector_loop, [[]]) end, []]).

collector_loop(Acc) ->
    receive
        {pt_collected, From, Ref} ->
            From ! {Ref, lists:reverse(Acc)},
            collector_loop(Acc);
        {pt_do, From, Ref, Fun} ->
            From ! {Ref, Fun()},
            collector_loop(Acc);
        Msg ->
            collector_loop([Msg | Acc])
    end.

collected(P, Pid) ->
    eval(P, fun() -> ask(Pid) end).

%% Without the messages, which may be large: the control channel is slow.
how_many(P, Pid) ->
    eval(P, fun() -> length(ask(Pid)) end).

ask(Pid) ->
    Ref = make_ref(),
    Pid ! {pt_collected, self(), Ref},
    receive {Ref, L} -> L end.

%% Keeps the node's log events (all levels) as text, for logged/1.
log_start(P) ->
    eval(P, fun() ->
                Pid = spawn(?MODULE, log_loop, [[]]),
                register(pt_log, Pid),
                ok = logger:set_primary_config(level, info),
                ok = logger:add_handler(pt_log, ?MODULE, #{level => info}),
                ok = logger:set_handler_config(default, level, none)
            end).

log(#{level := Level, msg := Msg, meta := Meta}, _Config) ->
    Text = try
               case Msg of
                   {string, S} -> S;
                   {report, R} ->
                       Cb = maps:get(report_cb, Meta, fun logger:format_report/1),
                       case erlang:fun_info(Cb, arity) of
                           {arity, 1} -> {F, A} = Cb(R), io_lib:format(F, A);
                           _ -> Cb(R, #{depth => 30, chars_limit => 2000, single_line => true})
                       end;
                   {F, A} -> io_lib:format(F, A)
               end
           catch _:_ -> io_lib:format("~0p", [Msg])
           end,
    try pt_log ! {log, Level, unicode:characters_to_list(Text)} catch error:badarg -> nobody end,
    ok.

log_loop(Acc) ->
    receive
        {log, Level, Text} -> log_loop([{Level, Text} | Acc]);
        {get, From, Ref} -> From ! {Ref, lists:reverse(Acc)}, log_loop(Acc)
    end.

logged(P) ->
    eval(P, fun() ->
                Ref = make_ref(),
                pt_log ! {get, self(), Ref},
                receive {Ref, L} -> L end
            end).

%% Log events that no healthy connection should cause.
unexpected_logs(P) ->
    [L || {Level, _} = L <- logged(P),
          lists:member(Level, [emergency, alert, critical, error, warning])].

is_partisan_port(Port) ->
    erlang:port_info(Port, name) =:= {name, "partisan_drv"}.

%% Run on a node: the distribution controller towards another.
dist_port(Node) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {_, Ctrl} -> Ctrl;
        false -> undefined
    end.

%% Open descriptors of the node that are sockets, pipes, rings: all of them.
fds(#{os_pid := OsPid}) ->
    {ok, L} = file:list_dir("/proc/" ++ OsPid ++ "/fd"),
    length(L).
