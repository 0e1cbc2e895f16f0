%% Causal delivery against a model that knows everything: each message carries the set of all
%% messages that happened before it. The network delivers in any order, nothing is lost.
-module(prop_causality).

-include("pt_proper.hrl").

-import(proper_types, [frequency/1, list/1, nat/0, range/2]).

-export([prop_causes_first/0, prop_stamps_stay_small/0]).

-define(NODES, 4).

%% A message is delivered exactly when all that were sent before it to that node have been: not
%% earlier, and not later; and in the end all are.
prop_causes_first() ->
    ?FORALL(Steps, list(step()),
        begin
            #{sent := Sent, delivered := Delivered, wrong := Wrong, late := Late} = finish(run(Steps)),
            All = lists:sort([Id || Ids <- maps:values(Delivered), Id <- Ids]),
            ?WHENFAIL(io:format("wrong ~p late ~p~n", [Wrong, Late]),
                      proper:conjunction([{order, Wrong =:= []}, {no_longer_than_needed, Late =:= []},
                                          {all_once, All =:= lists:sort(maps:keys(Sent))}]))
        end).

%% Nodes that talk to each other in turns know what the others have: nothing piles up.
prop_stamps_stay_small() ->
    ?FORALL(Rounds, range(1, 30),
        begin
            Pairs = [{A, B} || A <- nodes_(), B <- nodes_(), A =/= B],
            Talk = lists:append([[{send, A, B}, {arrive, 0}] || {A, B} <- Pairs]),
            #{nodes := Cores} = run(lists:append(lists:duplicate(Rounds, Talk))),
            lists:all(fun(Core) -> partisan_causality_core:size(Core) =< ?NODES * (?NODES + 1) end,
                      maps:values(Cores))
        end).

nodes_() -> lists:seq(1, ?NODES).

step() ->
    frequency([{3, {send, range(1, ?NODES), range(1, ?NODES)}}, {3, {arrive, nat()}}]).

run(Steps) ->
    lists:foldl(fun step/2,
                #{nodes => maps:from_list([{N, partisan_causality_core:new(N)} || N <- nodes_()]),
                  past => maps:from_list([{N, #{}} || N <- nodes_()]),
                  delivered => maps:from_list([{N, []} || N <- nodes_()]),
                  sent => #{}, wire => [], arrived => [], wrong => [], late => []}, Steps).

step({send, From, To}, #{nodes := Cores, past := Past, sent := Sent, wire := Wire} = S)
  when From =/= To ->
    Id = map_size(Sent) + 1,
    {Stamp, Core} = partisan_causality_core:send(To, maps:get(From, Cores)),
    Before = maps:get(From, Past),
    S#{nodes := Cores#{From := Core}, sent := Sent#{Id => {To, Before}}, wire := [{Id, To, Stamp} | Wire],
       past := Past#{From := Before#{Id => To}}};
step({arrive, N}, #{wire := [_ | _] = Wire} = S) ->
    {Id, To, Stamp} = Message = lists:nth(1 + N rem length(Wire), Wire),
    #{nodes := Cores, arrived := Arrived} = S,
    {Ready, Core} = partisan_causality_core:accept(Stamp, Id, maps:get(To, Cores)),
    late(To, lists:foldl(fun(One, Acc) -> delivered(One, To, Acc) end,
                         S#{wire := lists:delete(Message, Wire), nodes := Cores#{To := Core},
                            arrived := [{Id, To} | Arrived]}, Ready));
step(_, S) ->
    S.

delivered(Id, To, #{delivered := Delivered, sent := Sent, past := Past, wrong := Wrong} = S) ->
    {To, Before} = maps:get(Id, Sent),
    Mine = maps:get(To, Delivered),
    Missing = [Other || {Other, Dest} <- maps:to_list(Before), Dest =:= To, not lists:member(Other, Mine)],
    S#{delivered := Delivered#{To := [Id | Mine]},
       past := Past#{To := maps:merge(maps:get(To, Past), Before#{Id => To})},
       wrong := [{Id, Missing} || Missing =/= []] ++ Wrong}.

%% What has arrived, waits, and has nothing to wait for.
late(To, #{delivered := Delivered, sent := Sent, arrived := Arrived, late := Late} = S) ->
    Mine = maps:get(To, Delivered),
    Free = [Id || {Id, Dest} <- Arrived, Dest =:= To, not lists:member(Id, Mine),
                  {_, Before} <- [maps:get(Id, Sent)],
                  [] =:= [Other || {Other, D} <- maps:to_list(Before), D =:= To,
                                   not lists:member(Other, Mine)]],
    S#{late := Free ++ Late}.

finish(#{wire := []} = S) -> S;
finish(S) -> finish(step({arrive, 0}, S)).
