%% The overlay's shell, with a core of the test's own.
-module(partisan_shell_tests).

-include_lib("eunit/include/eunit.hrl").

-export([overlay/0, init/4, handle/3, info/1, log/2]).

-define(OTHER, 'other@nowhere').

%% A neighbour that takes nothing: its connection is closed, and one line says so.
overrun_test() ->
    Config = logger:get_primary_config(),
    ok = logger:set_primary_config(level, warning),
    ok = logger:update_handler_config(default, level, none),
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => #{to => self()}}),
    {ok, Shell} = partisan_overlay_shell:start_link(?MODULE),
    {links, Before} = process_info(Shell, links),
    Shell ! {nodeup, ?OTHER, []},
    _ = partisan_overlay_shell:info(),
    {links, After} = process_info(Shell, links),
    [Link] = After -- Before,
    true = erlang:suspend_process(Link),
    ok = partisan_overlay_shell:join(#{name => ?OTHER}), % the core sends more than a link takes
    ?assertNot(is_process_alive(Link)),
    %% and the end of the connection is told as ever
    Shell ! {nodedown, ?OTHER, []},
    ?assertEqual([{up, ?OTHER}, {down, ?OTHER, connection_closed}],
                 maps:get(seen, partisan_overlay_shell:info())),
    ok = logger:remove_handler(?MODULE),
    ?assertEqual(1, lines(0)),
    unlink(Shell),
    Ref = monitor(process, Shell),
    exit(Shell, shutdown),
    receive {'DOWN', Ref, process, _, _} -> ok end,
    ok = logger:update_handler_config(default, level, all),
    ok = logger:set_primary_config(Config).

lines(N) ->
    receive
        {line, warning} -> lines(N + 1)
    after 0 -> N
    end.

log(#{level := Level}, #{config := #{to := Pid}}) ->
    Pid ! {line, Level}.

%% As a manager and a core.
overlay() -> #{core => ?MODULE, links => visible, config => #{}}.

init(_Self, _Config, _Now, _Rand) -> {[], []}.

handle({join, #{name := Node}}, _Now, Seen) ->
    {Seen, [{send, Node, hello} || _ <- lists:seq(1, 10100)]};
handle(Event, _Now, Seen) ->
    {[Event | Seen], []}.

info(Seen) -> #{members => [], neighbours => [], seen => lists:reverse(Seen)}.
