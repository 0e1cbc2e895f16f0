%% A gen_fsm for partisan_api_SUITE: old code that has not moved.
-module(pt_fsm).

-export([init/1, on/2, on/3, handle_event/3, handle_sync_event/4, handle_info/3, terminate/3, code_change/4]).

init([]) -> {ok, on, none}.

on(Event, _) -> {next_state, on, Event}.

on(seen, _From, Seen) -> {reply, {seen, Seen}, on, Seen};
on(deaf, _From, Seen) -> {next_state, on, Seen}.

handle_event(_, on, Seen) -> {next_state, on, Seen}.
handle_sync_event(Event, _From, on, Seen) -> {reply, {all, Event}, on, Seen}.
handle_info(_, on, Seen) -> {next_state, on, Seen}.
terminate(_, _, _) -> ok.
code_change(_, on, Seen, _) -> {ok, on, Seen}.
