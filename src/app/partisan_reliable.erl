%% Acknowledged messages (options `ack` and `retransmission`): the streams to and from other nodes.
%%
%% A stream is a process at each end, for each peer and channel: partisan_reliable_out numbers
%% messages and keeps them until they are acknowledged, partisan_reliable_in delivers each once and
%% in order. This process starts them, and is the address at which a peer opens its stream.
-module(partisan_reliable).

-behaviour(gen_server).

-export([start_link/0, send/5, info/0, incarnation/0, incarnation/1]).
-export([out/2, leave/1, carry/5, tell/2, is_direct/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TABLE, ?MODULE).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% `ok`: the message is kept until the peer has it. With `retransmit` it survives the loss of the
%% connection, for `retransmit_timeout` ms at most; with `ack` it does not. When `retransmit_window`
%% messages are unacknowledged the caller waits (option `timeout`) or is told `busy` (`nosuspend`).
-spec send(node(), term(), term(), partisan_reliable_core:mode(), map()) ->
          ok | {error, partisan_transport:reason()}.
send(Node, Dest, Msg, Mode, Opts) ->
    Channel = case maps:get(channel, Opts, undefined) of
                  {monotonic, Name} -> Name;
                  {Name, _} -> Name;
                  Name -> Name
              end,
    case may_go(Node, Channel, Mode) of
        true ->
            case known_channel(Channel, Opts) of
                true -> submit(Node, Channel, {submit, {Dest, Msg}, Mode, wire(Opts)}, Opts, 3);
                false -> {error, {unknown_channel, Channel}}
            end;
        false ->
            {error, partisan_nodes:why_not(Node)}
    end.

%% A node that was never seen, and that the overlay has no way to, may be a wrong name: nothing is
%% kept for it.
may_go(Node, Channel, retransmit) ->
    partisan_nodes:seen(Node) orelse has_way(Node) orelse ets:member(?TABLE, {out, Node, Channel});
may_go(Node, _Channel, ack) ->
    partisan_transport:connected(Node) orelse has_way(Node).

has_way(Node) -> partisan_overlay_shell:route(Node) =/= none.

%% What the two ends of a stream say to each other, over a connection or by relay.
-spec carry(node(), partisan:channel(), pid() | atom(), term(), map()) -> partisan_send:result().
carry(Node, Channel, Dest, Message, Wire) ->
    partisan_send:carry(Node, Channel, Dest, Message, Wire).

%% The same for what is small and makes no sender wait.
-spec tell(pid(), term()) -> ok.
tell(Pid, Message) ->
    case is_direct(node(Pid)) andalso erlang:send(Pid, Message, [noconnect]) of
        ok -> ok;
        _ -> _ = carry(node(Pid), undefined, Pid, Message, #{}), ok
    end.

%% Whether the loss of a connection tells of the loss of messages. Relays do not tell.
-spec is_direct(node()) -> boolean().
is_direct(Node) ->
    partisan_overlay_shell:way(Node) =:= direct andalso partisan_transport:connected(Node).

known_channel(undefined, _Opts) -> true;
known_channel(Channel, Opts) ->
    is_map_key(Channel, partisan_config:channels())
        orelse maps:get(channel_fallback, Opts, partisan_config:get(channel_fallback)).

wire(Opts) ->
    maps:with([partition_key], maps:filter(fun(_, Value) -> Value =/= undefined end, Opts)).

%% A stream with nothing to do ends, maybe just now.
submit(Node, _Channel, _Request, _Opts, 0) ->
    {error, partisan_nodes:why_not(Node)};
submit(Node, Channel, Request, Opts, Tries) ->
    case out(Node, Channel) of
        {ok, Pid} ->
            case partisan_reliable_out:call(Pid, Request, Opts) of
                gone ->
                    _ = gen_server:call(?MODULE, {gone, Pid}),
                    submit(Node, Channel, Request, Opts, Tries - 1);
                Answer -> Answer
            end;
        {error, _} = Error ->
            Error
    end.

-spec out(node(), partisan:channel()) -> {ok, pid()} | {error, notalive}.
out(Node, Channel) ->
    try ets:lookup(?TABLE, {out, Node, Channel}) of
        [{_, Pid}] -> {ok, Pid};
        [] -> {ok, _} = gen_server:call(?MODULE, {out, Node, Channel})
    catch
        error:badarg -> {error, notalive};
        exit:_ -> {error, notalive}
    end.

%% The caller, a stream, takes itself out of the table.
-spec leave(term()) -> ok.
leave(Key) ->
    true = ets:delete_object(?TABLE, {Key, self()}),
    ok.

%% What the streams from this node are doing.
-spec info() -> [#{node := node(), channel := partisan:channel(), atom() => term()}].
info() ->
    [Info || [Pid] <- ets:match(?TABLE, {{out, '_', '_'}, '$1'}),
             #{} = Info <- [partisan_reliable_out:call(Pid, info, #{})]].

%% This life of this node's streams: state that both ends share is worth nothing to the next one.
-spec incarnation() -> integer().
incarnation() -> ets:lookup_element(?TABLE, incarnation, 2).

%% That of another node, as of when it was last connected; asks if it never was.
-spec incarnation(node()) -> {ok, integer()} | {error, term()}.
incarnation(Node) ->
    case ets:lookup(?TABLE, {incarnation, Node}) of
        [{_, Incarnation}] ->
            {ok, Incarnation};
        [] ->
            case may_go(Node, undefined, retransmit) of
                true -> submit(Node, undefined, incarnation, #{timeout => 5000}, 3);
                false -> {error, not_yet_connected}
            end
    end.

%% ------------------------------------------------------------------------------------------------

init([]) ->
    process_flag(trap_exit, true),
    ?TABLE = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    Now = erlang:system_time(microsecond),
    true = ets:insert(?TABLE, {incarnation, Now}),
    {ok, none}.

handle_call({out, Node, Channel}, _From, State) ->
    Key = {out, Node, Channel},
    Answer = case ets:lookup(?TABLE, Key) of
                 [{_, Pid}] ->
                     {ok, Pid};
                 [] ->
                     {ok, Pid} = partisan_reliable_out:start_link(Node, Channel),
                     true = ets:insert(?TABLE, {Key, Pid}),
                     {ok, Pid}
             end,
    {reply, Answer, State};
handle_call({gone, Pid}, _From, State) ->
    _ = is_process_alive(Pid) orelse ets:match_delete(?TABLE, {'_', Pid}),
    {reply, ok, State};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast(_Msg, State) -> {noreply, State}.

%% A peer opens its stream, for the first time or again.
handle_info({open, Stream, Oldest, Out}, State) when is_pid(Out) ->
    Key = {in, Stream},
    Pid = case ets:lookup(?TABLE, Key) of
              [{_, Known}] ->
                  Known;
              [] ->
                  {ok, New} = partisan_reliable_in:start_link(Stream, Oldest),
                  true = ets:insert(?TABLE, {Key, New}),
                  New
          end,
    Pid ! {open, Out, incarnation()},
    {noreply, State};
%% Streams are linked: one that fails must not be found any more.
handle_info({'EXIT', Pid, _Reason}, State) ->
    true = ets:match_delete(?TABLE, {'_', Pid}),
    {noreply, State};
handle_info(_Other, State) ->
    {noreply, State}.
