%% What a run ran on: the environment block of its results.
-module(pt_bench_env).
-export([describe/1, plan/1, root/0]).

-define(SYSCTLS, [
    "net.core.rmem_max", "net.core.wmem_max", "net.core.default_qdisc", "net.core.busy_poll",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_mtu_probing",
    "kernel.perf_event_paranoid", "kernel.io_uring_disabled", "vm.overcommit_memory"
]).

%% Carriers: those of the run; Options: of pt_bench_opts.
-spec describe(#{options := map(), carriers := [map()], atom() => term()}) -> map().
describe(#{options := Options, carriers := Carriers} = Run) ->
    #{
        time => bin(calendar:system_time_to_rfc3339(erlang:system_time(second))),
        kernel => pt_bench_proc:kernel(),
        cpu => pt_bench_proc:cpu_model(),
        cores => erlang:system_info(logical_processors_available),
        memory_mb => pt_bench_proc:memory_mb(),
        otp => otp_version(),
        jit => atom_to_binary(erlang:system_info(emu_flavor)),
        liburing => command("pkg-config --modversion liburing 2>/dev/null"),
        openssl => command("openssl version 2>/dev/null"),
        commit => command(
            "git -C '" ++ root() ++ "' describe --always --dirty --abbrev=12 2>/dev/null"
        ),
        built => built(maps:get(ebin, maps:get(node, Run))),
        load => pt_bench_proc:load(),
        sysctls => maps:from_list([{bin(Name), V} || Name <- ?SYSCTLS, V <- sysctl(Name)]),
        schedulers =>
            case Options of
                #{pinned := true} -> <<"1 a VM, pinned">>;
                #{} -> <<"default">>
            end,
        rounds => maps:get(rounds, Options),
        hosts => hosts(maps:get(node, Run)),
        carriers => [
            #{name => bin(L), nodes => bin(nodes_arguments(C))}
         || #{label := L} = C <- Carriers
        ],
        erl_args => [bin(A) || A <- maps:get(erl, Options)],
        plan => plan(Run)
    }.

hosts(#{hosts := {A, B}, wraps := {WrapA, WrapB}}) ->
    [bin(string:trim([lists:join(" ", W), " ", H])) || {W, H} <- [{WrapA, A}, {WrapB, B}]].

nodes_arguments(#{proto := floor, floor := How}) ->
    ["C program, ", lists:join(" and ", [atom_to_list(H) || H <- How])];
nodes_arguments(#{proto := Proto, via := Via, args := Args}) ->
    Sends = [["sends by ", via_words(Via)] || Via =/= dist],
    lists:join(" ", ["-proto_dist", Proto | Args] ++ Sends).

via_words({How, _Channel}) -> atom_to_list(How);
via_words(Via) -> atom_to_list(Via).

%% What must be equal for the cells of two runs to stand in one table: options, cases, carriers and
%% what was built.
-spec plan(map()) -> binary().
plan(#{options := Options, cases := Cases, carriers := Carriers, node := Node}) ->
    Data = {
        maps:without([out, resume], Options),
        [maps:get(name, C) || C <- Cases],
        [maps:without([paths], C) || C <- Carriers],
        maps:without([dir], Node),
        built(maps:get(ebin, Node))
    },
    hash(term_to_binary(Data)).

%% The carrier's own files, as they are now.
built(Ebin) ->
    Files = filelib:wildcard(filename:join(Ebin, "*.beam")) ++
        filelib:wildcard(filename:join([Ebin, "..", "priv", "*.so"])),
    hash([begin {ok, Bytes} = file:read_file(F), erlang:md5(Bytes) end || F <- lists:sort(Files)]).

hash(Data) -> binary:part(binary:encode_hex(erlang:md5(Data)), 0, 16).

sysctl(Name) ->
    File = "/proc/sys/" ++ [case C of $. -> $/; _ -> C end || C <- Name],
    case file:read_file(File) of
        {ok, Value} -> [string:trim(re:replace(Value, "\\s+", " ", [global, {return, binary}]))];
        {error, _} -> []
    end.

otp_version() ->
    Release = erlang:system_info(otp_release),
    case file:read_file(filename:join([code:root_dir(), "releases", Release, "OTP_VERSION"])) of
        {ok, Version} -> string:trim(Version);
        {error, _} -> bin(Release)
    end.

command(Line) -> bin(string:trim(os:cmd(Line))).

%% The project.
-spec root() -> file:filename().
root() -> filename:absname(filename:join([filename:dirname(code:which(?MODULE)), "..", ".."])).

bin(Text) -> unicode:characters_to_binary(Text).
