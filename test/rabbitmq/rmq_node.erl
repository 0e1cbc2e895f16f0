%% One RabbitMQ node as an operating system process: start, SIGKILL, stock rabbitmqctl.
-module(rmq_node).

-export([new/5, start/1, kill/1, ctl/2, ctl/3, eval/2, log/1, await_exit/2]).
-export_type([rmq/0]).

-type rmq() :: #{name := string(), dir := file:filename(), port := inet:port_number(), _ => _}.

%% Dir: everything the node writes. ErlArgs: RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS.
-spec new(file:filename(), file:filename(), string(), {inet:port_number(), inet:port_number()},
          string()) -> rmq().
new(Home, Base, Short, {AmqpPort, DistPort}, ErlArgs) ->
    {ok, Host} = inet:gethostname(),
    Name = Short ++ "@" ++ Host,
    Dir = filename:join(Base, Short),
    In = fun(F) -> filename:join(Dir, F) end,
    ok = filelib:ensure_path(Dir),
    ok = file:write_file(In("rabbitmq.conf"),
                         ["listeners.tcp.default = ", integer_to_list(AmqpPort), "\n"
                          "log.file.level = info\n"
                          %% The check writes some hundred MB at most, on machines of any size.
                          "disk_free_limit.absolute = 100MB\n"]),
    ok = file:write_file(In("enabled_plugins"), "[].\n"),
    ok = file:write_file(In("advanced.config"), "[].\n"),
    Common = [{"RABBITMQ_NODENAME", Name}, {"RABBITMQ_CONF_ENV_FILE", In("none")},
              {"ERL_LIBS", false}, {"NOTIFY_SOCKET", false}],
    #{name => Name, dir => Dir, port => AmqpPort, home => Home, ctl_env => Common,
      env => Common ++
          [{"RABBITMQ_NODE_PORT", integer_to_list(AmqpPort)},
           {"RABBITMQ_DIST_PORT", integer_to_list(DistPort)},
           {"RABBITMQ_MNESIA_BASE", In("mnesia")}, {"RABBITMQ_LOG_BASE", In("log")},
           {"RABBITMQ_LOGS", In("rabbit.log")}, {"RABBITMQ_PID_FILE", In("rabbit.pid")},
           {"RABBITMQ_CONFIG_FILE", In("rabbitmq.conf")},
           {"RABBITMQ_ADVANCED_CONFIG_FILE", In("advanced.config")},
           {"RABBITMQ_GENERATED_CONFIG_DIR", In("schema")},
           {"RABBITMQ_ENABLED_PLUGINS_FILE", In("enabled_plugins")},
           {"RABBITMQ_PLUGINS_DIR", filename:join(Home, "plugins")},
           {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ErlArgs},
           %% `detached` makes the start script exec the VM, so that its pid is the VM's.
           {"detached", "true"}]}.

%% Returns once the broker has started; raises with the end of the console output otherwise.
-spec start(rmq()) -> ok.
start(#{home := Home, dir := Dir, env := Env, name := Name} = R) ->
    Self = self(),
    Holder = spawn(fun() ->
        Port = open_port({spawn_executable, filename:join(Home, "sbin/rabbitmq-server")},
                         [{env, Env}, {cd, Dir}, stderr_to_stdout, exit_status, binary]),
        {os_pid, Pid} = erlang:port_info(Port, os_pid),
        ok = file:write_file(filename:join(Dir, "os_pid"), integer_to_list(Pid)),
        Self ! {self(), started},
        hold(Port, filename:join(Dir, "console.log"))
    end),
    Mon = monitor(process, Holder),
    receive
        {Holder, started} -> ok;
        {'DOWN', Mon, _, _, Why} -> error({cannot_start, Name, Why})
    end,
    await_start(R, Mon, erlang:monotonic_time(millisecond) + 120_000).

await_start(#{name := Name, dir := Dir} = R, Mon, Deadline) ->
    receive
        {'DOWN', Mon, _, _, {exited, Status}} ->
            {ok, Out} = file:read_file(filename:join(Dir, "console.log")),
            io:format("~ts~n", [string:slice(Out, max(0, string:length(Out) - 3000))]),
            error({node_exited, Name, Status})
    after 200 ->
        case file:read_file_info(filename:join(Dir, "rabbit.pid")) of
            {ok, _} ->
                {ok, _} = ctl(R, ["await_startup", "--timeout", "120"]),
                demonitor(Mon, [flush]),
                ok;
            {error, _} ->
                erlang:monotonic_time(millisecond) < Deadline orelse error({no_start, Name}),
                await_start(R, Mon, Deadline)
        end
    end.

hold(Port, File) ->
    receive
        {Port, {data, Data}} ->
            ok = file:write_file(File, Data, [append]),
            hold(Port, File);
        {Port, {exit_status, Status}} ->
            exit({exited, Status})
    end.

%% SIGKILL, to the process we started and no other. Returns when it is gone.
-spec kill(rmq()) -> ok.
kill(#{dir := Dir} = R) ->
    Pid = os_pid(R),
    _ = file:delete(filename:join(Dir, "rabbit.pid")),
    _ = os:cmd("kill -9 " ++ Pid),
    await_exit(R, 10_000).

-spec await_exit(rmq(), timeout()) -> ok.
await_exit(R, Ms) ->
    Pid = os_pid(R),
    rmq_load:await("exit of process " ++ Pid, Ms, fun() -> not is_alive(Pid) end).

%% A zombie is gone, too: its parent (erl_child_setup) may be slow to collect it.
is_alive(Pid) ->
    case file:read_file("/proc/" ++ Pid ++ "/stat") of
        {ok, Stat} ->
            [_, <<State, _/binary>>] = string:split(Stat, ") ", trailing),
            State =/= $Z;
        {error, _} ->
            false
    end.

os_pid(#{dir := Dir}) ->
    {ok, Pid} = file:read_file(filename:join(Dir, "os_pid")),
    binary_to_list(Pid).

%% Stock rabbitmqctl: no carrier argument reaches it, it is a plain hidden inet_tcp node.
-spec ctl(rmq(), [string()]) -> {ok, string()} | {error, {non_neg_integer(), string()}}.
ctl(R, Args) ->
    ctl(R, "rabbitmqctl", Args).

-spec ctl(rmq(), string(), [string()]) -> {ok, string()} | {error, {non_neg_integer(), string()}}.
ctl(#{home := Home, ctl_env := Env, name := Name}, Tool, Args) ->
    Port = open_port({spawn_executable, filename:join([Home, "sbin", Tool])},
                     [{env, Env}, {args, ["-q", "-n", Name | Args]}, stderr_to_stdout,
                      exit_status, binary]),
    collect(Port, []).

collect(Port, Acc) ->
    receive
        {Port, {data, Data}} ->
            collect(Port, [Acc, Data]);
        {Port, {exit_status, Status}} ->
            Out = unicode:characters_to_list(iolist_to_binary(Acc)),
            case Status of
                0 -> {ok, Out};
                _ -> {error, {Status, Out}}
            end
    after 180_000 ->
        {os_pid, Pid} = erlang:port_info(Port, os_pid),
        _ = os:cmd("kill -9 " ++ integer_to_list(Pid)),
        {error, {124, "rabbitmqctl hung for 180 s: " ++ lists:flatten(io_lib:format("~p", [Acc]))}}
    end.

-spec eval(rmq(), string()) -> string().
eval(R, Expr) ->
    case ctl(R, ["eval", Expr]) of
        {ok, Out} -> string:trim(Out);
        {error, E} -> error({eval, Expr, E})
    end.

-spec log(rmq()) -> binary().
log(#{dir := Dir}) ->
    case file:read_file(filename:join(Dir, "rabbit.log")) of
        {ok, Bin} -> Bin;
        {error, enoent} -> <<>>
    end.
