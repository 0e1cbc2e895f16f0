%% Rounds of cells: fresh nodes a carrier and round, every case on all carriers one right after the
%% other, each finished cell written down at once.
-module(pt_bench_round).
-export([all/1]).

-type run() :: #{
    options := map(),
    tag := string(),
    store := pt_bench_store:store(),
    cases := [pt_bench_cases:'case'()],
    carriers := [pt_bench_carrier:carrier()],
    %% cells that an earlier, stopped part of this run has finished
    done := #{{Case :: string(), Label :: string(), Round :: pos_integer()} => map()},
    node := pt_bench_nodes:options(),
    floor := file:filename()
}.
%% What stands ready for a carrier in a round.
-type place() :: {ok, {nodes, pt_bench_nodes:pair()} | {floor, pt_bench_floor:floor()}}
    | {error, string()} | unused.

%% All samples, in the order in which they were taken.
-spec all(run()) -> [map()].
all(#{options := #{rounds := Rounds}, done := Done} = Run) ->
    %% What failed is not tried again, in a run that was taken up neither.
    Bad = maps:from_list([{{C, L}, true} || {{C, L, _}, #{ok := false}} <- maps:to_list(Done)]),
    State = #{bad => Bad, began => erlang:monotonic_time(millisecond), spent => 0},
    rounds(Run, 1, Rounds, State).

rounds(_Run, Round, Last, _State) when Round > Last ->
    [];
rounds(#{carriers := Carriers, cases := Cases} = Run, Round, Last, State) ->
    Places = maps:from_list([{L, place(Run, C, Round, State)} || #{label := L} = C <- Carriers]),
    Round =:= 1 andalso first_places(Run, Places),
    Cells = [{Case, C} || Case <- Cases, C <- order(Round, Carriers)],
    Numbered = lists:zip(lists:seq((Round - 1) * length(Cells) + 1, Round * length(Cells)), Cells),
    {Samples, {Places1, State1}} = lists:mapfoldl(
        fun({I, {Case, C}}, {P, S}) -> cell(Run, Round, I, Case, C, P, S) end,
        {Places, State},
        Numbered
    ),
    [stop(P) || P <- maps:values(Places1)],
    [S || S <- Samples, S =/= skipped] ++ rounds(Run, Round + 1, Last, State1).

%% A B, then B A: what the first cell does to the second hits both carriers equally often.
order(Round, Carriers) when Round rem 2 =:= 1 -> Carriers;
order(_Round, Carriers) -> lists:reverse(Carriers).

%% Nothing measured yet: without all carriers there is nothing to compare.
first_places(#{store := Store}, Places) ->
    case [Text || {error, Text} <- maps:values(Places)] of
        [Text | _] ->
            [stop(P) || P <- maps:values(Places)],
            throw({no_start, Text});
        [] ->
            [note_carrier(Store, L, Pair) || {L, {ok, {nodes, Pair}}} <- maps:to_list(Places)]
    end.

note_carrier(Store, Label, Pair) ->
    {Words, Said} = pt_bench_nodes:describe(Pair),
    Text = unicode:characters_to_binary(io_lib:format("~0tp", [Said])),
    Words =:= "" orelse io:format("~s: ~s~n", [Label, Words]),
    pt_bench_store:write(Store, #{
        type => carrier, carrier => unicode:characters_to_binary(Label), says => Text
    }).

%%% places

-spec place(run(), pt_bench_carrier:carrier(), pos_integer(), map()) -> place().
place(#{cases := Cases, done := Done} = Run, #{label := Label} = Carrier, Round, #{bad := Bad}) ->
    Open = [
        Name
     || #{name := Name} <- Cases,
        not is_map_key({Name, Label, Round}, Done), not is_map_key({Name, Label}, Bad)
    ],
    case is_map_key(Label, Bad) orelse Open =:= [] of
        true -> unused;
        false -> start(Run, Carrier, Round)
    end.

start(#{floor := Program, node := Node}, #{proto := floor, floor := How}, _Round) ->
    tagged(floor, pt_bench_floor:start(How, Program, Node));
start(#{tag := Tag, node := Node}, #{label := Label} = Carrier, Round) ->
    Unique = [case lists:member(C, "#-.") of true -> $_; false -> C end || C <- Label],
    Count = erlang:unique_integer([positive]),
    Name = lists:flatten(io_lib:format("~s_~s_~b_~b", [Tag, Unique, Round, Count])),
    tagged(nodes, pt_bench_nodes:start_pair(Carrier, Name, Node)).

tagged(Kind, {ok, What}) -> {ok, {Kind, What}};
tagged(_Kind, {error, _} = Error) -> Error.

stop({ok, {nodes, Pair}}) -> pt_bench_nodes:stop_pair(Pair);
stop({ok, {floor, Floor}}) -> pt_bench_floor:stop(Floor);
stop(_) -> ok.

%%% cells

cell(#{done := Done} = Run, Round, I, Case, #{label := Label} = Carrier, Places, State) ->
    #{name := Name} = Case,
    #{bad := Bad} = State,
    case Done of
        #{{Name, Label, Round} := Sample} ->
            {Sample, {Places, State}};
        #{} when is_map_key({Name, Label}, Bad); is_map_key(Label, Bad) ->
            {skipped, {Places, State}};
        #{} ->
            Began = erlang:monotonic_time(millisecond),
            case take(Run, Round, Case, Carrier, maps:get(Label, Places)) of
                none ->
                    %% The floor has no like of it, or the rival cannot do it: no cell.
                    {skipped, {Places, State#{bad := Bad#{{Name, Label} => true}}}};
                Sample0 ->
                    Ms = erlang:monotonic_time(millisecond) - Began,
                    Sample = Sample0#{wall => Ms},
                    pt_bench_store:write(maps:get(store, Run), pt_bench_store:to_json(Sample)),
                    State1 = spent(Run, Case, State),
                    io:put_chars(pt_bench_report:progress(
                        {I, total(Run), left(Run, I, State1)}, Sample, maps:get(show, Case)
                    )),
                    {Sample, after_cell(Run, Round, Name, Carrier, Sample, Places, State1)}
            end
    end.

after_cell(#{carriers := Carriers}, _Round, _Name, #{label := Label}, #{ok := true}, Places, State) ->
    case maps:get(Label, Places) of
        {ok, {nodes, Pair}} when length(Carriers) > 3 -> pt_bench_nodes:forget(Pair);
        _ -> ok
    end,
    {Places, State};
after_cell(Run, Round, Name, #{label := Label} = Carrier, #{ok := false}, Places, State) ->
    #{bad := Bad} = State,
    case maps:get(Label, Places) of
        {error, _} ->
            {Places, State#{bad := Bad#{Label => true}}};
        Broken ->
            %% Whatever went wrong, the next cell gets nodes that know nothing of it.
            stop(Broken),
            Fresh = Places#{Label := start(Run, Carrier, Round)},
            {Fresh, State#{bad := Bad#{{Name, Label} => true}}}
    end.

take(#{options := Options}, Round, #{name := Name} = Case, #{label := Label} = Carrier, Place) ->
    #{seconds := Seconds, stall := Stall, short := Short} = Options,
    Cell = pt_bench_cases:cell(Case, #{
        short => Short, seconds => Seconds, stall_ms => Stall * 1000
    }),
    Sample = #{round => Round, 'case' => Name, carrier => Label},
    Result =
        case carries(Carrier, Cell) of
            true -> run(Place, Cell);
            false -> none
        end,
    case Result of
        none -> none;
        {ok, Got} -> judge(Case, Sample, Got);
        {stalled, Words} -> failed(Sample, "not delivered: " ++ Words);
        {error, Words} -> failed(Sample, Words)
    end.

%% A rival beside the distribution carries what is sent through pt_bench_via, between two nodes; the
%% service on three where it can be started on a further one (pt_bench_rival:start_further/1). What else a
%% workload does would go over inet_tcp under the rival's name.
carries(#{via := dist}, _Cell) ->
    true;
carries(#{via := Via}, #{parts := Parts} = Cell) ->
    Known = case Cell of
        #{extras := {_, same}} when Via =/= gen_rpc, Via =/= riak_core -> [vnode, kvs];
        #{extras := _} -> [];
        #{} -> [echo, flow, pair, open]
    end,
    not is_map_key(pause, Cell) andalso
        lists:all(fun(#{kind := Kind}) -> lists:member(Kind, Known) end, Parts).

run({ok, {floor, Floor}}, Cell) ->
    pt_bench_floor:run(Floor, Cell);
run({ok, {nodes, Pair}}, Cell) ->
    case pt_bench_nodes:prepare(Pair, Cell) of
        ok -> pt_bench_nodes:run(Pair, Cell);
        Error -> Error
    end;
run({error, _} = Error, _Cell) ->
    Error.

judge(Case, Sample, #{parts := Parts, usage := #{external := External}} = Got) ->
    Proof = pt_bench_proof:merge([P || #{proof := P} <- Parts]),
    Done = maps:merge(
        Sample#{proof => Proof, external => External, parts => Parts, metrics => #{}},
        maps:with([usage, peak_kb, not_applicable], Got)
    ),
    case {Got, pt_bench_proof:is_ok(Proof)} of
        {#{not_applicable := _}, _} -> Done#{ok => true};
        {_, true} -> Done#{ok => true, metrics => metrics(Case, Got)};
        {_, false} -> Done#{ok => false, why => lists:flatten(pt_bench_proof:words(Proof))}
    end.

%% The floor holds no memory worth a line, and sends as fast as it can where others keep a rate.
metrics(#{parts := Parts} = Case, #{peak_kb := []} = Got) ->
    Open = lists:any(fun(#{kind := Kind}) -> Kind =:= open end, Parts),
    maps:without([rss_mb | [rate || Open]], pt_bench_cases:metrics(Case, Got));
metrics(Case, Got) -> pt_bench_cases:metrics(Case, Got).

failed(Sample, Why) ->
    Sample#{ok => false, why => Why, proof => pt_bench_proof:unfinished()}.

%%% time left: what cells took so far, by what they were meant to take

total(#{options := #{rounds := Rounds}, cases := Cases, carriers := Carriers}) ->
    Rounds * length(Cases) * length(Carriers).

spent(_Run, Case, #{spent := Spent} = State) -> State#{spent := Spent + weight(Case)}.

%% Beside its own time a cell takes some second for warm-up, payloads and the report.
weight(#{ms := Ms}) -> Ms + 1000.

left(#{cases := Cases, carriers := Carriers, options := Options, done := Done}, I, State) ->
    #{rounds := Rounds} = Options,
    #{began := Began, spent := Spent} = State,
    PerCell = lists:sum([weight(C) || C <- Cases]) / length(Cases),
    InRound = length(Cases) * length(Carriers),
    Ahead = length([x || {_, _, R} <- maps:keys(Done), R > (I - 1) div InRound + 1]),
    Left = (Rounds * InRound - I - Ahead) * PerCell,
    round((erlang:monotonic_time(millisecond) - Began) / max(Spent, 1) * max(0, Left) / 1000).
