%% Calls to functions on other nodes that return `{badrpc, Reason}` for whatever goes wrong. Replies
%% are tagged, so a late one is never taken for another's, and each call runs in a process of its
%% own.
-module(partisan_rpc).

-export([call/4, call/5, prepare_opts/1]).

-type options() :: timeout() | partisan_send:options().
-export_type([options/0]).

%% A function that fails is {badrpc, Reason} with the bare reason; a node that is not reached
%% {badrpc, not_yet_connected | disconnected | ...} as of forward_message.
-spec call(node(), module(), atom(), [term()]) -> term() | {badrpc, term()}.
call(Node, M, F, A) ->
    call(Node, M, F, A, infinity).

%% Options: timeout (5000 unless given), and those of forward_message for the request.
-spec call(node(), module(), atom(), [term()], options()) -> term() | {badrpc, term()}.
call(Node, M, F, A, Timeout) when is_integer(Timeout), Timeout >= 0; Timeout =:= infinity ->
    call(Node, M, F, A, #{timeout => Timeout});
call(Node, M, F, A, Opts) when is_list(Opts) ->
    call(Node, M, F, A, proplists:to_map(Opts));
call(Node, M, F, A, Opts) when is_atom(Node), is_atom(M), is_atom(F), is_list(A), is_map(Opts) ->
    case maps:get(timeout, Opts, 5000) of
        T when is_integer(T), T >= 0; T =:= infinity ->
            partisan_rpc_backend:call_with(Node, M, F, A, T, maps:remove(timeout, Opts));
        _ ->
            error(badarg, [Node, M, F, A, Opts])
    end;
call(Node, M, F, A, Opts) ->
    error(badarg, [Node, M, F, A, Opts]).

-spec prepare_opts(list() | map()) -> map().
prepare_opts(Opts) when is_list(Opts) -> prepare_opts(proplists:to_map(Opts));
prepare_opts(#{channel := _} = Opts) -> Opts;
prepare_opts(Opts) -> Opts#{channel => partisan_config:default_channel()}.
