%% Relay by the carrier: the channel over which neighbours hand each other messages for other nodes,
%% and the table by which the carrier passes them on, from lane to lane and without decoding them
%% (c_src/vm/relay.h). This process opens the channels and makes the table; messages go past it.
%%
%% A message comes here only where the carrier cannot pass it on, since there is no such channel with
%% the next neighbour. Either there will be one in a moment: the message is held, and goes before any
%% that follow it. Or the neighbour has no relay of this kind (an older version, another carrier): the
%% message is decoded and goes by partisan_relay.
%%
%% There is a common channel, which is opened with all neighbours ahead of time, and a class of messages
%% for each channel that the user has, with a channel of its own that is opened where it is needed first,
%% and again if it was closed (`idle`). With a neighbour that does not have it the common one stands in.
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
-define(HELD, 8192).            % messages for one neighbour's channel, as many as it would queue,
-define(HELD_BYTES, 8 bsl 20).  % and bytes
-define(WAYS, 4).               % PT_ROUTES_WAYS
-define(OPENINGS, 3).           % the common channel, the class's, and once more: it may close at once
-define(ROUNDS, 20).            % of messages that a new table waits for

%% A channel with a neighbour, by its name.
-type lane() :: {node(), atom()}.

-record(st, {map = none :: none | partisan_route:t(),
             ways = #{} :: #{node() => [node()]},  % of the map, best first
             asked = false :: boolean(),           % a channel was opened: we are to relay
             dirty = false :: boolean(),
             openers = #{} :: #{reference() => lane()},
             refused = #{} :: #{lane() => reference()}, % when to ask again
             held = #{} :: #{lane() => {non_neg_integer(), non_neg_integer(), [binary()]}}, % latest first
             waiting = #{} :: #{lane() => [gen_server:from()]}}).

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

%% Towards Node; `none`: not by the carrier. Opts as of partisan_transport:send/5, and `channel`. Where
%% the next neighbour's channel is full the caller waits, as on any channel.
-spec send(node(), partisan_send:server_ref(), term(), non_neg_integer(), map()) ->
          ok | none | {error, busy | timeout | system_limit | {unknown_channel, atom()}}.
send(Node, Dest, Message, Hops, Opts) when is_pid(Dest); is_atom(Dest); is_reference(Dest) ->
    case persistent_term:get(?ON, false) of
        true ->
            Channel = maps:get(channel, Opts, undefined),
            Only = Channel =/= undefined andalso not partisan_transport:fallback(Opts),
            case partisan_channel_conf:relay_class(Channel) of
                {ok, Class} ->
                    by_class(Class, Only, Channel, Node, Dest, Message, Hops, Opts);
                error when Only ->
                    {error, {unknown_channel, Channel}};
                error ->
                    case partisan_channel_conf:relay_class(undefined) of
                        {ok, Class} -> by_class(Class, false, Channel, Node, Dest, Message, Hops, Opts);
                        error -> none
                    end
            end;
        false ->
            none
    end;
send(_Node, _Dest, _Message, _Hops, _Opts) ->
    none.

by_class({Class, ClassName}, Only, Channel, Node, Dest, Message, Hops, Opts) ->
    Partition = case Opts of
                    #{partition_key := Key} -> erlang:phash2(Key, 1 bsl 32);
                    #{} -> none
                end,
    Signal = {partisan_channel:control(Dest), Message},
    Args = {atom_to_binary(Node, utf8), max(1, min(255, Hops)), ClassName, Only, Partition},
    try_send(Args, {Node, Channel, Class}, Signal, Opts, ?OPENINGS).

try_send({Name, Hops, ClassName, Only, Partition} = Args, {Node, Channel, _} = To, Signal, Opts, Openings) ->
    case partisan_nif:relay_send_term(Name, Hops, ClassName, Only, Partition, Signal) of
        ok ->
            ok;
        none ->
            opened_and_sent(Args, To, Signal, Opts, Openings);
        unknown ->
            {error, {unknown_channel, Channel}};
        system_limit ->
            {error, system_limit};
        _ -> % large, or there is no room
            Data = erlang:term_to_iovec(Signal),
            Queue = fun(Wait) -> queue(Args, Data, Wait) end,
            Answer = case Opts of
                         #{nosuspend := true} -> at_once(Queue(none));
                         #{notify := true} -> at_once(Queue({notify, {partisan_channel, Node, Channel, writable}}));
                         #{} -> partisan_channel:wait_for_room(Queue, Opts)
                     end,
            case Answer of
                none -> opened_and_sent(Args, To, Signal, Opts, Openings);
                unknown -> {error, {unknown_channel, Channel}};
                _ -> Answer
            end
    end.

%% Of a channel that has to be opened, or of none.
opened_and_sent(Args, {Node, _, Class} = To, Signal, Opts, Openings) ->
    case is_to_be_opened(Node) of
        {true, Via} when map_get(nosuspend, Opts) =:= true ->
            gen_server:cast(?MODULE, {open, Via, Class}),
            {error, busy};
        {true, Via} when Openings > 0 ->
            case await(Via, Class, maps:get(timeout, Opts, infinity)) of
                ok -> try_send(Args, To, Signal, Opts, Openings - 1);
                timeout -> {error, timeout}
            end;
        _ ->
            none
    end.

queue({Name, Hops, ClassName, Only, Partition} = Args, Data, Wait) ->
    case partisan_nif:relay_send(Name, Hops, ClassName, Only, Partition, Data, Wait) of
        flatten -> queue(Args, [iolist_to_binary(Data)], Wait);
        Other -> Other
    end.

at_once(busy) -> {error, busy};
at_once({busy, _Handle, _Id}) -> {error, busy};
at_once(system_limit) -> {error, system_limit};
at_once(Other) -> Other.

%% The neighbour with which; false: there is no way, or it is known to have no relay.
is_to_be_opened(Node) ->
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
await(Via, Class, Timeout) ->
    Patience = case Timeout of
                   infinity -> infinity;
                   _ -> max(0, Timeout)
               end,
    try gen_server:call(?MODULE, {await, Via, Class}, Patience)
    catch
        exit:{timeout, _} -> timeout;
        exit:_ -> ok
    end.

%% What the carrier did and dropped; see partisan_relay:counters/0.
-spec counters() -> #{atom() => non_neg_integer()}.
counters() ->
    case persistent_term:get(?ON, false) of
        true -> maps:filter(fun(_, N) -> N > 0 end, maps:remove(routes, partisan_nif:relay_info()));
        false -> #{}
    end.

%% Neighbours with a relay channel, and those that have none for now; which of the user's channels have one
%% of their own with whom; messages that wait for a channel; for each node the neighbours that lead to it,
%% if the overlay knows.
-spec info() -> #{open := [node()], without := [node()], channels := #{atom() => [node()]},
                  held := non_neg_integer(), ways := #{node() => [node()]}}.
info() ->
    gen_server:call(?MODULE, info).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    process_flag(trap_exit, true),
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    persistent_term:put(?ON, false),
    %% Another one's table may be there yet, and its messages are not ours.
    _ = is_on() andalso table(<<>>, [atom_to_binary(?CHANNEL)], [], true),
    {ok, dirty(#st{})}.

handle_call({await, Via, Class}, From, St0) ->
    %% What was thought to be open may be closed again.
    case target(Via, Class, St0) of
        {open, Lane} ->
            #st{waiting = Waiting} = St = open(Lane, St0),
            {noreply, St#st{waiting = Waiting#{Lane => [From | maps:get(Lane, Waiting, [])]}}};
        _ ->
            {reply, ok, rebuild(St0#st{dirty = false})}
    end;
handle_call(info, _From, St0) ->
    #st{ways = Ways, refused = Refused, held = Held} = St = up_to_date(St0),
    Near = near(),
    With = fun(Class) -> [N || N <- Near, handle(N, Class) =/= none] end,
    Classes = maps:remove(undefined, partisan_channel_conf:relay_classes()),
    {reply, #{open => With(?CHANNEL), without => [N || {N, ?CHANNEL} <- maps:keys(Refused)],
              channels => maps:map(fun(_, {Class, _}) -> With(Class) end, Classes),
              held => lists:sum([N || {N, _, _} <- maps:values(Held)]), ways => Ways}, St};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast({open, Via, Class}, St) ->
    {noreply, wanted(Via, Class, St)};
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
handle_info({partisan_relay_frame, Class, Frame}, St) ->
    {noreply, taken(Class, Frame, St)};
handle_info({partisan_relay_dropped, Why, Name}, St) ->
    partisan_relay:log_dropped(Why, Name),
    {noreply, St};
handle_info({partisan_channel_opened, _Node}, St) ->
    {noreply, dirty(St#st{asked = true})};
handle_info({'DOWN', Ref, process, _, Result}, #st{openers = Openers} = St) ->
    case maps:take(Ref, Openers) of
        {Lane, Rest} -> {noreply, opened(Lane, Result, St#st{openers = Rest})};
        error -> {noreply, St}
    end;
handle_info({again, Lane, Ref}, #st{refused = Refused} = St) ->
    case Refused of
        #{Lane := Ref} -> {noreply, again(Lane, St)};
        #{} -> {noreply, St}
    end;
handle_info(_Message, St) ->
    {noreply, St}.

terminate(_Reason, _St) ->
    persistent_term:put(?ON, false),
    ok = partisan_channel_conf:relay(none),
    is_on() andalso table(<<>>, [atom_to_binary(?CHANNEL)], [], true).

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
            ok = partisan_channel_conf:relay(self()),
            persistent_term:get(?ON) orelse persistent_term:put(?ON, true),
            Near = near(),
            Routes = partisan_overlay_shell:routes(),
            Open = maps:from_list([{N, H} || N <- Near, {ok, H} <- [handle(N, ?CHANNEL)]]),
            St1 = settle(Near, Open, St0),
            %% In an overlay without routes, which is a full mesh, there is nothing to be opened.
            St2 = case Routes =/= [] orelse St1#st.map =/= none orelse St1#st.asked of
                      true -> lists:foldl(fun(N, St) -> open({N, ?CHANNEL}, St) end, St1, Near -- maps:keys(Open));
                      false -> St1
                  end,
            St = set(Near, Routes, Open, with_ways(release(St2))),
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
    _ = [ets:delete(?TABLE, Node) || Node <- Known, not is_map_key({Node, ?CHANNEL}, Refused)],
    true = ets:insert(?TABLE, [{Node} || {Node, ?CHANNEL} <- maps:keys(Refused)]).

%% The row of one that was closed may stay for a moment.
handle(Node, Class) ->
    case partisan_channel_srv:lookup(Node, Class) of
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

set(Near, Routes, Open, #st{ways = Ways, refused = Refused} = St) ->
    Classes = lists:sort(maps:values(maps:remove(undefined, partisan_channel_conf:relay_classes()))),
    Names = maps:keys(Open),
    Index = maps:from_list(lists:zip(Names, lists:seq(0, length(Names) - 1))),
    IsNear = maps:from_list([{Node, []} || Node <- Near]),
    Entries = [entry(Node, Node, maps:get(Node, Ways, []), Index) || Node <- Near]
        ++ [entry(Dest, Via, beside(Dest, Near, Ways), Index) || {Dest, Via} <- Routes,
                                                                 not is_map_key(Dest, IsNear)],
    Hops = [list_to_tuple([Common | [of_class({N, Class}, Common, Refused) || {Class, _} <- Classes]])
            || N <- Names, Common <- [map_get(N, Open)]],
    table(iolist_to_binary(Entries), [atom_to_binary(?CHANNEL) | [Name || {_, Name} <- Classes]], Hops, ?ROUNDS, St).

%% `none`: to be opened by the first message.
of_class({Node, Class} = Lane, Common, Refused) ->
    case handle(Node, Class) of
        {ok, Handle} -> Handle;
        none when is_map_key(Lane, Refused) -> Common;
        none -> none
    end.

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
table(Entries, Classes, Hops, Rounds, St) ->
    case table(Entries, Classes, Hops, Rounds =:= 0) of
        ok -> St;
        again -> table(Entries, Classes, Hops, Rounds - 1, take_all(St));
        system_limit ->
            _ = erlang:send_after(100, self(), rebuild),
            St#st{dirty = true}
    end.

table(Entries, Classes, Hops, Force) ->
    partisan_nif:relay_set(atom_to_binary(node(), utf8), Classes, Hops, Entries, Force).

take_all(St) ->
    receive {partisan_relay_frame, Class, Frame} -> take_all(taken(Class, Frame, St))
    after 0 -> St
    end.

%% ------------------------------------------------------------------------------------------------
%% Channels

open(Lane, #st{openers = Openers, refused = Refused} = St) ->
    case is_map_key(Lane, Refused) orelse lists:member(Lane, maps:values(Openers)) of
        true -> St;
        false -> St#st{openers = Openers#{opener(Lane) => Lane}}
    end.

opener(Lane) ->
    {_, Ref} = spawn_monitor(?MODULE, open, [Lane]),
    Ref.

%% Run by a process of its own, whose reason says what became of it.
-spec open(lane()) -> no_return().
open({Node, Class}) ->
    Stale = case partisan_channel_srv:lookup(Node, Class) of
                {_, Handle, _, _, _} when is_reference(Handle) -> Handle;
                _ -> none
            end,
    exit({opened, partisan_channel_srv:open(Node, Class, Stale, ?OPEN_MS)}).

%% Somebody has a message of that class for a neighbour.
wanted(Via, Class, St) ->
    case target(Via, Class, St) of
        {open, Lane} -> open(Lane, St);
        _ -> St
    end.

opened({Node, Class} = Lane, {opened, ok}, #st{refused = Refused} = St) ->
    %% it has the class again, or for the first time
    no_more(Lane, St#st{refused = maps:remove({Node, Class}, Refused)});
opened(Lane, _Failed, #st{refused = Refused} = St) ->
    Ref = make_ref(),
    _ = erlang:send_after(?AGAIN_MS, self(), {again, Lane, Ref}),
    no_more(Lane, St#st{refused = Refused#{Lane => Ref}}).

%% Of a class what comes meanwhile still goes by the common channel, and need not wait.
again({_, ?CHANNEL} = Lane, #st{refused = Refused} = St) ->
    dirty(St#st{refused = maps:remove(Lane, Refused)});
again(Lane, #st{openers = Openers} = St) ->
    St#st{openers = Openers#{opener(Lane) => Lane}}.

%% The channel is there, or will not be for a while: who waited goes by the table that says so.
no_more(Lane, St0) ->
    #st{waiting = Waiting} = St = rebuild(St0),
    _ = [gen_server:reply(From, ok) || From <- maps:get(Lane, Waiting, [])],
    St#st{waiting = maps:remove(Lane, Waiting)}.

%% Neighbours that are none any more are forgotten, and may ask again when they are back.
settle(Near, Open, #st{held = Held, refused = Refused} = St) ->
    IsNear = maps:from_list([{N, []} || N <- Near]),
    Gone = [Lane || {N, _} = Lane <- maps:keys(Held), not is_map_key(N, IsNear), not is_map_key(N, Open)],
    St1 = lists:foldl(fun(Lane, S) -> released(erlang, Lane, S) end, St, Gone),
    St1#st{refused = maps:filter(fun({N, Class}, _) ->
                                         is_map_key(N, IsNear)
                                             andalso not (Class =:= ?CHANNEL andalso is_map_key(N, Open))
                                 end, Refused)}.

%% What a message of that class to that neighbour is to take.
target(Via, Class, #st{refused = Refused}) ->
    case handle(Via, ?CHANNEL) of
        none when is_map_key({Via, ?CHANNEL}, Refused) -> erlang;
        none -> {open, {Via, ?CHANNEL}};
        {ok, Common} when Class =:= ?CHANNEL -> {ok, Common};
        {ok, Common} ->
            case handle(Via, Class) of
                {ok, Handle} -> {ok, Handle};
                none when is_map_key({Via, Class}, Refused) -> {ok, Common};
                none -> {open, {Via, Class}}
            end
    end.

%% ------------------------------------------------------------------------------------------------
%% Messages that the carrier handed to us

taken(ClassName, Frame, St) ->
    Next = frame(class(ClassName), Frame, St),
    ok = partisan_nif:relay_taken(),
    Next.

%% A channel that was configured away since is the common one's.
class(ClassName) ->
    case [Class || {Class, Name} <- maps:values(partisan_channel_conf:relay_classes()), Name =:= ClassName] of
        [Class] -> Class;
        [] -> ?CHANNEL
    end.

frame(Class, Frame, #st{held = Held} = St) ->
    case next(Frame) of
        {ok, Node, Via} ->
            Lane = {Via, Class},
            case target(Via, Class, St) of
                _ when is_map_key(Lane, Held) -> dirty(hold(Node, Lane, Frame, St));
                {open, Opened} -> hold(Node, Lane, Frame, open(Opened, St));
                Target -> go(Target, Node, Frame), St
            end;
        {error, Name} ->
            partisan_relay:dropped(no_route, Name),
            St
    end.

go({ok, Handle}, Node, Frame) -> hand_on(Handle, Node, Frame);
go(erlang, Node, Frame) -> by_erlang(Node, Frame).

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

hold(Node, Lane, Frame, #st{held = Held} = St) ->
    {N, Bytes, Frames} = maps:get(Lane, Held, {0, 0, []}),
    case N >= ?HELD orelse Bytes >= ?HELD_BYTES of
        true ->
            partisan_relay:dropped(overrun, Node),
            St;
        false ->
            St#st{held = Held#{Lane => {N + 1, Bytes + byte_size(Frame), [Frame | Frames]}}}
    end.

%% What waited for a channel that is open by now, or that will not be.
release(#st{held = Held} = St) ->
    lists:foldl(fun({Via, Class} = Lane, S) ->
                        case target(Via, Class, S) of
                            {open, Opened} -> open(Opened, S);
                            Target -> released(Target, Lane, S)
                        end
                end, St, maps:keys(Held)).

released(Target, Lane, #st{held = Held} = St) ->
    {{_, _, Frames}, Rest} = maps:take(Lane, Held),
    lists:foreach(fun(Frame) ->
                          case next(Frame) of
                              {ok, Node, _} -> go(Target, Node, Frame);
                              {error, Name} -> partisan_relay:dropped(no_route, Name)
                          end
                  end, lists:reverse(Frames)),
    St#st{held = Rest}.

hand_on(Handle, Node, Frame) ->
    case partisan_nif:relay_hand_on(Handle, Frame) of
        ok -> ok;
        closed -> partisan_relay:dropped(no_route, Node);
        malformed -> partisan_relay:dropped(malformed, Node);
        _ -> partisan_relay:dropped(overrun, Node)
    end.

%% As a neighbour would have sent it that knows no other way. Nobody has looked into it since it left its
%% origin.
by_erlang(Node, <<$r, 1, Hops, Origin:64, Number:64, _Flow:64, Size:16, _:Size/binary, 131, 68, 0,
                  Signal/binary>>) ->
    try
        {Control, Message} = binary_to_term(<<131, 104, 2, Signal/binary>>),
        {destination(Control), Message}
    of
        {Dest, Message} ->
            partisan_relay ! {relay, Node, Dest, Message, Hops, {Origin, Number}},
            ok
    catch
        error:_ -> partisan_relay:dropped(malformed, Node)
    end;
by_erlang(Node, _Frame) ->
    partisan_relay:dropped(malformed, Node).

%% Of what may travel on a channel (docs/wire-protocol.md).
destination({6, _From, _, Name}) when is_atom(Name) -> Name;
destination({16, _From, _, Name, _Token}) when is_atom(Name) -> Name;
destination({22, _From, To}) when is_pid(To) -> To;
destination({23, _From, To, _Token}) when is_pid(To) -> To;
destination({33, _From, Alias}) when is_reference(Alias) -> Alias;
destination({34, _From, Alias, _Token}) when is_reference(Alias) -> Alias.
