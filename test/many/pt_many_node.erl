%% What a node of a large cluster runs (pt_many): it connects to the hub that started it, does what that
%% asks for, one thing at a time, and ends when the hub does.
-module(pt_many_node).

-behaviour(partisan_plumtree_broadcast_handler).

-export([main/1]).
-export([application/1, join/1, connect/1, sight/0, eager/1, cast/2, times/1, copies/0, forward/2, arrived/0,
         memory/0, now_us/0]).
-export([broadcast_data/1, merge/2, is_stale/1, graft/1, exchange/1]).

-define(CALL_MS, 60000).

%% -run pt_many_node main PORT
-spec main([string()]) -> pid().
main([Port]) -> spawn(fun() -> serve(list_to_integer(Port)) end).

serve(Port) ->
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    true = register(?MODULE, spawn(fun() -> sink(0) end)),
    Socket = hub(Port),
    say(Socket, {hello, node(), os:getpid()}),
    loop(Socket).

%% A node that nobody would end does not stay.
hub(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {packet, 4}, {active, false}], ?CALL_MS) of
        {ok, Socket} -> Socket;
        {error, _} -> halt(1)
    end.

loop(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Packet} ->
            {M, F, A} = binary_to_term(Packet),
            say(Socket, try {ok, apply(M, F, A)} catch Class:Reason:At -> {Class, Reason, At} end),
            loop(Socket);
        {error, _} ->
            halt()
    end.

say(Socket, Term) ->
    case gen_tcp:send(Socket, term_to_binary(Term)) of
        ok -> ok;
        {error, _} -> halt(1)
    end.

%% ------------------------------------------------------------------------------------------------

application(Env) ->
    _ = application:load(partisan),    % -proto_dist has loaded it already
    [ok = application:set_env(partisan, Key, Value) || {Key, Value} <- Env],
    {ok, _} = application:ensure_all_started(partisan),
    ok.

join(Node) -> partisan_peer_service:join(Node).

connect(Nodes) -> [Node || Node <- Nodes, net_kernel:connect_node(Node) =/= true].

%% Neighbours, and how many nodes this one knows (in an overlay with routes: has a way to).
sight() ->
    case whereis(partisan_overlay_shell) of
        undefined ->
            {lists:sort(nodes(connected)), length(nodes(connected)) + 1};
        _ ->
            {ok, Near} = partisan_overlay_shell:neighbours(),
            %% With more patience than partisan_overlay_shell:info/0 has.
            Info = gen_server:call(partisan_overlay_shell, info, ?CALL_MS),
            {Near, length(maps:get(known, Info, maps:get(members, Info)))}
    end.

%% The links of a broadcast tree that carry messages.
eager(Root) -> element(1, partisan_plumtree_broadcast:get_peers(Root, ?CALL_MS)).

%% Memory in kB: all that is resident; this process's share of it, where pages are shared; descriptors.
memory() ->
    Rollup = lines("/proc/self/smaps_rollup"),
    {ok, Names} = file:list_dir("/proc/self/fd"),
    {field("Rss:", Rollup), field("Pss:", Rollup), length(Names)}.

lines(Path) ->
    {ok, Fd} = file:open(Path, [read, raw, binary]),
    {ok, Text} = file:read(Fd, 100000),
    ok = file:close(Fd),
    [string:lexemes(Line, " ") || Line <- string:lexemes(binary_to_list(Text), "\n")].

field(Name, Lines) -> hd([list_to_integer(Value) || [Key, Value | _] <- Lines, Key =:= Name]).

%% The same clock in all processes of the machine.
now_us() -> erlang:convert_time_unit(os:perf_counter(), perf_counter, microsecond).

%% ------------------------------------------------------------------------------------------------
%% Broadcast: when each message came

cast(Id, Payload) ->
    Now = now_us(),
    true = ets:insert_new(?MODULE, {Id, Payload, Now}),
    ok = partisan_plumtree_broadcast:broadcast({Id, Payload}, ?MODULE),
    Now.

times(Ids) -> [case ets:lookup(?MODULE, Id) of [{_, _, At}] -> At; [] -> missing end || Id <- Ids].

copies() ->
    case ets:lookup(?MODULE, copies) of [{_, N}] -> N; [] -> 0 end.

broadcast_data({Id, Payload}) -> {Id, Payload}.

merge(Id, Payload) ->
    New = ets:insert_new(?MODULE, {Id, Payload, now_us()}),
    _ = [ets:update_counter(?MODULE, copies, 1, {copies, 0}) || not New],
    New.

is_stale(Id) -> ets:member(?MODULE, Id).

graft(Id) ->
    case ets:lookup(?MODULE, Id) of [{_, Payload, _}] -> {ok, Payload}; [] -> {error, not_found} end.

exchange(_Node) -> ignore.

%% ------------------------------------------------------------------------------------------------
%% Messages to any member, acknowledged end to end

%% What was not accepted: no way is known.
forward(Nodes, Opts) -> [Node || Node <- Nodes, partisan:forward_message(Node, ?MODULE, mail, Opts) =/= ok].

arrived() ->
    ?MODULE ! {count, self()},
    receive {count, N} -> N after ?CALL_MS -> error(timeout) end.

sink(N) ->
    receive
        mail -> sink(N + 1);
        {count, From} -> From ! {count, N}, sink(N)
    end.
