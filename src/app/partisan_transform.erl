%% The parse transform of Partisan 1 to 4, which turned `!` and self() into calls of its own. Both
%% work across nodes here, so code compiled with it stays as it is.
-module(partisan_transform).

-export([parse_transform/2]).

-spec parse_transform([erl_parse:abstract_form()], [term()]) ->
          [erl_parse:abstract_form()].
parse_transform(Forms, _Options) -> Forms.
