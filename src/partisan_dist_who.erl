%% Which node listens at an address: a question to another carrier's port, for a join by host and
%% port where no epmd can tell the name.
%%
%%   asker      "P" "tsw" Version:8
%%   listener   "P" "tsw" Version:8 Name/binary
%%
%% Packets with a 2-byte length; the listener closes behind its answer. The name is no secret (the
%% standard handshake tells it to whoever asks) and no proof: the connection that follows has the
%% whole handshake, with the cookie, and fails if another node is there.
-module(partisan_dist_who).

-export([is_question/1, answer/2]).
-export([ask/3]).
-export([question/0, answer/1]).

-define(VERSION, 1).

%% ------------------------------------------------------------------------------------------------
%% The listener's side, in the door that was knocked at (partisan_dist_listen)

-spec is_question(binary()) -> boolean().
is_question(<<"Ptsw", _/binary>>) -> true;
is_question(_) -> false.

%% Closes Socket. A question of another version gets this version's answer: its asker can tell.
-spec answer(partisan_dist_addr:driver(), inet:socket()) -> ok.
answer(Driver, Socket) ->
    partisan_dist_reg:count(questions),
    _ = case partisan_dist_addr:allowed_ip(Driver, Socket) of
            true -> Driver:send(Socket, packet(answer(node())));
            {false, _} -> ok
        end,
    _ = Driver:close(Socket),
    ok.

packet(Body) -> [<<(byte_size(Body)):16>>, Body].

%% The bodies of the two packets.
-spec question() -> binary().
question() -> <<"Ptsw", ?VERSION>>.

-spec answer(node()) -> binary().
answer(Node) -> <<"Ptsw", ?VERSION, (atom_to_binary(Node))/binary>>.

%% ------------------------------------------------------------------------------------------------

%% Host: a name or an address, of whichever family it has.
-spec ask(inet:hostname() | inet:ip_address(), inet:port_number(), pos_integer()) ->
          {ok, {node(), inet:ip_address()}} | {error, term()}.
ask(Host, Port, Timeout) ->
    Deadline = partisan_dist_listen:deadline(Timeout),
    Families = case Host of
                   {_, _, _, _} -> [{inet_tcp, inet}];
                   {_, _, _, _, _, _, _, _} -> [{inet6_tcp, inet6}];
                   _ -> [{inet_tcp, inet}, {inet6_tcp, inet6}]
               end,
    first(Families, Host, Port, Deadline, {error, nxdomain}).

first([], _Host, _Port, _Deadline, Last) ->
    Last;
first([{Driver, Family} | Rest], Host, Port, Deadline, _Last) ->
    Answer = case inet:getaddr(Host, Family) of
                 {ok, Ip} -> ask_ip(Driver, Ip, Port, Deadline);
                 {error, _} = Error -> Error
             end,
    case Answer of
        {ok, _} -> Answer;
        {error, _} -> first(Rest, Host, Port, Deadline, Answer)
    end.

ask_ip(Driver, Ip, Port, Deadline) ->
    Options = partisan_dist_addr:connect_options(),
    case Driver:connect(Ip, Port, Options, partisan_dist_listen:left(Deadline)) of
        {ok, Socket} ->
            Answer = case Driver:send(Socket, packet(question())) of
                         ok -> partisan_dist_listen:recv_packet(Driver, Socket, Deadline);
                         {error, _} = Error -> Error
                     end,
            _ = Driver:close(Socket),
            name(Answer, Ip);
        {error, _} = Error ->
            Error
    end.

name({ok, <<"Ptsw", _Version, Name/binary>>}, Ip) when byte_size(Name) =< 255 * 4 ->
    try binary_to_atom(Name, utf8) of
        Node ->
            case partisan_dist_addr:is_node_name(Node) of
                true -> {ok, {Node, Ip}};
                false -> {error, not_a_carrier}
            end
    catch
        error:_ -> {error, not_a_carrier}
    end;
name({error, Reason}, _Ip) when Reason =/= closed ->
    {error, Reason};
name(_, _Ip) ->
    {error, not_a_carrier}. % closed: something else listens there, or a carrier of before
