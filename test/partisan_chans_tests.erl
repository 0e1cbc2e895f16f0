%% The opening of channels where something does not come: whoever waits hears of it.
-module(partisan_chans_tests).

-include_lib("eunit/include/eunit.hrl").

-define(NAME, <<"partisan_chans_tests">>).
-define(CHANNEL, partisan_chans_tests).
-define(NODE, 'peer@h').

%% The connector has given up: its own callers hear so, and the peer's.
gives_up_test() ->
    as_server(fun() ->
        Opener = spawn(fun() -> ok end),
        S = with_channel(#{retries => []}, (partisan_dist_chans:new())#{openers := #{Opener => {?NAME, 0}}}),
        #{openers := Openers} = partisan_dist_chans:opener_done(Opener, context(connector), S),
        ?assertEqual(#{}, Openers),
        ?assertEqual({not_opened, ?NODE, ?NAME, no_lane, self()}, told()),
        ?assertEqual({channel, {no_lane, ?NAME}}, message())
    end).

%% What the peer then does, and that it asks for another try when somebody wants the channel again.
peer_gave_up_test() ->
    as_server(fun() ->
        S = with_channel(#{}, partisan_dist_chans:new()),
        ?assertEqual(S, partisan_dist_chans:handle({no_lane, ?NAME}, context(acceptor), S)),
        ?assertEqual({not_opened, ?NODE, ?NAME, no_lane, self()}, told()),
        Open = {open, ?NAME, #{parallelism => 1, idle => infinity}},
        ?assertEqual(S, partisan_dist_chans:handle(Open, context(acceptor), S)),
        ?assertEqual({channel, {dial, ?NAME}}, message())
    end).

%% It cannot be made here: nobody waits for it, on either side.
not_made_test() ->
    as_server(fun() ->
        Port = open_port({spawn, "cat"}, []), % that knows no verbs
        Ref = make_ref(),
        Door = make_ref(),
        S = (partisan_dist_chans:new())#{asked := #{?NAME => {Ref, conf()}},
                                         parked := [{self(), Door, {?NAME, 0}}]},
        Answer = {answer, Ref, ?NAME, {ok, 1, self()}},
        ?assertEqual(partisan_dist_chans:new(),
                     partisan_dist_chans:handle(Answer, (context(acceptor))#{port := Port}, S)),
        true = port_close(Port),
        ?assertMatch({not_opened, ?NODE, ?NAME, _, _}, told()),
        ?assertEqual({channel, {no_lane, ?NAME}}, message()),
        ?assertMatch({Door, {error, _}}, message())
    end).

conf() ->
    {ok, #{?CHANNEL := Conf}} = partisan_channel_conf:check(#{?CHANNEL => #{}}),
    Conf.

%% Its options change while it is being closed for want of use, which the peer then does not agree to.
renewed_while_closing_test() ->
    S0 = with_channel(#{closing => []}, partisan_dist_chans:new()),
    S1 = partisan_dist_chans:handle({renew, ?NAME}, context(connector), S0),
    S2 = partisan_dist_chans:handle({keep, ?NAME}, context(connector), S1),
    ?assertMatch(#{chans := #{?NAME := #{closing := false, renew := true, look := Timer}}} when is_reference(Timer), S2),
    %% and the acceptor, whose options these were, told an older peer too
    _ = partisan_dist_chans:handle({renew, ?NAME}, context(acceptor), S0#{chans := #{?NAME => chan(#{})}}),
    ?assertEqual({channel, {retire, ?NAME}}, message()),
    ?assertEqual({channel, {renew, ?NAME}}, message()).

%% A channel that was taken out of the configuration while somebody waited for it.
configured_away_test_() ->
    [{timeout, 60, Test}
     || Test <- [fun() -> configured_away(fun partisan_channel_srv:not_opened/3, [?NODE, ?NAME, no_lane]) end,
                 fun() -> configured_away(fun partisan_channel_srv:opened/6,
                                          [?NODE, ?NAME, <<0:128>>, 1, self(), #{monotonic => false}]) end]].

configured_away(Says, Args) ->
    partisan_dist_reg = ets:new(partisan_dist_reg, [named_table]),
    true = ets:insert(partisan_dist_reg, {{node, ?NODE}, self()}),
    ok = partisan_channel_conf:set(#{?CHANNEL => #{}}),
    ok = partisan_channel_srv:start(),
    Me = self(),
    _ = spawn_link(fun() -> Me ! {answer, partisan_channel_srv:open(?NODE, ?CHANNEL, none, infinity)} end),
    ?assertMatch({channel, {open, ?NAME, #{}}}, message()),
    ok = partisan_channel_conf:set(#{}),
    ok = apply(Says, Args),
    Says =:= fun partisan_channel_srv:opened/6
        andalso ?assertEqual({channel, {retire, ?NAME}}, message()),
    ?assertEqual({answer, {error, {unknown_channel, ?CHANNEL}}}, message()),
    Ref = monitor(process, partisan_channel_srv),
    ok = gen_server:stop(partisan_channel_srv),
    receive {'DOWN', Ref, process, _, _} -> ok end,
    true = ets:delete(partisan_dist_reg).

%% ------------------------------------------------------------------------------------------------

with_channel(Over, S) ->
    S#{chans := #{?NAME => chan(Over)}, next := 2}.

chan(Over) ->
    Chan = #{no => 1, lanes => 1, sockets => #{}, open => false, retries => [1000], peer => self(), idle => infinity,
             quiet => {0, 0}, look => none, renew => false, closing => false},
    maps:merge(Chan, Over).

context(Role) ->
    #{node => ?NODE, role => Role, port => undefined, session_id => <<0:128>>, lane_key => <<0:256>>,
      driver => inet_tcp, up => true}.

%% The test is the node's process for channels.
as_server(Fun) ->
    true = register(partisan_channel_srv, self()),
    try Fun()
    after true = unregister(partisan_channel_srv)
    end.

told() ->
    {'$gen_cast', What} = message(),
    What.

message() ->
    receive M -> M
    after 20000 -> none
    end.
