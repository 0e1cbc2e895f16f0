%% What a node costs as the cluster grows: the table and the plot of runs of pt_many, which are in a file
%% of figures. Runs that are in it already are not run again, so it may be done in several goes.
-module(pt_many_grow).

-export([main/1, missing/2, table/1, script/0]).

-define(OVERLAYS, [hyparview, star, inet_tcp]).
-define(SIZES, [16, 32, 64, 128]).
-define(FILE_NAME, "figures.eterm").

-type figures() :: #{{atom(), pos_integer()} => #{atom() => number()}}.

%% pt_many_grow:main(["missing", Dir | Sizes]) says what is to be run; ["draw", Dir] makes growth.md,
%% growth.svg and growth.png of what was.
-spec main([string()]) -> no_return().
main(["missing", Dir | Words]) ->
    Sizes = case [list_to_integer(W) || W <- Words] of [] -> ?SIZES; Given -> Given end,
    [io:format("~b ~s~n", [N, Overlay]) || {Overlay, N} <- missing(Sizes, read(Dir))],
    halt(0);
main(["draw", Dir]) ->
    case read(Dir) of
        Figures when map_size(Figures) =:= 0 ->
            io:format("growth: nothing was run yet~n"),
            halt(1);
        Figures ->
            Table = table(Figures),
            ok = file:write_file(filename:join(Dir, "growth.md"), Table),
            io:put_chars(Table),
            draw(Dir, Figures),
            halt(0)
    end.

%% A later run of the same counts.
-spec read(file:filename()) -> figures().
read(Dir) ->
    case file:consult(filename:join(Dir, ?FILE_NAME)) of
        {ok, Lines} -> maps:from_list([{{Overlay, N}, Figures} || {Overlay, N, Figures} <- Lines]);
        {error, enoent} -> #{};
        {error, Why} -> error({Dir, ?FILE_NAME, file:format_error(Why)})
    end.

-spec missing([pos_integer()], figures()) -> [{atom(), pos_integer()}].
missing(Sizes, Figures) ->
    [{Overlay, N} || N <- Sizes, Overlay <- ?OVERLAYS, not is_map_key({Overlay, N}, Figures)].

what() ->
    [{connections, "TCP connections a node", 1}, {descriptors, "descriptors a node", 0},
     {mb, "memory a node, MB", 1}, {idle_kb_s, "idle traffic a node, kB/s", 2},
     {ads_kb_s, "advertisement counter, a node, kB/s", 1}, {together_s, "started and together after, s", 0}].

words(hyparview) -> "carrier, HyParView";
words(star) -> "carrier, client-server";
words(inet_tcp) -> "inet_tcp, full mesh".

-spec table(figures()) -> iolist().
table(Figures) ->
    Runs = lists:usort(maps:keys(Figures)),
    Sizes = lists:usort([N || {_, N} <- Runs]),
    [["| nodes | |", [io_lib:format(" ~b |", [N]) || N <- Sizes], "\n|---|---|", ["---|" || _ <- Sizes], "\n"],
     [["| ", Words, " | ", words(Overlay), " |",
       [case Figures of
            #{{Overlay, N} := #{Key := Value}} -> [" ", said(Value, Digits), " |"];
            #{} -> " |"
        end || N <- Sizes], "\n"]
      || {Key, Words, Digits} <- what(), Overlay <- ?OVERLAYS]].

said(Value, 0) -> integer_to_list(round(Value));
said(Value, Digits) -> io_lib:format("~.*f", [Digits, Value * 1.0]).

%% A data file for each kind of cluster, a line for each size, `-` for what was not measured.
data(Overlay, Figures) ->
    [[integer_to_list(N), [case F of
                               #{Key := Value} -> io_lib:format("\t~.3f", [Value * 1.0]);
                               #{} -> "\t-"
                           end || {Key, _, _} <- what()], "\n"]
     || {{Name, N}, F} <- lists:sort(maps:to_list(Figures)), Name =:= Overlay].

draw(Dir, Figures) ->
    [ok = file:write_file(filename:join(Dir, [atom_to_list(O), ".tsv"]), data(O, Figures)) || O <- ?OVERLAYS],
    ok = file:write_file(filename:join(Dir, "growth.gp"), script()),
    case os:find_executable("gnuplot") of
        false ->
            io:format("No plot: gnuplot is not installed (package gnuplot-nox)~n");
        Gnuplot ->
            Said = os:cmd(lists:concat(["cd '", Dir, "' && '", Gnuplot, "' growth.gp >gnuplot.log 2>&1; echo $?"])),
            case string:trim(Said) of
                "0" -> io:format("Plot: ~ts/growth.svg, ~ts/growth.png~n", [Dir, Dir]);
                _ -> io:format("No plot: gnuplot failed, see ~ts/gnuplot.log~n", [Dir])
            end
    end.

%% Both axes double, so that what grows with the nodes is a straight line.
-spec script() -> iolist().
script() ->
    Shown = [{I, Words} || {I, {Key, Words, _}} <- lists:enumerate(what()),
                           lists:member(Key, [connections, mb, idle_kb_s, ads_kb_s])],
    [[["reset\n", Terminal, "\nset output 'growth", Suffix, "'\n",
       "set datafile missing '-'\nset logscale xy 2\nset xlabel 'nodes'\nset key below noenhanced\nset grid\n"
       "set multiplot layout 2,2\n",
       [io_lib:format("set title '~s'\nplot ~s~n",
                      [Words, lists:join(", ", [io_lib:format("'~s.tsv' using 1:~b with linespoints title '~s'",
                                                              [O, I + 1, words(O)]) || O <- ?OVERLAYS])])
        || {I, Words} <- Shown],
       "unset multiplot\nunset output\n\n"]
      || {Terminal, Suffix} <- [{"set terminal svg size 1100,800 dynamic background rgb 'white'", ".svg"},
                                {"set terminal pngcairo size 1100,800 background rgb 'white'", ".png"}]]].
