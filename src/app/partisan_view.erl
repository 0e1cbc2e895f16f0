%% A picture of the cluster: partisan_topology as a graph in Graphviz's language, and that as SVG.
-module(partisan_view).

-export([dot/1, svg/1]).

%% This node is filled; its eager links are bold, its lazy ones dashed.
-spec dot(partisan_topology:t()) -> iolist().
dot(#{node := Own, members := Members, links := Links, eager := Eager, lazy := Lazy,
      silent := Silent}) ->
    ["graph partisan {\n"
     "  layout=", layout(Members), "; overlap=false; splines=true;\n"
     "  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=10];\n",
     [["  ", quoted(N), node_style(N, Own, Silent), ";\n"] || N <- Members],
     [["  ", quoted(A), " -- ", quoted(B), link_style(A, B, Own, Eager, Lazy), ";\n"]
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

link_style(A, B, Own, Eager, Lazy) when A =:= Own; B =:= Own ->
    Other = case A of
                Own -> B;
                _ -> A
            end,
    case {lists:member(Other, Eager), lists:member(Other, Lazy)} of
        {true, _} -> " [penwidth=2.5]";
        {false, true} -> " [style=dashed]";
        {false, false} -> ""
    end;
link_style(_, _, _, _, _) ->
    "".

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
