%% Small parts of Partisan's that others call, of both generations.
-module(partisan_util).

-export([get/2, get/3, maps_append/3, apply/4, encode/1, encode/2, format_posix_error/1,
         parse_ip_address/1, parse_listen_address/1, parse_port_nbr/1, maybe_connect_disterl/1,
         maybe_pad_term/1]).
-export([build_tree/3, dispatch_pid/1, dispatch_pid/2, dispatch_pid/3, process_forward/2,
         term_to_iolist/1, gensym/1, pid/0, pid/1, ref/1, registered_name/1]).

-compile({no_auto_import, [apply/3]}).

%% ------------------------------------------------------------------------------------------------
%% Partisan 5

%% In a map or a list; badkey if it is not there.
-spec get(term(), map() | list()) -> term().
get(Key, Map) when is_map(Map) -> maps:get(Key, Map);
get(Key, List) when is_list(List) ->
    case lists:keyfind(Key, 1, List) of
        {Key, Value} -> Value;
        false -> error({badkey, Key})
    end.

-spec get(term(), map() | list(), term()) -> term().
get(Key, Map, Default) when is_map(Map) -> maps:get(Key, Map, Default);
get(Key, List, Default) when is_list(List) -> proplists:get_value(Key, List, Default).

-spec maps_append(term(), term(), map()) -> map().
maps_append(Key, Value, Map) ->
    maps:update_with(Key, fun(List) -> [Value | List] end, [Value], Map).

%% The function's result, or the default if the module has no such function.
-spec apply(module(), atom(), [term()], term()) -> term().
apply(Mod, Fun, Args, Default) ->
    _ = code:ensure_loaded(Mod),
    case erlang:function_exported(Mod, Fun, length(Args)) of
        true -> erlang:apply(Mod, Fun, Args);
        false -> Default
    end.

-spec encode(term()) -> iodata().
encode(Term) -> encode(Term, []).

%% Pids and references inside stay native: they work on any node.
-spec encode(term(), list()) -> iodata().
encode(Term, Opts) ->
    Known = [Opt || Opt <- Opts, case Opt of
                                     compressed -> true;
                                     {compressed, _} -> true;
                                     _ -> false
                                 end],
    erlang:term_to_iovec(Term, Known).

-spec format_posix_error(atom() | term()) -> string() | term().
format_posix_error(Reason) when is_atom(Reason) ->
    case inet:format_error(Reason) of
        "unknown POSIX error" ++ _ -> Reason;
        Text -> Text
    end;
format_posix_error(Reason) -> Reason.

%% badarg for what is none.
-spec parse_ip_address(inet:ip_address() | string() | binary()) -> inet:ip_address().
parse_ip_address(Term) ->
    #{ip := Ip} = address(Term, {Term, 1}, 1),
    Ip.

-spec parse_port_nbr(inet:port_number() | string() | binary()) -> inet:port_number().
parse_port_nbr(Term) ->
    #{port := Port} = address(Term, {{127, 0, 0, 1}, Term}, 1),
    Port.

%% Without a port: that of `listen_port`.
-spec parse_listen_address(term()) -> partisan:listen_addr().
parse_listen_address(Term) ->
    address(Term, Term, partisan_config:get(listen_port, 9090)).

address(Term, Address, Port) ->
    case partisan_config_table:address(Address, Port) of
        {ok, Parsed} -> Parsed;
        error -> error(badarg, [Term])
    end.

%% Nodes are connected by the distribution in any case.
-spec maybe_connect_disterl(node()) -> ok.
maybe_connect_disterl(_Node) -> ok.

%% Padding changed what Partisan measured, never what it did.
-spec maybe_pad_term(term()) -> term().
maybe_pad_term(Term) -> Term.

%% ------------------------------------------------------------------------------------------------
%% Partisan 1 to 4

%% The N-ary tree over Nodes as an array, as {Node, Children}; with `cycles` leaves have children
%% too, as if the array started again behind its end.
-spec build_tree(pos_integer(), [term()], [cycles]) -> [{term(), [term()]}].
build_tree(N, Nodes, Opts) ->
    Count = length(Nodes),
    Array = list_to_tuple(Nodes),
    Cycles = lists:member(cycles, Opts),
    Child = fun(Index) when Index < Count -> [element(Index + 1, Array)];
               (Index) when Cycles -> [element(Index rem Count + 1, Array)];
               (_Index) -> []
            end,
    orddict:from_list([{element(I + 1, Array),
                        lists:append([Child(I * N + J) || J <- lists:seq(1, N)])}
                       || I <- lists:seq(0, Count - 1)]).

%% One of the connections of a peer, of {Address, Channel, Pid}: by channel, and by the key's hash.
-spec dispatch_pid([tuple()]) -> {ok, pid()} | {error, no_channel}.
dispatch_pid(Entries) -> dispatch_pid(undefined, undefined, Entries).

-spec dispatch_pid(partisan:channel(), [tuple()]) -> {ok, pid()} | {error, no_channel}.
dispatch_pid(Channel, Entries) -> dispatch_pid(undefined, Channel, Entries).

-spec dispatch_pid(term(), partisan:channel(), [tuple()]) -> {ok, pid()} | {error, no_channel}.
dispatch_pid(Key, Channel, Entries) ->
    Own = [Pid || {_, C, Pid} <- Entries, C =:= Channel],
    case {Own, [Pid || {_, _, Pid} <- Entries]} of
        {[], []} -> {error, no_channel};
        {[], All} -> {ok, pick(Key, All)};
        {_, _} -> {ok, pick(Key, Own)}
    end.

pick(undefined, Pids) -> pick(self(), Pids);
pick(Key, Pids) -> lists:nth(1 + erlang:phash2(Key, length(Pids)), Pids).

-spec process_forward(partisan_send:server_ref(), term()) -> ok.
process_forward(Dest, Msg) -> partisan_send:deliver(Dest, Msg).

-spec term_to_iolist(term()) -> iodata().
term_to_iolist(Term) -> encode(Term).

-spec gensym(pid() | atom()) -> partisan_remote_ref:t().
gensym(Term) -> partisan_remote_ref:from_term(Term).

-spec pid() -> partisan_remote_ref:p().
pid() -> pid(self()).

-spec pid(pid()) -> partisan_remote_ref:p().
pid(Pid) -> partisan_remote_ref:from_term(Pid).

-spec ref(reference()) -> partisan_remote_ref:r().
ref(Ref) -> partisan_remote_ref:from_term(Ref).

-spec registered_name(atom()) -> partisan_remote_ref:n().
registered_name(Name) -> partisan_remote_ref:from_term(Name).
