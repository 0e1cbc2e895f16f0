%% Log-linear histogram of durations in nanoseconds, in the manner of HdrHistogram.
%%
%% Values below 256 ns have a bucket each; above, every power of two is cut into 256 buckets, so a
%% bucket is at most 1/256 (0.4 %) of its value wide. The bars compare ratios near 1.00 with a limit
%% of 1.05, hence not the usual 1 or 2 %.
%%
%% The buckets are a `counters' array: many clients add to one histogram without a process between.
-module(pt_bench_hist).
-export([new/0, add/2, total/1, quantile/2, micros/1, to_list/1, from_list/1, merge/1,
    index/1, bounds/1]).
-export_type([hist/0]).

-define(BITS, 8).
-define(SUB, (1 bsl ?BITS)).
%% 2^42 ns are 73 minutes: beyond any cell; larger values count in the last bucket.
-define(MAX, ((1 bsl 42) - 1)).

-opaque hist() :: counters:counters_ref().

-spec new() -> hist().
new() ->
    counters:new(index(?MAX), [write_concurrency]).

-spec add(hist(), non_neg_integer()) -> ok.
add(Hist, Ns) ->
    counters:add(Hist, index(Ns), 1).

-spec total(hist()) -> non_neg_integer().
total(Hist) ->
    #{size := Size} = counters:info(Hist),
    sum(Hist, 1, Size, 0).

sum(_Hist, I, Size, Sum) when I > Size -> Sum;
sum(Hist, I, Size, Sum) -> sum(Hist, I + 1, Size, Sum + counters:get(Hist, I)).

%% The value below which the part Q (0.0 .. 1.0) of the samples lies, in nanoseconds, interpolated
%% inside its bucket; `none' without samples.
-spec quantile(hist(), float()) -> float() | none.
quantile(Hist, Q) ->
    case total(Hist) of
        0 -> none;
        Total -> walk(Hist, 1, Q * Total)
    end.

walk(Hist, I, Rank) ->
    case counters:get(Hist, I) of
        N when N > 0, N >= Rank ->
            {Low, High} = bounds(I),
            Low + (High - Low) * max(Rank, 0) / N;
        N ->
            walk(Hist, I + 1, Rank - N)
    end.

%% The usual quantiles, in microseconds.
-spec micros(hist()) -> #{p50 | p90 | p99 | p999 | max := float() | none}.
micros(Hist) ->
    maps:map(
        fun(_, Q) -> case quantile(Hist, Q) of none -> none; Ns -> Ns / 1000 end end,
        #{p50 => 0.5, p90 => 0.9, p99 => 0.99, p999 => 0.999, max => 1.0}
    ).

%% The buckets in use as [Index, Count], in order: what a results file keeps. bounds/1 says what a
%% bucket holds. Histograms of several cells or rounds are merged without any loss.
-spec to_list(hist()) -> [[pos_integer()]].
to_list(Hist) ->
    #{size := Size} = counters:info(Hist),
    [[I, N] || I <- lists:seq(1, Size), N <- [counters:get(Hist, I)], N > 0].

-spec from_list([[pos_integer()]]) -> hist().
from_list(List) -> merge([List]).

-spec merge([[[pos_integer()]]]) -> hist().
merge(Lists) ->
    Hist = new(),
    [counters:add(Hist, I, N) || List <- Lists, [I, N] <- List],
    Hist.

%% Bucket of a value, from 1.
-spec index(integer()) -> pos_integer().
index(Ns) when Ns < ?SUB -> max(Ns, 0) + 1;
index(Ns) when Ns > ?MAX -> index(?MAX);
index(Ns) ->
    Shift = msb(Ns, 0) - ?BITS,
    ?SUB + Shift * ?SUB + ((Ns bsr Shift) - ?SUB) + 1.

%% [Low, High) of a bucket.
-spec bounds(pos_integer()) -> {non_neg_integer(), pos_integer()}.
bounds(I) when I =< ?SUB -> {I - 1, I};
bounds(I) ->
    Shift = (I - 1) div ?SUB - 1,
    Sub = (I - 1) rem ?SUB,
    {(?SUB + Sub) bsl Shift, (?SUB + Sub + 1) bsl Shift}.

msb(V, N) when V >= 1 bsl 32 -> msb(V bsr 32, N + 32);
msb(V, N) when V >= 1 bsl 16 -> msb(V bsr 16, N + 16);
msb(V, N) when V >= 1 bsl 8 -> msb(V bsr 8, N + 8);
msb(V, N) when V >= 1 bsl 4 -> msb(V bsr 4, N + 4);
msb(V, N) when V >= 1 bsl 2 -> msb(V bsr 2, N + 2);
msb(V, N) when V >= 2 -> N + 1;
msb(_V, N) -> N.
