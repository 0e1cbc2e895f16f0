%% Three nodes of Riak Core with the unir key-value store: they join to one ring, values written on
%% each node are read on each other, requests are counted. See docs/riak-core.md.
-module(pt_riak).
-export([main/0]).
-export([configure/2, start/0, plan/0, settled/1, check/1, echoes/3, values/3]).

-define(NODES, 3).
-define(RING, 64).
-define(BOOT_MS, 60000).
-define(SETTLE_MS, 180000).
-define(CHANNELS, [undefined, {monotonic, gossip}, broadcast, vnode]).

-type options() :: #{
    carrier := string(), dispatch := boolean(), clients := pos_integer(), seconds := pos_integer(),
    size := pos_integer(), beams := string()
}.

-spec main() -> no_return().
main() ->
    [Beams | Args] = init:get_plain_arguments(),
    Default = #{carrier => "partisan", dispatch => true, clients => 16, seconds => 5,
        size => 1024, beams => Beams},
    Status =
        try run(options(Args, Default)) of
            ok -> 0
        catch
            throw:{usage, Words} ->
                io:format(standard_error, "~ts", [Words]),
                2;
            Class:Why:Stack ->
                io:format(standard_error, "failed: ~0p:~0P~n  ~0P~n", [Class, Why, 40, Stack, 40]),
                1
        end,
    halt(Status).

-spec options([string()], options()) -> options().
options([], O) -> O;
options(["--carrier", V | Rest], O) -> options(Rest, O#{carrier := V});
options(["--no-dispatch" | Rest], O) -> options(Rest, O#{dispatch := false});
options(["--clients", V | Rest], O) -> options(Rest, O#{clients := number(V)});
options(["--seconds", V | Rest], O) -> options(Rest, O#{seconds := number(V)});
options(["--size", V | Rest], O) -> options(Rest, O#{size := number(V)});
options(_, _) ->
    throw({usage,
        "run [--carrier partisan|inet_tcp] [--no-dispatch] [--clients N] [--seconds N] [--size B]\n"
        "  --carrier      what -proto_dist takes (partisan)\n"
        "  --no-dispatch  Riak Core sends by the distribution, not by Partisan's calls\n"
        "  --clients      of each node (16)\n"
        "  --seconds      that each of the two workloads runs (5)\n"
        "  --size         bytes of a value (1024)\n"}).

number(Word) ->
    try list_to_integer(Word) of
        N when N > 0 -> N;
        _ -> throw({usage, Word ++ " is no number above 0\n"})
    catch
        error:badarg -> throw({usage, Word ++ " is no number\n"})
    end.

-spec run(options()) -> ok.
run(#{clients := Clients, seconds := Seconds, size := Size} = O) ->
    Peers = [node_of(I, O) || I <- lists:seq(1, ?NODES)],
    Nodes = [N || {_, N} <- Peers],
    [{First, FirstNode} | Others] = Peers,
    each(Peers, start, []),
    say("~b nodes of Riak Core run, with unir", [?NODES]),
    %% One after the other: from a ring that does not yet have the node that joined before, Riak Core
    %% would make a list of members without it (riak_core_ring:notify_external_membership/1).
    _ = lists:foldl(fun({P, Node} = Peer, In) ->
        ok = call(P, riak_core, join, [FirstNode]),
        Now = [Peer | In],
        until("the rings of those that joined know " ++ atom_to_list(Node), fun() ->
            lists:all(fun({Q, _}) -> members(Q) =:= lists:sort([N || {_, N} <- Now]) end, Now)
        end),
        Now
    end, [hd(Peers)], Others),
    say("joined: ~0p", [members(First)]),
    until("the claimant's plan", fun() -> call(First, ?MODULE, plan, []) =:= ok end),
    until("every node owns its part, nothing pending, all rings equal", fun() ->
        case lists:usort([call(P, ?MODULE, settled, [Nodes]) || {P, _} <- Peers]) of
            [{[], true, true, Owners}] ->
                lists:usort([N || {_, N} <- Owners]) =:= lists:sort(Nodes);
            _ ->
                false
        end
    end),
    say("one ring of ~b partitions on ~b nodes, no handoff left", [?RING, ?NODES]),
    [ok = call(P, ?MODULE, check, [{From, 30}]) || {P, From} <- Peers],
    say("~b values written on each node and read on each node", [30]),
    [shown(Name, Workload, Peers, Clients, Seconds, Size)
     || {Name, Workload} <- [{"echo", echoes}, {"kvs", values}]],
    channels(Peers, O),
    [peer:stop(P) || {P, _} <- Peers],
    ok.

shown(Name, Workload, Peers, Clients, Seconds, Size) ->
    Self = self(),
    Refs = [begin
        Ref = make_ref(),
        spawn_link(fun() ->
            Self ! {Ref, call(P, ?MODULE, Workload, [Clients, Seconds, Size])}
        end),
        Ref
    end || {P, _} <- Peers],
    Got = [receive {Ref, R} -> R end || Ref <- Refs],
    Times = lists:sort(lists:append([T || {T, _} <- Got])),
    Failed = lists:sum([F || {_, F} <- Got]),
    Count = length(Times),
    Count > 0 orelse error({no_answers, Name}),
    say("~s, ~b B, ~b clients on each node: ~b requests/s, p50 ~b us, p99 ~b us, ~b failed",
        [Name, Size, Clients, Count div Seconds, lists:nth((Count + 1) div 2, Times),
            lists:nth(max(1, Count * 99 div 100), Times), Failed]),
    Failed =:= 0 orelse error({requests_failed, Name, Failed}).

%% What says that Riak Core's messages took the channel.
channels(_Peers, #{dispatch := false}) -> ok;
channels(_Peers, #{carrier := C}) when C =/= "partisan" -> ok;
channels([{P, A}, {_, B} | _], _) ->
    #{vnode := #{messages_out := N, bytes_out := Bytes, lanes := Lanes}} =
        call(P, partisan_channel, info, [B]),
    N > 0 orelse error(no_message_took_the_channel),
    say("channel vnode, ~s to ~s: ~b messages, ~b KB, ~b lanes", [A, B, N, Bytes div 1024, length(Lanes)]).

%%% nodes

node_of(I, #{carrier := Carrier, beams := Beams} = O) ->
    {ok, P, Node} = peer:start_link(#{
        name => peer:random_name("riak"), host => "127.0.0.1", longnames => true,
        connection => standard_io, wait_boot => ?BOOT_MS,
        args => ["-boot", "no_dot_erlang", "-proto_dist", Carrier, "-pa", Beams,
            filename:dirname(code:which(?MODULE)), "-setcookie", "riak",
            "-kernel", "prevent_overlapping_partitions", "false"]
    }),
    ok = call(P, ?MODULE, configure, [I, maps:get(dispatch, O)]),
    {P, Node}.

-spec configure(pos_integer(), boolean()) -> ok.
configure(I, Dispatch) ->
    ok = logger:set_primary_config(level, error),
    {ok, Here} = file:get_cwd(),
    Data = filename:join([Here, "data", atom_to_list(node())]),
    Set = fun(App, Values) ->
        loaded(application:load(App)),
        [application:set_env(App, K, V) || {K, V} <- Values]
    end,
    Set(partisan, [{channels, ?CHANNELS}, {parallelism, 4}, {gossip, false},
        {partisan_peer_service_manager, partisan_default_peer_service_manager}]),
    Set(riak_core, [{platform_data_dir, Data}, {ring_state_dir, filename:join(Data, "ring")},
        {ring_creation_size, ?RING}, {partisan_dispatch, Dispatch}, {handoff_ip, "127.0.0.1"},
        {handoff_port, free_port()}, {vnode_management_timer, 1000}, {gossip_interval, 2000},
        {handoff_concurrency, 32}, {schema_dirs, [Data]}, {node_number, I}]),
    ok.

%% Others are told the port that is configured, so it cannot be 0.
free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

%% The carrier has loaded the application for its own options.
loaded(ok) -> ok;
loaded({error, {already_loaded, _}}) -> ok.

%% unir's own list of applications names some that nothing here calls.
-spec start() -> ok.
start() ->
    {ok, _} = application:ensure_all_started(riak_core),
    {ok, _} = application:ensure_all_started(riak_core_partisan_utils),
    ok = application:load({application, unir, [
        {vsn, "1"}, {modules, []}, {registered, []}, {applications, [kernel, stdlib, riak_core]},
        {mod, {unir_app, []}}
    ]}),
    {ok, _} = application:ensure_all_started(unir),
    ok.

each(Peers, Function, Args) ->
    [ok = call(P, ?MODULE, Function, Args) || {P, _} <- Peers],
    ok.

call(Peer, M, F, A) -> peer:call(Peer, M, F, A, ?SETTLE_MS).

members(Peer) ->
    {ok, Ring} = call(Peer, riak_core_ring_manager, get_my_ring, []),
    lists:sort(call(Peer, riak_core_ring, all_members, [Ring])).

-spec plan() -> ok | term().
plan() ->
    case riak_core_claimant:plan() of
        {ok, _Changes, _Rings} -> riak_core_claimant:commit();
        Other -> Other
    end.

%% The ring as this node sees it, and whether the service is up everywhere.
-spec settled([node()]) -> {Pending :: list(), Ready :: boolean(), Up :: boolean(), Owners :: list()}.
settled(Nodes) ->
    {ok, Ring} = riak_core_ring_manager:get_raw_ring(),
    Owners = riak_core_ring:all_owners(Ring),
    {riak_core_ring:pending_changes(Ring), riak_core_ring:ring_ready(Ring),
        length(riak_core_node_watcher:nodes(unir)) =:= length(Nodes), lists:sort(Owners)}.

until(What, Done) -> until(What, Done, erlang:monotonic_time(millisecond) + ?SETTLE_MS).

until(What, Done, Deadline) ->
    case Done() of
        true ->
            ok;
        false ->
            erlang:monotonic_time(millisecond) < Deadline orelse error({not_in_time, What}),
            timer:sleep(200),
            until(What, Done, Deadline)
    end.

say(Format, Args) -> io:format(Format ++ "~n", Args).

%%% on the nodes

%% Writes Count values here, and reads each on every node.
-spec check({node(), pos_integer()}) -> ok.
check({From, Count}) ->
    Everywhere = riak_core_node_watcher:nodes(unir),
    [begin
        Key = {From, I},
        Value = {os:timestamp(), crypto:strong_rand_bytes(1000 * I)},
        {ok, Value} = unir:fsm_put(Key, Value),
        [{ok, Value} = erpc:call(N, unir, fsm_get, [Key]) || N <- Everywhere]
    end || I <- lists:seq(1, Count)],
    [{pong, _} = unir:sync_ping() || _ <- lists:seq(1, Count)],
    ok.

%% Requests to a partition chosen at random, which sends the binary back.
-spec echoes(pos_integer(), pos_integer(), pos_integer()) -> {[non_neg_integer()], non_neg_integer()}.
echoes(Clients, Seconds, Size) ->
    Binary = crypto:strong_rand_bytes(Size),
    clients(Clients, Seconds, fun(_, _) -> unir:echo(Binary) =:= ok end).

%% Nine reads for a write, N=3 and R=W=2. Each client has keys of its own. A read is counted as failed
%% when nothing is found.
-spec values(pos_integer(), pos_integer(), pos_integer()) -> {[non_neg_integer()], non_neg_integer()}.
values(Clients, Seconds, Size) ->
    Binary = crypto:strong_rand_bytes(Size),
    clients(Clients, Seconds, fun(Client, I) ->
        Key = {node(), Client, I div 10 rem 50},
        case I rem 10 of
            0 -> ok =:= element(1, unir:fsm_put(Key, {os:timestamp(), Binary}));
            _ -> case unir:fsm_get(Key) of {ok, {_, Binary}} -> true; _ -> false end
        end
    end).

clients(Clients, Seconds, Request) ->
    Until = erlang:monotonic_time(millisecond) + Seconds * 1000,
    Each = [spawn_monitor(fun() -> exit({done, loop(Request, C, 0, Until, [], 0)}) end)
            || C <- lists:seq(1, Clients)],
    Got = [receive
        {'DOWN', Ref, process, Pid, {done, Result}} -> Result;
        {'DOWN', Ref, process, Pid, _Why} -> {[], 1}
    end || {Pid, Ref} <- Each],
    {lists:append([T || {T, _} <- Got]), lists:sum([F || {_, F} <- Got])}.

loop(Request, Client, I, Until, Times, Failed) ->
    T0 = erlang:monotonic_time(microsecond),
    Bad = case Request(Client, I) of true -> 0; false -> 1 end,
    T = erlang:monotonic_time(microsecond) - T0,
    case erlang:monotonic_time(millisecond) < Until of
        true -> loop(Request, Client, I + 1, Until, [T | Times], Failed + Bad);
        false -> {[T | Times], Failed + Bad}
    end.
