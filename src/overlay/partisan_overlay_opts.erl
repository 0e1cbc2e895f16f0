%% Options of overlay cores, checked against a table. Keys that the table does not have are somebody
%% else's and left out.
-module(partisan_overlay_opts).

-export([check/2]).

-export_type([table/0]).

-type table() :: #{atom() => {integer, Min :: integer(), Max :: integer() | infinity, Default :: integer()}
                           | {one_of, [term()], Default :: term()}
                           | {list_of, fun((term()) -> boolean()), What :: string(), Default :: list()}}.

%% Fails with `{bad_option, Key, Value, Expected}` on the first bad value.
-spec check(table(), partisan_overlay:config()) -> #{atom() => term()}.
check(Table, Config) ->
    maps:map(fun(Key, Type) ->
                     Default = element(tuple_size(Type), Type),
                     Value = maps:get(Key, Config, Default),
                     good(Type, Value) orelse error({bad_option, Key, Value, expected(Type)}),
                     Value
             end, Table).

good({integer, Min, infinity, _}, N) -> is_integer(N) andalso N >= Min;
good({integer, Min, Max, _}, N) -> is_integer(N) andalso N >= Min andalso N =< Max;
good({one_of, Values, _}, Value) -> lists:member(Value, Values);
good({list_of, Is, _, _}, Values) -> is_list(Values) andalso lists:all(Is, Values).

expected({integer, Min, infinity, _}) -> io_lib_line("an integer from ~b", [Min]);
expected({integer, Min, Max, _}) -> io_lib_line("an integer from ~b to ~b", [Min, Max]);
expected({one_of, Values, _}) ->
    lists:flatten(["one of ", lists:join(", ", [io_lib_line("~0tp", [V]) || V <- Values])]);
expected({list_of, _, What, _}) -> "a list of " ++ What.

io_lib_line(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
