%% API of proc_lib, which is OTP's own, and takes encoded references.
-module(partisan_proc_lib).

-export([spawn/1, spawn/2, spawn/3, spawn/4, spawn_link/1, spawn_link/2, spawn_link/3,
         spawn_link/4, spawn_opt/2, spawn_opt/3, spawn_opt/4, spawn_opt/5, start/3, start/4,
         start/5, start_link/3, start_link/4, start_link/5, start_monitor/3, start_monitor/4,
         start_monitor/5, hibernate/3, init_ack/1, init_ack/2, format/1, format/2, format/3,
         report_cb/2, initial_call/1, translate_initial_call/1, stop/1, stop/3]).

-compile({no_auto_import, [spawn/1, spawn/2, spawn/3, spawn/4, spawn_link/1, spawn_link/2,
                           spawn_link/3, spawn_link/4, spawn_opt/2, spawn_opt/3, spawn_opt/4,
                           spawn_opt/5]}).

-spec spawn(fun(() -> term())) -> pid().
spawn(Fun) -> proc_lib:spawn(Fun).

-spec spawn(node(), fun(() -> term())) -> pid().
spawn(Node, Fun) -> proc_lib:spawn(Node, Fun).

-spec spawn(module(), atom(), [term()]) -> pid().
spawn(M, F, A) -> proc_lib:spawn(M, F, A).

-spec spawn(node(), module(), atom(), [term()]) -> pid().
spawn(Node, M, F, A) -> proc_lib:spawn(Node, M, F, A).

-spec spawn_link(fun(() -> term())) -> pid().
spawn_link(Fun) -> proc_lib:spawn_link(Fun).

-spec spawn_link(node(), fun(() -> term())) -> pid().
spawn_link(Node, Fun) -> proc_lib:spawn_link(Node, Fun).

-spec spawn_link(module(), atom(), [term()]) -> pid().
spawn_link(M, F, A) -> proc_lib:spawn_link(M, F, A).

-spec spawn_link(node(), module(), atom(), [term()]) -> pid().
spawn_link(Node, M, F, A) -> proc_lib:spawn_link(Node, M, F, A).

-spec spawn_opt(fun(() -> term()), list()) -> pid() | {pid(), reference()}.
spawn_opt(Fun, Opts) -> proc_lib:spawn_opt(Fun, Opts).

-spec spawn_opt(node(), fun(() -> term()), list()) -> pid() | {pid(), reference()}.
spawn_opt(Node, Fun, Opts) -> proc_lib:spawn_opt(Node, Fun, Opts).

-spec spawn_opt(module(), atom(), [term()], list()) -> pid() | {pid(), reference()}.
spawn_opt(M, F, A, Opts) -> proc_lib:spawn_opt(M, F, A, Opts).

-spec spawn_opt(node(), module(), atom(), [term()], list()) -> pid() | {pid(), reference()}.
spawn_opt(Node, M, F, A, Opts) -> proc_lib:spawn_opt(Node, M, F, A, Opts).

-spec start(module(), atom(), [term()]) -> term().
start(M, F, A) -> proc_lib:start(M, F, A).

-spec start(module(), atom(), [term()], timeout()) -> term().
start(M, F, A, Timeout) -> proc_lib:start(M, F, A, Timeout).

-spec start(module(), atom(), [term()], timeout(), list()) -> term().
start(M, F, A, Timeout, Opts) -> proc_lib:start(M, F, A, Timeout, Opts).

-spec start_link(module(), atom(), [term()]) -> term().
start_link(M, F, A) -> proc_lib:start_link(M, F, A).

-spec start_link(module(), atom(), [term()], timeout()) -> term().
start_link(M, F, A, Timeout) -> proc_lib:start_link(M, F, A, Timeout).

-spec start_link(module(), atom(), [term()], timeout(), list()) -> term().
start_link(M, F, A, Timeout, Opts) -> proc_lib:start_link(M, F, A, Timeout, Opts).

-spec start_monitor(module(), atom(), [term()]) -> term().
start_monitor(M, F, A) -> proc_lib:start_monitor(M, F, A).

-spec start_monitor(module(), atom(), [term()], timeout()) -> term().
start_monitor(M, F, A, Timeout) -> proc_lib:start_monitor(M, F, A, Timeout).

-spec start_monitor(module(), atom(), [term()], timeout(), list()) -> term().
start_monitor(M, F, A, Timeout, Opts) -> proc_lib:start_monitor(M, F, A, Timeout, Opts).

-spec hibernate(module(), atom(), [term()]) -> no_return().
hibernate(M, F, A) -> proc_lib:hibernate(M, F, A).

-spec init_ack(term()) -> ok.
init_ack(Ret) -> proc_lib:init_ack(Ret).

-spec init_ack(pid(), term()) -> ok.
init_ack(Parent, Ret) -> proc_lib:init_ack(partisan_gen:native_pid(Parent), Ret).

-spec format(term()) -> string().
format(Report) -> proc_lib:format(Report).

-spec format(term(), latin1 | unicode | utf8) -> string().
format(Report, Encoding) -> proc_lib:format(Report, Encoding).

-spec format(term(), latin1 | unicode | utf8, unlimited | pos_integer()) -> string().
format(Report, Encoding, Depth) -> proc_lib:format(Report, Encoding, Depth).

-spec report_cb(logger:report(), logger:report_cb_config()) -> unicode:chardata().
report_cb(Report, Config) -> proc_lib:report_cb(Report, Config).

-spec initial_call(term()) -> {module(), atom(), [atom()]} | false.
initial_call(Process) -> proc_lib:initial_call(partisan_gen:native_pid(Process)).

-spec translate_initial_call(term()) -> {module(), atom(), non_neg_integer()}.
translate_initial_call(Process) ->
    proc_lib:translate_initial_call(partisan_gen:native_pid(Process)).

-spec stop(partisan_gen:server_ref()) -> ok.
stop(Server) -> proc_lib:stop(partisan_gen:native(Server)).

-spec stop(partisan_gen:server_ref(), term(), timeout()) -> ok.
stop(Server, Reason, Timeout) -> proc_lib:stop(partisan_gen:native(Server), Reason, Timeout).
