%% The coordinator of one request: a state machine for each, as in Riak. It asks the N replicas,
%% answers the client when R (or W) have answered, waits for the others, and then tells the client
%% what it saw: {ended, Tally}. A replica's answer that never comes thus shows.
-module(pt_bench_quorum).
-behaviour(gen_statem).
-export([run/3]).
-export([callback_mode/0, init/1, asking/3]).
-export_type([request/0, tally/0]).

-define(QUORUM, 2).

-type request() :: {get, Key :: term()} | {put, Key :: term(), pt_bench_vnode:object()}.
-type tally() :: {Sent :: non_neg_integer(), Received :: non_neg_integer(), Doubled :: non_neg_integer()}.

%% Runs a request; the client is the caller. Returns the answers that made the quorum.
-spec run(request(), [pid()], reference()) -> [term()].
run(Request, Replicas, Ref) ->
    {ok, _} = gen_statem:start_link(?MODULE, {self(), Ref, Request, Replicas}, []),
    receive {quorum, Ref, Answers} -> Answers end.

-spec callback_mode() -> gen_statem:callback_mode_result().
callback_mode() -> state_functions.

-spec init({pid(), reference(), request(), [pid()]}) -> {ok, asking, map()}.
init({Client, Ref, Request, Replicas}) ->
    _ = [ask(R, Ref, Request) || R <- Replicas],
    {ok, asking, #{
        client => Client, ref => Ref, left => Replicas, sent => length(Replicas), got => [],
        doubled => 0
    }}.

ask(Replica, Ref, {get, Key}) -> pt_bench_vnode:get(Replica, Ref, Key);
ask(Replica, Ref, {put, Key, Object}) -> pt_bench_vnode:put(Replica, Ref, {Key, Object}).

-spec asking(info, term(), map()) -> gen_statem:event_handler_result(asking).
asking(info, {Ref, Replica, Answer}, #{ref := Ref, left := Left, got := Got} = Data) ->
    #{client := Client, sent := Sent, doubled := Doubled} = Data,
    case lists:member(Replica, Left) of
        false ->
            {keep_state, Data#{doubled := Doubled + 1}};
        true ->
            Got1 = [Answer | Got],
            Left1 = lists:delete(Replica, Left),
            length(Got1) =:= ?QUORUM andalso (Client ! {quorum, Ref, Got1}),
            case Left1 of
                [] ->
                    Client ! {ended, {Sent, length(Got1), Doubled}},
                    stop;
                _ ->
                    %% What is no longer needed should not keep large answers alive.
                    Kept = case length(Got1) >= ?QUORUM of true -> [seen || _ <- Got1]; false -> Got1 end,
                    {keep_state, Data#{left := Left1, got := Kept}}
            end
    end.
