-module(partisan_view_tests).

-include_lib("eunit/include/eunit.hrl").

topology() ->
    #{node => 'a@h', manager => m, members => ['a@h', 'b"@h', 'c@h', 'd@h'],
      links => [{'a@h', 'b"@h'}, {'a@h', 'c@h'}, {'b"@h', 'c@h'}, {'b"@h', 'd@h'}, {'c@h', 'd@h'}],
      eager => ['b"@h'], lazy => ['c@h'], channels => #{}, silent => ['c@h'],
      seen => #{'a@h' => #{eager => ['b"@h'], lazy => ['c@h'],
                           links => #{'b"@h' => #{lanes => 4, bytes_out => 1000.0, bytes_in => 234.4},
                                      'c@h' => #{lanes => 2}}},
                'd@h' => #{eager => ['b"@h'], lazy => [],
                           links => #{'b"@h' => #{lanes => 3, bytes_out => 2.0e6, bytes_in => 0.0},
                                      'c@h' => #{lanes => 0, bytes_out => 0.0, bytes_in => 0.0}}}}}.

dot_test() ->
    Dot = unicode:characters_to_list(iolist_to_binary(partisan_view:dot(topology()))),
    Has = fun(Text) -> ?assertNotEqual(nomatch, string:find(Dot, Text)) end,
    Has("\"a@h\" -- \"b\\\"@h\" [penwidth=2.5, label=\"4 lanes\\n1.2 kB/s\"];"),
    Has("\"a@h\" -- \"c@h\" [style=dashed, label=\"2 lanes\"];"),
    Has("\"b\\\"@h\" -- \"c@h\";"),
    %% What another node says of its links.
    Has("\"b\\\"@h\" -- \"d@h\" [penwidth=2.5, label=\"3 lanes\\n2.0 MB/s\"];"),
    Has("\"c@h\" -- \"d@h\";"),
    Has("\"c@h\" [style=dotted];").

%% With programs of the test's own in the place of Graphviz's.
svg_test_() ->
    [fun() -> with_dot("echo 'warning: no font'; echo '<?xml version=\"1.0\"?>'; cat $2", fun() ->
          {ok, Svg} = partisan_view:svg(topology()),
          ?assertMatch(<<"<?xml version=\"1.0\"?>\ngraph partisan {", _/binary>>, Svg)
      end) end,
     fun() -> with_dot("echo 'syntax error'; exit 3", fun() ->
          ?assertEqual({error, "dot ended with 3: syntax error"}, partisan_view:svg("graph x {"))
      end) end,
     fun() -> with_dot("true", fun() ->
          ?assertEqual({error, "dot wrote no picture: "}, partisan_view:svg("graph x {}"))
      end) end,
     fun() -> with_path("/nonexistent", fun() ->
          ?assertMatch({error, "Graphviz is not installed" ++ _}, partisan_view:svg(topology()))
      end) end].

with_dot(Script, Fun) ->
    Dir = filename:join("build", "view-" ++ os:getpid() ++ "-"
                        ++ integer_to_list(erlang:unique_integer([positive]))),
    Dot = filename:absname(filename:join(Dir, "dot")),
    ok = filelib:ensure_dir(Dot),
    ok = file:write_file(Dot, ["#!/bin/sh\n", Script, "\n"]),
    ok = file:change_mode(Dot, 8#755),
    try with_path(filename:dirname(Dot) ++ ":" ++ os:getenv("PATH"), Fun)
    after file:del_dir_r(Dir)
    end.

with_path(Path, Fun) ->
    Before = os:getenv("PATH"),
    true = os:putenv("PATH", Path),
    try Fun() after os:putenv("PATH", Before) end.
