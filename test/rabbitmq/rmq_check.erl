%% A RabbitMQ cluster on a carrier: a quorum queue and a mirrored queue keep every confirmed message
%% while the node that leads both is killed and comes back. Started by test/rabbitmq/run.
-module(rmq_check).

-export([main/1]).

-include_lib("amqp_client/include/amqp_client.hrl").

-define(QUORUM, <<"check.quorum">>).
-define(MIRRORED, <<"check.mirrored">>).

main([Home, Base, Carrier, Messages]) ->
    ErlArgs = os:getenv("CHECK_ERL_ARGS", ""),
    %% Expected deaths of client connections would fill the screen.
    logger:set_primary_config(level, critical),
    Code =
        try run(Home, Base, Carrier, list_to_integer(Messages), ErlArgs) of
            ok -> 0
        catch
            Class:Reason:Stack ->
                io:format("~nFAILED ~tp: ~tp~n~tp~nlogs: ~ts~n", [Class, Reason, Stack, Base]),
                1
        end,
    erlang:halt(Code).

run(Home, Base, Carrier, Messages, ErlArgs) ->
    {ok, _} = application:ensure_all_started(amqp_client),
    cookie(),
    [N1, N2, N3] = Nodes =
        [rmq_node:new(Home, Base, "ptrmq" ++ I ++ "_" ++ os:getpid(), {port(), port()}, ErlArgs)
         || I <- ["1", "2", "3"]],
    say("starting three nodes of ~ts on ~ts", [filename:basename(Home), Carrier]),
    [ok = rmq_node:start(N) || N <- Nodes],
    [ok = join(N, N1) || N <- [N2, N3]],
    [ok = check_carrier(N, length(Nodes) - 1, Carrier) || N <- Nodes],
    ok = declare(N2),
    ok = await_replicas(N1, 3),
    [true = leader(N1, Q) =:= maps:get(name, N2) || Q <- [?QUORUM, ?MIRRORED]],

    say("publishing with confirms through nodes 1 and 2, consuming through node 3", []),
    [P1, P2, P3] = [maps:get(port, N) || N <- Nodes],
    Consumers = [{Q, rmq_load:consumer(Q, [P3, P1])} || Q <- [?QUORUM, ?MIRRORED]],
    Publishers = [rmq_load:publisher(Id, Q, Ports)
                  || {Id, Q, Ports} <- [{1, ?QUORUM, [P1, P3]}, {2, ?QUORUM, [P2, P3]},
                                        {3, ?MIRRORED, [P1, P3]}, {4, ?MIRRORED, [P2, P3]}]],
    ok = await_confirms(Publishers, Messages),

    say("SIGKILL to node 2, the leader of both queues", []),
    ok = rmq_node:kill(N2),
    ok = await_confirms(Publishers, Messages),
    true = leader(N1, ?QUORUM) =/= maps:get(name, N2),

    say("node 2 comes back", []),
    ok = rmq_node:start(N2),
    [ok = check_carrier(N, length(Nodes) - 1, Carrier) || N <- Nodes],
    ok = await_replicas(N1, 3),
    ok = await_confirms(Publishers, Messages),

    Sent = [{P, rmq_load:finish(P)} || P <- Publishers],
    [verify(P, N, Consumers) || {P, N} <- Sent],
    [ok = check_log(N) || N <- Nodes],
    say("stopping", []),
    [begin
         {ok, _} = rmq_node:ctl(N, ["stop"]),
         ok = rmq_node:await_exit(N, 60_000)
     end || N <- Nodes],
    say("ok: ~b confirmed messages, every one consumed and intact; stock rabbitmqctl throughout",
        [lists:sum([N || {_, N} <- Sent])]),
    ok.

cookie() ->
    File = filename:join(os:getenv("HOME"), ".erlang.cookie"),
    ok = file:write_file(File, binary:encode_hex(crypto:strong_rand_bytes(10))),
    ok = file:change_mode(File, 8#400).

%% Ports that were free a moment ago. The small window is accepted: a clash fails with a clear line.
port() ->
    {ok, S} = gen_tcp:listen(0, []),
    {ok, Port} = inet:port(S),
    ok = gen_tcp:close(S),
    Port.

join(Node, #{name := First}) ->
    [{ok, _} = rmq_node:ctl(Node, Args)
     || Args <- [["stop_app"], ["join_cluster", First], ["start_app"]]],
    ok.

%% Each connection between brokers is on the carrier: asked of the VM, not of the carrier. The
%% hidden node is the rabbitmqctl that asks; it must be plain.
check_carrier(#{name := Name} = Node, Peers, Carrier) ->
    Expr = "[{P, element(2, erlang:port_info(C, name))} || {P, C} <- erlang:system_info(dist_ctrl),"
           " lists:member(P, nodes())].",
    Got = rmq_load:await("full mesh of " ++ Name, 60_000, fun() ->
        {ok, Tokens, _} = erl_scan:string(rmq_node:eval(Node, Expr) ++ "."),
        {ok, L} = erl_parse:parse_term(Tokens),
        length(L) =:= Peers andalso {true, L}
    end),
    [error({not_on_carrier, Name, P, Driver})
     || {P, Driver} <- Got, (Driver =:= "tcp_inet") =/= (Carrier =:= "inet_tcp")],
    ok.

%% Through the node to be killed later, so that it leads both queues (client-local is the default).
declare(#{port := Port} = Node) ->
    {ok, _} = rmq_node:ctl(Node, ["set_policy", "--apply-to", "queues", "all", "^check\\.mirrored",
                                  "{\"ha-mode\":\"all\",\"ha-sync-mode\":\"automatic\"}"]),
    {ok, Conn} = amqp_connection:start(#amqp_params_network{port = Port}),
    {ok, Chan} = amqp_connection:open_channel(Conn),
    [#'queue.declare_ok'{} =
         amqp_channel:call(Chan, #'queue.declare'{
             queue = Q, durable = true,
             arguments = [{<<"x-queue-type">>, longstr, Type}]})
     || {Q, Type} <- [{?QUORUM, <<"quorum">>}, {?MIRRORED, <<"classic">>}]],
    ok = amqp_connection:close(Conn).

leader(Node, Queue) ->
    Column = case Queue of ?QUORUM -> "leader"; ?MIRRORED -> "pid" end,
    {ok, Out} = rmq_node:ctl(Node, ["list_queues", "--no-table-headers", "name", Column]),
    [Value] = [V || L <- string:lexemes(Out, "\n"), [Q, V] <- [string:split(L, "\t")],
                    list_to_binary(Q) =:= Queue],
    %% A pid is printed as <node.1.2.3>.
    re:replace(Value, "^<(.*)\\.\\d+\\.\\d+\\.\\d+>$", "\\1", [{return, list}]).

await_replicas(Node, N) ->
    rmq_load:await("replicas of both queues in step", 120_000, fun() ->
        {ok, Out} = rmq_node:ctl(Node, ["list_queues", "--no-table-headers", "name", "online",
                                        "synchronised_slave_pids"]),
        Rows = [string:split(L, "\t", all) || L <- string:lexemes(Out, "\n")],
        lists:sort([{list_to_binary(Q), count(Online, "@"), count(Slaves, "<")}
                    || [Q, Online, Slaves] <- Rows])
            =:= [{?MIRRORED, 0, N - 1}, {?QUORUM, N, 0}]
    end).

count(Text, What) ->
    length(string:split(Text, What, all)) - 1.

await_confirms(Publishers, More) ->
    Goals = [{P, rmq_load:confirmed(P) + More} || P <- Publishers],
    Missing = fun() -> [{maps:get(id, P), G - rmq_load:confirmed(P)}
                        || {P, G} <- Goals, rmq_load:confirmed(P) < G] end,
    try rmq_load:await("confirms", 120_000, fun() -> Missing() =:= [] end)
    catch
        error:{timeout_waiting_for, _} ->
            [io:format("publisher ~b is at ~p~n", [Id, process_info(Pid, current_stacktrace)])
             || #{id := Id, pid := Pid} <- Publishers],
            error({confirms_missing_by_publisher, Missing()})
    end.

verify(#{id := Id, queue := Queue}, N, Consumers) ->
    Table = proplists:get_value(Queue, Consumers),
    All = lists:seq(1, N),
    try
        rmq_load:await("consumers", 120_000, fun() -> rmq_load:arrived(Table, Id) =:= All end)
    catch
        error:{timeout_waiting_for, _} ->
            error({lost_confirmed, Queue, Id, All -- rmq_load:arrived(Table, Id)})
    end,
    Twice = ets:select_count(Table, [{{{Id, '_'}, '$1'}, [{'>', '$1', 1}], [true]}]),
    say("~ts, publisher ~b: ~b confirmed, ~b consumed, ~b of them more than once",
        [Queue, Id, N, N, Twice]).

%% Signs that the cluster was not healthy though nothing was lost.
check_log(#{name := Name} = Node) ->
    Log = rmq_node:log(Node),
    [error({log, Name, L})
     || L <- binary:split(Log, <<"\n">>, [global]),
        re:run(L, "inconsistent_database|running_partitioned_network|Partial partition") =/= nomatch],
    ok.

say(Format, Args) ->
    io:format("~ts " ++ Format ++ "~n",
              [string:slice(calendar:system_time_to_rfc3339(erlang:system_time(second)), 11, 8) | Args]).
