%% The state of partisan_hyparview, for the modules that it is made of and nobody else.

-type spec() :: partisan_overlay:spec().
-type view() :: [{node(), spec()}].              %% sorted: the order must not depend on the VM
-type priority() :: join | high | low | apart.

-record(link, {state :: requested | active | draining | closing,
               spec :: spec(),
               priority = low :: priority(),
               instead = none :: none | node()}).          %% the neighbour it is to replace

-record(hpv, {self :: spec(),
              name :: node(),
              opt :: #{atom() => term()},
              rand :: rand:state(),
              phase = member :: member | leaving | left,
              links = [] :: [{node(), #link{}}],
              passive = [] :: view(),
              lost = [] :: [{node(), {spec(), partisan_overlay:now_ms()}}],
              joining = [] :: view(),            %% asked for by the user, not yet accepted
              told = [] :: [node()],             %% of these it was said that they do not answer
              contacts = [] :: [spec()],         %% asked for by the user, newest first
              remembered :: partisan_hyparview_remembered:remembered(),
              refused = [] :: [node()],          %% said no since the last promotion tick
              shuffled = [] :: [node()],         %% what the last shuffle offered: first to go
              reserved = [] :: [term()],
              group :: partisan_hyparview_group:group(),
              latency = #{} :: #{node() => non_neg_integer()},   %% us; of neighbours
              exchange = none :: none
                               | {candidate, spec()}             %% i: being measured
                               | {asked, D :: node(), I :: node(), spec()}   %% c
                               | {asked_for, C :: node(), O :: spec(), I :: node()},   %% d
              joined = none :: none | partisan_overlay:now_ms(),   %% by the user, when it was alone
              now = 0 :: partisan_overlay:now_ms(),
              out = [] :: [partisan_overlay:effect()]}).

-type hpv() :: #hpv{}.
