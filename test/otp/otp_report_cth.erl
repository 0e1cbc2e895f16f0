%% Common Test hook: appends the verdict of every test case to a file, one Erlang term each:
%%   {Suite, Case, ok | {failed, Reason} | {skipped, Reason}}.
%%   {Suite, done}.
%% Written at once, so that a test node that dies half-way leaves what it had; the report takes the
%% last verdict of a case, because on_tc_fail and on_tc_skip come after post_end_per_testcase.
%% `done` is what tells a suite that ran to its end from one that was cut off.
%%
%% OTP_EXCEPTIONS names a file of {Suite, Case, What, Why}: these are skipped.
-module(otp_report_cth).

-export([id/1, init/2, pre_init_per_testcase/4, post_end_per_testcase/5, on_tc_fail/4, on_tc_skip/4, post_end_per_suite/4]).

-spec id(term()) -> term().
id(File) ->
    File.

-spec init(term(), [string()]) -> {ok, file:filename(), integer()}.
%% Called after all others: ts_install_cth cannot take the skip of another hook for a configuration.
init(_Id, [File]) ->
    init(undefined, File);
init(_Id, File) ->
    {ok, File, 1000}.

pre_init_per_testcase(Suite, Case, Config, File) ->
    {ok, Listed} = case os:getenv("OTP_EXCEPTIONS") of
                       false -> {ok, []};
                       Name -> file:consult(Name)
                   end,
    case [{What, Why} || {S, C, What, Why} <- Listed, S =:= Suite, C =:= Case] of
        [] -> {Config, File};
        [Skip | _] -> {{skip, Skip}, File}
    end.

post_end_per_testcase(Suite, Case, _Config, Return, File) ->
    case Return of
        {fail, Reason} -> write(File, {Suite, Case, {failed, Reason}});
        {skip, Reason} -> write(File, {Suite, Case, {skipped, Reason}});
        _ -> write(File, {Suite, Case, ok})
    end,
    {Return, File}.

on_tc_fail(_Suite, init_per_testcase, _Reason, File) ->
    File;
on_tc_fail(Suite, Case, Reason, File) ->
    write(File, {Suite, name(Case), {failed, Reason}}),
    File.

on_tc_skip(Suite, Case, Reason, File) ->
    write(File, {Suite, name(Case), {skipped, Reason}}),
    File.

post_end_per_suite(Suite, _Config, Return, File) ->
    write(File, {Suite, done}),
    {Return, File}.

%% Cases of a group come as {Case, Group}.
name({Case, _Group}) -> Case;
name(Case) -> Case.

write(File, Term) ->
    %% 0: no line breaks, ~0p keeps pids, ports and funs as text that file:consult cannot read;
    %% hence reasons travel as strings.
    Line = io_lib:format("~0p.~n", [printable(Term)]),
    ok = file:write_file(File, unicode:characters_to_binary(Line), [append]).

printable({Suite, Case, {Verdict, Reason}}) ->
    {Suite, Case, {Verdict, lists:flatten(io_lib:format("~0tP", [Reason, 60]))}};
printable(Term) ->
    Term.
