%% What the kernel says about processes and the machine: CPU time, resident memory, other load.
%% Linux only; reads /proc.
-module(pt_bench_proc).
-export([snapshot/1, usage/2, reset_peak/1, peak_kb/1, alive/1]).
-export([load/0, kernel/0, cpu_model/0, memory_mb/0]).
-export_type([snapshot/0, os_pid/0]).

-type os_pid() :: string().
-type snapshot() :: #{
    at := integer(),
    ours := [non_neg_integer()],
    machine := non_neg_integer(),
    steal := non_neg_integer()
}.

%% Linux reports times to user space in 1/100 s (USER_HZ) on every architecture Erlang runs on.
-define(HZ, 100).

%% CPU ticks used so far by the processes and by the whole machine.
-spec snapshot([os_pid()]) -> snapshot().
snapshot(OsPids) ->
    {Busy, Steal} = machine(),
    #{
        at => erlang:monotonic_time(),
        ours => [process_ticks(P) || P <- OsPids],
        machine => Busy,
        steal => Steal
    }.

%% CPU seconds of the processes between two snapshots, and how many CPUs' worth others burnt
%% meanwhile (the steal of a hypervisor included).
-spec usage(snapshot(), snapshot()) ->
    #{cpu := [float()], seconds := float(), external := float()}.
usage(Before, After) ->
    #{ours := O0, machine := M0, steal := S0, at := T0} = Before,
    #{ours := O1, machine := M1, steal := S1, at := T1} = After,
    Cpu = [(B - A) / ?HZ || {A, B} <- lists:zip(O0, O1)],
    Seconds = erlang:convert_time_unit(T1 - T0, native, nanosecond) / 1.0e9,
    Others = ((M1 - M0) + (S1 - S0)) / ?HZ - lists:sum(Cpu),
    #{cpu => Cpu, seconds => Seconds, external => max(0.0, Others / max(Seconds, 0.01))}.

%% proc(5): after the command in brackets (which may hold blanks) come state and numbers; utime and
%% stime are fields 14 and 15.
process_ticks(OsPid) ->
    {ok, Stat} = file:read_file("/proc/" ++ OsPid ++ "/stat"),
    [_, Rest] = string:split(Stat, ")", trailing),
    Fields = string:lexemes(Rest, " \n"),
    binary_to_integer(lists:nth(12, Fields)) + binary_to_integer(lists:nth(13, Fields)).

%% user, nice and system. Interrupt time is left out: on loopback it is mostly our own traffic.
machine() ->
    {ok, Stat} = file:read_file("/proc/stat"),
    [Line | _] = string:split(Stat, "\n"),
    [<<"cpu">> | Fields] = string:lexemes(Line, " "),
    Numbers = [binary_to_integer(F) || F <- Fields],
    Steal = case length(Numbers) >= 8 of true -> lists:nth(8, Numbers); false -> 0 end,
    {lists:sum(lists:sublist(Numbers, 3)), Steal}.

%% Forget the highest resident size so far (needs CONFIG_PROC_PAGE_MONITOR; without it the peak is
%% that of the process's life, for every carrier alike).
-spec reset_peak(os_pid()) -> ok | {error, term()}.
reset_peak(OsPid) ->
    file:write_file("/proc/" ++ OsPid ++ "/clear_refs", "5").

-spec peak_kb(os_pid()) -> non_neg_integer().
peak_kb(OsPid) ->
    {ok, Status} = file:read_file("/proc/" ++ OsPid ++ "/status"),
    {match, [Kb]} = re:run(Status, "VmHWM:\\s*([0-9]+) kB", [{capture, all_but_first, binary}]),
    binary_to_integer(Kb).

-spec alive(os_pid()) -> boolean().
alive(OsPid) -> filelib:is_dir("/proc/" ++ OsPid).

-spec load() -> binary().
load() ->
    {ok, Text} = file:read_file("/proc/loadavg"),
    iolist_to_binary(lists:join(" ", lists:sublist(string:lexemes(Text, " "), 3))).

-spec kernel() -> binary().
kernel() ->
    {ok, Text} = file:read_file("/proc/sys/kernel/osrelease"),
    string:trim(Text).

-spec memory_mb() -> pos_integer().
memory_mb() ->
    {ok, Text} = file:read_file("/proc/meminfo"),
    {match, [Kb]} = re:run(Text, "MemTotal:\\s*([0-9]+) kB", [{capture, all_but_first, binary}]),
    binary_to_integer(Kb) div 1024.

-spec cpu_model() -> binary().
cpu_model() ->
    {ok, Text} = file:read_file("/proc/cpuinfo"),
    case re:run(Text, "model name\\s*: (.*)", [{capture, all_but_first, binary}]) of
        {match, [Model]} -> Model;
        nomatch -> <<"unknown">>
    end.
