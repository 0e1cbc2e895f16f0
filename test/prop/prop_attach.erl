%% The attaching of a lane, of the distribution's or of a channel, with anything at the other end: the
%% acceptor takes what the connector's code says and nothing else, and neither fails on any bytes.
-module(prop_attach).

-include("pt_proper.hrl").

-import(proper_types, [binary/0, frequency/1, integer/2, oneof/1]).

-export([prop_request_damaged/0, prop_any_packet/0, prop_answers_damaged/0]).
%% The sockets of partisan_dist_attach: what is read lies in the process dictionary.
-export([connect/4, send/2, recv/3, close/1, controlling_process/2]).

-define(ID, <<"0123456789abcdef">>).
-define(KEY, <<"the lane key of this session 32B">>).

lane() -> oneof([integer(1, 255), {channel(), integer(0, 255)}]).
channel() -> oneof([<<>>, <<"vnode">>, binary(), <<255:2040>>]).

%% One byte changed, or the end lost: refused, with the socket closed, unless it asks for the same.
prop_request_damaged() ->
    ?FORALL({Lane, At, Byte, Cut}, {lane(), integer(0, 400), integer(0, 255), integer(0, 4)},
        begin
            Request = request(Lane),
            Changed = change(Request, At rem byte_size(Request), Byte),
            Packet = binary:part(Changed, 0, max(0, byte_size(Changed) - Cut)),
            ok = logger:set_module_level(partisan_dist_reg, none), % a line for each
            partisan_dist_attach:is_attach(Request) andalso refused(Packet)
        end).

prop_any_packet() ->
    ?FORALL({Start, Rest}, {oneof([<<>>, <<"P">>, <<"Ptsn", 1>>, <<"Ptsc", 1>>, <<"Ptsc", 2>>]), binary()},
        begin
            ok = logger:set_module_level(partisan_dist_reg, none),
            Packet = <<Start/binary, Rest/binary>>,
            is_boolean(partisan_dist_attach:is_attach(Packet)) andalso refused(Packet)
        end).

%% No session has this id here, so nothing is ever let in; what counts is that it is said and closed.
refused(Packet) ->
    put(closed, 0),
    ok = partisan_dist_attach:accept(?MODULE, socket, Packet,
                                     partisan_dist_listen:deadline(1000), none),
    get(closed) =:= 1.

%% What the acceptor says is damaged, cut or anything: the connector fails with words. Its process ends
%% then, and the socket with it.
prop_answers_damaged() ->
    ?FORALL({Lane, Answers}, {lane(), proper_types:list(answer())},
        begin
            ok = loaded(),
            put(answers, Answers),
            _ = partisan_dist_attach:open(self(), Lane,
                                          #{driver => ?MODULE, target => {{127, 0, 0, 1}, 1},
                                            session_id => ?ID, lane_key => ?KEY}),
            receive
                {failed, Lane, Why} -> is_binary(iolist_to_binary(Why));
                {opened, Lane, _} -> false
            after 0 -> false
            end
        end).

answer() ->
    frequency([{3, binary()}, {3, proper_types:binary(49)}, {1, <<"P", 0>>}, {2, error},
               {3, ?LET(B, proper_types:binary(48), <<"P", B/binary>>)}]).

loaded() -> partisan_nif:load(filename:absname("priv/partisan_drv")).

%% As the connector's code sends it.
request(Lane) ->
    ok = loaded(),
    put(answers, []),
    _ = partisan_dist_attach:open(self(), Lane, #{driver => ?MODULE, target => {{127, 0, 0, 1}, 1},
                                                  session_id => ?ID, lane_key => ?KEY}),
    receive {failed, _, _} -> ok after 0 -> ok end,
    <<_:16, Request/binary>> = get(sent),
    Request.

change(Bin, At, Byte) ->
    <<Before:At/binary, _, Behind/binary>> = Bin,
    <<Before/binary, Byte, Behind/binary>>.

%% ------------------------------------------------------------------------------------------------

connect(_Ip, _Port, _Options, _Timeout) ->
    put(part, none),
    {ok, socket}.

send(socket, Data) ->
    put(sent, iolist_to_binary(Data)),
    ok.

recv(socket, Length, _Timeout) ->
    case {get(part), get(answers)} of
        {none, [error | Rest]} ->
            put(answers, Rest),
            {error, closed};
        {none, [Answer | Rest]} ->
            put(answers, Rest),
            put(part, Answer),
            <<Head:2/binary>> = <<(byte_size(Answer)):16>>,
            {ok, Head};
        {none, []} ->
            {error, timeout};
        {Part, _} ->
            put(part, none),
            case byte_size(Part) of
                Length -> {ok, Part};
                _ -> {error, closed}
            end
    end.

close(socket) ->
    put(closed, get(closed) + 1),
    ok.

controlling_process(socket, _Pid) -> ok.
