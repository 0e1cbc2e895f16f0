%% The hello: what a carrier says behind its node name in `send_name` and `challenge`.
%%
%% The distribution protocol lets bytes follow the name there, "must be accepted and ignored", so a
%% plain peer does not notice. Format (all integers big endian):
%%
%%   Magic:4/binary = "ptsn", Version:8, Oldest:8, Length:16, TLVs:Length/binary
%%   TLV: Type:8, Size:16, Value:Size/binary
%%
%% Version is the newest wire version spoken, Oldest the oldest: both sides use the lower of the two
%% Versions if neither's Oldest forbids it. Types: 1 capabilities (a 64-bit mask), 2 lanes wished
%% for (1 byte), 3 nonce (16 bytes), 4 channels (reserved). 2 and 3 must be there, a known type
%% comes once, an unknown one is skipped. Bytes behind Length are ignored.
%%
%% Pure; also in charge of finding the hello in a handshake packet.
-module(partisan_dist_hello).

-export([new/2, encode/1, find/1, agree/2, has/2]).

-export_type([hello/0, agreement/0]).

-define(MAGIC, "ptsn").
-define(VERSION, 1).
-define(OLDEST, 1).

-define(CAPABILITIES, 1).
-define(LANES, 2).
-define(NONCE, 3).
-define(CHANNELS, 4).

%% Beyond the base of version 1: on channels, BARE messages that refer to atoms.
-define(CHANNEL_NAMES, 1).
-define(MY_CAPABILITIES, ?CHANNEL_NAMES).

-type hello() :: #{version := byte(), oldest := byte(), capabilities := non_neg_integer(),
                   lanes := 1..255, nonce := <<_:128>>}.
-type agreement() :: #{version := byte(), capabilities := non_neg_integer(), lanes := 1..255}.

%% Our hello.
-spec new(Lanes :: 1..255, Nonce :: <<_:128>>) -> hello().
new(Lanes, Nonce) ->
    #{version => ?VERSION, oldest => ?OLDEST, capabilities => ?MY_CAPABILITIES, lanes => Lanes,
      nonce => Nonce}.

-spec encode(hello()) -> binary().
encode(#{version := Version, oldest := Oldest, capabilities := Caps, lanes := Lanes,
         nonce := <<_:16/binary>> = Nonce}) ->
    Tlvs = <<?CAPABILITIES, 8:16, Caps:64,
             ?LANES, 1:16, Lanes:8,
             ?NONCE, 16:16, Nonce/binary>>,
    <<?MAGIC, Version:8, Oldest:8, (byte_size(Tlvs)):16, Tlvs/binary>>.

%% The hello behind the name of a `send_name` or `challenge` packet. `none`: a plain peer.
-spec find({send_name | challenge, Packet :: binary()}) ->
          none | {ok, hello()} | {error, Why :: string()}.
find({send_name, <<$N, _Flags:64, _Creation:32, Size:16, _:Size/binary, Rest/binary>>}) ->
    decode(Rest);
find({challenge, <<$N, _Flags:64, _Challenge:32, _Creation:32, Size:16, _:Size/binary,
                   Rest/binary>>}) ->
    decode(Rest);
find({_, _}) ->
    none.

decode(<<?MAGIC, Version:8, Oldest:8, Length:16, Tlvs:Length/binary, _/binary>>) ->
    if
        Oldest > Version ->
            {error, "oldest version above the newest"};
        true ->
            case tlvs(Tlvs, #{}) of
                {ok, #{?LANES := Lanes, ?NONCE := Nonce} = Found} ->
                    {ok, #{version => Version, oldest => Oldest, lanes => Lanes, nonce => Nonce,
                           capabilities => maps:get(?CAPABILITIES, Found, 0)}};
                {ok, _} ->
                    {error, "lanes or nonce missing"};
                {error, _} = Error ->
                    Error
            end
    end;
decode(<<?MAGIC, _/binary>>) ->
    {error, "cut short"};
decode(_) ->
    none.

tlvs(<<>>, Found) ->
    {ok, Found};
tlvs(<<Type:8, Size:16, Value:Size/binary, Rest/binary>>, Found) ->
    case value(Type, Value) of
        {ok, _} when is_map_key(Type, Found) -> {error, "an element twice"};
        {ok, Term} -> tlvs(Rest, Found#{Type => Term});
        skip -> tlvs(Rest, Found);
        error -> {error, "an element of the wrong size or value"}
    end;
tlvs(_, _) ->
    {error, "an element runs past the end"}.

value(?CAPABILITIES, <<Caps:64>>) -> {ok, Caps};
value(?LANES, <<Lanes:8>>) when Lanes > 0 -> {ok, Lanes};
value(?NONCE, <<Nonce:16/binary>>) -> {ok, Nonce};
value(Type, _) when Type =:= ?CAPABILITIES; Type =:= ?LANES; Type =:= ?NONCE -> error;
value(_, _) -> skip. % ?CHANNELS among them, until channels exist

%% What both sides use; symmetrical, so each side computes it alone.
-spec agree(Mine :: hello(), Peer :: hello()) -> {ok, agreement()} | {error, Why :: string()}.
agree(#{version := V1, oldest := O1, capabilities := C1, lanes := L1},
      #{version := V2, oldest := O2, capabilities := C2, lanes := L2}) ->
    case min(V1, V2) of
        Version when Version >= O1, Version >= O2 ->
            {ok, #{version => Version, capabilities => C1 band C2, lanes => min(L1, L2)}};
        _ ->
            {error, lists:flatten(io_lib:format("no common wire version: ~b to ~b here, ~b to ~b "
                                                "there", [O1, V1, O2, V2]))}
    end.

%% Whether both sides can.
-spec has(channel_names, agreement()) -> boolean().
has(channel_names, #{capabilities := Capabilities}) ->
    Capabilities band ?CHANNEL_NAMES =/= 0.
