%% Options of the carrier.
%%
%% `-partisan Name Value ...` on the command line (several flags add up, the last word wins, so that
%% ERL_ZFLAGS overrides vm.args), then the environment of the application `partisan`, then the
%% default. PARTISAN_BACKEND in the process environment beats both for the backend.
%%
%% OTP itself reads `-partisan Name Value` as environment of the application, and parses each value
%% as a term. So values are terms here too, and words that are not in the table below are left to
%% the rest of the application.
-module(partisan_dist_conf).

-export([load/0, get/0, get/1]).
-export([check/3, complete/4, default_max_queue/1]).

-define(CONF, {?MODULE, conf}).
-define(MB, (1024 * 1024)).

-type name() :: lanes | lanes_at_start | loops | backend | max_queue | max_queue_node | max_message |
                max_half_open | notsent_lowat | user_timeout | congestion | plain_peers |
                flush_timeout.
-type conf() :: #{name() => term()}.
-export_type([conf/0, name/0]).

%% name, what it may be, default ({auto, _} values depend on the machine, complete/4 fills them in)
table() ->
    [{lanes, {integer, 1, 16}, 8},
     %% of them, those opened with the connection; the others when bulk needs them
     {lanes_at_start, {integer, 1, 16}, 2},
     %% threads that send bulk
     {loops, {integer, 1, 16}, auto},
     {backend, {word, [auto, uring, poll]}, auto},
     %% bytes queued for a peer before senders are suspended
     {max_queue, {integer, 65536, 1 bsl 60}, auto},
      %% the same over all peers, before those above their share are suspended
     {max_queue_node, {integer, 1 bsl 20, 1 bsl 60}, auto},
     %% bytes of one message that a peer may send
     {max_message, {integer, 65536, 1 bsl 60}, auto},
     {max_half_open, {integer, 1, 100000}, 128},
     {notsent_lowat, {integer, 4096, 1 bsl 30}, 128 * 1024},
     %% ms without acknowledged data until a lane counts as dead; 0: as the system does
     {user_timeout, {integer, 0, 3600000}, auto},
     {congestion, name, ""},
     {plain_peers, {word, [allow, refuse]}, allow},
     %% ms that halt and init:stop may wait for queued data to leave
     {flush_timeout, {integer, 1, 600000}, 5000}].

%% Reads and checks all options, without what depends on the machine.
-spec load() -> {ok, conf()} | {error, string()}.
load() ->
    %% Configuration files reach the environment when the application is loaded; in a release that
    %% was long ago, with `-pa` nobody did it yet. No harm if there is no partisan.app.
    _ = application:load(partisan),
    Args = case init:get_argument(partisan) of
               {ok, Lists} -> Lists;
               error -> []
           end,
    check(Args, application:get_all_env(partisan), os:getenv("PARTISAN_BACKEND")).

%% The options in force: those of the carrier's start.
-spec get() -> conf().
get() ->
    persistent_term:get(?CONF).

-spec get(name()) -> term().
get(Name) ->
    maps:get(Name, persistent_term:get(?CONF)).

%% Pure part of load/0.
-spec check([[string()]], [{atom(), term()}], string() | false) -> {ok, conf()} | {error, string()}.
check(Args, Env, OsBackend) ->
    try
        FromArgs = arguments(Args),
        FromOs = [{backend, Word, "PARTISAN_BACKEND="} || Word <- [OsBackend],
                                                          Word =/= false, Word =/= ""],
        FromEnv = [{Name, Value, ["{", atom_to_list(Name), ", ...} of application partisan: "]}
                   || {Name, Value} <- Env],
        {ok, maps:from_list([{Name, choose(Name, Type, Default, FromOs ++ FromArgs ++ FromEnv)}
                             || {Name, Type, Default} <- table()])}
    catch
        throw:{bad, Line} -> {error, unicode:characters_to_list(Line)}
    end.

%% Newest first, so that a search finds the word that wins.
arguments(Lists) ->
    lists:reverse(lists:append([pairs(List, List) || List <- Lists])).

pairs([Name, Value | Rest], All) ->
    [{word_to_atom(Name), term(Value), ["-partisan ", Name, " "]} | pairs(Rest, All)];
pairs([], _All) ->
    [];
pairs([Name], All) ->
    throw({bad, ["partisan: option ", Name, " has no value in: -partisan ", lists:join(" ", All)]}).

%% Words of others are not worth an atom.
word_to_atom(Word) ->
    case [Name || {Name, _, _} <- table(), atom_to_list(Name) =:= Word] of
        [Name] -> Name;
        [] -> Word
    end.

term(Text) ->
    case erl_scan:string(Text ++ " .") of
        {ok, Tokens, _} ->
            case erl_parse:parse_term(Tokens) of
                {ok, Term} -> Term;
                {error, _} -> {text, Text}
            end;
        {error, _, _} ->
            {text, Text}
    end.

choose(Name, Type, Default, Given) ->
    case lists:keyfind(Name, 1, Given) of
        false ->
            Default;
        {Name, Value, _Where} when Value =:= auto, Default =:= auto ->
            auto;
        {Name, Value, Where} ->
            case convert(Type, Value) of
                {ok, Result} ->
                    Result;
                error ->
                    throw({bad, io_lib:format("partisan: bad option ~ts~ts (~ts)",
                                              [Where, shown(Value), allowed(Type)])})
            end
    end.

convert({integer, Min, Max}, N) when is_integer(N), N >= Min, N =< Max -> {ok, N};
convert({word, Words}, Value) ->
    case [W || W <- Words, W =:= Value orelse atom_to_list(W) =:= Value] of
        [Word] -> {ok, Word};
        [] -> error
    end;
convert(name, Value) when is_atom(Value) -> convert(name, atom_to_list(Value));
convert(name, Value) when is_binary(Value) -> convert(name, binary_to_list(Value));
convert(name, Value) when is_list(Value), length(Value) < 16 -> % TCP_CA_NAME_MAX of Linux
    case lists:all(fun(C) -> is_integer(C) andalso C > $\s andalso C < 127 end, Value) of
        true -> {ok, Value};
        false -> error
    end;
convert(_Type, _Value) -> error.

allowed({integer, Min, Max}) -> io_lib:format("an integer from ~b to ~b", [Min, Max]);
allowed({word, Words}) -> lists:join(" or ", [atom_to_list(W) || W <- Words]);
allowed(name) -> "the name of a congestion control, see net.ipv4.tcp_available_congestion_control".

shown({text, Text}) -> Text;
shown(Value) ->
    case io_lib:printable_unicode_list(Value) of
        true when Value =/= [] -> Value;
        _ -> io_lib:format("~0tp", [Value])
    end.

%% Replaces `auto` by what suits a machine with Ram bytes, a VM of so many Schedulers and a net_ticktime of
%% TickTime seconds, and puts the options in force.
-spec complete(conf(), pos_integer(), pos_integer(), pos_integer()) -> conf().
complete(Conf, Ram, Schedulers, TickTime) ->
    MaxQueue = case maps:get(max_queue, Conf) of
                   auto -> default_max_queue(Ram);
                   Bytes -> Bytes
               end,
    Auto = #{max_queue => MaxQueue,
             %% One more thread than cores costs more than it sends (docs/performance.md, on two cores);
             %% schedulers send bulk, too, the loops what a socket did not take at once.
             loops => max(1, min(8, Schedulers div 8)),
             %% Four peers that stand still at the default; no less than what one peer may have.
             max_queue_node => max(Ram div 8, MaxQueue),
             %% A message beyond the memory cannot arrive anyway; 4 GB is what one packet of
             %% inet_tcp may hold.
             max_message => max(Ram, 4096 * ?MB),
             %% Ticks watch the node, not each lane: a lane that is dead for as long is as bad. Later
             %% than they can be (a quarter more than net_ticktime), so that a node that is gone is
             %% told as net_tick_timeout, as with inet_tcp.
             user_timeout => TickTime * 1500},
    Done = maps:map(fun(Name, auto) -> maps:get(Name, Auto, auto);
                       (_Name, Value) -> Value
                    end, Conf),
    persistent_term:put(?CONF, Done),
    Done.

%% Large on purpose: at the cap the VM suspends every sender to the peer, small ones too. But one peer
%% may not have more than a quarter of what a small container has.
-spec default_max_queue(pos_integer()) -> pos_integer().
default_max_queue(Ram) ->
    max(?MB, min(512 * ?MB, max(min(64 * ?MB, Ram div 4), Ram div 32))).
