%% Streams of acknowledged messages against the plainest model: a list of what was submitted. The
%% network delivers what is on its way in any order, and loses all of it when the connection is cut.
-module(prop_reliable).

-include("pt_proper.hrl").

-import(proper_types, [frequency/1, list/1, nat/0, oneof/1]).

-export([prop_once_and_in_order/0, prop_acknowledged_is_forgotten/0, prop_receiver_starts_anew/0]).

prop_once_and_in_order() ->
    ?FORALL(Steps, list(step()),
        begin
            #{submitted := Submitted, delivered := Delivered, lost := Lost} = finish(run(Steps)),
            Ids = [Id || {Id, _} <- Submitted],
            Missing = Ids -- Delivered,
            proper:conjunction(
              [{order, Delivered =:= [Id || Id <- Ids, lists:member(Id, Delivered)]},
               {once, length(lists:usort(Delivered)) =:= length(Delivered)},
               {kept, [Id || {Id, retransmit} <- Submitted, lists:member(Id, Missing)] =:= []},
               {told, length(Missing) =:= Lost}])
        end).

%% When everything has been delivered and acknowledged, the sender keeps nothing.
prop_acknowledged_is_forgotten() ->
    ?FORALL(Steps, list(step()),
        begin
            #{sender := Sender, receiver := Receiver} = finish(run(Steps)),
            Done = partisan_reliable_core:acknowledge(partisan_reliable_core:expected(Receiver), Sender),
            partisan_reliable_core:outstanding(Done) =:= 0 andalso
                partisan_reliable_core:oldest(Done) =:= partisan_reliable_core:expected(Receiver)
        end).

%% The receiver forgets everything, with the connection: what was not acknowledged may come again, but
%% nothing that is kept is lost, and the stream goes on.
prop_receiver_starts_anew() ->
    ?FORALL({Before, After}, {list(step()), list(step())},
        begin
            #{sender := Sender} = Cut = step(cut, run(Before)),
            Anew = partisan_reliable_core:receiver(partisan_reliable_core:oldest(Sender)),
            #{submitted := Submitted, delivered := Delivered, receiver := Receiver, sender := Last} =
                finish(lists:foldl(fun step/2, Cut#{receiver := Anew}, After)),
            Kept = [Id || {Id, retransmit} <- Submitted],
            Done = partisan_reliable_core:acknowledge(partisan_reliable_core:expected(Receiver), Last),
            proper:conjunction(
              [{all, Kept -- Delivered =:= []},
               {goes_on, partisan_reliable_core:outstanding(Done) =:= 0}])
        end).

step() ->
    frequency([{6, {submit, oneof([retransmit, retransmit, ack])}}, {8, {arrive, nat()}},
               {2, acknowledge}, {1, cut}, {2, reopen}]).

run(Steps) ->
    lists:foldl(fun step/2, #{sender => partisan_reliable_core:sender(),
                              receiver => partisan_reliable_core:receiver(1), open => true,
                              wire => [], submitted => [], delivered => [], lost => 0, next => 1},
                Steps).

step({submit, Mode}, #{sender := Sender0, next := Id, submitted := All, wire := Wire, open := Open} = S) ->
    {Frame, Sender} = partisan_reliable_core:submit(Id, Mode, Open, Sender0),
    S#{sender := Sender, next := Id + 1, submitted := All ++ [{Id, Mode}],
       wire := case S of
                   #{open := true} -> Wire ++ [Frame];
                   _ -> Wire
               end};
step({arrive, _}, #{wire := []} = S) ->
    S;
step({arrive, N}, #{wire := Wire, receiver := Receiver0, delivered := Before} = S) ->
    {Number, What} = Frame = lists:nth(1 + N rem length(Wire), Wire),
    {Ready, Receiver} = partisan_reliable_core:accept(Number, What, Receiver0),
    S#{wire := lists:delete(Frame, Wire), receiver := Receiver, delivered := Before ++ Ready};
step(acknowledge, #{open := true, sender := Sender, receiver := Receiver} = S) ->
    S#{sender := partisan_reliable_core:acknowledge(partisan_reliable_core:expected(Receiver), Sender)};
step(cut, S) ->
    S#{open := false, wire := []};
step(reopen, #{open := false, sender := Sender0, receiver := Receiver0, lost := Before} = S) ->
    Receiver = partisan_reliable_core:reopened(Receiver0),
    {Frames, Lost, Sender} =
        partisan_reliable_core:reopen(partisan_reliable_core:expected(Receiver), Sender0),
    S#{open := true, sender := Sender, receiver := Receiver, wire := Frames, lost := Before + Lost};
step(_, S) ->
    S.

%% The connection comes back and stays.
finish(S) -> drain(step(reopen, S)).

drain(#{wire := []} = S) -> S;
drain(S) -> drain(step({arrive, 0}, S)).
