%% Options of partisan_amqp_peer_service_manager, the map `amqp` in the application's environment.
-module(partisan_amqp_conf).

-export([check/1, open/3, core/1, queue/2]).

-export_type([t/0]).

-type t() :: #{atom() => term()}.

-define(SYSTEM_CA, "/etc/ssl/certs/ca-certificates.crt").
-define(TEXT_MAX, 200). % a queue has 255 bytes for its name
-define(MAX_WINDOW_BYTES, 16#40000000).

%% All options with their defaults, or words for what is wrong.
-spec check(map() | [{atom(), term()}]) -> {ok, t()} | {error, Words :: string()}.
check(Options) when is_list(Options) ->
    check(proplists:to_map(Options));
check(Given) ->
    Defaults = defaults(),
    try
        [throw({bad, io_lib:format("no ~tp; there are ~ts",
                                   [Key, names(Defaults)])})
         || Key <- maps:keys(Given), not is_map_key(Key, Defaults)],
        Conf = maps:map(fun(Key, {Type, Default}) -> one(Key, Type, maps:get(Key, Given, Default)) end,
                        Defaults),
        Tls = maps:get(tls, Conf),
        {ok, case Conf of
                 #{port := undefined} when Tls =:= false -> Conf#{port := 5672};
                 #{port := undefined} -> Conf#{port := 5671};
                 #{} -> Conf
             end}
    catch
        throw:{bad, Line} -> {error, lists:flatten(Line)}
    end.

names(Defaults) ->
    lists:join(", ", [atom_to_list(Key) || Key <- lists:sort(maps:keys(Defaults))]).

defaults() ->
    #{host => {text, "localhost"}, port => {port, undefined}, vhost => {text, "/"},
      user => {text, "guest"}, password => {text, "guest"},
      cluster => {text, "partisan"}, program => {{optional, text}, undefined},
      tls => {tls, false},
      heartbeat => {{1, 600}, 10},                       % s, of the connection to the broker
      timeout => {{100, 600000}, 10000},                 % ms
      reconnect_min => {{10, 600000}, 200}, reconnect_max => {{10, 3600000}, 10000},
      heartbeat_interval => {{10, 3600000}, 2000},       % ms, of the node; the core has the rest
      down_after => {{10, 36000000}, 7000}, forget_after => {{10, 16#ffffffff}, 3600000},
      window => {{1, 1000000}, 1000}, window_bytes => {{1, ?MAX_WINDOW_BYTES}, 16#1000000},
      send_timeout => {{0, 16#ffffffff}, 5000},
      prefetch => {{1, 65535}, 256},
      queue_expires => {{1000, 16#ffffffff}, 3600000}, queue_bytes => {{1024, 1 bsl 50}, 16#4000000}}.

one(_Key, {optional, _}, undefined) -> undefined;
one(Key, {optional, Type}, Value) -> one(Key, Type, Value);
one(Key, text, Text) when is_list(Text), Text =/= []; is_binary(Text), Text =/= <<>> ->
    case unicode:characters_to_binary(Text) of
        Bytes when is_binary(Bytes), byte_size(Bytes) =< ?TEXT_MAX -> Bytes;
        _ -> bad(Key, io_lib:format("text of at most ~b bytes", [?TEXT_MAX]))
    end;
one(Key, text, _) -> bad(Key, "text");
one(_Key, port, undefined) -> undefined;
one(_Key, port, Port) when is_integer(Port), Port > 0, Port < 65536 -> Port;
one(Key, port, _) -> bad(Key, "a port number");
one(_Key, {Min, Max}, N) when is_integer(N), N >= Min, N =< Max -> N;
one(Key, {Min, Max}, _) -> bad(Key, io_lib:format("an integer from ~b to ~b", [Min, Max]));
one(_Key, tls, false) -> false;
one(Key, tls, true) -> one(Key, tls, #{});
one(Key, tls, Tls) when is_list(Tls) -> one(Key, tls, proplists:to_map(Tls));
one(Key, tls, Tls) when is_map(Tls) ->
    Full = maps:merge(#{verify => true, ca => ?SYSTEM_CA, cert => "", key => ""}, Tls),
    Files = [filelib:is_regular(File) || Name <- [ca, cert, key],
                                         File <- [maps:get(Name, Full)], File =/= ""],
    case Full of
        #{verify := Verify, cert := Cert, key := File}
          when map_size(Full) =:= 4, is_boolean(Verify), (Cert =:= "") =:= (File =:= "") ->
            lists:all(fun(Is) -> Is end, Files) orelse bad(Key, "files that exist in ca, cert and key"),
            Full;
        #{} ->
            bad(Key, "false, true or #{ca => File, cert => File, key => File, verify => true | false}, "
                "cert and key both or none")
    end;
one(Key, tls, _) -> bad(Key, "false, true or a map").

%% The value is not shown: it may be a password.
-spec bad(atom(), iodata()) -> no_return().
bad(Key, Expected) ->
    throw({bad, io_lib:format("~ts must be ~ts", [Key, Expected])}).

%% What the port program is to open.
-spec open(publisher | consumer, node(), t()) -> partisan_amqp_proto:open().
open(Role, Node, #{tls := Tls0, cluster := Cluster} = Conf) ->
    Tls = case Tls0 of
              false -> #{verify => false, ca => "", cert => "", key => ""};
              #{} -> Tls0
          end,
    #{queue_expires := Expires, queue_bytes := Bytes} = Conf,
    maps:merge(maps:with([host, port, vhost, user, password, heartbeat, prefetch, timeout], Conf),
               Tls#{role => Role, tls => Tls0 =/= false, expires => Expires, max_bytes => Bytes,
                    name => io_lib:format("~ts ~ts", [Node, Role]),
                    direct => [Cluster, ".messages"], fanout => [Cluster, ".members"],
                    queue => queue(Node, Conf)}).

%% The name of a node's queue; AMQP has 255 bytes for it.
-spec queue(node(), t()) -> binary().
queue(Node, #{cluster := Cluster}) ->
    Name = atom_to_binary(Node),
    case <<Cluster/binary, $., Name/binary>> of
        Queue when byte_size(Queue) =< 255 -> Queue;
        _ -> <<Cluster/binary, $., (binary:encode_hex(erlang:md5(Name)))/binary>>
    end.

%% For partisan_overlay_amqp.
-spec core(t()) -> partisan_overlay:config().
core(Conf) ->
    maps:with([heartbeat_interval, down_after, forget_after], Conf).
