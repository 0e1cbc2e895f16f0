%% What riak_core_partisan_utils and unir log goes to OTP's logger: lager itself is not needed then.
-module(lager).
-export([info/1, info/2, warning/2, error/2]).

info(Format) -> info(Format, []).
info(Format, Args) -> logger:info(Format, Args).
warning(Format, Args) -> logger:warning(Format, Args).
error(Format, Args) -> logger:error(Format, Args).
