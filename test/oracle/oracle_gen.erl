%% Random choices of the oracle: sizes, address forms, payloads. All from the process' own seed.
-module(oracle_gen).

-export([seed/1, pick/1, chance/1, weighted/1, token/0]).
-export([serial/0, make_pool/1, payload/1, intact/1, bytes/1, mix/1]).

-define(POOL_BYTES, (40 * 1024 * 1024)).
-define(POOL, oracle_pool).
-define(SERIAL, oracle_serial).

seed(Term) ->
    _ = rand:seed(exsss, erlang:phash2(Term, 1 bsl 32)),
    ok.

pick(L) -> lists:nth(rand:uniform(length(L)), L).

%% True once in N.
chance(N) -> rand:uniform(N) =:= 1.

%% Once in three the next signals of this process carry a token of seq_trace: the VM has control
%% operations of their own for them. A token comes with every message that has one, so it is put down
%% as often as it is taken up.
token() ->
    case chance(3) of
        true -> seq_trace:set_token(label, rand:uniform(1000)), true;
        false -> seq_trace:set_token([]), false
    end.

weighted(L) ->
    weighted(L, rand:uniform(lists:sum([W || {W, _} <- L]))).

weighted([{W, X} | _], R) when R =< W -> X;
weighted([{W, _} | T], R) -> weighted(T, R - W).

%% The same random bytes on every node: a receiver compares what it got with what the stamp says,
%% which finds what a checksum finds and tells where the difference is. Random, not tiled, so that
%% pieces put together in the wrong order or from another message cannot look right.
make_pool(Seed) ->
    {Bytes, _} = rand:bytes_s(?POOL_BYTES, rand:seed_s(exsss, Seed)),
    persistent_term:put(?SERIAL, atomics:new(1, [])),
    persistent_term:put(?POOL, Bytes).

%% 1, 2, 3... on this node.
serial() -> atomics:add_get(persistent_term:get(?SERIAL), 1, 1).

%% {p, Offset, Length, Form, Data}
payload(Size) ->
    Off = rand:uniform(?POOL_BYTES - Size + 1) - 1,
    Bin = binary:part(persistent_term:get(?POOL), Off, Size),
    %% Lists and nested terms end up inside the encoded control buffer, large binaries are passed
    %% by reference: both have to be carried.
    case Size < 20000 andalso chance(8) of
        true -> {p, Off, Size, list, binary_to_list(Bin)};
        false -> {p, Off, Size, bin, Bin}
    end.

intact({p, Off, Size, bin, Data}) ->
    Data =:= binary:part(persistent_term:get(?POOL), Off, Size);
intact({p, Off, Size, list, Data}) ->
    is_list(Data) andalso
        list_to_binary(Data) =:= binary:part(persistent_term:get(?POOL), Off, Size);
intact(_) ->
    false.

%% Mostly small; some around the VM's fragment size (64 KB); a few of megabytes.
mix(chatty) ->
    weighted([{55, tiny}, {32, small}, {11, medium}, {2, frag}]);
mix(mixed) ->
    weighted([{500, tiny}, {300, small}, {130, medium}, {55, frag}, {14, large}]);
mix(bulk) ->
    weighted([{50, frag}, {45, large}, {5, huge}]).

bytes(Mix) when Mix =:= chatty; Mix =:= mixed; Mix =:= bulk -> bytes(mix(Mix));
bytes(tiny) -> rand:uniform(65) - 1;
bytes(small) -> 64 + rand:uniform(1436);
bytes(medium) -> 1500 + rand:uniform(58000);
bytes(frag) ->
    case chance(3) of
        true -> 65536 - 40 + rand:uniform(80);
        false -> 60000 + rand:uniform(140000)
    end;
bytes(large) -> 200000 + rand:uniform(3000000);
bytes(huge) -> 4000000 + rand:uniform(36 * 1000 * 1000).
