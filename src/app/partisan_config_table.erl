%% The options of Partisan, both generations: names, defaults and what may be given. Pure.
%%
%% Three kinds of keys: those of table/0; old names of them (renamed/1); and keys that only the API
%% of Partisan 1 to 4 knew, which are answered with `undefined` when nobody set them (old_key/1).
%% Everything else is the application's own: it may be set and read, and reading it unset is an
%% error.
-module(partisan_config_table).

-export([renamed/1, default/1, known/0, old_key/1, check/2, channels/2, named/1, clamp/2, address/2]).

-export_type([channel_map/0]).

-define(MEMBERSHIP, partisan_membership).
-define(MAX_PARALLELISM, 1024).
-define(MAX_LANES, 16). % of a channel
-define(MS, {integer, 0, 16#ffffffff}).
-define(MS1, {integer, 1, 16#ffffffff}).

-type channel_map() :: #{partisan:channel() => partisan:channel_opts()}.

%% name, what it may be, default
table() ->
    [{peer_service_manager, atom, partisan_pluggable_peer_service_manager},
     {membership_strategy, atom, partisan_full_membership_strategy},
     {channels, any, #{}},
     {parallelism, {integer, 1, ?MAX_PARALLELISM}, 1},
     {channel_fallback, boolean, true},
     {forward_options, options, #{}},
     {name, atom, undefined},
     {listen_addrs, any, undefined},
     {listen_ip, any, undefined},
     {listen_port, {optional, {integer, 1, 65535}}, undefined},
     {tls, boolean, false},
     {tls_client_options, options, []},
     {tls_server_options, options, []},
     {tls_options, options, []},
     {connect_disterl, boolean, false},
     {connection_interval, ?MS1, 1000},
     {connection_jitter, ?MS, 1000},
     {connection_ping, options,
      #{enabled => true, idle_timeout => 20000, timeout => 10000, max_attempts => 5}},
     {broadcast, boolean, false},
     {broadcast_mods, atoms, []},
     {lazy_tick_period, ?MS1, 1000},
     {exchange_tick_period, ?MS1, 10000},
     {exchange_selection, {word, [optimized, normal]}, optimized},
     {broadcast_heartbeat_interval, ?MS1, 10000},
     {broadcast_start_exchange_limit, {optional, {integer, 0, 100000}}, undefined},
     {tree_refresh, ?MS1, 1000},
     {relay_ttl, {integer, 0, 255}, 5},
     {causal_labels, atoms, []},
     %% what a message that waits for its cause may wait
     {redelivery_interval, ?MS1, 1000},
     {causal_hold, ?MS1, 30000},
     {retransmit_interval, ?MS1, 1000},
     %% acknowledged sends to a peer that are not yet acknowledged; beyond, senders wait
     {retransmit_window, {integer, 1, 10000000}, 4096},
     %% what they outlive of the peer's absence
     {retransmit_timeout, ?MS1, 600000},
     {disable_fast_forward, boolean, false},
     {disable_fast_receive, boolean, false},
     {pid_encoding, boolean, true},
     {ref_encoding, boolean, true},
     {register_pid_for_encoding, boolean, false},
     {remote_ref_format, {word, [improper_list, tuple, uri]}, improper_list},
     {remote_ref_uri_padding, boolean, false},
     {binary_padding, boolean, false},
     {egress_delay, ?MS, 0},
     {ingress_delay, ?MS, 0},
     {gossip, boolean, true},
     {fanout, {integer, 1, 100000}, 5},
     {periodic_enabled, boolean, true},
     {periodic_interval, ?MS1, 10000},
     {membership_binary_compression, compression, true},
     {distance_enabled, boolean, false},
     {distance_interval, ?MS1, 10000},
     {hyparview, hyparview, hyparview()},
     {peer_discovery, options, #{enabled => false}},
     {tag, {word, [undefined, client, server]}, undefined},
     {static, options, #{}},
     {amqp, options, #{}},
     %% what a plain send to a node that the overlay has no link with does
     {direct_connect, {word, [allow, refuse]}, allow},
     %% ms; how long what was said before a node left may be on its way
     {tombstone_keep, ?MS, 3600000},
     {metadata, options, #{}},
     {reservations, list, []},
     {orchestration_strategy, atom, undefined},
     {tracing, boolean, false},
     {replaying, boolean, false},
     {shrinking, boolean, false},
     {membership_strategy_tracing, boolean, false},
     {transmission_logging_mfa, any, undefined},
     {random_seed, any, undefined},
     {jitter, ?MS, 1000},
     {send_window, ?MS1, 1000},
     {persist_state, boolean, false},
     {scamp_c, {integer, 0, 1000}, 5},
     {instrumentation, boolean, false}].

hyparview() ->
    #{active_max_size => 6, active_min_size => 3, active_rwl => 6, passive_max_size => 30,
      passive_rwl => 3, random_promotion => true, random_promotion_interval => 5000,
      shuffle_interval => 10000, shuffle_k_active => 3, shuffle_k_passive => 4,
      xbot_enabled => false, xbot_interval => 30000}.

%% Today's name; `{hyparview, Sub}` for what has become a part of that option.
-spec renamed(atom()) -> atom() | {hyparview, atom()}.
renamed(partisan_peer_service_manager) -> peer_service_manager;
renamed(disterl) -> connect_disterl;
renamed(peer_ip) -> listen_ip;
renamed(peer_port) -> listen_port;
renamed(gossip_interval) -> periodic_interval;
renamed(remote_ref_binary_padding) -> remote_ref_uri_padding;
renamed(arwl) -> {hyparview, active_rwl};
renamed(prwl) -> {hyparview, passive_rwl};
renamed(max_active_size) -> {hyparview, active_max_size};
renamed(min_active_size) -> {hyparview, active_min_size};
renamed(mix_active_size) -> {hyparview, active_min_size};
renamed(max_passive_size) -> {hyparview, passive_max_size};
renamed(random_promotion) -> {hyparview, random_promotion};
renamed(random_promotion_period) -> {hyparview, random_promotion_interval};
renamed(random_promotion_interval) -> {hyparview, random_promotion_interval};
renamed(passive_view_shuffle_period) -> {hyparview, shuffle_interval};
renamed(Key) -> Key.

-spec known() -> [atom()].
known() ->
    [Key || {Key, _, _} <- table()].

-spec default(atom()) -> {ok, term()} | error.
default(Key) ->
    case lists:keyfind(Key, 1, table()) of
        {_, _, Default} -> {ok, Default};
        false -> error
    end.

%% Keys of Partisan 1-4 and of Riak Core's branches, where get/1 of a key that is not set returned
%% `undefined`; today's generation raises badarg.
-spec old_key(term()) -> boolean().
old_key(Key) ->
    lists:member(Key, [causal_delivery, vnode_partitioning, echo_binary, partisan_dispatch,
                       peer_host, partisan_data_dir, acceptor_pool_size, remote_ref_as_uri,
                       xbot_interval, reservation, evaluation_timestamp, orchestration,
                       membership_set, memory_report, lashup_gossip_interval]).

%% The value in the form in which it is kept, or words for what would be right.
-spec check(atom(), term()) -> {ok, term()} | {error, iolist()}.
check(channels, Value) ->
    case channels(Value, 1) of
        {ok, _} -> {ok, Value};
        {error, _} = Error -> Error
    end;
check(listen_addrs, undefined) ->
    {ok, undefined};
check(listen_addrs, Addrs) when is_list(Addrs) ->
    case [A || A <- Addrs, address(A, 1) =:= error] of
        [] -> {ok, Addrs};
        [Bad | _] ->
            {error, io_lib:format("~0tp is no \"Ip:Port\", {Ip, Port} or #{ip => _, port => _}",
                                  [Bad])}
    end;
check(listen_addrs, _) ->
    {error, "a list of addresses: \"Ip:Port\", {Ip, Port} or #{ip => _, port => _}"};
check(Key, Value) ->
    case lists:keyfind(Key, 1, table()) of
        {_, Type, _} ->
            case convert(Type, Value) of
                {ok, _} = Ok -> Ok;
                error -> {error, allowed(Type)}
            end;
        false ->
            {ok, Value}
    end.

convert(any, Value) -> {ok, Value};
convert(boolean, Value) when is_boolean(Value) -> {ok, Value};
convert(atom, Value) when is_atom(Value) -> {ok, Value};
convert(list, Value) when is_list(Value) -> {ok, Value};
convert(atoms, Value) when is_list(Value) ->
    case lists:all(fun is_atom/1, Value) of
        true -> {ok, Value};
        false -> error
    end;
convert(options, Value) when is_map(Value) -> {ok, Value};
convert(options, Value) when is_list(Value) ->
    case lists:all(fun({Key, _}) -> is_atom(Key); (Key) -> is_atom(Key) end, Value) of
        true -> {ok, Value};
        false -> error
    end;
convert(hyparview, Value) when is_list(Value) ->
    case convert(options, Value) of
        {ok, _} -> convert(hyparview, proplists:to_map(Value));
        error -> error
    end;
convert(hyparview, Value) when is_map(Value) ->
    {ok, maps:merge(hyparview(), rename_keys(Value))};
convert(compression, Value) when is_boolean(Value) -> {ok, Value};
convert(compression, Value) when is_integer(Value), Value >= 0, Value =< 9 -> {ok, Value};
convert({integer, Min, Max}, Value) when is_integer(Value), Value >= Min, Value =< Max ->
    {ok, Value};
convert({optional, _}, undefined) -> {ok, undefined};
convert({optional, Type}, Value) -> convert(Type, Value);
convert({word, Words}, Value) ->
    case lists:member(Value, Words) of
        true -> {ok, Value};
        false -> error
    end;
convert(_Type, _Value) -> error.

rename_keys(Map) ->
    maps:from_list([case renamed(Key) of
                        {hyparview, Sub} -> {Sub, Value};
                        _ -> {Key, Value}
                    end || {Key, Value} <- maps:to_list(Map)]).

allowed(boolean) -> "true or false";
allowed(atom) -> "an atom";
allowed(atoms) -> "a list of atoms";
allowed(list) -> "a list";
allowed(options) -> "a map or a list of {Name, Value}";
allowed(hyparview) -> "a map or a list of {Name, Value}";
allowed(compression) -> "true, false or a level from 0 to 9";
allowed({integer, Min, Max}) -> io_lib:format("an integer from ~b to ~b", [Min, Max]);
allowed({optional, Type}) -> [allowed(Type), ", or undefined"];
allowed({word, Words}) -> lists:join(" or ", [atom_to_list(W) || W <- Words]).

%% ------------------------------------------------------------------------------------------------
%% Channels

%% Every form of both generations becomes a map with all options. The default channel and the one
%% for membership are always there. Parallelism is for channels that name none.
-spec channels(term(), pos_integer()) -> {ok, channel_map()} | {error, iolist()}.
channels(Value, Parallelism) ->
    Base = #{undefined => opts(#{}, Parallelism),
             ?MEMBERSHIP => opts(#{parallelism => 1, compression => true}, Parallelism)},
    try maps:merge(Base, maps:from_list(given(Value, Parallelism))) of
        Map ->
            case partisan_channel_conf:check(maps:map(fun clamp/2, Map)) of
                {ok, _} -> {ok, Map};
                {error, "partisan: " ++ Line} -> {error, Line}
            end
    catch
        throw:{bad, Words} -> {error, Words}
    end.

%% For the carrier. Partisan made a connection for each; here a handful of lanes fills the link.
-spec clamp(partisan:channel(), partisan:channel_opts()) -> partisan:channel_opts().
clamp(_Name, #{parallelism := N} = Opts) when is_integer(N), N > ?MAX_LANES ->
    Opts#{parallelism := ?MAX_LANES};
clamp(_Name, Opts) ->
    Opts.

%% The channels that Value names.
-spec named(term()) -> {ok, [partisan:channel()]} | {error, iolist()}.
named(Value) ->
    try {ok, [Name || {Name, _} <- given(Value, 1)]}
    catch throw:{bad, Words} -> {error, Words}
    end.

given(Value, P) when is_map(Value) -> [channel(Pair, P) || Pair <- maps:to_list(Value)];
given(Value, P) when is_list(Value) -> [channel(Channel, P) || Channel <- Value];
given(_, _) -> throw({bad, "a list or a map of channels"}).

channel(Name, P) when is_atom(Name) -> {Name, opts(#{}, P)};
channel({monotonic, Name}, P) when is_atom(Name) -> {Name, opts(#{monotonic => true}, P)};
channel({Name, Opts}, P) when is_atom(Name), is_map(Opts) -> {Name, opts(Opts, P)};
channel({Name, Opts}, P) when is_atom(Name), is_list(Opts) ->
    case convert(options, Opts) of
        {ok, _} -> {Name, opts(proplists:to_map(Opts), P)};
        error -> bad({Name, Opts})
    end;
channel(#{name := Name} = Opts, P) when is_atom(Name) -> {Name, opts(Opts, P)};
channel(Other, _P) -> bad(Other).

opts(Opts, Parallelism) ->
    maps:merge(#{parallelism => Parallelism, monotonic => false, compression => false},
               maps:remove(name, Opts)).

-spec bad(term()) -> no_return().
bad(Channel) ->
    throw({bad, io_lib:format("~0tp is no Name, {monotonic, Name}, {Name, Options} or #{name => _}",
                              [Channel])}).

%% ------------------------------------------------------------------------------------------------
%% Addresses

%% All notations of an address; Port is for those that name none.
-spec address(term(), inet:port_number()) -> {ok, partisan:listen_addr()} | error.
address(#{ip := Ip, port := Port}, _) -> pair(Ip, Port);
address({Ip, Port}, _) when not is_integer(Ip) -> pair(Ip, Port);
address(Ip, Port) when is_tuple(Ip) -> pair(Ip, Port);
address(Text, Port) when is_binary(Text) -> address(binary_to_list(Text), Port);
address([{_, _} | _] = Options, _) ->
    case {lists:keyfind(ip, 1, Options), lists:keyfind(port, 1, Options)} of
        {{ip, Ip}, {port, Port}} -> pair(Ip, Port);
        _ -> error
    end;
address([C | _] = Text, Port) when is_integer(C) ->
    %% an IPv6 address has colons of its own: with a port it is written [Ip]:Port
    case pair(string:trim(Text, both, "[]"), Port) of
        {ok, _} = Ok -> Ok;
        error ->
            case string:split(Text, ":", trailing) of
                [Ip, PortText] -> pair(string:trim(Ip, both, "[]"), PortText);
                _ -> error
            end
    end;
address(_, _) -> error.

pair(Ip, Port) when is_binary(Ip) -> pair(binary_to_list(Ip), Port);
pair(Ip, Port) when is_binary(Port) -> pair(Ip, binary_to_list(Port));
pair(Ip, Port) when is_list(Ip) ->
    try inet:parse_address(Ip) of
        {ok, Address} -> pair(Address, Port);
        {error, einval} -> error
    catch error:_ -> error % a list that is no text
    end;
pair(Ip, Port) when is_list(Port) ->
    try list_to_integer(Port) of
        N -> pair(Ip, N)
    catch error:badarg -> error
    end;
pair(Ip, Port) when is_tuple(Ip), is_integer(Port), Port > 0, Port < 65536 ->
    case inet:ntoa(Ip) of
        {error, _} -> error;
        _ -> {ok, #{ip => Ip, port => Port}}
    end;
pair(_, _) -> error.
