%% A picture of the cluster: partisan_topology as a graph in Graphviz's language, and that as SVG.
-module(partisan_view).

-export([dot/1, svg/1]).

%% This node is filled. Links of its broadcast tree are bold, links that its messages do not take dashed, and
%% those that nobody spoke of plain. Beside a link: its lanes, and the traffic both ways.
-spec dot(partisan_topology:t()) -> iolist().
dot(#{node := Own, members := Members, links := Links, silent := Silent} = Topology) ->
    Seen = maps:get(seen, Topology, #{}),
    ["graph partisan {\n"
     "  layout=", layout(Members), "; overlap=false; splines=true;\n"
     "  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=10];\n"
     "  edge [fontname=\"sans-serif\", fontsize=8];\n",
     [["  ", quoted(N), node_style(N, Own, Silent), ";\n"] || N <- Members],
     [["  ", quoted(A), " -- ", quoted(B), attributes(tree_style(A, B, Seen) ++ label(A, B, Seen)), ";\n"]
      || {A, B} <- Links],
     "}\n"].

%% Springs do for a few, and take minutes for a thousand.
layout(Members) when length(Members) =< 60 -> "neato";
layout(_) -> "sfdp".

node_style(Own, Own, _) ->
    " [style=\"rounded,filled\", fillcolor=lightblue]";
node_style(N, _, Silent) ->
    case lists:member(N, Silent) of
        true -> " [style=dotted]";
        false -> ""
    end.

attributes([]) -> "";
attributes(List) -> [" [", lists:join(", ", List), "]"].

%% A tree's link is eager on both sides; while the tree changes one may say so and the other not yet.
tree_style(A, B, Seen) ->
    Says = fun(Which) ->
                   lists:any(fun({X, Y}) ->
                                     lists:member(Y, maps:get(Which, maps:get(X, Seen, #{}), []))
                             end, [{A, B}, {B, A}])
           end,
    case {Says(lazy), Says(eager)} of
        {true, _} -> ["style=dashed"];
        {false, true} -> ["penwidth=2.5"];
        {false, false} -> []
    end.

%% One end is enough: what it sends the other one receives.
label(A, B, Seen) ->
    Uses = [Use || {X, Y} <- [{A, B}, {B, A}],
                   Use <- [maps:get(Y, maps:get(links, maps:get(X, Seen, #{}), #{}), none)], is_map(Use)],
    case Uses of
        [#{lanes := Lanes, bytes_out := Out, bytes_in := In} | _] when Lanes > 0 ->
            [io_lib:format("label=\"~b lanes\\n~ts\"", [Lanes, rate(Out + In)])];
        [#{lanes := Lanes} | _] when Lanes > 0 ->
            [io_lib:format("label=\"~b lanes\"", [Lanes])];
        _ ->
            []
    end.

rate(Bytes) when Bytes < 1000 -> io_lib:format("~b B/s", [round(Bytes)]);
rate(Bytes) when Bytes < 1.0e6 -> io_lib:format("~.1f kB/s", [Bytes / 1000]);
rate(Bytes) -> io_lib:format("~.1f MB/s", [Bytes / 1.0e6]).

quoted(Node) ->
    Text = atom_to_binary(Node),
    [$", [[$\\ || C =:= $" orelse C =:= $\\] ++ [C] || <<C>> <= Text], $"].

%% By Graphviz's `dot`. A topology, or text in its language. The error is a line to be shown.
-spec svg(partisan_topology:t() | iodata()) -> {ok, binary()} | {error, string()}.
svg(#{} = Topology) ->
    svg(dot(Topology));
svg(Dot) ->
    case os:find_executable("dot") of
        false ->
            {error, "Graphviz is not installed: no program `dot` in PATH (Debian package: graphviz)"};
        Program ->
            run(Program, Dot)
    end.

%% A port has no way to end a program's input alone, hence the file.
run(Program, Dot) ->
    Name = io_lib:format("partisan-view-~ts-~b.dot", [os:getpid(), erlang:unique_integer([positive])]),
    File = filename:join(os:getenv("TMPDIR", "/tmp"), lists:flatten(Name)),
    case file:write_file(File, Dot, [exclusive]) of
        ok ->
            try
                Port = open_port({spawn_executable, Program},
                                 [{args, ["-Tsvg", File]}, binary, exit_status, stderr_to_stdout, hide]),
                output(Port, [])
            after
                _ = file:delete(File)
            end;
        {error, Reason} ->
            {error, lists:flatten(io_lib:format("~ts: ~ts", [File, file:format_error(Reason)]))}
    end.

output(Port, Out) ->
    receive
        {Port, {data, Data}} ->
            output(Port, [Out, Data]);
        {Port, {exit_status, 0}} ->
            %% Graphviz may warn about fonts before the picture.
            All = iolist_to_binary(Out),
            case binary:match(All, <<"<?xml">>) of
                {At, _} -> {ok, binary:part(All, At, byte_size(All) - At)};
                nomatch -> {error, "dot wrote no picture: " ++ text(All)}
            end;
        {Port, {exit_status, Status}} ->
            {error, lists:flatten(io_lib:format("dot ended with ~b: ~ts",
                                                [Status, text(iolist_to_binary(Out))]))}
    end.

text(Bytes) ->
    string:trim(binary_to_list(Bytes)).
