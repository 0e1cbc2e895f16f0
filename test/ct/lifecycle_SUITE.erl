%% A node's distribution from its start to its end: begun and ended while the node runs, a node that is
%% restarted in its process, ports that are taken (CARRIER=inet_tcp: over stock, as a control).
-module(lifecycle_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([started_at_run_time/1, restarted_in_place/1, auto_connect_once/1, taken_port_is_passed_over/1,
         no_port_to_be_had/1, checked_addresses/1, statistics_of_a_handle/1, forbidden_backend/1]).

-import(pt_pair, [free_port/0, listen_port/1, nodes_of/2, on/2, pair/2, stop/1]).

suite() -> [{timetrap, {seconds, 240}}].

all() ->
    [started_at_run_time, restarted_in_place, auto_connect_once, taken_port_is_passed_over,
     no_port_to_be_had, checked_addresses, statistics_of_a_handle, forbidden_backend].

alone() -> #{args => ["-connect_all", "false"]}.

%% net_kernel:start and stop, several times and with another name: nothing stays behind, and the node can
%% do what any other can.
started_at_run_time(_) ->
    A = pt_peer:start(life, alone()), % starts epmd, too
    [NA, C] = [pt_peer:node(A), pt_peer:spawn_collector(A)],
    pt_pair:do_on(A, C, fun() -> net_kernel:monitor_nodes(true) end),
    #{args := Args} = alone(),
    B = pt_peer:start(life, #{name => none, args => Args}),
    Before = sockets(B),
    Nodes = [begin
                 NB = list_to_atom(pt_peer:opts_name(life) ++ "@127.0.0.1"),
                 {ok, _} = pt_peer:call(B, net_kernel, start, [NB, #{name_domain => longnames}]),
                 BB = B#{node := NB},
                 {From, To} = case I rem 2 of 0 -> {A, BB}; 1 -> {BB, A} end,
                 pt_peer:connect(From, To),
                 Big = rand:bytes(1000000),
                 ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
                 ?assertEqual(Big, on(B, fun() -> erpc:call(NA, fun() -> Big end) end)),
                 ok = pt_peer:call(B, net_kernel, stop, []),
                 ?assertEqual(nonode@nohost, pt_peer:call(B, erlang, node, [])),
                 ?assertEqual([], pt_peer:call(B, erlang, nodes, [connected])),
                 ?assert(pt_peer:wait(fun() -> pt_peer:alone(A) end)),
                 NB
             end || I <- lists:seq(1, 4)],
    ?assert(pt_peer:wait(fun() -> sockets(B) =:= Before end)),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, C)) >= 8 end)),
    ?assertEqual([{What, N} || N <- Nodes, What <- [nodeup, nodedown]], pt_peer:collected(A, C)),
    stop([A, B]).

sockets(P) ->
    on(P, fun() ->
              length([X || X <- erlang:ports(),
                           lists:member(erlang:port_info(X, name), [{name, "tcp_inet"}, {name, "partisan_drv"}])])
          end).

%% init:restart/0, which the start scripts of releases use: all processes and code are new, the shared
%% object and its loop thread are not.
restarted_in_place(_) ->
    A = pt_peer:start(life, alone()),
    Name = pt_peer:opts_name(life_again) ++ "@127.0.0.1",
    Cookie = atom_to_list(pt_peer:call(A, erlang, get_cookie, [])),
    Port = open_port({spawn_executable, os:find_executable("erl")},
                     [{args, ["-noinput", "-name", Name, "-setcookie", Cookie, "-connect_all", "false"
                              | pt_peer:dist_args()]},
                      exit_status, stderr_to_stdout]),
    NB = list_to_atom(Name),
    C = pt_peer:spawn_collector(A),
    pt_pair:do_on(A, C, fun() -> net_kernel:monitor_nodes(true) end),
    Ask = fun() ->
              Big = rand:bytes(1000000),
              on(A, fun() ->
                        try
                            Big = erpc:call(NB, erlang, hd, [[Big]]),
                            {erpc:call(NB, os, getpid, []), erpc:call(NB, erlang, whereis, [init])}
                        catch error:{erpc, noconnection} -> down
                        end
                    end)
          end,
    ?assert(pt_peer:wait(fun() -> Ask() =/= down end)),
    {OsPid, _} = Ask(),
    [begin
         Ups = length(pt_peer:collected(A, C)),
         %% the answer may be lost with the connection
         _ = on(A, fun() -> erpc:cast(NB, init, restart, []) end),
         ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(A, C)) > Ups end)),
         ?assertEqual({nodedown, NB}, lists:nth(Ups + 1, pt_peer:collected(A, C))),
         ?assert(pt_peer:wait(fun() -> Ask() =/= down end, 60000)),
         ?assertMatch({OsPid, _}, Ask())
     end || _ <- [1, 2]],
    on(A, fun() -> erpc:cast(NB, erlang, halt, []) end),
    receive {Port, {exit_status, 0}} -> ok after 60000 -> error(does_not_end) end,
    stop([A]).

%% -kernel dist_auto_connect once: who lost a connection does not make another by sending.
auto_connect_once(_) ->
    #{args := Args} = alone(),
    {A, B} = nodes_of(alone(), #{args => Args ++ ["-kernel", "dist_auto_connect", "once"]}),
    NA = pt_peer:node(A),
    Call = fun() -> on(B, fun() -> try erpc:call(NA, erlang, node, []) catch error:{erpc, Why} -> Why end end) end,
    ?assertEqual(NA, Call()),
    pt_peer:disconnect(A, B),
    ?assertEqual(noconnection, Call()),
    ?assertEqual([], pt_peer:call(B, erlang, nodes, [])),
    pt_peer:connect(B, A),
    ?assertEqual(NA, Call()),
    stop([A, B]).

%% The next one of the range.
taken_port_is_passed_over(_) ->
    Port = free_port(),
    {ok, L} = gen_tcp:listen(Port, [{ip, {127, 0, 0, 1}}]),
    Args = ["-kernel", "inet_dist_listen_min", integer_to_list(Port),
            "inet_dist_listen_max", integer_to_list(Port + 50)],
    {A, B} = nodes_of(#{args => Args}, #{}),
    Got = listen_port(A),
    ?assert(Got > Port andalso Got =< Port + 50, {Port, Got}),
    pt_peer:connect(B, A),
    gen_tcp:close(L),
    stop([A, B]).

%% The node does not start, and says why.
no_port_to_be_had(_) ->
    Port = free_port(),
    {ok, L} = gen_tcp:listen(Port, [{ip, {127, 0, 0, 1}}]),
    {Status, Words} = run_erl([], ["-kernel", "inet_dist_listen_min", integer_to_list(Port)], []),
    ?assertNotEqual(0, Status),
    ?assertNotEqual(nomatch, string:find(Words, "eaddrinuse"), Words),
    gen_tcp:close(L).

%% A node that ends at once, if it starts: its exit status, and what it says.
run_erl(Wrap, Args, Env) ->
    [Command | Rest] = Wrap ++ ["erl", "-noinput", "-name", pt_peer:opts_name(life) ++ "@127.0.0.1"]
                       ++ pt_peer:dist_args() ++ Args ++ ["-eval", "halt(0)."],
    Port = open_port({spawn_executable, os:find_executable(Command)},
                     [{args, Rest}, {env, [{"ERL_CRASH_DUMP_SECONDS", "0"} | Env]}, exit_status,
                      stderr_to_stdout]),
    all_it_says(Port, []).

all_it_says(Port, Acc) ->
    receive
        {Port, {data, Data}} -> all_it_says(Port, [Acc, Data]);
        {Port, {exit_status, Status}} -> {Status, lists:flatten(Acc)}
    after 60000 -> error({does_not_end, lists:flatten(Acc)})
    end.

%% -kernel check_ip true: peers of our own networks may come in, lanes and all.
checked_addresses(_) ->
    #{args := Args} = alone(),
    Checked = #{args => Args ++ ["-kernel", "check_ip", "true"]},
    {A, B} = pair(Checked, Checked),
    Big = rand:bytes(1000000),
    NB = pt_peer:node(B),
    ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
    stop([A, B]).

%% erlang:dist_get_stat/1 counts what the VM gave to the connection and got from it.
statistics_of_a_handle(_) ->
    {A, B} = pair(alone(), alone()),
    [NA, NB] = [pt_peer:node(P) || P <- [A, B]],
    C = pt_peer:spawn_collector(B),
    Stat = fun(P, Peer) ->
               on(P, fun() ->
                         [Connection] = ets:lookup(sys_dist, Peer),
                         {ok, In, Out, Pending} = erlang:dist_get_stat(element(3, Connection)),
                         true = is_boolean(Pending) orelse is_integer(Pending),
                         {In, Out}
                     end)
           end,
    [{_, Out}, {In, _}] = [Stat(A, NB), Stat(B, NA)],
    on(A, fun() -> [C ! I || I <- lists:seq(1, 100)] end),
    ?assert(pt_peer:wait(fun() -> length(pt_peer:collected(B, C)) =:= 100 end)),
    ?assert(element(2, Stat(A, NB)) >= Out + 100),
    ?assert(element(1, Stat(B, NA)) >= In + 100),
    stop([A, B]).

%% Where io_uring is forbidden a node runs on poll and says so; one that must have it does not start, and
%% says why.
forbidden_backend(Config) ->
    case pt_peer:carrier() of
        "partisan" -> forbidden(Config);
        Other -> {skip, "no backend with " ++ Other}
    end.

forbidden(Config) ->
    Exe = filename:join(?config(priv_dir, Config), "noring"),
    Source = filename:join(?config(data_dir, Config), "noring.c"),
    ?assertEqual("0\n", os:cmd(lists:join(" ", [os:getenv("CC", "cc"), "-std=gnu17 -Wall -Wextra -Werror -o",
                                                Exe, Source, "; echo $?"]))),
    case os:cmd(Exe ++ " echo works 2>&1") of
        "works\n" -> forbidden_by(Exe);
        Why -> {skip, Why}
    end.

forbidden_by(Exe) ->
    Env = fun(Backend) -> [{"PARTISAN_BACKEND", Backend}] end,
    A = pt_peer:start(life, #{wrap => [Exe], env => Env("auto")}),
    B = pt_peer:start(life),
    #{backend := poll, backend_reason := Reason} = pt_peer:call(A, partisan_dist, info, []),
    NB = pt_peer:node(B),
    Big = rand:bytes(1000000),
    ?assertEqual(Big, on(A, fun() -> erpc:call(NB, fun() -> Big end) end)),
    stop([A, B]),
    {Status, Words} = run_erl([Exe], [], Env("uring")),
    ?assertNotEqual(0, Status),
    [?assertNotEqual(nomatch, string:find(Text, "io_uring"), Text) || Text <- [Reason, Words]].
