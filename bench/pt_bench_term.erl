%% Payloads that are terms, not binaries: what the VM's encoder and decoder have to walk.
%%
%%   list  integers of 32 bits, 5 bytes each in the external format (a list of bytes would travel as
%%         a string, which is a copy);
%%   map   numbers to records of a small service: an atom, a short binary, a float, a list.
%%
%% A receiver has all terms of its own and compares; the hash that travels beside one is that of the
%% term, and tells a damaged message from one that belongs elsewhere.
-module(pt_bench_term).
-export([prepare/2, set/2, get/3, intact/5]).
-export_type([set/0]).

-define(KEYS, 16).

-type set() :: {terms, tuple()}.

%% Makes the terms of about Size bytes in the external format known on this node.
-spec prepare(list | map, pos_integer()) -> ok.
prepare(Form, Size) ->
    Key = {?MODULE, Form, Size},
    case persistent_term:get(Key, none) of
        none ->
            Made = [build(Form, Size, K) || K <- lists:seq(1, ?KEYS)],
            persistent_term:put(Key, {terms, list_to_tuple([{erlang:phash2(T), T} || T <- Made])});
        _ ->
            ok
    end.

-spec set(list | map, pos_integer()) -> set().
set(Form, Size) -> persistent_term:get({?MODULE, Form, Size}).

-spec get(pos_integer(), pos_integer(), set()) -> {Hash :: non_neg_integer(), term()}.
get(Flow, Seq, {terms, Terms}) -> element(key(Flow, Seq), Terms).

-spec intact(pos_integer(), term(), term(), term(), set()) -> boolean().
intact(Flow, Seq, Hash, Got, Set) when is_integer(Seq) -> get(Flow, Seq, Set) =:= {Hash, Got};
intact(_Flow, _Seq, _Hash, _Got, _Set) -> false.

key(Flow, Seq) -> (abs(Seq) + Flow * 7) rem ?KEYS + 1.

build(Form, Size, K) ->
    %% Entries by the size of one; the head of the whole is smaller than an entry.
    Each = (erlang:external_size(entries(Form, 20, K)) - erlang:external_size(entries(Form, 10, K))) / 10,
    entries(Form, max(1, round((Size - 7) / Each)), K).

entries(list, N, K) ->
    [(K * 7919 + I * 104729) rem 1000000 + 1000000 || I <- lists:seq(1, N)];
entries(map, N, K) ->
    maps:from_list([
        {1000 + I, {customer, <<(K * 7919 + I):64, "account">>, I / 4, [I rem 200, true]}}
     || I <- lists:seq(1, N)
    ]).
