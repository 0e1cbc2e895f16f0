%% Where the time of a case goes: bench/profile. One pair of nodes a carrier; the cell runs once for
%% warmth and then once for each instrument, so that they do not disturb each other.
-module(pt_bench_profile).
-export([main/0, allocations/0]).

-define(CALLS, [
    "sendmsg", "sendto", "sendmmsg", "writev", "write", "recvmsg", "recvfrom", "readv", "read",
    "io_uring_enter", "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "poll", "ppoll",
    "select", "futex", "timerfd_settime", "sched_yield", "clock_nanosleep", "getsockopt", "mmap",
    "munmap", "madvise"
]).

-spec main() -> no_return().
main() ->
    pt_bench:guarded(fun() -> arguments(init:get_plain_arguments(), []) end).

%% What is not ours is bench/run's: how nodes are started, where results go.
arguments(["--help" | _], _) -> io:put_chars(help()), 0;
arguments(["-h" | _], _) -> io:put_chars(help()), 0;
arguments(["--carrier", Words | Args], Rest) -> arguments(Args, Rest ++ ["--carriers", Words]);
arguments(["--pinned" | Args], Rest) -> arguments(Args, Rest ++ ["--pinned"]);
arguments(["--" ++ _ = Option, Value | Args], Rest) -> arguments(Args, Rest ++ [Option, Value]);
arguments([Case | Args], Rest) -> arguments(Args, ["--cases", Case | Rest]);
arguments([], Rest) ->
    lists:member("--cases", Rest) orelse throw({usage, "name a case: bench/profile pp-64"}),
    Named = lists:member("--carriers", Rest),
    Own = case Named of true -> []; false -> ["--carriers", "inet_tcp,partisan"] end,
    case pt_bench_opts:parse(Own ++ ["--rounds", "1", "--no-floor" | Rest]) of
        {ok, Options} -> profile(Options);
        {error, Words} -> throw({usage, Words});
        _ -> throw({usage, "that is an option of bench/run"})
    end.

help() ->
    "bench/profile CASE [--carrier A,B] [--seconds F] [options of bench/run]: where the time goes\n"
    "\n"
    "Runs the case (bench/run --list) on each carrier, default inet_tcp,partisan, and shows for a\n"
    "message, on the first and the second node: cycles by what the code does, instructions, system\n"
    "calls, allocations. A case of several parts is counted by the MB that its streams carry.\n"
    "Needs perf (Debian package linux-perf); without root, or kernel.perf_event_paranoid = -1, the\n"
    "kernel's part and the system calls are missing. What perf wrote (perf.data, the list of all\n"
    "symbols) stays in the results directory, --out names another.\n"
    "\n"
    "Exit status: 0 done; 1 a message was not delivered; 2 wrong option; 3 nodes did not start.\n".

profile(#{cases := _} = Options) ->
    Plan = pt_bench:plan(Options),
    #{cases := Cases, carriers := Carriers, node := Node, tag := Tag} = Plan,
    Dir = filename:absname(directory(Options)),
    ok = filelib:ensure_path(Dir),
    [ok = pt_bench:needs_certificate(Dir, maps:get(hosts, Node)) || #{tls := _} <- Carriers],
    Perf = perf(),
    io:put_chars([[W, $\n] || W <- missing(Perf)]),
    Profiles = [
        {Case, [one(Case, C, Perf, Tag, Plan, Node#{dir => Dir}) || C <- Carriers]}
     || Case <- Cases
    ],
    Text = [table(Case, Got) || {Case, Got} <- Profiles],
    ok = file:write_file(filename:join(Dir, "profile.txt"), unicode:characters_to_binary(Text)),
    ok = file:write_file(filename:join(Dir, "profile.jsonl"), [
        pt_bench_json:line(json(Case, P)) || {Case, Got} <- Profiles, P <- Got
    ]),
    io:put_chars([Text, "\nResults: ", Dir, "\n"]),
    0.

directory(#{out := undefined}) ->
    {{Y, Mo, D}, {H, Mi, S}} = calendar:local_time(),
    Root = filename:join(filename:dirname(code:which(?MODULE)), "profiles"),
    Name = io_lib:format("~4..0b~2..0b~2..0b-~2..0b~2..0b~2..0b-~s",
        [Y, Mo, D, H, Mi, S, os:getpid()]),
    filename:join(Root, lists:flatten(Name));
directory(#{out := Dir}) ->
    Dir.

%%% instruments

perf() ->
    case os:find_executable("perf") of
        false -> none;
        Path -> Path
    end.

missing(none) ->
    ["No perf (Debian package linux-perf): only allocations are counted."];
missing(_) ->
    [
        "perf sees no kernel: run as root, or set kernel.perf_event_paranoid to -1. The kernel's part "
        "and the system calls are missing."
     || os:cmd("id -u") =/= "0\n", not unrestricted()
    ] ++
        [
            "No tracepoints (is tracefs mounted at /sys/kernel/tracing?): system calls are not counted."
         || tracepoints() =:= []
        ].

unrestricted() ->
    {ok, Value} = file:read_file("/proc/sys/kernel/perf_event_paranoid"),
    binary_to_integer(string:trim(Value)) < 0.

tracepoints() ->
    [
        "syscalls:sys_enter_" ++ Call
     || Call <- ?CALLS, Root <- ["/sys/kernel/tracing"],
        filelib:is_dir(filename:join([Root, "events/syscalls", "sys_enter_" ++ Call]))
    ].

one(Case, #{label := Label} = Carrier, Perf, Tag, Plan, Node) ->
    %% Symbols for code that the JIT makes: perf reads them from /tmp/perf-PID.map.
    Erl = maps:get(erl, Node) ++ ["+JPperf", "map"],
    Safe = [case lists:member(C, "#-.") of true -> $_; false -> C end || C <- Label],
    case pt_bench_nodes:start_pair(Carrier, "p" ++ Tag ++ "_" ++ Safe, Node#{erl := Erl}) of
        {ok, Pair} ->
            try
                measure(Case, Label, Perf, Plan, Pair, filename:join(maps:get(dir, Node), Safe))
            after
                pt_bench_nodes:stop_pair(Pair),
                [file:delete("/tmp/perf-" ++ P ++ ".map") || P <- pt_bench_nodes:os_pids(Pair)]
            end;
        {error, Words} ->
            throw({no_start, Words})
    end.

measure(#{name := Name} = Case, Label, Perf, #{options := Options}, Pair, Base0) ->
    Base = Base0 ++ "-" ++ Name,
    #{seconds := Seconds, stall := Stall} = Options,
    Cell0 = pt_bench_cases:cell(Case, #{
        short => false, seconds => Seconds, stall_ms => Stall * 1000
    }),
    %% The instruments see the whole pass; so everything in it must count.
    Cell = Cell0#{warm_ms := 0},
    io:format("~s on ~s: warm-up", [Name, Label]),
    ok = ok_or_throw(pt_bench_nodes:prepare(Pair, Cell)),
    _ = pass(Pair, Cell),
    [First, Second] = OsPids = pt_bench_nodes:os_pids(Pair),
    Pass = fun(What, Pid, Arguments) ->
        io:format(", ~s", [What]),
        under(Perf, Arguments(Pid), Base, fun() -> pass(Pair, Cell) end)
    end,
    Before = pt_bench_nodes:call(Pair, ?MODULE, allocations, []),
    Plain = pass(Pair, Cell),
    After = pt_bench_nodes:call(Pair, ?MODULE, allocations, []),
    Allocs = [difference(A, B, units(Plain)) || {A, B} <- lists:zip(Before, After)],
    Counted = [
        counts(Pass(What, Pid, fun(P) -> stat_arguments(Events, P, Base) end), Base ++ ".stat")
     || Perf =/= none,
        {What, Events} <- [
            {"cycles", ["cycles", "instructions", "context-switches"]}, {"system calls", calls()}
        ],
        Events =/= [], Pid <- [First, Second]
    ],
    Record = fun(_) ->
        Pids = lists:append(lists:join(",", OsPids)),
        ["record", "-q", "-F", "1499", "-o", Base ++ ".data", "-p", Pids]
    end,
    Shares =
        case Perf of
            none -> [];
            _ ->
                _ = Pass("samples", none, Record),
                shares(Perf, Base)
        end,
    io:format("~n"),
    #{
        label => Label, unit => unit(Cell), rate => rate(Plain), allocs => Allocs,
        counts => Counted, shares => [share_of(threads(P), Shares) || P <- OsPids]
    }.

calls() ->
    case tracepoints() of
        [] -> [];
        Some -> ["raw_syscalls:sys_enter" | Some]
    end.

stat_arguments(Events, Pid, Base) ->
    ["stat", "-x", ";", "-o", Base ++ ".stat", "-e", lists:append(lists:join(",", Events)), "-p", Pid].

%% Fun while perf watches; its result.
under(none, _Arguments, _Base, Fun) ->
    Fun();
under(Perf, Arguments, Base, Fun) ->
    Log = Base ++ ".log",
    Shell = "exec \"$0\" \"$@\" >>'" ++ Log ++ "' 2>&1",
    Port = open_port({spawn_executable, "/bin/sh"}, [
        {args, ["-c", Shell, Perf | Arguments]}, exit_status, hide
    ]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    %% perf says nothing when it is attached; the cell waits for the events to be open.
    attached(OsPid, Port, erlang:monotonic_time(millisecond) + 10000),
    Result = Fun(),
    _ = os:cmd("kill -INT " ++ integer_to_list(OsPid)),
    receive
        {Port, {exit_status, _}} -> Result
    after 60000 ->
        _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
        throw({no_start, "perf did not end; see " ++ Log})
    end.

%% Its events are open when it has descriptors of them; counting starts with them.
attached(OsPid, Port, Deadline) ->
    Fds = filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/fd/*"),
    Events = [F || F <- Fds, {ok, "anon_inode:[perf_event]"} <- [file:read_link(F)]],
    receive
        {Port, {exit_status, Status}} ->
            throw({no_start, text("perf ended at once with status ~b; its words are in the .log file "
                "of the results directory", [Status])})
    after 20 ->
        Late = erlang:monotonic_time(millisecond) > Deadline,
        case Events of
            [] when Late -> throw({no_start, "perf opened no events"});
            [] -> attached(OsPid, Port, Deadline);
            _ -> settled(OsPid, length(Events), Deadline)
        end
    end.

%% One event a thread: wait until there are no more.
settled(OsPid, N, Deadline) ->
    timer:sleep(100),
    Fds = filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/fd/*"),
    case length([F || F <- Fds, {ok, "anon_inode:[perf_event]"} <- [file:read_link(F)]]) of
        N -> ok;
        More -> erlang:monotonic_time(millisecond) > Deadline orelse settled(OsPid, More, Deadline)
    end.

pass(Pair, Cell) ->
    case pt_bench_nodes:run(Pair, Cell) of
        {ok, #{not_applicable := Words}} -> throw({usage, "not on this carrier: " ++ Words});
        {ok, #{parts := Parts} = Got} ->
            Proof = pt_bench_proof:merge([P || #{proof := P} <- Parts]),
            Words = lists:flatten(pt_bench_proof:words(Proof)),
            pt_bench_proof:is_ok(Proof) orelse throw({failed, Words}),
            Got;
        {_, Words} -> throw({failed, Words})
    end.

ok_or_throw(ok) -> ok;
ok_or_throw({_, Words}) -> throw({failed, Words}).

%% What figures are divided by: messages, or of several parts the MB of the streams.
unit(#{parts := [_]}) -> "message";
unit(#{}) -> "MB of the streams".

units(#{parts := [#{messages := N}]}) ->
    max(1, N);
units(#{parts := Parts}) ->
    Bytes = lists:sum([
        N * Size
     || #{part := #{kind := flow, size := Size}, messages := N} <- Parts
    ]),
    max(1.0, Bytes / 1.0e6).

rate(#{parts := [#{messages := N, seconds := S} | _]}) -> N / S.

%% `perf stat -x ;': VALUE;UNIT;EVENT;... by unit.
counts(Got, File) ->
    {ok, Text} = file:read_file(File),
    Units = units(Got),
    maps:from_list([
        {event(Event), Value / Units}
     || Line <- string:split(binary_to_list(Text), "\n", all),
        [Word, _, Event | _] <- [string:split(Line, ";", all)],
        {Value, _} <- [string:to_integer(Word)], is_integer(Value)
    ]).

event("syscalls:sys_enter_" ++ Call) -> {call, Call};
event("raw_syscalls:sys_enter") -> all_calls;
event(Event) -> hd(string:split(Event, ":")).

shares(Perf, Base) ->
    Command = [$', Perf, "' report -i '", Base, ".data' --stdio -t '|' -F overhead,pid,dso,sym -g none "
        "2>/dev/null | tee '", Base, ".symbols'"],
    pt_bench_symbols:parse_report(os:cmd(lists:flatten(Command))).

%% Group => part of the process's own samples.
share_of(Threads, Shares) ->
    Mine = [
        {pt_bench_symbols:group(Dso, Symbol), S}
     || {Tid, Dso, Symbol, S} <- Shares, lists:member(Tid, Threads)
    ],
    Sum = max(1.0e-9, lists:sum([S || {_, S} <- Mine])),
    Add = fun({G, S}, M) -> maps:update_with(G, fun(V) -> V + S / Sum end, S / Sum, M) end,
    lists:foldl(Add, #{}, Mine).

threads(OsPid) ->
    {ok, Tids} = file:list_dir("/proc/" ++ OsPid ++ "/task"),
    Tids.

%% Calls of the VM's allocators so far: allocations and reallocations, by allocator. On the nodes.
-spec allocations() -> #{atom() => non_neg_integer()}.
allocations() ->
    maps:from_list([{A, calls(A)} || A <- erlang:system_info(alloc_util_allocators)]).

calls(Allocator) ->
    case erlang:system_info({allocator, Allocator}) of
        false ->
            0;
        Instances ->
            lists:sum([
                Giga * 1000000000 + N
             || {instance, _, Info} <- Instances, {calls, Calls} <- Info, {Name, Giga, N} <- Calls,
                lists:suffix("alloc", atom_to_list(Name)), not lists:prefix("mseg", atom_to_list(Name)),
                not lists:prefix("sys", atom_to_list(Name))
            ])
    end.

difference(Before, After, Units) ->
    maps:map(fun(A, N) -> (N - maps:get(A, Before)) / Units end, After).

%%% table

table(#{name := Name, text := Text}, [#{unit := Unit} | _] = Got) ->
    [
        io_lib:format("~n~s: ~ts~nper ~s, first and second node~n~n", [Name, Text, Unit]),
        heading([L || #{label := L} <- Got]),
        row("messages a second", [[round_number(R), ""] || #{rate := R} <- Got]),
        section("cycles", cycles(Got)),
        section("system calls", call_rows(Got)),
        section("allocations by the VM's allocators", alloc_rows(Got))
    ].

section(_Title, []) -> [];
section(Title, Rows) -> ["\n", Title, "\n", [row(["  ", N], V) || {N, V} <- Rows]].

%% A carrier's name stands over both of its columns.
heading(Labels) ->
    Columns = [io_lib:format(" ~21s  ", [L]) || L <- Labels],
    [string:trim([string:pad("", 30), Columns], trailing), $\n].

row(Name, Pairs) ->
    Columns = [io_lib:format(" ~10s ~10s  ", [A, B]) || [A, B] <- Pairs],
    Line = [string:pad(lists:flatten(Name), 30), Columns],
    [string:trim(lists:flatten(Line), trailing), $\n].

cycles(Got) ->
    Value = fun(Key, Counts) -> [number(maps:get(Key, C, none)) || C <- lists:sublist(Counts, 2)] end,
    Rows = [
        {Name, [Value(Key, Counts) || #{counts := Counts} <- Got]}
     || {Name, Key} <- [
            {"all", "cycles"}, {"instructions", "instructions"},
            {"context switches", "context-switches"}
        ],
        [] =/= lists:append([Counts || #{counts := Counts} <- Got])
    ],
    Seen = lists:append([lists:append([maps:keys(S) || S <- Shares]) || #{shares := Shares} <- Got]),
    Groups = [
        {Group, [
            [
                number(maps:get(Group, S, 0.0) * maps:get("cycles", C, 0.0))
             || {S, C} <- lists:zip(Shares, lists:sublist(Counts, 2))
            ]
         || #{shares := Shares, counts := Counts} <- Got
        ]}
     || Group <- pt_bench_symbols:groups(),
        lists:member(Group, Seen),
        lists:all(fun(#{counts := Counts}) -> length(Counts) >= 2 end, Got)
    ],
    Rows ++ Groups.

call_rows(Got) ->
    case [C || #{counts := [_, _, A, B]} = C <- Got, map_size(A) > 0, map_size(B) > 0] of
        Got ->
            Sides = fun(Key) ->
                [
                    [maps:get(Key, A, 0), maps:get(Key, B, 0)]
                 || #{counts := [_, _, A, B]} <- Got
                ]
            end,
            Rows = [{"all", Sides(all_calls)} | [{Call, Sides({call, Call})} || Call <- ?CALLS]],
            shown(Rows);
        _ ->
            []
    end.

alloc_rows(Got) ->
    Keys = lists:usort(lists:append([maps:keys(A) || #{allocs := As} <- Got, A <- As])),
    All = {"all", [[lists:sum(maps:values(A)) || A <- As] || #{allocs := As} <- Got]},
    Each = [
        {atom_to_list(K), [[maps:get(K, A) || A <- As] || #{allocs := As} <- Got]}
     || K <- Keys
    ],
    shown([All | Each]).

%% Rows with something to say.
shown(Rows) ->
    [
        {Name, [[number(V) || V <- Pair] || Pair <- Pairs]}
     || {Name, Pairs} <- Rows, lists:any(fun(V) -> V >= 0.005 end, lists:append(Pairs))
    ].

number(none) -> "-";
number(V) when V < 0.005 -> "0";
number(V) -> lists:flatten(pt_bench_metric:number(V)).

round_number(V) -> integer_to_list(round(V)).

json(#{name := Name}, #{label := Label} = P) ->
    #{counts := Counts, shares := Shares, allocs := Allocs} = P,
    Text = fun(K) -> unicode:characters_to_binary([io_lib:format("~0tp", [K]) || not is_list(K)] ++ [K || is_list(K)]) end,
    Keys = fun(M) -> maps:from_list([{Text(K), V} || {K, V} <- maps:to_list(M)]) end,
    #{
        type => profile, 'case' => list_to_binary(Name), carrier => list_to_binary(Label),
        unit => list_to_binary(maps:get(unit, P)), rate => maps:get(rate, P),
        counts => [Keys(C) || C <- Counts],
        shares => [Keys(S) || S <- Shares],
        allocations => [Keys(A) || A <- Allocs]
    }.

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
