%% The NIF half of priv/partisan_drv.so: inspection, keyed hashes, start of the loop thread.
%%
%% The library is loaded by partisan_drv:load/0, never by -on_load: boot scripts defer on_load
%% handlers until after net_kernel has started (OTP 25), which is too late for a carrier. A new
%% version of this module comes up without its NIFs for the same reason, so the first call to a stub
%% loads the library into it.
-module(partisan_nif).

-export([load/1, start/1, info/0, sessions/0, session/1, hmac/2, hkdf/4, equal/2, random/1]).
-export([channel/2, channel_send/5, channel_send_term/4, channel_cancel/2]).

-nifs([start/1, info/0, sessions/0, session/1, hmac/2, hkdf/4, equal/2, random/1,
       channel/2, channel_send/5, channel_send_term/4, channel_cancel/2]).

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
