%% Proof of delivery of one sender's numbered messages (1, 2, 3, ...) at their receiver. Pure.
%%
%% A gap is remembered as an interval, so a wild number costs no memory; a later message that fills
%% a gap was reordered, one that fills none was doubled, and what is missing at the end is lost.
-module(pt_bench_proof).
-export([new/0, seen/3, garbage/1, received/1, finish/2, unfinished/0, merge/1, is_ok/1, words/1]).
-export_type([proof/0, report/0]).

-record(proof, {
    next = 1 :: pos_integer(),
    received = 0 :: non_neg_integer(),
    gaps = [] :: [{pos_integer(), pos_integer()}],
    doubled = 0 :: non_neg_integer(),
    reordered = 0 :: non_neg_integer(),
    corrupt = 0 :: non_neg_integer()
}).

-opaque proof() :: #proof{}.
-type report() :: #{sent | received | lost | doubled | reordered | corrupt := non_neg_integer()}.

-spec new() -> proof().
new() -> #proof{}.

%% Message number Seq arrived; Intact tells whether its content was what it had to be.
-spec seen(term(), boolean(), proof()) -> proof().
seen(Seq, true, #proof{next = Seq, received = N} = P) ->
    P#proof{next = Seq + 1, received = N + 1};
seen(Seq, false, #proof{corrupt = C} = P) ->
    seen(Seq, true, P#proof{corrupt = C + 1});
seen(Seq, true, #proof{next = Next, received = N, gaps = Gaps} = P) when
    is_integer(Seq), Seq > Next
->
    P#proof{next = Seq + 1, received = N + 1, gaps = [{Next, Seq - 1} | Gaps]};
seen(Seq, true, #proof{received = N} = P) when is_integer(Seq), Seq >= 1 ->
    case fill(Seq, P#proof.gaps, []) of
        {ok, Gaps} ->
            P#proof{received = N + 1, gaps = Gaps, reordered = P#proof.reordered + 1};
        none ->
            P#proof{doubled = P#proof.doubled + 1}
    end;
seen(_Seq, true, P) ->
    garbage(P).

%% Something arrived that is no message of ours.
-spec garbage(proof()) -> proof().
garbage(#proof{corrupt = C} = P) -> P#proof{corrupt = C + 1}.

fill(_Seq, [], _Passed) ->
    none;
fill(Seq, [{From, To} | Gaps], Passed) when Seq >= From, Seq =< To ->
    Rest = [{F, T} || {F, T} <- [{From, Seq - 1}, {Seq + 1, To}], F =< T],
    {ok, lists:reverse(Passed, Rest ++ Gaps)};
fill(Seq, [Gap | Gaps], Passed) ->
    fill(Seq, Gaps, [Gap | Passed]).

-spec received(proof()) -> non_neg_integer().
received(#proof{received = N}) -> N.

%% The sender says it sent messages 1 .. Sent.
-spec finish(non_neg_integer(), proof()) -> report().
finish(Sent, #proof{next = Next, received = N, gaps = Gaps, corrupt = Corrupt} = P) ->
    InGaps = lists:sum([To - From + 1 || {From, To} <- Gaps]),
    #{
        sent => Sent,
        received => N,
        lost => InGaps + max(0, Sent - (Next - 1)),
        doubled => P#proof.doubled,
        reordered => P#proof.reordered,
        %% A number beyond the last sent one can only be invented.
        corrupt => Corrupt + max(0, (Next - 1) - Sent)
    }.

%% The report of a flow that never finished: at least its end is lost.
-spec unfinished() -> report().
unfinished() -> (finish(0, new()))#{lost := 1}.

-spec merge([report()]) -> report().
merge(Reports) ->
    Add = fun(_Key, A, B) -> A + B end,
    lists:foldl(fun(R, Sum) -> maps:merge_with(Add, R, Sum) end, finish(0, new()), Reports).

-spec is_ok(report()) -> boolean().
is_ok(#{sent := Sent, received := Sent, lost := 0, doubled := 0, reordered := 0, corrupt := 0}) ->
    true;
is_ok(#{}) ->
    false.

-spec words(report()) -> iolist().
words(#{sent := S, received := N, lost := L, doubled := D, reordered := R, corrupt := C}) ->
    io_lib:format(
        "sent ~b, received ~b, lost ~b, doubled ~b, reordered ~b, corrupt ~b", [S, N, L, D, R, C]
    ).
