%% Small pure parts of membership: pauses between dials, options of cores, what may stand for a node.
-module(partisan_membership_tests).

-include_lib("eunit/include/eunit.hrl").

%% Twice as long each time, up to the limit, within a quarter; and from the start again.
pauses_test() ->
    Dial0 = partisan_overlay_dial:new(100, 1000),
    {Pauses, Dial, Rand} =
        lists:foldl(fun(_, {Acc, D0, R0}) ->
                            {Ms, D, R} = partisan_overlay_dial:pause(n, D0, R0),
                            {[Ms | Acc], D, R}
                    end, {[], Dial0, rand:seed_s(exsss, 1)}, lists:seq(1, 40)),
    Expected = [min(1000, 100 bsl min(N, 20)) || N <- lists:seq(0, 39)],
    [?assert(abs(Ms - E) * 4 =< E + 4) || {Ms, E} <- lists:zip(lists:reverse(Pauses), Expected)],
    {First, _, _} = partisan_overlay_dial:pause(n, partisan_overlay_dial:forget(n, Dial), Rand),
    ?assert(First =< 125),
    {Other, _, _} = partisan_overlay_dial:pause(other, Dial, Rand),
    ?assert(Other =< 125).

options_test() ->
    Table = #{n => {integer, 1, 5, 2}, m => {integer, 0, infinity, 7}, w => {one_of, [a, b], a},
              l => {list_of, fun is_atom/1, "atoms", []}},
    Check = fun(Config) -> partisan_overlay_opts:check(Table, Config) end,
    ?assertEqual(#{n => 2, m => 7, w => a, l => []}, Check(#{})),
    ?assertEqual(#{n => 5, m => 0, w => b, l => [x]},
                 Check(#{n => 5, m => 0, w => b, l => [x], somebody_elses => 1})),
    [?assertError({bad_option, Key, Value, [_ | _]}, Check(#{Key => Value}))
     || {Key, Value} <- [{n, 0}, {n, 6}, {n, x}, {m, -1}, {m, 1.0}, {w, c}, {l, [1]}, {l, x}]].

node_specs_test() ->
    From = fun partisan_node_spec:from/1,
    Address = #{ip => {127, 0, 0, 1}, port => 9000},
    ?assertEqual({ok, #{name => a@b, listen_addrs => []}}, From(a@b)),
    ?assertEqual({ok, #{name => a@b, listen_addrs => []}}, From("a@b")),
    ?assertEqual({ok, #{name => a@b, listen_addrs => []}}, From(<<"a@b">>)),
    ?assertEqual({ok, #{name => a@b, listen_addrs => [Address], channels => [x], parallelism => 2}},
                 From(#{name => a@b, listen_addrs => [Address, Address], channels => [x],
                        parallelism => 2})),
    [?assertMatch({error, {_, _}}, From(Bad), Bad)
     || Bad <- [a, "a", "", [], 1, #{}, #{name => "a@b"}, #{name => a@b, listen_addrs => x},
                #{name => a@b, listen_addrs => [x]}, "host:", ":9", "host:0", "host:65536", "host:x",
                <<"host:1x">>, lists:duplicate(256, $a) ++ "@b"]],
    [?assertEqual(a@b, partisan_node_spec:name(Name)) || Name <- [a@b, "a@b", <<"a@b">>, #{name => a@b}]],
    [?assertError(badarg, partisan_node_spec:name(Bad)) || Bad <- [1, #{}, [], [x]]].

%% Backends of discovery say what is wrong with their options.
discovery_options_test() ->
    ?assertEqual({ok, [a@b, c@d]}, partisan_peer_discovery_list:init(#{peers => [a@b, c@d]})),
    ?assertEqual({ok, [a@b], [a@b]}, partisan_peer_discovery_list:lookup([a@b], 1)),
    [?assertMatch({error, [_ | _]}, partisan_peer_discovery_list:init(Bad))
     || Bad <- [#{}, #{peers => x}]],
    [?assertMatch({error, [_ | _]}, partisan_peer_discovery_dns:init(Bad))
     || Bad <- [#{}, #{name => "n"}, #{name => "n", record_type => mx, port => 1},
                #{name => 1, port => 1}, #{name => "n", port => 1, nameservers => x}]].
