%% The carrier in releases: embedded mode, no -pa, code loaded by the boot script.
%%
%% Releases are made by systools as any release tool does (boot script, tar), unpacked into a directory
%% of their own and started by erlexec on their boot script, as the scripts of relx and mix do it. They
%% leave erts out (relx: include_erts false): nothing here depends on it, and packing it is slow.
-module(release_SUITE).

-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([embedded_nodes_connect/1, embedded_meets_interactive/1, without_application_is_refused/1,
         without_application_by_flags/1]).

-define(COOKIE, "release_suite").
-define(CALL_MS, 60000).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [embedded_nodes_connect, embedded_meets_interactive, without_application_is_refused,
     without_application_by_flags].

init_per_suite(Config) ->
    Dir = ?config(priv_dir, Config),
    With = make_release(Dir, "with", [partisan]),
    Without = make_release(Dir, "without", []),
    [{with, With}, {without, Without} | Config].

end_per_suite(_Config) ->
    ok.

%% Two nodes of a release that includes the application find each other over the carrier.
embedded_nodes_connect(Config) ->
    Root = ?config(with, Config),
    Flags = ["-mode", "embedded", "-proto_dist", "partisan"],
    {PeerA, A} = start(Root, Flags, []),
    {PeerB, B} = start(Root, Flags, []),
    embedded = peer:call(PeerA, code, get_mode, [], ?CALL_MS),
    assert_loaded_from(PeerA, partisan_dist, Root),
    connect_and_verify(PeerA, A, PeerB, B),
    1 = carriers(PeerA),
    peer:stop(PeerA),
    peer:stop(PeerB).

%% A node of the release and one started by `erl -pa` are ordinary neighbours.
embedded_meets_interactive(Config) ->
    {PeerA, A} = start(?config(with, Config), ["-mode", "embedded", "-proto_dist", "partisan"], []),
    {PeerB, B} = start(system, ["-pa", ebin(), "-proto_dist", "partisan"], []),
    connect_and_verify(PeerA, A, PeerB, B),
    1 = carriers(PeerA),
    peer:stop(PeerA),
    peer:stop(PeerB).

%% In embedded mode only the boot script loads code: -pa does not help, the node does not start, and
%% it says so. (The words are OTP's; README quotes them, so that they can be found.)
without_application_is_refused(Config) ->
    Root = ?config(without, Config),
    Args = ["-mode", "embedded", "-pa", ebin(), "-proto_dist", "partisan",
            "-sname", name(), "-setcookie", ?COOKIE, "-noinput", "-boot", boot(Root)],
    {Status, Output} = run_until_exit(erlexec(), Args, env(Root)),
    true = Status =/= 0,
    {match, _} = re:run(Output, "Protocol 'partisan': not supported").

%% README's way out for a release that cannot be rebuilt.
without_application_by_flags(Config) ->
    Root = ?config(without, Config),
    Aflags = "-mode interactive -proto_dist partisan -pa " ++ ebin(),
    %% The release's own script still says -mode embedded; ERL_AFLAGS comes first and wins.
    {PeerA, A} = start(Root, ["-mode", "embedded"], [{"ERL_AFLAGS", Aflags}]),
    {PeerB, B} = start(Root, ["-mode", "embedded"], [{"ERL_AFLAGS", Aflags}]),
    interactive = peer:call(PeerA, code, get_mode, [], ?CALL_MS),
    assert_loaded_from(PeerA, partisan_dist, ebin()),
    connect_and_verify(PeerA, A, PeerB, B),
    1 = carriers(PeerA),
    peer:stop(PeerA),
    peer:stop(PeerB).

%% --- releases ------------------------------------------------------------------------------------

make_release(Dir, Name, Extra) ->
    Apps = [{App, vsn(App)} || App <- [kernel, stdlib, sasl | Extra]],
    Base = filename:join(Dir, Name),
    Spec = {release, {Name, "1"}, {erts, erlang:system_info(version)}, Apps},
    ok = file:write_file(Base ++ ".rel", io_lib:format("~tp.~n", [Spec])),
    Options = [{path, [ebin()]}, {outdir, Dir}, silent],
    {ok, _, _} = systools:make_script(Base, Options),
    {ok, _, _} = systools:make_tar(Base, Options),
    Root = Base ++ ".root",
    ok = filelib:ensure_dir(filename:join(Root, "x")),
    ok = erl_tar:extract(Base ++ ".tar.gz", [compressed, {cwd, Root}]),
    Root.

vsn(partisan) ->
    {ok, [{application, partisan, Keys}]} = file:consult(filename:join(ebin(), "partisan.app")),
    proplists:get_value(vsn, Keys);
vsn(App) ->
    _ = application:load(App),
    {ok, Vsn} = application:get_key(App, vsn),
    Vsn.

ebin() -> pt_peer:ebin().

bindir() -> filename:join([code:root_dir(), "erts-" ++ erlang:system_info(version), "bin"]).

erlexec() -> filename:join(bindir(), "erlexec").

boot(Root) -> filename:join(Root, "releases/1/start").

env(Root) ->
    [{"ROOTDIR", Root}, {"BINDIR", bindir()}, {"EMU", "beam"}, {"PROGNAME", "erl"}].

%% --- nodes ------------------------------------------------------------------------------------------

%% Controlled over standard input and output, so that the test does not need the distribution that
%% it tests.
start(Where, Flags, Env) ->
    {Exec, Boot, Env0} =
        case Where of
            system -> {os:find_executable("erl"), [], []};
            Root -> {erlexec(), ["-boot", boot(Root)], env(Root)}
        end,
    {ok, Peer, Node} =
        peer:start_link(#{name => name(), connection => standard_io,
                          exec => {Exec, Boot ++ Flags ++ ["-setcookie", ?COOKIE]},
                          env => Env0 ++ Env, wait_boot => 60000}),
    {Peer, Node}.

name() ->
    lists:concat(["rel_", os:getpid(), "_", erlang:unique_integer([positive])]).

connect_and_verify(PeerA, A, PeerB, B) ->
    true = peer:call(PeerA, net_kernel, connect_node, [B], ?CALL_MS),
    [B] = peer:call(PeerA, erlang, nodes, [], ?CALL_MS),
    %% The accepting side is up a moment later.
    true = pt_peer:wait(fun() -> [A] =:= peer:call(PeerB, erlang, nodes, [], ?CALL_MS) end),
    Data = rand:bytes(3_000_000),
    Hash = erlang:md5(Data),
    Hash = peer:call(PeerA, erpc, call, [B, erlang, md5, [Data]], ?CALL_MS),
    Data = peer:call(PeerB, erpc, call, [A, erlang, iolist_to_binary, [[Data]]], ?CALL_MS).

%% Connections of the node that are the carrier's.
carriers(Peer) ->
    Ports = peer:call(Peer, erlang, ports, [], ?CALL_MS),
    length([P || P <- Ports,
                 {name, "partisan_drv"} =:= peer:call(Peer, erlang, port_info, [P, name], ?CALL_MS)]).

assert_loaded_from(Peer, Module, Dir) ->
    File = peer:call(Peer, code, which, [Module], ?CALL_MS),
    {true, File, Dir} = {lists:prefix(Dir, File), File, Dir}.

run_until_exit(Exec, Args, Env) ->
    Port = open_port({spawn_executable, Exec},
                     [{args, Args}, {env, Env}, exit_status, stderr_to_stdout, binary]),
    collect(Port, <<>>).

collect(Port, Output) ->
    receive
        {Port, {data, More}} -> collect(Port, <<Output/binary, More/binary>>);
        {Port, {exit_status, Status}} -> {Status, Output}
    after 60_000 ->
        ct:fail({still_running, Output})
    end.
