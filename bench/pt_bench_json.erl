%% Lines of JSON from maps, lists, strings, atoms and numbers, and back (OTP has nothing for it
%% before 27). Lists are arrays; text must be a binary or an atom, and comes back as a binary.
-module(pt_bench_json).
-export([line/1, parse/1]).

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

%% A whole value. A line that was cut short is an error, as anything else that is no JSON.
-spec parse(binary()) -> {ok, term()} | error.
parse(Text) ->
    try from(blank(Text)) of
        {Value, Rest} ->
            case blank(Rest) of
                <<>> -> {ok, Value};
                _ -> error
            end
    catch
        error:_ -> error
    end.

from(<<"{", T/binary>>) -> members(blank(T), #{});
from(<<"[", T/binary>>) -> elements(blank(T), []);
from(<<"\"", T/binary>>) -> text(T, <<>>);
from(<<"true", T/binary>>) -> {true, T};
from(<<"false", T/binary>>) -> {false, T};
from(<<"null", T/binary>>) -> {null, T};
from(T) -> number(T).

members(<<"}", T/binary>>, Map) -> {Map, T};
members(<<",", T/binary>>, Map) when map_size(Map) > 0 -> member(blank(T), Map);
members(T, Map) when map_size(Map) =:= 0 -> member(T, Map).

member(<<"\"", T/binary>>, Map) ->
    {Key, T1} = text(T, <<>>),
    <<":", T2/binary>> = blank(T1),
    {Value, T3} = from(blank(T2)),
    members(blank(T3), Map#{Key => Value}).

elements(<<"]", T/binary>>, Got) -> {lists:reverse(Got), T};
elements(<<",", T/binary>>, [_ | _] = Got) -> element_(blank(T), Got);
elements(T, []) -> element_(T, []).

element_(T, Got) ->
    {Value, T1} = from(T),
    elements(blank(T1), [Value | Got]).

text(<<"\"", T/binary>>, Got) -> {Got, T};
text(<<"\\u", Hex:4/binary, T/binary>>, Got) -> unicode(binary_to_integer(Hex, 16), T, Got);
text(<<"\\", C, T/binary>>, Got) -> text(T, <<Got/binary, (unescape(C))>>);
text(<<C/utf8, T/binary>>, Got) when C >= 32 -> text(T, <<Got/binary, C/utf8>>).

unicode(High, <<"\\u", Hex:4/binary, T/binary>>, Got) when High >= 16#D800, High < 16#DC00 ->
    Low = binary_to_integer(Hex, 16),
    Char = 16#10000 + ((High - 16#D800) bsl 10) + (Low - 16#DC00),
    text(T, <<Got/binary, Char/utf8>>);
unicode(Char, T, Got) ->
    text(T, <<Got/binary, Char/utf8>>).

unescape($n) -> $\n;
unescape($t) -> $\t;
unescape($r) -> $\r;
unescape($b) -> $\b;
unescape($f) -> $\f;
unescape(C) when C =:= $"; C =:= $\\; C =:= $/ -> C.

number(T) ->
    {match, [{0, Size} | Groups]} =
        re:run(T, "^-?[0-9]+(\\.[0-9]+)?([eE][-+]?[0-9]+)?", [{capture, all}]),
    <<Digits:Size/binary, Rest/binary>> = T,
    Value =
        case Groups of
            [] -> binary_to_integer(Digits);
            [{-1, 0}, {At, _}] ->
                %% 1e5 is no float to Erlang.
                <<Whole:At/binary, Exponent/binary>> = Digits,
                binary_to_float(<<Whole/binary, ".0", Exponent/binary>>);
            _ -> binary_to_float(Digits)
        end,
    {Value, Rest}.

blank(<<C, T/binary>>) when C =:= $\s; C =:= $\t; C =:= $\n; C =:= $\r -> blank(T);
blank(T) -> T.
