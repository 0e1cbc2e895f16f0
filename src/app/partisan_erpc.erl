%% API of erpc, which works over the carrier as everywhere. Its own errors are `{partisan_erpc,
%% Reason}` instead of `{erpc, Reason}`, as in Partisan.
-module(partisan_erpc).

-export([call/2, call/3, call/4, call/5, cast/2, cast/4, send_request/2, send_request/4,
         receive_response/1, receive_response/2, wait_response/1, wait_response/2,
         check_response/2, multicall/2, multicall/3, multicall/4, multicall/5, multicast/2,
         multicast/4]).

-spec call(node(), fun(() -> term())) -> term().
call(Node, Fun) -> own(fun() -> erpc:call(Node, Fun) end).

-spec call(node(), fun(() -> term()), timeout()) -> term().
call(Node, Fun, Timeout) -> own(fun() -> erpc:call(Node, Fun, Timeout) end).

-spec call(node(), module(), atom(), [term()]) -> term().
call(Node, M, F, A) -> own(fun() -> erpc:call(Node, M, F, A) end).

-spec call(node(), module(), atom(), [term()], timeout()) -> term().
call(Node, M, F, A, Timeout) -> own(fun() -> erpc:call(Node, M, F, A, Timeout) end).

-spec cast(node(), fun(() -> term())) -> ok.
cast(Node, Fun) -> own(fun() -> erpc:cast(Node, Fun) end).

-spec cast(node(), module(), atom(), [term()]) -> ok.
cast(Node, M, F, A) -> own(fun() -> erpc:cast(Node, M, F, A) end).

-spec send_request(node(), fun(() -> term())) -> erpc:request_id().
send_request(Node, Fun) -> own(fun() -> erpc:send_request(Node, Fun) end).

-spec send_request(node(), module(), atom(), [term()]) -> erpc:request_id().
send_request(Node, M, F, A) -> own(fun() -> erpc:send_request(Node, M, F, A) end).

-spec receive_response(erpc:request_id()) -> term().
receive_response(Id) -> own(fun() -> erpc:receive_response(Id) end).

-spec receive_response(erpc:request_id(), timeout()) -> term().
receive_response(Id, Timeout) -> own(fun() -> erpc:receive_response(Id, Timeout) end).

-spec wait_response(erpc:request_id()) -> {response, term()} | no_response.
wait_response(Id) -> own(fun() -> erpc:wait_response(Id) end).

-spec wait_response(erpc:request_id(), timeout()) -> {response, term()} | no_response.
wait_response(Id, Timeout) -> own(fun() -> erpc:wait_response(Id, Timeout) end).

-spec check_response(term(), erpc:request_id()) -> {response, term()} | no_response.
check_response(Msg, Id) -> own(fun() -> erpc:check_response(Msg, Id) end).

-spec multicall([node()], fun(() -> term())) -> [term()].
multicall(Nodes, Fun) -> each(fun() -> erpc:multicall(Nodes, Fun) end).

-spec multicall([node()], fun(() -> term()), timeout()) -> [term()].
multicall(Nodes, Fun, Timeout) -> each(fun() -> erpc:multicall(Nodes, Fun, Timeout) end).

-spec multicall([node()], module(), atom(), [term()]) -> [term()].
multicall(Nodes, M, F, A) -> each(fun() -> erpc:multicall(Nodes, M, F, A) end).

-spec multicall([node()], module(), atom(), [term()], timeout()) -> [term()].
multicall(Nodes, M, F, A, Timeout) -> each(fun() -> erpc:multicall(Nodes, M, F, A, Timeout) end).

-spec multicast([node()], fun(() -> term())) -> ok.
multicast(Nodes, Fun) -> own(fun() -> erpc:multicast(Nodes, Fun) end).

-spec multicast([node()], module(), atom(), [term()]) -> ok.
multicast(Nodes, M, F, A) -> own(fun() -> erpc:multicast(Nodes, M, F, A) end).

own(Fun) ->
    try Fun()
    catch error:{erpc, Reason} -> error({?MODULE, Reason})
    end.

each(Fun) ->
    [case Result of
         {error, {erpc, Reason}} -> {error, {?MODULE, Reason}};
         _ -> Result
     end || Result <- own(Fun)].
