%% The channels of one session, kept by its lanes process (partisan_dist_lanes).
%%
%% Whoever wants a channel asks the peer by an ordinary message over the connection, to the registered
%% partisan_channel_srv, which asks its own lanes process. Both sides then know the channel and how
%% many lanes it gets (the smaller wish), and the session's connector opens them: a node that cannot
%% be dialled has channels, too. A channel can be used when its first lane is attached.
%%
%% A channel that is not used is closed by the connector, if its option `idle` says so: it stops
%% sending, tells the peer how much it sent, the peer does the same when all of that is delivered, and
%% when all of this is, both close their ends. Who wants to send meanwhile waits, and opens it anew.
%% A channel that is retired (the nodes are no members of one cluster any more, or somebody said so) gets
%% a short `idle` for the rest of its life.
%%
%% One that is to be opened anew, for either side's options changed, may never be quiet. It is drained:
%% on both sides it is full, so that senders wait as they do then, and when what is queued has left it
%% is closed in the same steps. A channel that relays waits for quiet: relays drop what finds it full.
-module(partisan_dist_chans).

-export([new/0, handle/3, attach/5, attached/4, opened/4, failed/4, opener_done/3, knows/2]).
-export([sockets/1, lane_gone/4]).

-export_type([state/0, context/0]).

%% ms from one round of attempts at lanes to the next, and until an answer is not expected any more
-define(RETRIES, [1000, 5000, 30000]).
-define(ANSWER_IN, 7000).
-define(RETIRED_IDLE, 1000).
-define(DRAIN_LOOK, 10). % ms from one look at whether it is drained to the next

-type name() :: binary().
%% open: it had a lane once, so somebody may use it. quiet: what had been sent and delivered at the last
%% look, look: the timer of the next. renew: is it to be opened anew? closing: who wants to open it
%% meanwhile. conf: what it was opened with.
-type chan() :: #{no := pos_integer(), lanes := 1..16, sockets := #{0..15 => inet:socket()},
                  open := boolean(), retries := [pos_integer()], peer := pid(), idle := pos_integer() | infinity,
                  quiet := {non_neg_integer(), non_neg_integer()}, look := none | reference(),
                  renew := boolean() | draining, closing := false | [term()], conf := partisan_channel_conf:channel()}.
-type state() :: #{next := pos_integer(),
                   asked := #{name() => {reference(), map()}},
                   chans := #{name() => chan()},
                   openers := #{pid() => {name(), 0..15}},
                   parked := [{pid(), reference(), {name(), 0..255}}]}.
%% The state of the lanes process.
-type context() :: #{node := node(), role := connector | acceptor, port := port() | undefined,
                     session_id := binary(), lane_key := binary(), driver := atom(), up := boolean(),
                     _ => _}.

-spec new() -> state().
new() ->
    #{next => 1, asked => #{}, chans => #{}, openers => #{}, parked => []}.

-spec sockets(state()) -> [inet:socket()].
sockets(#{chans := Chans}) ->
    lists:append([maps:values(Sockets) || #{sockets := Sockets} <- maps:values(Chans)]).

%% Messages to the lanes process of the form {channel, Event}.
-spec handle(term(), context(), state()) -> state().
handle(Event, Context, #{chans := Chans} = S) ->
    Name = wants(Event),
    case Chans of
        #{Name := #{closing := Waiting} = Chan} when is_list(Waiting) ->
            S#{chans := Chans#{Name := Chan#{closing := [Event | Waiting]}}};
        #{} ->
            do(Event, Context, S)
    end.

%% The channel that somebody wants to open.
wants({open, Name, _}) -> Name;
wants({peer_opens, _, _, Name, _, _}) -> Name;
wants(_) -> none.

do({open, Name, Conf}, Context, S) ->
    open(Name, Conf, Context, S);
do({peer_opens, Asker, Ref, Name, Conf, Lanes}, Context, S) ->
    peer_opens(Asker, Ref, Name, Conf, Lanes, Context, S);
do({answer, Ref, Name, Answer}, Context, #{asked := Asked} = S) ->
    case Asked of
        #{Name := {Ref, Conf}} -> answered(Answer, Name, Conf, Context,
                                           S#{asked := maps:remove(Name, Asked)});
        #{} -> S % too late
    end;
do({idle, Name, No}, Context, S) ->
    if_there(Name, fun(Chan) -> look(Name, No, Chan, Context, S) end, S);
do({closes, Peer, Name, Sent}, Context, S) ->
    case S of
        #{chans := #{Name := Chan}} -> peer_closes(Peer, Name, Sent, Chan, Context, S);
        #{} -> tell(Peer, {keep, Name}), S
    end;
do({await, Name, No, Sent, Then}, Context, S) ->
    if_there(Name, fun(Chan) -> await(Name, No, Sent, Then, Chan, Context, S) end, S);
do({may_close, Name, Sent}, Context, S) ->
    if_there(Name, fun(#{no := No} = Chan) ->
                           await(Name, No, Sent, close, Chan, Context, S)
                   end, S);
do({closed, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> close(Name, Chan, Context, S) end, S);
do({keep, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> keep(Name, Chan, Context, S) end, S);
do({dial, Name}, Context, S) ->
    dial(Name, Context, S);
do({no_lane, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> no_lane(Name, Chan, Context), S end, S);
do({retire, all}, Context, #{chans := Chans} = S) ->
    lists:foldl(fun(Name, S1) -> do({retire, Name}, Context, S1) end, S, maps:keys(Chans));
do({retire, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> retire(Name, Chan, Context, S) end, S);
do({renew, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> renew(Name, Chan, Context, S) end, S);
do({drain, Name}, Context, S) ->
    if_there(Name, fun(Chan) -> peer_drains(Name, Chan, Context, S) end, S);
do({drained, Name, No}, Context, S) ->
    if_there(Name, fun(Chan) -> drained(Name, No, Chan, Context, S) end, S);
do({closes_then, No, Peer, Name, Sent}, Context, S) ->
    if_there(Name, fun(#{no := N, renew := draining} = Chan) when N =:= No ->
                           peer_closes(Peer, Name, Sent, Chan, Context, S);
                      (_) -> S
                   end, S);
do({idle_is, Name, Idle}, Context, S) ->
    if_there(Name, fun(Chan) -> set_idle(Name, Idle, Chan, Context, S) end, S);
do(_Event, _Context, S) ->
    S.

if_there(Name, Fun, #{chans := Chans} = S) ->
    case Chans of
        #{Name := Chan} -> Fun(Chan);
        #{} -> S
    end.

%% ------------------------------------------------------------------------------------------------
%% Agreement

open(Name, Conf, #{node := Node, session_id := Id} = Context,
     #{asked := Asked, chans := Chans} = S) ->
    case Chans of
        #{Name := #{sockets := Sockets} = Chan} when map_size(Sockets) > 0 ->
            usable(Name, Chan, Context),
            S;
        #{Name := #{}} ->
            again(Name, Context, S);
        #{} when is_map_key(Name, Asked) ->
            S;
        #{} ->
            Ref = make_ref(),
            #{parallelism := Lanes} = Conf,
            _ = partisan_channel_srv:ask(Node, {open, self(), Ref, Id, Name, Lanes}),
            _ = erlang:send_after(?ANSWER_IN, self(),
                                  {channel, {answer, Ref, Name, {error, no_answer}}}),
            S#{asked := Asked#{Name => {Ref, Conf}}}
    end.

peer_opens(Asker, Ref, Name, Conf, Lanes, Context, S0) ->
    {Answer, S} = create(Name, Lanes, Asker, Conf, Context, S0),
    tell(Asker, {answer, Ref, Name, Answer}),
    dial(Name, Context, S).

answered({ok, Lanes, Peer}, Name, Conf, Context, S0)
  when is_integer(Lanes), Lanes >= 1, Lanes =< 16, is_pid(Peer) ->
    case create(Name, Lanes, Peer, Conf, Context, S0) of
        {{ok, _, _}, S} ->
            dial(Name, Context, S);
        {{error, Why}, S} ->
            partisan_channel_srv:not_opened(maps:get(node, Context), Name, Why),
            tell(Peer, {no_lane, Name}),
            refuse_parked(Name, S)
    end;
answered({error, Why}, Name, _Conf, #{node := Node}, S) ->
    partisan_channel_srv:not_opened(Node, Name, Why),
    refuse_parked(Name, S);
answered(_, Name, Conf, Context, S) ->
    answered({error, no_answer}, Name, Conf, Context, S).

%% Both may have asked at a time: the second to come finds what the first one made.
create(Name, _Lanes, _Peer, _Conf, _Context, #{chans := Chans} = S) when is_map_key(Name, Chans) ->
    #{Name := #{lanes := Lanes}} = Chans,
    {{ok, Lanes, self()}, S};
create(Name, Lanes, Peer, #{idle := Idle} = Conf, #{port := Port, role := Role},
       #{next := No, chans := Chans} = S0) ->
    case partisan_drv:channel(Port, No, Conf#{name => Name, lanes => Lanes}) of
        ok ->
            Chan0 = #{no => No, lanes => Lanes, sockets => #{}, open => false, retries => ?RETRIES,
                      peer => Peer, idle => Idle, quiet => {0, 0}, look => none, renew => false,
                      closing => false, conf => Conf},
            Chan = look_later(Name, Role, Chan0),
            {{ok, Lanes, self()}, S0#{next := No + 1, chans := Chans#{Name => Chan}}};
        {error, Words} ->
            {{error, Words}, S0}
    end.

usable(Name, #{no := No, conf := Conf}, #{node := Node, session_id := Id}) ->
    partisan_channel_srv:opened(Node, Name, Id, No, self(), Conf).

tell(Pid, Event) ->
    _ = erlang:send(Pid, {channel, Event}, [noconnect]),
    ok.

%% ------------------------------------------------------------------------------------------------
%% Closing what is not used. The connector looks after it.

look_later(Name, connector, #{idle := Idle, no := No, look := Timer} = Chan) ->
    _ = [erlang:cancel_timer(Timer) || Timer =/= none],
    case Idle of
        infinity -> Chan#{look := none};
        _ -> Chan#{look := erlang:send_after(Idle, self(), {channel, {idle, Name, No}})}
    end;
look_later(_Name, acceptor, Chan) ->
    Chan.

retire(Name, #{idle := Idle} = Chan, #{role := connector} = Context, S) when Idle > ?RETIRED_IDLE ->
    set_idle(Name, ?RETIRED_IDLE, Chan, Context, S);
retire(_Name, _Chan, #{role := connector}, S) ->
    S;
retire(Name, #{peer := Peer}, #{role := acceptor}, S) ->
    tell(Peer, {retire, Name}),
    S.

set_idle(Name, Idle, #{closing := Closing} = Chan0, #{role := Role}, #{chans := Chans} = S) ->
    Chan = Chan0#{idle := Idle},
    S#{chans := Chans#{Name := case Closing of
                                   false -> look_later(Name, Role, Chan);
                                   _ -> Chan
                               end}}.

look(Name, No, #{no := No, renew := true} = Chan, Context, S) ->
    drain(Name, Chan, Context, S);
look(Name, No, #{no := No, renew := false, closing := false, quiet := Before, peer := Peer} = Chan,
     #{port := Port, role := Role}, #{chans := Chans} = S) ->
    Closes = case partisan_drv:channel_state(Port, No) of
                 {ok, Sent, Delivered, false} when {Sent, Delivered} =:= Before ->
                     missing(Chan) =:= [] andalso partisan_drv:channel_stop(Port, No, true) =:= ok
                         andalso {closes, self(), Name, Sent};
                 {ok, Sent, Delivered, _} ->
                     {later, {Sent, Delivered}};
                 {error, _} ->
                     false
             end,
    case Closes of
        {closes, _, _, _} ->
            tell(Peer, Closes),
            S#{chans := Chans#{Name := Chan#{closing := []}}};
        {later, Now} ->
            S#{chans := Chans#{Name := look_later(Name, Role, Chan#{quiet := Now})}};
        false ->
            S#{chans := Chans#{Name := look_later(Name, Role, Chan)}}
    end;
look(_Name, _No, _Chan, _Context, S) ->
    S. % another channel of this name

%% An older peer does not know `renew`, but that a channel is retired.
renew(Name, #{renew := false, closing := false} = Chan, #{role := connector} = Context, S) ->
    drain(Name, Chan, Context, S);
renew(Name, #{renew := false} = Chan, #{role := connector}, #{chans := Chans} = S) ->
    S#{chans := Chans#{Name := Chan#{renew := true}}}; % should the peer want to keep it
renew(_Name, _Chan, #{role := connector}, S) ->
    S; % being done
renew(Name, #{peer := Peer}, #{role := acceptor}, S) ->
    tell(Peer, {retire, Name}),
    tell(Peer, {renew, Name}),
    S.

%% Not while lanes are being opened: they would find the next channel of this name.
drain(Name, #{no := No, peer := Peer} = Chan0, #{port := Port, role := Role}, #{chans := Chans} = S) ->
    Chan = case missing(Chan0) =:= [] andalso partisan_drv:channel_stop(Port, No, drain) of
               ok ->
                   tell(Peer, {drain, Name}),
                   self() ! {channel, {drained, Name, No}},
                   Chan0#{renew := draining};
               _ ->
                   look_soon(Name, Role, Chan0#{renew := true})
           end,
    S#{chans := Chans#{Name := Chan}}.

look_soon(Name, Role, #{idle := Idle} = Chan) ->
    look_later(Name, Role, Chan#{idle := min(Idle, ?RETIRED_IDLE)}).

drained(Name, No, #{no := No, renew := draining, closing := false, peer := Peer} = Chan,
        #{port := Port} = Context, #{chans := Chans} = S) ->
    case missing(Chan) =:= []
        andalso {partisan_drv:channel_stop(Port, No, true), partisan_drv:channel_state(Port, No)} of
        {ok, {ok, Sent, _, _}} ->
            tell(Peer, {closes, self(), Name, Sent}),
            S#{chans := Chans#{Name := Chan#{closing := []}}};
        false -> % one that had carried nothing was lost
            tell(Peer, {keep, Name}),
            keep(Name, Chan, Context, S);
        _ ->
            _ = erlang:send_after(?DRAIN_LOOK, self(), {channel, {drained, Name, No}}),
            S
    end;
drained(_Name, _No, _Chan, _Context, S) ->
    S.

peer_drains(Name, #{no := No, closing := false} = Chan, #{port := Port}, #{chans := Chans} = S) ->
    case partisan_drv:channel_stop(Port, No, drain) of
        ok -> S#{chans := Chans#{Name := Chan#{renew := draining}}};
        {error, _} -> S
    end;
peer_drains(_Name, _Chan, _Context, S) ->
    S.

peer_closes(Peer, Name, TheirSent, #{no := No} = Chan, #{port := Port} = Context,
            #{chans := Chans} = S) ->
    case {partisan_drv:channel_stop(Port, No, true), partisan_drv:channel_state(Port, No)} of
        {ok, {ok, Sent, _, _}} ->
            Closing = Chan#{closing := []},
            await(Name, No, TheirSent, {tell, Peer, {may_close, Name, Sent}}, Closing, Context,
                  S#{chans := Chans#{Name := Closing}});
        _ when map_get(renew, Chan) =:= draining ->
            _ = erlang:send_after(?DRAIN_LOOK, self(),
                                  {channel, {closes_then, No, Peer, Name, TheirSent}}),
            S;
        _ ->
            tell(Peer, {keep, Name}),
            S
    end.

%% Until the peer's last message is delivered. It is in flight: nothing else can hold it up.
await(Name, No, Sent, Then, #{no := No} = Chan, #{port := Port} = Context, S) ->
    case {partisan_drv:channel_state(Port, No), Then} of
        {{ok, _, Sent, _}, {tell, Peer, Event}} ->
            tell(Peer, Event),
            S;
        {{ok, _, Sent, _}, close} ->
            #{peer := Peer} = Chan,
            tell(Peer, {closed, Name}),
            close(Name, Chan, Context, S);
        _ ->
            _ = erlang:send_after(10, self(), {channel, {await, Name, No, Sent, Then}}),
            S
    end;
await(_Name, _No, _Sent, _Then, _Chan, _Context, S) ->
    S.

close(Name, #{no := No, sockets := Sockets, closing := Waiting},
      #{port := Port, driver := Driver} = Context, #{chans := Chans} = S) ->
    _ = partisan_drv:channel_close(Port, No),
    lists:foreach(fun(Socket) -> Driver:close(Socket) end, maps:values(Sockets)),
    again_for(Waiting, Context, S#{chans := maps:remove(Name, Chans)}).

keep(Name, #{no := No, closing := Waiting, renew := Renew} = Chan, #{port := Port, role := Role} = Context,
     #{chans := Chans} = S) ->
    _ = partisan_drv:channel_stop(Port, No, false),
    Again = Renew =/= false andalso Role =:= connector,
    Open = Chan#{closing := false, renew := Again},
    Kept = case Again of
               true -> look_soon(Name, Role, Open);
               false -> look_later(Name, Role, Open)
           end,
    again_for(Waiting, Context, S#{chans := Chans#{Name := Kept}}).

again_for(Waiting, Context, S) when is_list(Waiting) ->
    lists:foldr(fun(Event, S1) -> handle(Event, Context, S1) end, S, Waiting);
again_for(false, _Context, S) ->
    S.

%% ------------------------------------------------------------------------------------------------
%% Lanes, connector

dial(Name, #{role := connector} = Context, #{chans := Chans, openers := Openers} = S) ->
    case Chans of
        #{Name := Chan} ->
            UnderWay = [Lane || {N, Lane} <- maps:values(Openers), N =:= Name],
            Options = maps:with([driver, target, session_id, lane_key], Context),
            New = maps:from_list([{spawn_link(partisan_dist_attach, open,
                                              [self(), {Name, Lane}, Options]), {Name, Lane}}
                                  || Lane <- missing(Chan) -- UnderWay]),
            S#{openers := maps:merge(Openers, New)};
        #{} ->
            S
    end;
dial(Name, #{role := acceptor} = Context, #{parked := Parked} = S) ->
    %% It may have been faster than the answer that told us of the channel.
    {Mine, Others} = lists:partition(fun({_, _, {N, _}}) -> N =:= Name end, Parked),
    lists:foldr(fun({Pid, Ref, Lane}, S1) -> attach(Pid, Ref, Lane, Context, S1) end,
                S#{parked := Others}, Mine).

%% The connector may have given up: it is asked to try once more.
again(Name, #{role := connector} = Context, S) ->
    dial(Name, Context, S);
again(Name, #{role := acceptor}, #{chans := Chans} = S) ->
    #{Name := #{peer := Peer}} = Chans,
    tell(Peer, {dial, Name}),
    S.

%% Those who wait for the channel hear that it did not come to be.
no_lane(Name, #{sockets := Sockets}, #{node := Node}) when map_size(Sockets) =:= 0 ->
    partisan_channel_srv:not_opened(Node, Name, no_lane);
no_lane(_Name, _Chan, _Context) ->
    ok.

missing(#{lanes := Lanes, sockets := Sockets}) ->
    [Lane || Lane <- lists:seq(0, Lanes - 1), not is_map_key(Lane, Sockets)].

-spec opened(name(), {0..15, inet:socket()}, context(), state()) -> state().
opened(Name, {Lane, Socket}, Context, S) ->
    adopt(Name, Lane, Socket, Context, S).

-spec failed(name(), 0..15, iodata(), context()) -> ok.
failed(Name, Lane, Why, #{node := Node}) ->
    partisan_dist_reg:log_limited(channel_lane, notice,
                                  "partisan: lane ~b of channel ~ts with ~ts: ~ts",
                                  [Lane, Name, Node, Why]).

-spec knows(pid(), state()) -> boolean().
knows(Opener, #{openers := Openers}) ->
    is_map_key(Opener, Openers).

-spec opener_done(pid(), context(), state()) -> state().
opener_done(Opener, Context, #{openers := Openers0, chans := Chans} = S0) ->
    {{Name, _Lane}, Openers} = maps:take(Opener, Openers0),
    S = S0#{openers := Openers},
    Others = [N || {N, _} <- maps:values(Openers), N =:= Name],
    case Chans of
        #{Name := #{retries := Retries, sockets := Sockets, peer := Peer} = Chan} when Others =:= [] ->
            case {missing(Chan), Retries} of
                {[_ | _], [Delay | Rest]} ->
                    _ = erlang:send_after(Delay, self(), {channel, {dial, Name}}),
                    S#{chans := Chans#{Name := Chan#{retries := Rest}}};
                {[_ | _], []} when map_size(Sockets) =:= 0 ->
                    no_lane(Name, Chan, Context),
                    tell(Peer, {no_lane, Name}),
                    _ = [erlang:send_after(lists:last(?RETRIES), self(), {channel, {dial, Name}})
                         || maps:get(open, Chan)],
                    S#{chans := Chans#{Name := Chan#{retries := ?RETRIES}}};
                _ ->
                    S
            end;
        #{} ->
            S
    end.

%% The driver has forgotten a lane that had carried nothing: the peer's half never came to be, or is
%% gone. The connector opens it again.
-spec lane_gone(pos_integer(), 0..15, context(), state()) -> state().
lane_gone(No, Lane, #{driver := Driver, role := Role}, #{chans := Chans} = S) ->
    case [{Name, Chan} || {Name, #{no := N, sockets := #{Lane := _}} = Chan} <- maps:to_list(Chans),
                          N =:= No] of
        [{Name, #{sockets := Sockets} = Chan}] ->
            {Socket, Rest} = maps:take(Lane, Sockets),
            Driver:close(Socket),
            _ = [erlang:send_after(hd(?RETRIES), self(), {channel, {dial, Name}}) || Role =:= connector],
            S#{chans := Chans#{Name := Chan#{sockets := Rest, retries := ?RETRIES}}};
        [] ->
            S
    end.

%% ------------------------------------------------------------------------------------------------
%% Lanes, acceptor

-spec attach(pid(), reference(), {name(), 0..255}, context(), state()) -> state().
attach(Door, Ref, {Name, Lane} = What, #{lane_key := Key} = Context,
       #{asked := Asked, parked := Parked, chans := Chans} = S) ->
    case free(Name, Lane, Context, S) of
        true ->
            Door ! {Ref, {ok, Key}},
            S;
        false when is_map_key(Name, Asked), not is_map_key(Name, Chans) ->
            S#{parked := [{Door, Ref, What} | Parked]};
        false ->
            refuse({Door, Ref, What}),
            S
    end.

free(Name, Lane, #{role := acceptor}, #{chans := Chans}) ->
    case Chans of
        #{Name := Chan} -> lists:member(Lane, missing(Chan));
        #{} -> false
    end;
free(_Name, _Lane, #{role := connector}, _S) ->
    false.

refuse({Door, Ref, {Name, Lane}}) ->
    Door ! {Ref, {error, io_lib:format("lane ~b of channel ~ts is not to be had", [Lane, Name])}},
    ok.

refuse_parked(Name, #{parked := Parked} = S) ->
    {Mine, Others} = lists:partition(fun({_, _, {N, _}}) -> N =:= Name end, Parked),
    lists:foreach(fun refuse/1, Mine),
    S#{parked := Others}.

-spec attached({name(), 0..255}, inet:socket(), context(), state()) -> state().
attached({Name, Lane}, Socket, #{driver := Driver} = Context, S) ->
    case free(Name, Lane, Context, S) andalso partisan_dist_attach:accepted(Driver, Socket) of
        ok ->
            adopt(Name, Lane, Socket, Context, S);
        _ ->
            Driver:close(Socket),
            S
    end.

adopt(Name, Lane, Socket, #{driver := Driver, port := Port} = Context, #{chans := Chans} = S) ->
    case Chans of
        #{Name := #{no := No, sockets := Sockets} = Chan} ->
            _ = inet:setopts(Socket, [partisan_dist_conn:nodelay()]),
            case partisan_drv:channel_lane(Port, No, Lane, Socket) of
                ok ->
                    map_size(Sockets) =:= 0 andalso usable(Name, Chan, Context),
                    S#{chans := Chans#{Name := Chan#{open := true,
                                                     sockets := Sockets#{Lane => Socket}}}};
                {error, Words} ->
                    Driver:close(Socket),
                    failed(Name, Lane, Words, Context),
                    S
            end;
        #{} -> % closed meanwhile
            Driver:close(Socket),
            S
    end.
