%% Limits of control groups, in trees made for the purpose.
-module(partisan_dist_mem_tests).

-include_lib("eunit/include/eunit.hrl").

-define(RAM, 8000000000).

%% available/2 with these files.
available(Files) ->
    Root = string:trim(os:cmd("mktemp -d")),
    try
        [begin
             Name = Root ++ File,
             ok = filelib:ensure_dir(Name),
             ok = file:write_file(Name, Text)
         end || {File, Text} <- Files],
        partisan_dist_mem:available(?RAM, Root)
    after
        ok = file:del_dir_r(Root)
    end.

version_2(Group, Files) ->
    available([{"/proc/self/cgroup", ["0::", Group, "\n"]}
               | [{"/sys/fs/cgroup" ++ Dir ++ "/memory.max", Text} || {Dir, Text} <- Files]]).

version_1(Group, Files) ->
    available([{"/proc/self/cgroup", ["9:name=systemd:/\n5:cpu,memory:", Group, "\n0::/\n"]}
               | [{"/sys/fs/cgroup/memory" ++ Dir ++ "/memory.limit_in_bytes", Text}
                  || {Dir, Text} <- Files]]).

nothing_test() ->
    ?assertEqual(?RAM, available([])),
    ?assertEqual(?RAM, version_2("/", [])),
    ?assertEqual(?RAM, version_1("/a", [])),
    ?assertEqual(?RAM, available([{"/proc/self/cgroup", <<"rubbish\n::\n0:\n\n">>}])).

version_2_test() ->
    ?assertEqual(1000000, version_2("/a/b", [{"/a/b", "1000000\n"}, {"/a", "max\n"}])),
    ?assertEqual(?RAM, version_2("/a/b", [{"/a/b", "max\n"}, {"/a", "9000000000\n"}])),
    %% of the group above; of another one
    ?assertEqual(2000000, version_2("/a/b", [{"/a/b", "3000000\n"}, {"/a", "2000000\n"}])),
    ?assertEqual(?RAM, version_2("/a/b", [{"/a/c", "1\n"}, {"/b", "1\n"}])),
    %% names with colons and bytes that are no text
    ?assertEqual(7000000, version_2("/a:b", [{"/a:b", "7000000\n"}])),
    ?assertEqual(?RAM, version_2(<<"/a", 255>>, [])).

%% A container sees its own group as the root, whatever its path.
container_test() ->
    ?assertEqual(4000000, version_2("/", [{"", "4000000\n"}])),
    ?assertEqual(4000000, version_2("/docker/0123", [{"", "4000000\n"}])),
    ?assertEqual(4000000, version_2("/../x", [{"", "4000000\n"}, {"/../x", "1\n"}])).

version_1_test() ->
    ?assertEqual(5000000, version_1("/a", [{"/a", "5000000\n"},
                                           {"", "9223372036854771712\n"}])),
    ?assertEqual(6000000, version_1("/a", [{"/a", "9223372036854771712\n"},
                                           {"", "6000000\n"}])).

both_versions_test() ->
    ?assertEqual(100, available([{"/proc/self/cgroup", "5:memory:/a\n0::/b\n"},
                                 {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "200\n"},
                                 {"/sys/fs/cgroup/unified/b/memory.max", "100\n"}])).

nonsense_test() ->
    [?assertEqual(?RAM, version_2("/", [{"", Text}])) || Text <- ["", "x", "0\n", "-5\n", "1 2\n"]].

%% What is really there.
this_machine_test() ->
    Bytes = partisan_dist_mem:available(?RAM),
    ?assert(Bytes > 0 andalso Bytes =< ?RAM).
