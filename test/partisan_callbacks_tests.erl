%% Callbacks of users that link themselves to what fails: nothing of the application's goes with it.
-module(partisan_callbacks_tests).

-include_lib("eunit/include/eunit.hrl").

-export([broadcast_data/1, merge/2, is_stale/1, graft/1, exchange/1]).

-define(HEARD_BY, {?MODULE, heard_by}).

callbacks_test_() ->
    {foreach, fun quiet/0, fun logger:set_primary_config/1,
     [fun(_) -> {timeout, 60, fun linked_callback/0} end, fun(_) -> {timeout, 60, fun linked_handler/0} end]}.

%% That something failed is said in the log, and not here.
quiet() ->
    Config = logger:get_primary_config(),
    ok = logger:set_primary_config(level, none),
    Config.

%% It is called again, in another process.
linked_callback() ->
    Me = self(),
    {ok, Watch} = partisan_peer_watch:start_link(),
    Fails = fun(Node) ->
                    Me ! {fails, Node},
                    _ = spawn_link(fun() -> exit(boom) end),
                    receive after infinity -> ok end
            end,
    ok = partisan_peer_watch:on(up, any, Fails, #{}),
    up('one@h'),
    ?assertEqual({fails, 'one@h'}, heard(20000)),
    %% what comes before the process of the first call has ended goes with that
    ?assertEqual({fails, 'two@h'}, until_heard(fun() -> up('two@h') end, 200)),
    ?assertEqual(Watch, whereis(partisan_peer_watch)),
    channels_tried(1000),
    stop(Watch),
    Server = whereis(partisan_channel_srv),
    is_pid(Server) andalso stop(Server).

%% With a new neighbour the channels are opened, by the node's process for channels, which starts: other
%% tests must not find it.
channels_tried(Tries) ->
    #{up := Up} = sys:get_state(partisan_peer_watch),
    case lists:member([], maps:values(Up)) of
        true when Tries > 0 -> timer:sleep(20), channels_tried(Tries - 1);
        false -> ok
    end.

up(Node) ->
    gen_server:cast(partisan_peer_watch, {notice, {neighbour_up, #{name => Node}}}).

%% A handler's functions run in the broadcast's own process.
linked_handler() ->
    persistent_term:put(?HEARD_BY, self()),
    {ok, Broadcast} = partisan_plumtree_broadcast:start_link(),
    Give = fun(Id) ->
                   Broadcast ! {plumtree, 'x@h', {payload, 'x@h', {?MODULE, Id}, 1, data}},
                   ?assertEqual({merged, Id, Broadcast}, heard(20000))
           end,
    Give(1),
    Failed = receive {linked, Pid} -> Pid end,
    Ref = monitor(process, Failed),
    receive {'DOWN', Ref, process, _, _} -> ok end, % its exit signal is out
    Give(2),
    stop(Broadcast),
    persistent_term:erase(?HEARD_BY).

broadcast_data(X) -> {X, X}.

merge(Id, _Data) ->
    To = persistent_term:get(?HEARD_BY),
    To ! {linked, spawn_link(fun() -> exit(boom) end)},
    To ! {merged, Id, self()},
    true.

is_stale(_) -> true.
graft(_) -> stale.
exchange(_) -> ignore.

heard(Ms) ->
    receive
        Message when element(1, Message) =/= linked -> Message
    after Ms -> nothing
    end.

until_heard(_Again, 0) -> nothing;
until_heard(Again, Tries) ->
    Again(),
    case heard(100) of
        nothing -> until_heard(Again, Tries - 1);
        Message -> Message
    end.

stop(Pid) ->
    unlink(Pid),
    Ref = monitor(process, Pid),
    exit(Pid, shutdown),
    receive {'DOWN', Ref, process, _, _} -> ok
    after 20000 -> error({still_there, Pid})
    end.
