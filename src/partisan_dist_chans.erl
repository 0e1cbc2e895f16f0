%% The channels of one session, kept by its lanes process (partisan_dist_lanes).
%%
%% Whoever wants a channel asks the peer by an ordinary message over the connection, to the registered
%% partisan_channel_srv, which asks its own lanes process. Both sides then know the channel and how
%% many lanes it gets (the smaller wish), and the session's connector opens them: a node that cannot
%% be dialled has channels, too. A channel can be used when its first lane is attached.
-module(partisan_dist_chans).

-export([new/0, handle/3, attach/5, attached/4, opened/4, failed/4, opener_done/3, knows/2]).
-export([sockets/1]).

-export_type([state/0, context/0]).

%% ms from one round of attempts at lanes to the next, and until an answer is not expected any more
-define(RETRIES, [1000, 5000, 30000]).
-define(ANSWER_IN, 7000).

-type name() :: binary().
-type chan() :: #{no := pos_integer(), lanes := 1..16, sockets := #{0..15 => inet:socket()},
                  retries := [pos_integer()]}.
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
handle({open, Name, Conf}, Context, S) ->
    open(Name, Conf, Context, S);
handle({peer_opens, Asker, Ref, Name, Conf}, Context, S) ->
    peer_opens(Asker, Ref, Name, Conf, Context, S);
handle({answer, Ref, Name, Answer}, Context, #{asked := Asked} = S) ->
    case Asked of
        #{Name := {Ref, Conf}} -> answered(Answer, Name, Conf, Context,
                                           S#{asked := maps:remove(Name, Asked)});
        #{} -> S % too late
    end;
handle({dial, Name}, Context, S) ->
    dial(Name, Context, S);
handle(_Event, _Context, S) ->
    S.

%% ------------------------------------------------------------------------------------------------
%% Agreement

open(Name, Conf, #{node := Node, session_id := Id} = Context, #{asked := Asked, chans := Chans} = S) ->
    case Chans of
        #{Name := #{no := No, sockets := Sockets}} when map_size(Sockets) > 0 ->
            usable(Name, No, Context),
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

peer_opens(Asker, Ref, Name, #{parallelism := Lanes} = Conf, Context, S0) ->
    {Answer, S} = create(Name, Lanes, Conf, Context, S0),
    Asker ! {channel, {answer, Ref, Name, Answer}},
    dial(Name, Context, S).

answered({ok, Lanes}, Name, Conf, Context, S0) when is_integer(Lanes), Lanes >= 1, Lanes =< 16 ->
    case create(Name, Lanes, Conf, Context, S0) of
        {{ok, _}, S} ->
            dial(Name, Context, S);
        {{error, Why}, S} ->
            partisan_channel_srv:not_opened(maps:get(node, Context), Name, Why),
            S
    end;
answered({error, Why}, Name, _Conf, #{node := Node}, S) ->
    partisan_channel_srv:not_opened(Node, Name, Why),
    refuse_parked(Name, S);
answered(_, Name, Conf, Context, S) ->
    answered({error, no_answer}, Name, Conf, Context, S).

%% Both may have asked at a time: the second to come finds what the first one made.
create(Name, _Lanes, _Conf, _Context, #{chans := Chans} = S) when is_map_key(Name, Chans) ->
    #{Name := #{lanes := Lanes}} = Chans,
    {{ok, Lanes}, S};
create(Name, Lanes, Conf, #{port := Port}, #{next := No, chans := Chans} = S0) ->
    case partisan_drv:channel(Port, No, Conf#{name => Name, lanes => Lanes}) of
        ok ->
            S = S0#{next := No + 1,
                    chans := Chans#{Name => #{no => No, lanes => Lanes, sockets => #{},
                                              retries => ?RETRIES}}},
            {{ok, Lanes}, S};
        {error, Words} ->
            {{error, Words}, S0}
    end.

usable(Name, No, #{node := Node, session_id := Id}) ->
    partisan_channel_srv:opened(Node, Name, Id, No, self()).

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

again(Name, #{role := connector} = Context, S) -> dial(Name, Context, S);
again(_Name, _Context, S) -> S. % the connector is trying

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
opener_done(Opener, #{node := Node}, #{openers := Openers0, chans := Chans} = S0) ->
    {{Name, _Lane}, Openers} = maps:take(Opener, Openers0),
    S = S0#{openers := Openers},
    Others = [N || {N, _} <- maps:values(Openers), N =:= Name],
    case Chans of
        #{Name := #{retries := Retries, sockets := Sockets} = Chan} when Others =:= [] ->
            case {missing(Chan), Retries} of
                {[_ | _], [Delay | Rest]} ->
                    _ = erlang:send_after(Delay, self(), {channel, {dial, Name}}),
                    S#{chans := Chans#{Name := Chan#{retries := Rest}}};
                {[_ | _], []} when map_size(Sockets) =:= 0 ->
                    partisan_channel_srv:not_opened(Node, Name, no_lane),
                    S#{chans := Chans#{Name := Chan#{retries := ?RETRIES}}};
                _ ->
                    S
            end;
        #{} ->
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
            case partisan_drv:channel_lane(Port, No, Lane, Socket) of
                ok ->
                    map_size(Sockets) =:= 0 andalso usable(Name, No, Context),
                    S#{chans := Chans#{Name := Chan#{sockets := Sockets#{Lane => Socket}}}};
                {error, Words} ->
                    Driver:close(Socket),
                    failed(Name, Lane, Words, Context),
                    S
            end;
        #{} -> % closed meanwhile
            Driver:close(Socket),
            S
    end.
