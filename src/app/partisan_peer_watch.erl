%% on_up and on_down: funs that are called when a node becomes a neighbour, or is none any more, and
%% the channels that are opened with it.
%%
%% Each fun has a process that calls it, so that its calls come in the order of what happened, and
%% one that waits or fails delays no other. A registration is for good, as in Partisan: when that
%% process ends, with a process that the fun linked itself to, another takes its place, and only what
%% it was still to be called for is lost.
-module(partisan_peer_watch).

-behaviour(gen_server).

-export([start_link/0, on/4, notify/1, open_channels/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export([caller/1]).

-include_lib("kernel/include/logger.hrl").

-define(QUIET_MS, 1000). % as in partisan_overlay_link

-type which() :: node() | any | '_'.
-type callback() :: fun(() -> term()) | fun((node()) -> term())
                  | fun((node(), partisan_channel:channel()) -> term()).
-export_type([callback/0]).

-record(watch, {what :: up | down,
                node :: which(),
                channel :: partisan_channel:channel() | node,     % node: the node as a whole
                call :: callback(),
                caller :: pid()}).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Options: channel, for the channel with that node instead of the node itself; `_`: each channel.
-spec on(up | down, which(), callback(), #{channel => partisan_channel:channel()}) -> ok.
on(What, Node, Fun, Options) ->
    gen_server:call(?MODULE, {on, What, Node, Fun, maps:get(channel, Options, node)}).

%% From the overlay's shell.
-spec notify(partisan_overlay:notice()) -> ok.
notify(Notice) ->
    partisan_plumtree_broadcast:notice(Notice),
    gen_server:cast(?MODULE, {notice, Notice}).

%% Opens the channels of this node's configuration, or some, with a node that is connected. A
%% channel that cannot be opened is opened by its first use.
-spec open_channels(node(), [partisan_channel:channel()]) -> ok.
open_channels(Node, Channels) ->
    lists:foreach(fun(Channel) -> partisan_channel:open(Node, Channel) end, Channels).

%% ------------------------------------------------------------------------------------------------
%% State: the registrations, and for each neighbour the channels that were reported up

init([]) ->
    process_flag(trap_exit, true),
    {ok, #{watches => [], up => #{}}}.

handle_call({on, What, Node, Fun, Channel}, _From, #{watches := Watches} = State) ->
    Watch = started(#watch{what = What, node = Node, channel = Channel, call = Fun, caller = self()}),
    {reply, ok, State#{watches := Watches ++ [Watch]}};
handle_call(_Request, _From, State) ->
    {reply, {error, unknown}, State}.

started(#watch{call = Fun} = Watch) ->
    Watch#watch{caller = spawn_link(?MODULE, caller, [Fun])}.

handle_cast({notice, {neighbour_up, #{name := Node}}}, #{up := Up} = State) ->
    Self = self(),
    _ = spawn(fun() ->
                      Channels = channels(),
                      open_channels(Node, Channels),
                      gen_server:cast(Self, {channels_up, Node, Channels})
              end),
    fire(up, Node, node, State),
    {noreply, State#{up := Up#{Node => []}}};
handle_cast({channels_up, Node, Channels}, #{up := Up} = State) when is_map_key(Node, Up) ->
    New = Channels -- maps:get(Node, Up),
    lists:foreach(fun(Channel) -> fire(up, Node, Channel, State) end, New),
    {noreply, State#{up := Up#{Node := Channels}}};
handle_cast({notice, {neighbour_down, Node, Reason}}, #{up := Up} = State) ->
    %% The connection may stay, for others use it; the channels are the cluster's.
    Reason =:= left andalso partisan_channel:close(Node),
    lists:foreach(fun(Channel) -> fire(down, Node, Channel, State) end, maps:get(Node, Up, [])),
    is_map_key(Node, Up) andalso fire(down, Node, node, State),
    {noreply, State#{up := maps:remove(Node, Up)}};
handle_cast(_Other, State) ->
    {noreply, State}.

handle_info({'EXIT', Pid, Reason}, #{watches := Watches} = State) ->
    case lists:keytake(Pid, #watch.caller, Watches) of
        {value, Watch, _} ->
            ?LOG_ERROR("partisan: the process that runs a callback of on_up or on_down was ended, by "
                       "one that it is linked to: ~0tp", [Reason]),
            {noreply, State#{watches := lists:keyreplace(Pid, #watch.caller, Watches,
                                                         started(Watch))}};
        false ->
            {noreply, State}
    end;
handle_info(_Message, State) ->
    {noreply, State}.

%% The default channel is there with the node, whatever is configured.
channels() ->
    lists:usort([partisan_config:default_channel() | maps:keys(partisan_config:channels())]).

fire(What, Node, Channel, #{watches := Watches}) ->
    lists:foreach(fun(#watch{caller = Pid} = Watch) ->
                          matches(What, Node, Channel, Watch) andalso (Pid ! {call, Node, Channel})
                  end, Watches).

matches(What, Node, Channel, #watch{what = What, node = Which, channel = Wanted}) ->
    (Which =:= Node orelse Which =:= any orelse Which =:= '_')
        andalso (Wanted =:= Channel orelse (Wanted =:= '_' andalso Channel =/= node));
matches(_What, _Node, _Channel, _Watch) ->
    false.

%% Runs in a process of its own, and comes back here by name between calls.
caller(Fun) ->
    receive
        {call, Node, Channel} ->
            try call(Fun, Node, Channel) of
                _ -> ok
            catch
                Class:Reason:Stack ->
                    ?LOG_ERROR("partisan: a callback of on_up or on_down failed for ~ts: "
                               "~0tp:~0tp~n~0tp", [Node, Class, Reason, Stack])
            end,
            ?MODULE:caller(Fun)
    after ?QUIET_MS ->
        erlang:hibernate(?MODULE, caller, [Fun])
    end.

call(Fun, _Node, _Channel) when is_function(Fun, 0) -> Fun();
call(Fun, Node, _Channel) when is_function(Fun, 1) -> Fun(Node);
call(Fun, Node, node) -> Fun(Node, partisan_config:default_channel());
call(Fun, Node, Channel) -> Fun(Node, Channel).
