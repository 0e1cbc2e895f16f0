%% A run's directory: results.jsonl, table.txt, plots, certificates. Every line is on the disk before
%% the next cell starts, so that a run that was stopped can be taken up again.
-module(pt_bench_store).
-export([create/1, reopen/1, write/2, close/1, finish/1, file/1, read/1, environment/1]).
-export([samples/1, to_json/1, unfinished/2]).
-export_type([store/0]).

-opaque store() :: #{dir := file:filename(), io := file:io_device()}.

-spec create(file:filename()) -> {ok, store()} | {error, string()}.
create(Dir) ->
    case filelib:is_file(file(Dir)) of
        true -> {error, Dir ++ " holds a run already (--resume takes it up, --out names another)"};
        false -> open(Dir, [write])
    end.

%% For appending. A line that the end of the last run cut short is ended.
-spec reopen(file:filename()) -> {ok, store()} | {error, string()}.
reopen(Dir) ->
    {ok, Bytes} = file:read_file(file(Dir)),
    case open(Dir, [append]) of
        {ok, #{io := Io} = Store} ->
            Bytes =:= <<>> orelse binary:last(Bytes) =:= $\n orelse (ok = file:write(Io, "\n")),
            {ok, Store};
        Error ->
            Error
    end.

open(Dir, Modes) ->
    case filelib:ensure_path(Dir) of
        ok ->
            case file:open(file(Dir), [raw | Modes]) of
                {ok, Io} -> {ok, #{dir => Dir, io => Io}};
                {error, Why} -> {error, file(Dir) ++ ": " ++ file:format_error(Why)}
            end;
        {error, Why} ->
            {error, Dir ++ ": " ++ file:format_error(Why)}
    end.

-spec write(store(), map()) -> ok.
write(#{io := Io}, Map) ->
    ok = file:write(Io, pt_bench_json:line(Map)).

%% The run is complete: nothing is left to be taken up.
-spec finish(store()) -> ok.
finish(Store) ->
    Time = calendar:system_time_to_rfc3339(erlang:system_time(second)),
    write(Store, #{type => 'end', time => bin(Time)}),
    close(Store).

-spec close(store()) -> ok.
close(#{io := Io}) -> file:close(Io).

-spec file(file:filename() | store()) -> file:filename().
file(#{dir := Dir}) -> file(Dir);
file(Dir) -> filename:join(Dir, "results.jsonl").

%% The lines of a run; a directory or the file itself. Lines that are no JSON are left out: there can
%% be one where a run was stopped.
-spec read(file:filename()) -> {ok, [#{binary() => term()}]} | {error, string()}.
read(Name) ->
    File = case filelib:is_dir(Name) of true -> file(Name); false -> Name end,
    case file:read_file(File) of
        {ok, Bytes} ->
            Lines = [pt_bench_json:parse(L) || L <- binary:split(Bytes, <<"\n">>, [global])],
            case [Map || {ok, #{<<"type">> := _} = Map} <- Lines] of
                [] -> {error, File ++ " holds no results"};
                Maps -> {ok, Maps}
            end;
        {error, Why} ->
            {error, File ++ ": " ++ file:format_error(Why)}
    end.

-spec environment([map()]) -> #{binary() => term()}.
environment(Lines) ->
    case [L || #{<<"type">> := <<"environment">>} = L <- Lines] of
        [First | _] -> First;
        [] -> #{}
    end.

%% Cells as they were when they were written (pt_bench_round), as far as a report needs them.
-spec samples([map()]) -> [map()].
samples(Lines) ->
    %% Their atoms are the keys; a module that is not loaded yet has none.
    Modules = [pt_bench_proof, pt_bench_hist, pt_bench_metric],
    [{module, M} = code:ensure_loaded(M) || M <- Modules],
    [sample(L) || #{<<"type">> := <<"cell">>} = L <- Lines].

sample(#{<<"case">> := Case, <<"carrier">> := Label, <<"ok">> := Ok} = Line) ->
    Base = #{
        'case' => binary_to_list(Case),
        carrier => binary_to_list(Label),
        round => maps:get(<<"round">>, Line),
        ok => Ok,
        proof => known(maps:get(<<"proof">>, Line)),
        wall => maps:get(<<"wall">>, Line, 0),
        why => unicode:characters_to_list(maps:get(<<"why">>, Line, <<>>))
    },
    Parts = [
        #{
            histogram => maps:get(<<"histogram">>, P, []),
            latency_us => known(maps:get(<<"latency_us">>, P))
        }
     || P <- maps:get(<<"parts">>, Line, [])
    ],
    case Ok of
        true ->
            Base#{
                external => maps:get(<<"external">>, Line),
                metrics => known(maps:get(<<"metrics">>, Line)),
                parts => Parts
            };
        false ->
            Base
    end.

%% Keys that this version does not know (a figure of another one) are left out.
known(Map) ->
    maps:from_list([
        {Key, Value}
     || {Name, Value} <- maps:to_list(Map), Key <- atom(Name), Value =/= null
    ]).

atom(Name) ->
    try
        [binary_to_existing_atom(Name)]
    catch
        error:badarg -> []
    end.

-spec to_json(map()) -> map().
to_json(#{'case' := Case, carrier := Label} = Sample) ->
    Parts = [
        maps:with([part, messages, seconds, latency_us, histogram], P)
     || P <- maps:get(parts, Sample, [])
    ],
    Sample#{
        type => cell,
        'case' := bin(Case),
        carrier := bin(Label),
        parts => Parts,
        why => bin(maps:get(why, Sample, ""))
    }.

bin(Text) -> unicode:characters_to_binary(Text).

%% The newest run in Root that was stopped before its end and had the same plan, if there is one.
%% Plan: what must be equal for cells of both to stand in one table; see pt_bench_env:plan/1.
-spec unfinished(file:filename(), Plan :: binary()) -> {ok, file:filename()} | none.
unfinished(Root, Plan) ->
    Fits = fun(Dir) ->
        case read(Dir) of
            {ok, Lines} ->
                maps:get(<<"plan">>, environment(Lines), none) =:= Plan andalso
                    not lists:any(fun(#{<<"type">> := T}) -> T =:= <<"end">> end, Lines);
            {error, _} ->
                false
        end
    end,
    case lists:filter(Fits, runs(Root)) of
        [Dir | _] -> {ok, Dir};
        [] -> none
    end.

%% Newest first.
runs(Root) ->
    Files = filelib:wildcard(filename:join([Root, "*", "results.jsonl"])),
    ByTime = lists:sort([{filelib:last_modified(F), F} || F <- Files]),
    [filename:dirname(F) || {_, F} <- lists:reverse(ByTime)].
