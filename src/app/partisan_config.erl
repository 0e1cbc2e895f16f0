%% Options of the application, of both generations of Partisan.
%%
%% They are read from the environment of the application `partisan` when it starts, checked, and
%% kept in persistent terms: reading costs no copy and no lock. set/2 replaces one, which makes the
%% VM look through all processes once: it is for set-up, not for traffic.
%%
%% The options of the carrier (`lanes`, `backend`, ...) live in the same environment and are no
%% business of this module; see partisan_dist_conf.
-module(partisan_config).

-export([init/0, get/1, get/2, set/2, get_with_opts/2, get_with_opts/3]).
-export([channels/0, channel_opts/1, default_channel/0, default_channel_opts/0,
         default_channel_is_own/0, parallelism/0, listen_addrs/0]).
-export([seed/0, seed/1, trace/2]).

-include_lib("kernel/include/logger.hrl").

-define(KEY(Name), {?MODULE, Name}).
-define(NONE, '$partisan_not_set').

%% Reads and checks all options. On the first bad ones nothing is changed, and the error has one
%% line for each of them.
-spec init() -> ok.
init() ->
    _ = application:load(partisan),
    Given = application:get_all_env(partisan) ++ os_words(),
    {Subs, Env} = lists:foldl(fun place/2, {#{}, #{}}, Given),
    Checked = [{Key, Value, partisan_config_table:check(Key, Value)}
               || {Key, Value} <- maps:to_list(Env)],
    case [bad_line(Key, Value, Words) || {Key, Value, {error, Words}} <- Checked] of
        [] ->
            _ = [put_term(Key, default(Key)) || Key <- partisan_config_table:known(),
                                                not is_map_key(Key, Env)],
            _ = [put_term(Key, Value) || {Key, _, {ok, Value}} <- Checked],
            put_term(hyparview, maps:merge(persistent_term:get(?KEY(hyparview)), Subs)),
            channels_changed();
        Lines ->
            error({bad_options, lists:sort(Lines)})
    end.

default(Key) ->
    {ok, Value} = partisan_config_table:default(Key),
    Value.

%% Old names give way to today's. Some have become parts of `hyparview`, and are put into it.
place({Key, Value}, {Subs, Acc}) ->
    case partisan_config_table:renamed(Key) of
        {hyparview, Sub} -> {Subs#{Sub => Value}, Acc};
        Name when Name =/= Key, is_map_key(Name, Acc) -> {Subs, Acc};
        Name -> {Subs, Acc#{Name => Value}}
    end.

%% Partisan's two words of the process environment; they win.
os_words() ->
    [{Key, list_to_atom(Word)} || {Key, Name} <- [{peer_service_manager, "PEER_SERVICE"},
                                                  {tag, "TAG"}],
                                  Word <- [os:getenv(Name, "")], Word =/= ""].

bad_line(Key, Value, Words) ->
    lists:flatten(io_lib:format("partisan: bad option ~p: ~0tp (~ts)", [Key, Value, Words])).

%% A key nobody knows is an error (badarg) in today's API, and was `undefined` up to Partisan 4: the
%% latter for keys that only the old generation knew.
-spec get(atom()) -> term().
get(Key) ->
    case find(Key) of
        {ok, Value} ->
            Value;
        error ->
            case partisan_config_table:old_key(Key) of
                true -> undefined;
                false -> error(badarg, [Key])
            end
    end.

-spec get(atom(), term()) -> term().
get(Key, Default) ->
    case find(Key) of
        {ok, undefined} -> Default;
        {ok, Value} -> Value;
        error -> Default
    end.

find(Key) ->
    case persistent_term:get(?KEY(Key), ?NONE) of
        ?NONE -> find_slow(Key);
        Value when Key =:= channels; Key =:= name; Key =:= listen_addrs -> found(Key, Value);
        Value -> {ok, Value}
    end.

found(channels, _) -> {ok, channels()};
found(name, undefined) -> {ok, erlang:node()};
found(name, Name) -> {ok, Name};
found(listen_addrs, _) -> {ok, listen_addrs()}.

%% An old name, a key of the application's own, or the application has not been started yet.
find_slow(Key) ->
    case partisan_config_table:renamed(Key) of
        {hyparview, Sub} ->
            {ok, Map} = find(hyparview),
            maps:find(Sub, Map);
        Key ->
            case application:get_env(partisan, Key) of
                {ok, Value} when Key =:= channels; Key =:= name; Key =:= listen_addrs ->
                    found(Key, Value);
                {ok, Value} ->
                    case partisan_config_table:check(Key, Value) of
                        {ok, _} = Ok -> Ok;
                        {error, Words} -> error({bad_option, bad_line(Key, Value, Words)})
                    end;
                undefined ->
                    case partisan_config_table:default(Key) of
                        {ok, Value} when Key =:= channels; Key =:= name; Key =:= listen_addrs ->
                            found(Key, Value);
                        Result ->
                            Result
                    end
            end;
        Name ->
            find(Name)
    end.

%% Also written to the application's environment, so that it outlives a restart of the application.
-spec set(atom(), term()) -> ok.
set(Key, Value) ->
    case partisan_config_table:renamed(Key) of
        {hyparview, Sub} ->
            {ok, Map} = find(hyparview),
            set(hyparview, Map#{Sub => Value});
        Name ->
            case partisan_config_table:check(Name, Value) of
                {ok, Kept} ->
                    ok = application:set_env(partisan, Name, Kept),
                    put_term(Name, Kept),
                    _ = [channels_changed() || Name =:= channels orelse Name =:= parallelism],
                    ok;
                {error, Words} ->
                    error({bad_option, bad_line(Key, Value, Words)})
            end
    end.

put_term(Key, Value) ->
    ok = persistent_term:put(?KEY(Key), Value),
    case Key of
        forward_options -> partisan_send:settle();
        _ -> ok
    end.

%% The channels with all their options are kept too: they are looked at for every message.
channels_changed() ->
    {ok, Map} = partisan_config_table:channels(raw(channels, #{}), raw(parallelism, 1)),
    persistent_term:put(?KEY('$channels'), Map),
    partisan_transport:configure(Map).

raw(Key, Default) ->
    case persistent_term:get(?KEY(Key), ?NONE) of
        ?NONE -> application:get_env(partisan, Key, Default);
        Value -> Value
    end.

%% First in Opts (a map or a list), then here.
-spec get_with_opts(atom(), map() | list()) -> term().
get_with_opts(Key, Opts) ->
    case lookup(Key, Opts) of
        {ok, Value} -> Value;
        error -> ?MODULE:get(Key)
    end.

-spec get_with_opts(atom(), map() | list(), term()) -> term().
get_with_opts(Key, Opts, Default) ->
    case lookup(Key, Opts) of
        {ok, Value} -> Value;
        error -> ?MODULE:get(Key, Default)
    end.

lookup(Key, Opts) when is_map(Opts) -> maps:find(Key, Opts);
lookup(Key, Opts) -> maps:find(Key, proplists:to_map(Opts)).

%% ------------------------------------------------------------------------------------------------

-spec channels() -> partisan_config_table:channel_map().
channels() ->
    case persistent_term:get(?KEY('$channels'), ?NONE) of
        ?NONE ->
            case partisan_config_table:channels(raw(channels, #{}), raw(parallelism, 1)) of
                {ok, Map} -> Map;
                {error, Words} -> error({bad_option, bad_line(channels, raw(channels, #{}), Words)})
            end;
        Map ->
            Map
    end.

%% badarg for a channel that is not configured.
-spec channel_opts(partisan:channel()) -> partisan:channel_opts().
channel_opts(Name) ->
    case channels() of
        #{Name := Opts} -> Opts;
        _ -> error(badarg, [Name])
    end.

-spec default_channel() -> partisan:channel().
default_channel() -> undefined.

-spec default_channel_opts() -> partisan:channel_opts().
default_channel_opts() -> channel_opts(default_channel()).

%% The configuration names the default channel, so that it gets lanes of its own.
-spec default_channel_is_own() -> boolean().
default_channel_is_own() ->
    {ok, Named} = partisan_config_table:named(raw(channels, #{})),
    lists:member(undefined, Named).

-spec parallelism() -> pos_integer().
parallelism() -> ?MODULE:get(parallelism).

%% Where peers reach this node: as configured, else where the distribution listens.
-spec listen_addrs() -> [partisan:listen_addr()].
listen_addrs() ->
    case raw(listen_addrs, undefined) of
        undefined ->
            partisan_transport:listen_addrs();
        Given ->
            Port = default_port(),
            lists:usort([Addr || Text <- Given,
                                 {ok, Addr} <- [partisan_config_table:address(Text, Port)]])
    end.

%% Of an address that names none.
default_port() ->
    case raw(listen_port, undefined) of
        undefined -> hd([P || #{port := P} <- partisan_transport:listen_addrs()] ++ [9090]);
        Port -> Port
    end.

%% Seeds the caller's random numbers, with `random_seed` if that is set.
-spec seed() -> ok.
seed() ->
    case ?MODULE:get(random_seed, undefined) of
        undefined -> _ = rand:seed(exsss), ok;
        Seed -> seed(Seed)
    end.

-spec seed(integer() | {integer(), integer(), integer()}) -> ok.
seed(Seed) ->
    _ = rand:seed(exsss, Seed),
    ok.

-spec trace(io:format(), [term()]) -> ok.
trace(Format, Args) ->
    ?LOG_DEBUG(Format, Args).
