%% The one process of the carrier that lives as long as the VM: it holds the shared object, and the
%% table in which a lane that knocks finds its session.
%%
%% Started on demand, under no supervisor: net_kernel needs it before any application but kernel
%% runs, and it must outlive net_kernel, whose restart must not unload the driver. If it dies, the
%% next start_carrier/0 makes a new one, and sessions enter themselves again (their process monitors
%% it, see partisan_dist_lanes).
-module(partisan_dist_reg).

-behaviour(gen_server).

-export([start_carrier/0]).
-export([enter/1, lookup/1, enter_node/2, lookup_node/1, seen/1]).
-export([hint/2, hints/1]).
-export([count/1, counters/0, log_limited/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(TABLE, ?MODULE).
-define(CARRIER, {?MODULE, carrier}).
-define(LOG_INTERVAL, 10000). % ms between two lines of one kind
-define(REMEMBERED, 120000). % ms; as long as a lane may take to come (net_setuptime's largest)

-type counter() :: accepted | nodes | lanes | questions | silent | garbage | evicted |
                   turned_away | refused_lanes | accept_errors.
-export_type([counter/0]).

%% Reads the options, loads the shared object and starts its loop thread: once per VM. Any process
%% of the carrier may call it at any time; afterwards the other functions here may be called.
-spec start_carrier() -> ok | {error, Line :: string()}.
start_carrier() ->
    case persistent_term:get(?CARRIER, undefined) =:= started
        andalso whereis(?MODULE) =/= undefined of
        true ->
            ok;
        false ->
            case gen_server:start({local, ?MODULE}, ?MODULE, [], []) of
                {ok, _} -> ok;
                {error, {already_started, _}} -> ok
            end,
            gen_server:call(?MODULE, start_carrier, infinity)
    end.

%% ------------------------------------------------------------------------------------------------
%% Sessions

%% Enters the caller as the lanes process of a session; it goes out with the caller. The reference
%% is that of a monitor of the registry: on its 'DOWN' the caller enters itself again.
-spec enter(SessionId :: binary()) -> reference().
enter(SessionId) ->
    _ = start_carrier(),
    Ref = erlang:monitor(process, ?MODULE),
    gen_server:cast(?MODULE, {enter, SessionId, self()}),
    _ = insert({{session, SessionId}, self()}),
    Ref.

%% `ended`: there was one until lately.
-spec lookup(SessionId :: binary()) -> {ok, pid()} | ended | error.
lookup(SessionId) ->
    try ets:lookup(?TABLE, {session, SessionId}) of
        [{_, Pid}] when is_pid(Pid) -> {ok, Pid};
        [{_, ended}] -> ended;
        [] -> error
    catch
        error:badarg -> error
    end.

%% Enters the lanes process of the session with Node, before the node is up: who hears of the node
%% finds it.
-spec enter_node(node(), pid()) -> ok.
enter_node(Node, Pid) when is_atom(Node), is_pid(Pid) ->
    gen_server:cast(?MODULE, {enter_node, Node, Pid}),
    _ = insert({{node, Node}, Pid}),
    _ = insert({{seen, Node}}),
    ok.

%% Has there ever been a session with Node?
-spec seen(node()) -> boolean().
seen(Node) ->
    try ets:member(?TABLE, {seen, Node})
    catch error:badarg -> false
    end.

-spec lookup_node(node()) -> {ok, pid()} | error.
lookup_node(Node) ->
    try ets:lookup(?TABLE, {node, Node}) of
        [{_, Pid}] -> {ok, Pid};
        [] -> error
    catch
        error:badarg -> error
    end.

%% ------------------------------------------------------------------------------------------------
%% Addresses of nodes that came from elsewhere than epmd (partisan_dist_addr:hint/2). The last said
%% about a node counts. Without the carrier there is nobody to use them.

-spec hint(node(), [{inet:ip_address(), inet:port_number()}]) -> ok.
hint(Node, Addresses) ->
    _ = insert({{hint, Node}, Addresses}),
    ok.

-spec hints(node()) -> [{inet:ip_address(), inet:port_number()}].
hints(Node) ->
    try ets:lookup(?TABLE, {hint, Node}) of
        [{_, Addresses}] -> Addresses;
        [] -> []
    catch
        error:badarg -> []
    end.

%% ------------------------------------------------------------------------------------------------
%% Counters and log lines of the listening side

-spec count(counter()) -> ok.
count(Name) ->
    try
        _ = ets:update_counter(?TABLE, {counter, Name}, 1, {{counter, Name}, 0}),
        ok
    catch
        error:badarg -> ok
    end.

-spec counters() -> #{counter() => pos_integer()}.
counters() ->
    try maps:from_list([{Name, N} || [Name, N] <- ets:match(?TABLE, {{counter, '$1'}, '$2'})])
    catch error:badarg -> #{}
    end.

%% Logs one line of its Kind in ten seconds, and says how many were left out. Anybody may knock at
%% the port; nobody may fill the log.
-spec log_limited(Kind :: atom(), logger:level(), io:format(), [term()]) -> ok.
log_limited(Kind, Level, Format, Args) ->
    Now = erlang:monotonic_time(millisecond),
    Key = {log, Kind},
    try ets:lookup(?TABLE, Key) of
        [{_, Last, _}] when Now - Last < ?LOG_INTERVAL ->
            _ = ets:update_counter(?TABLE, Key, {3, 1}),
            ok;
        [{_, _, 0}] ->
            _ = insert({Key, Now, 0}),
            ?LOG(Level, Format, Args);
        [{_, _, Suppressed}] ->
            _ = insert({Key, Now, 0}),
            ?LOG(Level, Format ++ " (and ~b like this since the last line)", Args ++ [Suppressed]);
        [] ->
            _ = insert({Key, Now, 0}),
            ?LOG(Level, Format, Args)
    catch
        error:badarg -> ?LOG(Level, Format, Args)
    end,
    ok.

insert(Row) ->
    try ets:insert(?TABLE, Row)
    catch error:badarg -> false
    end.

%% ------------------------------------------------------------------------------------------------
%% The process. State: monitor of each lanes process => its row of the table.

init([]) ->
    ?TABLE = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    {ok, #{}}.

handle_call(start_carrier, _From, State) ->
    Answer = start(),
    case Answer of
        ok -> persistent_term:put(?CARRIER, started);
        {error, _} -> persistent_term:erase(?CARRIER)
    end,
    {reply, Answer, State};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

handle_cast({enter, SessionId, Pid}, State) ->
    {noreply, State#{erlang:monitor(process, Pid) => {{session, SessionId}, Pid}}};
handle_cast({enter_node, Node, Pid}, State) ->
    {noreply, State#{erlang:monitor(process, Pid) => {{node, Node}, Pid}}};
handle_cast(_Message, State) ->
    {noreply, State}.

handle_info({'DOWN', Ref, process, _Pid, _Reason}, State) when is_map_key(Ref, State) ->
    {Row, Rest} = maps:take(Ref, State),
    gone(Row),
    {noreply, Rest};
handle_info({forget, Row}, State) ->
    true = ets:delete_object(?TABLE, Row),
    {noreply, State};
handle_info({partisan_loop_failed, Text}, State) ->
    ?LOG_ERROR("partisan: ~ts", [Text]),
    {noreply, State};
handle_info(_Message, State) ->
    {noreply, State}.

%% Lanes may be on their way to a session that ends: they are not strangers. Only who knows the cookie
%% has a session, so nobody else makes us remember any.
gone({{session, _} = Key, _Pid}) ->
    Ended = {Key, ended},
    true = ets:insert(?TABLE, Ended),
    _ = erlang:send_after(?REMEMBERED, self(), {forget, Ended}),
    ok;
gone(Row) ->
    true = ets:delete_object(?TABLE, Row), % a newer session with the node may have its own
    ok.

start() ->
    maybe_all([fun partisan_dist_conf:load/0,
               fun(Conf) ->
                       case partisan_drv:load() of
                           ok -> {ok, Conf};
                           {error, _} = Error -> Error
                       end
               end,
               fun start_loop/1,
               fun(_) -> partisan_channel_srv:start() end]).

maybe_all([First | Rest]) ->
    lists:foldl(fun(Step, {ok, Value}) -> Step(Value);
                   (_Step, Other) -> Other
                end, First(), Rest).

start_loop(Loaded) ->
    Ram = partisan_dist_mem:available(maps:get(ram, partisan_nif:info(), 2 bsl 30)),
    Conf = partisan_dist_conf:complete(Loaded, Ram, erlang:system_info(schedulers_online),
                                       net_ticktime()),
    Options = maps:with([backend, loops, notsent_lowat, user_timeout, flush_timeout, max_queue_node,
                         congestion], Conf),
    case partisan_nif:start(Options#{ram => Ram}) of
        {ok, Reason} ->
            ?LOG_INFO("partisan: ~ts", [Reason]),
            os:getenv("PARTISAN_TEST_BREAK_ORDER") =:= "1" andalso
                ?LOG_WARNING("partisan: PARTISAN_TEST_BREAK_ORDER is set, signals may overtake each other: "
                             "it is for the order tests, unset it", []),
            {ok, Conf};
        {error, Words} ->
            {error, lists:flatten(["partisan: ", Words])}
    end.

%% Not net_kernel:get_net_ticktime/0: net_kernel may be the process that waits for us.
net_ticktime() ->
    case application:get_env(kernel, net_ticktime) of
        {ok, Seconds} when is_integer(Seconds), Seconds > 0 -> Seconds;
        _ -> 60
    end.
