%% Relay by the carrier: the channel over which neighbours hand each other messages for other nodes,
%% and the table by which the carrier passes them on, from lane to lane and without decoding them
%% (c_src/vm/relay.h). This process opens the channels and makes the table; messages go past it.
%%
%% A message comes here only where the carrier cannot pass it on, since there is no such channel with
%% the next neighbour. Either there will be one in a moment: the message is held, and goes before any
%% that follow it. Or the neighbour has no relay of this kind (an older version, another carrier): the
%% message is decoded and goes by partisan_relay.
%%
%% The way of a message is the overlay's route; where that neighbour's connection is gone, the next best
%% neighbours follow at once, for as long as the overlay takes to find out.
-module(partisan_relay_lanes).

-behaviour(gen_server).

-export([start_link/0, changed/0, ways/1, send/5, counters/0, info/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2, open/1]).

-include_lib("kernel/include/logger.hrl").

-define(TABLE, ?MODULE).        % neighbours that are known to have no relay channel
-define(ON, {?MODULE, on}).
-define(CHANNEL, '$partisan_relay').
-define(OPEN_MS, 5000).
-define(AGAIN_MS, 10000).       % until a neighbour that has no relay channel is asked again
-define(HELD, 1024).            % messages for one neighbour
-define(WAYS, 4).               % PT_ROUTES_WAYS
-define(ROUNDS, 20).            % of messages that a new table waits for

-record(st, {map = none :: none | partisan_route:t(),
             ways = #{} :: #{node() => [node()]},  % of the map, best first
             asked = false :: boolean(),           % a channel was opened: we are to relay
             dirty = false :: boolean(),
             openers = #{} :: #{reference() => node()},
             refused = #{} :: #{node() => []},
             held = #{} :: #{node() => {non_neg_integer(), [binary()]}}, % latest first
             waiting = #{} :: #{node() => [gen_server:from()]}}).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% The overlay's neighbours or routes are others than before.
-spec changed() -> ok.
changed() ->
    gen_server:cast(?MODULE, changed).

%% What the overlay knows beyond its routes; `none`: nothing any more.
-spec ways(partisan_route:t() | none) -> ok.
ways(Map) ->
    gen_server:cast(?MODULE, {ways, Map}).

%% Towards Node; `none`: not by the carrier. Where the next neighbour's channel is full the caller
%% waits, as on any channel: `timeout` and `nosuspend` of Opts are those of partisan_channel:send/5.
-spec send(node(), partisan_send:server_ref(), term(), non_neg_integer(), map()) ->
          ok | none | {error, busy | timeout | system_limit}.
send(Node, Dest, Message, Hops, Opts) when is_pid(Dest); is_atom(Dest); is_reference(Dest) ->
    case persistent_term:get(?ON, false) of
        true ->
            Signal = {partisan_channel:control(Dest), Message},
            send(atom_to_binary(Node, utf8), Node, max(1, min(255, Hops)), Signal, Opts, true);
        false ->
            none
    end;
send(_Node, _Dest, _Message, _Hops, _Opts) ->
    none.

send(Name, Node, Hops, Signal, Opts, MayWait) ->
    case partisan_nif:relay_send_term(Name, Hops, Signal) of
        ok ->
            ok;
        none when MayWait ->
            case to_be_opened(Node) of
                {true, _} when map_get(nosuspend, Opts) =:= true ->
                    {error, busy};
                {true, Via} ->
                    await(Via),
                    send(Name, Node, Hops, Signal, Opts, false);
                false ->
                    none
            end;
        none ->
            none;
        system_limit ->
            {error, system_limit};
        _ -> % large, or there is no room
            Data = erlang:term_to_iovec(Signal),
            partisan_channel:wait_for_room(
              fun(Wait) -> queue(Name, Hops, Data, Wait) end, Opts)
    end.

queue(Name, Hops, Data, Wait) ->
    case partisan_nif:relay_send(Name, Hops, Data, Wait) of
        flatten -> queue(Name, Hops, [iolist_to_binary(Data)], Wait);
        Other -> Other
    end.

to_be_opened(Node) ->
    case partisan_overlay_shell:route(Node) of
        {ok, Via} ->
            try ets:member(?TABLE, Via) of
                true -> false;
                false -> {true, Via}
            catch
                error:badarg -> false
            end;
        none ->
            false
    end.

%% Until that neighbour's channel is open, or it is known that there is none: every opening ends.
await(Via) ->
    try gen_server:call(?MODULE, {await, Via}, infinity)
    catch exit:_ -> ok
    end.

%% What the carrier did and dropped; see partisan_relay:counters/0.
-spec counters() -> #{atom() => non_neg_integer()}.
counters() ->
    case persistent_term:get(?ON, false) of
        true -> maps:filter(fun(_, N) -> N > 0 end, maps:remove(routes, partisan_nif:relay_info()));
        false -> #{}
    end.

%% Neighbours with a relay channel, and those that have none for now; messages that wait for a channel;
%% for each node the neighbours that lead to it, if the overlay knows.
-spec info() -> #{open := [node()], without := [node()], held := non_neg_integer(),
                  ways := #{node() => [node()]}}.
info() ->
    gen_server:call(?MODULE, info).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    process_flag(trap_exit, true),
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    persistent_term:put(?ON, false),
    %% Another one's table may be there yet, and its messages are not ours.
    _ = is_on() andalso table(<<>>, [], true),
    {ok, dirty(#st{})}.

handle_call({await, Via}, From, St0) ->
    %% What was thought to be open may be closed again.
    #st{openers = Openers, waiting = Waiting} = St = rebuild(St0#st{dirty = false}),
    case lists:member(Via, maps:values(Openers)) of
        true -> {noreply, St#st{waiting = Waiting#{Via => [From | maps:get(Via, Waiting, [])]}}};
        false -> {reply, ok, St}
    end;
handle_call(info, _From, St0) ->
    #st{ways = Ways, refused = Refused, held = Held} = St = up_to_date(St0),
    {reply, #{open => [N || N <- near(), handle(N) =/= none], without => maps:keys(Refused),
              held => lists:sum([N || {N, _} <- maps:values(Held)]), ways => Ways}, St};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast(changed, St) ->
    {noreply, dirty(St)};
handle_cast({ways, none}, St) ->
    {noreply, dirty(St#st{map = none, ways = #{}, asked = false})};
handle_cast({ways, Map}, St) ->
    {noreply, dirty(St#st{map = Map, ways = #{}})};
handle_cast(_Request, St) ->
    {noreply, St}.

handle_info(rebuild, St) ->
    {noreply, up_to_date(St)};
handle_info({partisan_relay_frame, Frame}, St) ->
    {noreply, taken(Frame, St)};
handle_info({partisan_relay_dropped, Why, Name}, St) ->
    partisan_relay:log_dropped(Why, Name),
    {noreply, St};
handle_info({partisan_channel_opened, _Node}, St) ->
    {noreply, dirty(St#st{asked = true})};
handle_info({'DOWN', Ref, process, _, Result}, #st{openers = Openers} = St) ->
    case maps:take(Ref, Openers) of
        {Node, Rest} -> {noreply, opened(Node, Result, St#st{openers = Rest})};
        error -> {noreply, St}
    end;
handle_info({again, Node}, #st{refused = Refused} = St) ->
    {noreply, dirty(St#st{refused = maps:remove(Node, Refused)})};
handle_info(_Message, St) ->
    {noreply, St}.

terminate(_Reason, _St) ->
    persistent_term:put(?ON, false),
    ok = partisan_channel_conf:relay(none),
    is_on() andalso table(<<>>, [], true).

%% Several changes that are in the mailbox make one table.
dirty(#st{dirty = true} = St) ->
    St;
dirty(St) ->
    self() ! rebuild,
    St#st{dirty = true}.

up_to_date(#st{dirty = true} = St) -> rebuild(St#st{dirty = false});
up_to_date(St) -> St.

is_on() -> partisan_transport:kind() =:= channels.

%% ------------------------------------------------------------------------------------------------
%% The table

rebuild(St0) ->
    case is_on() of
        true ->
            persistent_term:get(?ON) orelse persistent_term:put(?ON, true),
            ok = partisan_channel_conf:relay({?CHANNEL, self()}),
            Near = near(),
            Routes = partisan_overlay_shell:routes(),
            Open = maps:from_list([{N, H} || N <- Near, {ok, H} <- [handle(N)]]),
            St1 = settle(Near, Open, St0),
            %% In an overlay without routes, which is a full mesh, there is nothing to be opened.
            St2 = case Routes =/= [] orelse St1#st.map =/= none orelse St1#st.asked of
                      true -> open(Near -- maps:keys(Open), St1);
                      false -> St1
                  end,
            St = set(Near, Routes, Open, with_ways(release(Open, St2))),
            without(St),
            St;
        false ->
            St0
    end.

near() ->
    case partisan_overlay_shell:neighbours() of
        {ok, Near} -> Near;
        {error, notalive} -> []
    end.

without(#st{refused = Refused}) ->
    Known = [Node || {Node} <- ets:tab2list(?TABLE)],
    _ = [ets:delete(?TABLE, Node) || Node <- Known, not is_map_key(Node, Refused)],
    true = ets:insert(?TABLE, [{Node} || Node <- maps:keys(Refused)]).

%% The row of one that was closed may stay for a moment.
handle(Node) ->
    case partisan_channel_srv:lookup(Node, ?CHANNEL) of
        {_, Handle, _, _, _} when is_reference(Handle) ->
            case partisan_nif:channel_is_open(Handle) of
                true -> {ok, Handle};
                false -> none
            end;
        _ ->
            none
    end.

with_ways(#st{map = Map, ways = Ways} = St) when Map =/= none, map_size(Ways) =:= 0 ->
    St#st{ways = partisan_route:alternatives(Map)};
with_ways(St) ->
    St.

set(Near, Routes, Open, #st{ways = Ways} = St) ->
    Names = maps:keys(Open),
    Index = maps:from_list(lists:zip(Names, lists:seq(0, length(Names) - 1))),
    IsNear = maps:from_list([{Node, []} || Node <- Near]),
    Entries = [entry(Node, Node, maps:get(Node, Ways, []), Index) || Node <- Near]
        ++ [entry(Dest, Via, beside(Dest, Near, Ways), Index) || {Dest, Via} <- Routes,
                                                                 not is_map_key(Dest, IsNear)],
    table(iolist_to_binary(Entries), [map_get(N, Open) || N <- Names], ?ROUNDS, St).

beside(default, Near, _Ways) -> Near;
beside(Dest, _Near, Ways) -> maps:get(Dest, Ways, []).

%% Others only stand in for a neighbour that has a channel: a message for one that has none yet waits
%% for it, and one that never will have is Erlang's.
entry(Dest, Via, Others, Index) ->
    Hops = case Index of
               #{Via := _} ->
                   lists:sublist([I || N <- [Via | lists:delete(Via, Others)],
                                       {ok, I} <- [maps:find(N, Index)]], ?WAYS);
               #{} ->
                   []
           end,
    Name = case Dest of
               default -> <<>>;
               _ -> atom_to_binary(Dest, utf8)
           end,
    [<<(byte_size(Name)):16>>, Name, length(Hops), [<<I:16>> || I <- Hops]].

%% Messages that were handed to us go first.
table(Entries, Handles, Rounds, St) ->
    case table(Entries, Handles, Rounds =:= 0) of
        ok -> St;
        again -> table(Entries, Handles, Rounds - 1, take_all(St));
        system_limit ->
            _ = erlang:send_after(100, self(), rebuild),
            St#st{dirty = true}
    end.

table(Entries, Handles, Force) ->
    partisan_nif:relay_set(atom_to_binary(node(), utf8), Handles, Entries, Force).

take_all(St) ->
    receive {partisan_relay_frame, Frame} -> take_all(taken(Frame, St))
    after 0 -> St
    end.

%% ------------------------------------------------------------------------------------------------
%% Channels

open(Nodes, #st{openers = Openers, refused = Refused} = St) ->
    UnderWay = maps:values(Openers),
    New = [{opener(Node), Node} || Node <- Nodes, not is_map_key(Node, Refused),
                                   not lists:member(Node, UnderWay)],
    St#st{openers = maps:merge(Openers, maps:from_list(New))}.

opener(Node) ->
    {_, Ref} = spawn_monitor(?MODULE, open, [Node]),
    Ref.

%% Run by a process of its own, whose reason says what became of it.
-spec open(node()) -> no_return().
open(Node) ->
    Stale = case partisan_channel_srv:lookup(Node, ?CHANNEL) of
                {_, Handle, _, _, _} when is_reference(Handle) -> Handle;
                _ -> none
            end,
    exit({opened, partisan_channel_srv:open(Node, ?CHANNEL, Stale, ?OPEN_MS)}).

opened(Node, {opened, ok}, St) ->
    no_more(Node, St);
opened(Node, _Failed, #st{refused = Refused} = St) ->
    _ = erlang:send_after(?AGAIN_MS, self(), {again, Node}),
    no_more(Node, St#st{refused = Refused#{Node => []}}).

%% The channel is there, or will not be for a while: who waited goes by the table that says so.
no_more(Node, St0) ->
    St1 = case handle(Node) of
              {ok, _} -> St0;
              none -> release(#{Node => none}, St0)
          end,
    #st{waiting = Waiting} = St = rebuild(St1),
    _ = [gen_server:reply(From, ok) || From <- maps:get(Node, Waiting, [])],
    St#st{waiting = maps:remove(Node, Waiting)}.

%% Neighbours that are none any more are forgotten, and may ask again when they are back.
settle(Near, Open, #st{held = Held, refused = Refused} = St) ->
    Gone = [N || N <- maps:keys(Held), not lists:member(N, Near), not is_map_key(N, Open)],
    St1 = release(maps:from_list([{N, none} || N <- Gone]), St),
    St1#st{refused = maps:with(Near -- maps:keys(Open), Refused)}.

%% ------------------------------------------------------------------------------------------------
%% Messages that the carrier handed to us

taken(Frame, St) ->
    Next = frame(Frame, St),
    ok = partisan_nif:relay_taken(),
    Next.

frame(Frame, #st{held = Held, refused = Refused} = St) ->
    case next(Frame) of
        {ok, Node, Via} ->
            case handle(Via) of
                {ok, Handle} when not is_map_key(Via, Held) ->
                    hand_on(Handle, Node, Frame),
                    St;
                {ok, _} ->
                    dirty(hold(Node, Via, Frame, St));
                none when is_map_key(Via, Refused) ->
                    by_erlang(Node, Frame),
                    St;
                none ->
                    hold(Node, Via, Frame, open([Via], St))
            end;
        {error, Name} ->
            partisan_relay:dropped(no_route, Name),
            St
    end.

%% By a neighbour, or where it has none the route.
next(<<$r, 1, _Hops, _Id:24/binary, Size:16, Name:Size/binary, _/binary>>) ->
    try binary_to_existing_atom(Name, utf8) of
        Node ->
            case partisan_overlay_shell:is_neighbour(Node) of
                true -> {ok, Node, Node};
                false ->
                    case partisan_overlay_shell:route(Node) of
                        {ok, Via} -> {ok, Node, Via};
                        none -> {error, Name}
                    end
            end
    catch
        error:_ -> {error, Name}
    end.

hold(Node, Via, Frame, #st{held = Held} = St) ->
    case Held of
        #{Via := {N, _}} when N >= ?HELD ->
            partisan_relay:dropped(overrun, Node),
            St;
        #{Via := {N, Frames}} ->
            St#st{held = Held#{Via := {N + 1, [Frame | Frames]}}};
        #{} ->
            St#st{held = Held#{Via => {1, [Frame]}}}
    end.

%% Handles: of those that are to wait no longer; `none`: without a channel.
release(Handles, #st{held = Held} = St) ->
    Ready = maps:with(maps:keys(Handles), Held),
    maps:foreach(fun(Via, {_, Frames}) ->
                         lists:foreach(fun(Frame) -> released(map_get(Via, Handles), Frame) end,
                                       lists:reverse(Frames))
                 end, Ready),
    St#st{held = maps:without(maps:keys(Ready), Held)}.

released(Handle, Frame) ->
    case next(Frame) of
        {ok, Node, _} when is_reference(Handle) -> hand_on(Handle, Node, Frame);
        {ok, Node, _} -> by_erlang(Node, Frame);
        {error, Name} -> partisan_relay:dropped(no_route, Name)
    end.

hand_on(Handle, Node, Frame) ->
    case partisan_nif:relay_hand_on(Handle, Frame) of
        ok -> ok;
        closed -> partisan_relay:dropped(no_route, Node);
        malformed -> partisan_relay:dropped(malformed, Node);
        _ -> partisan_relay:dropped(overrun, Node)
    end.

%% As a neighbour would have sent it that knows no other way.
by_erlang(Node, <<$r, 1, Hops, Origin:64, Number:64, _Flow:64, Size:16, _:Size/binary, 131, 68, 0,
                  Signal/binary>>) ->
    try binary_to_term(<<131, 104, 2, Signal/binary>>) of
        {Control, Message} ->
            partisan_relay ! {relay, Node, destination(Control), Message, Hops, {Origin, Number}},
            ok
    catch
        error:badarg -> partisan_relay:dropped(malformed, Node)
    end;
by_erlang(Node, _Frame) ->
    partisan_relay:dropped(malformed, Node).

destination(Control) when element(1, Control) =:= 6; element(1, Control) =:= 16 ->
    element(4, Control);
destination(Control) ->
    element(3, Control).
