%% What Riak Core's Partisan branches do, with the calls they make: a ring of partitions over the
%% nodes, a worker for each (vnode), and a coordinator for each put and get that asks the three
%% workers of a key and is content with two. Facts of its calls only; nothing of Riak Core is in
%% here.
-module(riak_shape).

-export([configure/1, join/2, leave/1, update/1]).
-export([start_vnodes/2, put/4, get/3, gossip/2, gossip_server/0, broadcast/3, keys/1]).
-export([vnode/2, bang/3]).

-define(PARTITIONS, 64).
-define(N, 3).
-define(QUORUM, 2).
-define(WAIT_MS, 20000).

%% ------------------------------------------------------------------------------------------------
%% riak_core_partisan_utils

%% configure_dispatch/0
configure(Dispatch) ->
    ok = partisan_config:set(disterl, not Dispatch),
    ok = partisan_mochiglobal:put(partisan_dispatch, Dispatch),
    Dispatch = partisan_mochiglobal:get(partisan_dispatch, false),
    ok.

%% join/1, with a node map asked for over the distribution
join(Node, Channels) ->
    ok = partisan_peer_service:sync_join(node_map(Node, Channels)).

leave(Node) ->
    ok = partisan_peer_service:leave(Node).

update(Nodes) ->
    ok = partisan_peer_service:update_members([node_map(Node, asked) || Node <- Nodes]).

node_map(Node, Channels) ->
    Ask = fun(Key) -> rpc:call(Node, partisan_config, get, [Key]) end,
    #{name => Node, listen_addrs => Ask(listen_addrs), parallelism => Ask(parallelism),
      channels => case Channels of
                      asked -> Ask(channels);
                      _ -> Channels
                  end}.

%% forward/4: by whichever manager is configured, with its oldest unambiguous arity
forward(Channel, Peer, Dest, Msg) ->
    Manager = partisan_config:get(partisan_peer_service_manager, partisan_default_peer_service_manager),
    Partition = case partisan_config:get(vnode_partitioning, false) andalso erlang:get(index) of
                    Index when is_integer(Index) -> [{partition_key, Index}];
                    _ -> []
                end,
    Causal = [{causal_label, vnode} || partisan_config:get(causal_delivery, false)],
    _ = Manager:forward_message(Peer, Channel, Dest, Msg, Partition ++ Causal),
    ok.

%% bang_unreliable/3 and bang_reliable/3: a pid, a name on a node, or Partisan's old reference
bang(Channel, {partisan_remote_reference, Node, Dest}, Msg) -> forward(Channel, Node, Dest, Msg);
bang(Channel, {Name, Node}, Msg) -> forward(Channel, Node, Name, Msg);
bang(Channel, Pid, Msg) when is_pid(Pid) -> forward(Channel, node(Pid), Pid, Msg).

%% ------------------------------------------------------------------------------------------------
%% The ring: partition I belongs to node I rem length(Nodes)

index(I) -> I * ((1 bsl 160) div ?PARTITIONS).

name(Index) -> list_to_atom("vnode_" ++ integer_to_list(Index)).

owner(I, Nodes) -> lists:nth(1 + I rem length(Nodes), Nodes).

start_vnodes(Nodes, Me) ->
    [register(name(index(I)), spawn(?MODULE, vnode, [index(I), #{}]))
     || I <- lists:seq(0, ?PARTITIONS - 1), owner(I, Nodes) =:= Me],
    ok.

%% A worker: its index is in its dictionary, as in a vnode.
vnode(Index, Data) ->
    _ = erlang:put(index, Index),
    receive
        {put, From, Ref, Key, Value} ->
            bang(vnode, From, {Ref, Index, ok}),
            ?MODULE:vnode(Index, Data#{Key => max(Value, maps:get(Key, Data, {0, none}))});
        {get, From, Ref, Key} ->
            bang(vnode, From, {Ref, Index, maps:get(Key, Data, notfound)}),
            ?MODULE:vnode(Index, Data);
        {keys, From, Ref} ->
            From ! {Ref, maps:size(Data)},
            ?MODULE:vnode(Index, Data)
    end.

preflist(Key, Nodes) ->
    First = erlang:phash2(Key, ?PARTITIONS),
    [{index(I), owner(I, Nodes)} || Step <- lists:seq(0, ?N - 1),
                                    I <- [(First + Step) rem ?PARTITIONS]].

%% Versions are times: the nodes are on one machine.
put(Nodes, Key, Value, How) ->
    Version = erlang:system_time(nanosecond),
    case ask(Nodes, Key, fun(From, Ref) -> {put, From, Ref, Key, {Version, Value}} end, How) of
        {ok, [ok, ok]} -> ok;
        Other -> Other
    end.

%% Two workers of three took the put, so one of any two has it: the newest counts.
get(Nodes, Key, How) ->
    case ask(Nodes, Key, fun(From, Ref) -> {get, From, Ref, Key} end, How) of
        {ok, Answers} ->
            case lists:sort([Versioned || {_, _} = Versioned <- Answers]) of
                [] -> {ok, notfound};
                Found -> {ok, element(2, lists:last(Found))}
            end;
        Other ->
            Other
    end.

%% The coordinator is a process of its own; How: as a pid or as the old reference.
ask(Nodes, Key, Request, How) ->
    {_, Mon} = spawn_monitor(fun() ->
        Ref = make_ref(),
        Self = case How of
                   pid -> self();
                   reference -> {partisan_remote_reference, node(), self()}
               end,
        [begin
             _ = erlang:put(index, Index),
             bang(vnode, {name(Index), Owner}, Request(Self, Ref))
         end || {Index, Owner} <- preflist(Key, Nodes)],
        exit({answers, collect(Ref, ?QUORUM, [])})
    end),
    receive {'DOWN', Mon, process, _, {answers, Answers}} -> Answers end.

collect(_Ref, 0, Acc) -> {ok, Acc};
collect(Ref, N, Acc) ->
    receive {Ref, _Index, Answer} -> collect(Ref, N - 1, [Answer | Acc])
    after ?WAIT_MS -> {timeout, Acc}
    end.

%% How many keys the workers of this node hold.
keys(Nodes) ->
    lists:sum([begin
                   Ref = make_ref(),
                   name(index(I)) ! {keys, self(), Ref},
                   receive {Ref, N} -> N after ?WAIT_MS -> error(timeout) end
               end || I <- lists:seq(0, ?PARTITIONS - 1), owner(I, Nodes) =:= node()]).

%% ------------------------------------------------------------------------------------------------
%% Gossip: the newest version of the ring counts. Riak writes the channel as a tuple.

gossip_server() ->
    register(gossip_server, spawn(fun() -> gossip_loop(0, []) end)),
    ok.

gossip_loop(Newest, Seen) ->
    receive
        {ring, Version} -> gossip_loop(max(Version, Newest), [Version | Seen]);
        {newest, From} -> From ! {newest, Newest, lists:reverse(Seen)}, gossip_loop(Newest, Seen)
    end.

gossip(Node, Versions) ->
    [forward({monotonic, gossip}, Node, gossip_server, {ring, V}) || V <- Versions],
    ok.

broadcast(Nodes, Name, Msg) ->
    [forward(broadcast, Node, Name, Msg) || Node <- Nodes],
    ok.
