%% Tells handlers and funs of each change of the members: a gen_event, as in Partisan.
-module(partisan_peer_service_events).

-behaviour(gen_event).

-export([start_link/0, add_handler/2, add_sup_handler/2, add_callback/1, add_sup_callback/1,
         update/1]).
-export([init/1, handle_event/2, handle_call/2]).

-include_lib("kernel/include/logger.hrl").

-type callback() :: fun(([partisan_node_spec:t()]) -> term()).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_event:start_link({local, ?MODULE}).

%% A handler gets the event `{update, Specs}`.
-spec add_handler(module() | {module(), term()}, term()) -> term().
add_handler(Handler, Args) -> gen_event:add_handler(?MODULE, Handler, Args).

%% Goes with the caller, which gets gen_event's message when the handler goes.
-spec add_sup_handler(module() | {module(), term()}, term()) -> term().
add_sup_handler(Handler, Args) -> gen_event:add_sup_handler(?MODULE, Handler, Args).

%% Calls Fun with the specs of all members (partisan_peer_service:decode/1 makes names of them)
%% after each change.
-spec add_callback(callback()) -> term().
add_callback(Fun) when is_function(Fun, 1) ->
    gen_event:add_handler(?MODULE, {?MODULE, make_ref()}, Fun).

-spec add_sup_callback(callback()) -> term().
add_sup_callback(Fun) when is_function(Fun, 1) ->
    gen_event:add_sup_handler(?MODULE, {?MODULE, make_ref()}, Fun).

-spec update([partisan_node_spec:t()]) -> ok.
update(Specs) ->
    gen_event:notify(?MODULE, {update, Specs}).

%% ------------------------------------------------------------------------------------------------

init(Fun) ->
    {ok, Fun}.

%% A fun that fails stays: the next change may suit it better, and nobody would miss it.
handle_event({update, Specs}, Fun) ->
    try Fun(Specs) of
        _ -> ok
    catch
        Class:Reason:Stack ->
            ?LOG_ERROR("partisan: a callback for changes of the members failed: ~0tp:~0tp~n~0tp",
                       [Class, Reason, Stack])
    end,
    {ok, Fun};
handle_event(_Event, Fun) ->
    {ok, Fun}.

handle_call(_Request, Fun) ->
    {ok, {error, bad_request}, Fun}.
