%% Code that is replaced twice under processes that live long and have nothing to do meanwhile: whoever is
%% in the code of before the last is killed, and takes along what it is linked to.
-module(partisan_upgrade_tests).

-include_lib("eunit/include/eunit.hrl").

lives_test_() ->
    [{atom_to_list(Module), {timeout, 60, fun() -> survives(Module, Start) end}}
     || {Module, Start} <- [{partisan_overlay_link,
                             fun() ->
                                     Link = partisan_overlay_link:start(#{name => 'nobody@127.0.0.1'}, up, visible,
                                                                        nobody),
                                     {partisan_overlay_link:pid(Link), fun() -> partisan_overlay_link:stop(Link) end}
                             end},
                            {partisan_plumtree_link,
                             fun() ->
                                     Link = partisan_plumtree_link:start('nobody@127.0.0.1'),
                                     {links, [Pid]} = process_info(self(), links),
                                     {Pid, fun() -> partisan_plumtree_link:stop(Link) end}
                             end},
                            {partisan_peer_watch,
                             fun() ->
                                     Pid = spawn_link(partisan_peer_watch, caller, [fun() -> ok end]),
                                     {Pid, fun() -> unlink(Pid), exit(Pid, kill) end}
                             end}]].

survives(Module, Start) ->
    {Owner, Ref} = spawn_monitor(fun() -> run(Module, Start) end),
    receive {'DOWN', Ref, process, Owner, Reason} -> ?assertEqual(normal, Reason) end.

run(Module, Start) ->
    {Pid, Stop} = Start(),
    [begin
         wait(fun() -> not erlang:check_process_code(Pid, Module, []) andalso at_rest(Pid) end),
         _ = code:purge(Module),
         {module, Module} = code:load_file(Module)
     end || _ <- [1, 2, 3]],
    ?assert(is_process_alive(Pid)),
    Stop().

at_rest(Pid) ->
    process_info(Pid, current_function) =:= {current_function, {erlang, hibernate, 3}}
        andalso process_info(Pid, message_queue_len) =:= {message_queue_len, 0}.

wait(Until) -> wait(Until, erlang:monotonic_time(millisecond) + 30000).

wait(Until, Deadline) ->
    case Until() of
        true -> ok;
        false ->
            ?assert(erlang:monotonic_time(millisecond) < Deadline),
            receive after 10 -> wait(Until, Deadline) end
    end.
