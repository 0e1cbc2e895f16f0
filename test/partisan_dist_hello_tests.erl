%% The hello: what is on the wire, what is found behind a name, what is refused.
-module(partisan_dist_hello_tests).

-include_lib("eunit/include/eunit.hrl").

nonce() -> <<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>>.

send_name(Tail) ->
    <<$N, 16#D07DF7FBD:64, 77:32, 5:16, "a@b.c", Tail/binary>>.

challenge(Tail) ->
    <<$N, 16#D07DF7FBD:64, 4711:32, 77:32, 5:16, "d@e.f", Tail/binary>>.

found(Tail) ->
    Answer = partisan_dist_hello:find({send_name, send_name(Tail)}),
    ?assertEqual(Answer, partisan_dist_hello:find({challenge, challenge(Tail)})),
    Answer.

%% The bytes of version 1: an accidental change would part old nodes from new ones.
wire_test() ->
    ?assertEqual(<<"ptsn", 1, 1, 0, 34,
                   1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1,
                   2, 0, 1, 4,
                   3, 0, 16, (nonce())/binary>>,
                 partisan_dist_hello:encode(partisan_dist_hello:new(4, nonce()))).

found_test() ->
    Hello = partisan_dist_hello:new(9, nonce()),
    ?assertEqual({ok, Hello}, found(partisan_dist_hello:encode(Hello))),
    %% Somebody else may have put something behind it.
    ?assertEqual({ok, Hello}, found(<<(partisan_dist_hello:encode(Hello))/binary, "other">>)).

plain_test() ->
    ?assertEqual(none, found(<<>>)),
    ?assertEqual(none, found(<<"pts">>)),
    ?assertEqual(none, found(<<"something else">>)),
    %% Too short a name, and the packet of before OTP 23, which has no room for a hello.
    ?assertEqual(none, partisan_dist_hello:find({send_name, <<$N, 0:64, 0:32, 9:16, "a@b">>})),
    ?assertEqual(none, partisan_dist_hello:find({send_name, <<$n, 0:16, 0:32, "a@b">>})),
    ?assertEqual(none, partisan_dist_hello:find({send_name, <<$N>>})).

tlv(Type, Value) -> <<Type:8, (byte_size(Value)):16, Value/binary>>.

hello(Tlvs) -> hello(1, 1, Tlvs).

hello(Version, Oldest, Tlvs) ->
    Bin = iolist_to_binary(Tlvs),
    <<"ptsn", Version, Oldest, (byte_size(Bin)):16, Bin/binary>>.

unknown_elements_are_skipped_test() ->
    Tlvs = [tlv(200, <<"future">>), tlv(2, <<3>>), tlv(4, <<"channels">>), tlv(3, nonce()),
            tlv(200, <<>>)],
    ?assertEqual({ok, #{version => 7, oldest => 1, capabilities => 0, lanes => 3,
                        nonce => nonce()}},
                 found(hello(7, 1, Tlvs))).

malformed_test_() ->
    [{Title, ?_assertMatch({error, [_ | _]}, found(Tail))}
     || {Title, Tail} <-
            [{"magic alone", <<"ptsn">>},
             {"length beyond the packet", <<"ptsn", 1, 1, 40:16, (tlv(2, <<3>>))/binary>>},
             {"no elements", hello([])},
             {"no nonce", hello([tlv(2, <<3>>)])},
             {"no lanes", hello([tlv(3, nonce())])},
             {"zero lanes", hello([tlv(2, <<0>>), tlv(3, nonce())])},
             {"lanes of two bytes", hello([tlv(2, <<0, 3>>), tlv(3, nonce())])},
             {"short nonce", hello([tlv(2, <<3>>), tlv(3, <<1>>)])},
             {"short capabilities", hello([tlv(1, <<1>>), tlv(2, <<3>>), tlv(3, nonce())])},
             {"lanes twice", hello([tlv(2, <<3>>), tlv(2, <<3>>), tlv(3, nonce())])},
             {"element cut", hello([tlv(2, <<3>>), tlv(3, nonce()), <<9, 0, 5, 1>>])},
             {"element header cut", hello([tlv(2, <<3>>), tlv(3, nonce()), <<9>>])},
             {"oldest above newest", hello(1, 2, [tlv(2, <<3>>), tlv(3, nonce())])}]].

agree_test() ->
    Mine = partisan_dist_hello:new(4, nonce()),
    Agree = fun(Changes) ->
                    Theirs = maps:merge(Mine, Changes),
                    Answer = partisan_dist_hello:agree(Mine, Theirs),
                    Swapped = partisan_dist_hello:agree(Theirs, Mine),
                    ?assertEqual(element(1, Answer), element(1, Swapped)),
                    element(1, Answer) =:= error orelse ?assertEqual(Answer, Swapped),
                    Answer
            end,
    ?assertMatch({ok, #{lanes := 2}}, Agree(#{lanes => 2})),
    ?assertMatch({ok, #{lanes := 4}}, Agree(#{lanes => 255})),
    ?assertMatch({ok, #{version := 1}}, Agree(#{version => 9, oldest => 1})),
    {ok, All} = Agree(#{capabilities => 16#ffffffffffffffff}),
    ?assert(partisan_dist_hello:has(channel_names, All)),
    ?assertEqual(maps:get(capabilities, Mine), maps:get(capabilities, All)),
    {ok, None} = Agree(#{capabilities => 0}),
    ?assertNot(partisan_dist_hello:has(channel_names, None)),
    ?assertMatch({error, [_ | _]}, Agree(#{version => 9, oldest => 2})).
