%% Looks for nodes to join: asks a backend now and then which nodes there are, and joins those that
%% are no members. Nobody is ever taken out for not being found.
%%
%% Option `peer_discovery` of the application, a map or a list:
%%
%%   enabled            default false
%%   type               the backend: a module with this behaviour, or list, dns (default list)
%%   config             the backend's own options
%%   initial_delay      ms until the first question (default 10000)
%%   polling_interval   ms between two (default 60000)
%%   timeout            ms that an answer may take (default 5000)
-module(partisan_peer_discovery_agent).

-behaviour(gen_server).

-export([start_link/0, enable/0, disable/0, status/0, lookup/0]).
-export([lookup/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include_lib("kernel/include/logger.hrl").

-type peer() :: partisan_node_spec:t() | node() | string() | binary().
-export_type([peer/0]).

%% Words for what is wrong with the options make the agent stay off.
-callback init(Options :: map()) -> {ok, State :: term()} | {error, term()}.

%% Each peer as partisan_peer_service:join/1 takes it. Runs in a process of its own, which is ended
%% after Timeout ms.
-callback lookup(State :: term(), Timeout :: pos_integer()) ->
              {ok, [peer()], State :: term()} | {error, term(), State :: term()}.

-record(st, {enabled :: boolean(),
             backend :: module(),
             state :: term(),
             delay :: non_neg_integer(),
             interval :: pos_integer(),
             timeout :: pos_integer(),
             timer = none :: none | reference(),
             asking = none :: none | {pid(), reference()},
             failed = false :: boolean()}). % the last question, so that a line is said once

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec enable() -> ok | {error, not_configured}.
enable() -> gen_server:call(?MODULE, enable).

-spec disable() -> ok.
disable() -> gen_server:call(?MODULE, disable).

-spec status() -> enabled | disabled.
status() -> gen_server:call(?MODULE, status).

%% Asks at once; the answer is joined as usual.
-spec lookup() -> ok | {error, disabled}.
lookup() -> gen_server:call(?MODULE, lookup).

%% ------------------------------------------------------------------------------------------------

init([]) ->
    Options = case partisan_config:get(peer_discovery) of
                  Map when is_map(Map) -> Map;
                  List -> maps:from_list(proplists:unfold(List))
              end,
    St = #st{enabled = false, backend = backend(maps:get(type, Options, list)),
             delay = maps:get(initial_delay, Options, 10000),
             interval = maps:get(polling_interval, Options, 60000),
             timeout = maps:get(timeout, Options, 5000)},
    case maps:get(enabled, Options, false) of
        true -> {ok, begin_with(maps:get(config, Options, #{}), St)};
        _ -> {ok, St#st{state = maps:get(config, Options, #{})}}
    end.

backend(list) -> partisan_peer_discovery_list;
backend(dns) -> partisan_peer_discovery_dns;
backend(Module) -> Module.

begin_with(Config, #st{backend = Backend, delay = Delay} = St) ->
    case start_backend(Backend, Config) of
        {ok, State} ->
            timer(Delay, St#st{enabled = true, state = State});
        {error, Reason} ->
            ?LOG_ERROR("partisan: peer discovery is off: ~ts: ~0tp", [Backend, Reason]),
            St#st{state = Config}
    end.

start_backend(Backend, Config) when is_map(Config); is_list(Config) ->
    Map = case Config of
              #{} -> Config;
              _ -> maps:from_list(proplists:unfold(Config))
          end,
    try Backend:init(Map)
    catch error:undef -> {error, no_such_backend}
    end;
start_backend(_Backend, Config) ->
    {error, {bad_config, Config}}.

handle_call(status, _From, #st{enabled = Enabled} = St) ->
    {reply, case Enabled of true -> enabled; false -> disabled end, St};
handle_call(enable, _From, #st{enabled = true} = St) ->
    {reply, ok, St};
handle_call(enable, _From, #st{state = Config} = St) ->
    case begin_with(Config, St) of
        #st{enabled = true} = Begun -> {reply, ok, Begun};
        Off -> {reply, {error, not_configured}, Off}
    end;
handle_call(disable, _From, St) ->
    {reply, ok, stop_asking(stop_timer(St#st{enabled = false}))};
handle_call(lookup, _From, #st{enabled = false} = St) ->
    {reply, {error, disabled}, St};
handle_call(lookup, _From, St) ->
    {reply, ok, ask(St)};
handle_call(_Request, _From, St) ->
    {reply, {error, unknown}, St}.

handle_cast(_Request, St) ->
    {noreply, St}.

handle_info({timeout, Timer, ask}, #st{timer = Timer} = St) ->
    {noreply, ask(St#st{timer = none})};
handle_info({'DOWN', Ref, process, Pid, Answer}, #st{asking = {Pid, Ref}} = St) ->
    {noreply, next(answered(Answer, St#st{asking = none}))};
handle_info({late, Ref}, #st{asking = {_, Ref}} = St) ->
    {noreply, next(failed(timeout, stop_asking(St)))};
handle_info(_Message, St) ->
    {noreply, St}.

%% In a process of its own: a resolver that hangs must not make disable/0 wait.
ask(#st{asking = none, backend = Backend, state = State, timeout = Timeout} = St0) ->
    St = stop_timer(St0),
    {Pid, Ref} = spawn_monitor(?MODULE, lookup, [Backend, State, Timeout]),
    _ = erlang:send_after(Timeout, self(), {late, Ref}),
    St#st{asking = {Pid, Ref}};
ask(St) ->
    St.

-spec lookup(module(), term(), pos_integer()) -> no_return().
lookup(Backend, State, Timeout) ->
    exit({answer, Backend:lookup(State, Timeout)}).

answered({answer, {ok, Peers, State}}, St) ->
    join(Peers),
    St#st{state = State, failed = false};
answered({answer, {error, Reason, State}}, St) ->
    failed(Reason, St#st{state = State});
answered(Reason, St) ->
    failed(Reason, St).

failed(Reason, #st{failed = Before, backend = Backend} = St) ->
    Before orelse ?LOG_WARNING("partisan: peer discovery by ~ts found nothing: ~0tp", [Backend, Reason]),
    St#st{failed = true}.

%% Joining by address or by name waits for an answer, so it is not done here.
join(Peers) ->
    _ = [spawn(fun() -> join_one(Peer) end) || Peer <- Peers],
    ok.

join_one(Peer) ->
    case partisan_node_spec:from(Peer) of
        {ok, #{name := Name} = Spec} ->
            Name =:= node() orelse partisan_peer_service:member(Name)
                orelse said(Peer, partisan_peer_service:join(Spec));
        {error, _} = Error ->
            said(Peer, Error)
    end.

said(_Peer, ok) -> ok;
said(Peer, {error, Reason}) ->
    ?LOG_INFO("partisan: peer discovery could not join ~0tp: ~0tp", [Peer, Reason]).

next(#st{enabled = true, interval = Interval} = St) -> timer(Interval, St);
next(St) -> St.

timer(Ms, St) ->
    Running = stop_timer(St),
    Running#st{timer = erlang:start_timer(Ms, self(), ask)}.

stop_timer(#st{timer = none} = St) -> St;
stop_timer(#st{timer = Timer} = St) ->
    _ = erlang:cancel_timer(Timer),
    St#st{timer = none}.

stop_asking(#st{asking = none} = St) -> St;
stop_asking(#st{asking = {Pid, Ref}} = St) ->
    erlang:demonitor(Ref, [flush]),
    exit(Pid, kill),
    St#st{asking = none}.
