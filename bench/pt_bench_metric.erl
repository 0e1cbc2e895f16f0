%% The figures a cell can have: unit, direction, how a value is written. A new figure is a row here.
-module(pt_bench_metric).
-export([all/0, unit/1, better/1, show/2, number/1]).
-export_type([metric/0]).

-type metric() ::
    rate | mb_s | p50_us | p99_us | p999_us | max_us | cpu_s_per_m | cpu_s_per_gb | rss_mb
    %% open-loop cells: how late the generator itself was, part of the latency
    | late_p99_us
    %% growth: one connection set up, and what it holds on both sides
    | setup_ms | kb_a_peer | fds_a_peer.

%% {name, unit, what is better, divisor for people}
-define(ROWS, [
    {rate, "k/s", more, 1000},
    {mb_s, "MB/s", more, 1},
    {p50_us, "p50 us", less, 1},
    {p99_us, "p99 us", less, 1},
    {p999_us, "p99.9 us", less, 1},
    {max_us, "max us", less, 1},
    {cpu_s_per_m, "CPU s/M", less, 1},
    {cpu_s_per_gb, "CPU s/GB", less, 1},
    {rss_mb, "RSS MB", less, 1},
    {late_p99_us, "late p99", less, 1},
    {setup_ms, "setup ms", less, 1},
    {kb_a_peer, "KB/peer", less, 1},
    {fds_a_peer, "fds/peer", less, 1}
]).

-spec all() -> [metric()].
all() -> [Name || {Name, _, _, _} <- ?ROWS].

-spec unit(metric()) -> string().
unit(Metric) -> element(2, row(Metric)).

-spec better(metric()) -> more | less.
better(Metric) -> element(3, row(Metric)).

%% The value in the unit, three figures.
-spec show(metric(), number()) -> iolist().
show(Metric, Value) -> number(Value / element(4, row(Metric))).

row(Metric) -> lists:keyfind(Metric, 1, ?ROWS).

-spec number(number()) -> iolist().
number(V) when V >= 99.95 -> io_lib:format("~b", [round(V)]);
number(V) when V >= 9.995 -> io_lib:format("~.1f", [V * 1.0]);
number(V) when V >= 0.0995; V == 0 -> io_lib:format("~.2f", [V * 1.0]);
number(V) -> io_lib:format("~.4f", [V * 1.0]).
