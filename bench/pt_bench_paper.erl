%% The workloads of the evaluation in "Partisan: Scaling the Distributed Actor Runtime" (USENIX ATC
%% 2019; arXiv 1802.02652), to be run at the round trip times, window sizes and losses of an emulated
%% network (docs/paper.md):
%%   pair   Figures 1 to 4: pairs of actors on two nodes, a message each under way, time one way;
%%   echo   Figures 5 and 6: clients and partitions of a service on three nodes;
%%   kvs    Figures 7 and 8: the replicated key-value service on them; each partition sleeps 1 ms for
%%          a request, as the paper's do, and kvs0 leaves that out.
%% Actors are all of a case's together; in echo and kvs a third of them is on each node.
-module(pt_bench_paper).
-export([cases/0]).

-spec cases() -> [pt_bench_cases:'case'()].
cases() ->
    [
        (further(Kind))#{
            name => lists:append(["paper-", Kind, "-", Size, "-", integer_to_list(Actors)]),
            text => lists:flatten(io_lib:format("~s, ~s, actors: ~b", [text(Kind), Size, Actors])),
            parts => [(part(Kind))#{procs => Actors, size => pt_bench_cases:bytes(Size)}],
            ms => 2000,
            show => [rate, mb_s, p50_us, p99_us, rss_mb]
        }
     || Kind <- ["pair", "echo", "kvs", "kvs0"], Size <- ["512k", "8m"], Actors <- [16, 32, 64, 128]
    ].

text("pair") -> "paper: pairs of actors, one way";
text("echo") -> "paper: echo by a partition of three nodes";
text("kvs") -> "paper: replicated store on three nodes, 1 ms of work";
text("kvs0") -> "paper: replicated store on three nodes, no work".

part("pair") -> #{kind => pair};
part("echo") -> #{kind => vnode, from => all, peers => 2};
part("kvs") -> #{kind => kvs, from => all, peers => 2, work_ms => 1};
part("kvs0") -> #{kind => kvs, from => all, peers => 2, work_ms => 0}.

further("pair") -> #{};
further(_Service) -> #{extras => {1, same}}.
