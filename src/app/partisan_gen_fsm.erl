%% gen_fsm, deprecated in OTP and still there, for code that has not moved to gen_statem: such
%% modules are behaviours of gen_fsm itself.
-module(partisan_gen_fsm).

-export([start/3, start/4, start_link/3, start_link/4, stop/1, stop/3, send_event/2,
         sync_send_event/2, sync_send_event/3, send_all_state_event/2,
         sync_send_all_state_event/2, sync_send_all_state_event/3, reply/2, start_timer/2,
         send_event_after/2, cancel_timer/1]).

-spec start(module(), term(), list()) -> partisan_gen:start_ret().
start(Mod, Args, Opts) -> (otp()):start(Mod, Args, partisan_gen:start_options(Opts)).

-spec start(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start(Name, Mod, Args, Opts) -> (otp()):start(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(module(), term(), list()) -> partisan_gen:start_ret().
start_link(Mod, Args, Opts) -> (otp()):start_link(Mod, Args, partisan_gen:start_options(Opts)).

-spec start_link(partisan_gen:name(), module(), term(), list()) -> partisan_gen:start_ret().
start_link(Name, Mod, Args, Opts) ->
    (otp()):start_link(Name, Mod, Args, partisan_gen:start_options(Opts)).

-spec stop(partisan_gen:server_ref()) -> ok.
stop(Server) -> (otp()):stop(partisan_gen:native(Server)).

-spec stop(partisan_gen:server_ref(), term(), timeout()) -> ok.
stop(Server, Reason, Timeout) -> (otp()):stop(partisan_gen:native(Server), Reason, Timeout).

-spec send_event(partisan_gen:server_ref(), term()) -> ok.
send_event(Server, Event) -> (otp()):send_event(partisan_gen:native(Server), Event).

-spec sync_send_event(partisan_gen:server_ref(), term()) -> term().
sync_send_event(Server, Event) -> (otp()):sync_send_event(partisan_gen:native(Server), Event).

-spec sync_send_event(partisan_gen:server_ref(), term(), timeout()) -> term().
sync_send_event(Server, Event, Timeout) ->
    (otp()):sync_send_event(partisan_gen:native(Server), Event, Timeout).

-spec send_all_state_event(partisan_gen:server_ref(), term()) -> ok.
send_all_state_event(Server, Event) ->
    (otp()):send_all_state_event(partisan_gen:native(Server), Event).

-spec sync_send_all_state_event(partisan_gen:server_ref(), term()) -> term().
sync_send_all_state_event(Server, Event) ->
    (otp()):sync_send_all_state_event(partisan_gen:native(Server), Event).

-spec sync_send_all_state_event(partisan_gen:server_ref(), term(), timeout()) -> term().
sync_send_all_state_event(Server, Event, Timeout) ->
    (otp()):sync_send_all_state_event(partisan_gen:native(Server), Event, Timeout).

-spec reply(term(), term()) -> term().
reply(From, Reply) -> (otp()):reply(From, Reply).

-spec start_timer(non_neg_integer(), term()) -> reference().
start_timer(Time, Msg) -> (otp()):start_timer(Time, Msg).

-spec send_event_after(non_neg_integer(), term()) -> reference().
send_event_after(Time, Event) -> (otp()):send_event_after(Time, Event).

-spec cancel_timer(reference()) -> non_neg_integer() | false.
cancel_timer(Ref) -> (otp()):cancel_timer(Ref).

%% In a function, so that tools do not report every call of a deprecated module.
-spec otp() -> module().
otp() -> gen_fsm.
