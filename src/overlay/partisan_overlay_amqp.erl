%% Membership by publish-subscribe: the core behind partisan_amqp_peer_service_manager.
%%
%% There are no links. Every node publishes a heartbeat on a fanout exchange, and all that subscribe to it
%% hear all others: the members are those that were heard. One that is silent for `down_after` is no
%% neighbour any more (on_down), but stays a member until `forget_after`.
%%
%% The shell does not know brokers, so what is heard and what is to be said comes and goes as questions:
%%   {call, Tag, {heard, Term}}  answered by ok, or malformed: by whom is not known
%%   {call, Tag, beat}           answered by {publish, [Term]}: what to publish now. To be asked each
%%                               `heartbeat_interval` while the broker takes anything, and after a
%%                               join or leave.
%% The terms: {here, Spec, Incarnation}; {bye, Node, Incarnation}, by itself; {out, Node, Incarnation},
%% by another node; {in, Node}, an invitation to one that left.
%%
%% An incarnation grows with each start and each return, so that a heartbeat of before a bye, however
%% late, brings nobody back.
%%
%% Options: incarnation, heartbeat_interval, down_after, forget_after (ms).
-module(partisan_overlay_amqp).

-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-record(member, {spec :: partisan_overlay:spec(),
                 inc :: integer(),
                 heard :: partisan_overlay:now_ms(),
                 up = true :: boolean()}).

-record(st, {self :: partisan_overlay:spec(),
             inc :: integer(),
             interval :: pos_integer(),
             down_after :: pos_integer(),
             forget_after :: pos_integer(),
             in = true :: boolean(),
             members = #{} :: #{node() => #member{}},           % without the own node
             gone = #{} :: #{node() => {integer(), partisan_overlay:now_ms()}}, % left, with what incarnation
             say = [] :: [term()],                              % newest first
             fx = [] :: [partisan_overlay:effect()]}).          % newest first

%% `invalid`: what is wrong with the options of the broker, of which a core knows nothing.
init(_Self, #{invalid := Line}, _Now, _Rand) ->
    error({bad_option, amqp, invalid, Line});
init(Self, Config, _Now, _Rand) ->
    #{incarnation := Inc, heartbeat_interval := Interval, down_after := Down,
      forget_after := Forget} = partisan_overlay_opts:check(options(), Config),
    Down > Interval orelse
        error({bad_option, down_after, Down, "more than heartbeat_interval"}),
    done(sweep(members(#st{self = Self, inc = Inc, interval = Interval, down_after = Down,
                           forget_after = Forget}))).

options() ->
    #{incarnation => {integer, 0, infinity, 1},
      heartbeat_interval => {integer, 10, infinity, 2000},
      down_after => {integer, 10, infinity, 7000},
      forget_after => {integer, 10, infinity, 3600000}}.

handle(Event, Now, St) ->
    done(event(Event, Now, St)).

done(#st{fx = Fx} = St) ->
    {St#st{fx = []}, lists:reverse(Fx)}.

info(#st{in = In} = St) ->
    #{members => specs(St), neighbours => neighbours(St), joined => In}.

%% ------------------------------------------------------------------------------------------------

event({call, Tag, beat}, _Now, #st{self = Self, inc = Inc, in = In, say = Say} = St) ->
    Here = [{here, Self, Inc} || In],
    fx({reply, Tag, {publish, lists:reverse(Say, Here)}}, St#st{say = []});
event({call, Tag, {heard, Term}}, Now, St) ->
    case well_formed(Term) of
        true -> fx({reply, Tag, ok}, heard(Term, Now, St));
        false -> fx({reply, Tag, malformed}, St)
    end;
event({call, Tag, {reserve, _}}, _Now, St) ->
    fx({reply, Tag, {error, no_available_slots}}, St);
event({call, Tag, _}, _Now, St) ->
    fx({reply, Tag, {error, not_implemented}}, St);
event({join, #{name := Name}}, _Now, #st{self = #{name := Name}} = St) ->
    St;
event({join, #{name := Name}}, _Now, #st{say = Say, gone = Gone} = St0) ->
    St = back(St0#st{gone = maps:remove(Name, Gone)}),
    case is_map_key(Name, St#st.members) of
        true -> St;
        false -> St#st{say = [{in, Name} | Say]}
    end;
event({leave, Name}, _Now, #st{self = #{name := Name}, inc = Inc, in = true, say = Say} = St) ->
    fx({notify, left}, left(St#st{say = [{bye, Name, Inc} | Say]}));
event({leave, Name}, _Now, #st{self = #{name := Name}} = St) ->
    fx({notify, left}, St);
event({leave, Name}, Now, #st{members = Members, say = Say} = St) ->
    case Members of
        #{Name := #member{inc = Inc}} -> part(Name, Inc, Now, St#st{say = [{out, Name, Inc} | Say]});
        #{} -> St
    end;
event({timer, sweep}, Now, St) ->
    sweep(silent(Now, St));
event(_Other, _Now, St) ->
    St.

%% ------------------------------------------------------------------------------------------------

well_formed({here, Spec, Inc}) -> is_integer(Inc) andalso partisan_overlay_shape:is_spec(Spec);
well_formed({Gone, Name, Inc}) when Gone =:= bye; Gone =:= out -> is_atom(Name) andalso is_integer(Inc);
well_formed({in, Name}) -> is_atom(Name);
well_formed(_) -> false.

heard({in, Name}, _Now, #st{self = #{name := Name}} = St) ->
    back(St);
heard({in, Name}, _Now, #st{gone = Gone} = St) ->
    St#st{gone = maps:remove(Name, Gone)};
heard({out, Name, Inc}, _Now, #st{self = #{name := Name}, inc = Own, in = true} = St)
  when Inc >= Own ->
    left(fx({log, notice, "partisan: taken out of the cluster by another node; join brings this one "
             "back", []}, St));
heard(_, _Now, #st{in = false} = St) ->
    St;
heard({here, #{name := Name}, _}, _Now, #st{self = #{name := Name}} = St) ->
    St;
heard({here, #{name := Name} = Spec, Inc}, Now, #st{gone = Gone} = St) ->
    case Gone of
        #{Name := {Left, _}} when Inc =< Left -> St;
        #{} -> here(Name, Spec, Inc, Now, St#st{gone = maps:remove(Name, Gone)})
    end;
heard({_, Name, _}, _Now, #st{self = #{name := Name}} = St) ->
    St;
heard({_, Name, Inc}, Now, St) ->
    part(Name, Inc, Now, St).

here(Name, Spec, Inc, Now, #st{members = Members} = St) ->
    New = #member{spec = Spec, inc = Inc, heard = Now},
    St1 = St#st{members = Members#{Name => New}},
    case Members of
        #{Name := #member{inc = Newer}} when Newer > Inc ->
            St;
        #{Name := #member{inc = Inc, up = true, spec = Spec}} ->
            St1;
        #{Name := #member{inc = Inc, up = true}} ->
            members(St1);
        #{Name := #member{up = true}} ->
            up(Spec, members(down(Name, restarted, St1)));
        #{} ->
            up(Spec, members(St1))
    end.

up(Spec, St) -> fx({notify, {neighbour_up, Spec}}, St).
down(Name, Why, St) -> fx({notify, {neighbour_down, Name, Why}}, St).

part(Name, Inc, Now, #st{members = Members, gone = Gone0} = St0) ->
    Gone = maps:update_with(Name, fun({Left, _}) -> {max(Left, Inc), Now} end, {Inc, Now}, Gone0),
    St = St0#st{gone = Gone},
    case Members of
        #{Name := #member{inc = Known, up = Up}} when Known =< Inc ->
            Rest = members(St#st{members = maps:remove(Name, Members)}),
            case Up of
                true -> down(Name, left, Rest);
                false -> Rest
            end;
        #{} ->
            St
    end.

%% Its own only member from now on.
left(#st{members = Members} = St) ->
    Alone = members(St#st{in = false, members = #{}}),
    lists:foldl(fun(Name, Acc) -> down(Name, left, Acc) end, Alone,
                lists:sort([Name || {Name, #member{up = true}} <- maps:to_list(Members)])).

back(#st{in = true} = St) -> St;
back(#st{inc = Inc} = St) -> St#st{in = true, inc = Inc + 1}.

silent(Now, #st{members = Members, down_after = Down, forget_after = Forget, gone = Gone} = St0) ->
    St1 = lists:foldl(fun({Name, #member{up = true, heard = Heard} = M}, #st{members = Ms} = St)
                            when Now - Heard >= Down ->
                              down(Name, silent, St#st{members = Ms#{Name := M#member{up = false}}});
                         ({Name, #member{up = false, heard = Heard}}, #st{members = Ms} = St)
                            when Now - Heard >= Forget ->
                              members(St#st{members = maps:remove(Name, Ms)});
                         (_, St) ->
                              St
                      end, St0, lists:sort(maps:to_list(Members))),
    St1#st{gone = maps:filter(fun(_, {_, At}) -> Now - At < Forget end, Gone)}.

sweep(#st{interval = Interval} = St) ->
    fx({timer, sweep, Interval}, St).

members(St) -> fx({members, specs(St)}, St).

specs(#st{self = #{name := Own} = Self, members = Members}) ->
    Specs = maps:map(fun(_, #member{spec = Spec}) -> Spec end, Members),
    [Spec || {_, Spec} <- lists:sort(maps:to_list(Specs#{Own => Self}))].

neighbours(#st{members = Members}) ->
    lists:sort([Name || {Name, #member{up = true}} <- maps:to_list(Members)]).

fx(Effect, #st{fx = Fx} = St) -> St#st{fx = [Effect | Fx]}.
