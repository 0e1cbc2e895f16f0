%% An emulated network (docs/network-emulator.md) for tests: nodes `a', `b', .. in network namespaces
%% of their own. It ends with the process that started it, and takes along what runs in it.
-module(pt_net).

-export([start/2, stop/1, inside/2, command/2, stat/3, bottleneck/1]).

-define(START_MS, 60000).
-define(ANSWER_MS, 60000).

-type net() :: #{port := port(), socket := string(), ctl := gen_tcp:socket(), program := string()}.
-export_type([net/0]).

%% Options are those of `ptnet run', without nodes. `unavailable': the words say why there can be none
%% on this machine.
-spec start([string()], [string()]) -> {ok, net()} | {unavailable, string()} | {error, string()}.
start(Nodes, Options) ->
    Program = program(),
    Args = ["run", "--eof"] ++ lists:append([["--node", N] || N <- Nodes]) ++ Options,
    Port = open_port({spawn_executable, Program},
                     [{args, Args}, {line, 1000}, binary, exit_status, stderr_to_stdout]),
    ready(Port, Program, []).

ready(Port, Program, Said) ->
    receive
        {Port, {data, {_, <<"ready ", Path/binary>>}}} ->
            Socket = binary_to_list(Path),
            {ok, Ctl} = gen_tcp:connect({local, Socket}, 0, [local, binary, {active, false}]),
            {ok, #{port => Port, socket => Socket, ctl => Ctl, program => Program}};
        {Port, {data, {_, Line}}} ->
            ready(Port, Program, [Line | Said]);
        {Port, {exit_status, 3}} ->
            {unavailable, words(Said)};
        {Port, {exit_status, Status}} ->
            {error, lists:flatten(io_lib:format("exit status ~b: ~s", [Status, words(Said)]))}
    after ?START_MS ->
        try port_close(Port) catch error:badarg -> gone end,
        {error, "no answer: " ++ words(Said)}
    end.

words(Said) -> unicode:characters_to_list(lists:join(" ", lists:reverse(Said))).

%% Beside the compiled tests, or where the environment says.
program() ->
    case os:getenv("PTNET") of
        false -> filename:join([filename:dirname(filename:dirname(code:which(?MODULE))), "net", "ptnet"]);
        Path -> Path
    end.

%% Returns when everything in it has ended.
-spec stop(net()) -> ok.
stop(#{port := Port, ctl := Ctl}) ->
    ok = gen_tcp:send(Ctl, "quit\n"),
    receive {Port, {exit_status, _}} -> ok
    after ?ANSWER_MS -> error(the_emulated_network_does_not_end)
    end.

%% What is put before a command to run it inside a node; and the options for pt_peer:start/2.
-spec inside(net(), string()) -> map().
inside(#{program := Program, socket := Socket} = Net, Node) ->
    {match, [Address]} = re:run(command(Net, "nodes"), "node " ++ Node ++ " ([0-9.]+)",
                                [{capture, all_but_first, list}]),
    #{wrap => [Program, "exec", "--socket", Socket, Node], host => Address}.

%% The lines of the answer; fails if the emulator says that it was an error.
-spec command(net(), string()) -> string().
command(#{ctl := Ctl}, Line) ->
    ok = gen_tcp:send(Ctl, [Line, "\n"]),
    answer(Ctl, Line, <<>>).

answer(Ctl, Line, Acc) ->
    case re:run(Acc, "^(ok|error: .*)\n$", [multiline, dollar_endonly, {capture, all_but_first, list}]) of
        {match, ["ok"]} -> binary_to_list(Acc);
        {match, [Error]} -> error({Line, Error});
        nomatch ->
            {ok, More} = gen_tcp:recv(Ctl, 0, ?ANSWER_MS),
            answer(Ctl, Line, <<Acc/binary, More/binary>>)
    end.

%% A counter: stat(Net, "link a>b", "lost").
-spec stat(net(), string(), string()) -> number().
stat(Net, Line, Key) ->
    Lines = string:lexemes(command(Net, "stats"), "\n"),
    [Found] = [L || L <- Lines, lists:prefix(Line ++ " ", L)],
    {match, [Value]} = re:run(Found, " " ++ Key ++ " ([0-9.]+)", [{capture, all_but_first, list}]),
    try list_to_integer(Value) catch error:badarg -> list_to_float(Value) end.

%% Was the emulator what limited? "no", or the causes.
-spec bottleneck(net()) -> string().
bottleneck(Net) ->
    {match, [Causes]} = re:run(command(Net, "stats"), "bottleneck (.*)",
                               [{capture, all_but_first, list}]),
    Causes.
