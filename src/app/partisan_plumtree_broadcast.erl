%% Broadcast to all members over trees in the overlay's links (partisan_plumtree), for handlers of
%% the behaviour partisan_plumtree_broadcast_handler.
%%
%% One process: asks the handlers what the core needs to know, hands it the messages, carries out
%% what it says. Handlers' functions run here, one at a time; one that fails is logged and counts as
%% having nothing to do with the message. Messages travel on the handler's channel, without one on
%% the channel `broadcast`, and where that is not configured on the default channel; a large message
%% delays others only if they share its channel.
%%
%% Options of the application: lazy_tick_period, exchange_tick_period, broadcast_mods (handlers that
%% exchange from the start; others from their first message on), broadcast_start_exchange_limit
%% (exchanges that may run at a time, as many as handlers by default), and `plumtree`, a map with
%% options of the core (partisan_plumtree:defaults/0).
-module(partisan_plumtree_broadcast).

-behaviour(gen_server).

-export([start_link/0, broadcast/2, notice/1]).
-export([broadcast_channel/1, broadcast_members/0, broadcast_members/1, update/1]).
-export([exchanges/0, exchanges/1, exchanges/2, cancel_exchanges/1]).
-export([get_peers/1, get_peers/2, get_eager_peers/1, get_lazy_peers/1]).
-export([debug_get_peers/2, debug_get_peers/3, debug_get_peers/4,
         debug_get_tree/2, debug_get_tree/3, debug_get_tree/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(CALL_MS, 5000).
-define(AGAIN_MS, 200).
-define(LINE_MS, 10000).

-type exchange() :: {module(), node(), reference(), pid()}.
-type selector() :: all | {peer, node()} | {mod, module()} | reference() | pid().

-record(st, {core :: partisan_plumtree:state(),
             links = #{} :: #{node() => partisan_plumtree_link:link()},
             timers = #{} :: #{term() => reference()},
             shell = none :: none | reference(),
             mods :: [module()],
             exchanges = [] :: [exchange()],
             overrun = none :: none | integer(),
             malformed = none :: none | integer()}).   % the last line about each

%% ------------------------------------------------------------------------------------------------
%% For users

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% To all members: Mod:broadcast_data(Message) says what is sent. `ok`: on its way; this node's own
%% copy is the caller's business, as in Partisan.
-spec broadcast(term(), module()) -> ok | {error, notalive}.
broadcast(Message, Mod) ->
    {Id, Payload} = Mod:broadcast_data(Message),
    case whereis(?MODULE) of
        undefined -> {error, notalive};
        Pid -> gen_server:cast(Pid, {broadcast, Mod, Id, Payload})
    end.

-spec broadcast_channel(module()) -> partisan:channel().
broadcast_channel(Mod) ->
    case erlang:function_exported(Mod, broadcast_channel, 0) of
        true -> Mod:broadcast_channel();
        false -> broadcast
    end.

%% Neighbours and this node: those whom a message of this node is given to first.
-spec broadcast_members() -> [node()].
broadcast_members() ->
    broadcast_members(?CALL_MS).

-spec broadcast_members(timeout()) -> [node()].
broadcast_members(Timeout) ->
    gen_server:call(?MODULE, members, Timeout).

%% Members come from the overlay here.
-spec update(term()) -> ok.
update(_Members) ->
    ok.

%% Exchanges that run.
-spec exchanges() -> [exchange()].
exchanges() ->
    gen_server:call(?MODULE, exchanges, ?CALL_MS).

-spec exchanges(node()) -> [exchange()].
exchanges(Node) ->
    exchanges(Node, ?CALL_MS).

-spec exchanges(node(), timeout()) -> [exchange()].
exchanges(Node, Timeout) ->
    gen_server:call({?MODULE, Node}, exchanges, Timeout).

%% Ends them, with reason cancel_exchange.
-spec cancel_exchanges(selector()) -> [exchange()].
cancel_exchanges(Which) ->
    gen_server:call(?MODULE, {cancel_exchanges, Which}, ?CALL_MS).

%% Links of the tree whose root is that node: {Eager, Lazy}, in order.
-spec get_peers(node()) -> {[node()], [node()]}.
get_peers(Root) ->
    get_peers(Root, ?CALL_MS).

-spec get_peers(node(), timeout()) -> {[node()], [node()]}.
get_peers(Root, Timeout) ->
    gen_server:call(?MODULE, {peers, Root}, Timeout).

-spec get_eager_peers(node()) -> [node()].
get_eager_peers(Root) ->
    element(1, get_peers(Root)).

-spec get_lazy_peers(node()) -> [node()].
get_lazy_peers(Root) ->
    element(2, get_peers(Root)).

-spec debug_get_peers(node(), node()) -> {[node()], [node()]}.
debug_get_peers(Node, Root) ->
    debug_get_peers(Node, Root, ?CALL_MS).

-spec debug_get_peers(node(), node(), timeout()) -> {[node()], [node()]}.
debug_get_peers(Node, Root, Timeout) ->
    gen_server:call({?MODULE, Node}, {peers, Root}, Timeout).

%% Partisan's fourth argument is a map of trees that no caller has.
-spec debug_get_peers(node(), node(), timeout(), term()) -> {[node()], [node()]}.
debug_get_peers(Node, Root, Timeout, _) ->
    debug_get_peers(Node, Root, Timeout).

-spec debug_get_tree(node(), [node()]) -> [{node(), {[node()], [node()]} | down}].
debug_get_tree(Root, Nodes) ->
    debug_get_tree(Root, Nodes, ?CALL_MS).

-spec debug_get_tree(node(), [node()], timeout()) -> [{node(), {[node()], [node()]} | down}].
debug_get_tree(Root, Nodes, Timeout) ->
    [try {Node, debug_get_peers(Node, Root, Timeout)} catch exit:_ -> {Node, down} end
     || Node <- Nodes].

-spec debug_get_tree(node(), [node()], timeout(), term()) ->
          [{node(), {[node()], [node()]} | down}].
debug_get_tree(Root, Nodes, Timeout, _) ->
    debug_get_tree(Root, Nodes, Timeout).

%% From the overlay's shell.
-spec notice(partisan_overlay:notice()) -> ok.
notice(Notice) ->
    gen_server:cast(?MODULE, {notice, Notice}).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    %% Handlers may link what they start to this process, and an exchange that fails or is cancelled
    %% must not end it.
    process_flag(trap_exit, true),
    Config = maps:merge(#{lazy_tick_period => partisan_config:get(lazy_tick_period),
                          exchange_tick_period => partisan_config:get(exchange_tick_period)},
                        partisan_config:get(plumtree, #{})),
    try partisan_plumtree:init(#{name => node()}, Config, now_ms(), rand:seed_s(exsss)) of
        {Core, Effects} ->
            St = #st{core = Core, mods = partisan_config:get(broadcast_mods)},
            {ok, watch(effects(Effects, none, St))}
    catch
        error:{bad_option, Key, Value, Expected} ->
            Line = lists:flatten(io_lib:format("partisan: bad option plumtree ~p: ~0tp (~ts)",
                                               [Key, Value, Expected])),
            ?LOG_ERROR("~ts", [Line]),
            {stop, {bad_option, Line}}
    end.

handle_call(members, _From, #st{core = Core} = St) ->
    #{neighbours := Near} = partisan_plumtree:info(Core),
    {reply, lists:usort([node() | Near]), St};
handle_call({peers, Root}, _From, #st{core = Core} = St) ->
    {reply, partisan_plumtree:peers(Root, Core), St};
handle_call(info, _From, #st{core = Core} = St) ->
    {reply, partisan_plumtree:info(Core), St};
handle_call(exchanges, _From, #st{exchanges = Exchanges} = St) ->
    {reply, Exchanges, St};
handle_call({cancel_exchanges, Which}, _From, #st{exchanges = Exchanges} = St) ->
    Ended = [E || E <- Exchanges, selected(Which, E)],
    _ = [exit(Pid, cancel_exchange) || {_, _, _, Pid} <- Ended],
    {reply, Ended, St};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast({broadcast, Mod, Id, Payload}, St) ->
    {noreply, event({broadcast, Mod, Id, Payload}, Mod, known(Mod, St))};
handle_cast({notice, {Up, _} = Notice}, St) when Up =:= neighbour_up ->
    {noreply, event(Notice, none, St)};
handle_cast({notice, {neighbour_down, Node, _} = Notice}, St) ->
    {noreply, event(Notice, none, unlinked(Node, St))};
handle_cast(_Other, St) ->
    {noreply, St}.

handle_info({plumtree, From, Msg}, St) when is_atom(From) ->
    case partisan_plumtree:well_formed(Msg) of
        true -> {noreply, heard(From, Msg, St)};
        false -> {noreply, malformed(From, St)}
    end;
handle_info({timeout, Ref, {timer, Name}}, #st{timers = Timers} = St) ->
    case Timers of
        #{Name := Ref} ->
            {noreply, event({timer, Name}, none, St#st{timers = maps:remove(Name, Timers)})};
        #{} ->
            {noreply, St}                        % cancelled when its message was out already
    end;
handle_info({'DOWN', Ref, process, _, _}, #st{shell = Ref, core = Core} = St0) ->
    %% Without its shell the overlay has no neighbours; a new shell tells of its own.
    #{neighbours := Near} = partisan_plumtree:info(Core),
    St = lists:foldl(fun(Node, Acc) ->
                             event({neighbour_down, Node, noproc}, none, unlinked(Node, Acc))
                     end, St0, Near),
    {noreply, watch(St#st{shell = none})};
handle_info({'DOWN', Ref, process, _, _}, #st{exchanges = Exchanges} = St) ->
    {noreply, St#st{exchanges = lists:keydelete(Ref, 3, Exchanges)}};
handle_info(watch, St) ->
    {noreply, watch(St)};
handle_info({'EXIT', Pid, Reason}, #st{links = Links} = St) ->
    case [Node || {Node, Link} <- maps:to_list(Links), partisan_plumtree_link:is(Pid, Link)] of
        [Node] ->
            ?LOG_ERROR("partisan: the link for broadcasts to ~ts failed, and starts again: ~0tp",
                       [Node, Reason]),
            {noreply, St#st{links = maps:remove(Node, Links)}};
        [] ->
            {noreply, St}
    end;
handle_info(_Message, St) ->
    {noreply, St}.

heard(From, Msg, St0) ->
    Questions = partisan_plumtree:questions(Msg),
    Mods = lists:usort([element(2, Q) || Q <- Questions]),
    St = lists:foldl(fun known/2, St0, [M || M <- Mods, handler(M)]),
    Channel = case Mods of
                  [Mod] -> Mod;
                  _ -> none
              end,
    event({msg, From, Msg, [answer(Q) || Q <- Questions]}, Channel, St).

malformed(From, #st{malformed = Last} = St) ->
    case now_ms() of
        Now when Last =:= none; Now - Last > ?LINE_MS ->
            ?LOG_WARNING("partisan: dropped a broadcast message of ~ts that this version cannot take: "
                         "do all nodes run the same version of partisan?", [From]),
            St#st{malformed = Now};
        _ ->
            St
    end.

%% The overlay starts after or before us, and may start again.
watch(St0) ->
    case partisan_overlay_shell:neighbours() of
        {ok, Near} ->
            St = lists:foldl(fun(Node, Acc) ->
                                     event({neighbour_up, #{name => Node}}, none, Acc)
                             end, St0, Near),
            St#st{shell = monitor(process, partisan_overlay_shell)};
        {error, notalive} ->
            _ = erlang:send_after(?AGAIN_MS, self(), watch),
            St0
    end.

%% ------------------------------------------------------------------------------------------------
%% The core

event(Event, Mod, #st{core = Core0} = St) ->
    {Core, Effects} = partisan_plumtree:handle(Event, now_ms(), Core0),
    effects(Effects, Mod, St#st{core = Core}).

effects(Effects, Mod, St) ->
    lists:foldl(fun(E, Acc) -> effect(E, Mod, Acc) end, St, Effects).

effect({send, Node, Msg}, Mod, #st{links = Links} = St0) ->
    {Link, St} = case Links of
                     #{Node := Known} ->
                         {Known, St0};
                     #{} ->
                         New = partisan_plumtree_link:start(Node),
                         {New, St0#st{links = Links#{Node => New}}}
                 end,
    case partisan_plumtree_link:send(channel(Msg, Mod), {plumtree, node(), Msg}, Link) of
        ok -> St;
        overrun -> overrun(Node, St)
    end;
effect({timer, Name, Ms}, _, #st{timers = Timers} = St) ->
    stop_timer(Name, Timers),
    St#st{timers = Timers#{Name => erlang:start_timer(Ms, self(), {timer, Name})}};
effect({cancel, Name}, _, #st{timers = Timers} = St) ->
    stop_timer(Name, Timers),
    St#st{timers = maps:remove(Name, Timers)};
effect({exchange, Node}, _, #st{mods = Mods} = St) ->
    lists:foldl(fun(Mod, Acc) -> exchange(Mod, Node, Acc) end, St, Mods).

stop_timer(Name, Timers) ->
    case Timers of
        #{Name := Ref} -> _ = erlang:cancel_timer(Ref), ok;
        #{} -> ok
    end.

%% What is no message of a handler is small, and common to all.
channel({payload, _, _, _, _}, Mod) when Mod =/= none ->
    case handler(Mod) of
        true -> safely(Mod, broadcast_channel, fun() -> broadcast_channel(Mod) end, broadcast);
        false -> broadcast
    end;
channel(_, _) ->
    broadcast.

unlinked(Node, #st{links = Links} = St) ->
    case maps:take(Node, Links) of
        {Link, Rest} ->
            partisan_plumtree_link:stop(Link),
            St#st{links = Rest};
        error ->
            St
    end.

overrun(Node, #st{overrun = Last} = St) ->
    case now_ms() of
        Now when Last =:= none; Now - Last > ?LINE_MS ->
            ?LOG_WARNING("partisan: ~ts does not take broadcasts as fast as they come: dropping some, "
                         "which handlers' exchange will bring", [Node]),
            St#st{overrun = Now};
        _ ->
            St
    end.

%% ------------------------------------------------------------------------------------------------
%% Handlers

known(Mod, #st{mods = Mods} = St) ->
    case lists:member(Mod, Mods) of
        true -> St;
        false -> St#st{mods = Mods ++ [Mod]}
    end.

%% Another node's message must not make this one load or call just anything.
handler(Mod) ->
    is_atom(Mod) andalso code:ensure_loaded(Mod) =:= {module, Mod}
        andalso erlang:function_exported(Mod, merge, 2)
        andalso erlang:function_exported(Mod, is_stale, 1)
        andalso erlang:function_exported(Mod, graft, 1).

%% Of a handler that this node has not, it keeps and passes on nothing.
answer({merge, Mod, Id, Payload}) ->
    handler(Mod) andalso safely(Mod, merge, fun() -> Mod:merge(Id, Payload) =:= true end, false);
answer({is_stale, Mod, Id}) ->
    not handler(Mod)
        orelse safely(Mod, is_stale, fun() -> Mod:is_stale(Id) =:= true end, true);
answer({graft, Mod, Id}) ->
    case handler(Mod) of
        true -> safely(Mod, graft, fun() -> Mod:graft(Id) end, {error, handler_failed});
        false -> {error, no_handler}
    end.

safely(Mod, What, Fun, Otherwise) ->
    try Fun()
    catch
        Class:Reason:Stack ->
            ?LOG_ERROR("partisan: broadcast handler ~tp failed in ~ts: ~0tp:~0tp~n~0tp",
                       [Mod, What, Class, Reason, Stack]),
            Otherwise
    end.

exchange(Mod, Node, #st{exchanges = Exchanges, mods = Mods} = St) ->
    Limit = case partisan_config:get(broadcast_start_exchange_limit) of
                undefined -> length(Mods);
                Given -> Given
            end,
    Running = [x || {M, N, _, _} <- Exchanges, M =:= Mod, N =:= Node],
    case length(Exchanges) < Limit andalso Running =:= [] andalso handler(Mod)
        andalso safely(Mod, exchange, fun() -> Mod:exchange(Node) end, ignore) of
        {ok, Pid} when is_pid(Pid) ->
            St#st{exchanges = [{Mod, Node, monitor(process, Pid), Pid} | Exchanges]};
        {error, Reason} ->
            ?LOG_NOTICE("partisan: broadcast handler ~tp did not exchange with ~ts: ~0tp",
                        [Mod, Node, Reason]),
            St;
        _ ->
            St
    end.

selected(all, _) -> true;
selected({peer, Node}, {_, Peer, _, _}) -> Node =:= Peer;
selected({mod, Mod}, {M, _, _, _}) -> Mod =:= M;
selected(Which, {_, _, Ref, Pid}) -> Which =:= Ref orelse Which =:= Pid.

now_ms() -> erlang:monotonic_time(millisecond).
