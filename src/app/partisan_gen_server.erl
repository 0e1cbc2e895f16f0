%% Behaviour and API of gen_server,
%% which is OTP's own: native pids and names work across nodes here, so nothing is forked. What is
%% added: encoded references are taken, and the options `timeout` and those of
%% partisan:forward_message/3 (`channel` above all) where Partisan takes them.
-module(partisan_gen_server).

-export([start/3, start/4, start_link/3, start_link/4, start_monitor/3, start_monitor/4, stop/1,
         stop/3, call/2, call/3, cast/2, cast/3, send_request/2, send_request/3,
         wait_response/2, receive_response/2, check_response/2, reply/2, abcast/2, abcast/3,
         multi_call/2, multi_call/3, multi_call/4, enter_loop/3, enter_loop/4, enter_loop/5]).

-callback init(term()) -> term().
-callback handle_call(term(), gen_server:from(), term()) -> term().
-callback handle_cast(term(), term()) -> term().
-callback handle_info(term(), term()) -> term().
-callback handle_continue(term(), term()) -> term().
-callback terminate(term(), term()) -> term().
-callback code_change(term(), term(), term()) -> term().
-callback format_status(term()) -> term().
-callback format_status(term(), term()) -> term().
-optional_callbacks([handle_info/2, handle_continue/2, terminate/2, code_change/3, format_status/1,
                     format_status/2]).

-spec start(module(), term(), list()) -> partisan_gen:start_ret().
start(Mod, Args, Opts) -> gen_server:start(Mod, Args, partisan_gen:start_options(Opts)).

-spec start(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start(Name, Mod, Args, Opts) -> gen_server:start(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(module(), term(), list()) -> partisan_gen:start_ret().
start_link(Mod, Args, Opts) -> gen_server:start_link(Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start_link(Name, Mod, Args, Opts) ->
    gen_server:start_link(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec start_monitor(module(), term(), list()) -> partisan_gen:start_monitor_ret().
start_monitor(Mod, Args, Opts) ->
    gen_server:start_monitor(Mod, Args, partisan_gen:start_options(Opts)).

-spec start_monitor(partisan_gen:name(), module(), term(), list()) ->
          partisan_gen:start_monitor_ret().
start_monitor(Name, Mod, Args, Opts) ->
    gen_server:start_monitor(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec stop(partisan_gen:server_ref()) -> ok.
stop(Server) -> gen_server:stop(partisan_gen:native(Server)).

-spec stop(partisan_gen:server_ref(), term(), timeout()) -> ok.
stop(Server, Reason, Timeout) -> gen_server:stop(partisan_gen:native(Server), Reason, Timeout).

-spec call(partisan_gen:server_ref(), term()) -> term().
call(Server, Request) -> call(Server, Request, 5000).

-spec call(partisan_gen:server_ref(), term(), partisan_gen:call_options()) -> term().
call(Server, Request, Opts) -> partisan_gen:call(?MODULE, Server, '$gen_call', Request, Opts).

-spec cast(partisan_gen:server_ref(), term()) -> ok.
cast(Server, Msg) -> gen_server:cast(partisan_gen:native(Server), Msg).

-spec cast(partisan_gen:server_ref(), term(), partisan_gen:call_options()) -> ok.
cast(Server, Msg, Opts) -> partisan_gen:cast(Server, {'$gen_cast', Msg}, Opts).

-spec send_request(partisan_gen:server_ref(), term()) -> term().
send_request(Server, Request) -> gen_server:send_request(partisan_gen:native(Server), Request).

-spec send_request(partisan_gen:server_ref(), term(), partisan_gen:call_options()) -> term().
send_request(Server, Request, Opts) ->
    partisan_gen:send_request(Server, '$gen_call', Request, Opts).

-spec wait_response(term(), partisan_gen:response_timeout()) -> term().
wait_response(Id, Timeout) -> gen_server:wait_response(Id, Timeout).

-spec receive_response(term(), partisan_gen:response_timeout()) -> term().
receive_response(Id, Timeout) -> gen_server:receive_response(Id, Timeout).

-spec check_response(term(), term()) -> term().
check_response(Msg, Id) -> gen_server:check_response(Msg, Id).

-spec reply(gen_server:from(), term()) -> ok.
reply(Client, Reply) -> gen_server:reply(Client, Reply).

-spec abcast(atom(), term()) -> abcast.
abcast(Name, Msg) -> gen_server:abcast(Name, Msg).

-spec abcast([node()], atom(), term()) -> abcast.
abcast(Nodes, Name, Msg) -> gen_server:abcast(Nodes, Name, Msg).

-spec multi_call(atom(), term()) -> partisan_gen:replies().
multi_call(Name, Request) -> gen_server:multi_call(Name, Request).

-spec multi_call([node()], atom(), term()) -> partisan_gen:replies().
multi_call(Nodes, Name, Request) -> gen_server:multi_call(Nodes, Name, Request).

-spec multi_call([node()], atom(), term(), timeout()) -> partisan_gen:replies().
multi_call(Nodes, Name, Request, Timeout) -> gen_server:multi_call(Nodes, Name, Request, Timeout).

-spec enter_loop(module(), list(), term()) -> no_return().
enter_loop(Mod, Opts, State) -> gen_server:enter_loop(Mod, partisan_gen:start_options(Opts), State).

-spec enter_loop(module(), list(), term(), term()) -> no_return().
enter_loop(Mod, Opts, State, Arg) ->
    gen_server:enter_loop(Mod, partisan_gen:start_options(Opts), State, Arg).

-spec enter_loop(module(), list(), term(), term(), term()) -> no_return().
enter_loop(Mod, Opts, State, Name, Timeout) ->
    gen_server:enter_loop(Mod, partisan_gen:start_options(Opts), State, Name, Timeout).
