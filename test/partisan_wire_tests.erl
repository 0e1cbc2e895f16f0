%% The vectors of docs/wire-protocol.md that concern the handshake and the attaching of lanes; those
%% of frames are checked by test/c/test_vectors.c.
-module(partisan_wire_tests).

-include_lib("eunit/include/eunit.hrl").

%% The driver of partisan_dist_attach: an acceptor that follows the document.
-export([connect/4, send/2, recv/3, controlling_process/2, close/1]).

-define(COOKIE, secret).
-define(LANE, 2).

vectors() ->
    {ok, Text} = file:read_file("docs/wire-protocol.md"), % tests run in the root of the tree
    Blocks = tl(binary:split(Text, <<"```vectors\n">>, [global])),
    maps:from_list(lists:append([block(hd(binary:split(B, <<"```">>))) || B <- Blocks])).

%% A line that begins with a blank goes on with the one before.
block(Block) ->
    Joined = binary:replace(Block, <<"\n ">>, <<" ">>, [global]),
    [begin
         [Name, Hex] = binary:split(Line, <<":">>),
         {binary_to_list(Name), binary:decode_hex(binary:replace(Hex, <<" ">>, <<>>, [global]))}
     end || Line <- binary:split(Joined, <<"\n">>, [global]), Line =/= <<>>].

vector(Name) -> maps:get(Name, vectors()).

packet(Bytes) -> <<(byte_size(Bytes)):16, Bytes/binary>>.

counting(From, N) -> list_to_binary(lists:seq(From, From + N - 1)).

%% ------------------------------------------------------------------------------------------------

hello_test() ->
    Hello = fun(Lanes, Nonce) ->
                    New = partisan_dist_hello:new(Lanes, Nonce),
                    partisan_dist_hello:encode(New#{capabilities := 0}) end,
    Mine = Hello(4, counting(0, 16)),
    Theirs = Hello(2, counting(16, 16)),
    {Flags, C1, C2} = {16#D07DF7FBD, 16#01020304, 16#0a0b0c0d},
    ?assertEqual(vector("hello.send_name"),
                 packet(<<$N, Flags:64, 1:32, 11:16, "a@127.0.0.1", Mine/binary>>)),
    ?assertEqual(vector("hello.status"), packet(<<"sok">>)),
    ?assertEqual(vector("hello.challenge"),
                 packet(<<$N, Flags:64, C1:32, 2:32, 11:16, "b@127.0.0.1", Theirs/binary>>)),
    Digest = fun(Challenge) -> erlang:md5([atom_to_list(?COOKIE), integer_to_list(Challenge)]) end,
    ?assertEqual(vector("hello.reply"), packet(<<$r, C2:32, (Digest(C1))/binary>>)),
    ?assertEqual(vector("hello.ack"), packet(<<$a, (Digest(C2))/binary>>)),

    <<_:16, SendName/binary>> = vector("hello.send_name"),
    <<_:16, Challenge/binary>> = vector("hello.challenge"),
    {ok, A} = partisan_dist_hello:find({send_name, SendName}),
    {ok, B} = partisan_dist_hello:find({challenge, Challenge}),
    ?assertEqual({ok, #{version => 1, capabilities => 0, lanes => 2}},
                 partisan_dist_hello:agree(A, B)).

keys_test() ->
    ok = partisan_nif:load(filename:absname("priv/partisan_drv")),
    ?assertEqual(atom_to_binary(?COOKIE), vector("key.cookie")),
    Transcript = [vector("hello." ++ Name) || Name <- ["send_name", "status", "challenge", "reply",
                                                       "ack"]],
    ?assertEqual(#{session_id => vector("key.session_id"),
                   lane_key => vector("key.lane"),
                   connector_mac => vector("key.connector_mac"),
                   acceptor_mac => vector("key.acceptor_mac")},
                 partisan_dist_hs:keys(?COOKIE, Transcript)).

%% ------------------------------------------------------------------------------------------------

mac(Who, NonceC, NonceA) ->
    Id = vector("key.session_id"),
    partisan_nif:hmac(vector("key.lane"),
                      ["partisan lane ", Who, Id, ?LANE, NonceC, NonceA]).

attach_vectors_test() ->
    ok = partisan_nif:load(filename:absname("priv/partisan_drv")),
    {NonceC, NonceA} = {counting(16#20, 16), counting(16#30, 16)},
    ?assertEqual(vector("attach.request"),
                 packet(<<"Ptsn", 1, (vector("key.session_id"))/binary, ?LANE, NonceC/binary>>)),
    ?assertEqual(vector("attach.proof"),
                 packet(<<"P", NonceA/binary, (mac("acceptor", NonceC, NonceA))/binary>>)),
    ?assertEqual(vector("attach.answer"), packet(<<"P", (mac("connector", NonceC, NonceA))/binary>>)),
    ?assertEqual(vector("attach.end"), packet(<<"P", 0>>)).

channel_attach_vectors_test() ->
    ok = partisan_nif:load(filename:absname("priv/partisan_drv")),
    {NonceC, NonceA} = {counting(16#20, 16), counting(16#30, 16)},
    ?assertEqual(vector("attach.channel_request"),
                 packet(<<"Ptsc", 1, (vector("key.session_id"))/binary, 3, NonceC/binary, 5, "vnode">>)),
    ?assertEqual(vector("attach.channel_proof"),
                 packet(<<"P", NonceA/binary, (channel_mac("acceptor", NonceC, NonceA))/binary>>)),
    ?assertEqual(vector("attach.channel_answer"),
                 packet(<<"P", (channel_mac("connector", NonceC, NonceA))/binary>>)).

channel_mac(Who, NonceC, NonceA) ->
    partisan_nif:hmac(vector("key.lane"), ["partisan channel ", Who, vector("key.session_id"), 3, NonceC,
                                           NonceA, "vnode"]).

question_vectors_test() ->
    ?assertEqual(vector("who.question"), packet(partisan_dist_who:question())),
    ?assertEqual(vector("who.answer"), packet(partisan_dist_who:answer('b@127.0.0.1'))),
    ?assert(partisan_dist_who:is_question(partisan_dist_who:question())),
    ?assertNot(partisan_dist_attach:is_attach(partisan_dist_who:question())).

%% The connector of the code with an acceptor of the document.
attach_test_() ->
    [fun() ->
             ok = partisan_nif:load(filename:absname("priv/partisan_drv")),
             ok = partisan_dist_attach:open(self(), Lane,
                                            #{driver => ?MODULE, target => {{127, 0, 0, 1}, 1},
                                              session_id => vector("key.session_id"),
                                              lane_key => vector("key.lane")}),
             receive {opened, Lane, _} -> ok after 0 -> error(not_opened) end,
             ?assertEqual([], erase(?MODULE))
     end || Lane <- [?LANE, {<<"vnode">>, 3}]].

%% What the acceptor has to say lies in the process dictionary, with its lengths.
connect(_Ip, _Port, _Options, _Timeout) ->
    put(?MODULE, []),
    {ok, socket}.

send(socket, Data) ->
    case iolist_to_binary(Data) of
        <<38:16, "Ptsn", 1, Id:16/binary, ?LANE, NonceC:16/binary>> ->
            ?assertEqual(vector("key.session_id"), Id),
            NonceA = counting(1, 16),
            put(nonces, {NonceC, NonceA}),
            put(mac, fun mac/3),
            say(<<"P", NonceA/binary, (mac("acceptor", NonceC, NonceA))/binary>>);
        <<44:16, "Ptsc", 1, Id:16/binary, 3, NonceC:16/binary, 5, "vnode">> ->
            ?assertEqual(vector("key.session_id"), Id),
            NonceA = counting(1, 16),
            put(nonces, {NonceC, NonceA}),
            put(mac, fun channel_mac/3),
            say(<<"P", NonceA/binary, (channel_mac("acceptor", NonceC, NonceA))/binary>>);
        <<33:16, "P", Mac:32/binary>> ->
            {NonceC, NonceA} = erase(nonces),
            ?assertEqual((get(mac))("connector", NonceC, NonceA), Mac),
            say(<<"P", 0>>)
    end.

say(Packet) ->
    put(?MODULE, [<<(byte_size(Packet)):16>>, Packet]),
    ok.

recv(socket, Length, _Timeout) ->
    [Part | Rest] = get(?MODULE),
    ?assertEqual(Length, byte_size(Part)),
    put(?MODULE, Rest),
    {ok, Part}.

controlling_process(socket, _Pid) -> ok.

close(socket) -> ok.
