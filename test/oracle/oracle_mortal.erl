%% A mortal: spawned by a hub (mostly on another node), sends a random script of signals to a few
%% hubs, says "this was the last" to each, and dies in one of several ways.
-module(oracle_mortal).

-export([start/1, erpc_body/4]).

%% Only ends a wait whose condition will never come true; the oracle reports it as a failure.
-define(STUCK_MS, 60000).
-define(NAMES, 50000).

-record(m, {ep, mode, mix, targets, gls, hubmons = #{}, acks = #{}, replies = #{}, linked = #{},
            call = none, gl = 0, me}).

start(#{seed := Seed} = Args) ->
    oracle_gen:seed(Seed),
    oracle_node ! {mortal, self()},
    try run(Args)
    catch
        throw:{die, Reason} -> exit(Reason);
        error:Reason:Stack ->
            oracle_node ! {violation, self(), {oracle_bug, Reason, Stack}},
            exit(oracle_bug)
    end.

run(#{targets := Targets, tag := Tag, mode := Mode, gls := Gls, mix := Mix, parent := Parent,
      max_ops := MaxOps}) ->
    Traps = not oracle_gen:chance(4),
    process_flag(trap_exit, Traps),
    Me = #{pid => self(), name => name(), alias => erlang:alias()},
    RxMode = case Mode of strict -> strict; brutal -> loose end,
    S0 = #m{ep = oracle_ep:new(RxMode), mode = Mode, mix = Mix, targets = Targets, gls = Gls,
            me = Me},
    %% Nothing before the first message to the parent: it must not arrive before the spawn reply.
    {[P], Others} = lists:partition(fun(#{pid := Pid}) -> Pid =:= Parent end, Targets),
    S1 = send(P, {hello, Me, Tag}, S0),
    S2 = lists:foldl(fun(T, A) -> send(T, {hello, Me, none}, A) end, S1, Others),
    S3 = lists:foldl(fun(#{pid := Pid}, A) ->
                         A#m{hubmons = (A#m.hubmons)#{erlang:monitor(process, Pid) => Pid}}
                     end, S2, Targets),
    S4 = lists:foldl(fun ask_watch/2, S3, Targets),
    S5 = await(watching, fun(S) -> [] =:= [T || #{pid := T} <- S#m.targets,
                                                not is_map_key(T, S#m.acks)]
                         end, S4),
    S6 = ops(rand:uniform(MaxOps), S5),
    finish(Traps, S6).

%% A name is not used again for a long time: a hub may send to it until it knows of the death.
name() ->
    case oracle_gen:chance(2) of
        true ->
            N = list_to_atom("oracle_mortal_" ++ integer_to_list(oracle_gen:serial() rem ?NAMES)),
            register(N, self()),
            {N, node()};
        false -> none
    end.

ask_watch(#{pid := Pid} = T, S) ->
    How = oracle_gen:pick([none, pid] ++ [name || maps:get(name, S#m.me) =/= none]),
    Link = oracle_gen:pick([none, mine, theirs]),
    S1 = case Link of
             theirs -> link(Pid), count(link, linked(Pid, true, S));
             mine -> linked(Pid, true, S);
             none -> S
         end,
    send(T, {watch, How, Link, S#m.me}, S1).

ops(0, S) -> S;
ops(N, S0) ->
    S = drain(S0),
    case S#m.targets of
        [] -> S;
        Ts -> ops(N - 1, op(oracle_gen:pick(Ts), S))
    end.

op(#{pid := Pid} = T, S) ->
    case oracle_gen:weighted([{30, send}, {5, exit2}, {3, call}, {2, erpc}, {3, links}]) of
        send -> send(T, data, S);
        exit2 ->
            S#m{ep = oracle_ep:exit2(Pid, oracle_gen:bytes(S#m.mix), S#m.ep)};
        call ->
            Ref = erlang:monitor(process, Pid, [{alias, reply_demonitor}]),
            S1 = count(call, send(T, {call, Ref, S#m.mix},
                                  S#m{hubmons = (S#m.hubmons)#{Ref => Pid}})),
            S2 = await({reply, Pid}, fun(X) -> is_map_key(Ref, X#m.replies) orelse gone(Pid, X) end,
                       S1),
            S2#m{hubmons = maps:remove(Ref, S2#m.hubmons)};
        erpc when node(Pid) =/= node() -> erpc(node(Pid), S);
        erpc -> S;
        %% A lost connection may take the message about an unlink and not the unlink.
        links when S#m.mode =:= brutal -> S;
        links ->
            case maps:get(Pid, S#m.linked, false) of
                true -> unlink(Pid), count(unlink, send(T, unlinked, linked(Pid, false, S)));
                false -> link(Pid), count(link, send(T, relinked, linked(Pid, true, S)))
            end
    end.

%% The worker's messages must be here when the call returns: they were sent before the reply.
erpc(Node, S) ->
    N = rand:uniform(6),
    Ref = make_ref(),
    try erpc:call(Node, ?MODULE, erpc_body, [self(), Ref, N, rand:uniform(1 bsl 50)]) of
        done -> erpc_got(1, N, Ref, count(erpc, S))
    catch
        error:{erpc, noconnection} when S#m.mode =:= brutal -> S
    end.

erpc_body(Pid, Ref, N, Seed) ->
    oracle_gen:seed(Seed),
    [Pid ! {e, Ref, I, oracle_gen:payload(oracle_gen:bytes(mixed))} || I <- lists:seq(1, N)],
    done.

erpc_got(I, N, _, S) when I > N -> S;
erpc_got(I, N, Ref, S) ->
    receive
        {e, Ref, I, P} ->
            S1 = case oracle_gen:intact(P) of
                     true -> S;
                     false -> bad({damaged_erpc_message, I}, S)
                 end,
            erpc_got(I + 1, N, Ref, count(received, S1))
    after 0 ->
        bad({erpc_returned_before_message, I, N}, S)
    end.

%% ---- the end -------------------------------------------------------------------------------

finish(Traps, S) ->
    case S#m.targets of
        [] -> stats(S), ok;
        [First | Rest] ->
            S1 = lists:foldl(fun(T, A) -> send(T, {fin, none}, A) end, S, Rest),
            End = oracle_gen:weighted([{3, normal}, {2, shutdown}, {3, small}, {3, large},
                                       {2, kill}, {3, call}]
                                      ++ [{2, exit} || not Traps]),
            last(End, First, S1)
    end.

last(End, T, S) ->
    S1 = case oracle_gen:token() of
             true -> count(traced_end, S);
             false -> S
         end,
    last_words(End, T, S1).

last_words(kill, T, S) -> wait_for_end(kill, T, S);
last_words(exit, T, S) -> wait_for_end(exit, T, S);
last_words(call, #{pid := Pid} = T, S) ->
    S1 = send(T, {fin, call}, S),
    S2 = await(call, fun(X) -> X#m.call =/= none orelse gone(Pid, X) end, S1),
    S3 = case S2#m.call of
             none -> S2;
             {Pid, Ref, Mix} ->
                 S2#m{ep = oracle_ep:call_reply(Pid, Ref, oracle_gen:bytes(Mix), S2#m.ep)}
         end,
    stats(S3),
    ok;
last_words(End, T, S) ->
    S1 = send(T, {fin, none}, S),
    stats(S1),
    case End of
        normal -> ok;
        shutdown -> exit(shutdown);
        small -> exit({m_end, oracle_gen:payload(oracle_gen:bytes(small))});
        large -> exit({m_end, oracle_gen:payload(oracle_gen:bytes(oracle_gen:pick([frag, large])))})
    end.

wait_for_end(How, #{pid := Pid} = T, S) ->
    S1 = send(T, {fin, How}, S),
    stats(S1),
    await(killed, fun(X) -> gone(Pid, X) end, S1),
    ok.

stats(S) -> oracle_node ! {mortal_stats, oracle_ep:stats(S#m.ep)}.

%% ---- received ------------------------------------------------------------------------------

drain(S) ->
    receive M -> drain(handle(M, S)) after 0 -> S end.

await(What, Done, S) ->
    case Done(S) of
        true -> S;
        false ->
            receive M -> await(What, Done, handle(M, S))
            after ?STUCK_MS ->
                stats(bad({stuck_waiting_for, What}, S)),
                throw({die, stuck})
            end
    end.

handle({o, Seq, From, Body, P}, S) ->
    body(Body, From, S#m{ep = oracle_ep:check(From, Seq, P, S#m.ep)});
handle({'DOWN', Ref, process, Pid, noconnection}, #m{mode = brutal, hubmons = H} = S)
  when is_map_key(Ref, H) ->
    S#m{targets = [T || #{pid := P} = T <- S#m.targets, P =/= Pid],
        hubmons = maps:remove(Ref, H)};
handle({'DOWN', _, process, _, noconnection}, #m{mode = brutal} = S) -> S;
handle({'EXIT', _, noconnection}, #m{mode = brutal} = S) -> S;
handle({e, _, _, _}, #m{mode = brutal} = S) -> S;
handle(Other, S) ->
    bad({mortal_unexpected, io_lib:format("~0P", [Other, 12])}, S).

body(data, _, S) -> S;
body(watching, From, S) -> S#m{acks = (S#m.acks)#{From => true}};
body({reply, Ref}, _, S) -> S#m{replies = (S#m.replies)#{Ref => true}};
body({call, Ref, Mix}, From, S) -> S#m{call = {From, Ref, Mix}};
body({gl, K}, _, #m{gls = Gls} = S) ->
    %% The change was sent before this message; a later one may have taken effect already. A lost
    %% connection may have taken the change.
    case S#m.mode =:= brutal orelse index(group_leader(), Gls, 1) >= K of
        true -> count(group_leader_seen, S);
        false -> bad({group_leader_late, K}, S)
    end;
body(Other, From, S) ->
    bad({mortal_unexpected_body, Other, From}, S).

index(_, [], _) -> 0;
index(X, [X | _], I) -> I;
index(X, [_ | T], I) -> index(X, T, I + 1).

gone(Pid, S) -> not lists:any(fun(#{pid := P}) -> P =:= Pid end, S#m.targets).

send(T, Body, S) ->
    S#m{ep = oracle_ep:send(T, Body, oracle_gen:bytes(S#m.mix), S#m.ep)}.

linked(Pid, Bool, S) -> S#m{linked = (S#m.linked)#{Pid => Bool}}.
count(Kind, S) -> S#m{ep = oracle_ep:count(Kind, S#m.ep)}.
bad(What, S) -> S#m{ep = oracle_ep:violation(What, S#m.ep)}.
