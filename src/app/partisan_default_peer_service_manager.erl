%% The full mesh under the name that it had up to Partisan 3, with the order of arguments of then
%% (`forward_message(Node, Channel, Dest, Message, Opts)`).
%%
%% A thin module: what all managers share is in partisan_manager.hrl, what this one is in its core.
-module(partisan_default_peer_service_manager).

-behaviour(partisan_peer_service_manager).

-export([overlay/0]).

-define(OWN_ARGUMENTS, true).
-include("partisan_manager.hrl").

%% For partisan_overlay_shell.
-spec overlay() -> partisan_overlay_shell:setup().
overlay() ->
    partisan_pluggable_peer_service_manager:overlay().

forward_message(A, B) -> partisan_send:old_forward_message(A, B).
forward_message(A, B, C) -> partisan_send:old_forward_message(A, B, C).
forward_message(A, B, C, D) -> partisan_send:old_forward_message(A, B, C, D).
forward_message(A, B, C, D, E) -> partisan_send:old_forward_message(A, B, C, D, E).
cast_message(A, B) -> partisan_send:old_cast_message(A, B).
cast_message(A, B, C) -> partisan_send:old_cast_message(A, B, C).
cast_message(A, B, C, D) -> partisan_send:old_cast_message(A, B, C, D).
cast_message(A, B, C, D, E) -> partisan_send:old_cast_message(A, B, C, D, E).
