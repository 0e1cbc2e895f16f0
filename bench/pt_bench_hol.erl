%% Head of line: what small traffic waits for while streams of 8 MB messages go to the same peer.
%%
%% Probe `pp' is a ping-pong of 64 B, `call' a gen_server call with 64 B, `tick' the ticks by which
%% nodes tell that they live (pt_bench_tick). The streams come in four kinds:
%%   (none)  at most 64 MB under way, below what the carrier takes before it holds senders back;
%%   cap     only back-pressure holds them, every payload is memory of its own: beyond that;
%%   full    as `cap', with messages of 1 MB from a pool: nothing but sending;
%%   stall   as the first, and in the middle of the cell the lane of the streams stands still.
-module(pt_bench_hol).
-export([cases/0]).

-define(SIZE, (8 * 1024 * 1024)).
-define(FULL_SIZE, (1024 * 1024)).
%% Messages under way, all streams together: 64 MB.
-define(TOTAL, 8).
%% The lane that bulk goes over.
-define(BULK_LANE, 1).
-define(INSET_MS, 200).

-spec cases() -> [pt_bench_cases:'case'()].
cases() ->
    [
        (stall(Kind))#{
            name => lists:append(["hol-", Probe, "-", integer_to_list(Streams), suffix(Kind)]),
            text => lists:flatten([probe_text(Probe), " under ", integer_to_list(Streams),
                " streams of ", kind_size(Kind), kind_text(Kind)]),
            parts => [probe(Probe), (streams(Streams, Kind))#{channel => bulk}],
            ms => 2500,
            show => [p50_us, p99_us, p999_us, mb_s, cpu_s_per_gb, rss_mb]
        }
     || Probe <- ["pp", "call", "tick"], Kind <- [below, cap, full, stall], Streams <- [4, 16, 64]
    ].

suffix(below) -> "";
suffix(Kind) -> "-" ++ atom_to_list(Kind).

probe_text("pp") -> "ping-pong of 64 B";
probe_text("call") -> "gen_server calls of 64 B";
probe_text("tick") -> "net ticks, how late,".

kind_size(full) -> "1 MB";
kind_size(_Kind) -> "8 MB".

kind_text(below) -> ", 64 MB under way";
kind_text(cap) -> ", held only by back-pressure, every payload fresh memory";
kind_text(full) -> ", held only by back-pressure";
kind_text(stall) -> ", 64 MB under way, their lane stalled in the middle".

probe("pp") -> #{kind => echo, procs => 1, size => 64, inset_ms => ?INSET_MS};
probe("call") -> #{kind => call, procs => 1, size => 64, inset_ms => ?INSET_MS};
probe("tick") -> #{kind => tick, procs => 1, size => 64, inset_ms => ?INSET_MS, every_ms => 10}.

streams(N, cap) ->
    #{kind => flow, procs => N, size => ?SIZE, window => infinity, payload => fresh};
streams(N, full) ->
    #{kind => flow, procs => N, size => ?FULL_SIZE, window => infinity};
streams(N, _Kind) when 2 * N =< ?TOTAL ->
    #{kind => flow, procs => N, size => ?SIZE, window => 2};
streams(N, _Kind) ->
    #{kind => flow, procs => N, size => ?SIZE, window => 1, total => ?TOTAL}.

stall(stall) -> #{pause => ?BULK_LANE};
stall(_Kind) -> #{}.
