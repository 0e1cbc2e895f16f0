%% The channels of this node: checked, and where every process finds them.
-module(partisan_channel_conf).

-export([set/1, get/0, find/1, check/1, relay/1, relay_classes/0, relay_class/1]).

-export_type([channel/0]).

-define(CONF, {?MODULE, channels}).
-define(RELAY, {?MODULE, relay}).
-define(COMMON, "$partisan_relay").
-define(NAME_MAX, 255). % bytes: one on the wire

%% Complete: every option has a value. max_queue in bytes, idle in ms.
-type channel() :: #{parallelism := 1..16, monotonic := boolean(), compression := 0..9,
                     max_queue := pos_integer(), idle := non_neg_integer() | infinity,
                     relay => true, owner => pid()}.

-spec set(#{atom() => partisan_channel:config()}) -> ok | {error, Line :: string()}.
set(Channels) ->
    case check(Channels) of
        {ok, Complete} ->
            Before = all(),
            ok = persistent_term:put(?CONF, Complete),
            _ = case persistent_term:get(?RELAY, none) of
                    none -> ok;
                    #{owner := Owner} -> relay(Owner)
                end,
            partisan_channel_srv:configured(Before, all());
        {error, _} = Error -> Error
    end.

-spec get() -> #{atom() => channel()}.
get() ->
    persistent_term:get(?CONF, #{}).

all() ->
    maps:merge(?MODULE:get(), relayed()).

relayed() ->
    case persistent_term:get(?RELAY, none) of
        none -> #{};
        #{confs := Confs} -> Confs
    end.

-spec find(atom()) -> {ok, channel()} | error.
find(Name) ->
    case relayed() of
        #{Name := Conf} -> {ok, Conf};
        #{} -> maps:find(Name, ?MODULE:get())
    end.

%% The channels of messages that are relayed, beside those that the user has: a common one, and one for
%% each of the user's, with its options. Owner gets {partisan_channel_opened, Node} when one was opened
%% with a node. `none`: no more.
-spec relay(Owner :: pid() | none) -> ok.
relay(none) ->
    persistent_term:put(?RELAY, none);
relay(Owner) ->
    Own = #{relay => true, owner => Owner},
    Classes = [{Name, binary_to_atom(Bytes, utf8), Bytes, Conf#{monotonic := false, compression := 0}}
               || {Name, Conf} <- maps:to_list(?MODULE:get()), Name =/= undefined,
                  Bytes <- [<<?COMMON, $., (atom_to_binary(Name, utf8))/binary>>],
                  byte_size(Bytes) =< ?NAME_MAX],
    All = [{undefined, binary_to_atom(<<?COMMON>>, utf8), <<?COMMON>>, defaults()} | Classes],
    persistent_term:put(?RELAY, #{owner => Owner,
                                  confs => maps:from_list([{Atom, maps:merge(Conf, Own)} || {_, Atom, _, Conf} <- All]),
                                  classes => maps:from_list([{Name, {Atom, Bytes}} || {Name, Atom, Bytes, _} <- All])}).

%% For each of the user's channels, and for `undefined` the common one: the channel of what is relayed.
-spec relay_classes() -> #{atom() => {atom(), binary()}}.
relay_classes() ->
    case persistent_term:get(?RELAY, none) of
        none -> #{};
        #{classes := Classes} -> Classes
    end.

-spec relay_class(atom()) -> {ok, {atom(), binary()}} | error.
relay_class(Name) ->
    maps:find(Name, relay_classes()).

%% Pure part of set/1.
-spec check(term()) -> {ok, #{atom() => channel()}} | {error, Line :: string()}.
check(Channels) when is_map(Channels) ->
    try {ok, maps:map(fun check/2, Channels)}
    catch throw:{bad, Line} -> {error, lists:flatten(Line)}
    end;
check(Channels) ->
    {error, lists:flatten(io_lib:format("partisan: channels must be a map, not ~0tp",
                                        [Channels]))}.

check(Name, Options) when is_atom(Name), is_map(Options) ->
    Bytes = atom_to_binary(Name),
    byte_size(Bytes) =< ?NAME_MAX
        orelse bad("the name of channel ~tp is longer than ~b bytes", [Name, ?NAME_MAX]),
    binary:match(Bytes, <<"$partisan">>) =/= {0, 9}
        orelse bad("channel ~tp: names that begin with $partisan are partisan's own", [Name]),
    Given = maps:map(fun(Key, Value) -> option(Name, Key, Value) end, Options),
    maps:merge(defaults(), Given);
check(Name, Options) ->
    bad("bad channel ~0tp => ~0tp: an atom and a map of options are wanted", [Name, Options]).

defaults() ->
    #{parallelism => 1, monotonic => false, compression => 0, max_queue => 8 bsl 20,
      idle => infinity}.

option(_, parallelism, N) when is_integer(N), N >= 1, N =< 16 -> N;
option(C, parallelism, N) -> bad_option(C, parallelism, N, "an integer from 1 to 16");
option(_, monotonic, B) when is_boolean(B) -> B;
option(C, monotonic, B) -> bad_option(C, monotonic, B, "true or false");
option(_, compression, false) -> 0;
option(_, compression, true) -> 1; % zlib's fastest: a lane is rarely slower than its better levels
option(_, compression, N) when is_integer(N), N >= 0, N =< 9 -> N;
option(C, compression, N) -> bad_option(C, compression, N, "true, false or an integer from 0 to 9");
option(_, max_queue, N) when is_integer(N), N >= 65536, N < 1 bsl 60 -> N;
option(C, max_queue, N) -> bad_option(C, max_queue, N, "bytes, from 65536");
option(_, idle, infinity) -> infinity;
option(_, idle, N) when is_integer(N), N >= 100, N < 1 bsl 32 -> N;
option(C, idle, N) -> bad_option(C, idle, N, "infinity or milliseconds, from 100");
option(C, Key, Value) -> bad("unknown option ~0tp => ~0tp of channel ~tp", [Key, Value, C]).

-spec bad_option(atom(), atom(), term(), string()) -> no_return().
bad_option(Channel, Key, Value, Wanted) ->
    bad("bad option ~tp => ~0tp of channel ~tp: ~s", [Key, Value, Channel, Wanted]).

-spec bad(io:format(), [term()]) -> no_return().
bad(Format, Args) ->
    throw({bad, io_lib:format("partisan: " ++ Format, Args)}).
