%% Carriers, and pairs of fresh nodes on them.
%%
%% The nodes are controlled over their standard input and output, so that nothing but the workload
%% crosses the carrier, and the controller needs no distribution of its own. They end when the
%% controller ends, however it ends.
-module(pt_bench_nodes).
-export([parse/2, start_pair/3, prepare/2, run/2, stop_pair/1, describe/1]).
-export_type([carrier/0, pair/0]).

-type carrier() :: #{label := string(), proto := string(), args := [string()]}.
-opaque pair() :: #{
    carrier := carrier(), peers := [pid()], nodes := [node()], os_pids := [string()]
}.

-define(BOOT_MS, 20000).
-define(PREPARE_MS, 60000).

%% Carrier from its word: `NAME[-BACKEND][-LANES]', as in inet_tcp, partisan, partisan-poll,
%% partisan-uring-4. NAME is what -proto_dist takes. Defaults fills in what the word leaves out.
-spec parse(string(), #{backend => string(), lanes => pos_integer()}) ->
    {ok, carrier()} | {error, string()}.
parse(Word, Defaults) ->
    [Proto | Words] = string:lexemes(Word, "-"),
    case parse_words(Words, #{}) of
        {ok, Own} when map_size(Own) > 0, Proto =/= "partisan" ->
            {error, "only partisan takes a back end or a number of lanes: " ++ Word};
        {ok, Own} ->
            Options = case Proto of "partisan" -> maps:merge(Defaults, Own); _ -> #{} end,
            Args = [["-partisan", atom_to_list(K), str(V)] || {K, V} <- maps:to_list(Options)],
            {ok, #{label => Word, proto => Proto, args => lists:append(Args)}};
        error ->
            {error, "cannot read this carrier: " ++ Word}
    end.

parse_words([], Got) ->
    {ok, Got};
parse_words([W | Words], Got) when W =:= "uring"; W =:= "poll" ->
    parse_words(Words, Got#{backend => W});
parse_words([W | Words], Got) ->
    try list_to_integer(W) of
        N when N > 0 -> parse_words(Words, Got#{lanes => N});
        _ -> error
    catch
        error:badarg -> error
    end.

%% Starts two nodes of the carrier, connects them, and makes sure that the carrier carries.
-spec start_pair(carrier(), Tag :: string(), Options) -> {ok, pair()} | {error, string()} when
    Options :: #{pinned := boolean(), paths := [file:filename()], erl := [string()]}.
start_pair(Carrier, Tag, Options) ->
    Started = [start_node(Carrier, Tag, Side, Options) || Side <- [0, 1]],
    case Started of
        [{ok, P1, N1, O1}, {ok, P2, N2, O2}] ->
            Pair = #{carrier => Carrier, peers => [P1, P2], nodes => [N1, N2], os_pids => [O1, O2]},
            case connect(Pair) of
                ok ->
                    {ok, Pair};
                {error, _} = Error ->
                    stop_pair(Pair),
                    Error
            end;
        _ ->
            [stop_node(P, O) || {ok, P, _, O} <- Started],
            {error, hd([Why || {error, Why} <- Started])}
    end.

start_node(#{proto := Proto, args := Args}, Tag, Side, Options) ->
    #{pinned := Pinned, paths := Paths, erl := Erl} = Options,
    Name = "bench_" ++ Tag ++ "_" ++ integer_to_list(Side),
    Pins = case Pinned of true -> ["+S", "1:1"]; false -> [] end,
    Spec = #{
        name => Name,
        host => "127.0.0.1",
        longnames => true,
        connection => standard_io,
        exec => exec(Pinned, Side),
        wait_boot => ?BOOT_MS,
        args => ["-pa" | Paths] ++ Pins ++ Erl ++
            [
                "-proto_dist", Proto,
                "-setcookie", "bench_" ++ Tag,
                "-connect_all", "false",
                "-kernel", "prevent_overlapping_partitions", "false"
            ] ++ Args
    },
    %% peer ties the node to this process by a link; a failed boot must not end the run.
    process_flag(trap_exit, true),
    try peer:start_link(Spec) of
        {ok, Peer, Node} ->
            {ok, Peer, Node, peer:call(Peer, os, getpid, [])};
        {error, Why} ->
            {error, boot_words(Proto, Why)}
    catch
        _:Why -> {error, boot_words(Proto, Why)}
    end.

boot_words(Proto, Why) ->
    text("a node with -proto_dist ~s did not start (see above): ~0p", [Proto, Why]).

exec(false, _Side) ->
    os:find_executable("erl");
exec(true, Side) ->
    {os:find_executable("taskset"), ["-c", integer_to_list(Side), os:find_executable("erl")]}.

%% Two -proto_dist flags, or one that comes through the environment, make OTP 25 fall back to
%% inet_tcp without a word; a benchmark of the wrong carrier must be impossible.
connect(#{carrier := #{proto := Proto}, peers := [P1, _], nodes := [_, N2]}) ->
    case peer:call(P1, net_kernel, connect_node, [N2], ?BOOT_MS) of
        true ->
            case controller(P1, N2) of
                "tcp_inet" when Proto =:= "inet_tcp"; Proto =:= "inet6_tcp" -> ok;
                "partisan" ++ _ when Proto =:= "partisan"; Proto =:= "partisan6" -> ok;
                process when Proto =:= "inet_tls" -> ok;
                Other -> {error, text("asked for ~s, but ~0p carries", [Proto, Other])}
            end;
        Other ->
            {error, text("the two nodes of ~s did not connect: ~0p", [Proto, Other])}
    end.

controller(Peer, Node) ->
    case lists:keyfind(Node, 1, peer:call(Peer, erlang, system_info, [dist_ctrl])) of
        {_, Port} when is_port(Port) ->
            {name, Name} = peer:call(Peer, erlang, port_info, [Port, name]),
            Name;
        {_, Pid} when is_pid(Pid) -> process;
        false -> none
    end.

%% What the carrier says about itself: a line for people, everything for the record.
-spec describe(pair()) -> {Words :: string(), map()}.
describe(#{carrier := #{proto := "partisan" ++ _}, peers := [P1, _], nodes := [_, N2]}) ->
    try
        Node = peer:call(P1, partisan_dist, info, []),
        Session = peer:call(P1, partisan_dist, info, [N2]),
        Reason = maps:get(backend_reason, Node, "unknown back end"),
        Lanes = maps:get(lanes, maps:get(options, Node, #{}), unknown),
        {
            text("~ts; lanes wished: ~0p", [Reason, Lanes]),
            #{node => maps:without([sessions, listener], Node), session => Session}
        }
    catch
        _:_ -> {"", #{}}
    end;
describe(_Pair) ->
    {"", #{}}.

-spec prepare(pair(), pt_bench_work:cell()) -> ok | {error, string()}.
prepare(#{peers := Peers}, Cell) ->
    guarded(fun() ->
        [
            ok = peer:call(P, pt_bench_work, prepare, [Cell, Side], ?PREPARE_MS)
         || {P, Side} <- lists:zip(Peers, [first, second])
        ],
        ok
    end).

%% A cell stalls by its own clock; the limit here is for a VM that hangs altogether.
-spec run(pair(), pt_bench_work:cell()) -> {ok, map()} | {stalled, string()} | {error, string()}.
run(#{peers := [P1, _], nodes := [_, N2], os_pids := OsPids}, Cell) ->
    #{ms := Ms, stall_ms := Stall} = Cell,
    Limit = 2 * (Ms + Stall) + 20000,
    guarded(fun() -> peer:call(P1, pt_bench_work, run, [Cell, N2, OsPids], Limit) end).

guarded(Fun) ->
    try
        Fun()
    catch
        exit:{timeout, {gen_server, call, _}} -> {error, "a node hung"};
        exit:{_, {gen_server, call, _}} -> {error, "a node died"};
        Class:Why -> {error, text("the workload failed: ~0p:~0P", [Class, Why, 30])}
    end.

-spec stop_pair(pair()) -> ok.
stop_pair(#{peers := Peers, os_pids := OsPids}) ->
    [stop_node(P, O) || {P, O} <- lists:zip(Peers, OsPids)],
    ok.

stop_node(Peer, OsPid) ->
    try
        peer:stop(Peer)
    catch
        _:_ -> ok
    end,
    gone(OsPid, erlang:monotonic_time(millisecond) + 5000).

%% A VM that does not end when told to is a fault worth a line, and must not load the next cell.
gone(OsPid, Deadline) ->
    case pt_bench_proc:alive(OsPid) of
        false ->
            ok;
        true ->
            case erlang:monotonic_time(millisecond) < Deadline of
                true ->
                    timer:sleep(10),
                    gone(OsPid, Deadline);
                false ->
                    Words = "bench: process ~s did not end by itself: killed~n",
                    io:format(standard_error, Words, [OsPid]),
                    _ = os:cmd("kill -9 " ++ OsPid),
                    ok
            end
    end.

str(V) when is_integer(V) -> integer_to_list(V);
str(V) -> V.

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
