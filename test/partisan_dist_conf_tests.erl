%% Options: which source wins, what is refused and in which words.
-module(partisan_dist_conf_tests).

-include_lib("eunit/include/eunit.hrl").

check(Args) -> check(Args, []).
check(Args, Env) -> partisan_dist_conf:check(Args, Env, false).

value(Name, {ok, Conf}) -> maps:get(Name, Conf).

defaults_test() ->
    {ok, Conf} = check([]),
    ?assertMatch(#{lanes := 8, lanes_at_start := 2, backend := auto, plain_peers := allow, max_queue := auto}, Conf).

sources_test() ->
    ?assertEqual(3, value(lanes, check([["lanes", "3"]], [{lanes, 5}]))),
    ?assertEqual(5, value(lanes, check([["backend", "poll"]], [{lanes, 5}]))),
    ?assertEqual(poll, value(backend, check([["lanes", "3", "backend", "poll"]]))),
    %% several flags: the last one wins, also within one
    ?assertEqual(7, value(lanes, check([["lanes", "3"], ["lanes", "9", "lanes", "7"]]))),
    ?assertEqual(uring, value(backend, partisan_dist_conf:check([["backend", "poll"]],
                                                                [{backend, poll}], "uring"))),
    ?assertEqual(poll, value(backend, partisan_dist_conf:check([["backend", "poll"]], [], ""))).

%% The rest of the application has options too.
others_test() ->
    ?assertMatch({ok, _}, check([["peer_port", "\"nine\"", "lanes", "2"]], [{membership, x}])).

values_test() ->
    ?assertEqual("bbr", value(congestion, check([["congestion", "bbr"]]))),
    ?assertEqual("bbr", value(congestion, check([], [{congestion, <<"bbr">>}]))),
    ?assertEqual("cubic", value(congestion, check([["congestion", "\"cubic\""]]))),
    ?assertEqual(1, value(lanes, check([["lanes", "1"]]))),
    ?assertEqual(16, value(lanes, check([["lanes", "16"]]))),
    ?assertEqual(auto, value(max_queue, check([["max_queue", "auto"]]))),
    ?assertEqual(1048576, value(max_queue, check([["max_queue", "1048576"]]))).

refused_test_() ->
    [{lists:flatten(io_lib:format("~0p", [Given])),
      fun() ->
              {error, Line} = check(Args, Env),
              %% The line names the option and the bad value, and is one line.
              [?assertNotEqual(nomatch, string:find(Line, Word)) || Word <- Words],
              ?assertEqual(nomatch, string:find(Line, "\n"))
      end}
     || {Args, Env, Words} = Given <-
            [{[["lanes", "0"]], [], ["lanes 0", "1 to 16"]},
             {[["lanes", "17"]], [], ["lanes 17"]},
             {[["lanes", "many"]], [], ["lanes many"]},
             {[["lanes", "auto"]], [], ["lanes auto"]},
             {[["lanes", "2"], ["backend"]], [], ["backend", "no value"]},
             {[["backend", "epoll"]], [], ["backend epoll", "uring or poll"]},
             {[["max_queue", "64m"]], [], ["max_queue 64m"]},
             {[["max_queue", "-1"]], [], ["max_queue -1"]},
             {[["congestion", "\"a b\""]], [], ["congestion a b"]},
             {[["congestion", "name_longer_than_the_kernels"]], [], ["congestion"]},
             {[], [{lanes, "4"}], ["{lanes, ...}", "4"]},
             {[], [{plain_peers, never}], ["{plain_peers, ...}", "never", "allow or refuse"]}]].

refused_backend_of_the_process_environment_test() ->
    {error, Line} = partisan_dist_conf:check([], [], "iouring"),
    ?assertNotEqual(nomatch, string:find(Line, "PARTISAN_BACKEND=iouring")).

%% The limit of the node follows the machine, but leaves room for one peer's.
max_queue_node_test() ->
    MB = 1024 * 1024,
    Complete = fun(Args, Ram) ->
                       {ok, Conf} = check(Args),
                       value(max_queue_node, {ok, partisan_dist_conf:complete(Conf, Ram, 2, 60)})
               end,
    ?assertEqual(1024 * MB, Complete([], 8192 * MB)),
    ?assertEqual(2000000000, Complete([["max_queue", "2000000000"]], 8192 * MB)),
    ?assertEqual(5000000, Complete([["max_queue_node", "5000000"]], 8192 * MB)).

%% One for every eight schedulers, unless somebody wishes another number.
loops_test() ->
    Loops = fun(Args, Schedulers) ->
                    {ok, Conf} = check(Args),
                    value(loops, {ok, partisan_dist_conf:complete(Conf, 1 bsl 30, Schedulers, 60)})
            end,
    ?assertEqual([1, 1, 2, 8, 8], [Loops([], N) || N <- [1, 15, 16, 64, 256]]),
    ?assertEqual(3, Loops([["loops", "3"]], 64)),
    ?assertMatch({error, "partisan: bad option -partisan loops 17 " ++ _}, check([["loops", "17"]])).

max_queue_test() ->
    MB = 1024 * 1024,
    ?assertEqual(1 * MB, partisan_dist_conf:default_max_queue(2 * MB)),
    ?assertEqual(32 * MB, partisan_dist_conf:default_max_queue(128 * MB)),
    ?assertEqual(64 * MB, partisan_dist_conf:default_max_queue(512 * MB)),
    ?assertEqual(256 * MB, partisan_dist_conf:default_max_queue(8192 * MB)),
    ?assertEqual(512 * MB, partisan_dist_conf:default_max_queue(1024 * 1024 * MB)).
