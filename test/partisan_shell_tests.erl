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
    stop(Shell),
    ok = logger:update_handler_config(default, level, all),
    ok = logger:set_primary_config(Config).

%% Another overlay takes over. What the old core had a link with, though no neighbour any more, is closed
%% once the new one has settled; a connection that was never an overlay's is not.
switch_test() ->
    Config = logger:get_primary_config(),
    ok = logger:set_primary_config(level, error),
    {ok, Shell} = partisan_overlay_shell:start_link(?MODULE),
    [Drained, Plain] = [link_with(Node, Shell) || Node <- [?OTHER, 'plain@nowhere']],
    Manager = manager(),
    ok = partisan_overlay_shell:switch(Manager, node()),
    [?assertEqual({messages, []}, process_info(Link, messages)) || Link <- [Drained, Plain]],
    Shell ! {switch_settled, Manager},
    _ = partisan_overlay_shell:info(),
    ?assertEqual([{messages, [close]}, {messages, []}],
                 [process_info(Link, messages) || Link <- [Drained, Plain]]),
    stop(Shell),
    ok = logger:set_primary_config(Config).

%% One that the new core asks for is its own.
switch_wanted_test() ->
    Config = logger:get_primary_config(),
    ok = logger:set_primary_config(level, error),
    {ok, Shell} = partisan_overlay_shell:start_link(?MODULE),
    Link = link_with(?OTHER, Shell),
    Manager = manager(),
    ok = partisan_overlay_shell:switch(Manager, node()),
    ok = partisan_overlay_shell:leave(?OTHER), % the core connects
    Shell ! {switch_settled, Manager},
    _ = partisan_overlay_shell:info(),
    ?assertEqual({messages, []}, process_info(Link, messages)),
    stop(Shell),
    ok = logger:set_primary_config(Config).

%% The process of a link that stands; it keeps what it is told.
link_with(Node, Shell) ->
    {links, Before} = process_info(Shell, links),
    Shell ! {nodeup, Node, []},
    _ = partisan_overlay_shell:info(),
    {links, After} = process_info(Shell, links),
    [Link] = After -- Before,
    true = erlang:suspend_process(Link),
    Link.

%% Of another name, with the same core.
manager() ->
    Name = partisan_shell_tests_manager,
    Call = {call, 1, {remote, 1, {atom, 1, ?MODULE}, {atom, 1, overlay}}, []},
    {ok, Name, Beam} = compile:forms([{attribute, 1, module, Name}, {attribute, 1, export, [{overlay, 0}]},
                                      {function, 1, overlay, 0, [{clause, 1, [], [], [Call]}]}]),
    {module, Name} = code:load_binary(Name, "none", Beam),
    Name.

stop(Shell) ->
    unlink(Shell),
    Ref = monitor(process, Shell),
    exit(Shell, shutdown),
    receive {'DOWN', Ref, process, _, _} -> ok end.

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
handle({leave, Node}, _Now, Seen) ->
    {Seen, [{connect, #{name => Node}}]};
handle(Event, _Now, Seen) ->
    {[Event | Seen], []}.

info(Seen) ->
    #{members => [], neighbours => [], seen => lists:reverse(Seen), links => [{?OTHER, draining}]}.
