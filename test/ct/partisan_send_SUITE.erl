%% Messages by Partisan's API between real nodes: every form of destination and of arguments, every
%% documented error, acknowledged and causal delivery, and a node on another carrier.
-module(partisan_send_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([destinations/1, old_and_new_arities/1, errors/1, bad_input/1, bad_options/1, casts/1, sends/1, timers/1,
         order_by_key/1, forward_options/1, acknowledged/1, retransmitted/1, receiver_restarts/1,
         lost_without/1, window/1,
         beside_one_that_stands_still/1, gives_up/1, causal_order/1, causal_hold/1, another_carrier/1]).

suite() ->
    [{timetrap, {minutes, 3}}].

%% ms. For what comes at once, on a machine that stands still for a while, too.
-define(SOON, 20000).

all() ->
    [destinations, old_and_new_arities, errors, bad_input, bad_options, casts, sends, timers, order_by_key,
     forward_options, acknowledged, retransmitted, receiver_restarts, lost_without, window,
     beside_one_that_stands_still, gives_up, causal_order,
     causal_hold, another_carrier].

-define(CHANNELS, #{vnode => #{parallelism => 4}, gossip => #{monotonic => true},
                    bulk => #{parallelism => 2, compression => true}}).

%% ------------------------------------------------------------------------------------------------
%% Destinations and arguments

destinations(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    Formats = [on(B, fun() -> partisan_config:set(remote_ref_format, Format),
                              partisan_remote_ref:from_term(Pid) end)
               || Format <- [improper_list, tuple, uri]],
    Name = on(B, fun() -> partisan_remote_ref:from_term(here) end),
    [yes = on(P, fun() -> global:register_name(there, Pid) end) || P <- [A, B]],
    "<" ++ Numbers = on(B, fun() -> pid_to_list(Pid) end),
    Old = [[Node | list_to_binary("#Pid<" ++ Numbers)],
           {partisan_remote_reference, Node, {partisan_process_reference, "<" ++ Numbers}},
           {partisan_remote_ref, Node, {encoded_pid, "<" ++ Numbers}},
           {partisan_remote_reference, Node, {partisan_registered_name_reference, "here"}}],
    Dests = [Pid, {here, Node}, {global, there}, {via, global, there}, Name] ++ Formats ++ Old,
    Numbered = lists:zip(lists:seq(1, length(Dests)), Dests),
    [?assertEqual({I, ok}, {I, on(A, fun() -> partisan:forward_message(Dest, {two, I}) end)})
     || {I, Dest} <- Numbered],
    [?assertEqual({I, ok}, {I, on(A, fun() -> partisan:forward_message(Dest, {three, I}, []) end)})
     || {I, Dest} <- Numbered],
    [?assertEqual({I, ok}, {I, on(A, fun() -> partisan:forward_message(Node, Dest, {four, I},
                                                                       #{channel => vnode}) end)})
     || {I, Dest} <- Numbered],
    ?assertEqual(ok, on(A, fun() -> partisan:forward_message(Node, here, {four, 0}, #{}) end)),
    Expected = [{How, I} || How <- [two, three, four], {I, _} <- Numbered] ++ [{four, 0}],
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= length(Expected) end)),
    ?assertEqual(lists:sort(Expected), lists:sort(pt_peer:collected(B, Pid))),
    %% an alias, and the same destinations from their own node
    ?assertEqual(hello, on(A, fun() ->
        Alias = erlang:alias(),
        ok = partisan_rpc:call(Node, partisan, forward_message, [Alias, hello]),
        receive M -> M after ?SOON -> none end
    end)),
    [?assertEqual({I, ok}, {I, on(B, fun() -> partisan:forward_message(Dest, {local, I}) end)})
     || {I, Dest} <- Numbered],
    ?assert(pt_peer:wait(fun() -> length([1 || {local, _} <- pt_peer:collected(B, Pid)])
                                      =:= length(Numbered) end)),
    stop([A, B]).

%% Table of the older and the newer order of arguments, through the function that managers delegate
%% to.
old_and_new_arities(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    Encoded = on(B, fun() -> partisan_remote_ref:from_term(Pid) end),
    M = partisan_send,
    Calls = [{M, forward_message, [Encoded, 1]},
             {M, forward_message, [Encoded, 2, #{channel => vnode}]},
             {M, forward_message, [Pid, 3, [{partition_key, 5}]]},
             {M, forward_message, [Node, Pid, 4]},
             {M, forward_message, [Node, here, 5]},
             {M, forward_message, [Node, here, 6, [{channel, vnode}]]},
             {M, forward_message, [Node, Encoded, 7, #{}]},
             {M, forward_message, [Node, vnode, Pid, 8]},
             {M, forward_message, [Node, undefined, Encoded, 9]},
             {M, forward_message, [Node, {monotonic, gossip}, here, 10]},
             {M, forward_message, [Node, vnode, Pid, [11]]},
             {M, forward_message, [Node, undefined, here, 12, []]},
             {M, forward_message, [Node, vnode, Pid, 13, [{partition_key, 1 bsl 154}]]},
             {M, forward_message, [Node, {monotonic, gossip}, Encoded, 14, [{partition_key, 3}]]},
             {M, forward_message, [Node, {vnode, 7}, Pid, 15, []]},
             {M, old_forward_message, [{partisan_remote_reference, Node, here}, 16]},
             {M, old_forward_message, [Node, Pid, 17]},
             {M, old_forward_message, [Node, vnode, here, 18]},
             {M, old_forward_message, [Node, gossip, Encoded, 19, [{partition_key, 3}]]},
             %% a map is a message in the older generation
             {M, forward_message, [Node, Pid, #{i => 20}]},
             {M, forward_message, [Node, vnode, Pid, #{i => 21}]},
             {M, forward_message, [Node, here, {x, y}, #{}]}],
    [?assertEqual({Args, ok}, {Args, on(A, fun() -> apply(Mod, F, Args) end)})
     || {Mod, F, Args} <- Calls],
    Expected = lists:seq(1, 10) ++ [[11]] ++ lists:seq(12, 19) ++ [#{i => 20}, #{i => 21}, {x, y}],
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= length(Expected) end),
    ?assertEqual(lists:sort(Expected), lists:sort(pt_peer:collected(B, Pid))),
    Casts = [{cast_message, [Encoded, 1]}, {cast_message, [Pid, 2, []]}, {cast_message, [Node, Pid, 3]},
             {cast_message, [Node, here, 4, []]}, {cast_message, [Node, vnode, Pid, 5]},
             {cast_message, [Node, vnode, here, 6, []]}, {old_cast_message, [Encoded, 7]},
             {old_cast_message, [Node, here, 8]}, {old_cast_message, [Node, vnode, here, 9]},
             {old_cast_message, [Node, vnode, here, 10, []]}],
    [?assertEqual({Args, ok}, {Args, on(A, fun() -> apply(M, F, Args) end)}) || {F, Args} <- Casts],
    true = pt_peer:wait(fun() -> length(casts_of(B, Pid)) >= 10 end),
    ?assertEqual(lists:seq(1, 10), lists:sort(casts_of(B, Pid))),
    stop([A, B]).

casts_of(B, Pid) ->
    [N || {'$gen_cast', N} <- pt_peer:collected(B, Pid)].

errors(_Config) ->
    [A, B, C] = [node_with(#{}), node_with(#{}), pt_peer:start(api)],
    NodeB = pt_peer:node(B),
    Forward = fun(Peer, Node, Opts) ->
                      on(Peer, fun() -> partisan:forward_message(Node, nobody, hello, Opts) end)
              end,
    %% not started
    ?assertEqual({error, notalive}, Forward(C, node(), #{})),
    ?assertEqual({error, notalive}, Forward(C, NodeB, [])),
    ?assertEqual(false, on(C, fun partisan:is_alive/0)),
    %% never seen; a wrong name; sent to before
    ?assertEqual({error, not_yet_connected}, Forward(A, NodeB, #{})),
    ?assertEqual({error, not_yet_connected}, Forward(A, 'nobody@127.0.0.1', #{})),
    ?assertEqual({error, not_yet_connected}, Forward(A, NodeB, [{channel, vnode}])),
    ?assertEqual({error, not_yet_connected}, Forward(A, NodeB, [{ack, true}])),
    ?assertEqual({error, not_yet_connected}, Forward(A, NodeB, [{retransmission, true}])),
    ?assertEqual({error, not_yet_connected}, Forward(A, NodeB, [{causal_label, l}])),
    ?assertEqual({badrpc, not_yet_connected}, on(A, fun() -> partisan_rpc:call(NodeB, m, f, []) end)),
    %% connected: nobody of that name is no error
    pt_peer:connect(A, B),
    ?assertEqual(ok, Forward(A, NodeB, #{})),
    %% unknown channels
    ?assertEqual(ok, Forward(A, NodeB, [{channel, what}])),
    ?assertEqual({error, {unknown_channel, what}},
                 Forward(A, NodeB, [{channel, what}, {channel_fallback, false}])),
    ok = on(A, fun() -> partisan_config:set(channel_fallback, false) end),
    ?assertEqual({error, {unknown_channel, what}}, Forward(A, NodeB, #{channel => what})),
    ?assertEqual({error, {unknown_channel, what}}, Forward(A, NodeB, #{channel => what, ack => true})),
    ?assertEqual(ok, Forward(A, NodeB, #{channel => vnode})),
    %% names that nobody has
    ?assertEqual({error, noproc}, on(A, fun() -> partisan:forward_message({global, x}, m) end)),
    %% gone
    pt_peer:disconnect(A, B),
    ?assertEqual({error, disconnected}, Forward(A, NodeB, #{})),
    ?assertEqual({error, disconnected}, Forward(A, NodeB, #{channel => vnode})),
    ?assertEqual({error, disconnected}, Forward(A, NodeB, #{ack => true, retransmission => false})),
    ?assertEqual({badrpc, disconnected}, on(A, fun() -> partisan_rpc:call(NodeB, m, f, []) end)),
    ok = on(A, fun partisan:stop/0),
    ?assertEqual({error, notalive}, Forward(A, NodeB, #{})),
    ?assertMatch({ok, _}, on(A, fun partisan:start/0)),
    stop([A, B, C]).

bad_input(_Config) ->
    A = node_with(#{}),
    [?assertEqual({Args, badarg}, {Args, on(A, fun() ->
        try apply(partisan, F, Args) of Result -> Result
        catch error:Reason -> Reason
        end
     end)}) || {F, Args} <- [{forward_message, ["nobody", m]},
                             {forward_message, [{}, m]},
                             {forward_message, [<<"partisan:pid:x">>, m]},
                             {forward_message, [self(), m, not_options]},
                             {forward_message, ["node", name, m, []]},
                             {forward_message, ['n@h' , {a, b, c}, m, []]},
                             {cast_message, [[], m]},
                             {send_after, [-1, self(), m]},
                             {send_after, [soon, self(), m]},
                             {send_after, [1, "x", m]}]],
    stop([A]).

%% They fail in the sender: the streams, which others use, go on.
bad_options(_Config) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    Pid = collector(B, here),
    Forward = fun(Msg, Opts) ->
                      on(A, fun() -> try partisan:forward_message(Node, Pid, Msg, Opts)
                                     catch error:Reason -> Reason end end)
              end,
    Kinds = [#{}, #{ack => true}, #{causal_label => talk}],
    [ok = Forward(before, Kind) || Kind <- Kinds],
    Streams = fun() -> [whereis(partisan_reliable), whereis(partisan_causality)] end,
    Before = on(A, Streams),
    [?assertEqual({Kind, Bad, badarg}, {Kind, Bad, Forward(lost, maps:merge(Kind, Bad))})
     || Kind <- Kinds,
        Bad <- [#{timeout => soon}, #{timeout => 1.5}, #{timeout => 1 bsl 70}, #{channel => 17},
                #{channel => {17, key}}, #{channel => {monotonic, 17}}, #{channel => "vnode"}]],
    [ok = Forward(later, Kind#{timeout => 5000}) || Kind <- Kinds],
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= 6 end)),
    ?assertEqual([before, before, before, later, later, later],
                 lists:sort(pt_peer:collected(B, Pid))),
    ?assertEqual(Before, on(A, Streams)),
    stop([A, B]).

casts(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    ok = on(A, fun() -> partisan:cast_message(Pid, 1) end),
    ok = on(A, fun() -> partisan:cast_message({here, Node}, 2, #{channel => vnode}) end),
    ok = on(A, fun() -> partisan:cast_message(Node, here, 3, [{channel, gossip}]) end),
    true = pt_peer:wait(fun() -> lists:sort(casts_of(B, Pid)) =:= [1, 2, 3] end),
    %% never an error
    ok = on(A, fun() -> partisan:cast_message('nobody@127.0.0.1', here, 3, []) end),
    stop([A, B]).

sends(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    ?assertEqual(m1, on(A, fun() -> partisan:send(Pid, m1) end)),
    ?assertEqual(ok, on(A, fun() -> partisan:send({here, Node}, m2, []) end)),
    ?assertEqual(ok, on(A, fun() -> partisan:send(Pid, m3, [nosuspend, noconnect]) end)),
    true = pt_peer:wait(fun() -> pt_peer:collected(B, Pid) =:= [m1, m2, m3] end),
    pt_peer:disconnect(A, B),
    ?assertEqual(noconnect, on(A, fun() -> partisan:send(Pid, m4, [noconnect]) end)),
    ?assertEqual({error, disconnected}, on(A, fun() -> partisan:send(Pid, m4, []) end)),
    ?assertEqual({badmatch, {error, disconnected}},
                 on(A, fun() -> try partisan:send(Pid, m4) catch error:Why -> Why end end)),
    stop([A, B]).

timers(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    Encoded = on(B, fun() -> partisan_remote_ref:from_term(Pid) end),
    [true = is_reference(on(A, fun() -> partisan:send_after(20, Dest, {after_, I}) end))
     || {I, Dest} <- [{1, Pid}, {2, Encoded}, {3, {here, Node}}]],
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) =:= 3 end),
    Abs = on(A, fun() -> partisan:send_after(erlang:monotonic_time(millisecond) + 10, Pid, {after_, 4},
                                             [{abs, true}, {channel, vnode}]) end),
    true = is_reference(Abs),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) =:= 4 end),
    %% cancelled: the VM has no such timer any more
    {ok, Second} = on(A, fun() ->
        Ref = partisan:send_after(60000, Pid, {after_, 5}),
        Left = partisan:cancel_timer(Ref),
        true = is_integer(Left) andalso Left =< 60000,
        false = partisan:cancel_timer(Ref),
        Other = partisan:send_after(60000, Pid, {after_, 6}),
        {partisan:cancel_timer(partisan_remote_ref:from_term(Other), [{async, true}, {info, false}]), Other}
    end),
    ?assert(pt_peer:wait(fun() -> false =:= on(A, fun() -> erlang:read_timer(Second) end) end)),
    %% to this node: erlang's own
    ?assertEqual(m, on(A, fun() -> partisan:send_after(1, partisan:self(), m),
                                   receive M -> M after ?SOON -> none end end)),
    stop([A, B]).

%% One sender, one channel, one key: in order. Keys as large as Riak's, channels as Riak writes
%% them.
order_by_key(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    Keys = [I * ((1 bsl 160) div 64) || I <- lists:seq(0, 7)],
    ok = on(A, fun() ->
        [ok = partisan_send:old_forward_message(Node, vnode, here, {Key, N}, [{partition_key, Key}])
         || N <- lists:seq(1, 200), Key <- Keys],
        ok
    end),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) =:= 200 * length(Keys) end),
    All = pt_peer:collected(B, Pid),
    [?assertEqual({Key, lists:seq(1, 200)}, {Key, [N || {K, N} <- All, K =:= Key]}) || Key <- Keys],
    stop([A, B]).

%% Options for all calls, under those of the call.
forward_options(_Config) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    _ = collector(B, here),
    ok = on(A, fun() -> partisan_config:set(forward_options, [{channel, none}, {channel_fallback, false}]) end),
    ?assertEqual({error, {unknown_channel, none}},
                 on(A, fun() -> partisan:forward_message(Node, here, m, []) end)),
    ?assertEqual(ok, on(A, fun() -> partisan:forward_message(Node, here, m, [{channel, vnode}]) end)),
    stop([A, B]).

%% ------------------------------------------------------------------------------------------------
%% Acknowledgement

acknowledged(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    ok = on(A, fun() ->
        [ok = partisan:forward_message(Node, here, {Channel, N}, [{ack, true}, {channel, Channel}])
         || N <- lists:seq(1, 500), Channel <- [undefined, vnode, bulk]],
        ok
    end),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= 1500 end),
    All = pt_peer:collected(B, Pid),
    [?assertEqual({C, lists:seq(1, 500)}, {C, [N || {Channel, N} <- All, Channel =:= C]})
     || C <- [undefined, vnode, bulk]],
    %% nothing is kept once the peer has it
    ?assert(pt_peer:wait(fun() -> outstanding(A) =:= 0 end)),
    stop([A, B]).

outstanding(Peer) ->
    lists:sum([N || #{unacknowledged := N} <- on(Peer, fun partisan_reliable:info/0)]).

%% The connection is cut again and again: each message comes once and in order, in each mode of
%% asking.
retransmitted(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    Streams = [{s1, [{retransmission, true}]}, {s2, [{ack, true}]},
               {s3, [{ack, true}, {retransmission, true}, {channel, vnode}, {partition_key, 7}]},
               {s4, [{retransmission, true}, {channel, gossip}]}],
    Send = fun(From, To) ->
                   on(A, fun() ->
                       [ok = partisan:forward_message(Node, here, {Stream, N}, Opts)
                        || N <- lists:seq(From, To), {Stream, Opts} <- Streams],
                       ok
                   end)
           end,
    lists:foreach(fun(Round) ->
                      ok = Send(Round * 100 + 1, Round * 100 + 50),
                      pt_peer:disconnect(A, B),
                      %% kept while there is nobody to send to
                      ok = Send(Round * 100 + 51, Round * 100 + 100),
                      pt_peer:connect(A, B)
                  end, lists:seq(0, 4)),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= 500 * length(Streams) end, 60000),
    All = pt_peer:collected(B, Pid),
    [?assertEqual({Stream, lists:seq(1, 500)}, {Stream, [N || {S, N} <- All, S =:= Stream]})
     || {Stream, _} <- Streams],
    ?assert(pt_peer:wait(fun() -> outstanding(A) =:= 0 end)),
    stop([A, B]).

%% The peer has been started again: it gets what was not acknowledged, and what comes after.
receiver_restarts(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    [Name, _] = string:lexemes(atom_to_list(Node), "@"),
    Forward = fun(From, To) ->
                      on(A, fun() -> [ok = partisan:forward_message(Node, here, N, [{retransmission, true}])
                                      || N <- lists:seq(From, To)], ok end)
              end,
    ok = Forward(1, 50),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) =:= 50 andalso outstanding(A) =:= 0 end),
    pt_peer:stop(B),
    true = pt_peer:wait(fun() -> on(A, fun() -> not partisan:is_connected(Node) end) end),
    ok = Forward(51, 100),
    C = node_with(#{}, #{name => Name}),
    Again = collector(C, here),
    pt_peer:connect(A, C),
    ok = Forward(101, 150),
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(C, Again) >= 100 end)),
    ?assertEqual(lists:seq(51, 150), pt_peer:collected(C, Again)),
    ?assert(pt_peer:wait(fun() -> outstanding(A) =:= 0 end)),
    stop([A, C]).

%% Acknowledged but not retransmitted: what the connection took with it is told.
lost_without(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    pt_peer:log_start(A),
    Opts = [{ack, true}, {retransmission, false}],
    ok = on(A, fun() -> partisan:forward_message(Node, here, first, Opts) end),
    true = pt_peer:wait(fun() -> pt_peer:collected(B, Pid) =:= [first] andalso outstanding(A) =:= 0 end),
    pt_peer:sigstop(B),
    ok = on(A, fun() -> partisan:forward_message(Node, here, second, Opts) end),
    ok = on(A, fun() -> true = erlang:disconnect_node(Node), ok end),
    pt_peer:sigcont(B),
    true = pt_peer:wait(fun() -> not pt_peer:connected(A, B) end),
    pt_peer:connect(A, B),
    ok = on(A, fun() -> partisan:forward_message(Node, here, third, Opts) end),
    true = pt_peer:wait(fun() -> lists:member(third, pt_peer:collected(B, Pid)) end),
    true = pt_peer:wait(fun() -> outstanding(A) =:= 0 end),
    case pt_peer:collected(B, Pid) of
        [first, third] ->
            ?assertMatch([_], [L || {warning, L} <- pt_peer:logged(A), string:find(L, "were lost") =/= nomatch]);
        %% it may have been in the kernel's hands already
        Other ->
            ?assertEqual([first, second, third], Other)
    end,
    stop([A, B]).

%% A full window: senders wait, or are told.
window(_Config) ->
    {A, B} = pair(),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    ok = on(A, fun() -> partisan_config:set(retransmit_window, 10) end),
    pt_peer:disconnect(A, B),
    Forward = fun(M, More) ->
                      partisan:forward_message(Node, here, M, [{retransmission, true} | More])
              end,
    [?assertEqual(ok, on(A, fun() -> Forward(N, []) end)) || N <- lists:seq(1, 10)],
    ?assertEqual({error, busy}, on(A, fun() -> Forward(11, [nosuspend]) end)),
    ?assertEqual({error, timeout}, on(A, fun() -> Forward(12, [{timeout, 50}]) end)),
    %% one that waits without a limit
    Waiting = on(A, fun() -> spawn(fun() -> exit({result, Forward(13, [])}) end) end),
    true = pt_peer:wait(fun() -> [1] =:= [W || #{waiting := W} <- on(A, fun partisan_reliable:info/0)] end),
    Self = on(A, fun() ->
        Ref = erlang:monitor(process, Waiting),
        true = net_kernel:connect_node(Node),
        receive {'DOWN', Ref, _, _, Reason} -> Reason after ?SOON -> none end
    end),
    ?assertEqual({result, ok}, Self),
    true = pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) >= 11 end),
    ?assertEqual(lists:seq(1, 10) ++ [13], pt_peer:collected(B, Pid)),
    stop([A, B]).

%% A peer that stays away is not waited for for ever, and that is said.
%% The connection with B takes nothing, and who sends to it waits: the stream to B as well, which is
%% opened just then. Those who send to C must not notice.
beside_one_that_stands_still(_Config) ->
    {A, B, C} = triple(#{}),
    [NodeB, NodeC] = [pt_peer:node(P) || P <- [B, C]],
    Pid = collector(C, here),
    Retransmit = [{retransmission, true}],
    Until = fun(Info, Fun) ->
                    Process = on(A, fun() -> spawn(Fun) end),
                    ?assert(pt_peer:wait(fun() -> on(A, fun() ->
                        process_info(Process, element(1, Info)) =:= Info
                    end) end))
            end,
    on(A, fun() ->
        Port = pt_peer:dist_port(NodeB),
        #{lanes := Lanes} = partisan_dist:info(NodeB),
        [ok = partisan_drv:test(Port, pause_send, Lane, 0) || #{lane := Lane} <- Lanes],
        ok = partisan_drv:set_max_queue(Port, 0)
    end),
    Until({status, suspended},
          fun() -> [{here, NodeB} ! binary:copy(<<1>>, 1 bsl 20) || _ <- [1, 2, 3]] end),
    Until({current_function, {gen, do_call, 4}},
          fun() -> partisan:forward_message(NodeB, here, 1, Retransmit) end),
    ?assertEqual(ok, on(A, fun() -> partisan:forward_message(NodeC, here, 2, Retransmit) end)),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(C, Pid) =:= [2] end)),
    stop([A, B, C]).

gives_up(_Config) ->
    {A, B} = pair(),
    Node = pt_peer:node(B),
    pt_peer:log_start(A),
    ok = on(A, fun() -> partisan_config:set(retransmit_timeout, 300),
                        partisan_config:set(retransmit_interval, 50) end),
    pt_peer:disconnect(A, B),
    ok = on(A, fun() -> partisan:forward_message(Node, here, m, [{retransmission, true}]) end),
    ?assert(pt_peer:wait(fun() -> on(A, fun partisan_reliable:info/0) =:= [] end)),
    ?assertMatch([_], [L || {warning, L} <- pt_peer:logged(A), string:find(L, "gave up 1 ") =/= nomatch]),
    stop([A, B]).

%% ------------------------------------------------------------------------------------------------
%% Causal delivery

%% A tells C, then B; B, having heard, tells C. The way from A to C is cut: C must not hear B first.
causal_order(_Config) ->
    {A, B, C} = triple(#{causal_hold => 600000}),
    At = collector(C, here),
    [NodeB, NodeC] = [pt_peer:node(P) || P <- [B, C]],
    Opts = [{causal_label, talk}, {channel, vnode}],
    %% everybody has met
    ok = on(A, fun() -> partisan:forward_message(NodeC, here, hello_from_a, Opts) end),
    ok = on(B, fun() -> partisan:forward_message(NodeC, here, hello_from_b, Opts) end),
    ok = on(A, fun() -> partisan:forward_message(NodeB, nobody, hello, Opts) end),
    true = pt_peer:wait(fun() -> pt_peer:how_many(C, At) =:= 2 end),
    Relay = on(B, fun() -> Pid = spawn(fun() ->
                                receive M -> ok = partisan:forward_message(NodeC, here, {b_heard, M}, Opts) end
                            end),
                           register(relay, Pid), Pid end),
    true = is_pid(Relay),
    cut(A, C),
    ok = on(A, fun() -> partisan:forward_message(NodeC, here, cause, Opts) end),
    ok = on(A, fun() -> partisan:forward_message(NodeB, relay, cause_was_sent, Opts) end),
    %% B's word is there, and held
    ?assert(pt_peer:wait(fun() -> held(C) =:= 1 end)),
    ?assertEqual([], lists:nthtail(2, pt_peer:collected(C, At))),
    join(A, C),
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(C, At) =:= 4 end)),
    ?assertEqual([cause, {b_heard, cause_was_sent}], lists:nthtail(2, pt_peer:collected(C, At))),
    ?assertEqual(0, held(C)),
    stop([A, B, C]).

%% The cause never comes, because its sender is dead: after causal_hold it goes without, and says
%% so.
causal_hold(_Config) ->
    {A, B, C} = triple(#{causal_hold => 500}),
    At = collector(C, here),
    [NodeB, NodeC] = [pt_peer:node(P) || P <- [B, C]],
    pt_peer:log_start(C),
    Opts = [{causal_label, talk}],
    Heard = fun(N) -> true = pt_peer:wait(fun() -> pt_peer:how_many(C, At) =:= N end) end,
    %% nothing of this is to wait for the other
    ok = on(A, fun() -> partisan:forward_message(NodeC, here, hello, Opts) end),
    Heard(1),
    ok = on(A, fun() -> partisan:forward_message(NodeB, nobody, hello, Opts) end),
    ok = on(B, fun() -> partisan:forward_message(NodeC, here, hello, Opts) end),
    Heard(2),
    Relay = on(B, fun() -> Pid = spawn(fun() ->
                                receive M -> ok = partisan:forward_message(NodeC, here, M, Opts) end
                            end),
                           register(relay, Pid), Pid end),
    cut(A, C),
    ok = on(A, fun() -> partisan:forward_message(NodeC, here, cause, Opts) end),
    ok = on(A, fun() -> partisan:forward_message(NodeB, relay, effect, Opts) end),
    %% B has the effect, and has sent it on
    ?assert(pt_peer:wait(fun() -> not on(B, fun() -> is_process_alive(Relay) end) end)),
    pt_peer:kill(A),
    ?assert(pt_peer:wait(fun() -> lists:member(effect, pt_peer:collected(C, At)) end)),
    ?assertMatch([_], [L || {warning, L} <- pt_peer:logged(C), string:find(L, "causal label talk") =/= nomatch]),
    stop([B, C]).

held(Peer) ->
    lists:sum([N || #{held := N} <- maps:values(on(Peer, fun partisan_causality:info/0))]).

cut(A, C) ->
    pt_peer:disconnect(A, C).

join(A, C) ->
    ?assertNot(pt_peer:connected(A, C)),
    pt_peer:connect(A, C).

%% ------------------------------------------------------------------------------------------------

%% On inet_tcp: said once, and everything goes with one channel.
another_carrier(_Config) ->
    [A, B] = [pt_peer:start(api, #{carrier => "inet_tcp", args => only_by_the_test()}) || _ <- [1, 2]],
    pt_peer:log_start(A),
    [{ok, _} = on(P, fun() -> application:load(partisan),
                              application:set_env(partisan, channels, ?CHANNELS),
                              partisan:start() end) || P <- [A, B]],
    pt_peer:connect(A, B),
    Pid = collector(B, here),
    Node = pt_peer:node(B),
    [?assertEqual({Opts, ok}, {Opts, on(A, fun() -> partisan:forward_message(Node, here, Opts, Opts) end)})
     || Opts <- [[], [{channel, vnode}], [{channel, vnode}, {partition_key, 3}], [{ack, true}],
                 [{causal_label, l}], [{channel, gossip}, {clock, 7}], [nosuspend, {timeout, 10}]]],
    ?assert(pt_peer:wait(fun() -> pt_peer:how_many(B, Pid) =:= 7 end)),
    ?assertEqual(Node, on(A, fun() -> partisan_rpc:call(Node, erlang, node, [], [{channel, vnode}]) end)),
    ?assertMatch([_], [L || {notice, L} <- pt_peer:logged(A), string:find(L, "one channel") =/= nomatch]),
    ?assertEqual({error, not_yet_connected},
                 on(A, fun() -> partisan:forward_message('nobody@127.0.0.1', here, m, []) end)),
    pt_peer:disconnect(A, B),
    ?assertEqual({error, disconnected}, on(A, fun() -> partisan:forward_message(Node, here, m, []) end)),
    stop([A, B]).

%% ------------------------------------------------------------------------------------------------

on(Peer, Fun) -> pt_peer:eval(Peer, Fun).

stop(Peers) -> lists:foreach(fun pt_peer:stop/1, Peers).

%% A node with the application started, options over those all have.
node_with(Env) -> node_with(Env, #{}).

node_with(Env, Opts) ->
    P = pt_peer:start(api, Opts#{args => only_by_the_test()}),
    {ok, _} = on(P, fun() ->
        _ = application:load(partisan),
        maps:foreach(fun(Key, Value) -> application:set_env(partisan, Key, Value) end,
                     maps:merge(#{channels => ?CHANNELS, retransmit_interval => 100}, Env)),
        partisan:start()
    end),
    P.

%% Connections are made and cut: not by OTP's rpc server, which makes one anew to answer a node that has
%% just come and gone, nor by global, which in OTP 25 cuts more of them where one was lost.
only_by_the_test() ->
    ["-connect_all", "false", "-kernel", "dist_auto_connect", "never",
     "-kernel", "prevent_overlapping_partitions", "false"].

pair() ->
    [A, B] = [node_with(#{}) || _ <- [1, 2]],
    pt_peer:connect(A, B),
    {A, B}.

triple(Env) ->
    [A, B, C] = [node_with(Env) || _ <- [1, 2, 3]],
    [pt_peer:connect(P, Q) || {P, Q} <- [{A, B}, {B, C}, {A, C}]],
    {A, B, C}.

collector(Peer, Name) ->
    Pid = pt_peer:spawn_collector(Peer),
    true = on(Peer, fun() -> register(Name, Pid) end),
    Pid.
