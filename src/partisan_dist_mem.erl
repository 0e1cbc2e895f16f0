%% The memory that this node may use: the machine's, or less if a control group of Linux says so.
-module(partisan_dist_mem).

-export([available/1, available/2]).

%% Bytes, at most Ram.
-spec available(pos_integer()) -> pos_integer().
available(Ram) ->
    available(Ram, "").

%% The same, with the files that lie in /proc and /sys looked for below Root.
%%
%% A limit of any group on the path from the process's up to the root holds. In a container the path may
%% be the host's, of which only the container's own part is mounted, as the root: what is not there is
%% no limit, and the root is always looked at.
-spec available(pos_integer(), file:name_all()) -> pos_integer().
available(Ram, Root) ->
    lists:min([Ram | limits(Root)]).

limits(Root) ->
    Lines = binary:split(read([Root, "/proc/self/cgroup"]), <<"\n">>, [global, trim_all]),
    [Limit || Line <- Lines,
              {Mounts, Path, File} <- group(binary:split(Line, <<":">>, [global])),
              Mount <- Mounts,
              Dir <- upwards(Path),
              Limit <- number(read([Root, "/sys/fs/cgroup", Mount, Dir, "/", File]))].

%% Version 2 has one hierarchy, with the number 0 and no names of controllers; it is mounted below
%% `unified' where version 1 is in use, too. A path may contain colons.
group([<<"0">>, <<>> | Path]) ->
    [{["", "/unified"], join(Path), "memory.max"}];
group([_Number, Controllers | Path]) ->
    [{["/memory"], join(Path), "memory.limit_in_bytes"}
     || lists:member(<<"memory">>, binary:split(Controllers, <<",">>, [global]))];
group(_) ->
    [].

join(Path) ->
    iolist_to_binary(lists:join(":", Path)).

%% The group's directory and those above it, "" for the root. A namespace shows groups outside of it
%% with `..': nothing of them is mounted.
upwards(Path) ->
    Names = binary:split(Path, <<"/">>, [global, trim_all]),
    case lists:member(<<"..">>, Names) of
        true -> [""];
        false -> [[["/", Name] || Name <- lists:sublist(Names, N)]
                  || N <- lists:seq(length(Names), 0, -1)]
    end.

%% "max" is no limit, and so is what makes no sense. Version 1 says 2^63 less a page.
number(Text) ->
    try binary_to_integer(string:trim(Text)) of
        Bytes when Bytes > 0 -> [Bytes];
        _ -> []
    catch
        error:badarg -> []
    end.

%% Not with file:read_file/1: the file server may not have been started yet.
read([Root | Below]) ->
    case prim_file:read_file(iolist_to_binary([unicode:characters_to_binary(Root) | Below])) of
        {ok, Bytes} -> Bytes;
        {error, _} -> <<>>
    end.
