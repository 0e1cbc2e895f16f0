%% Nodes beside the pair, for cases with more than two. They are started by the second node, so they
%% are where it is (its processors, its network namespace), with its carrier and its options, and end
%% with it. A process of its own keeps them from cell to cell, as starting a VM takes long.
%%
%% In an emulated network the second node's place has room for one node only. The environment
%% variables BENCH_WRAP_C and BENCH_HOST_C name a place for one more, as --wrap-b and --host-b do.
-module(pt_bench_peers).
-export([ensure/1, connected/2, list/0]).

-define(BOOT_MS, 120000).
%% A node of the growth cases: as little of everything as a VM starts with, so that many fit.
-define(LEAN, [
    "+S", "1:1", "+SDcpu", "1:1", "+SDio", "1", "+A", "1", "+P", "4096", "+Q", "4096",
    "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"
]).
%% How many boot at the same time: more would only take turns on the processors.
-define(AT_ONCE, 4).

-type extra() :: {node(), pt_bench_proc:os_pid()}.

%% On the second node: exactly the nodes that the cell needs, with its payloads made.
-spec ensure(pt_bench_work:cell()) -> ok.
ensure(Cell) ->
    {Count, Style} = maps:get(extras, Cell, {0, same}),
    Keeper =
        case whereis(?MODULE) of
            undefined when Count > 0 ->
                Pid = spawn(fun() ->
                    process_flag(trap_exit, true),
                    keep(same, [])
                end),
                register(?MODULE, Pid),
                Pid;
            Known ->
                Known
        end,
    Keeper =:= undefined orelse
        ask(Keeper, {ensure, fitting(Count), Style, maps:remove(extras, Cell)}),
    ok.

%% All that were asked for, or none.
fitting(Count) ->
    case {init:get_argument(erl_epmd_port), third_place()} of
        {error, none} -> Count;
        {_, {_, _}} when Count =< 1 -> Count;
        _ -> 0
    end.

third_place() ->
    case {os:getenv("BENCH_WRAP_C"), os:getenv("BENCH_HOST_C")} of
        {Wrap, Host} when is_list(Wrap), is_list(Host) -> {string:lexemes(Wrap, " "), Host};
        _ -> none
    end.

-spec list() -> [extra()].
list() ->
    case whereis(?MODULE) of
        undefined -> [];
        Keeper -> ask(Keeper, list)
    end.

ask(Keeper, Request) ->
    Mon = monitor(process, Keeper),
    Keeper ! {Request, self(), Mon},
    receive
        {Mon, Answer} ->
            demonitor(Mon, [flush]),
            Answer;
        {'DOWN', Mon, process, _, Why} ->
            error({further_nodes, Why})
    end.

%% On the first node: the other nodes of the cell, the second one first, and the OS processes of
%% those beyond it. All are connected with each other over the carrier that is measured; but the lean
%% ones of a growth cell, where to connect is what is measured, are connected to nobody.
-spec connected(pt_bench_work:cell(), node()) -> {[node()], [pt_bench_proc:os_pid()]}.
connected(#{extras := {Count, Style}}, Second) ->
    {Nodes, OsPids} = lists:unzip(erpc:call(Second, ?MODULE, list, [])),
    case {length(Nodes), Style} of
        {N, _} when N < Count ->
            throw({not_applicable, "n/a: no place for further nodes in this network"});
        {_, lean} -> ok;
        {_, same} ->
            connect_all([Second | Nodes]),
            pt_bench_rival:join_all([node(), Second | Nodes])
    end,
    {[Second | Nodes], OsPids};
connected(_Cell, Second) ->
    {[Second], []}.

connect_all(Nodes) ->
    [true = net_kernel:connect_node(N) || N <- Nodes],
    [
        true = erpc:call(A, net_kernel, connect_node, [B])
     || A <- Nodes, B <- Nodes, A < B
    ],
    Kinds = lists:usort([kind(N) || N <- Nodes]),
    length(Kinds) =:= 1 orelse error({different_carriers, Kinds}).

%% A further node must not be reached by another carrier than the second one.
kind(Node) ->
    case proplists:get_value(Node, erlang:system_info(dist_ctrl)) of
        Port when is_port(Port) -> erlang:port_info(Port, name);
        Pid when is_pid(Pid) -> process
    end.

%%% keeper

keep(Style, Peers) ->
    receive
        {list, From, Ref} ->
            From ! {Ref, [{Node, OsPid} || {_, Node, OsPid} <- Peers]},
            keep(Style, Peers);
        {{ensure, Count, Wanted, Cell}, From, Ref} ->
            {Kept, Surplus} =
                case Wanted of
                    %% A growth cell wants to see the connections come up.
                    same when Style =:= same -> lists:split(min(Count, length(Peers)), Peers);
                    _ -> {[], Peers}
                end,
            _ = [stop(P) || P <- Surplus],
            New = start(Count - length(Kept), Wanted),
            Wanted =:= same andalso lists:foreach(fun start_rival/1, New),
            Started = Kept ++ New,
            Wanted =:= same andalso prepare(Started, Cell),
            From ! {Ref, ok},
            keep(Wanted, Started);
        {'EXIT', Pid, Why} ->
            lists:keymember(Pid, 1, Peers) andalso exit({further_node_died, Why}),
            keep(Style, Peers)
    end.

start_rival({Peer, _, _}) ->
    ok = pt_bench_rival:start_further(fun(M, F, A) -> peer:call(Peer, M, F, A, ?BOOT_MS) end).

prepare(Peers, Cell) ->
    [
        ok = peer:call(Peer, pt_bench_work, prepare, [Cell, further], ?BOOT_MS)
     || {Peer, _, _} <- Peers
    ].

start(0, _Style) ->
    [];
start(Count, Style) ->
    Now = min(Count, ?AT_ONCE),
    Booting = [boot(Style) || _ <- lists:seq(1, Now)],
    [booted(B) || B <- Booting] ++ start(Count - Now, Style).

boot(Style) ->
    Tag = make_ref(),
    [Own, OwnHost] = string:split(atom_to_list(node()), "@"),
    Name = Own ++ "x" ++ integer_to_list(erlang:unique_integer([positive])),
    {[Command | Words], Host} =
        case third_place() of
            {Wrap, Third} -> {Wrap ++ ["erl"], Third};
            none -> {["erl"], OwnHost}
        end,
    {ok, Peer, _Node} = peer:start_link(#{
        name => Name,
        host => Host,
        exec => {os:find_executable(Command), Words},
        longnames => true,
        connection => standard_io,
        wait_boot => {self(), Tag},
        args => emulator_flags(Style) ++ own_flags()
    }),
    {Tag, Peer}.

booted({Tag, Peer}) ->
    receive
        {Tag, {started, Node, Peer}} -> {Peer, Node, peer:call(Peer, os, getpid, [])};
        {Tag, Other} -> exit({further_node_did_not_start, Other})
    after ?BOOT_MS -> exit({further_node_did_not_start, timeout})
    end.

%% What this VM was started with. Emulator flags (`+S 1:1') are not kept by init; the process's
%% command line has them, with `-' for `+', before the first `--'.
emulator_flags(lean) ->
    ?LEAN;
emulator_flags(same) ->
    {ok, Line} = file:read_file("/proc/self/cmdline"),
    [_Program | Words] = [binary_to_list(W) || W <- binary:split(Line, <<0>>, [global])],
    [
        case W of [$- | Flag] -> [$+ | Flag]; _ -> W end
     || W <- lists:takewhile(fun(W) -> W =/= "--" end, Words)
    ].

own_flags() ->
    lists:append([
        ["-" ++ atom_to_list(Flag) | Values]
     || {Flag, Values} <- init:get_arguments(),
        not lists:member(Flag, [root, bindir, progname, home, name, sname, user, noshell, noinput])
    ]).

stop({Peer, _Node, OsPid}) ->
    unlink(Peer),
    try peer:stop(Peer) catch _:_ -> gone end,
    gone(OsPid, erlang:monotonic_time(millisecond) + 5000).

gone(OsPid, Deadline) ->
    case pt_bench_proc:alive(OsPid) of
        false ->
            ok;
        true ->
            case erlang:monotonic_time(millisecond) < Deadline of
                true ->
                    timer:sleep(10),
                    gone(OsPid, Deadline);
                false ->
                    os:cmd("kill -9 " ++ OsPid)
            end
    end.
