%% One line of JSON from maps, lists, strings, atoms and numbers (OTP has no encoder before 27).
%% Lists are arrays; text must be a binary or an atom.
-module(pt_bench_json).
-export([line/1]).

-spec line(map()) -> iolist().
line(Map) -> [value(Map), $\n].

value(Map) when is_map(Map) ->
    Members = [[string(key(K)), $:, value(V)] || {K, V} <- lists:sort(maps:to_list(Map))],
    [${, lists:join($,, Members), $}];
value(List) when is_list(List) -> [$[, lists:join($,, [value(V) || V <- List]), $]];
value(true) -> "true";
value(false) -> "false";
value(Null) when Null =:= null; Null =:= none; Null =:= undefined -> "null";
value(Atom) when is_atom(Atom) -> string(atom_to_binary(Atom));
value(Int) when is_integer(Int) -> integer_to_list(Int);
value(Float) when is_float(Float) -> io_lib:format("~.6g", [Float]);
value(Bin) when is_binary(Bin) -> string(Bin).

key(K) when is_atom(K) -> atom_to_binary(K);
key(K) when is_binary(K) -> K.

string(Bin) -> [$", [escape(C) || <<C/utf8>> <= Bin], $"].

escape($") -> "\\\"";
escape($\\) -> "\\\\";
escape(C) when C < 32 -> io_lib:format("\\u~4.16.0b", [C]);
escape(C) -> <<C/utf8>>.
