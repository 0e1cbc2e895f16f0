%% Behaviour and API of gen_event,
%% which is OTP's own: native pids and names work across nodes here, so nothing is forked. What is
%% added: encoded references are taken, and the options `timeout` and those of
%% partisan:forward_message/3 (`channel` above all) where Partisan takes them.
-module(partisan_gen_event).

-export([start/0, start/1, start/2, start_link/0, start_link/1, start_link/2, start_monitor/0,
         start_monitor/1, start_monitor/2, stop/1, stop/3, notify/2, sync_notify/2,
         add_handler/3, add_sup_handler/3, delete_handler/3, swap_handler/3, swap_sup_handler/3,
         which_handlers/1, call/3, call/4, send_request/3, wait_response/2, receive_response/2,
         check_response/2]).

-callback init(term()) -> term().
-callback handle_event(term(), term()) -> term().
-callback handle_call(term(), term()) -> term().
-callback handle_info(term(), term()) -> term().
-callback terminate(term(), term()) -> term().
-callback code_change(term(), term(), term()) -> term().
-callback format_status(term()) -> term().
-callback format_status(term(), term()) -> term().
-optional_callbacks([handle_info/2, terminate/2, code_change/3, format_status/1, format_status/2]).

-spec start() -> partisan_gen:start_ret().
start() -> gen_event:start().

-spec start(term()) -> partisan_gen:start_ret().
start(NameOrOpts) -> gen_event:start(NameOrOpts).

-spec start(term(), list()) -> partisan_gen:start_ret().
start(Name, Opts) -> gen_event:start(Name, Opts).

-spec start_link() -> partisan_gen:start_ret().
start_link() -> gen_event:start_link().

-spec start_link(term()) -> partisan_gen:start_ret().
start_link(NameOrOpts) -> gen_event:start_link(NameOrOpts).

-spec start_link(term(), list()) -> partisan_gen:start_ret().
start_link(Name, Opts) -> gen_event:start_link(Name, Opts).

-spec start_monitor() -> partisan_gen:start_monitor_ret().
start_monitor() -> gen_event:start_monitor().

-spec start_monitor(term()) -> partisan_gen:start_monitor_ret().
start_monitor(NameOrOpts) -> gen_event:start_monitor(NameOrOpts).

-spec start_monitor(term(), list()) -> partisan_gen:start_monitor_ret().
start_monitor(Name, Opts) -> gen_event:start_monitor(Name, Opts).

-spec stop(partisan_gen:server_ref()) -> ok.
stop(Server) -> gen_event:stop(partisan_gen:native(Server)).

-spec stop(partisan_gen:server_ref(), term(), timeout()) -> ok.
stop(Server, Reason, Timeout) -> gen_event:stop(partisan_gen:native(Server), Reason, Timeout).

-spec notify(partisan_gen:server_ref(), term()) -> ok.
notify(Manager, Event) -> gen_event:notify(partisan_gen:native(Manager), Event).

-spec sync_notify(partisan_gen:server_ref(), term()) -> ok.
sync_notify(Manager, Event) -> gen_event:sync_notify(partisan_gen:native(Manager), Event).

-spec add_handler(partisan_gen:server_ref(), gen_event:handler(), term()) -> term().
add_handler(Manager, Handler, Args) ->
    gen_event:add_handler(partisan_gen:native(Manager), Handler, Args).

-spec add_sup_handler(partisan_gen:server_ref(), gen_event:handler(), term()) -> term().
add_sup_handler(Manager, Handler, Args) ->
    gen_event:add_sup_handler(partisan_gen:native(Manager), Handler, Args).

-spec delete_handler(partisan_gen:server_ref(), gen_event:handler(), term()) -> term().
delete_handler(Manager, Handler, Args) ->
    gen_event:delete_handler(partisan_gen:native(Manager), Handler, Args).

-spec swap_handler(partisan_gen:server_ref(), {gen_event:handler(), term()},
                    {gen_event:handler(), term()}) ->
          ok | {error, term()}.
swap_handler(Manager, Old, New) -> gen_event:swap_handler(partisan_gen:native(Manager), Old, New).

-spec swap_sup_handler(partisan_gen:server_ref(), {gen_event:handler(), term()},
                    {gen_event:handler(), term()}) ->
          ok | {error, term()}.
swap_sup_handler(Manager, Old, New) ->
    gen_event:swap_sup_handler(partisan_gen:native(Manager), Old, New).

-spec which_handlers(partisan_gen:server_ref()) -> [gen_event:handler()].
which_handlers(Manager) -> gen_event:which_handlers(partisan_gen:native(Manager)).

-spec call(partisan_gen:server_ref(), gen_event:handler(), term()) -> term().
call(Manager, Handler, Request) -> gen_event:call(partisan_gen:native(Manager), Handler, Request).

-spec call(partisan_gen:server_ref(), gen_event:handler(), term(), partisan_gen:call_options()) ->
          term().
call(Manager, Handler, Request, Opts) ->
    gen_event:call(partisan_gen:native(Manager), Handler, Request, partisan_gen:timeout(Opts)).

-spec send_request(partisan_gen:server_ref(), gen_event:handler(), term()) -> term().
send_request(Manager, Handler, Request) ->
    gen_event:send_request(partisan_gen:native(Manager), Handler, Request).

-spec wait_response(term(), partisan_gen:response_timeout()) -> term().
wait_response(Id, Timeout) -> gen_event:wait_response(Id, Timeout).

-spec receive_response(term(), partisan_gen:response_timeout()) -> term().
receive_response(Id, Timeout) -> gen_event:receive_response(Id, Timeout).

-spec check_response(term(), term()) -> term().
check_response(Msg, Id) -> gen_event:check_response(Msg, Id).
