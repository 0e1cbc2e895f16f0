%% API of sys, which is OTP's own, and takes encoded references.
-module(partisan_sys).

-export([suspend/1, suspend/2, resume/1, resume/2, get_status/1, get_status/2, get_state/1,
         get_state/2, replace_state/2, replace_state/3, change_code/4, change_code/5,
         terminate/2, terminate/3, log/2, log/3, trace/2, trace/3, statistics/2, statistics/3,
         log_to_file/2, log_to_file/3, no_debug/1, no_debug/2, install/2, install/3, remove/2,
         remove/3, handle_system_msg/6, handle_debug/4, print_log/1, get_log/1, debug_options/1]).

-spec suspend(partisan_gen:server_ref()) -> term().
suspend(Server) -> sys:suspend(partisan_gen:native(Server)).

-spec suspend(partisan_gen:server_ref(), timeout()) -> term().
suspend(Server, Timeout) -> sys:suspend(partisan_gen:native(Server), Timeout).

-spec resume(partisan_gen:server_ref()) -> term().
resume(Server) -> sys:resume(partisan_gen:native(Server)).

-spec resume(partisan_gen:server_ref(), timeout()) -> term().
resume(Server, Timeout) -> sys:resume(partisan_gen:native(Server), Timeout).

-spec get_status(partisan_gen:server_ref()) -> term().
get_status(Server) -> sys:get_status(partisan_gen:native(Server)).

-spec get_status(partisan_gen:server_ref(), timeout()) -> term().
get_status(Server, Timeout) -> sys:get_status(partisan_gen:native(Server), Timeout).

-spec get_state(partisan_gen:server_ref()) -> term().
get_state(Server) -> sys:get_state(partisan_gen:native(Server)).

-spec get_state(partisan_gen:server_ref(), timeout()) -> term().
get_state(Server, Timeout) -> sys:get_state(partisan_gen:native(Server), Timeout).

-spec replace_state(partisan_gen:server_ref(), fun((term()) -> term())) -> term().
replace_state(Server, Fun) -> sys:replace_state(partisan_gen:native(Server), Fun).

-spec replace_state(partisan_gen:server_ref(), fun((term()) -> term()), timeout()) -> term().
replace_state(Server, Fun, Timeout) -> sys:replace_state(partisan_gen:native(Server), Fun, Timeout).

-spec change_code(partisan_gen:server_ref(), module(), term(), term()) -> term().
change_code(Server, Mod, OldVsn, Extra) ->
    sys:change_code(partisan_gen:native(Server), Mod, OldVsn, Extra).

-spec change_code(partisan_gen:server_ref(), module(), term(), term(), timeout()) -> term().
change_code(Server, Mod, OldVsn, Extra, Timeout) ->
    sys:change_code(partisan_gen:native(Server), Mod, OldVsn, Extra, Timeout).

-spec terminate(partisan_gen:server_ref(), term()) -> term().
terminate(Server, Reason) -> sys:terminate(partisan_gen:native(Server), Reason).

-spec terminate(partisan_gen:server_ref(), term(), timeout()) -> term().
terminate(Server, Reason, Timeout) -> sys:terminate(partisan_gen:native(Server), Reason, Timeout).

-spec log(partisan_gen:server_ref(), term()) -> term().
log(Server, Flag) -> sys:log(partisan_gen:native(Server), Flag).

-spec log(partisan_gen:server_ref(), term(), timeout()) -> term().
log(Server, Flag, Timeout) -> sys:log(partisan_gen:native(Server), Flag, Timeout).

-spec trace(partisan_gen:server_ref(), boolean()) -> term().
trace(Server, Flag) -> sys:trace(partisan_gen:native(Server), Flag).

-spec trace(partisan_gen:server_ref(), boolean(), timeout()) -> term().
trace(Server, Flag, Timeout) -> sys:trace(partisan_gen:native(Server), Flag, Timeout).

-spec statistics(partisan_gen:server_ref(), true | false | get) -> term().
statistics(Server, Flag) -> sys:statistics(partisan_gen:native(Server), Flag).

-spec statistics(partisan_gen:server_ref(), true | false | get, timeout()) -> term().
statistics(Server, Flag, Timeout) -> sys:statistics(partisan_gen:native(Server), Flag, Timeout).

-spec log_to_file(partisan_gen:server_ref(), file:filename() | false) -> term().
log_to_file(Server, File) -> sys:log_to_file(partisan_gen:native(Server), File).

-spec log_to_file(partisan_gen:server_ref(), file:filename() | false, timeout()) -> term().
log_to_file(Server, File, Timeout) -> sys:log_to_file(partisan_gen:native(Server), File, Timeout).

-spec no_debug(partisan_gen:server_ref()) -> term().
no_debug(Server) -> sys:no_debug(partisan_gen:native(Server)).

-spec no_debug(partisan_gen:server_ref(), timeout()) -> term().
no_debug(Server, Timeout) -> sys:no_debug(partisan_gen:native(Server), Timeout).

-spec install(partisan_gen:server_ref(), term()) -> term().
install(Server, Func) -> sys:install(partisan_gen:native(Server), Func).

-spec install(partisan_gen:server_ref(), term(), timeout()) -> term().
install(Server, Func, Timeout) -> sys:install(partisan_gen:native(Server), Func, Timeout).

-spec remove(partisan_gen:server_ref(), term()) -> term().
remove(Server, Func) -> sys:remove(partisan_gen:native(Server), Func).

-spec remove(partisan_gen:server_ref(), term(), timeout()) -> term().
remove(Server, Func, Timeout) -> sys:remove(partisan_gen:native(Server), Func, Timeout).

-spec handle_system_msg(term(), term(), pid(), module(), [sys:dbg_opt()], term()) -> no_return().
handle_system_msg(Msg, From, Parent, Mod, Debug, Misc) ->
    sys:handle_system_msg(Msg, From, Parent, Mod, Debug, Misc).

-spec handle_debug([sys:dbg_opt()], fun(), term(), term()) -> [sys:dbg_opt()].
handle_debug(Debug, Func, Extra, Event) -> sys:handle_debug(Debug, Func, Extra, Event).

-spec print_log([sys:dbg_opt()]) -> ok.
print_log(Debug) -> sys:print_log(Debug).

-spec get_log([sys:dbg_opt()]) -> [term()].
get_log(Debug) -> sys:get_log(Debug).

-spec debug_options(list()) -> [sys:dbg_opt()].
debug_options(Opts) -> sys:debug_options(Opts).
