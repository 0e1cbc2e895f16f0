%% The NIF half of priv/partisan_drv.so: inspection, keyed hashes, start of the loop thread.
%%
%% The library is loaded by partisan_drv:load/0, never by -on_load: boot scripts defer on_load
%% handlers until after net_kernel has started (OTP 25), which is too late for a carrier. A new
%% version of this module comes up without its NIFs for the same reason, so the first call to a stub
%% loads the library into it.
-module(partisan_nif).

-export([load/1, start/1, info/0, sessions/0, session/1, hmac/2, hkdf/4, equal/2, random/1]).
-export([channel/2, channel_send/5, channel_send_term/4, channel_cancel/2, channel_is_open/1]).
-export([relay_set/5, relay_send/7, relay_send_term/6, relay_hand_on/2, relay_taken/0, relay_info/0]).

-nifs([start/1, info/0, sessions/0, session/1, hmac/2, hkdf/4, equal/2, random/1,
       channel/2, channel_send/5, channel_send_term/4, channel_cancel/2, channel_is_open/1,
       relay_set/5, relay_send/7, relay_send_term/6, relay_hand_on/2, relay_taken/0, relay_info/0]).

-define(PATH, {?MODULE, path}).

%% Path is that of the shared object without its extension.
-spec load(file:filename()) -> ok | {error, string()}.
load(Path) ->
    case erlang:load_nif(Path, 0) of
        ok ->
            persistent_term:put(?PATH, Path);
        {error, {reload, _}} ->
            ok;
        {error, {_, Text}} ->
            {error, Text}
    end.

%% Starts the loop thread, once per VM; later calls return the first one's answer.
%% Keys: backend (auto | uring | poll), notsent_lowat (bytes), user_timeout and flush_timeout (ms),
%% max_queue_node (bytes queued over all peers), congestion (the name of a congestion control, "" for
%% the system's).
%% The last caller gets {partisan_loop_failed, Text :: string()} if the loop's backend fails later.
-spec start(map()) -> {ok, Reason :: string()} | {error, string()}.
start(Opts) -> stub(?FUNCTION_NAME, [Opts]).

-spec info() -> map().
info() -> stub(?FUNCTION_NAME, []).

-spec sessions() -> [map()].
sessions() -> stub(?FUNCTION_NAME, []).

-spec session(node()) -> map() | undefined.
session(Node) -> stub(?FUNCTION_NAME, [Node]).

-spec hmac(binary(), iodata()) -> <<_:256>>.
hmac(Key, Data) -> stub(?FUNCTION_NAME, [Key, Data]).

%% HKDF-SHA256, extract and expand; Len is 1..8160.
-spec hkdf(binary(), binary(), binary(), pos_integer()) -> binary().
hkdf(Key, Salt, Info, Len) -> stub(?FUNCTION_NAME, [Key, Salt, Info, Len]).

%% In constant time when the sizes are the same.
-spec equal(binary(), binary()) -> boolean().
equal(A, B) -> stub(?FUNCTION_NAME, [A, B]).

%% N bytes from the kernel's generator.
-spec random(pos_integer()) -> binary().
random(N) -> stub(?FUNCTION_NAME, [N]).

%% A handle for the channel No of a session. It stays valid when the session ends: sending then says
%% `closed`.
-spec channel(SessionId :: <<_:128>>, No :: pos_integer()) -> reference() | undefined.
channel(SessionId, No) -> stub(?FUNCTION_NAME, [SessionId, No]).

%% Data: term_to_iovec({Control, Message}), or a compressed message (docs/wire-protocol.md).
%% Partition: a hash of the partition key. Key: what makes a message of a monotonic channel replace
%% another. Wait: the message that the caller gets when there is room again, or when the channel is
%% closed; {busy, Id}: channel_cancel/2 takes that back. flatten: too many pieces.
-spec channel_send(reference(), [binary(), ...], 0..16#ffffffff | none, binary() | none,
                   none | {wait | notify, term()}) ->
          ok | busy | {busy, pos_integer()} | closed | flatten | system_limit.
channel_send(Handle, Data, Partition, Key, Wait) ->
    stub(?FUNCTION_NAME, [Handle, Data, Partition, Key, Wait]).

%% The same for a term {Control, Message} that is found to be small at a glance.
-spec channel_send_term(reference(), {tuple(), term()}, 0..16#ffffffff | none, binary() | none) ->
          ok | busy | closed | large | system_limit.
channel_send_term(Handle, Term, Partition, Key) ->
    stub(?FUNCTION_NAME, [Handle, Term, Partition, Key]).

-spec channel_cancel(reference(), pos_integer()) -> ok.
channel_cancel(Handle, Id) -> stub(?FUNCTION_NAME, [Handle, Id]).

%% Whether a send would not say `closed`.
-spec channel_is_open(reference()) -> boolean().
channel_is_open(Handle) -> stub(?FUNCTION_NAME, [Handle]).

%% The table by which messages are relayed: this node's name; the names of relay channels, the common one
%% first; of each neighbour a tuple of its channels of these names, an atom where one has to be opened
%% yet, the common one again where it stands in; and for each node `Size:16 Name:Size/binary Count:8
%% Hop:16 ..`, hops being places in Hops (0, 1, ..), the best first, four at most; the empty name is for
%% all other nodes. No hops, or a channel that has to be opened: {partisan_relay_frame, Class, Envelope} to
%% the caller, which is the owner from now on, and is told of losses by {partisan_relay_dropped, Why, Name}
%% each 10 s. `again`, unless Force: take what you were handed first.
-spec relay_set(Self :: binary(), Classes :: [binary(), ...], Hops :: [tuple()], Routes :: binary(),
                Force :: boolean()) ->
          ok | again | system_limit.
relay_set(Self, Classes, Hops, Routes, Force) ->
    stub(?FUNCTION_NAME, [Self, Classes, Hops, Routes, Force]).

%% Class: the name of the channel that it shall take; with Only no other at the first hop. Partition: a
%% hash of the partition key, or `none`. Data: term_to_iovec({Control, Message}). Wait as in channel_send/5;
%% Handle and Id are for channel_cancel/2. none: the table has no open way to that node, or the channel has
%% to be opened. unknown: Only, and the first neighbour does not have it.
-spec relay_send(Node :: binary(), Hops :: 1..255, Class :: binary(), Only :: boolean(),
                 Partition :: none | non_neg_integer(), [binary(), ...], none | {wait | notify, term()}) ->
          ok | none | unknown | busy | {busy, reference(), pos_integer()} | flatten | system_limit.
relay_send(Node, Hops, Class, Only, Partition, Data, Wait) ->
    stub(?FUNCTION_NAME, [Node, Hops, Class, Only, Partition, Data, Wait]).

-spec relay_send_term(Node :: binary(), Hops :: 1..255, Class :: binary(), Only :: boolean(),
                      Partition :: none | non_neg_integer(), {tuple(), term()}) ->
          ok | none | unknown | busy | large | system_limit.
relay_send_term(Node, Hops, Class, Only, Partition, Term) ->
    stub(?FUNCTION_NAME, [Node, Hops, Class, Only, Partition, Term]).

%% Passes on what the owner was handed, over this channel.
-spec relay_hand_on(reference(), binary()) -> ok | busy | closed | malformed | system_limit.
relay_hand_on(Handle, Envelope) -> stub(?FUNCTION_NAME, [Handle, Envelope]).

%% The owner did with one message that it was handed what it does.
-spec relay_taken() -> ok.
relay_taken() -> stub(?FUNCTION_NAME, []).

%% Counters since the node started, and `routes`, how many entries the table has.
-spec relay_info() -> #{atom() => non_neg_integer()}.
relay_info() -> stub(?FUNCTION_NAME, []).

-spec stub(atom(), [term()]) -> term().
stub(Function, Args) ->
    case persistent_term:get(?PATH, undefined) of
        undefined ->
            erlang:nif_error({not_loaded, ?MODULE});
        Path ->
            case load(Path) of
                ok -> apply(?MODULE, Function, Args);
                {error, Text} -> erlang:nif_error({not_loaded, Text})
            end
    end.
