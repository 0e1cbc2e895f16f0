-module(partisan_view_tests).

-include_lib("eunit/include/eunit.hrl").

topology() ->
    #{node => 'a@h', manager => m, members => ['a@h', 'b"@h', 'c@h'],
      links => [{'a@h', 'b"@h'}, {'a@h', 'c@h'}, {'b"@h', 'c@h'}],
      eager => ['b"@h'], lazy => ['c@h'], channels => #{}, silent => []}.

dot_test() ->
    Dot = unicode:characters_to_list(iolist_to_binary(partisan_view:dot(topology()))),
    Has = fun(Text) -> string:find(Dot, Text) =/= nomatch end,
    ?assert(Has("\"a@h\" -- \"b\\\"@h\" [penwidth=2.5];")),
    ?assert(Has("\"a@h\" -- \"c@h\" [style=dashed];")),
    ?assert(Has("\"b\\\"@h\" -- \"c@h\";")).

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
