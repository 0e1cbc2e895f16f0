%% An endpoint: what hubs and mortals share. Stamps what it sends, checks what it receives, counts.
-module(oracle_ep).

-export([new/1, send/4, send/5, call_reply/4, exit2/3, check/4, check_only/3]).
-export([count/2, count/3, violation/2, promise/1, kept/1, promises/1]).
-export([stats/1, rx/1, set_rx/2, sent_to/2, is_mine/1]).

-record(ep, {rx, tx = #{} :: #{pid() => pos_integer()},
             counts = #{} :: #{atom() => non_neg_integer()},
             promised = 0, kept = 0, bytes = 0, biggest = 0}).

-define(STAMP, o).


new(Mode) -> #ep{rx = oracle_rx:new(Mode)}.

rx(#ep{rx = Rx}) -> Rx.
set_rx(Rx, Ep) -> Ep#ep{rx = Rx}.

sent_to(Pid, #ep{tx = Tx}) -> maps:get(Pid, Tx, 0).

is_mine({?STAMP, _, _, _, _}) -> true;
is_mine(_) -> false.

%% Target: #{pid, name := {Name, Node} | none, alias := reference | none}
send(Target, Body, Size, Ep) ->
    Forms = [{4, pid}]
        ++ [{3, name} || maps:get(name, Target, none) =/= none]
        ++ [{3, alias} || maps:get(alias, Target, none) =/= none],
    send(oracle_gen:weighted(Forms), Target, Body, Size, Ep).

send(Form, #{pid := Pid} = Target, Body, Size, Ep) ->
    {Seq, Ep1} = next(Pid, Size, Ep),
    Msg = {?STAMP, Seq, self(), Body, oracle_gen:payload(Size)},
    {Dest, Kind} = case Form of
                       pid -> {Pid, send_pid};
                       name -> {maps:get(name, Target), send_name};
                       alias -> {maps:get(alias, Target), send_alias}
                   end,
    _ = erlang:send(Dest, Msg),
    count(Kind, Ep1).

%% A reply through the alias of a monitor (as gen_server:reply/2 does).
call_reply(Pid, Ref, Size, Ep) ->
    {Seq, Ep1} = next(Pid, Size, Ep),
    _ = erlang:send(Ref, {?STAMP, Seq, self(), {reply, Ref}, oracle_gen:payload(Size)}),
    count(alias_reply, Ep1).

exit2(Pid, Size, Ep) ->
    {Seq, Ep1} = next(Pid, Size, Ep),
    exit(Pid, {?STAMP, Seq, self(), exit2, oracle_gen:payload(Size)}),
    count(case Size > 60000 of true -> exit2_large; false -> exit2_small end, Ep1).

%% The number of the next signal to Pid, and whether it carries a token.
next(Pid, Size, #ep{tx = Tx, bytes = B, biggest = Big} = Ep0) ->
    Ep = case oracle_gen:token() of
             true -> count(traced, Ep0);
             false -> Ep0
         end,
    Seq = maps:get(Pid, Tx, 0) + 1,
    {Seq, Ep#ep{tx = Tx#{Pid => Seq}, bytes = B + Size, biggest = max(Big, Size)}}.

%% Checks one stamped signal: order and content.
check(From, Seq, Payload, Ep) ->
    Ep1 = check_only(From, Seq, Ep),
    case oracle_gen:intact(Payload) of
        true -> Ep1;
        false ->
            violation({damaged, From, {number, Seq}, describe(Payload)}, Ep1)
    end.

check_only(From, Seq, #ep{rx = Rx} = Ep) ->
    case oracle_rx:seen(From, Seq, Rx) of
        {ok, Rx1} -> count(received, Ep#ep{rx = Rx1});
        {Bad, Rx1} -> violation(Bad, count(received, Ep#ep{rx = Rx1}))
    end.

describe({p, Off, Size, Form, _}) -> {payload, Off, Size, Form};
describe(Other) -> {not_a_payload, io_lib:format("~0P", [Other, 10])}.

violation(What, Ep) ->
    oracle_node ! {violation, self(), What},
    count(violations, Ep).

count(Kind, Ep) -> count(Kind, 1, Ep).
count(Kind, N, #ep{counts = C} = Ep) ->
    Ep#ep{counts = maps:update_with(Kind, fun(V) -> V + N end, N, C)}.

promise(#ep{promised = P} = Ep) -> Ep#ep{promised = P + 1}.
kept(#ep{kept = K} = Ep) -> Ep#ep{kept = K + 1}.
promises(#ep{promised = P, kept = K}) -> {P, K}.

stats(#ep{counts = C, rx = Rx, promised = P, kept = K, bytes = B, biggest = Big}) ->
    #{counts => C, pairs => oracle_rx:pairs(Rx), promised => P, kept => K, bytes => B,
      biggest => Big}.
