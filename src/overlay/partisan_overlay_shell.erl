%% The one process of an overlay: turns what happens into events for a pure core, and carries the
%% core's effects out (partisan_overlay has the promises on both sides).
%%
%% Links are connections of Erlang's distribution, and its monitor_nodes is the failure detector: it
%% tells of a connection before anything that came over it, and of its end after. Messages of cores
%% go from a link's process straight to the other node's shell, named after this module.
%%
%% What everybody wants to read (members, neighbours) is in a table, so that reading asks nobody.
%% If the core fails the shell fails with it; its supervisor starts both anew, and other members
%% take the node back as one that restarted.
-module(partisan_overlay_shell).

-behaviour(gen_server).

-export([start_link/1]).
-export([join/1, leave/1, part/1, call/2, await/2, switch/2]).
-export([manager/0, members/0, neighbours/0, is_neighbour/1, info/0, route/1, routes/0, way/1]).
-export([send_to_manager/2]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-define(TABLE, ?MODULE).
-define(ROUTED, {?MODULE, routed}). % this overlay, or one before it, had routes

-type setup() :: #{core := module(), links := partisan_overlay_link:kind(),
                   config := partisan_overlay:config()}.
-export_type([setup/0]).

%% ms. From the first node to the last a switch takes less than the first; the second is what the new
%% overlay gets to make its links before those of the old one are closed.
-define(SWITCH_JOIN, 500).
-define(SWITCH_SETTLE, 5000).
-define(LINE_MS, 10000).

-record(link, {state :: dialing | up | closing,
               link :: partisan_overlay_link:link(),
               again = none :: none | partisan_overlay:spec()}). % dial when it is closed

-record(st, {name :: node(),
             manager :: module(),
             core :: module(),
             kind :: partisan_overlay_link:kind(),
             state :: term(),
             links = #{} :: #{node() => #link{}},
             given_up = #{} :: #{node() => []}, % dials of which only the end is awaited; a visible
                                                % connection may have found other users by then
             timers = #{} :: #{term() => reference()},
             neighbours = #{} :: #{node() => []},
             waiting = [] :: [{node(), gen_server:from()}],
             strangers = #{} :: #{node() => []},
             malformed = none :: none | integer(), % time of the last line about such a message
             %% of the overlay of before
             settling = none :: none | #{node() => neighbour | link}}).

%% ------------------------------------------------------------------------------------------------
%% For managers. All fail with noproc if no overlay runs.

%% Manager:overlay() says which core runs, over what kind of links, with which options.
-spec start_link(module()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Manager) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Manager, []).

-spec join(partisan_overlay:spec()) -> ok.
join(Spec) -> gen_server:call(?MODULE, {event, {join, Spec}}, infinity).

-spec leave(node()) -> ok.
leave(Node) -> gen_server:call(?MODULE, {event, {leave, Node}}, infinity).

%% Takes Node out, and closes the connection with it behind what was sent, whatever the overlay does
%% with connections of nodes that are no members.
-spec part(node()) -> ok.
part(Node) -> gen_server:call(?MODULE, {part, Node}, infinity).

%% A question to the core, see partisan_overlay:event().
-spec call(term(), timeout()) -> term().
call(Question, Timeout) -> gen_server:call(?MODULE, {ask, Question}, Timeout).

%% Until Node is a neighbour.
-spec await(node(), non_neg_integer()) -> ok | {error, timeout}.
await(Node, Timeout) ->
    gen_server:call(?MODULE, {await, Node, Timeout}, infinity).

%% Runs another manager's overlay from now on, which joins Contact (if that is another node).
%% See partisan_overlay_switch.
-spec switch(module(), node()) -> ok | {error, Line :: string()}.
switch(Manager, Contact) -> gen_server:call(?MODULE, {switch, Manager, Contact}, infinity).

%% ------------------------------------------------------------------------------------------------
%% For anybody

-spec manager() -> {ok, module()} | {error, notalive}.
manager() -> read(manager).

-spec members() -> {ok, [partisan_overlay:spec()]} | {error, notalive}.
members() -> read(members).

%% Nodes that the overlay has links with, in use.
-spec neighbours() -> {ok, [node()]} | {error, notalive}.
neighbours() -> read(neighbours).

-spec is_neighbour(node()) -> boolean().
is_neighbour(Node) ->
    try ets:member(?TABLE, {neighbour, Node})
    catch error:badarg -> false
    end.

read(Key) ->
    try {ok, ets:lookup_element(?TABLE, Key, 2)}
    catch error:badarg -> {error, notalive}
    end.

%% The way of a message to Node that has no link with us: over which neighbour.
-spec route(node()) -> {ok, node()} | none.
route(Node) ->
    try ets:lookup(?TABLE, {route, Node}) of
        [{_, Via}] ->
            {ok, Via};
        [] ->
            case ets:lookup(?TABLE, {route, default}) of
                [{_, Via}] -> {ok, Via};
                [] -> none
            end
    catch
        error:badarg -> none
    end.

%% All of them.
-spec routes() -> [{node() | default, Via :: node()}].
routes() ->
    try [{Node, Via} || [Node, Via] <- ets:match(?TABLE, {{route, '$1'}, '$2'})]
    catch error:badarg -> []
    end.

%% Whether a message to Node goes over a connection with it, or from neighbour to neighbour. In an
%% overlay with routes only neighbours' connections stay: any other may be on its way down, and what
%% is sent over it then is lost. What the overlay has no way to is not its business, nor is a
%% connection that a user of a client (which knows no names but its servers') made.
-spec way(node()) -> direct | relay.
way(Node) ->
    case persistent_term:get(?ROUTED, false) andalso not is_neighbour(Node) of
        false -> direct;
        true -> way_beyond(Node)
    end.

way_beyond(Node) ->
    try ets:member(?TABLE, {route, Node}) of
        true ->
            relay;
        false ->
            case ets:member(?TABLE, {route, default}) andalso not lists:member(Node, nodes()) of
                true -> relay;
                false -> direct
            end
    catch
        error:badarg -> direct
    end.

%% The core's own picture of its state.
-spec info() -> partisan_overlay:info().
info() -> gen_server:call(?MODULE, info).

%% Message to the manager on Node (its receive_message/3).
-spec send_to_manager(node(), term()) -> ok | {error, not_yet_connected | disconnected}.
send_to_manager(Node, Message) ->
    case erlang:send({?MODULE, Node}, {partisan_manager, node(), Message}, [noconnect]) of
        ok -> ok;
        noconnect -> {error, not_yet_connected}
    end.

%% ------------------------------------------------------------------------------------------------

init(Manager) ->
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    %% An error only while net_kernel does not run; without a name there are no other nodes.
    _ = net_kernel:monitor_nodes(true, [{node_type, all}, nodedown_reason]),
    Self = partisan_node_spec:own(),
    true = ets:insert(?TABLE, [{manager, Manager}, {members, [Self]}, {neighbours, []}]),
    case start_core(Manager, Self) of
        {ok, Core, Kind, State, Effects} ->
            St = #st{name = maps:get(name, Self), manager = Manager, core = Core, kind = Kind,
                     state = State},
            {ok, St, {continue, {first, Effects}}};
        {error, Line} ->
            ?LOG_ERROR("~ts", [Line]),
            {stop, {bad_option, Line}}
    end.

start_core(Manager, Self) ->
    #{core := Core, links := Kind, config := Config} = Manager:overlay(),
    Kind =:= visible orelse partisan_manager:partial(Manager),
    try Core:init(Self, Config, now_ms(), rand:seed_s(exsss)) of
        {State, Effects} -> {ok, Core, Kind, State, Effects}
    catch
        error:{bad_option, Key, Value, Expected} ->
            {error, lists:flatten(io_lib:format("partisan: bad option ~p: ~0tp (~ts)",
                                                [Key, Value, Expected]))}
    end.

handle_continue({first, Effects}, St) ->
    {noreply, lists:foldl(fun node_up/2, effects(Effects, St), nodes(connected))}.

handle_call({event, Event}, _From, St) ->
    {reply, ok, event(Event, St)};
handle_call({part, Node}, _From, St0) ->
    St = event({leave, Node}, St0),
    case St#st.links of
        #{Node := _} -> {reply, ok, effects([{disconnect, Node}], St)};
        #{} -> {reply, ok, St}
    end;
handle_call({ask, Question}, From, St) ->
    {noreply, event({call, From, Question}, St)};
handle_call({await, Node, _}, _From, #st{neighbours = Neighbours} = St)
  when is_map_key(Node, Neighbours) ->
    {reply, ok, St};
handle_call({await, Node, Timeout}, From, #st{waiting = Waiting} = St) ->
    _ = erlang:send_after(Timeout, self(), {awaited, From}),
    {noreply, St#st{waiting = [{Node, From} | Waiting]}};
handle_call({switch, Manager, _Contact}, _From, #st{manager = Manager} = St) ->
    {reply, ok, St};
handle_call({switch, Manager, Contact}, _From, St) ->
    case start_core(Manager, partisan_node_spec:own()) of
        {ok, Core, Kind, State, Effects} ->
            ?LOG_NOTICE("partisan: the overlay is ~ts from now on", [Manager]),
            {reply, ok, switched(Contact, Effects, St#st{manager = Manager, core = Core, kind = Kind,
                                                         state = State, settling = owned(St)})};
        {error, _} = Error ->
            {reply, Error, St}
    end;
handle_call(info, _From, #st{core = Core, state = State} = St) ->
    {reply, Core:info(State), St};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast(_Request, St) ->
    {noreply, St}.

handle_info({partisan_overlay, From, Core, Term}, #st{core = Core, links = Links} = St) ->
    case Links of
        #{From := #link{state = dialing}} -> {noreply, event({msg, From, Term}, node_up(From, St))};
        #{From := _} -> {noreply, event({msg, From, Term}, St)};
        #{} -> {noreply, first_word(From, Term, St)}
    end;
handle_info({partisan_overlay, From, Core, _Term}, #st{settling = none} = St) ->
    {noreply, stranger(From, Core, St)};
handle_info({partisan_overlay, _From, _Core, _Term}, St) ->
    {noreply, St}; % it has switched already, or not yet
handle_info({switch_join, Manager, Contact}, #st{manager = Manager} = St) ->
    {noreply, event({join, #{name => Contact}}, St)};
handle_info({switch_settled, Manager}, #st{manager = Manager, settling = #{}} = St) ->
    {noreply, settled(St)};
handle_info({awaited, From}, #st{waiting = Waiting} = St) ->
    case lists:keytake(From, 2, Waiting) of
        {value, _, Rest} ->
            gen_server:reply(From, {error, timeout}),
            {noreply, St#st{waiting = Rest}};
        false ->
            {noreply, St}
    end;
%% The node got a name, or another one: to the overlay that is another node.
handle_info({nodeup, Node, _Info}, #st{name = Name} = St) when Node =:= node(), Node =/= Name ->
    {stop, {shutdown, renamed}, St};
handle_info({nodeup, Node, _Info}, St) when Node =:= node() ->
    {noreply, St};
handle_info({nodeup, Node, Info}, St) ->
    case speaks_first(Node, Info, St) of
        true -> {noreply, St};
        false -> {noreply, node_up(Node, St)}
    end;
handle_info({nodedown, Name, _Info}, #st{name = Name} = St) ->
    {stop, {shutdown, renamed}, St};
handle_info({nodedown, Node, Info}, St) ->
    {noreply, node_down(Node, proplists:get_value(nodedown_reason, Info, connection_closed), St)};
handle_info({partisan_link, Pid, Node, Result}, St) ->
    {noreply, dialed(Pid, Node, Result, St)};
handle_info({timeout, Ref, {timer, Name}}, #st{timers = Timers} = St) ->
    case Timers of
        #{Name := Ref} -> {noreply, event({timer, Name}, St#st{timers = maps:remove(Name, Timers)})};
        #{} -> {noreply, St} % cancelled or restarted when it had its message out already
    end;
handle_info({partisan_overlay_flush, Pid, Ref}, St) ->
    _ = erlang:send(Pid, {partisan_overlay_flushed, Ref}, [noconnect, nosuspend]),
    {noreply, St};
handle_info({partisan_overlay_ping, Pid, Ref}, St) ->
    _ = erlang:send(Pid, {partisan_overlay_pong, Ref}, [noconnect, nosuspend]),
    {noreply, St};
handle_info({latency, Node, Time}, St) ->
    {noreply, event({latency, Node, Time}, St)};
handle_info({partisan_manager, From, Message}, #st{manager = Manager} = St) ->
    _ = spawn(fun() -> Manager:receive_message(From, undefined, Message) end),
    {noreply, St};
handle_info(_Message, St) ->
    {noreply, St}.

%% Two managers in one cluster do not understand each other: one line for each such node.
stranger(From, Core, #st{core = Own, strangers = Strangers} = St) ->
    is_map_key(From, Strangers) orelse
        ?LOG_WARNING("partisan: ~ts runs overlay ~ts, this node ~ts: give both the same "
                     "peer_service_manager", [From, Core, Own]),
    St#st{strangers = Strangers#{From => []}}.

%% ------------------------------------------------------------------------------------------------
%% Events in, effects out

event(Event, #st{core = Core, state = State0} = St) ->
    {State, Effects} = Core:handle(Event, now_ms(), State0),
    effects(Effects, St#st{state = State}).

%% Events that effects bring about come after the last effect, in their order.
effects(Effects, St0) ->
    {Events, St} = lists:foldl(fun(Effect, {Acc, St1}) ->
                                       case effect(Effect, St1) of
                                           {event, Event, St2} -> {[Event | Acc], St2};
                                           St2 -> {Acc, St2}
                                       end
                               end, {[], St0}, Effects),
    lists:foldl(fun event/2, St, lists:reverse(Events)).

effect({send, Node, Term}, #st{links = Links, core = Core} = St) ->
    case Links of
        #{Node := #link{state = closing}} ->
            St;
        #{Node := #link{link = Link} = Entry} ->
            case partisan_overlay_link:send(Link, {partisan_overlay, node(), Core, Term}) of
                ok ->
                    St;
                overrun -> % what follows, until the connection is gone, is not said one by one
                    ?LOG_WARNING("partisan: ~ts does not take what the overlay sends it: closing "
                                 "the connection", [Node]),
                    partisan_overlay_link:stop(Link),
                    _ = erlang:disconnect_node(Node),
                    St#st{links = Links#{Node := Entry#link{state = closing}}}
            end;
        #{} ->
            St
    end;
effect({connect, #{name := Node} = Spec}, #st{links = Links, given_up = GivenUp} = St) ->
    case Links of
        #{Node := #link{state = up}} ->
            {event, {up, Node}, St#st{settling = wanted(Node, St)}};
        #{Node := #link{state = dialing}} ->
            St#st{settling = wanted(Node, St)};
        #{Node := #link{state = closing} = Link} ->
            St#st{links = Links#{Node := Link#link{again = Spec}}, settling = wanted(Node, St)};
        #{} ->
            Link = partisan_overlay_link:start(Spec, dial, St#st.kind, ?MODULE),
            St#st{links = Links#{Node => #link{state = dialing, link = Link}},
                  given_up = maps:remove(Node, GivenUp)}
    end;
effect({disconnect, Node}, #st{links = Links, given_up = GivenUp} = St) ->
    case Links of
        #{Node := #link{state = up, link = Link} = Entry} ->
            partisan_overlay_link:close(Link),
            St#st{links = Links#{Node := Entry#link{state = closing}}};
        #{Node := #link{state = closing} = Entry} ->
            St#st{links = Links#{Node := Entry#link{again = none}}};
        #{Node := #link{state = dialing}} ->
            {event, {down, Node, given_up},
             St#st{links = maps:remove(Node, Links), given_up = GivenUp#{Node => []}}};
        #{} ->
            {event, {down, Node, not_connected}, St}
    end;
effect({timer, Name, Ms}, #st{timers = Timers} = St) ->
    stop_timer(Name, Timers),
    St#st{timers = Timers#{Name => erlang:start_timer(Ms, self(), {timer, Name})}};
effect({cancel, Name}, #st{timers = Timers} = St) ->
    stop_timer(Name, Timers),
    St#st{timers = maps:remove(Name, Timers)};
effect({measure, Spec}, St) ->
    partisan_overlay_ping:start(Spec, ?MODULE),
    St;
effect({members, Specs}, St) ->
    true = ets:insert(?TABLE, {members, Specs}),
    partisan_peer_service_events:update(Specs),
    St;
effect({notify, {neighbour_up, #{name := Node}} = Notice},
       #st{neighbours = Neighbours, settling = #{} = Settling} = St0)
  when is_map_key(Node, Settling) ->
    St = St0#st{settling = maps:remove(Node, Settling)},
    case Neighbours of
        #{Node := _} -> St; % one it was, and one it stays
        #{} -> effect({notify, Notice}, St)
    end;
effect({notify, {neighbour_up, #{name := Node}} = Notice}, #st{waiting = Waiting} = St) ->
    {Now, Later} = lists:partition(fun({Name, _}) -> Name =:= Node end, Waiting),
    St1 = neighbours(fun(Neighbours) -> Neighbours#{Node => []} end, St#st{waiting = Later}),
    lists:foreach(fun({_, From}) -> gen_server:reply(From, ok) end, Now),
    partisan_peer_watch:notify(Notice),
    St1;
effect({notify, {neighbour_down, Node, _}}, #st{neighbours = Neighbours} = St)
  when not is_map_key(Node, Neighbours) ->
    St; % it went while a switch was settling
effect({notify, {neighbour_down, Node, _} = Notice}, St) ->
    partisan_peer_watch:notify(Notice),
    neighbours(fun(Neighbours) -> maps:remove(Node, Neighbours) end, St);
effect({notify, Notice}, St) ->
    partisan_peer_watch:notify(Notice),
    St;
effect({routes, Add, Remove}, St) ->
    _ = [ets:delete(?TABLE, {route, Node}) || Node <- Remove],
    true = ets:insert(?TABLE, [{{route, Node}, Via} || {Node, Via} <- Add]),
    persistent_term:get(?ROUTED, false) orelse routed(),
    partisan_relay_lanes:changed(),
    St;
effect({ways, Map}, St) ->
    partisan_relay_lanes:ways(Map),
    St;
effect({reply, From, Answer}, St) ->
    gen_server:reply(From, Answer),
    St;
effect({malformed, Node}, #st{malformed = Last} = St) ->
    case now_ms() of
        Now when Last =:= none; Now - Last > ?LINE_MS ->
            ?LOG_WARNING("partisan: dropped a message of ~ts that this version of the overlay cannot "
                         "take: do all nodes run the same version of partisan?", [Node]),
            St#st{malformed = Now};
        _ ->
            St
    end;
effect({log, Level, Format, Args}, St) ->
    ?LOG(Level, Format, Args),
    St.

routed() ->
    ok = persistent_term:put(?ROUTED, true),
    partisan_send:settle().

stop_timer(Name, Timers) ->
    case Timers of
        #{Name := Ref} -> _ = erlang:cancel_timer(Ref), ok;
        #{} -> ok
    end.

neighbours(Change, #st{neighbours = Old} = St) ->
    New = Change(Old),
    true = ets:insert(?TABLE, [{neighbours, lists:sort(maps:keys(New))}
                               | [{{neighbour, Node}} || Node <- maps:keys(New),
                                                         not is_map_key(Node, Old)]]),
    _ = [ets:delete(?TABLE, {neighbour, Node}) || Node <- maps:keys(Old), not is_map_key(Node, New)],
    partisan_relay_lanes:changed(),
    St#st{neighbours = New}.

%% ------------------------------------------------------------------------------------------------
%% Another overlay. Links stay until the new one has made its own, and are closed then if it does
%% not use them; what the old core wanted (timers, routes) goes at once.

%% What the old overlay would have closed, now or some time: its neighbours, dials, and links that its
%% core keeps for a while without using them (HyParView, to let what is under way arrive). Timers of that
%% core will not fire any more, so nobody else would ever close those.
owned(#st{core = Core, state = State, links = Links, neighbours = Neighbours, settling = Settling}) ->
    Kept = [Node || {Node, _} <- maps:get(links, Core:info(State), [])]
        ++ [Node || {Node, #link{state = dialing}} <- maps:to_list(Links)]
        ++ [Node || Settling =/= none, {Node, link} <- maps:to_list(Settling)],
    Open = maps:filter(fun(_, #link{state = Is}) -> Is =/= closing end, Links),
    maps:merge(maps:with(Kept, maps:map(fun(_, _) -> link end, Open)),
               maps:map(fun(_, _) -> neighbour end, Neighbours)).

%% Asked for by the new overlay, which closes it itself if it does not keep it. What is said of
%% neighbours is still to be said.
wanted(Node, #st{settling = Settling}) when map_get(Node, Settling) =:= link -> maps:remove(Node, Settling);
wanted(_Node, #st{settling = Settling}) -> Settling.

switched(Contact, Effects, #st{timers = Timers, links = Links, manager = Manager} = St0) ->
    lists:foreach(fun(Name) -> stop_timer(Name, Timers) end, maps:keys(Timers)),
    true = ets:match_delete(?TABLE, {{route, '_'}, '_'}),
    true = ets:insert(?TABLE, {manager, Manager}),
    partisan_relay_lanes:ways(none),
    St1 = effects(Effects, St0#st{timers = #{}, strangers = #{}}),
    St2 = lists:foldl(fun(Node, Acc) -> event({up, Node}, Acc) end, St1,
                      [Node || {Node, #link{state = up}} <- lists:sort(maps:to_list(Links))]),
    Contact =:= node() orelse
        erlang:send_after(?SWITCH_JOIN, self(), {switch_join, Manager, Contact}),
    _ = erlang:send_after(?SWITCH_SETTLE, self(), {switch_settled, Manager}),
    St2.

settled(#st{settling = Left} = St0) ->
    lists:foldl(fun({Node, neighbour}, St) ->
                        effects([{notify, {neighbour_down, Node, overlay_changed}},
                                 {disconnect, Node}], St);
                   ({Node, link}, St) ->
                        effects([{disconnect, Node}], St)
                end, St0#st{settling = none}, lists:sort(maps:to_list(Left))).

%% ------------------------------------------------------------------------------------------------
%% Connections

%% A hidden node that was not dialled from here may be anything: a C node, erl_call, a shell. One that
%% answers to no greeting may well fall over it (erl_call takes the first message for its result), so
%% it gets none before it has said something itself; an overlay that dialled does.
speaks_first(Node, Info, #st{links = Links, given_up = GivenUp}) ->
    proplists:get_value(node_type, Info) =:= hidden
        andalso not is_map_key(Node, Links) andalso not is_map_key(Node, GivenUp)
        andalso not lists:any(fun(#{name := Name}) -> Name =:= Node end,
                              ets:lookup_element(?TABLE, members, 2)).

%% From a node without a link: one that was not greeted, or one that was given up.
first_word(From, Term, St) ->
    case lists:member(From, nodes(hidden)) of
        true ->
            case node_up(From, St) of
                #st{links = #{From := _}} = St1 -> event({msg, From, Term}, St1);
                St1 -> St1
            end;
        false ->
            St
    end.

node_up(Node, #st{links = Links, given_up = GivenUp} = St) ->
    case Links of
        #{Node := #link{state = dialing} = Link} ->
            event({up, Node}, St#st{links = Links#{Node := Link#link{state = up}}});
        #{Node := _} ->
            St;
        #{} when is_map_key(Node, GivenUp), St#st.kind =:= hidden ->
            _ = erlang:disconnect_node(Node), % our own dial, given up meanwhile
            St;
        #{} ->
            Link = partisan_overlay_link:start(#{name => Node}, up, St#st.kind, ?MODULE),
            event({up, Node}, St#st{links = Links#{Node => #link{state = up, link = Link}},
                                    given_up = maps:remove(Node, GivenUp)})
    end.

node_down(Node, Reason, #st{links = Links} = St) ->
    case Links of
        #{Node := #link{state = dialing}} ->
            St; % a connection of before; the dial has an end of its own
        #{Node := #link{link = Link, again = Again}} ->
            partisan_overlay_link:stop(Link),
            St0 = not_settling(Node, Reason, St#st{links = maps:remove(Node, Links)}),
            St1 = event({down, Node, Reason}, St0),
            case Again of
                none -> St1;
                Spec -> effects([{connect, Spec}], St1)
            end;
        #{} ->
            St
    end.

%% A neighbour of the old overlay that the new one does not know.
not_settling(Node, Reason, #st{settling = Settling} = St) when map_get(Node, Settling) =:= neighbour ->
    effects([{notify, {neighbour_down, Node, Reason}}], St#st{settling = maps:remove(Node, Settling)});
not_settling(Node, _Reason, #st{settling = Settling} = St) when map_get(Node, Settling) =:= link ->
    St#st{settling = maps:remove(Node, Settling)};
not_settling(_Node, _Reason, St) ->
    St.

dialed(Pid, Node, Result, #st{links = Links, given_up = GivenUp, kind = Kind} = St) ->
    case Links of
        #{Node := #link{state = State, link = Link}} ->
            case partisan_overlay_link:pid(Link) of
                Pid when State =:= dialing -> dialed(Node, Result, St);
                Pid -> St;
                _ -> end_dial(Pid, St) % one that was given up before this one began
            end;
        #{} ->
            Result =:= connected andalso is_map_key(Node, GivenUp) andalso Kind =:= hidden
                andalso erlang:disconnect_node(Node),
            end_dial(Pid, St#st{given_up = maps:remove(Node, GivenUp)})
    end.

%% Connected: nodeup is on the way, unless the connection is gone again.
dialed(Node, Result, #st{links = Links} = St) ->
    case Result =:= connected andalso lists:member(Node, nodes(connected)) of
        true ->
            node_up(Node, St);
        false ->
            #{Node := #link{link = Link}} = Links,
            partisan_overlay_link:stop(Link),
            Reason = case Result of
                         connected -> connection_closed;
                         _ -> Result
                     end,
            event({down, Node, Reason}, St#st{links = maps:remove(Node, Links)})
    end.

end_dial(Pid, St) ->
    unlink(Pid),
    exit(Pid, kill),
    St.

now_ms() -> erlang:monotonic_time(millisecond).
