%% A gen_statem for partisan_api_SUITE, written as one of Partisan's.
-module(pt_statem).
-behaviour(partisan_gen_statem).

-export([init/1, callback_mode/0, on/3]).

init([]) -> {ok, on, none}.

callback_mode() -> state_functions.

on({call, From}, Request, _) ->
    ok = partisan_gen_statem:reply(From, {on, Request}),
    keep_state_and_data;
on(cast, {tell, Pid, What}, _) ->
    Pid ! What,
    keep_state_and_data.
