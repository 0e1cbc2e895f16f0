%% What this VM's distribution emits, packet by packet, without a peer.
%%
%% A process is made the distribution controller of a node that does not exist, with the features
%% that two carriers agree on, the atom cache or not. It takes the packets that the VM makes of
%% other processes' signals, and hands it packets "from" that node.
-module(partisan_vm_signals).

-export([start/1, start/2, stop/1, node_of/1, take/2, give/2, remote_pid/2, remote_ref/3, child/1]).

-export_type([signals/0]).

-opaque signals() :: {pid(), node()}.

-define(CREATION, 77).
-define(TIMEOUT, 30000).

-spec start(AtomCache :: boolean()) -> signals().
start(AtomCache) -> start(AtomCache, fun(_) -> ok end).

%% `WhilePending(Signals)' is called when the connection is known but not up: what is sent to the
%% node then has to be kept by the VM, which does not know yet what the peer understands.
-spec start(boolean(), fun((signals()) -> term())) -> signals().
start(AtomCache, WhilePending) ->
    erlang:is_alive() orelse start_distribution(),
    Node = list_to_atom("sink" ++ integer_to_list(erlang:unique_integer([positive])) ++ "@nowhere"),
    Owner = self(),
    Pid = spawn_link(fun() ->
        %% net_kernel calls this for an incoming connection: it exists nowhere, hence no set-up.
        _ = erts_internal:new_connection(Node),
        Owner ! {self(), pending},
        receive go -> ok end,
        {erts_dflags, Default, _, _, _, StrictOrder} = erts_internal:get_dflags(),
        Flags = case AtomCache of
                    true -> Default bor StrictOrder;
                    false -> Default band bnot StrictOrder
                end,
        DHandle = erlang:setnode(Node, self(), {Flags, ?CREATION}),
        ok = erlang:dist_ctrl_input_handler(DHandle, self()),
        Owner ! {self(), up},
        loop(DHandle, [])
    end),
    receive {Pid, pending} -> ok after ?TIMEOUT -> error(timeout) end,
    WhilePending({Pid, Node}),
    Pid ! go,
    receive {Pid, up} -> ok after ?TIMEOUT -> error(timeout) end,
    {Pid, Node}.

%% No listener, so no port and no port mapper.
start_distribution() ->
    {ok, _} = net_kernel:start(signals@localhost, #{name_domain => shortnames,
                                                    dist_listen => false}).

-spec stop(signals()) -> ok.
stop({Pid, _}) ->
    unlink(Pid),
    Ref = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Ref, process, Pid, _} -> ok end.

-spec node_of(signals()) -> node().
node_of({_, Node}) -> Node.

%% All packets since the last call, as soon as they are enough.
-spec take(signals(), fun(([binary()]) -> boolean())) -> [binary()].
take({Pid, _}, Enough) ->
    Ref = monitor(process, Pid),
    Pid ! {take, self(), Ref, Enough},
    receive
        {Ref, Packets} -> demonitor(Ref, [flush]), Packets;
        {'DOWN', Ref, process, Pid, Why} -> error({connection_lost, Why})
    after ?TIMEOUT ->
        Pid ! {take, self(), Ref, fun(_) -> true end},
        receive {Ref, Packets} -> error({too_few_packets, Packets}) end
    end.

-spec give(signals(), [term()]) -> ok.
give({Pid, _}, Terms) ->
    Bare = [binary:part(B, 1, byte_size(B) - 1) || B <- [term_to_binary(T) || T <- Terms]],
    Pid ! {give, [<<131, 68, 0>> | Bare]},
    ok.

-spec remote_pid(signals(), pos_integer()) -> pid().
remote_pid(Signals, Id) ->
    binary_to_term(iolist_to_binary([131, 88, node_atom(Signals), <<Id:32, 0:32, ?CREATION:32>>])).

%% Five words make it an alias in the eyes of OTP 24 and later.
-spec remote_ref(signals(), 3 | 5, pos_integer()) -> reference().
remote_ref(Signals, Words, Id) ->
    Rest = Words * 4 - 4,
    binary_to_term(iolist_to_binary([131, 90, <<Words:16>>, node_atom(Signals),
                                     <<?CREATION:32, Id:32, 1:Rest/unit:8>>])).

node_atom({_, Node}) ->
    Name = atom_to_binary(Node),
    [119, byte_size(Name), Name].

%% Body of a process that the remote node spawns.
-spec child(pid()) -> ok.
child(Parent) ->
    Parent ! {child, self()},
    ok.

loop(DHandle, Packets) ->
    receive
        {give, Packet} ->
            erlang:dist_ctrl_put_data(DHandle, Packet),
            loop(DHandle, Packets);
        {take, From, Ref, Enough} ->
            loop(DHandle, taking(DHandle, Packets ++ drain(DHandle), From, Ref, Enough))
    end.

taking(DHandle, Packets, From, Ref, Enough) ->
    case Enough(Packets) of
        true ->
            From ! {Ref, Packets},
            [];
        false ->
            erlang:dist_ctrl_get_data_notification(DHandle),
            receive
                dist_data ->
                    taking(DHandle, Packets ++ drain(DHandle), From, Ref, Enough);
                {take, From, Ref, LessIsEnough} ->
                    taking(DHandle, Packets, From, Ref, LessIsEnough)
            end
    end.

drain(DHandle) ->
    case erlang:dist_ctrl_get_data(DHandle) of
        none -> [];
        Packet -> [iolist_to_binary(Packet) | drain(DHandle)]
    end.
