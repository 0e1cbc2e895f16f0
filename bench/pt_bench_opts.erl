%% The command line of bench/run. Pure.
-module(pt_bench_opts).
-export([parse/1, help/0]).
-export_type([options/0]).

-type options() :: #{atom() => term()}.

-define(DEFAULTS, #{
    rounds => 5, seconds => 1.0, short => false, full => false, pinned => false, floor => true,
    plots => true, backend => undefined, lanes => undefined, out => undefined, resume => undefined,
    ebin => undefined, erl => [], stall => 30, carriers => undefined, cases => undefined,
    wrap_a => [], wrap_b => [], host_a => "127.0.0.1", host_b => "127.0.0.1"
}).

-spec parse([string()]) ->
    {ok, options()} | help | list | self_test | {plot, file:filename()} | {error, string()}.
parse(Args) ->
    case parse(Args, ?DEFAULTS) of
        %% One round is enough to see that everything arrives.
        {ok, #{short := true} = O} -> {ok, O#{rounds := 1, floor := false, plots := false}};
        Other -> Other
    end.

parse([], O) -> {ok, O};
parse(["--help" | _], _O) -> help;
parse(["-h" | _], _O) -> help;
parse(["--list" | _], _O) -> list;
parse(["--self-test" | _], _O) -> self_test;
parse(["--plot", Dir], _O) -> {plot, Dir};
parse(["--short" | Args], O) -> parse(Args, O#{short := true});
parse(["--full" | Args], O) -> parse(Args, O#{full := true});
parse(["--pinned" | Args], O) -> parse(Args, O#{pinned := true});
parse(["--no-floor" | Args], O) -> parse(Args, O#{floor := false});
parse(["--no-plots" | Args], O) -> parse(Args, O#{plots := false});
parse(["--rounds", V | Args], O) -> number(list_to_integer_or(V), "--rounds", V, Args, O, rounds);
parse(["--lanes", V | Args], O) -> number(list_to_integer_or(V), "--lanes", V, Args, O, lanes);
parse(["--stall", V | Args], O) -> number(list_to_integer_or(V), "--stall", V, Args, O, stall);
parse(["--seconds", V | Args], O) -> number(list_to_number_or(V), "--seconds", V, Args, O, seconds);
parse(["--backend", V | Args], O) when V =:= "uring"; V =:= "poll" -> parse(Args, O#{backend := V});
parse(["--backend", V | _], _O) -> {error, "--backend is uring or poll, not " ++ V};
parse(["--cases", V | Args], O) -> parse(Args, O#{cases := string:lexemes(V, ", ")});
parse(["--carriers", V | Args], O) -> parse(Args, O#{carriers := string:lexemes(V, ", ")});
parse(["--out", V | Args], O) -> parse(Args, O#{out := V});
parse(["--resume", V | Args], O) -> parse(Args, O#{resume := V});
parse(["--ebin", V | Args], O) -> parse(Args, O#{ebin := V});
parse(["--erl", V | Args], O) -> parse(Args, O#{erl := string:lexemes(V, " ")});
parse(["--wrap-a", V | Args], O) -> parse(Args, O#{wrap_a := string:lexemes(V, " ")});
parse(["--wrap-b", V | Args], O) -> parse(Args, O#{wrap_b := string:lexemes(V, " ")});
parse(["--host-a", V | Args], O) -> parse(Args, O#{host_a := V});
parse(["--host-b", V | Args], O) -> parse(Args, O#{host_b := V});
parse([Word | _], _O) -> {error, "unknown option, or its value is missing: " ++ Word}.

number(N, _Name, _V, Args, O, Key) when is_number(N), N > 0 -> parse(Args, O#{Key := N});
number(_, Name, V, _Args, _O, _Key) -> {error, Name ++ " wants a number above 0, not " ++ V}.

list_to_integer_or(V) ->
    try list_to_integer(V) catch error:badarg -> none end.

list_to_number_or(V) ->
    try list_to_float(V) catch error:badarg -> list_to_integer_or(V) end.

-spec help() -> iolist().
help() ->
    [
        "bench/run [options]: measure the carrier against others, with proof of delivery\n"
        "\n"
        "Starts fresh pairs of nodes on this machine, runs the cases in rounds in which the carriers\n"
        "take turns, and prints medians, spread and ratios to the first carrier. docs/performance.md\n"
        "says what each case does and how to read the table.\n"
        "\n"
        "What is run\n"
        "  --cases A,B*      only these cases; * stands for any letters (--list names them all)\n"
        "  --carriers A,B    carriers to compare, the first is the base, see below; default\n"
        "                    inet_tcp,partisan,floor. The same one twice shows how noisy the\n"
        "                    machine is\n"
        "  --full            all cases, and all carriers whose code is there: takes hours\n"
        "  --rounds N        rounds, default 5\n"
        "  --seconds F       make each cell F times as long (at least half a second); default 1\n"
        "  --pinned          one scheduler a VM, each VM on a core of its own\n"
        "  --no-floor        without the C program that shows what the path gives\n"
        "  --short           delivery check only: one short round on partisan and partisan-poll\n"
        "\n"
        "How nodes are started\n"
        "  --backend B       uring or poll, for a partisan that names none; default: its own choice\n"
        "  --lanes N         lanes a peer, for a partisan that names none; default: its own choice\n"
        "  --erl \"ARGS\"      more arguments for all nodes, as in --erl \"+zdbbl 8192\"\n"
        "  --ebin DIR        where the compiled carrier is, default ebin beside bench\n"
        "  --wrap-a \"CMD\"    put before the command that starts the first node, as in\n"
        "  --wrap-b \"CMD\"    --wrap-a \"ip netns exec left\"; the same for the second\n"
        "  --host-a ADDR     address of the first node, default 127.0.0.1\n"
        "  --host-b ADDR     address of the second; when the two differ no epmd is needed\n"
        "\n"
        "Results\n"
        "  --out DIR         results go here; default build/bench/results/TIME. results.jsonl: the\n"
        "                    environment, each cell with its histogram, the summaries; table.txt;\n"
        "                    plots/ (needs gnuplot). bench/compare shows what two runs differ in\n"
        "  --resume DIR      take up a run that was stopped, with its own options: cells that are\n"
        "                    in DIR are not run again\n"
        "  --resume last     the newest stopped run with the same options and the same build, or a\n"
        "                    new one where there is none\n"
        "  --no-plots        none\n"
        "  --plot DIR        only draw the plots of a finished run again\n"
        "\n"
        "Others\n"
        "  --stall S         seconds without an answer after which a cell has failed, default 30\n"
        "  --self-test       test the statistics and the delivery checks themselves, and stop\n"
        "  --list            name the cases and stop\n"
        "  --help            this text\n"
        "\n"
        "Carriers\n",
        pt_bench_carrier:words(),
        "\n"
        "ERL_AFLAGS, ERL_FLAGS, ERL_ZFLAGS and PARTISAN_BACKEND are ignored. Exit status: 0 all\n"
        "delivered; 1 a message was lost, doubled, reordered or corrupt, or a cell stalled; 2 wrong\n"
        "option; 3 nodes did not start.\n"
    ].
