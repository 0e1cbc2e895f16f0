%% How a message gets to a process on the other node: by the distribution (any -proto_dist), or by a
%% rival that brings its own connections. A workload asks once and sends through here; nothing else
%% in it depends on the carrier.
%%
%% The rivals' code is not part of this repository: the modules are called by name and must be in
%% the node's code path, see pt_bench_rival.
-module(pt_bench_via).
-export([set/1, current/0, of_part/1, send/3, post/2]).
-export_type([via/0]).

-type via() ::
    dist
    %% lasp-lang/partisan 5: connections of its own, picked by the partition key
    | lasp
    %% gen_rpc: a connection (or one a key) to a server that runs the call
    | gen_rpc
    %% named channels of this carrier: by partisan_channel, or by the application's forward_message;
    %% the channel that current/0 gives is `small'
    | {channel | forward, small | bulk}
    %% riak_core: the distribution, sent the way vnode requests are
    | riak_core
    %% the self-tests' faults
    | {test, fun((pid(), term()) -> term())}.

%% What this node's workers use from now on.
-spec set(via()) -> ok.
set(Via) -> persistent_term:put(?MODULE, Via).

-spec current() -> via().
current() -> persistent_term:get(?MODULE, dist).

%% What a part's workers use: a part may name the class of its traffic, for carriers that have such.
-spec of_part(map()) -> via().
of_part(Part) ->
    case {current(), Part} of
        {{How, _}, #{channel := Channel}} when How =:= channel; How =:= forward -> {How, Channel};
        {Via, _} -> Via
    end.

%% Where the receiver may be on this node: by what this node's workers use, if it is not.
-spec post(pid(), term()) -> ok.
post(Pid, Message) when node(Pid) =:= node() ->
    Pid ! Message,
    ok;
post(Pid, Message) ->
    send(current(), Pid, Message).

-spec send(via(), pid(), term()) -> ok.
send(dist, Pid, Message) ->
    Pid ! Message,
    ok;
send(lasp, Pid, Message) ->
    %% The receiver's key: messages between two processes stay on one connection, in order.
    Options = #{partition_key => erlang:phash2(Pid)},
    ok = apply(partisan, forward_message, [node(Pid), Pid, Message, Options]);
send(gen_rpc, Pid, Message) ->
    %% `ordered' calls run one after the other in the connection's process; a plain cast starts a
    %% process for each, and they overtake each other.
    true = apply(gen_rpc, ordered_cast, [{node(Pid), 0}, erlang, send, [Pid, Message]]),
    ok;
send({channel, Channel}, Pid, Message) ->
    ok = apply(partisan_channel, send, [node(Pid), Channel, Pid, Message]);
send({forward, Channel}, Pid, Message) ->
    ok = apply(partisan, forward_message, [node(Pid), Pid, Message, #{channel => Channel}]);
send(riak_core, Pid, Message) ->
    _ = apply(riak_core_send_msg, bang_unreliable, [Pid, Message]),
    ok;
send({test, Send}, Pid, Message) ->
    _ = Send(Pid, Message),
    ok.
