%% The one process of a node that knows its open channels: it keeps the table in which senders find
%% them, opens those that are missing, and answers peers that want to open one.
%%
%% Like partisan_dist_reg it is started with the carrier, under no supervisor, and comes back when it
%% is needed. Rows: {{Node, Channel}, Handle, Compression, Monotonic, Lanes process}, or `unknown`
%% instead of the handle, for a while, after the peer said that it does not know the channel.
-module(partisan_channel_srv).

-behaviour(gen_server).

-export([start/0, lookup/2, open/4]).
-export([configured/2, close/2]).
-export([ask/2, opened/6, not_opened/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-export_type([row/0]).

-include_lib("kernel/include/logger.hrl").

-define(TABLE, partisan_channel).
-define(UNKNOWN_FOR, 5000). % ms until a peer that did not know a channel is asked again

-type row() :: {{node(), atom()}, reference() | unknown, 0..9, boolean(), pid()}.

-spec start() -> ok.
start() ->
    case gen_server:start({local, ?MODULE}, ?MODULE, [], []) of
        {ok, _} -> ok;
        {error, {already_started, _}} -> ok
    end.

-spec lookup(node(), atom()) -> row() | none.
lookup(Node, Channel) ->
    try ets:lookup(?TABLE, {Node, Channel}) of
        [Row] -> Row;
        [] -> none
    catch
        error:badarg -> none
    end.

%% Opens the channel unless it is open. Stale: a handle that said `closed`, or `none`.
-spec open(node(), atom(), reference() | none, timeout()) ->
          ok | {error, partisan_channel:reason()}.
open(Node, Channel, Stale, Timeout) ->
    ok = start(),
    try gen_server:call(?MODULE, {open, Node, Channel, Stale}, Timeout)
    catch
        exit:{timeout, _} -> {error, timeout};
        exit:_ -> {error, disconnected} % it died: what it would have said is not known
    end.

%% Closes the channel with Node, or all, as soon as it carried nothing for a second.
-spec close(node(), atom()) -> ok.
close(Node, Channel) ->
    case partisan_dist_reg:lookup_node(Node) of
        {ok, Lanes} -> retire(Lanes, Channel);
        error -> ok
    end.

%% After the set of channels was replaced: what is open follows, as docs/channels.md says.
-spec configured(Old :: #{atom() => partisan_channel_conf:channel()},
                 New :: #{atom() => partisan_channel_conf:channel()}) -> ok.
configured(Same, Same) -> ok;
configured(Old, New) -> gen_server:cast(?MODULE, {configured, Old, New}).

%% ------------------------------------------------------------------------------------------------
%% For the lanes processes (partisan_dist_chans, partisan_dist_lanes)

%% A question to the peer's process of this name.
-spec ask(node(), term()) -> ok | noconnect.
ask(Node, Question) ->
    erlang:send({?MODULE, Node}, {partisan_channel, Question}, [noconnect]).

%% Conf: what it was opened with here.
-spec opened(node(), binary(), SessionId :: binary(), No :: pos_integer(), pid(),
             partisan_channel_conf:channel()) -> ok.
opened(Node, Name, SessionId, No, Lanes, Conf) ->
    gen_server:cast(?MODULE, {opened, Node, Name, SessionId, No, Lanes, Conf}).

-spec not_opened(node(), binary(), term()) -> ok.
not_opened(Node, Name, Why) ->
    gen_server:cast(?MODULE, {not_opened, Node, Name, Why, self()}).

%% ------------------------------------------------------------------------------------------------
%% The process. pending: who waits for a channel to open. sessions: monitors of lanes processes.

init([]) ->
    ?TABLE = ets:new(?TABLE, [named_table, protected, {read_concurrency, true}]),
    {ok, #{pending => #{}, sessions => #{}}}.

handle_call({open, Node, Channel, Stale}, From, State) ->
    case lookup(Node, Channel) of
        {_, Stale, _, _, _} ->
            true = ets:delete(?TABLE, {Node, Channel}),
            ask_to_open(Node, Channel, From, State);
        {_, unknown, _, _, _} ->
            {reply, {error, {unknown_channel, Channel}}, State};
        {_, _, _, _, _} ->
            {reply, ok, State};
        none ->
            ask_to_open(Node, Channel, From, State)
    end;
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

ask_to_open(Node, Channel, From, #{pending := Pending} = State0) ->
    case {partisan_channel_conf:find(Channel), partisan_dist_reg:lookup_node(Node)} of
        {error, _} ->
            {reply, {error, {unknown_channel, Channel}}, State0};
        {{ok, Conf}, {ok, Lanes}} ->
            Lanes ! {channel, {open, atom_to_binary(Channel, utf8), Conf}},
            State = watch(Lanes, State0),
            Key = {Node, Channel},
            Callers = maps:get(Key, Pending, []),
            {noreply, State#{pending := Pending#{Key => [{From, Lanes} | Callers]}}};
        {{ok, _}, error} ->
            {reply, {error, no_session(Node, Channel)}, State0}
    end.

%% A plain peer has no channels; nor has one that is not there.
no_session(Node, Channel) ->
    case lists:member(Node, nodes(connected)) of
        true -> {unknown_channel, Channel};
        false ->
            case partisan_dist_reg:seen(Node) of
                true -> disconnected;
                false -> not_yet_connected
            end
    end.

handle_cast({opened, Node, Name, SessionId, No, Lanes, #{monotonic := Monotonic} = Opened}, State) ->
    case channel(Name) of
        {ok, Channel, #{compression := Level} = Conf} ->
            case partisan_nif:channel(SessionId, No) of
                undefined -> % gone again
                    {noreply, settle({Node, Channel}, {error, disconnected}, State)};
                Handle ->
                    true = ets:insert(?TABLE, {{Node, Channel}, Handle, Level, Monotonic, Lanes}),
                    _ = [Owner ! {partisan_channel_opened, Node} || #{owner := Owner} <- [Conf]],
                    is_outdated(Opened, Conf) andalso renew(Lanes, Channel, Conf),
                    {noreply, settle({Node, Channel}, ok, watch(Lanes, State))}
            end;
        error ->
            tell(Lanes, {retire, Name}),
            {noreply, configured_away(Node, Name, State)}
    end;
handle_cast({configured, Old, New}, State) ->
    Rows = [Row || {_, Handle, _, _, _} = Row <- ets:tab2list(?TABLE), Handle =/= unknown],
    Anew = [Channel || {{_, Channel}, _, _, _, _} = Row <- Rows, follow(Row, Old, New)],
    Anew =:= [] orelse
        ?LOG_NOTICE("partisan: options of open channels changed: ~ts: each is opened anew with them "
                    "when what is queued on it has left",
                    [lists:join(", ", [atom_to_binary(C) || C <- lists:usort(Anew)])]),
    {noreply, State};
handle_cast({not_opened, Node, Name, Why, Lanes}, State) ->
    case channel(Name) of
        {ok, Channel, _} ->
            {noreply, settle({Node, Channel}, {error, reason(Node, Channel, Why, Lanes)}, State)};
        error ->
            {noreply, configured_away(Node, Name, State)}
    end;
handle_cast(_Message, State) ->
    {noreply, State}.

%% Between a caller's wish and now the channel was taken out of the configuration.
configured_away(Node, Name, #{pending := Pending} = State) ->
    lists:foldl(fun(Channel, S) -> settle({Node, Channel}, {error, {unknown_channel, Channel}}, S) end,
                State, [Channel || {N, Channel} <- maps:keys(Pending), N =:= Node,
                                   atom_to_binary(Channel, utf8) =:= Name]).

%% Asked by a peer. Its words are checked: other nodes may run other versions.
handle_info({partisan_channel, {open, Asker, Ref, SessionId, Name, Lanes}}, State)
  when is_pid(Asker), is_reference(Ref), is_binary(Name), is_integer(Lanes), Lanes >= 1 ->
    case {channel(Name), partisan_dist_reg:lookup(SessionId)} of
        {{ok, _, #{parallelism := Mine} = Conf}, {ok, Pid}} ->
            Pid ! {channel, {peer_opens, Asker, Ref, Name, Conf, min(Mine, Lanes)}},
            ok;
        _ ->
            %% In a process of its own: a connection that is busy suspends who sends by it, and all
            %% other peers ask this process, too.
            _ = spawn(erlang, send, [Asker, {channel, {answer, Ref, Name, {error, unknown_channel}}},
                                     [noconnect]]),
            ok
    end,
    {noreply, State};
%% The peer's driver has bulk for more lanes than are open, and we are the side that opens them.
handle_info({partisan_channel, {more_lanes, SessionId}}, State) when is_binary(SessionId) ->
    _ = [Pid ! more_lanes || {ok, Pid} <- [partisan_dist_reg:lookup(SessionId)]],
    {noreply, State};
handle_info({'DOWN', Ref, process, Lanes, _},
            #{pending := Pending, sessions := Sessions} = State0) ->
    true = ets:match_delete(?TABLE, {'_', '_', '_', '_', Lanes}),
    State = State0#{sessions := maps:filter(fun(_, R) -> R =/= Ref end, Sessions)},
    Lost = [Key || {Key, Callers} <- maps:to_list(Pending), lists:keymember(Lanes, 2, Callers)],
    {noreply, lists:foldl(fun(Key, S) -> settle(Key, {error, disconnected}, S) end, State, Lost)};
handle_info({forget, Row}, State) ->
    true = ets:delete_object(?TABLE, Row),
    {noreply, State};
handle_info(_Message, State) ->
    {noreply, State}.

%% Whether the open channel has to be opened anew.
follow({{_, Channel} = Key, _, _, _, Lanes}, Old, New) ->
    case {Old, New} of
        {#{Channel := Conf}, #{Channel := Conf}} ->
            false;
        {_, #{Channel := #{compression := Level, idle := Idle} = Conf}} ->
            true = ets:update_element(?TABLE, Key, {3, Level}),
            Changed = case Old of
                          #{Channel := Before} -> is_outdated(Before, Conf);
                          #{} -> true
                      end,
            case Changed of
                true -> renew(Lanes, Channel, Conf);
                false -> tell(Lanes, {idle_is, atom_to_binary(Channel), Idle})
            end,
            Changed;
        {#{Channel := _}, #{}} ->
            true = ets:delete(?TABLE, Key),
            retire(Lanes, Channel),
            false;
        {_, #{}} -> % not the user's
            false
    end.

%% Of what a channel has for life. The number of lanes is the one wished for here, not what became of
%% it.
is_outdated(Opened, Conf) ->
    ForLife = [parallelism, monotonic, max_queue],
    maps:with(ForLife, Opened) =/= maps:with(ForLife, Conf).

%% A relay drops what a full channel does not take, so a channel of relays is not made full.
renew(Lanes, Channel, #{relay := true}) -> retire(Lanes, Channel);
renew(Lanes, Channel, _Conf) -> tell(Lanes, {renew, atom_to_binary(Channel)}).

retire(Lanes, all) -> tell(Lanes, {retire, all});
retire(Lanes, Channel) -> tell(Lanes, {retire, atom_to_binary(Channel)}).

tell(Lanes, Event) ->
    Lanes ! {channel, Event},
    ok.

watch(Lanes, #{sessions := Sessions} = State) when is_map_key(Lanes, Sessions) ->
    State;
watch(Lanes, #{sessions := Sessions} = State) ->
    State#{sessions := Sessions#{Lanes => erlang:monitor(process, Lanes)}}.

settle(Key, Answer, #{pending := Pending} = State) ->
    case maps:take(Key, Pending) of
        {Callers, Rest} ->
            _ = [gen_server:reply(From, Answer) || {From, _} <- Callers],
            State#{pending := Rest};
        error ->
            State
    end.

reason(Node, Channel, unknown_channel, Lanes) ->
    Row = {{Node, Channel}, unknown, 0, false, Lanes},
    true = ets:insert(?TABLE, Row),
    _ = erlang:send_after(?UNKNOWN_FOR, self(), {forget, Row}),
    {unknown_channel, Channel};
reason(Node, Channel, Why, _Lanes) ->
    partisan_dist_reg:log_limited(not_opened, notice,
                                  "partisan: channel ~ts with ~ts cannot be opened: ~0tp",
                                  [Channel, Node, Why]),
    timeout.

%% Names of peers become no atoms: only those of channels that are configured here are known.
channel(Name) ->
    try binary_to_existing_atom(Name, utf8) of
        Channel ->
            case partisan_channel_conf:find(Channel) of
                {ok, Conf} -> {ok, Channel, Conf};
                error -> error
            end
    catch
        error:_ -> error
    end.
