%% The overlay over a broker, without one: frames, window, copies, membership, options; and the processes
%% with programs that behave badly.
-module(partisan_amqp_tests).

-include_lib("eunit/include/eunit.hrl").

%% ------------------------------------------------------------------------------------------------
%% Frames

frames_test() ->
    D = fun partisan_amqp_proto:decode/1,
    Good = [{<<1>>, ready}, {<<2, 258:64, 1>>, {confirm, 258, true}}, {<<3, 1:64, 0>>, {nack, 1, false}},
            {<<4, 7:64, 312:16>>, {returned, 7, 312}}, {<<5, "low on memory">>, {blocked, <<"low on memory">>}},
            {<<6>>, unblocked}, {<<7, 9:64, 0, "body">>, {deliver, direct, 9, <<"body">>}},
            {<<7, 9:64, 1>>, {deliver, fanout, 9, <<>>}}, {<<8, "why">>, {failed, <<"why">>}}],
    [?assertEqual({ok, Event}, D(Frame)) || {Frame, Event} <- Good],
    [?assertEqual({error, bad_frame}, D(Bad))
     || Bad <- [<<>>, <<0>>, <<9>>, <<1, 0>>, <<2, 1:64>>, <<4, 7:64>>, <<6, 6>>, <<7, 1:63, 0:1>>,
                <<7, 1:64, 2>>]].

%% The bytes that test/c/test_amqp_codec.c reads.
open_frame_test() ->
    Open = #{role => consumer, tls => true, verify => true, port => 5672, heartbeat => 10,
             prefetch => 256, timeout => 10000, expires => 3600000, max_bytes => 16#100000002,
             host => "host", vhost => "/v", user => "u", password => <<"päss"/utf8>>, ca => "",
             cert => "", key => "", name => "n", direct => "d", fanout => "f", queue => "q"},
    ?assertEqual(<<1, 1, 2, 3, 5672:16, 10:16, 256:16, 10000:32, 3600000:32, 16#100000002:64,
                   4:16, "host", 2:16, "/v", 1:16, "u", 5:16, "p", 16#c3, 16#a4, "ss", 0:16, 0:16, 0:16,
                   1:16, "n", 1:16, "d", 1:16, "f", 1:16, "q">>,
                 iolist_to_binary(partisan_amqp_proto:open(Open))),
    ?assertEqual(<<2, 3, 16#0102030405060708:64, 3:16, "key", "a", 0, "b">>,
                 iolist_to_binary(partisan_amqp_proto:publish([mandatory, persistent], 16#0102030405060708,
                                                              "key", <<"a", 0, "b">>))),
    ?assertEqual(<<3, 256:64>>, iolist_to_binary(partisan_amqp_proto:ack(256))).

bodies_test() ->
    Body = fun(IoData) -> partisan_amqp_proto:body(iolist_to_binary(IoData)) end,
    ?assertEqual({message, {<<"a@b">>, 77}, {3, 2}, {x, [1]}, <<"m">>},
                 Body(partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 2}, term_to_binary({{x, [1]}, <<"m">>})))),
    ?assertEqual({heartbeat, [x, y]}, Body(partisan_amqp_proto:heartbeat([x, y]))),
    Whole = iolist_to_binary(partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 2}, term_to_binary({x, y}))),
    [?assertEqual(bad_body, Body(binary:part(Whole, 0, N))) || N <- lists:seq(0, byte_size(Whole) - 1)],
    [?assertEqual(bad_body, Body(Bad))
     || Bad <- [<<1, $h, 1, 2>>, [<<1, $h>>, term_to_binary(x)],
                partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 2}, term_to_binary(x)), <<2, $h>>,
                [<<1, $h>>, term_to_binary([x | y])], [<<1, $h>>, term_to_binary([]), 0],
                [Whole, 0], partisan_amqp_proto:message({<<>>, 77}, {3, 2}, term_to_binary({x, y})),
                partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 4}, term_to_binary({x, y})),
                partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 0}, term_to_binary({x, y})),
                %% nothing that grows when it is decoded
                [<<1, $h>>, term_to_binary(lists:duplicate(1000, x), [compressed])],
                partisan_amqp_proto:message({<<"a@b">>, 77}, {3, 2},
                                            term_to_binary({x, binary:copy(<<0>>, 10000)}, [compressed]))]],
    %% The origin is what it says, and makes no atom.
    Long = binary:copy(<<255>>, 300),
    ?assertMatch({message, {Long, 77}, {3, 2}, x, y},
                 Body(partisan_amqp_proto:message({Long, 77}, {3, 2}, term_to_binary({x, y})))).

%% ------------------------------------------------------------------------------------------------
%% Any sequence of sends, confirms, returns and lost connections: the window keeps its bounds, forgets
%% nothing, gives each message back once; and the receiver takes each message of an ideal queue once.
window_test_() ->
    {timeout, 60, fun() -> [window_run(Seed) || Seed <- lists:seq(1, 300)] end}.

-record(w, {window, next = 1, sent = #{}, tag = 0, done = [], queue = [], rand}).

window_run(Seed) ->
    W0 = #w{window = partisan_amqp_window:new(8, 100), rand = rand:seed_s(exsss, Seed)},
    W = lists:foldl(fun(_, Acc) -> window_step(Acc) end, W0, lists:seq(1, 400)),
    %% At the end the broker confirms everything.
    Left = drain(W#w{window = partisan_amqp_window:reset(W#w.window), sent = #{}, tag = 0}),
    ?assertEqual(0, partisan_amqp_window:size(Left#w.window)),
    ?assertEqual(0, partisan_amqp_window:bytes(Left#w.window)),
    ?assertEqual(lists:seq(1, Left#w.next - 1), lists:sort(Left#w.done)),
    ?assert(Left#w.next > 20),
    %% What was published is in the queue in that order, with copies.
    {Got, _, Ids} = lists:foldl(fun({Id, Low}, {Acc, Seen0, Most}) ->
                                    {What, Seen} = partisan_amqp_seen:check({n, 1}, Id, Low, 0, Seen0),
                                    {[Id || What =:= new] ++ Acc, Seen,
                                     max(Most, partisan_amqp_seen:size(Seen))}
                                end, {[], partisan_amqp_seen:new(), 0}, lists:reverse(Left#w.queue)),
    ?assertEqual(lists:seq(1, Left#w.next - 1), lists:sort(Got)),
    ?assert(Ids =< 8 + 1).

window_step(#w{window = Win, next = Next, rand = R0} = W) ->
    {What, R1} = rand:uniform_s(10, R0),
    {Size, R} = rand:uniform_s(40, R1),
    ?assert(partisan_amqp_window:size(Win) =< 8),
    ?assert(partisan_amqp_window:bytes(Win) =< 100),
    case What of
        1 -> W#w{window = partisan_amqp_window:reset(Win), sent = #{}, tag = 0, rand = R};
        2 -> W#w{window = partisan_amqp_window:published(Win), tag = W#w.tag + 1, rand = R};
        N when N =< 5 ->
            case partisan_amqp_window:add({item, Next}, Size, Win) of
                {ok, Next, Win1} -> W#w{window = Win1, next = Next + 1, rand = R};
                full -> W#w{rand = R}
            end;
        N when N =< 8 -> publish_one(W#w{rand = R});
        _ -> confirm_some(Size, W#w{rand = R})
    end.

publish_one(#w{window = Win, sent = Sent, tag = Tag, queue = Queue} = W) ->
    case partisan_amqp_window:next(Win) of
        none -> W;
        {Id, {item, Id}, Win1} ->
            Low = partisan_amqp_window:low(Win1),
            ?assert(Low =< Id),
            W#w{window = Win1, sent = Sent#{Tag + 1 => Id}, tag = Tag + 1, queue = [{Id, Low} | Queue]}
    end.

confirm_some(Choice, #w{tag = Last} = W) ->
    %% A tag that was not given out changes nothing.
    ?assertEqual({[], W#w.window}, partisan_amqp_window:confirm(Last + 1, true, W#w.window)),
    case Last of
        0 -> W;
        _ -> confirm(1 + Choice rem Last, Choice rem 2 =:= 0, W)
    end.

confirm(Tag, Multiple, #w{window = Win, sent = Sent, done = Done} = W) ->
    Tags = [T || T <- lists:sort(maps:keys(Sent)), T =:= Tag orelse Multiple andalso T < Tag],
    Expected = [maps:get(T, Sent) || T <- Tags],
    {Gone, Win1} = partisan_amqp_window:confirm(Tag, Multiple, Win),
    ?assertEqual([{Id, {item, Id}, false} || Id <- Expected], Gone),
    W#w{window = Win1, sent = maps:without(Tags, Sent), done = Expected ++ Done}.

drain(#w{} = W) ->
    case publish_one(W) of
        W when W#w.tag =:= 0 -> W;
        W -> confirm(W#w.tag, true, W);
        More -> drain(More)
    end.

window_returned_test() ->
    {ok, 1, W1} = partisan_amqp_window:add(a, 1, partisan_amqp_window:new(2, 10)),
    ?assertEqual(full, partisan_amqp_window:add(b, 100, W1)),
    {ok, 2, W2} = partisan_amqp_window:add(b, 1, W1),
    ?assertEqual(full, partisan_amqp_window:add(c, 1, W2)),
    {1, a, W3} = partisan_amqp_window:next(W2),
    {2, b, W4} = partisan_amqp_window:next(W3),
    {[{2, b, false}], W5} = partisan_amqp_window:confirm(2, false, partisan_amqp_window:returned(1, W4)),
    %% Ids are what bounds it, so that a receiver knows how many to remember.
    ?assertEqual(full, partisan_amqp_window:add(c, 1, W5)),
    {[{1, a, true}], W6} = partisan_amqp_window:confirm(1, false, W5),
    ?assertMatch({ok, 3, _}, partisan_amqp_window:add(c, 100, W6)). % alone, larger than the window

%% ------------------------------------------------------------------------------------------------
%% Membership

-define(CORE, partisan_overlay_amqp).

core(Name) ->
    {St, Fx} = ?CORE:init(#{name => Name}, #{incarnation => 10, heartbeat_interval => 100,
                                             down_after => 300, forget_after => 1000}, 0, rand:seed_s(exsss)),
    ?assertEqual([{members, [#{name => Name}]}, {timer, sweep, 100}], Fx),
    St.

%% The state after the events, and the effects without answers and timers.
events(Events, St0) ->
    lists:foldl(fun({Now, Event}, {St, Fx}) ->
                        {St1, New} = ?CORE:handle(Event, Now, St),
                        {St1, Fx ++ [E || E <- New, element(1, E) =/= timer, element(1, E) =/= reply]}
                end, {St0, []}, Events).

heard(Now, Term) -> {Now, {call, t, {heard, Term}}}.

beat(St) ->
    {St1, [{reply, t, {publish, Terms}}]} = ?CORE:handle({call, t, beat}, 0, St),
    {Terms, St1}.

silence_test() ->
    B = #{name => b},
    {St1, Fx1} = events([heard(0, {here, B, 1})], core(a)),
    ?assertEqual([{members, [#{name => a}, B]}, {notify, {neighbour_up, B}}], Fx1),
    {St2, []} = events([heard(200, {here, B, 1}), {450, {timer, sweep}}], St1),
    {St3, Fx3} = events([{500, {timer, sweep}}], St2),
    ?assertEqual([{notify, {neighbour_down, b, silent}}], Fx3),
    ?assertMatch(#{members := [_, B], neighbours := []}, ?CORE:info(St3)),
    {_, Fx4} = events([heard(600, {here, B, 1})], St3),
    ?assertEqual([{members, [#{name => a}, B]}, {notify, {neighbour_up, B}}], Fx4),
    {St5, Fx5} = events([{1200, {timer, sweep}}], St3),
    ?assertEqual([{members, [#{name => a}]}], Fx5),
    ?assertMatch(#{members := [_], neighbours := []}, ?CORE:info(St5)).

restart_test() ->
    B = #{name => b},
    {St, _} = events([heard(0, {here, B, 1})], core(a)),
    {_, Fx} = events([heard(1, {here, B, 2}), heard(2, {here, B, 1})], St),
    ?assertEqual([{notify, {neighbour_down, b, restarted}}, {members, [#{name => a}, B]},
                  {notify, {neighbour_up, B}}], Fx).

leave_test() ->
    A = core(a),
    {[{here, _, 10}], _} = beat(A),
    {Out, Fx} = events([heard(0, {here, #{name => b}, 1}), {1, {leave, a}}, heard(2, {here, #{name => b}, 1})], A),
    ?assertMatch([_, _, {members, [#{name := a}]}, {notify, {neighbour_down, b, left}}, {notify, left}], Fx),
    {[{bye, a, 10}], Quiet} = beat(Out),
    {[], _} = beat(Quiet),
    {In, []} = events([{3, {join, #{name => b}}}], Quiet),
    {[{in, b}, {here, _, 11}], _} = beat(In),
    %% The other one, to which late heartbeats come as well.
    {B, FxB} = events([heard(0, {here, #{name => a}, 10}), heard(1, {bye, a, 10}),
                       heard(2, {here, #{name => a}, 10})], core(b)),
    ?assertMatch([_, _, {members, [_]}, {notify, {neighbour_down, a, left}}], FxB),
    {_, Fx2} = events([heard(3, {here, #{name => a}, 11})], B),
    ?assertMatch([{members, [_, _]}, {notify, {neighbour_up, _}}], Fx2).

taken_out_test() ->
    {St, Fx} = events([heard(0, {here, #{name => b}, 1}), {1, {leave, b}}], core(a)),
    ?assertMatch([_, _, {members, [_]}, {notify, {neighbour_down, b, left}}], Fx),
    {[{out, b, 1}, {here, _, _}], _} = beat(St),
    %% b hears it, is silent, and comes back when somebody invites it.
    {B, FxB} = events([heard(0, {out, b, 10})], core(b)),
    ?assertMatch([{log, _, _, _}, {members, [_]}], FxB),
    {[], _} = beat(B),
    {Back, []} = events([heard(1, {in, b})], B),
    {[{here, _, 11}], _} = beat(Back),
    {_, []} = events([heard(0, {out, b, 9})], core(b)). % of an incarnation before

%% Anything at all may come from a broker.
strange_test() ->
    St = core(a),
    [?assertEqual({St, []}, events([heard(0, Term)], St))
     || Term <- [x, {}, {here, x, 1}, {here, #{name => "b"}, 1}, {here, #{name => b}, x}, {bye, 1, 2},
                 {bye, b, x}, {here, #{name => a}, 99}, {bye, a, 99}, {in, 1}, [1 | 2],
                 {here, #{name => b, listen_addrs => x}, 1}, {here, #{name => b, listen_addrs => [x | y]}, 1}]],
    [?assertMatch({St, [{reply, t, Answer}]}, ?CORE:handle({call, t, {heard, Term}}, 0, St))
     || {Term, Answer} <- [{{here, #{name => b, listen_addrs => [#{ip => {1, 2, 3}, port => 1}]}, 1}, malformed},
                           {{here, #{name => b}, x}, malformed}, {{news, b}, malformed}, {{bye, a, 99}, ok}]],
    [?assertEqual({St, []}, events([{0, Event}], St)) || Event <- [{up, b}, {down, b, x}, {msg, b, x}]].

%% ------------------------------------------------------------------------------------------------
%% Options

options_test() ->
    Check = fun partisan_amqp_conf:check/1,
    {ok, #{port := 5672, host := <<"localhost">>, tls := false} = Conf} = Check(#{}),
    {ok, #{port := 5671, tls := #{verify := false, cert := ""}}} =
        Check([{tls, #{verify => false, ca => ""}}]),
    [?assertMatch({error, [_ | _]}, Check(Bad))
     || Bad <- [#{hots => "h"}, #{host => ""}, #{host => 1}, #{port => 0}, #{window => 0},
                #{tls => #{ca => "/nowhere"}}, #{tls => #{ca => "", cert => "/dev/null"}}, #{tls => 1},
                #{tls => #{ca => "", what => 1}}]],
    %% A password is in no error.
    {error, Line} = Check(#{password => secret}),
    ?assertEqual(nomatch, string:find(Line, "secret")),
    Long = list_to_atom(lists:duplicate(250, $a) ++ "@b"),
    ?assert(byte_size(partisan_amqp_conf:queue(Long, Conf)) =< 255),
    ?assertNotEqual(partisan_amqp_conf:queue(a@b, Conf), partisan_amqp_conf:queue(c@b, Conf)).

%% ------------------------------------------------------------------------------------------------
%% The processes, with programs in place of partisan_amqp

processes_test_() ->
    [{timeout, 90, {Title, fun() -> with(Program, Options, Fun) end}}
     || {Title, Program, Options, Fun} <-
            [{"a broker that never confirms", "printf '\\000\\000\\000\\001\\001'; exec cat >/dev/null",
              #{window => 5}, fun never_confirms/0},
             {"a program that cannot run", "exit 127", #{}, fun cannot_run/0},
             {"a program that says nonsense", "printf '\\000\\000\\000\\002zz'; exec cat >/dev/null", #{},
              fun nonsense/0},
             {"a program that ends while it is written to",
              "echo x >>\"$0.runs\"; printf '\\000\\000\\000\\001\\001'", #{reconnect_max => 10},
              fun ends/0},
             {"no program", none, #{}, fun cannot_run/0}]].

never_confirms() ->
    await(fun() -> maps:get(connected, partisan_amqp_pub:info()) end),
    Send = fun(Opts) -> partisan_amqp_pub:send(b@c, x, m, Opts) end,
    [?assertEqual(ok, Send(#{nosuspend => true})) || _ <- lists:seq(1, 5)],
    ?assertEqual({error, busy}, Send(#{nosuspend => true})),
    ?assertEqual({error, busy}, Send(#{timeout => 10})),
    ?assertEqual({error, busy}, Send(#{timeout => 10, confirm => true})),
    ?assertMatch(#{unconfirmed := 5, waiting := 0}, partisan_amqp_pub:info()),
    ?assertEqual({error, too_large},
                 partisan_amqp_pub:send(b@c, x, <<0:(partisan_amqp_proto:max_frame() * 8)>>, #{})),
    %% A sender that waits holds up neither others nor the process.
    {_, Mon} = spawn_monitor(fun() -> exit(Send(#{timeout => infinity})) end),
    await(fun() -> maps:get(waiting, partisan_amqp_pub:info()) =:= 1 end),
    ok = application:stop(partisan),
    receive {'DOWN', Mon, _, _, Reason} -> ?assertEqual({error, not_yet_connected}, Reason)
    after 20000 -> error(stuck)
    end.

cannot_run() ->
    await(fun() -> is_binary(maps:get(problem, partisan_amqp_pub:info())) end),
    ?assertMatch(#{connected := false}, partisan_amqp_pub:info()),
    ?assertMatch({ok, [_]}, partisan_peer_service:members()).

%% Larger than a pipe holds, so that some of it is still being written: the port ends, its owner does not.
ends() ->
    Pid = whereis(partisan_amqp_pub),
    ok = partisan_amqp_pub:send(b@c, x, <<0:8000000>>, #{}),
    {ok, #{program := Program}} = application:get_env(partisan, amqp),
    await(fun() -> filelib:file_size(Program ++ ".runs") >= 60 end), % some thirty, of both processes
    ?assertMatch(#{unconfirmed := 1}, partisan_amqp_pub:info()),
    ?assertEqual(Pid, whereis(partisan_amqp_pub)).

nonsense() ->
    cannot_run(),
    ?assertMatch(#{connected := false}, partisan_amqp_sub:info()).

with(Program, Options, Fun) ->
    {ok, Cwd} = file:get_cwd(),
    File = filename:join([Cwd, "build", "eunit", "amqp_program_" ++ integer_to_list(erlang:unique_integer([positive]))]),
    Program =:= none orelse
        begin
            ok = file:write_file(File, ["#!/bin/sh\n", Program, "\n"]),
            ok = file:change_mode(File, 8#755)
        end,
    _ = file:delete(File ++ ".runs"),
    #{level := Level} = logger:get_primary_config(),
    logger:set_primary_config(level, critical),
    _ = application:load(partisan),
    application:set_env(partisan, peer_service_manager, partisan_amqp_peer_service_manager),
    application:set_env(partisan, amqp, Options#{program => File, reconnect_min => 10, timeout => 2000}),
    {ok, _} = application:ensure_all_started(partisan),
    try Fun()
    after
        _ = application:stop(partisan),
        application:unset_env(partisan, peer_service_manager),
        application:unset_env(partisan, amqp),
        logger:set_primary_config(level, Level)
    end.

await(Fun) -> await(Fun, erlang:monotonic_time(millisecond) + 40000).

await(Fun, Deadline) ->
    case Fun() of
        true -> ok;
        false ->
            ?assert(erlang:monotonic_time(millisecond) < Deadline),
            timer:sleep(10),
            await(Fun, Deadline)
    end.
