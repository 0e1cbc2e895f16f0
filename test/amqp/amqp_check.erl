%% Nodes that are not connected exchange messages by a broker, which is killed, stopped and starved.
%% Started by test/amqp/run.
-module(amqp_check).

-export([main/1]).

-define(MANAGER, partisan_amqp_peer_service_manager).
-define(WINDOW, 200).
-define(WINDOW_BYTES, 1000000).

main([Home, Work, Ebin]) ->
    logger:set_primary_config(level, critical),
    Code = try run(Home, Work, Ebin) of
               ok -> 0
           catch
               Class:Reason:Stack ->
                   io:format("~nFAILED ~tp: ~tp~n~tp~nlogs: ~ts~n", [Class, Reason, Stack, Work]),
                   1
           end,
    erlang:halt(Code).

run(Home, Work, Ebin) ->
    cookie(),
    Tls = filename:join(Work, "tls"),
    [Amqp, Amqps, Dist] = ports(3),
    Broker = rmq_node:new(Home, filename:join(Work, "nodes"), "ptamqp_" ++ os:getpid(), {Amqp, Dist}, ""),
    secure(Broker, Amqps, Tls),
    say("starting ~ts", [filename:basename(Home)]),
    ok = rmq_node:start(Broker),
    Options = #{host => "localhost", port => Amqp, heartbeat_interval => 200, down_after => 2000,
                reconnect_max => 1000, window => ?WINDOW, window_bytes => ?WINDOW_BYTES,
                cluster => "check-" ++ os:getpid()},
    Ctx = #{broker => Broker, ebin => [Ebin, filename:join(Work, "ebin")], options => Options,
            tls => Tls, amqps => Amqps},
    [A, B, C] = Nodes = [start(Ctx, Options, Name) || Name <- ["a", "b", "c"]],
    steps([{"members by heartbeats, without a connection", fun() -> members(Nodes) end},
           {"still no connection", fun() -> unconnected(A, B) end},
           {"messages by name and by pid, large ones, in order", fun() -> messages(A, B) end},
           {"and none by messages", fun() -> unconnected(A, B) end},
           {"a message to nobody is an error", fun() -> unroutable(A) end},
           {"what is sent to a node that is down waits for it", fun() -> away(Ctx, A, C) end},
           {"the broker killed in mid-traffic, and back", fun() -> killed(Ctx, A, B) end},
           {"the broker away for long: senders wait, memory is bounded", fun() -> long(Ctx, A, B) end},
           {"the broker short of memory: senders wait", fun() -> starved(Ctx, A, B) end},
           {"TLS, with certificates of the right authority only", fun() -> tls(Ctx, A) end},
           {"from a full mesh to the broker, and back, while it runs", fun() -> switch(Ctx) end},
           {"leave and join", fun() -> leave(A, B) end},
           {"no node is connected with another", fun() -> unconnected(A, B) end}]),
    [peer:stop(Peer) || {Peer, _} <- [A, B]],
    {ok, _} = rmq_node:ctl(Broker, ["stop"]),
    ok = rmq_node:await_exit(Broker, 60000),
    say("ok", []).

steps(Steps) ->
    lists:foreach(fun({What, Fun}) ->
                          Start = erlang:monotonic_time(millisecond),
                          ok = Fun(),
                          say("~ts (~.1f s)", [What, (erlang:monotonic_time(millisecond) - Start) / 1000])
                  end, Steps).

%% ------------------------------------------------------------------------------------------------

members(Nodes) ->
    Names = lists:sort([Name || {_, Name} <- Nodes]),
    [await("members on " ++ atom_to_list(Name), 20000,
           fun() -> {ok, Members} = call(Node, partisan_peer_service, members, []),
                    lists:sort(Members) =:= Names
           end) || {_, Name} = Node <- Nodes],
    ok.

messages(A, {_, NameB} = B) ->
    Pid = call(B, amqp_peer, pid, []),
    ok = call(A, amqp_peer, await_pid, [Pid, 20000]),
    %% Twice the window's bytes in one message.
    ok = call(A, amqp_peer, sender, [plain, NameB, queued, 2 * ?WINDOW_BYTES]),
    await_accepted(A, plain, 1000),
    Sent = call(A, amqp_peer, stop, [plain]),
    await_all(B, plain, Sent),
    Sent = call(B, amqp_peer, received, [plain]), % in order, each once
    ok.

unroutable(A) ->
    {error, unroutable} = call(A, partisan, forward_message,
                               ['nobody@nowhere', x, hello, #{confirm => true, timeout => 20000}]),
    ok.

%% C is stopped, and another node of its name gets what was sent meanwhile.
away(Ctx, A, {Peer, NameC}) ->
    peer:stop(Peer),
    await("c is down", 20000,
          fun() -> not lists:member(NameC, element(2, call(A, partisan_overlay_shell, neighbours, []))) end),
    Numbers = lists:seq(1, 50),
    [ok = call(A, partisan, forward_message,
               [NameC, amqp_sink, {n, away, N, 0, <<>>}, #{confirm => true, timeout => 20000}])
     || N <- Numbers],
    C = start(Ctx, maps:get(options, Ctx), "c"),
    await_all(C, away, Numbers),
    Numbers = call(C, amqp_peer, received, [away]),
    peer:stop(element(1, C)),
    ok.

killed(#{broker := Broker}, A, B) ->
    Senders = [{A, a1, B, confirm}, {A, a2, B, queued}, {B, b1, A, confirm}, {B, b2, A, queued}],
    start_senders(Senders),
    [await_accepted(From, Name, 100) || {From, Name, _, _} <- Senders],
    ok = rmq_node:kill(Broker),
    ok = rmq_node:start(Broker),
    Before = [{Name, length(call(From, amqp_peer, accepted, [Name]))} || {From, Name, _, _} <- Senders],
    [await_accepted(From, Name, N + 100) || {{From, Name, _, _}, {_, N}} <- lists:zip(Senders, Before)],
    finish(Senders).

long(#{broker := Broker}, A, B) ->
    Senders = [{A, list_to_atom("long" ++ integer_to_list(N)), B, queued} || N <- lists:seq(1, 8)],
    ok = rmq_node:kill(Broker),
    await("the loss is noticed", 20000,
          fun() -> not maps:get(connected, call(A, partisan_amqp_pub, info, [])) end),
    Before = call(A, erlang, memory, [total]),
    start_senders(Senders),
    Told = fun() -> [call(From, amqp_peer, busy, [Name]) || {From, Name, _, _} <- Senders] end,
    await(fun() -> {busy, Told(), call(A, partisan_amqp_pub, info, [])} end, 20000,
          fun() -> lists:min(Told()) >= 20 end),
    #{unconfirmed := N, bytes := Bytes} = call(A, partisan_amqp_pub, info, []),
    true = N =< ?WINDOW,
    true = Bytes =< ?WINDOW_BYTES,
    %% The window, the message that each sender holds, and garbage.
    Grown = call(A, erlang, memory, [total]) - Before,
    Grown < 20 * ?WINDOW_BYTES orelse error({memory_grown, Grown}),
    ok = rmq_node:start(Broker),
    Had = length(call(A, amqp_peer, accepted, [long1])),
    await_accepted(A, long1, Had + 20),
    finish(Senders).

%% connection.blocked: the broker's memory alarm.
starved(#{broker := Broker}, A, B) ->
    Senders = [{A, starved, B, queued}],
    {ok, _} = rmq_node:ctl(Broker, ["set_vm_memory_high_watermark", "absolute", "1MB"]),
    start_senders(Senders),
    await("blocked", 60000, fun() -> maps:get(blocked, call(A, partisan_amqp_pub, info, [])) end),
    Busy = call(A, amqp_peer, busy, [starved]),
    await("busy", 60000, fun() -> call(A, amqp_peer, busy, [starved]) >= Busy + 5 end),
    #{unconfirmed := N, connected := true} = call(A, partisan_amqp_pub, info, []),
    true = N =< ?WINDOW,
    {ok, _} = rmq_node:ctl(Broker, ["set_vm_memory_high_watermark", "0.8"]),
    Had = length(call(A, amqp_peer, accepted, [starved])),
    await_accepted(A, starved, Had + 2 * ?WINDOW),
    finish(Senders).

tls(#{options := Options, tls := Dir, amqps := Port} = Ctx, A) ->
    In = fun(File) -> filename:join(Dir, File) end,
    Good = #{ca => In("ca.pem"), cert => In("client.pem"), key => In("client.key")},
    D = start(Ctx, Options#{port := Port, tls => Good}, "d"),
    members_see(A, D),
    Senders = [{A, tls1, D, confirm}, {D, tls2, A, confirm}],
    start_senders(Senders),
    [await_accepted(From, Name, 50) || {From, Name, _, _} <- Senders],
    ok = finish(Senders),
    peer:stop(element(1, D)),
    %% The broker's certificate is not of that authority; ours is missing.
    lists:foreach(
      fun({Name, Tls}) ->
              {Peer, _} = E = start(Ctx, Options#{port := Port, tls => Tls}, Name),
              await(Name ++ " is refused", 20000,
                    fun() -> #{connected := false, problem := Problem} = call(E, partisan_amqp_pub, info, []),
                             Problem =/= none
                    end),
              peer:stop(Peer)
      end, [{"e", Good#{ca := In("other.pem")}}, {"f", #{ca => In("ca.pem")}}]),
    ok.

members_see(A, {_, Name}) ->
    await("a new member", 20000,
          fun() -> {ok, Members} = call(A, partisan_peer_service, members, []),
                   lists:member(Name, Members)
          end).

leave(A, {_, NameB} = B) ->
    {_, NameA} = A,
    ok = call(B, partisan_peer_service, leave, []),
    {ok, [NameB]} = call(B, partisan_peer_service, members, []),
    await("a knows", 20000, fun() -> {ok, Members} = call(A, partisan_peer_service, members, []),
                                     not lists:member(NameB, Members) end),
    ok = call(A, partisan_peer_service, sync_join, [NameB]),
    await("b knows", 20000, fun() -> {ok, Members} = call(B, partisan_peer_service, members, []),
                                     lists:member(NameA, Members) end),
    ok.

switch(#{options := Options0} = Ctx) ->
    Mesh = partisan_pluggable_peer_service_manager,
    Options = Options0#{cluster => "check-switch-" ++ os:getpid()},
    [{_, NameG} = G, {_, NameH} = H] = Nodes = [start(Ctx, Options, Name, Mesh) || Name <- ["g", "h"]],
    ok = call(G, partisan_peer_service, sync_join, [NameH]),
    Senders = [{G, switch1, H, queued}, {H, switch2, G, queued}],
    ok = call(G, partisan, set_overlay, [?MANAGER]),
    members(Nodes),
    %% Connections between members stay, and are used, until they end.
    _ = call(G, erlang, disconnect_node, [NameH]),
    [await("no link is left", 30000, fun() -> call(Node, erlang, nodes, [connected]) =:= [] end)
     || Node <- Nodes],
    start_senders(Senders),
    [await_accepted(From, Name, 100) || {From, Name, _, _} <- Senders],
    finish(Senders),
    %% The call goes to members over the distribution, so there has to be one.
    true = call(G, net_kernel, hidden_connect_node, [NameH]),
    ok = call(G, partisan, set_overlay, [Mesh]),
    await("asleep", 20000, fun() -> not maps:get(connected, call(G, partisan_amqp_pub, info, [])) end),
    await("neighbours", 20000,
          fun() -> call(H, partisan_overlay_shell, neighbours, []) =:= {ok, [NameG]} end),
    [peer:stop(Peer) || {Peer, _} <- Nodes],
    ok.

unconnected(A, B) ->
    [[] = call(Node, erlang, nodes, [connected]) || Node <- [A, B]],
    ok.

%% ------------------------------------------------------------------------------------------------

start_senders(Senders) ->
    [ok = call(From, amqp_peer, sender, [Name, To, Mode, 100000]) || {From, Name, {_, To}, Mode} <- Senders],
    ok.

%% All that was accepted has come, each once.
finish(Senders) ->
    Sent = [{To, Name, call(From, amqp_peer, stop, [Name])} || {From, Name, To, _} <- Senders],
    [await_all(To, Name, Numbers) || {To, Name, Numbers} <- Sent],
    [begin
         Got = call(To, amqp_peer, received, [Name]),
         {Name, []} = {Name, Got -- lists:usort(Got)}
     end || {To, Name, _} <- Sent],
    ok.

await_all(Node, Sender, Numbers) ->
    Missing = fun() -> ordsets:subtract(lists:usort(Numbers),
                                        lists:usort(call(Node, amqp_peer, received, [Sender]))) end,
    await(fun() -> {missing, Sender, length(Missing()), lists:sublist(Missing(), 20)} end, 60000,
          fun() -> Missing() =:= [] end).

await_accepted(Node, Sender, N) ->
    await(fun() -> {accepted, Sender, call(Node, amqp_peer, accepted, [Sender]),
                    call(Node, partisan_amqp_pub, info, [])} end, 60000,
          fun() -> length(call(Node, amqp_peer, accepted, [Sender])) >= N end).

await(What, Ms, Fun) ->
    await_until(What, erlang:monotonic_time(millisecond) + Ms, Fun).

await_until(What, Deadline, Fun) ->
    case Fun() of
        true -> ok;
        false ->
            erlang:monotonic_time(millisecond) < Deadline
                orelse error({timeout, case What of
                                           _ when is_function(What) -> What();
                                           _ -> What
                                       end}),
            timer:sleep(50),
            await_until(What, Deadline, Fun)
    end.

call({Peer, _}, Module, Function, Args) ->
    peer:call(Peer, Module, Function, Args, 60000).

%% Over its standard input, not over the distribution. A node's name is its own.
start(Ctx, Options, Short) ->
    start(Ctx, Options, Short, ?MANAGER).

start(#{ebin := Ebins}, Options, Short, Manager) ->
    Name = "ptamqp_" ++ Short ++ "_" ++ os:getpid(),
    {ok, Peer, Node} = peer:start_link(#{name => Name, longnames => false, connection => standard_io,
                                         args => lists:append([["-pa", Dir] || Dir <- Ebins])
                                             ++ ["-proto_dist", "partisan", "-kernel", "logger_level",
                                                 "critical", "-kernel",
                                                 "prevent_overlapping_partitions", "false"]}),
    ok = peer:call(Peer, amqp_peer, start, [Manager, Options], 30000),
    {Peer, Node}.

secure(#{dir := Dir}, Port, Tls) ->
    In = fun(File) -> filename:join(Tls, File) end,
    ok = file:write_file(filename:join(Dir, "rabbitmq.conf"),
                         ["listeners.ssl.default = ", integer_to_list(Port), "\n"
                          "ssl_options.cacertfile = ", In("ca.pem"), "\n"
                          "ssl_options.certfile = ", In("server.pem"), "\n"
                          "ssl_options.keyfile = ", In("server.key"), "\n"
                          "ssl_options.verify = verify_peer\n"
                          "ssl_options.fail_if_no_peer_cert = true\n"], [append]).

cookie() ->
    File = filename:join(os:getenv("HOME"), ".erlang.cookie"),
    ok = file:write_file(File, binary:encode_hex(rand:bytes(10))),
    ok = file:change_mode(File, 8#400).

%% Ports that were free a moment ago.
ports(N) ->
    Sockets = [element(2, {ok, _} = gen_tcp:listen(0, [])) || _ <- lists:seq(1, N)],
    Ports = [element(2, {ok, _} = inet:port(S)) || S <- Sockets],
    [ok = gen_tcp:close(S) || S <- Sockets],
    Ports.

say(Format, Args) ->
    io:format("  " ++ Format ++ "~n", Args).
