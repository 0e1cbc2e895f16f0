%% What the gen_* modules of Partisan share: references and options become those of OTP, and a call
%% may travel on a channel. The protocol of a call is gen's, so that any OTP server answers.
-module(partisan_gen).

-export([native/1, native_pid/1, start_options/1, timeout/1, deadline/1, left/1]).
-export([call/5, cast/3, send_request/4, reply/2]).
-export([set_opts/1, get_opts/0, get_opts/1, erase_opts/0]).

-export_type([server_ref/0, call_options/0, name/0, start_ret/0, start_monitor_ret/0, replies/0,
              response_timeout/0]).

-type server_ref() :: partisan_send:server_ref().
-type call_options() :: timeout() | [{atom(), term()}] | #{atom() => term()}.
-type name() :: {local, atom()} | {global, term()} | {via, module(), term()}.
-type start_ret() :: {ok, pid()} | ignore | {error, term()}.
-type start_monitor_ret() :: {ok, {pid(), reference()}} | ignore | {error, term()}.
-type replies() :: {[{node(), term()}], [node()]}.
-type response_timeout() :: timeout() | {abs, integer()}.

-define(OPTS, partisan_gen_opts).

%% gen's own form of the tag of a call whose answer comes to an alias.
-dialyzer({no_improper_lists, [call_with/6, send_request/4]}).

%% What OTP's modules take for a server.
-spec native(server_ref()) -> pid() | atom() | {atom(), node()} | {global, term()} |
                              {via, module(), term()}.
native(Pid) when is_pid(Pid) -> Pid;
native(Name) when is_atom(Name) -> Name;
native({global, _} = Name) -> Name;
native({via, _, _} = Name) -> Name;
native({Name, Node}) when is_atom(Name), is_atom(Node) -> {Name, Node};
native(Ref) -> partisan_remote_ref:to_pid_or_name(Ref).

%% A child's id, or a process as proc_lib describes it, may be anything.
-spec native_pid(term()) -> term().
native_pid(Term) ->
    case not is_atom(Term) andalso partisan_remote_ref:is_pid(Term) of
        true -> partisan_remote_ref:to_pid(Term);
        false -> Term
    end.

%% Options of a start, without those of messages: they are for what the process sends, which finds
%% them with get_opts/0.
-spec start_options(list()) -> list().
start_options(Opts) ->
    [Opt || Opt <- Opts, case Opt of
                             {channel, _} -> false;
                             _ -> true
                         end].

-spec timeout(call_options()) -> timeout().
timeout(Opts) when is_list(Opts); is_map(Opts) ->
    maps:get(timeout, partisan_send:options(Opts), 5000);
timeout(Timeout) -> Timeout.

%% A send may have waited for room: an answer is waited for only as long as is left.
-spec deadline(timeout()) -> integer() | infinity.
deadline(infinity) -> infinity;
deadline(Ms) -> erlang:monotonic_time(millisecond) + Ms.

-spec left(integer() | infinity) -> timeout().
left(infinity) -> infinity;
left(Deadline) -> max(0, Deadline - erlang:monotonic_time(millisecond)).

%% Label is '$gen_call', the one word of gen_server and gen_statem.
-spec call(module(), server_ref(), atom(), term(),
           call_options() | {clean_timeout | dirty_timeout, timeout()}) -> term().
call(Module, Server, _Label, Request, {Kind, _} = Timeout)
  when Kind =:= clean_timeout; Kind =:= dirty_timeout ->
    (otp(Module)):call(native(Server), Request, Timeout);
call(Module, Server, Label, Request, Opts) when is_list(Opts); is_map(Opts) ->
    Timeout = timeout(Opts),
    case maps:remove(timeout, partisan_send:options(Opts)) of
        Rest when map_size(Rest) =:= 0 -> call(Module, Server, Label, Request, Timeout);
        Rest -> call_with(Module, Server, Label, Request, Timeout, Rest)
    end;
call(Module, Server, _Label, Request, Timeout) ->
    (otp(Module)):call(native(Server), Request, Timeout).

otp(partisan_gen_server) -> gen_server;
otp(partisan_gen_statem) -> gen_statem.

%% As gen does it: the monitor is also the alias that the answer comes to.
call_with(Module, Server, Label, Request, Timeout, Opts) ->
    Native = native(Server),
    Mref = partisan_monitor:monitor(Native, [{alias, reply_demonitor}]),
    Tag = [alias | Mref],
    Call = {Module, call, [Server, Request, Timeout]},
    Until = deadline(Timeout),
    case partisan_send:forward(Native, {Label, {self(), Tag}, Request},
                               Opts#{timeout => Timeout}) of
        ok ->
            receive
                {Tag, Reply} -> Reply;
                {'DOWN', Mref, _, _, Reason} -> failed(why(Reason, Native), Mref, Call)
            after left(Until) ->
                    erlang:demonitor(Mref, [flush]),
                    receive {Tag, Reply} -> Reply
                    after 0 -> failed(timeout, Mref, Call)
                    end
            end;
        {error, Reason} ->
            receive
                {'DOWN', Mref, _, _, Why} -> failed(why(Why, Native), Mref, Call)
            after 0 -> failed(Reason, Mref, Call)
            end
    end.

-spec failed(term(), reference(), tuple()) -> no_return().
failed(Reason, Mref, Call) ->
    erlang:demonitor(Mref, [flush]),
    exit({Reason, Call}).

%% As gen says it.
why(noconnection, Server) -> {nodedown, node_of(Server)};
why(Reason, _Server) -> Reason.

node_of({Name, Node}) when is_atom(Name), is_atom(Node) -> Node;
node_of(Pid) when is_pid(Pid) -> node(Pid);
node_of(_Name) -> node().

%% Whether it left is not told.
-spec cast(server_ref(), term(), call_options()) -> ok.
cast(Server, Msg, Opts) ->
    _ = partisan_send:forward(native(Server), Msg, without_timeout(Opts)),
    ok.

-spec send_request(server_ref(), atom(), term(), call_options()) -> term().
send_request(Server, Label, Request, Opts) ->
    Native = native(Server),
    case without_timeout(Opts) of
        None when map_size(None) =:= 0 ->
            gen:send_request(Native, Label, Request);
        Rest ->
            %% gen's request id is the monitor's reference, which every *_response function knows.
            Mref = partisan_monitor:monitor(Native, [{alias, demonitor}]),
            _ = partisan_send:forward(Native, {Label, {self(), [alias | Mref]}, Request}, Rest),
            Mref
    end.

without_timeout(Opts) when is_list(Opts); is_map(Opts) ->
    maps:remove(timeout, partisan_send:options(Opts));
without_timeout(_Timeout) ->
    #{}.

-spec reply(gen_server:from(), term()) -> ok.
reply(From, Reply) -> gen_server:reply(From, Reply).

%% Options of messages that a process keeps for its own use, in its dictionary.
-spec set_opts(list() | map()) -> ok.
set_opts(Opts) ->
    _ = put(?OPTS, partisan_send:options(Opts)),
    ok.

-spec get_opts() -> map().
get_opts() -> get_opts([]).

%% Those given win over those kept.
-spec get_opts(list() | map()) -> map().
get_opts(Opts) ->
    Kept = case get(?OPTS) of
               undefined -> #{};
               Map -> Map
           end,
    maps:merge(Kept, partisan_send:options(Opts)).

-spec erase_opts() -> ok.
erase_opts() ->
    _ = erase(?OPTS),
    ok.
