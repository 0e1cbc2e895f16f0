%% The floor: what one TCP connection gives two C processes on the same path (bench/floor). Stands
%% among the carriers; a cell of it has the figures of the other cells, without Erlang.
-module(pt_bench_floor).
-export([start/3, stop/1, run/2, parse_line/1]).
-export_type([floor/0]).

-opaque floor() :: #{
    server := port(), server_pid := integer(), port := string(), how := [blocking | uring],
    program := file:filename(), options := pt_bench_nodes:options()
}.

%% The program is built by bench/run; its server starts where the second node would.
-spec start([blocking | uring], Program :: file:filename(), pt_bench_nodes:options()) ->
    {ok, floor()} | {error, string()}.
start(How, Program, #{hosts := {_, HostB}} = Options) ->
    case filelib:is_regular(Program) of
        false ->
            {error, "the floor's program was not built: see above; --no-floor does without"};
        true ->
            Server = spawn_program(2, Options, [Program, "serve", HostB], [{line, 64}]),
            {os_pid, OsPid} = erlang:port_info(Server, os_pid),
            receive
                {Server, {data, {eol, Port}}} ->
                    {ok, #{
                        server => Server, server_pid => OsPid, port => Port, how => How,
                        program => Program, options => Options
                    }};
                {Server, {exit_status, Status}} ->
                    {error, text("the floor's server ended with status ~b", [Status])}
            after 5000 ->
                kill(Server, OsPid),
                {error, "the floor's server did not start"}
            end
    end.

-spec stop(floor()) -> ok.
stop(#{server := Server, server_pid := OsPid}) -> kill(Server, OsPid).

%% A server waits for the next connection for ever; it ends by a signal only.
kill(Server, OsPid) ->
    _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
    receive {Server, {exit_status, _}} -> ok after 5000 -> ok end.

%% Each part of the cell by itself, one after the other; `none' when one has no like in C.
-spec run(floor(), pt_bench_work:cell()) -> {ok, map()} | {error, string()} | none.
run(#{how := How} = Floor, #{parts := Parts} = Cell) ->
    case lists:any(fun(P) -> kind(P) =:= none end, Parts) of
        true ->
            none;
        false ->
            Share = length(How) * length(Parts),
            Results = [
                best(kind(P), [one(Floor, H, kind(P), P, Cell, Share) || H <- How])
             || P <- Parts
            ],
            case [E || {error, _} = E <- Results] of
                [] -> {ok, together([R || {ok, R} <- Results])};
                [Error | _] -> Error
            end
    end.

%% One connection between two places; a call or a request at its time is a round trip.
kind(#{peers := N}) when N > 1 -> none;
kind(#{kind := Kind}) when Kind =:= echo; Kind =:= call; Kind =:= open -> "echo";
kind(#{kind := flow}) -> "stream";
kind(#{}) -> none.

together(Results) ->
    Usages = [U || #{usage := U} <- Results],
    #{
        parts => lists:append([P || #{parts := P} <- Results]),
        usage => #{
            cpu => lists:append([C || #{cpu := C} <- Usages]),
            seconds => lists:sum([S || #{seconds := S} <- Usages]),
            external => lists:max([X || #{external := X} <- Usages])
        },
        peak_kb => []
    }.

best(Kind, Results) ->
    case {[R || {ok, R} <- Results], Kind} of
        {[], _} ->
            hd(Results);
        {Good, "echo"} ->
            {ok, first_by(fun(#{parts := [#{latency_us := #{p50 := V}}]}) -> V end, Good)};
        {Good, "stream"} ->
            {ok, first_by(fun(#{parts := [#{messages := N, seconds := S}]}) -> -N / S end, Good)}
    end.

first_by(Key, Results) -> hd(lists:sort(fun(A, B) -> Key(A) =< Key(B) end, Results)).

one(Floor, How, Kind, Part, #{ms := Ms, warm_ms := Warm}, Share) ->
    #{port := Port, program := Program, options := #{hosts := {_, Host}} = Options} = Floor,
    #{procs := Procs0, size := Size} = Part,
    %% At a fixed rate hardly ever two requests are under way.
    Procs = case Part of #{kind := open} -> 1; _ -> Procs0 end,
    Number = fun(N) -> integer_to_list(N) end,
    %% It has no rates to settle and no collector: half a second says as much as two.
    Words = [Program, "run", Host, Port, Kind, Number(Size), Number(Procs), Number(min(Warm, 100)),
        Number(max(200, min(Ms, 1000) div Share)), atom_to_list(How),
        Number(pt_bench_payload:pool_bytes(pt_bench_work:payload(Part)))],
    Before = pt_bench_proc:snapshot([]),
    Run = spawn_program(1, Options, Words, [{line, 1000000}]),
    Limit = 2 * (Ms + Warm) + 20000,
    case collect(Run, none, erlang:monotonic_time(millisecond) + Limit) of
        {0, Line} when is_list(Line) ->
            #{cpu := Cpu, seconds := S} = Figures = parse_line(Line),
            #{external := All} = pt_bench_proc:usage(Before, pt_bench_proc:snapshot([])),
            %% What is measured is most of what the two processes did, so the rest is others'.
            {ok, result(Part, Figures, max(0.0, All - Cpu / max(S, 0.01)))};
        {Status, _} -> {error, text("the floor's program ended with status ~p", [Status])}
    end.

collect(Run, Line, Deadline) ->
    receive
        {Run, {data, {_, More}}} -> collect(Run, More, Deadline);
        {Run, {exit_status, Status}} -> {Status, Line}
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        {os_pid, OsPid} = erlang:port_info(Run, os_pid),
        kill(Run, OsPid),
        {"none: it hung and was killed", Line}
    end.

result(Part, #{messages := N, seconds := S, cpu := Cpu, hist := Hist}, External) ->
    H = pt_bench_hist:from_list(Hist),
    Sent = round(N),
    #{
        %% The program itself counts bytes and numbers, and fails when they are wrong.
        parts => [#{
            part => Part, messages => Sent, seconds => max(S, 1.0e-9), histogram => Hist,
            latency_us => pt_bench_hist:micros(H),
            proof => (pt_bench_proof:merge([]))#{sent := Sent, received := Sent}
        }],
        usage => #{cpu => [Cpu], seconds => S, external => External}
    }.

%% KEY=VALUE ..., hist=INDEX:COUNT,...
-spec parse_line(string()) -> #{messages | seconds | cpu := float(), hist := [[integer()]]}.
parse_line(Line) ->
    Pairs = [list_to_tuple(string:split(W, "=")) || W <- string:lexemes(Line, " ")],
    Value = fun(Key) -> {Key, V} = lists:keyfind(Key, 1, Pairs), V end,
    Hist = [
        [list_to_integer(Index), list_to_integer(Count)]
     || Word <- string:lexemes(Value("hist"), ","), [Index, Count] <- [string:split(Word, ":")]
    ],
    #{
        messages => list_to_float(Value("messages")),
        seconds => list_to_float(Value("seconds")),
        cpu => list_to_float(Value("cpu")),
        hist => Hist
    }.

spawn_program(Side, Options, Words, PortOptions) ->
    {Path, Args} = pt_bench_nodes:command(Side, Options, Words),
    open_port({spawn_executable, Path}, [{args, Args}, exit_status, hide | PortOptions]).

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
