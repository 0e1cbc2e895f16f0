%% The benchmark's main program: plan, rounds, results. bench/run starts it.
-module(pt_bench).
-export([main/0]).

-spec main() -> no_return().
main() ->
    Status =
        try
            case pt_bench_opts:parse(init:get_plain_arguments()) of
                help ->
                    out(pt_bench_opts:help()),
                    0;
                list ->
                    Cases = pt_bench_cases:all(),
                    out([[pad(N), T, $\n] || #{name := N, text := T} <- Cases]),
                    0;
                self_test ->
                    Passed = pt_bench_test:run(),
                    tally(Passed, 0),
                    out("bench: ~b self-tests passed~n", [Passed]),
                    [
                        out("checking a message of ~b B costs ~b ns~n", [Size, round(Ns)])
                     || {Size, Ns} <- pt_bench_test:check_cost()
                    ],
                    0;
                {error, Words} ->
                    throw({usage, Words});
                {ok, Options} ->
                    start(Options)
            end
        catch
            throw:{usage, Text} ->
                err("bench: ~ts (bench/run --help)~n", [Text]),
                2;
            throw:{no_start, Text} ->
                err("bench: ~ts~n", [Text]),
                3;
            error:terminated ->
                %% Whoever read the output has gone, as in `bench/run | head'.
                4;
            Class:Reason:Stack ->
                err("bench: fault in the benchmark itself: ~0p:~0p~n  ~0p~n", [
                    Class, Reason, Stack
                ]),
                4
        end,
    halt(Status).

start(#{short := Short} = Options) ->
    Cases = cases(Options),
    Carriers = carriers(Options),
    maps:get(pinned, Options) andalso os:find_executable("taskset") =:= false andalso
        throw({usage, "--pinned needs taskset (package util-linux)"}),
    File = out_file(Options),
    ok = filelib:ensure_dir(File),
    {ok, Out} = file:open(File, [write, delayed_write]),
    Run = #{
        options => Options,
        tag => os:getpid(),
        out => Out,
        cases => Cases,
        carriers => Carriers,
        total => rounds(Options) * length(Cases) * length(Carriers),
        node => #{
            pinned => maps:get(pinned, Options),
            paths => [beams(), ebin(Options)],
            erl => maps:get(erl, Options)
        }
    },
    Env = environment(Run),
    out(pt_bench_report:environment(Env)),
    write(Run, Env#{type => environment}),
    Samples = lists:append(rounds(Run, 1, rounds(Options), #{})),
    Labels = [L || #{label := L} <- Carriers],
    Summaries = pt_bench_report:summaries(Cases, Labels, Samples),
    [write(Run, S#{type => summary, carrier := bin(L), 'case' := bin(C)})
     || #{carrier := L, 'case' := C} = S <- Summaries],
    ok = file:close(Out),
    Short orelse out(pt_bench_report:table(Cases, Labels, Summaries)),
    verdict(Samples, File).

cases(#{short := true, cases := undefined}) ->
    pt_bench_cases:short();
cases(#{cases := undefined}) ->
    pt_bench_cases:all();
cases(#{cases := Wanted}) ->
    case pt_bench_cases:select(Wanted) of
        {ok, Cases} -> Cases;
        {error, Unknown} -> throw({usage, "no such case: " ++ Unknown ++ "; --list names them"})
    end.

carriers(#{carriers := Given, short := Short} = Options) ->
    Words =
        case Given of
            undefined when Short -> ["partisan", "partisan-poll"];
            undefined -> ["inet_tcp", "partisan"];
            _ -> Given
        end,
    Defaults = maps:filter(fun(_, V) -> V =/= undefined end, maps:with([backend, lanes], Options)),
    number_equals([
        case pt_bench_nodes:parse(Word, Defaults) of
            {ok, Carrier} -> Carrier;
            {error, Text} -> throw({usage, Text})
        end
     || Word <- Words
    ]).

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

rounds(#{short := true}) -> 1;
rounds(#{rounds := N}) -> N.

%%% rounds

%% Pairs: label => the pair, or why there is none. Bad: what is not tried again, {Case, Label} that
%% failed and labels whose nodes no longer start.
rounds(_Run, Round, Last, _Bad) when Round > Last ->
    [];
rounds(#{carriers := Carriers, cases := Cases} = Run, Round, Last, Bad) ->
    Pairs = maps:from_list([
        {L, pair(Run, C, Round)}
     || #{label := L} = C <- Carriers, not is_map_key(L, Bad)
    ]),
    Round =:= 1 andalso first_pairs(Run, Pairs),
    Cells = [{Case, C} || Case <- Cases, C <- order(Round, Carriers)],
    {Samples, {Pairs1, Bad1, _}} =
        lists:mapfoldl(
            fun({Case, C}, {Ps, B, I}) -> cell(Run, Round, I, Case, C, Ps, B) end,
            {Pairs, Bad, (Round - 1) * length(Cells) + 1},
            Cells
        ),
    [pt_bench_nodes:stop_pair(P) || {ok, P} <- maps:values(Pairs1)],
    [[S || S <- Samples, S =/= skipped] | rounds(Run, Round + 1, Last, Bad1)].

%% Nothing measured yet: without all carriers there is nothing to compare.
first_pairs(Run, Pairs) ->
    case [Text || {error, Text} <- maps:values(Pairs)] of
        [Text | _] ->
            [pt_bench_nodes:stop_pair(P) || {ok, P} <- maps:values(Pairs)],
            throw({no_start, Text});
        [] ->
            [
                out("~s: ~s~n", [L, Words])
             || {L, {ok, P}} <- maps:to_list(Pairs),
                Words <- [note_carrier(Run, L, P)],
                Words =/= ""
            ]
    end.

note_carrier(Run, Label, Pair) ->
    {Words, Said} = pt_bench_nodes:describe(Pair),
    Text = io_lib:format("~0tp", [Said]),
    write(Run, #{type => carrier, carrier => bin(Label), says => bin(Text)}),
    Words.

%% A B, then B A: what the first cell does to the second hits both carriers equally often.
order(Round, Carriers) when Round rem 2 =:= 1 -> Carriers;
order(_Round, Carriers) -> lists:reverse(Carriers).

pair(#{tag := Tag, node := Node}, #{label := Label} = Carrier, Round) ->
    Unique = [case C of $# -> $_; $- -> $_; _ -> C end || C <- Label],
    Count = erlang:unique_integer([positive]),
    Name = io_lib:format("~s_~s_~b_~b", [Tag, Unique, Round, Count]),
    pt_bench_nodes:start_pair(Carrier, lists:flatten(Name), Node).

cell(_Run, _Round, I, #{name := Name}, #{label := Label}, Pairs, Bad) when
    is_map_key({Name, Label}, Bad); is_map_key(Label, Bad)
->
    {skipped, {Pairs, Bad, I + 1}};
cell(Run, Round, I, #{name := Name} = Case, #{label := Label} = Carrier, Pairs, Bad) ->
    Sample =
        case maps:get(Label, Pairs) of
            {ok, Pair} -> measure(Run, Round, Case, Label, Pair);
            {error, Text} -> failed(#{round => Round, 'case' => Name, carrier => Label}, Text)
        end,
    write(Run, json(Sample)),
    out(pt_bench_report:progress({I, maps:get(total, Run)}, Sample, maps:get(show, Case))),
    case {Sample, maps:get(Label, Pairs)} of
        {#{ok := true}, _} ->
            {Sample, {Pairs, Bad, I + 1}};
        {#{ok := false}, {error, _}} ->
            {Sample, {Pairs, Bad#{Label => true}, I + 1}};
        {#{ok := false}, {ok, Broken}} ->
            %% Whatever went wrong, the next cell gets nodes that know nothing of it.
            pt_bench_nodes:stop_pair(Broken),
            Fresh = Pairs#{Label := pair(Run, Carrier, Round)},
            {Sample, {Fresh, Bad#{{Name, Label} => true}, I + 1}}
    end.

measure(#{options := Options}, Round, #{name := Name} = Case, Label, Pair) ->
    #{seconds := Seconds, stall := Stall, short := Short} = Options,
    Cell = pt_bench_cases:cell(Case, #{
        short => Short, seconds => Seconds, stall_ms => Stall * 1000
    }),
    Sample = #{round => Round, 'case' => Name, carrier => Label},
    Result =
        case pt_bench_nodes:prepare(Pair, Cell) of
            ok -> pt_bench_nodes:run(Pair, Cell);
            Error -> Error
        end,
    case Result of
        {ok, #{parts := Parts, usage := #{external := External}, peak_kb := Peaks} = Got} ->
            Proof = pt_bench_proof:merge([P || #{proof := P} <- Parts]),
            Done = Sample#{
                proof => Proof,
                external => External,
                parts => Parts,
                peak_kb => Peaks,
                usage => maps:get(usage, Got)
            },
            case pt_bench_proof:is_ok(Proof) of
                true -> Done#{ok => true, metrics => pt_bench_cases:metrics(Case, Got)};
                false -> Done#{ok => false, why => lists:flatten(pt_bench_proof:words(Proof))}
            end;
        {stalled, Words} ->
            failed(Sample, "not delivered: " ++ Words);
        {error, Words} ->
            failed(Sample, Words)
    end.

failed(Sample, Why) ->
    Sample#{ok => false, why => Why, proof => pt_bench_proof:unfinished()}.

json(#{'case' := Case, carrier := Label} = Sample) ->
    Parts = [
        (maps:with([messages, seconds, latency_us, histogram], P))#{part => Part}
     || #{part := Part} = P <- maps:get(parts, Sample, [])
    ],
    (Sample#{
        type => cell,
        'case' := bin(Case),
        carrier := bin(Label),
        parts => Parts,
        why => bin(maps:get(why, Sample, ""))
    }).

verdict(Samples, File) ->
    Failed = [S || #{ok := false} = S <- Samples],
    Proof = pt_bench_proof:merge([P || #{proof := P} <- Samples]),
    tally(length(Samples) - length(Failed), length(Failed)),
    out("~nResults: ~ts~n", [File]),
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

%%% environment

environment(#{options := Options, carriers := Carriers}) ->
    #{
        time => bin(calendar:system_time_to_rfc3339(erlang:system_time(second))),
        kernel => pt_bench_proc:kernel(),
        cpu => pt_bench_proc:cpu_model(),
        cores => erlang:system_info(logical_processors_available),
        otp => otp_version(),
        load => pt_bench_proc:load(),
        schedulers =>
            case Options of
                #{pinned := true} -> <<"1 a VM, pinned">>;
                #{} -> <<"default">>
            end,
        rounds => rounds(Options),
        carriers => [
            bin(lists:join(" ", ["-proto_dist", P | A]))
         || #{proto := P, args := A} <- Carriers
        ],
        erl_args => [bin(A) || A <- maps:get(erl, Options)]
    }.

otp_version() ->
    Release = erlang:system_info(otp_release),
    case file:read_file(filename:join([code:root_dir(), "releases", Release, "OTP_VERSION"])) of
        {ok, Version} -> string:trim(Version);
        {error, _} -> bin(Release)
    end.

beams() -> filename:dirname(code:which(?MODULE)).

ebin(#{ebin := undefined}) -> filename:join([beams(), "..", "..", "ebin"]);
ebin(#{ebin := Dir}) -> Dir.

out_file(#{out := undefined}) ->
    {{Y, Mo, D}, {H, Mi, S}} = calendar:local_time(),
    Name = io_lib:format("run-~4..0b~2..0b~2..0b-~2..0b~2..0b~2..0b-~s.jsonl",
        [Y, Mo, D, H, Mi, S, os:getpid()]),
    filename:join(beams(), Name);
out_file(#{out := File}) ->
    File.

%% `make check' adds up what its stages passed and failed: a line each in the file it names.
tally(Passed, Failed) ->
    case os:getenv("PT_TALLY") of
        false -> ok;
        File -> ok = file:write_file(File, io_lib:format("~b ~b~n", [Passed, Failed]), [append])
    end.

%%% output

write(#{out := Out}, Map) -> ok = file:write(Out, pt_bench_json:line(Map)).

out(Text) -> io:put_chars(Text).
out(Format, Args) -> io:format(Format, Args).
err(Format, Args) -> io:format(standard_error, Format, Args).

pad(Text) -> string:pad(Text, 16).
bin(Text) -> unicode:characters_to_binary(Text).
