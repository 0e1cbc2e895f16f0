%% Behaviour and API of gen_statem,
%% which is OTP's own: native pids and names work across nodes here, so nothing is forked. What is
%% added: encoded references are taken, and the options `timeout` and those of
%% partisan:forward_message/3 (`channel` above all) where Partisan takes them.
-module(partisan_gen_statem).

-export([start/3, start/4, start_link/3, start_link/4, start_monitor/3, start_monitor/4, stop/1,
         stop/3, call/2, call/3, cast/2, cast/3, send_request/2, send_request/3,
         wait_response/1, wait_response/2, receive_response/2, check_response/2, reply/1,
         reply/2, enter_loop/4, enter_loop/5, enter_loop/6]).

-callback init(term()) -> term().
-callback callback_mode() -> gen_statem:callback_mode_result().
-callback state_name(gen_statem:event_type(), term(), term()) -> term().
-callback handle_event(gen_statem:event_type(), term(), term(), term()) -> term().
-callback terminate(term(), term(), term()) -> term().
-callback code_change(term(), term(), term(), term()) -> term().
-callback format_status(term()) -> term().
-callback format_status(term(), term()) -> term().
-optional_callbacks([state_name/3, handle_event/4, terminate/3, code_change/4, format_status/1,
                     format_status/2]).

-spec start(module(), term(), list()) -> partisan_gen:start_ret().
start(Mod, Args, Opts) -> gen_statem:start(Mod, Args, partisan_gen:start_options(Opts)).

-spec start(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start(Name, Mod, Args, Opts) -> gen_statem:start(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(module(), term(), list()) -> partisan_gen:start_ret().
start_link(Mod, Args, Opts) -> gen_statem:start_link(Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start_link(Name, Mod, Args, Opts) ->
    gen_statem:start_link(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec start_monitor(module(), term(), list()) -> partisan_gen:start_monitor_ret().
start_monitor(Mod, Args, Opts) ->
    gen_statem:start_monitor(Mod, Args, partisan_gen:start_options(Opts)).

-spec start_monitor(partisan_gen:name(), module(), term(), list()) ->
          partisan_gen:start_monitor_ret().
start_monitor(Name, Mod, Args, Opts) ->
    gen_statem:start_monitor(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec stop(partisan_gen:server_ref()) -> ok.
stop(Server) -> gen_statem:stop(partisan_gen:native(Server)).

-spec stop(partisan_gen:server_ref(), term(), timeout()) -> ok.
stop(Server, Reason, Timeout) -> gen_statem:stop(partisan_gen:native(Server), Reason, Timeout).

-spec call(partisan_gen:server_ref(), term()) -> term().
call(Server, Request) -> gen_statem:call(partisan_gen:native(Server), Request).

-spec call(partisan_gen:server_ref(), term(),
           partisan_gen:call_options() | {clean_timeout | dirty_timeout, timeout()}) ->
          term().
call(Server, Request, Opts) -> partisan_gen:call(?MODULE, Server, '$gen_call', Request, Opts).

-spec cast(partisan_gen:server_ref(), term()) -> ok.
cast(Server, Msg) -> gen_statem:cast(partisan_gen:native(Server), Msg).

-spec cast(partisan_gen:server_ref(), term(), partisan_gen:call_options()) -> ok.
cast(Server, Msg, Opts) -> partisan_gen:cast(Server, {'$gen_cast', Msg}, Opts).

-spec send_request(partisan_gen:server_ref(), term()) -> term().
send_request(Server, Request) -> gen_statem:send_request(partisan_gen:native(Server), Request).

-spec send_request(partisan_gen:server_ref(), term(), partisan_gen:call_options()) -> term().
send_request(Server, Request, Opts) ->
    partisan_gen:send_request(Server, '$gen_call', Request, Opts).

-spec wait_response(term()) -> term().
wait_response(Id) -> gen_statem:wait_response(Id).

-spec wait_response(term(), partisan_gen:response_timeout()) -> term().
wait_response(Id, Timeout) -> gen_statem:wait_response(Id, Timeout).

-spec receive_response(term(), partisan_gen:response_timeout()) -> term().
receive_response(Id, Timeout) -> gen_statem:receive_response(Id, Timeout).

-spec check_response(term(), term()) -> term().
check_response(Msg, Id) -> gen_statem:check_response(Msg, Id).

-spec reply([gen_statem:reply_action()] | gen_statem:reply_action()) -> ok.
reply(Replies) -> gen_statem:reply(Replies).

-spec reply(gen_statem:from(), term()) -> ok.
reply(From, Reply) -> gen_statem:reply(From, Reply).

-spec enter_loop(module(), list(), term(), term()) -> no_return().
enter_loop(Mod, Opts, State, Data) ->
    gen_statem:enter_loop(Mod, partisan_gen:start_options(Opts), State, Data).

-spec enter_loop(module(), list(), term(), term(), term()) -> no_return().
enter_loop(Mod, Opts, State, Data, More) ->
    gen_statem:enter_loop(Mod, partisan_gen:start_options(Opts), State, Data, More).

-spec enter_loop(module(), list(), term(), term(), term(), term()) -> no_return().
enter_loop(Mod, Opts, State, Data, Server, Actions) ->
    gen_statem:enter_loop(Mod, partisan_gen:start_options(Opts), State, Data, Server, Actions).
