%% The command line of bench/run. Pure, but for the time of day in the default file name.
-module(pt_bench_opts).
-export([parse/1, help/0]).

-type options() :: #{atom() => term()}.

-spec parse([string()]) -> {ok, options()} | help | list | self_test | {error, string()}.
parse(Args) ->
    parse(Args, #{
        rounds => 5, seconds => 1.0, short => false, pinned => false, backend => undefined,
        lanes => undefined, out => undefined, ebin => undefined, erl => [], stall => 30,
        carriers => undefined, cases => undefined
    }).

parse([], O) -> {ok, O};
parse(["--help" | _], _O) -> help;
parse(["-h" | _], _O) -> help;
parse(["--list" | _], _O) -> list;
parse(["--self-test" | _], _O) -> self_test;
parse(["--short" | Args], O) -> parse(Args, O#{short := true});
parse(["--pinned" | Args], O) -> parse(Args, O#{pinned := true});
parse(["--rounds", V | Args], O) -> number(list_to_integer_or(V), "--rounds", V, Args, O, rounds);
parse(["--lanes", V | Args], O) -> number(list_to_integer_or(V), "--lanes", V, Args, O, lanes);
parse(["--stall", V | Args], O) -> number(list_to_integer_or(V), "--stall", V, Args, O, stall);
parse(["--seconds", V | Args], O) -> number(list_to_number_or(V), "--seconds", V, Args, O, seconds);
parse(["--backend", V | Args], O) when V =:= "uring"; V =:= "poll" -> parse(Args, O#{backend := V});
parse(["--backend", V | _], _O) -> {error, "--backend is uring or poll, not " ++ V};
parse(["--cases", V | Args], O) -> parse(Args, O#{cases := string:lexemes(V, ", ")});
parse(["--carriers", V | Args], O) -> parse(Args, O#{carriers := string:lexemes(V, ", ")});
parse(["--out", V | Args], O) -> parse(Args, O#{out := V});
parse(["--ebin", V | Args], O) -> parse(Args, O#{ebin := V});
parse(["--erl", V | Args], O) -> parse(Args, O#{erl := string:lexemes(V, " ")});
parse([Word | _], _O) -> {error, "unknown option, or its value is missing: " ++ Word}.

number(N, _Name, _V, Args, O, Key) when is_number(N), N > 0 -> parse(Args, O#{Key := N});
number(_, Name, V, _Args, _O, _Key) -> {error, Name ++ " wants a number above 0, not " ++ V}.

list_to_integer_or(V) ->
    try list_to_integer(V) catch error:badarg -> none end.

list_to_number_or(V) ->
    try list_to_float(V) catch error:badarg -> list_to_integer_or(V) end.

-spec help() -> iolist().
help() ->
    "bench/run [options]: measure the carrier against others, with proof of delivery\n"
    "\n"
    "Starts fresh pairs of nodes on this machine, runs the cases in rounds in which the carriers\n"
    "take turns, and prints medians, spread and ratios to the first carrier. docs/performance.md\n"
    "says what each case does and how to read the table.\n"
    "\n"
    "  --rounds N        rounds, default 5\n"
    "  --cases A,B*      only these cases; * ends a name early (--list names them all)\n"
    "  --carriers A,B    carriers to compare, the first is the base; default inet_tcp,partisan;\n"
    "                    a partisan may name back end and lanes: partisan-poll, partisan-uring-4;\n"
    "                    the same carrier twice shows how noisy the machine is\n"
    "  --backend B       uring or poll, for a partisan that names none; default: its own choice\n"
    "  --lanes N         lanes a peer, for a partisan that names none; default: its own choice\n"
    "  --pinned          one scheduler a VM, each VM on a core of its own\n"
    "  --seconds F       make each cell F times as long (at least half a second); default 1\n"
    "  --erl \"ARGS\"      more arguments for all nodes, as in --erl \"+zdbbl 8192\"\n"
    "  --ebin DIR        where the compiled carrier is, default ebin beside bench\n"
    "  --stall S         seconds without an answer after which a cell has failed, default 30\n"
    "  --out FILE        JSON lines go here; default build/bench/run-TIME.jsonl\n"
    "  --short           delivery check only: short cells on partisan and partisan-poll\n"
    "  --self-test       test the statistics and the delivery checks themselves, and stop\n"
    "  --list            name the cases and stop\n"
    "  --help            this text\n"
    "\n"
    "ERL_AFLAGS, ERL_FLAGS, ERL_ZFLAGS and PARTISAN_BACKEND are ignored. Exit status: 0 all\n"
    "delivered; 1 a message was lost, doubled, reordered or corrupt, or a cell stalled; 2 wrong\n"
    "option; 3 nodes did not start.\n".
