%% Pauses between dials of nodes that do not answer: the first a given time, each further one twice
%% as long up to a limit, and all within a quarter of that, so that nodes do not dial in step. Pure.
-module(partisan_overlay_dial).

-export([new/2, pause/3, forget/2]).

-export_type([t/0]).

-record(dial, {first :: pos_integer(),
               limit :: pos_integer(),
               tries = #{} :: #{node() => pos_integer()}}).
-opaque t() :: #dial{}.

%% Both in milliseconds.
-spec new(pos_integer(), pos_integer()) -> t().
new(First, Limit) ->
    #dial{first = First, limit = Limit}.

%% The time to wait after a dial of Node failed.
-spec pause(node(), t(), rand:state()) -> {pos_integer(), t(), rand:state()}.
pause(Node, #dial{first = First, limit = Limit, tries = Tries} = Dial, Rand0) ->
    N = maps:get(Node, Tries, 0),
    {Float, Rand} = rand:uniform_s(Rand0),
    Ms = min(Limit, First bsl min(N, 20)),
    {max(1, round(Ms * (0.75 + Float / 2))), Dial#dial{tries = Tries#{Node => N + 1}}, Rand}.

%% Node answered, or is not dialled any more.
-spec forget(node(), t()) -> t().
forget(Node, #dial{tries = Tries} = Dial) ->
    Dial#dial{tries = maps:remove(Node, Tries)}.
