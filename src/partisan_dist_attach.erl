%% Attaching a further lane to a session: both sides of the conversation.
%%
%% Packets with a 2-byte length on a new connection to the peer's listen port:
%%
%%   connector  "P" "tsn" Version:8 SessionId:16/binary Lane:8 NonceC:16/binary
%%   acceptor   "P" NonceA:16/binary MacA:32/binary
%%   connector  "P" MacC:32/binary
%%   acceptor   "P" 0
%%
%% MacA and MacC = HMAC-SHA256(lane key, Label, SessionId, Lane, NonceC, NonceA) with the labels
%% "partisan lane acceptor" and "partisan lane connector". Each side proves the key before the other
%% lets it near the session, and fresh nonces on both sides make a recording worthless. The acceptor
%% adopts the lane right after its last packet, the connector when it has read it: a lane that is
%% refused was never part of the session. Frames may follow the last packet at once; they wait in
%% the kernel, because nothing here reads more than the packet.
%%
%% A lane of a channel is attached in the same way; its first packet and its MACs also say which:
%%
%%   connector  "P" "tsc" Version:8 SessionId:16/binary Lane:8 NonceC:16/binary Size:8 Name:Size/binary
%%
%% with the labels "partisan channel acceptor" and "partisan channel connector", and Name in UTF-8
%% behind NonceA. Lanes of a channel are numbered from 0.
-module(partisan_dist_attach).

-export([is_attach/1, accept/5, open/3, accepted/2]).

-export_type([lane/0]).

%% Of the distribution's own, or of a channel.
-type lane() :: 1..255 | {Channel :: binary(), 0..255}.

-define(TAG, $P).
-define(VERSION, 1).

%% ------------------------------------------------------------------------------------------------
%% The acceptor's side, in the door that the lane knocks at (partisan_dist_listen)

-spec is_attach(binary()) -> boolean().
is_attach(<<?TAG, "tsn", _/binary>>) -> true;
is_attach(<<?TAG, "tsc", _/binary>>) -> true;
is_attach(_) -> false.

%% Runs in the door's process, which owns Socket; ends with the socket closed or given to the
%% session's process.
-spec accept(partisan_dist_addr:driver(), inet:socket(), binary(), Deadline :: integer(),
             partisan_dist_listen:gate()) -> ok.
accept(Driver, Socket, Packet, Deadline, Gate) ->
    case try_accept(Driver, Socket, Packet, Deadline, Gate) of
        ok ->
            partisan_dist_reg:count(lanes);
        {error, Why} ->
            partisan_dist_reg:count(refused_lanes),
            refused(Why),
            Driver:close(Socket),
            ok
    end.

%% Who knew the session's name and went away meanwhile is its peer: the connection ended, or an overlay
%% took the link down. Nobody has to act on that.
refused("closed") ->
    partisan_dist_reg:log_limited(given_up_lane, info, "partisan: a lane was given up by the peer "
                                  "before it was attached", []);
refused(ended) ->
    partisan_dist_reg:log_limited(late_lane, info, "partisan: a lane came after its session had ended",
                                  []);
refused(Why) ->
    partisan_dist_reg:log_limited(refused_lane, notice, "partisan: refused a lane: ~ts", [Why]).

try_accept(Driver, Socket, Packet, Deadline, Gate) ->
    case request(Packet) of
        {ok, Id, Lane, NonceC} ->
            case partisan_dist_reg:lookup(Id) of
                {ok, Pid} -> prove(Driver, Socket, Pid, {Id, Lane, NonceC}, Deadline, Gate);
                ended -> {error, ended};
                error -> {error, "no such session (it may have ended a while ago)"}
            end;
        error ->
            {error, "an attach request of another version"}
    end.

prove(Driver, Socket, Pid, {Id, Lane, NonceC}, Deadline, Gate) ->
    case ask(Pid, Lane, Deadline) of
        {ok, Key} ->
            NonceA = partisan_nif:random(16),
            {MacC, MacA} = macs(Key, Id, Lane, NonceC, NonceA),
            Proof = <<?TAG, NonceA/binary, MacA/binary>>,
            maybe_ok([fun() -> send(Driver, Socket, Proof) end,
                      fun() -> expect_mac(Driver, Socket, MacC, Deadline) end,
                      fun() -> pass(Gate) end,
                      fun() -> give(Driver, Socket, Pid, {attached, Lane, Socket}) end]);
        {error, _} = Error ->
            Error
    end.

request(<<?TAG, "tsn", ?VERSION:8, Id:16/binary, Lane:8, NonceC:16/binary>>) ->
    {ok, Id, Lane, NonceC};
request(<<?TAG, "tsc", ?VERSION:8, Id:16/binary, Lane:8, NonceC:16/binary, Size:8,
          Name:Size/binary>>) ->
    {ok, Id, {Name, Lane}, NonceC};
request(_) ->
    error.

request(Id, Lane, NonceC) when is_integer(Lane) ->
    <<?TAG, "tsn", ?VERSION:8, Id/binary, Lane:8, NonceC/binary>>;
request(Id, {Name, Lane}, NonceC) ->
    <<?TAG, "tsc", ?VERSION:8, Id/binary, Lane:8, NonceC/binary, (byte_size(Name)):8, Name/binary>>.

pass(Gate) ->
    case partisan_dist_listen:authenticated(Gate) of
        true -> ok;
        false -> {error, "too many half-open connections (option max_half_open)"}
    end.

%% The last word to the connector, said by the session's process when the lane is its own.
-spec accepted(partisan_dist_addr:driver(), inet:socket()) -> ok | {error, iolist()}.
accepted(Driver, Socket) ->
    send(Driver, Socket, <<?TAG, 0>>).

%% The session may be a moment away from being up.
ask(Pid, Lane, Deadline) ->
    Ref = erlang:monitor(process, Pid),
    Pid ! {attach, self(), Ref, Lane},
    receive
        {Ref, Answer} ->
            erlang:demonitor(Ref, [flush]),
            Answer;
        {'DOWN', Ref, process, _, _} ->
            {error, ended}
    after partisan_dist_listen:left(Deadline) ->
            {error, "the session did not come up in time"}
    end.

%% ------------------------------------------------------------------------------------------------
%% The connector's side of one lane, in a process of its own

%% Tells Owner {opened, Lane, Socket}, with the socket handed over, or {failed, Lane, Why}.
-spec open(pid(), lane(), map()) -> term().
open(Owner, Lane, #{driver := Driver, target := {Ip, Port}} = Options) ->
    Deadline = partisan_dist_listen:deadline(partisan_dist_addr:setup_time()),
    case Driver:connect(Ip, Port, partisan_dist_addr:connect_options(),
                        partisan_dist_listen:left(Deadline)) of
        {ok, Socket} ->
            partisan_dist_addr:hide_peer(Socket, Ip),
            case knock(Driver, Socket, Lane, Options, Deadline) of
                ok ->
                    case give(Driver, Socket, Owner, {opened, Lane, Socket}) of
                        ok -> ok;
                        {error, Why} -> Owner ! {failed, Lane, Why}
                    end;
                {error, Why} ->
                    Owner ! {failed, Lane, Why}
            end;
        {error, Reason} ->
            Owner ! {failed, Lane, words(Reason)}
    end.

knock(Driver, Socket, Lane, #{session_id := Id, lane_key := Key}, Deadline) ->
    NonceC = partisan_nif:random(16),
    case send(Driver, Socket, request(Id, Lane, NonceC)) of
        ok ->
            case recv(Driver, Socket, Deadline) of
                {ok, <<?TAG, NonceA:16/binary, Theirs:32/binary>>} ->
                    {MacC, MacA} = macs(Key, Id, Lane, NonceC, NonceA),
                    case partisan_nif:equal(MacA, Theirs) of
                        true ->
                            maybe_ok([fun() -> send(Driver, Socket, <<?TAG, MacC/binary>>) end,
                                      fun() -> expect(Driver, Socket, <<?TAG, 0>>, Deadline) end]);
                        false ->
                            {error, "whoever answers at the peer's address is not the peer"}
                    end;
                {ok, _} ->
                    {error, "the peer answered with nonsense"};
                {error, _} = Error ->
                    Error
            end;
        {error, _} = Error ->
            Error
    end.

%% ------------------------------------------------------------------------------------------------
%% Small parts of both

macs(Key, Id, Lane, NonceC, NonceA) when is_integer(Lane) ->
    Context = [Id, Lane, NonceC, NonceA],
    {partisan_nif:hmac(Key, ["partisan lane connector" | Context]),
     partisan_nif:hmac(Key, ["partisan lane acceptor" | Context])};
macs(Key, Id, {Name, Lane}, NonceC, NonceA) ->
    Context = [Id, Lane, NonceC, NonceA, Name],
    {partisan_nif:hmac(Key, ["partisan channel connector" | Context]),
     partisan_nif:hmac(Key, ["partisan channel acceptor" | Context])}.

maybe_ok([Step | Rest]) ->
    case Step() of
        ok -> maybe_ok(Rest);
        {error, _} = Error -> Error
    end;
maybe_ok([]) ->
    ok.

send(Driver, Socket, Packet) ->
    case Driver:send(Socket, [<<(byte_size(Packet)):16>>, Packet]) of
        ok -> ok;
        {error, Reason} -> {error, words(Reason)}
    end.

recv(Driver, Socket, Deadline) ->
    case partisan_dist_listen:recv_packet(Driver, Socket, Deadline) of
        {ok, _} = Ok -> Ok;
        {error, closed} -> {error, "refused by the peer"};
        {error, Reason} -> {error, words(Reason)}
    end.

expect(Driver, Socket, Packet, Deadline) ->
    case recv(Driver, Socket, Deadline) of
        {ok, Packet} -> ok;
        {ok, _} -> {error, "the peer answered with nonsense"};
        {error, _} = Error -> Error
    end.

expect_mac(Driver, Socket, Mac, Deadline) ->
    case partisan_dist_listen:recv_packet(Driver, Socket, Deadline) of
        {ok, <<?TAG, Theirs:32/binary>>} ->
            case partisan_nif:equal(Mac, Theirs) of
                true -> ok;
                false -> {error, "its proof of the session's key is wrong"}
            end;
        {ok, _} -> {error, "it answered with nonsense"};
        {error, Reason} -> {error, words(Reason)}
    end.

give(Driver, Socket, Pid, Message) ->
    case Driver:controlling_process(Socket, Pid) of
        ok -> Pid ! Message, ok;
        {error, Reason} -> {error, words(Reason)}
    end.

words({too_long, Length}) -> io_lib:format("a packet of ~b bytes", [Length]);
words(Reason) when Reason =:= closed; Reason =:= econnreset; Reason =:= epipe; Reason =:= enotconn -> "closed";
words(badarg) -> "closed"; %% inet:controlling_process/2 of a socket that has just closed
words(timeout) -> "no answer in time";
words(Reason) when is_atom(Reason) -> partisan_dist_listen:text(Reason);
words(Reason) -> io_lib:format("~0tp", [Reason]).
