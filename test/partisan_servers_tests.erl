%% What a server does not know it answers, or drops: a word of another version, or of a shell, ends nobody.
-module(partisan_servers_tests).

-include_lib("eunit/include/eunit.hrl").

unknown_test_() ->
    Servers = servers(),
    ?assert(length(Servers) > 10),
    [{atom_to_list(Module), fun() -> goes_on(Module) end} || Module <- Servers].

goes_on(Module) ->
    ?assertMatch({reply, _, state}, Module:handle_call({unknown, make_ref()}, {self(), make_ref()}, state)),
    ?assertMatch({noreply, state}, Module:handle_cast({unknown, make_ref()}, state)).

servers() ->
    Beams = filelib:wildcard(filename:join(filename:dirname(code:which(partisan_relay)), "*.beam")),
    [Module || Beam <- Beams, Module <- [list_to_atom(filename:basename(Beam, ".beam"))],
               lists:member(gen_server, behaviours(Beam))].

behaviours(Beam) ->
    {ok, {_, [{attributes, Attributes}]}} = beam_lib:chunks(Beam, [attributes]),
    lists:append([Names || {Key, Names} <- Attributes, Key =:= behaviour orelse Key =:= behavior]).
