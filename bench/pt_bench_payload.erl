%% What the messages carry, and how a receiver knows that it got just that.
%%
%% The payload of message Seq of flow Flow is a known function of its key, and the key a known
%% function of Flow and Seq, so a receiver checks a message without having seen the sender's copy:
%%   small (< 4 KB): compared byte by byte with the receiver's own copy, every message;
%%   large: length, and the key and page number at the head of every 4 KB page, every message
%%   (a page that is missing, shifted or of another message shows); 
%%   both: the CRC-32 of the whole payload travels beside it and must be the expected one, and is
%%   recomputed over what arrived for one message in `full_every'.
%% The check is the same for every carrier, and small: see docs/performance.md.
-module(pt_bench_payload).
-export([prepare/3, forget/0, set/1, get/3, fresh/3, intact/6, page/0, pool_bytes/1]).
-export_type([set/0, what/0]).

-define(PAGE, 4096).
-define(BODY, (?PAGE - 8)).
-define(SMALL_KEYS, 64).
%% Large payloads of a pool: distinct memory, so that what waits in queues and sockets is real
%% memory and does not sit in the processor's cache; bounded, so that 16 senders of 8 MB fit.
-define(POOL_BYTES, 128 * 1024 * 1024).
-define(RANDOM_BYTES, 1024 * 1024).

-record(set, {
    size :: pos_integer(),
    keys :: pos_integer(),
    crcs :: tuple(),
    bins :: tuple() | none,
    random :: binary()
}).
-opaque set() :: #set{}.
%% Payloads of so many bytes; shared: one, which every message carries.
-type what() :: pos_integer() | {shared, pos_integer()}.

page() -> ?PAGE.

%% Makes the payloads known on this node; `with_pool' also keeps them all in memory.
%% One large size at a time is kept: asking for another one frees the pool of the first.
-spec prepare(what(), with_pool | checksums, Seed :: integer()) -> ok.
prepare(What, Mode, Seed) ->
    case persistent_term:get({?MODULE, What}, none) of
        #set{bins = none} when Mode =:= with_pool -> make(What, Mode, Seed);
        #set{} -> ok;
        none -> make(What, Mode, Seed)
    end.

make(What, Mode, Seed) ->
    Size = size_of(What),
    Size >= ?PAGE andalso forget_large(),
    Random = random(Seed),
    Keys = keys(What),
    Keep = Size < ?PAGE orelse Mode =:= with_pool,
    Made = [make_one(K, Size, Random, Keep) || K <- lists:seq(1, Keys)],
    Set = #set{
        size = Size,
        keys = Keys,
        crcs = list_to_tuple([Crc || {Crc, _} <- Made]),
        bins =
            case Keep of
                true -> list_to_tuple([Bin || {_, Bin} <- Made]);
                false -> none
            end,
        random = Random
    },
    persistent_term:put({?MODULE, What}, Set).

size_of({shared, Size}) -> Size;
size_of(Size) -> Size.

keys({shared, _Size}) -> 1;
keys(Size) when Size < ?PAGE -> ?SMALL_KEYS;
keys(Size) -> max(8, ?POOL_BYTES div Size).

%% How much memory the sender of such payloads goes through; as if it were none while they are small.
-spec pool_bytes(what()) -> non_neg_integer().
pool_bytes(What) ->
    case size_of(What) of
        Size when Size < ?PAGE -> 0;
        Size -> keys(What) * Size
    end.

make_one(K, Size, Random, Keep) ->
    %% The copy drops the room to grow that a binary built by appending keeps.
    Bin = binary:copy(build(K, Size, Random)),
    {erlang:crc32(Bin), case Keep of true -> Bin; false -> none end}.

forget_large() ->
    [
        persistent_term:erase(Key)
     || {{?MODULE, What} = Key, _} <- persistent_term:get(), size_of(What) >= ?PAGE
    ],
    ok.

-spec forget() -> ok.
forget() ->
    [persistent_term:erase(Key) || {{?MODULE, _} = Key, _} <- persistent_term:get()],
    ok.

-spec set(what()) -> set().
set(What) -> persistent_term:get({?MODULE, What}).

%% Payload of a message out of the pool.
-spec get(pos_integer(), pos_integer(), set()) -> {Crc :: non_neg_integer(), binary()}.
get(Flow, Seq, #set{keys = Keys, crcs = Crcs, bins = Bins}) ->
    K = key(Flow, Seq, Keys),
    {element(K, Crcs), element(K, Bins)}.

%% The same payload in memory of its own. Built page by page, so that the scheduler can run
%% something else meanwhile: one 8 MB copy would keep it for milliseconds.
-spec fresh(pos_integer(), pos_integer(), set()) -> {Crc :: non_neg_integer(), binary()}.
fresh(Flow, Seq, #set{keys = Keys, crcs = Crcs, size = Size, random = Random}) ->
    K = key(Flow, Seq, Keys),
    {element(K, Crcs), build(K, Size, Random)}.

%% Is this the payload of message Seq of flow Flow? FullEvery: see the head of the module.
-spec intact(pos_integer(), term(), term(), term(), pos_integer(), set()) -> boolean().
intact(Flow, Seq, Crc, Bin, FullEvery, #set{size = Size} = Set) when
    is_integer(Seq), is_binary(Bin), byte_size(Bin) =:= Size
->
    #set{keys = Keys, crcs = Crcs, bins = Bins} = Set,
    K = key(Flow, Seq, Keys),
    element(K, Crcs) =:= Crc andalso
        case Size < ?PAGE of
            true -> element(K, Bins) =:= Bin;
            false -> stamps(Bin, K, 0)
        end andalso
        ((Seq + Flow) rem FullEvery =/= 0 orelse erlang:crc32(Bin) =:= Crc);
intact(_Flow, _Seq, _Crc, _Bin, _FullEvery, #set{}) ->
    false.

stamps(<<K:32, I:32, _:?BODY/binary, Rest/binary>>, K, I) -> stamps(Rest, K, I + 1);
stamps(Rest, _K, _I) -> byte_size(Rest) < ?PAGE.

%% Neighbouring flows start at different keys, so that messages of two flows mixed up show.
key(Flow, Seq, Keys) -> (abs(Seq) + Flow * 7) rem Keys + 1.

build(K, Size, Random) when Size < ?PAGE ->
    <<(binary:part(Random, K * 4099 rem (?RANDOM_BYTES - ?PAGE), Size))/binary>>;
build(K, Size, Random) ->
    build(K, 0, Size, Random, <<>>).

build(K, I, Left, Random, Acc) when Left >= ?PAGE ->
    Body = binary:part(Random, (I * 4099 + K * 31) rem (?RANDOM_BYTES - ?PAGE), ?BODY),
    build(K, I + 1, Left - ?PAGE, Random, <<Acc/binary, K:32, I:32, Body/binary>>);
build(_K, _I, Left, Random, Acc) ->
    <<Acc/binary, (binary:part(Random, 0, Left))/binary>>.

random(Seed) ->
    case persistent_term:get({?MODULE, random, Seed}, none) of
        none ->
            {Bin, _} = rand:bytes_s(?RANDOM_BYTES, rand:seed_s(exsss, Seed)),
            persistent_term:put({?MODULE, random, Seed}, Bin),
            Bin;
        Bin ->
            Bin
    end.
