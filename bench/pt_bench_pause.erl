%% A lane that stands still in the middle of a cell: the carrier's test hook makes it send nothing,
%% as if its TCP connection had stalled, and lets it go on before the cell ends, so that all arrives.
-module(pt_bench_pause).
-export([prepare/2, start/2, finish/1]).

%% From the start of the cell to the pause, and from its end to that of the cell.
-define(MARGIN_MS, 400).

-type pause() :: none | {port(), Lane :: non_neg_integer()}.

%% Throws {not_applicable, Words} on a carrier that has no such lane.
-spec prepare(pt_bench_work:cell(), node()) -> pause().
prepare(#{pause := Lane}, Node) ->
    Port = proplists:get_value(Node, erlang:system_info(dist_ctrl)),
    case is_port(Port) andalso erlang:port_info(Port, name) of
        {name, "partisan" ++ _} ->
            case lanes(Node) of
                N when N > Lane -> {Port, Lane};
                N -> throw({not_applicable, text("n/a: ~b lane, and lane ~b is to stall", [N, Lane])})
            end;
        _ ->
            throw({not_applicable, "n/a: one connection a peer, no lanes"})
    end;
prepare(#{}, _Node) ->
    none.

lanes(Node) ->
    #{lanes := Lanes} = partisan_dist:info(Node),
    length(Lanes).

%% Pauses and resumes during the next Ms milliseconds.
-spec start(pause(), pos_integer()) -> none | {pid(), reference()}.
start(none, _Ms) ->
    none;
start({Port, Lane}, Ms) ->
    Margin = min(?MARGIN_MS, Ms div 4),
    spawn_monitor(fun() ->
        timer:sleep(Margin),
        ok = partisan_drv:test(Port, pause_send, Lane, 0),
        timer:sleep(Ms - 2 * Margin),
        ok = partisan_drv:test(Port, resume_send, Lane, 0)
    end).

-spec finish(none | {pid(), reference()}) -> ok.
finish(none) ->
    ok;
finish({_Pid, Mon}) ->
    receive
        {'DOWN', Mon, process, _, normal} -> ok;
        {'DOWN', Mon, process, _, Why} -> error({pause, Why})
    end.

text(Format, Args) -> lists:flatten(io_lib:format(Format, Args)).
