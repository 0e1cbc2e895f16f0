%% Plumtree over the simulated overlay: the handlers' side (who has which message), and what one
%% broadcast cost. The store is a table, since 10,000 nodes' sets of messages live outside the cores.
-module(pt_sim_tree).

-export([new/0, options/2, options/3, broadcast/3, wait/3, delivered/2, forget/1]).

-type store() :: ets:table().

-spec new() -> store().
new() ->
    ets:new(messages, [set, public]).

%% For pt_sim:new/1: the layer, and the shell that answers for its handlers. Their exchange, if asked
%% for, compares two stores in no time.
-spec options(store(), partisan_overlay:config()) -> map().
options(Store, Config) ->
    options(Store, Config, no_exchange).

options(Store, Config, Exchange) ->
    #{layers => [{tree, partisan_plumtree, Config}],
      shell => fun(Event, Name, _) -> shell(Event, Name, Store) end,
      collect => fun(Name, tree, {exchange, Peer}, Acc) when Exchange =:= exchange ->
                         copy(Name, Peer, Store),
                         copy(Peer, Name, Store),
                         Acc;
                    (_, _, _, Acc) ->
                         Acc
                 end}.

copy(From, To, Store) ->
    true = ets:insert(Store, [{{Id, To}, P} || [Id, P] <- ets:match(Store, {{'$1', From}, '$2'}),
                                               Id =/= copies, Id =/= count, Id =/= hops]),
    ok.

shell({msg, From, Msg}, Name, Store) ->
    {msg, From, Msg, [answer(Q, Name, Msg, Store) || Q <- partisan_plumtree:questions(Msg)]};
shell(Event, _, _) ->
    Event.

answer({merge, _, Id, Payload}, Name, {payload, _, _, Round, _}, Store) ->
    New = ets:insert_new(Store, {{Id, Name}, Payload}),
    _ = ets:update_counter(Store, {copies, Id}, 1, {{copies, Id}, 0}),
    case New of
        true ->
            _ = ets:update_counter(Store, {count, Id}, 1, {{count, Id}, 0}),
            [{_, Max}] = case ets:lookup(Store, {hops, Id}) of
                             [] -> [{x, 0}];
                             Found -> Found
                         end,
            ets:insert(Store, {{hops, Id}, max(Max, Round)});
        false ->
            ok
    end,
    New;
answer({is_stale, _, Id}, Name, _, Store) ->
    ets:member(Store, {Id, Name});
answer({graft, _, Id}, Name, _, Store) ->
    case ets:lookup(Store, {Id, Name}) of
        [{_, Payload}] -> {ok, Payload};
        [] -> {error, not_found}
    end.

broadcast(Source, {Store, Id}, Sim) ->
    ets:insert(Store, {{Id, Source}, payload}),
    pt_sim:tell(Source, tree, {broadcast, test, Id, payload}, Sim).

%% Virtual time until everybody alive has it, at most Ms; {ms it took | never, Sim}.
wait({Store, Id}, Ms, Sim) ->
    wait(Store, Id, pt_sim:now(Sim), pt_sim:now(Sim) + Ms, Sim).

wait(Store, Id, Start, End, Sim) ->
    case complete(Store, Id, Sim) of
        true -> {pt_sim:now(Sim) - Start, Sim};
        false ->
            case pt_sim:now(Sim) >= End of
                true -> {never, Sim};
                false -> wait(Store, Id, Start, End, pt_sim:run(5, Sim))
            end
    end.

complete(Store, Id, Sim) ->
    Alive = pt_sim:alive(Sim),
    case ets:lookup(Store, {count, Id}) of
        [{_, Count}] when Count + 1 >= length(Alive) ->
            lists:all(fun(N) -> ets:member(Store, {Id, N}) end, Alive);
        _ ->
            Alive =:= [N || N <- Alive, ets:member(Store, {Id, N})]
    end.

%% #{reliability, hops, copies}: share of the living that have it, links to the last delivery,
%% payload messages received (redundancy is copies / (nodes - 1) - 1).
delivered({Store, Id}, Sim) ->
    Alive = pt_sim:alive(Sim),
    Have = length([N || N <- Alive, ets:member(Store, {Id, N})]),
    #{reliability => Have / length(Alive),
      have => Have,
      hops => value(Store, {hops, Id}),
      copies => value(Store, {copies, Id})}.

value(Store, Key) ->
    case ets:lookup(Store, Key) of
        [{_, V}] -> V;
        [] -> 0
    end.

forget({Store, Id}) ->
    true = ets:match_delete(Store, {{Id, '_'}, '_'}),
    ok.
