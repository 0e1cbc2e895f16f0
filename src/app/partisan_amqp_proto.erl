%% What the node and the port program partisan_amqp say to each other; c_src/amqp/codec.h is the other
%% half. And the form of a message in the broker. Pure.
-module(partisan_amqp_proto).

-export([open/1, publish/4, ack/1, decode/1]).
-export([message/3, heartbeat/1, body/1, max_frame/0]).

-export_type([open/0, event/0, flag/0]).

-define(VERSION, 1).
-define(MAX_FRAME, (64 * 1024 * 1024)).
-define(FORMAT, 1). % of bodies

-type open() :: #{role := publisher | consumer, tls := boolean(), verify := boolean(),
                  port := inet:port_number(), heartbeat := 0..65535, prefetch := 0..65535,
                  timeout := non_neg_integer(), expires := non_neg_integer(),
                  max_bytes := non_neg_integer(),
                  host | vhost | user | password | ca | cert | key | name | direct | fanout | queue
                      := unicode:chardata()}.

-type flag() :: mandatory | persistent | fanout.

-type event() :: ready
               | {confirm | nack, partisan_amqp_window:tag(), Multiple :: boolean()}
               | {returned, partisan_amqp_window:id(), Code :: non_neg_integer()}
               | {blocked, binary()}
               | unblocked
               | {deliver, direct | fanout, Tag :: non_neg_integer(), Body :: binary()}
               | {failed, binary()}.

%% The largest frame that either side takes, without its length.
-spec max_frame() -> pos_integer().
max_frame() -> ?MAX_FRAME.

-spec open(open()) -> iodata().
open(#{role := Role, tls := Tls, verify := Verify, port := Port, heartbeat := Heartbeat,
       prefetch := Prefetch, timeout := Timeout, expires := Expires, max_bytes := MaxBytes} = Open) ->
    Words = [word(maps:get(Key, Open)) || Key <- [host, vhost, user, password, ca, cert, key, name,
                                                  direct, fanout, queue]],
    [<<1, ?VERSION, (role(Role)), (bit(Tls, 1) bor bit(Verify, 2)), Port:16, Heartbeat:16,
       Prefetch:16, Timeout:32, Expires:32, MaxBytes:64>> | Words].

role(publisher) -> 1;
role(consumer) -> 2.

bit(true, Bit) -> Bit;
bit(false, _) -> 0.

word(Text) ->
    Bytes = unicode:characters_to_binary(Text),
    <<(byte_size(Bytes)):16, Bytes/binary>>.

%% Key: the name of the queue, without meaning for the fanout.
-spec publish([flag()], non_neg_integer(), unicode:chardata(), iodata()) -> iodata().
publish(Flags, Id, Key, Body) ->
    Bits = lists:foldl(fun(Flag, Acc) -> flag(Flag) bor Acc end, 0, Flags),
    [<<2, Bits, Id:64>>, word(Key), Body].

flag(mandatory) -> 1;
flag(persistent) -> 2;
flag(fanout) -> 4.

-spec ack(non_neg_integer()) -> iodata().
ack(Tag) -> <<3, Tag:64>>.

-spec decode(binary()) -> {ok, event()} | {error, bad_frame}.
decode(<<1>>) -> {ok, ready};
decode(<<2, Tag:64, Multiple>>) -> {ok, {confirm, Tag, Multiple =/= 0}};
decode(<<3, Tag:64, Multiple>>) -> {ok, {nack, Tag, Multiple =/= 0}};
decode(<<4, Id:64, Code:16>>) -> {ok, {returned, Id, Code}};
decode(<<5, Why/binary>>) -> {ok, {blocked, Why}};
decode(<<6>>) -> {ok, unblocked};
decode(<<7, Tag:64, 0, Body/binary>>) -> {ok, {deliver, direct, Tag, Body}};
decode(<<7, Tag:64, 1, Body/binary>>) -> {ok, {deliver, fanout, Tag, Body}};
decode(<<8, Why/binary>>) -> {ok, {failed, Why}};
decode(_) -> {error, bad_frame}.

%% ------------------------------------------------------------------------------------------------
%% Bodies

%% Origin: who sends. Number: its id and the lowest that is unconfirmed (partisan_amqp_seen). Payload: a
%% destination and a message, in the external format.
-spec message(partisan_amqp_seen:origin(), {pos_integer(), pos_integer()}, iodata()) -> iodata().
message({Name, Inc}, {Id, Low}, Payload) ->
    [<<?FORMAT, $m, Id:64, Low:64, Inc:64, (byte_size(Name)):16, Name/binary>>, Payload].

-spec heartbeat([term()]) -> iodata().
heartbeat(Terms) ->
    [<<?FORMAT, $h>>, term_to_binary(Terms)].

%% The envelope is bytes, and makes no atom and no term. Inside are a user's terms and the names of nodes
%% that are yet unknown, so decoding cannot be `safe`: it makes atoms. Whoever may publish to the broker's
%% exchanges may send to any process, as with a distribution whose cookie is known. Nobody here sends
%% compressed terms, of which a few bytes may become gigabytes.
-spec body(binary()) ->
          {message, partisan_amqp_seen:origin(), {pos_integer(), pos_integer()}, Dest :: term(), term()}
        | {heartbeat, [term()]} | bad_body.
body(<<?FORMAT, $m, Id:64, Low:64, Inc:64, Len:16, Name:Len/binary, Payload/binary>>)
  when Id > 0, Low > 0, Low =< Id, Len > 0 ->
    case term(Payload) of
        {ok, {Dest, Msg}} -> {message, {Name, Inc}, {Id, Low}, Dest, Msg};
        _ -> bad_body
    end;
body(<<?FORMAT, $h, Payload/binary>>) ->
    case term(Payload) of
        {ok, Terms} when is_list(Terms), length(Terms) >= 0 -> {heartbeat, Terms};
        _ -> bad_body
    end;
body(_) ->
    bad_body.

term(<<131, 80, _/binary>>) ->
    error;
term(Bytes) ->
    try binary_to_term(Bytes, [used]) of
        {Term, Used} when Used =:= byte_size(Bytes) -> {ok, Term};
        _ -> error
    catch
        error:_ -> error
    end.
