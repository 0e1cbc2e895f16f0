%% A hub: a registered, exit trapping process that lives for one round, sends every kind of signal to
%% the hubs and mortals of the other nodes, and checks everything that reaches it.
-module(oracle_hub).

-export([start/2]).

-define(WINDOW_BYTES, 24000000).
-define(WINDOW_MSGS, 1500).
-define(ACK_BYTES, 4000000).
-define(ACK_MSGS, 200).
-define(GLS, 12).

-record(hub, {ep, mode, cfg, mix,
              me,                  % own target description
              targets = [],        % hubs on other nodes
              phase = idle,
              out = #{},           % Hub => {Bytes, Msgs} sent and not acknowledged
              got = #{},           % Hub => {Bytes, Msgs} received and not acknowledged
              mortals = #{},       % Pid => #{fin, link, gone, target}
              children = #{},      % Pid => number of group leader changes sent
              reqs = #{},          % Tag => {Opts, ReqId}: spawn requests without reply
              mons = #{},          % Ref => {Pid, How}: promised DOWN
              calls = #{},         % Ref => Pid: promised reply
              fins = #{},          % hubs that have finished
              gls = [], finished = false}).

%% -> {Pid, Target}
start(Index, Cfg) ->
    Name = list_to_atom("oracle_hub_" ++ integer_to_list(Index)),
    Self = self(),
    Pid = spawn(fun() -> init(Self, Name, Index, Cfg) end),
    receive {hub_ready, Pid, Target} -> {Pid, Target} after 60000 -> error(hub_start) end.

init(Parent, Name, Index, #{seed := Seed, round := Round, mode := Mode} = Cfg) ->
    oracle_gen:seed({Seed, Round, node_index(Cfg), Index}),
    process_flag(trap_exit, true),
    register(Name, self()),
    ok = net_kernel:monitor_nodes(true),
    Me = #{pid => self(), name => {Name, node()}, alias => erlang:alias()},
    Gls = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, ?GLS)],
    Parent ! {hub_ready, self(), Me},
    RxMode = case Mode of strict -> strict; brutal -> sessions end,
    loop(#hub{ep = oracle_ep:new(RxMode), mode = Mode, cfg = Cfg, me = Me, gls = Gls,
              mix = oracle_gen:pick(maps:get(mixes, Cfg, [chatty, chatty, mixed, mixed, bulk]))}).

node_index(#{index := I}) -> I.

loop(#hub{phase = running} = S) ->
    Wait = case oracle_gen:chance(60) of true -> rand:uniform(4); false -> 0 end,
    S1 = drain(S, 40, Wait),
    case S1#hub.phase of
        running ->
            case op(S1) of
                {blocked, S2} -> loop(drain(S2, 1, 5));
                S2 -> loop(S2)
            end;
        _ -> loop(S1)
    end;
loop(S) ->
    S1 = receive M -> handle(M, S) end,
    loop(finish(S1)).

drain(S, 0, _) -> S;
drain(S, N, Wait) ->
    receive M -> drain(handle(M, S), N - 1, 0) after Wait -> S end.

%% ---- received ------------------------------------------------------------------------------

handle({o, Seq, From, Body, P}, S) ->
    S1 = acknowledge(From, P, S#hub{ep = oracle_ep:check(From, Seq, P, S#hub.ep)}),
    body(Body, From, S1);
handle({'EXIT', From, {o, Seq, From, exit2, P}}, S) ->
    acknowledge(From, P, S#hub{ep = oracle_ep:check(From, Seq, P, S#hub.ep)});
handle({'EXIT', From, Reason}, S) ->
    linked_exit(From, Reason, S);
handle({'DOWN', Ref, process, Obj, Reason}, S) ->
    down(Ref, Obj, Reason, S);
handle({{sr, Tag}, ReqId, Result, What}, S) ->
    spawn_reply(Tag, ReqId, Result, What, S);
handle({nodeup, N}, S) ->
    rx(fun(Rx) -> oracle_rx:nodeup(N, Rx) end, S);
handle({nodedown, N}, #hub{mode = Mode, phase = Phase} = S) ->
    S1 = rx(fun(Rx) -> oracle_rx:nodedown(N, Rx) end, S),
    S2 = case Mode =:= strict andalso Phase =/= done of
             true -> bad({nodedown_in_quiet_round, N}, S1);
             false -> S1
         end,
    Other = fun(Pid, _) -> node(Pid) =/= N end,
    S2#hub{children = maps:filter(Other, S2#hub.children),
           out = maps:filter(Other, S2#hub.out), got = maps:filter(Other, S2#hub.got)};
handle({ctl, go, Targets}, S) ->
    burst(S#hub{phase = running, targets = Targets});
handle({ctl, stop}, S) ->
    S#hub{phase = stopping};
handle({ctl, finish}, S) ->
    lists:foldl(fun(T, Acc) -> send(T, hub_fin, tiny, Acc) end, S#hub{phase = finishing},
                S#hub.targets);
handle({ctl, idle, From, Ref}, S) ->
    %% A child that a lost connection killed does not say goodbye; live mortals are counted by
    %% their node.
    Children = case S#hub.mode of strict -> maps:size(S#hub.children); brutal -> 0 end,
    From ! {Ref, Children + maps:size(S#hub.reqs)},
    S;
handle({ctl, waiting_for, From, Ref}, S) ->
    From ! {Ref, waiting_for(S)},
    S;
handle({ctl, quit}, S) ->
    [Gl ! stop || Gl <- S#hub.gls],
    exit(normal);
handle(Other, S) ->
    bad({unexpected_message, io_lib:format("~0P", [Other, 12])}, S).

body(data, _, S) -> S;
body({ack, Bytes, Msgs}, From, #hub{out = Out} = S) ->
    {B, M} = maps:get(From, Out, {0, 0}),
    S#hub{out = Out#{From => {max(0, B - Bytes), max(0, M - Msgs)}}};
body({call, Ref, Mix}, From, S) ->
    Size = oracle_gen:bytes(Mix),
    sent(From, Size, S#hub{ep = oracle_ep:call_reply(From, Ref, Size, S#hub.ep)});
body({reply, Ref}, From, #hub{calls = Calls} = S) ->
    case maps:take(Ref, Calls) of
        {From, Rest} -> kept(S#hub{calls = Rest});
        _ -> bad({reply_without_call, From}, S)
    end;
body({hello, Target, Tag}, From, #hub{reqs = Reqs, mortals = Ms} = S) ->
    %% The spawn reply must have come before any other signal of the child.
    S1 = case is_map_key(Tag, Reqs) of
             true -> bad({signal_of_child_before_spawn_reply, From}, S);
             false -> S
         end,
    M = maps:get(From, Ms, mortal(Target)),
    S1#hub{mortals = Ms#{From => M#{target => Target}}};
body({watch, How, Link, Target}, From, S) ->
    S1 = watch(How, From, set(From, target, Target, S)),
    S2 = case Link of
             none -> S1;
             theirs -> linked_by_mortal(From, S1);
             mine -> link(From), linked_by_us(From, count(link, S1))
         end,
    answer(From, watching, S2);
body(unlinked, From, S) ->
    Was = get(From, link, S),
    S1 = set(From, again, true, set(From, link, none, S)),
    case Was of mine -> kept(S1); _ -> S1 end;
body(relinked, From, S) ->
    linked_by_mortal(From, S);
body({fin, End}, From, S) ->
    S1 = set(From, fin, true, S),
    S2 = S1#hub{children = maps:remove(From, S1#hub.children)},
    Again = again(From, S2),
    %% Links the mortal made itself count as promised once it says, last of all, that they stand.
    S3 = case get(From, link, S2) of
             theirs when S2#hub.mode =:= strict, not Again -> promise(set(From, link, mine, S2));
             _ -> S2
         end,
    case End of
        none -> S3;
        kill ->
            Traced = traced(traced_exit2, S3),
            exit(From, kill), count(exit2_kill, Traced);
        exit ->
            %% An atom, not a large term: a process that does not trap exits and is killed by
            %% exit/2 of another node with a compound reason makes OTP 25.2.3 loop for ever in its
            %% own clean-up now and then, over inet_tcp as well. Large exit/2 reasons go to hubs.
            Traced = traced(traced_exit2, S3),
            exit(From, m_kill),
            count(exit2_fatal, Traced);
        call ->
            call(#{pid => From}, S3)
    end;
body(hub_fin, From, #hub{fins = F} = S) ->
    S#hub{fins = F#{From => true}}.

%% One link a pair, whoever made it and however often. A link that was undone and made again may
%% tell of the death or not: stock OTP 25.2.3 loses the EXIT then, now and then, over inet_tcp too
%% (the receiver must be busy; the unlink's acknowledgement and the new link cross).
linked_by_us(Pid, S) ->
    case get(Pid, link, S) of
        mine -> S;
        _ -> promise(set(Pid, link, mine, S))
    end.

linked_by_mortal(Pid, S) ->
    case get(Pid, link, S) of
        mine -> S;
        _ -> set(Pid, link, theirs, S)
    end.

again(Pid, S) -> get(Pid, again, S).

watch(none, _, S) -> S;
watch(How, From, S) ->
    Dest = case How of pid -> From; name -> maps:get(name, get(From, target, S)) end,
    Kind = case How of pid -> monitor_pid; name -> monitor_name end,
    Ref = erlang:monitor(process, Dest),
    promise(count(Kind, S#hub{mons = (S#hub.mons)#{Ref => {From, How}}})).

%% ---- deaths --------------------------------------------------------------------------------

down(Ref, Obj, Reason, #hub{mons = Mons, calls = Calls} = S) ->
    case {maps:take(Ref, Mons), maps:take(Ref, Calls)} of
        {{{Pid, How}, Rest}, _} ->
            S1 = kept(death(Pid, Reason, down, S#hub{mons = Rest})),
            S2 = count(case Reason of
                           noconnection -> down_noconnection;
                           _ when How =:= name -> down_name;
                           _ -> down_pid
                       end, S1),
            case {How, Obj} of
                {pid, Pid} -> S2;
                {name, {_, N}} when N =:= node(Pid) -> S2;
                _ -> bad({down_with_wrong_object, Obj, Pid, How}, S2)
            end;
        {error, {Pid, Rest}} ->
            S1 = S#hub{calls = Rest},
            case lost_connection(Reason, S) of
                true -> kept(S1);
                false -> bad({down_before_reply, Pid, short(Reason)}, S1)
            end;
        {error, error} when S#hub.phase =:= done -> S;
        {error, error} -> bad({down_nobody_asked_for, Obj, short(Reason)}, S)
    end.

linked_exit(From, Reason, S) ->
    case {hub_target(From, S) =/= false, get(From, link, S)} of
        {true, _} ->
            case lost_connection(Reason, S) orelse S#hub.phase =:= done of
                true -> count(exit_noconnection, S);
                false -> bad({exit_after_unlink, From, short(Reason)}, S)
            end;
        {false, none} ->
            %% A lost connection may have taken the message that told of the link.
            case S#hub.mode =:= brutal of
                true -> count(exit_unannounced, S);
                false -> bad({exit_without_link, From, short(Reason)}, S)
            end;
        {false, Link} ->
            S1 = death(From, Reason, exit, set(From, link, none, S)),
            S2 = count(case Reason of noconnection -> exit_noconnection; _ -> exit_link end, S1),
            case Link of mine -> kept(S2); theirs -> S2 end
    end.

%% DOWN and EXIT come after everything that the dead process sent, and tell why it died.
death(Pid, Reason, How, S) ->
    case lost_connection(Reason, S) of
        true -> S;
        false ->
            S1 = case get(Pid, fin, S) of
                     true -> S;
                     false when S#hub.mode =:= brutal -> S;  % its last words may have been lost
                     false -> bad({How, overtook_messages_of, Pid, short(Reason),
                                   {last_number, oracle_rx:last(Pid, oracle_ep:rx(S#hub.ep))}}, S)
                 end,
            S2 = rx(fun(Rx) -> oracle_rx:closed(Pid, Rx) end, S1),
            case reason_ok(Reason) of
                true -> S2;
                false -> bad({How, wrong_reason, Pid, short(Reason)}, S2)
            end
    end.

reason_ok(normal) -> true;
reason_ok(shutdown) -> true;
reason_ok(killed) -> true;
reason_ok({m_end, P}) -> oracle_gen:intact(P);
reason_ok(m_kill) -> true;
reason_ok(_) -> false.

%% noproc: the request to watch reached us over the old connection, our answer found it gone.
lost_connection(Reason, #hub{mode = Mode}) ->
    Mode =:= brutal andalso (Reason =:= noconnection orelse Reason =:= noproc).

short(T) -> lists:flatten(io_lib:format("~0P", [T, 12])).

%% ---- sent ----------------------------------------------------------------------------------

%% The first signals go out while the connection is only being made, large ones among them.
burst(S) ->
    lists:foldl(fun(T, S0) ->
                    S1 = send(T, data, tiny, S0),
                    S2 = case oracle_gen:chance(3) of
                             true -> send(T, data, large, S1);
                             false -> S1
                         end,
                    S3 = exit2(T, oracle_gen:bytes(frag), S2),
                    S4 = lists:foldl(fun(_, A) -> send(T, data, S#hub.mix, A) end, S3,
                                     lists:seq(1, rand:uniform(20))),
                    count(early_bursts, S4)
                end, S, S#hub.targets).

op(#hub{targets = Targets} = S0) ->
    S = traced(traced_op, S0), % spawn requests among them
    Free = [T || #{pid := P} = T <- Targets, room(P, S)],
    case Free of
        [] -> {blocked, S};
        _ ->
            T = oracle_gen:pick(Free),
            case oracle_gen:weighted([{60, send}, {5, exit2}, {6, spawn}, {4, local}, {8, child},
                                      {3, link}, {3, call}, {2, demonitor}, {1, huge}]) of
                send -> send(T, data, S#hub.mix, S);
                exit2 -> exit2(T, oracle_gen:bytes(S#hub.mix), S);
                spawn -> spawn_remote(T, S);
                local -> spawn_local(S);
                child -> to_child(S);
                link -> link_unlink(T, S);
                call -> call(T, S);
                demonitor -> watch_unwatch(T, S);
                huge -> huge(T, S)
            end
    end.

%% Tens of megabytes: rare, and one at a time towards a hub.
huge(#{pid := P} = T, S) ->
    case maps:get(P, S#hub.out, {0, 0}) of
        {B, _} when B < 1000000 ->
            case oracle_gen:chance(6) of
                true -> send(T, data, huge, S);
                false -> send(T, data, large, S)
            end;
        _ -> S
    end.

link_unlink(#{pid := P} = T, S) ->
    link(P),
    S1 = send(T, data, S#hub.mix, S),
    unlink(P),
    count(unlink, count(link, send(T, data, tiny, S1))).

watch_unwatch(#{pid := P, name := Name} = T, S) ->
    Ref = erlang:monitor(process, oracle_gen:pick([P, Name])),
    S1 = send(T, data, S#hub.mix, S),
    erlang:demonitor(Ref, [flush]),
    count(demonitor, S1).

call(#{pid := P} = T, S) ->
    Ref = erlang:monitor(process, P, [{alias, reply_demonitor}]),
    S1 = S#hub{calls = (S#hub.calls)#{Ref => P}},
    promise(count(call, send(T, {call, Ref, S#hub.mix}, small, S1))).

to_child(#hub{children = C} = S) when map_size(C) =:= 0 -> S;
to_child(#hub{children = C, gls = Gls} = S) ->
    {Pid, K} = oracle_gen:pick(maps:to_list(C)),
    %% A dead process of the own node is a badarg, of another node a lost signal.
    case node(Pid) =/= node() andalso K < length(Gls) andalso oracle_gen:chance(2) of
        true ->
            group_leader(lists:nth(K + 1, Gls), Pid),
            S1 = count(group_leader, S#hub{children = C#{Pid => K + 1}}),
            answer(Pid, {gl, K + 1}, S1);
        false ->
            answer(Pid, data, S)
    end.

answer(Pid, Body, S) ->
    Target = case get(Pid, target, S) of
                 none -> #{pid => Pid};
                 T -> T
             end,
    send(Target, Body, case oracle_gen:chance(30) of true -> frag; false -> small end, S).

spawn_remote(#{pid := P}, S) ->
    case maps:size(S#hub.children) + maps:size(S#hub.reqs) < 10 of
        false -> S;
        true ->
            Node = node(P),
            Tag = make_ref(),
            Args = [mortal_args(Node, Tag, S)],
            %% The blocking forms answer a lost connection with a stand-in process: quiet rounds only.
            Blocking = [{3, X} || X <- [monitor, link], S#hub.mode =:= strict],
            case oracle_gen:weighted([{6, request} | Blocking]) of
                request ->
                    Opts = [monitor || oracle_gen:chance(2)] ++ [link || oracle_gen:chance(3)],
                    ReqId = erlang:spawn_request(Node, oracle_mortal, start, Args,
                                                 [{reply_tag, {sr, Tag}} | Opts]),
                    count(spawn_request,
                          S#hub{reqs = (S#hub.reqs)#{Tag => {Opts, ReqId}}});
                monitor ->
                    {Pid, Ref} = spawn_monitor(Node, oracle_mortal, start, Args),
                    S1 = child(Pid, S),
                    promise(count(spawn_monitor, S1#hub{mons = (S1#hub.mons)#{Ref => {Pid, pid}}}));
                link ->
                    Pid = spawn_link(Node, oracle_mortal, start, Args),
                    linked_by_us(Pid, count(spawn_link, child(Pid, S)))
            end
    end.

spawn_local(S) ->
    case maps:size(S#hub.children) < 6 of
        false -> S;
        true ->
            Pid = spawn(oracle_mortal, start, [mortal_args(node(), none, S)]),
            child(Pid, S)
    end.

spawn_reply(Tag, ReqId, Result, What, #hub{reqs = Reqs} = S) ->
    case {maps:take(Tag, Reqs), Result} of
        {{{Opts, ReqId}, Rest}, ok} ->
            S1 = count(spawn_reply, child(What, S#hub{reqs = Rest})),
            S2 = case lists:member(monitor, Opts) of
                     true -> promise(S1#hub{mons = (S1#hub.mons)#{ReqId => {What, pid}}});
                     false -> S1
                 end,
            case lists:member(link, Opts) of
                true -> linked_by_us(What, S2);
                false -> S2
            end;
        {{{_, ReqId}, Rest}, error} when S#hub.mode =:= brutal, What =:= noconnection ->
            count(spawn_noconnection, S#hub{reqs = Rest});
        _ ->
            bad({wrong_spawn_reply, Result, short(What)}, S)
    end.

child(Pid, S) ->
    case get(Pid, fin, S) of
        true -> S;
        false -> S#hub{children = (S#hub.children)#{Pid => 0},
                       mortals = maps:merge(#{Pid => mortal(none)}, S#hub.mortals)}
    end.

%% What a mortal needs to know; it sends to its parent and to hubs that are not on its node.
mortal_args(Node, Tag, #hub{me = Me, targets = Ts, cfg = Cfg, mode = Mode, gls = Gls, mix = Mix}) ->
    Others = [T || #{pid := P} = T <- Ts, node(P) =/= Node],
    Extra = [T || T <- Others, oracle_gen:chance(2)],
    Targets = case Node =:= node() of
                  true -> [oracle_gen:pick(Others), Me | Extra];
                  false -> [Me | Extra]
              end,
    #{parent => self(), targets => lists:usort(Targets), tag => Tag, mode => Mode,
      gls => Gls, mix => Mix, seed => rand:uniform(1 bsl 60), max_ops => maps:get(ops, Cfg, 30)}.

send(#{pid := P} = T, Body, Mix, S) ->
    Size = oracle_gen:bytes(Mix),
    sent(P, Size, S#hub{ep = oracle_ep:send(T, Body, Size, S#hub.ep)}).

exit2(#{pid := P}, Size, S) ->
    sent(P, Size, S#hub{ep = oracle_ep:exit2(P, Size, S#hub.ep)}).

%% A window towards each hub bounds the receivers' mailboxes.
sent(P, Size, #hub{out = Out} = S) ->
    {B, M} = maps:get(P, Out, {0, 0}),
    S#hub{out = Out#{P => {B + Size, M + 1}}}.

room(P, #hub{out = Out}) ->
    {B, M} = maps:get(P, Out, {0, 0}),
    B < ?WINDOW_BYTES andalso M < ?WINDOW_MSGS.

acknowledge(From, {p, _, Size, _, _}, #hub{got = Got, mortals = Ms} = S)
  when not is_map_key(From, Ms) ->
    {B0, M0} = maps:get(From, Got, {0, 0}),
    {B, M} = {B0 + Size, M0 + 1},
    Due = (B >= ?ACK_BYTES orelse M >= ?ACK_MSGS) andalso S#hub.phase =/= finishing,
    case Due andalso hub_target(From, S) of
        #{} = T -> send(T, {ack, B, M}, tiny, S#hub{got = Got#{From => {0, 0}}});
        false -> S#hub{got = Got#{From => {B, M}}}
    end;
acknowledge(_, _, S) -> S.

hub_target(Pid, #hub{targets = Ts}) ->
    case [T || #{pid := P} = T <- Ts, P =:= Pid] of
        [T] -> T;
        [] -> false
    end.

%% ---- the end of a round --------------------------------------------------------------------

finish(#hub{phase = finishing, finished = false} = S) ->
    case waiting_for(S) of
        [] ->
            oracle_node ! {hub_done, self(), oracle_ep:stats(S#hub.ep)},
            S#hub{phase = done, finished = true};
        _ -> S
    end;
finish(S) -> S.

waiting_for(#hub{targets = Ts, fins = F, mons = Mons, calls = Calls, reqs = Reqs} = S) ->
    [{last_message_of, P} || #{pid := P} <- Ts, not is_map_key(P, F)]
        ++ [{down_of, P, How} || {P, How} <- maps:values(Mons)]
        ++ [{reply_of, P} || P <- maps:values(Calls)]
        ++ [{spawn_reply, R} || R <- maps:keys(Reqs)]
        ++ [{exit_of, P} || {P, #{link := mine}} <- maps:to_list(S#hub.mortals)].

%% ---- small things --------------------------------------------------------------------------

mortal(Target) -> #{fin => false, link => none, again => false, target => Target}.

get(Pid, Key, #hub{mortals = Ms}) ->
    maps:get(Key, maps:get(Pid, Ms, mortal(none))).

set(Pid, Key, Value, #hub{mortals = Ms} = S) ->
    M = maps:get(Pid, Ms, mortal(none)),
    S#hub{mortals = Ms#{Pid => M#{Key => Value}}}.

traced(Kind, S) ->
    case oracle_gen:token() of
        true -> count(Kind, S);
        false -> S
    end.

rx(Fun, #hub{ep = Ep} = S) -> S#hub{ep = oracle_ep:set_rx(Fun(oracle_ep:rx(Ep)), Ep)}.
count(Kind, S) -> S#hub{ep = oracle_ep:count(Kind, S#hub.ep)}.
bad(What, S) -> S#hub{ep = oracle_ep:violation(What, S#hub.ep)}.
promise(S) -> S#hub{ep = oracle_ep:promise(S#hub.ep)}.
kept(S) -> S#hub{ep = oracle_ep:kept(S#hub.ep)}.
