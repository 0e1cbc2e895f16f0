%% The benchmark's main program: plan, run, table, verdict. bench/run starts it.
-module(pt_bench).
-export([main/0, guarded/1, plan/1, needs_certificate/2]).

-spec main() -> no_return().
main() ->
    guarded(fun() ->
        case pt_bench_opts:parse(init:get_plain_arguments()) of
            help ->
                out(pt_bench_opts:help()),
                0;
            list ->
                [out("~-22s ~ts~n", [N, T]) || #{name := N, text := T} <- pt_bench_cases:all()],
                0;
            self_test ->
                self_test();
            {plot, Dir} ->
                out(pt_bench_plot:draw(Dir)),
                0;
            {error, Words} ->
                throw({usage, Words});
            {ok, Options} ->
                run(Options)
        end
    end).

%% Ends the VM with what Fun returns, or with the status and the words for what it throws.
-spec guarded(fun(() -> non_neg_integer())) -> no_return().
guarded(Fun) ->
    Status =
        try
            Fun()
        catch
            throw:{usage, Text} ->
                err("bench: ~ts (--help)~n", [Text]),
                2;
            throw:{no_start, Text} ->
                err("bench: ~ts~n", [Text]),
                3;
            throw:{failed, Text} ->
                err("bench: FAILED: ~ts~n", [Text]),
                1;
            error:terminated ->
                %% Whoever read the output has gone, as in `bench/run | head'.
                4;
            Class:Reason:Stack ->
                err("bench: a fault of the benchmark itself: ~0p:~0p~n  ~0p~n",
                    [Class, Reason, Stack]),
                4
        end,
    halt(Status).

self_test() ->
    Passed = pt_bench_test:run(),
    tally(Passed, 0),
    out("bench: ~b self-tests passed~n", [Passed]),
    [
        out("checking a message of ~b B costs ~b ns~n", [Size, round(Ns)])
     || {Size, Ns} <- pt_bench_test:check_cost()
    ],
    0.

%%% a run

run(#{resume := Dir}) when Dir =/= undefined, Dir =/= "last" ->
    %% Its own options: what was asked for then.
    case pt_bench_store:read(Dir) of
        {ok, Lines} ->
            Given = maps:get(<<"args">>, pt_bench_store:environment(Lines), []),
            case pt_bench_opts:parse([unicode:characters_to_list(A) || A <- Given]) of
                {ok, Then} -> run_all(Then#{resume := Dir});
                _ -> throw({usage, Dir ++ " does not say with which options it was run"})
            end;
        {error, Text} ->
            throw({usage, Text})
    end;
run(Options) ->
    run_all(Options).

run_all(Options) ->
    #{store := Store, done := Done} = Run = with_store(plan(Options)),
    #{cases := Cases, carriers := Carriers, node := Node} = Run,
    Dir = maps:get(dir, Node),
    [needs_certificate(Dir, maps:get(hosts, Node)) || #{tls := _} <- Carriers],
    map_size(Done) > 0 andalso
        out("taken up: ~ts, ~b cells are there already~n", [Dir, map_size(Done)]),
    Samples = pt_bench_round:all(Run),
    Labels = [L || #{label := L} <- Carriers],
    Summaries = pt_bench_report:summaries(Cases, Labels, Samples),
    [
        pt_bench_store:write(Store, S#{type => summary, carrier := bin(L), 'case' := bin(C)})
     || #{carrier := L, 'case' := C} = S <- Summaries
    ],
    ok = pt_bench_store:finish(Store),
    case Options of
        #{short := true} ->
            ok;
        #{plots := Plots} ->
            Table = pt_bench_report:table(Cases, Labels, Summaries),
            ok = file:write_file(filename:join(Dir, "table.txt"), bin(Table)),
            out(Table),
            Plots andalso out(pt_bench_plot:draw(Dir))
    end,
    verdict(Samples, Dir).

%% Makes it, where it is not there yet.
-spec needs_certificate(file:filename(), {string(), string()}) -> ok.
needs_certificate(Dir, {HostA, HostB}) ->
    case pt_bench_tls:make(Dir, [HostA, HostB]) of
        ok -> ok;
        {error, Text} -> throw({no_start, Text})
    end.

%% Everything but where results go and what is there already. Throws {usage, Words}.
-spec plan(pt_bench_opts:options()) -> map().
plan(#{short := Short} = Options) ->
    maps:get(pinned, Options) andalso os:find_executable("taskset") =:= false andalso
        throw({usage, "--pinned needs taskset (package util-linux)"}),
    Defaults = maps:filter(fun(_, V) -> V =/= undefined end, maps:with([backend, lanes], Options)),
    Program = filename:join(beams(), "floor"),
    %% bench/prepare has said why it is not there.
    Floor = maps:get(floor, Options) andalso filelib:is_regular(Program),
    Words =
        case Options of
            #{carriers := undefined, full := true} -> pt_bench_carrier:full(Floor);
            #{carriers := undefined} -> pt_bench_carrier:usual(Short, Floor);
            #{carriers := Given} -> Given
        end,
    Carriers = [
        case pt_bench_carrier:parse(Word, Defaults) of
            {ok, Carrier} -> Carrier;
            {error, Text} -> throw({usage, Text})
        end
     || Word <- Words
    ],
    %% The floor is no base: ratios to it have a column of their own.
    Real = [C || #{proto := P} = C <- Carriers, P =/= floor],
    Real =:= [] andalso throw({usage, "the floor alone says nothing: name a carrier"}),
    #{
        options => Options,
        tag => os:getpid(),
        cases => cases(Options),
        carriers => number_equals(Real ++ (Carriers -- Real)),
        floor => Program,
        node => #{
            pinned => maps:get(pinned, Options),
            erl => maps:get(erl, Options),
            beams => beams(),
            ebin => ebin(Options),
            hosts => {maps:get(host_a, Options), maps:get(host_b, Options)},
            wraps => {maps:get(wrap_a, Options), maps:get(wrap_b, Options)}
        }
    }.

cases(#{short := true, cases := undefined}) ->
    pt_bench_cases:short();
cases(#{full := true, cases := undefined}) ->
    pt_bench_cases:all();
cases(#{cases := undefined}) ->
    pt_bench_cases:default();
cases(#{cases := Wanted}) ->
    case pt_bench_cases:select(Wanted) of
        {ok, Cases} -> Cases;
        {error, Unknown} -> throw({usage, "no such case: " ++ Unknown ++ "; --list names them"})
    end.

%% The same carrier twice: inet_tcp, inet_tcp#2.
number_equals(Carriers) ->
    {Named, _} = lists:mapfoldl(
        fun(#{label := Label} = Carrier, Seen) ->
            N = maps:get(Label, Seen, 0) + 1,
            Name = case N of 1 -> Label; _ -> Label ++ "#" ++ integer_to_list(N) end,
            {Carrier#{label := Name}, Seen#{Label => N}}
        end,
        #{},
        Carriers
    ),
    Named.

%% A new directory, or that of the run to take up and what it holds.
with_store(#{options := Options, node := Node} = Plan) ->
    Root = filename:join(beams(), "results"),
    Mine = pt_bench_env:plan(Plan),
    {How, Dir} =
        case Options of
            #{resume := "last"} ->
                case pt_bench_store:unfinished(Root, Mine) of
                    {ok, Found} -> {reopen, Found};
                    none -> {create, out_dir(Root, Options)}
                end;
            #{resume := undefined} ->
                {create, out_dir(Root, Options)};
            #{resume := Given} ->
                {reopen, Given}
        end,
    Abs = filename:absname(Dir),
    {Store, Done} = open_store(How, Abs, Mine, Plan),
    Plan#{store => Store, done => Done, node := Node#{dir => Abs}}.

open_store(create, Dir, _Mine, Plan) ->
    Store = opened(pt_bench_store:create(Dir)),
    Env = pt_bench_env:describe(Plan),
    out(pt_bench_report:environment(Env)),
    Args = without_resume(init:get_plain_arguments()),
    pt_bench_store:write(Store, Env#{type => environment, args => [bin(A) || A <- Args]}),
    {Store, #{}};
open_store(reopen, Dir, Mine, _Plan) ->
    case pt_bench_store:read(Dir) of
        {ok, Lines} ->
            maps:get(<<"plan">>, pt_bench_store:environment(Lines), none) =:= Mine orelse
                throw({usage, Dir ++ " was run with other options, or by another build: its cells "
                    "and new ones do not belong into one table"}),
            Done = [{{C, L, R}, S}
             || #{'case' := C, carrier := L, round := R} = S <- pt_bench_store:samples(Lines)],
            {opened(pt_bench_store:reopen(Dir)), maps:from_list(Done)};
        {error, Text} ->
            throw({usage, Text})
    end.

without_resume(["--resume", _ | Args]) -> without_resume(Args);
without_resume([Arg | Args]) -> [Arg | without_resume(Args)];
without_resume([]) -> [].

opened({ok, Store}) -> Store;
opened({error, Text}) -> throw({usage, Text}).

out_dir(Root, #{out := undefined}) ->
    {{Y, Mo, D}, {H, Mi, S}} = calendar:local_time(),
    Name = io_lib:format("~4..0b~2..0b~2..0b-~2..0b~2..0b~2..0b-~s",
        [Y, Mo, D, H, Mi, S, os:getpid()]),
    filename:join(Root, Name);
out_dir(_Root, #{out := Dir}) ->
    Dir.

verdict(Samples, Dir) ->
    Failed = [S || #{ok := false} = S <- Samples],
    Proof = pt_bench_proof:merge([P || #{proof := P} <- Samples]),
    tally(length(Samples) - length(Failed), length(Failed)),
    out("~nResults: ~ts~n", [Dir]),
    case Failed of
        [] ->
            out("Delivered: ~ts, in ~b cells.~n", [pt_bench_proof:words(Proof), length(Samples)]),
            0;
        _ ->
            [
                out("FAILED: ~s on ~s, round ~b: ~ts~n", [C, L, R, Why])
             || #{'case' := C, carrier := L, round := R, why := Why} <- Failed
            ],
            1
    end.

beams() -> filename:dirname(code:which(?MODULE)).

ebin(#{ebin := undefined}) -> filename:join([beams(), "..", "..", "ebin"]);
ebin(#{ebin := Dir}) -> filename:absname(Dir).

%% `make check' adds up what its stages passed and failed: a line each in the file it names.
tally(Passed, Failed) ->
    case os:getenv("PT_TALLY") of
        false -> ok;
        File -> ok = file:write_file(File, io_lib:format("~b ~b~n", [Passed, Failed]), [append])
    end.

out(Text) -> io:put_chars(Text).
out(Format, Args) -> io:format(Format, Args).
err(Format, Args) -> io:format(standard_error, Format, Args).

bin(Text) -> unicode:characters_to_binary(Text).
