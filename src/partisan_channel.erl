%% Named channels: classes of traffic to a node, each with its own queue, limits and lanes, so that
%% one that is full or slow delays no other. docs/channels.md is for those who use them.
%%
%% What travels on a channel are ordinary distribution signals: the receiving process decodes the
%% message, and pids, registered names and aliases are addressed as `!` addresses them. Order holds
%% for one sender, one channel and one partition key.
-module(partisan_channel).

-export([configure/1, channels/0]).
-export([send/4, send/5, open/2, open/3, close/1, close/2, info/1]).
-export([control/1, wait_for_room/2]).

-export_type([channel/0, config/0, options/0, destination/0, reason/0]).

-define(ZIP_MIN, 512).             % bytes: below, compressing costs more than it saves
-define(ZIP_MAX, (16 bsl 20) - 3). % PT_ZIP_MAX, with the packet's head
-define(ZIP_TAG, $z).
%% A channel may close between its opening and our message, for nobody used it or its options changed.
%% Not often in a row.
-define(OPENINGS, 3).

-type channel() :: atom().
-type config() :: #{parallelism => 1..16, monotonic => boolean(), compression => boolean() | 0..9,
                    max_queue => pos_integer(), idle => non_neg_integer() | infinity}.
%% A reference is an alias.
-type destination() :: pid() | atom() | reference().
%% Other keys mean nothing here: those who send through this module need not take theirs out.
-type options() :: #{partition_key => term(), key => term(), timeout => timeout(),
                     nosuspend => boolean(), notify => boolean(), fallback => boolean(),
                     atom() => term()}.
-type reason() :: not_yet_connected | disconnected | busy | timeout | system_limit |
                  {unknown_channel, channel()} | {wrong_node, node()} | {badarg, string()}.

%% Replaces the set of channels of this node. For open channels compression and idle count at once;
%% one whose other options changed is opened anew when what is queued has left, and one that is not in
%% the set any more is closed when it is quiet.
-spec configure(#{channel() => config()}) -> ok | {error, Line :: string()}.
configure(Channels) ->
    partisan_channel_conf:set(Channels).

%% The channels of this node, in order.
-spec channels() -> [channel()].
channels() ->
    lists:sort(maps:keys(partisan_channel_conf:get())).

%% ------------------------------------------------------------------------------------------------
%% Sending

-spec send(node(), channel(), destination(), term()) -> ok | {error, reason()}.
send(Node, Channel, Dest, Message) ->
    send(Node, Channel, Dest, Message, #{}).

%% Sends Message to Dest on Node. `ok`: it is queued, and will arrive unless the connection is lost.
%% An error: it was not queued.
%%
%% partition_key: order is kept, and fairness given, for each value of it (default: the sender).
%% When the channel is full the caller waits, at most `timeout` ms (default: infinity); with
%% nosuspend it gets {error, busy}, with notify the same, and {partisan_channel, Node, Channel,
%% writable} later, when it should try again. key: of a monotonic channel, see docs/channels.md.
%% fallback: if there is no such channel, the message takes the distribution's own stream.
-spec send(node(), channel(), destination(), term(), options()) -> ok | {error, reason()}.
send(Node, Channel, Dest, Message, Options)
  when is_atom(Node), is_atom(Channel), is_map(Options),
       (is_pid(Dest) orelse is_atom(Dest) orelse is_reference(Dest)) ->
    if
        not is_atom(Dest), node(Dest) =/= Node -> {error, {wrong_node, node(Dest)}};
        Node =:= node() -> deliver_here(Dest, Message);
        true ->
            case partisan_channel_srv:lookup(Node, Channel) of
                {_, unknown, _, _, _} ->
                    unknown(Node, Channel, Dest, Message, Options);
                {_, _, _, _, _} = Row ->
                    send_on(Row, Dest, Message, Options, ?OPENINGS);
                none ->
                    open_and_send(Node, Channel, none, Dest, Message, Options, ?OPENINGS)
            end
    end;
send(Node, Channel, Dest, _Message, Options) ->
    {error, {badarg, lists:flatten(io_lib:format("send(~0tp, ~0tp, ~0tp, _, ~0tp)",
                                                 [Node, Channel, Dest, Options]))}}.

send_on({{Node, Channel}, Handle, Level, Monotonic, _}, Dest, Message, Options, Openings) ->
    Term = {control(Dest), Message},
    Partition = case Options of
                    #{partition_key := Key0} -> erlang:phash2(Key0, 1 bsl 32);
                    #{} -> none
                end,
    Key = case Monotonic of
              true -> monotonic_key(Dest, Options);
              false -> none
          end,
    case Level =:= 0 andalso partisan_nif:channel_send_term(Handle, Term, Partition, Key) of
        ok ->
            ok;
        closed ->
            open_and_send(Node, Channel, Handle, Dest, Message, Options, Openings);
        system_limit ->
            {error, system_limit};
        _ -> % to be compressed, large, or there is no room
            Data = encode(Level, Term),
            case send_data(Node, Channel, {Handle, Data, Partition, Key}, Options) of
                {error, disconnected} ->
                    open_and_send(Node, Channel, Handle, Dest, Message, Options, Openings);
                Result ->
                    Result
            end
    end.

%% The control tuple of a message of the caller, as `!` makes it. The empty atom stands where the cookie once was.
-spec control(destination()) -> tuple().
control(Dest) ->
    case seq_trace:get_token() of
        [] when is_pid(Dest) -> {22, self(), Dest};
        [] when is_atom(Dest) -> {6, self(), '', Dest};
        [] -> {33, self(), Dest};
        _ when is_pid(Dest) -> {23, self(), Dest, token()};
        _ when is_atom(Dest) -> {16, self(), '', Dest, token()};
        _ -> {34, self(), Dest, token()}
    end.

%% The process' token, counted on as sending with `!` does. No `send` event is traced here: only the
%% VM can do that.
token() ->
    {serial, {Previous, Current}} = seq_trace:get_token(serial),
    _ = seq_trace:set_token(serial, {Previous, Current + 1}),
    {Flags, Label, Serial, _From, Last} = seq_trace:get_token(),
    {Flags, Label, Serial, self(), Last}.

%% Without a key: what one sender says to one destination.
monotonic_key(Dest, #{key := Key}) -> term_to_binary({Dest, Key});
monotonic_key(Dest, #{}) -> term_to_binary({self(), Dest, ''}).

encode(0, Term) ->
    erlang:term_to_iovec(Term);
encode(Level, Term) ->
    Data = erlang:term_to_iovec(Term),
    case iolist_size(Data) of
        Size when Size < ?ZIP_MIN; Size > ?ZIP_MAX -> Data;
        Size -> compress(Level, Size, Data)
    end.

%% Inflated, it must be the packet that the peer's VM gets: 131 68 0, control, message.
compress(Level, Size, [<<131, 104, 2, First/binary>> | Rest] = Plain) ->
    Z = zlib:open(),
    ok = zlib:deflateInit(Z, Level),
    Deflated = zlib:deflate(Z, [<<131, 68, 0>>, First | Rest], finish),
    ok = zlib:deflateEnd(Z),
    ok = zlib:close(Z),
    case iolist_size(Deflated) of
        Smaller when Smaller < Size - Size div 8 ->
            [iolist_to_binary([<<?ZIP_TAG, Size:32>>, Deflated])];
        _ -> % random or compressed already
            Plain
    end.

queue({Handle, Data, Partition, Key}, Wait) ->
    case partisan_nif:channel_send(Handle, Data, Partition, Key, Wait) of
        flatten -> queue({Handle, [iolist_to_binary(Data)], Partition, Key}, Wait);
        Other -> Other
    end.

result(ok) -> ok;
result(busy) -> {error, busy};
result({busy, _}) -> {error, busy};
result(closed) -> {error, disconnected};
result(system_limit) -> {error, system_limit}.

send_data(_Node, _Channel, Sent, #{nosuspend := true}) ->
    result(queue(Sent, none));
send_data(Node, Channel, Sent, #{notify := true}) ->
    result(queue(Sent, {notify, {partisan_channel, Node, Channel, writable}}));
send_data(_Node, _Channel, {Handle, _, _, _} = Sent, Options) ->
    Queue = fun(Wait) ->
                    case queue(Sent, Wait) of
                        {busy, Id} -> {busy, Handle, Id};
                        Other -> Other
                    end
            end,
    case wait_for_room(Queue, Options) of
        closed -> {error, disconnected};
        Result -> Result
    end.

%% Calls Queue, with what it shall give the NIF as Wait, until it does not say that there is no room:
%% `busy`, or with a wait {busy, Handle, Id}.
-spec wait_for_room(fun((none | {wait, reference()}) -> Answer), options()) ->
          Answer | {error, busy | timeout | system_limit}.
wait_for_room(Queue, Options) ->
    case Queue(none) of
        busy when map_get(nosuspend, Options) =:= true ->
            {error, busy};
        busy ->
            Deadline = case maps:get(timeout, Options, infinity) of
                           infinity -> infinity;
                           Timeout -> erlang:monotonic_time(millisecond) + Timeout
                       end,
            wait(Queue, Deadline);
        system_limit ->
            {error, system_limit};
        Other ->
            Other
    end.

wait(Queue, Deadline) ->
    Ref = make_ref(),
    case Queue({wait, Ref}) of
        {busy, Handle, Id} ->
            receive
                Ref -> wait(Queue, Deadline)
            after left(Deadline) ->
                    ok = partisan_nif:channel_cancel(Handle, Id),
                    receive Ref -> ok after 0 -> ok end,
                    {error, timeout}
            end;
        system_limit ->
            {error, system_limit};
        Other ->
            Other
    end.

left(infinity) -> infinity;
left(Deadline) -> max(0, Deadline - erlang:monotonic_time(millisecond)).

%% ------------------------------------------------------------------------------------------------
%% Opening

%% Opens the channel now rather than on first use, and waits until it is.
-spec open(node(), channel()) -> ok | {error, reason()}.
open(Node, Channel) ->
    open(Node, Channel, infinity).

-spec open(node(), channel(), timeout()) -> ok | {error, reason()}.
open(Node, Channel, Timeout) when Node =:= node() ->
    _ = Timeout,
    case partisan_channel_conf:find(Channel) of
        {ok, _} -> ok;
        error -> {error, {unknown_channel, Channel}}
    end;
open(Node, Channel, Timeout) ->
    partisan_channel_srv:open(Node, Channel, none, Timeout).

%% Closes the channels with Node, or one, when they have carried nothing for a second: for nodes that
%% are not talked to any more. The next use opens them again. Returns at once.
-spec close(node()) -> ok.
close(Node) ->
    partisan_channel_srv:close(Node, all).

-spec close(node(), channel()) -> ok.
close(Node, Channel) when is_atom(Channel) ->
    partisan_channel_srv:close(Node, Channel).

open_and_send(_Node, _Channel, _Stale, _Dest, _Message, _Options, 0) ->
    {error, disconnected};
open_and_send(Node, Channel, Stale, Dest, Message, Options, Openings) ->
    Timeout = maps:get(timeout, Options, infinity),
    case is_map_key(Channel, partisan_channel_conf:get())
        andalso partisan_channel_srv:open(Node, Channel, Stale, Timeout) of
        ok ->
            case partisan_channel_srv:lookup(Node, Channel) of
                {_, Handle, _, _, _} = Row when is_reference(Handle), Handle =/= Stale ->
                    send_on(Row, Dest, Message, Options, Openings - 1);
                _ -> % closed again already
                    open_and_send(Node, Channel, none, Dest, Message, Options, Openings - 1)
            end;
        false ->
            unknown(Node, Channel, Dest, Message, Options);
        {error, {unknown_channel, _}} ->
            unknown(Node, Channel, Dest, Message, Options);
        {error, _} = Error ->
            Error
    end.

unknown(Node, _Channel, Dest, Message, #{fallback := true} = Options) ->
    default(Node, Dest, Message, Options);
unknown(_Node, Channel, _Dest, _Message, _Options) ->
    {error, {unknown_channel, Channel}}.

%% The distribution's own stream: where a message goes that has no channel.
default(Node, Dest, Message, Options) ->
    To = case is_atom(Dest) of
             true -> {Dest, Node};
             false -> Dest
         end,
    NoSuspend = [nosuspend || maps:get(nosuspend, Options, false)],
    case erlang:send(To, Message, [noconnect | NoSuspend]) of
        ok -> ok;
        nosuspend -> {error, busy};
        noconnect ->
            case partisan_dist_reg:seen(Node) of
                true -> {error, disconnected};
                false -> {error, not_yet_connected}
            end
    end.

deliver_here(Dest, Message) ->
    try
        _ = Dest ! Message,
        ok
    catch
        error:badarg -> ok % nobody has that name, as with a name on another node
    end.

%% ------------------------------------------------------------------------------------------------
%% Inspection

%% What the open channels with Node are doing, see docs/channels.md.
-spec info(node()) -> #{channel() => map()}.
info(Node) ->
    try partisan_nif:session(Node) of
        #{channels := Channels} ->
            maps:from_list([{binary_to_atom(Name, utf8), maps:remove(name, Map)}
                            || #{name := Name} = Map <- Channels]);
        undefined ->
            #{}
    catch
        error:_ -> #{} % the carrier does not run here
    end.
