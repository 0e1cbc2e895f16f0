%% What a word of --carriers stands for: how two nodes are started so that the carrier is used, and
%% how the workload sends. Reads the environment variables that name checkouts of rivals.
-module(pt_bench_carrier).
-export([parse/2, usual/2, full/1, rivals/0, words/0]).
-export_type([carrier/0]).

-type carrier() :: #{
    label := string(),
    %% what -proto_dist takes; `floor' is no carrier but the raw C program, see pt_bench_floor
    proto := string() | floor,
    via := pt_bench_via:via(),
    %% arguments of the nodes beside -proto_dist
    args := [string()],
    %% the beams of a rival
    paths := [file:filename()],
    %% connections of a rival, or lanes of a channel, where there can be several
    lanes => pos_integer(),
    %% how the floor's program moves bytes; of several, the better one counts
    floor => [blocking | uring, ...],
    %% version of TLS
    tls => string()
}.

%% RabbitMQ's default for +zdbbl is 128000 (KB); 192 KB of socket and driver buffer is what its
%% guide on networking sets for throughput. EMQX ships +zdbbl 8192.
-define(BUFFERS,
    "[{nodelay,true},{buffer,196608},{sndbuf,196608},{recbuf,196608}]").

%% Rivals by environment variable, see docs/performance.md.
-define(RIVALS, [
    {"lasp", lasp, "BENCH_LASP_PARTISAN"},
    {"gen_rpc", gen_rpc, "BENCH_GEN_RPC"},
    {"riak_core", riak_core, "BENCH_RIAK_CORE"}
]).

%% Carrier from its word. Defaults (backend, lanes) fill in what a partisan's word leaves out.
-spec parse(string(), #{backend => string(), lanes => pos_integer()}) ->
    {ok, carrier()} | {error, string()}.
parse(Word, Defaults) ->
    [Name | Words] = string:lexemes(Word, "-"),
    case carrier(Name, Words, Defaults) of
        {ok, Carrier} ->
            Base = #{via => dist, args => [], paths => []},
            {ok, maps:merge(Base, Carrier#{label => Word})};
        error ->
            {error, "cannot read this carrier: " ++ Word};
        {error, _} = Error ->
            Error
    end.

carrier("partisan", [How | Words], _) when How =:= "channel"; How =:= "forward" ->
    case lanes_and_backend(Words, #{}) of
        {ok, Own} ->
            Args = lists:append([["-partisan", "backend", B] || #{backend := B} <- [Own]]),
            {ok, #{
                proto => "partisan", via => {list_to_atom(How), small}, args => Args,
                lanes => maps:get(lanes, Own, 1)
            }};
        error ->
            error
    end;
carrier(Proto, Words, Defaults) when Proto =:= "partisan"; Proto =:= "partisan6" ->
    case lanes_and_backend(Words, #{}) of
        {ok, Own} ->
            Args = [["-partisan", atom_to_list(K), V] || {K, V} <- maps:to_list(
                maps:map(fun(_, V) -> string_of(V) end, maps:merge(Defaults, Own)))],
            {ok, #{proto => Proto, args => lists:append(Args)}};
        error ->
            error
    end;
carrier("inet_tcp", ["rabbitmq"], _) ->
    Tuned = ["+zdbbl", "128000", "-kernel", "inet_dist_listen_options", ?BUFFERS,
        "-kernel", "inet_dist_connect_options", ?BUFFERS],
    {ok, #{proto => "inet_tcp", args => Tuned}};
carrier("inet_tcp", ["emqx"], _) ->
    {ok, #{proto => "inet_tcp", args => ["+zdbbl", "8192"]}};
carrier("inet_tls", [], _) ->
    {ok, #{proto => "inet_tls", tls => "1.3"}};
carrier("inet_tls", [Version], _) when Version =:= "1.2"; Version =:= "1.3" ->
    {ok, #{proto => "inet_tls", tls => Version}};
carrier("floor", [], _) ->
    {ok, #{proto => floor, floor => [blocking, uring]}};
carrier("floor", [How], _) when How =:= "blocking"; How =:= "uring" ->
    {ok, #{proto => floor, floor => [list_to_atom(How)]}};
carrier(Name, Words, _) ->
    case {lists:keyfind(Name, 1, ?RIVALS), lanes_and_backend(Words, #{})} of
        {{_, Via, Variable}, {ok, Own}} when not is_map_key(backend, Own) ->
            rival(Name, Via, Variable, maps:get(lanes, Own, 1));
        {false, {ok, Own}} when Own =:= #{} ->
            {ok, #{proto => Name}};
        {false, {ok, _}} ->
            {error, "only partisan takes a back end or a number of lanes: " ++ Name};
        _ ->
            error
    end.

rival(Name, Via, Variable, Lanes) ->
    case os:getenv(Variable) of
        Path when Path =:= false; Path =:= "" ->
            {error, Name ++ " is not part of this project: name a built checkout in " ++ Variable};
        Path ->
            case beams(Path) of
                [] ->
                    {error, Variable ++ " names no compiled modules: nothing like _build/default/lib/"
                        "*/ebin, */ebin, ebin or *.beam in " ++ Path};
                Dirs ->
                    {ok, #{proto => "inet_tcp", via => Via, paths => Dirs, lanes => Lanes}}
            end
    end.

%% Directories with beams: several may be given, separated by colons.
beams(Path) ->
    lists:append([
        case filelib:wildcard(filename:join(Dir, "*.beam")) of
            [_ | _] -> [Dir];
            [] -> first_of([filename:join([Dir | Sub]) || Sub <- [
                ["_build", "default", "lib", "*", "ebin"], ["*", "ebin"], ["ebin"]]])
        end
     || Dir <- string:lexemes(Path, ":")
    ]).

first_of([]) -> [];
first_of([Pattern | Patterns]) ->
    case [filename:absname(D) || D <- filelib:wildcard(Pattern)] of
        [] -> first_of(Patterns);
        Dirs -> Dirs
    end.

lanes_and_backend([], Got) ->
    {ok, Got};
lanes_and_backend([W | Words], Got) when W =:= "uring"; W =:= "poll" ->
    lanes_and_backend(Words, Got#{backend => W});
lanes_and_backend([W | Words], Got) ->
    try list_to_integer(W) of
        N when N > 0 -> lanes_and_backend(Words, Got#{lanes => N});
        _ -> error
    catch
        error:badarg -> error
    end.

string_of(V) when is_integer(V) -> integer_to_list(V);
string_of(V) -> V.

%% The carriers of a run that names none.
-spec usual(Short :: boolean(), Floor :: boolean()) -> [string()].
usual(true, _) -> ["partisan", "partisan-poll"];
usual(false, Floor) -> ["inet_tcp", "partisan"] ++ [F || Floor, F <- ["floor"]].

%% Those of a full run: with each rival whose checkout is named.
-spec full(Floor :: boolean()) -> [string()].
full(Floor) ->
    ["inet_tcp", "inet_tcp-rabbitmq", "inet_tcp-emqx", "inet_tls", "partisan"] ++
        ["partisan-" ++ B ++ "-" ++ L || B <- ["uring", "poll"], L <- ["1", "2", "4", "8"]] ++
        rivals() ++ ["floor" || Floor].

-spec rivals() -> [string()].
rivals() ->
    [Name || {Name, _, Variable} <- ?RIVALS, os:getenv(Variable, "") =/= ""].

%% For --help.
-spec words() -> iolist().
words() ->
    "  inet_tcp            as it comes; any other word without dashes goes to -proto_dist too\n"
    "  inet_tcp-rabbitmq   as RabbitMQ runs it: +zdbbl 128000, buffers of 192 KB\n"
    "  inet_tcp-emqx       as EMQX runs it: +zdbbl 8192\n"
    "  inet_tls[-1.2]      TLS 1.3 (or 1.2), with a certificate made for the run\n"
    "  partisan[-uring|-poll][-N]\n"
    "                      this carrier; back end and lanes, where given\n"
    "  partisan-channel[-N], partisan-forward[-N]\n"
    "                      a named channel of it with N lanes, by partisan_channel:send and by the\n"
    "                      application's partisan:forward_message; streams have one of their own\n"
    "  lasp[-N]            lasp-lang/partisan 5 with parallelism N; BENCH_LASP_PARTISAN\n"
    "  gen_rpc             ordered casts; BENCH_GEN_RPC\n"
    "  riak_core           sent as vnode requests are; BENCH_RIAK_CORE\n"
    "                      these variables name a built checkout of the rival\n"
    "  floor[-blocking|-uring]\n"
    "                      no Erlang: a C program moves the bytes over one connection, by blocking\n"
    "                      calls or io_uring, the better of the two where none is named. When it is\n"
    "                      in a run, every figure is shown as a part of it too\n".
