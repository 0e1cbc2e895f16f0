%% The full mesh: every member has a link to every other. The core behind
%% partisan_pluggable_peer_service_manager and partisan_default_peer_service_manager.
%%
%% The members are a partisan_membership_set. A change is told at once to those who are linked: by
%% its origin to all of them, by who hears of it to `fanout` more, chosen at random. What that
%% misses is found by comparing hashes, `fanout` members each `gossip_interval`, one after the other
%% so that each is met. A round costs each node `fanout` messages of a hundred bytes or so, whatever
%% the size of the cluster; only replicas that differ exchange more.
%%
%% Every message has a head: the sender's incarnation, and the one in which it knows the receiver.
%% From that a node tells apart who may speak to it (see accept/4):
%%   - a member;
%%   - a member of the cluster that knew this node before it started anew: it takes us back;
%%   - one that we left, or that was taken out: it is told so;
%%   - one that has our present incarnation from somebody, and was never taken out here, since its
%%     own is above all that were forgotten: a member of which the news did not get here;
%%   - a stranger: it does not get in by gossip, only by a join.
%%
%% A join, asked for on either side:
%%   joiner   {join, What}      What: how the joiner knows the other, which must renew itself if
%%                              it is a tombstone there
%%   other    {welcome, Items}  all it has; or {reset, Incarnation}: you were taken out here, come
%%                              alone and with a higher one
%%   joiner   {delta, ..}       all that the other lacks: the clusters of both become one
%%   other    joined            until then the joiner asks again, over each new link
%%
%% Options: incarnation (of this start of the node; must grow from start to start), gossip_interval,
%% fanout, connection_interval (ms, first pause between two dials; doubles up to redial_max),
%% redial_max, tombstone_keep (ms; see partisan_membership_set:collect/3), keep_links (what becomes of
%% the link with a node that is no member any more: false, it is closed; true, it is nobody's business
%% here, since others use it as well).
-module(partisan_overlay_full).

-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-define(DEFAULTS, #{incarnation => 1, gossip_interval => 10000, fanout => 2,
                    connection_interval => 1000, redial_max => 30000,
                    tombstone_keep => 3600000, keep_links => false}).
-define(PART_MS, 3000). % that a node that left has to close its links
-define(STRANGER_AT, 3). % rounds in which a member did not know us until that is worth a line

-record(st, {self :: partisan_overlay:spec(),
             name :: node(),
             set :: partisan_membership_set:set(),
             first :: partisan_membership_set:incarnation(),        % of this life
             left = none :: none | partisan_membership_set:incarnation(), % the last that left
             linked = #{} :: #{node() => []},
             dialing = #{} :: #{node() => []},       % in progress or waiting
             dial :: partisan_overlay_dial:t(),
             joining = #{} :: #{node() => partisan_overlay:spec()},
             %% Joins asked for that are not answered yet. Each gets one `welcome` or `reset`, in their
             %% order, as long as the link stands: a `joined` that comes while one is due is of an
             %% earlier join, from before the node took us out, and does not end the last.
             asked = #{} :: #{node() => pos_integer()},
             guests = #{} :: #{node() => []},        % welcomed, their items are to come
             closing = #{} :: #{node() => []},       % links that end with our leave
             round = [] :: [node()],                 % not yet met in this round of gossip
             unknown_to = #{} :: #{node() => pos_integer()},
             options :: partisan_overlay:config(),
             now = 0 :: partisan_overlay:now_ms(),
             rand :: rand:state(),
             fx = [] :: [partisan_overlay:effect()]}). % newest first

%% ------------------------------------------------------------------------------------------------

init(#{name := Name} = Self, Config, Now, Rand) ->
    Options = partisan_overlay_opts:check(options(), Config),
    #{incarnation := Incarnation, connection_interval := First, redial_max := Max} = Options,
    St = #st{self = Self, dial = partisan_overlay_dial:new(First, Max), name = Name, first = Incarnation, options = Options, now = Now,
             rand = Rand, set = partisan_membership_set:new(Name, Incarnation, Self)},
    done(gossip_timer(fx({members, [Self]}, St))).

options() ->
    #{incarnation => {integer, 0, infinity, maps:get(incarnation, ?DEFAULTS)},
      gossip_interval => {integer, 1, infinity, maps:get(gossip_interval, ?DEFAULTS)},
      fanout => {integer, 1, infinity, maps:get(fanout, ?DEFAULTS)},
      connection_interval => {integer, 1, infinity, maps:get(connection_interval, ?DEFAULTS)},
      redial_max => {integer, 1, infinity, maps:get(redial_max, ?DEFAULTS)},
      tombstone_keep => {integer, 0, infinity, maps:get(tombstone_keep, ?DEFAULTS)},
      keep_links => {one_of, [true, false], maps:get(keep_links, ?DEFAULTS)}}.

handle(Event, Now, St) ->
    done(event(Event, St#st{now = Now})).

done(#st{fx = Fx} = St) ->
    {St#st{fx = []}, lists:reverse(Fx)}.

info(#st{set = Set, joining = Joining} = St) ->
    #{members => partisan_membership_set:members(Set),
      neighbours => neighbours(St),
      incarnation => partisan_membership_set:incarnation(Set),
      tombstones => partisan_membership_set:tombstones(Set),
      joining => lists:sort(maps:keys(Joining))}.

%% ------------------------------------------------------------------------------------------------
%% Events

event({join, Spec}, St) -> join(Spec, St);
event({leave, Name}, #st{name = Name} = St) -> leave(St);
event({leave, Name}, St) -> take_out(Name, St);
event({call, Tag, {update, Specs}}, St) -> fx({reply, Tag, ok}, update(Specs, St));
event({call, Tag, {reserve, _}}, St) -> fx({reply, Tag, {error, no_available_slots}}, St);
event({call, Tag, _}, St) -> fx({reply, Tag, {error, not_implemented}}, St);
event({up, Name}, St) -> up(Name, St);
event({down, Name, Reason}, St) -> down(Name, Reason, St);
event({msg, From, {full, Incarnation, Mine, Body} = Msg}, St) ->
    case well_formed(Msg) of
        true -> heard(From, Incarnation, Mine, Body, answered(From, Body, St));
        false -> fx({malformed, From}, St)
    end;
event({msg, From, _}, St) -> fx({malformed, From}, St);
event({timer, gossip}, St) -> gossip(St);
event({timer, {dial, Name}}, St) -> dial(Name, St);
event({timer, {part, Name}}, #st{linked = Linked} = St) ->
    case is_map_key(Name, Linked) andalso not is_member(Name, St) of
        true -> fx({disconnect, Name}, St);
        false -> St
    end;
event({timer, _}, St) -> St;
event({latency, _, _}, St) -> St.

join(#{name := Name}, #st{name = Name} = St) ->
    St;
join(#{name := Name} = Spec, #st{joining = Joining, linked = Linked} = St0) ->
    St = St0#st{joining = Joining#{Name => Spec}},
    %% Also of a member: it may not know us.
    case is_map_key(Name, Linked) of
        true -> ask(Name, St);
        false -> dial(Name, fx({cancel, {dial, Name}}, forget_dial(Name, St)))
    end.

ask(Name, #st{set = Set, asked = Asked} = St) ->
    say(Name, {join, partisan_membership_set:lookup(Name, Set)},
        St#st{asked = maps:update_with(Name, fun(N) -> N + 1 end, 1, Asked)}).

answered(Name, {What, _}, #st{asked = Asked} = St) when What =:= welcome; What =:= reset ->
    St#st{asked = case Asked of
                      #{Name := N} when N > 1 -> Asked#{Name := N - 1};
                      #{} -> maps:remove(Name, Asked)
                  end};
answered(_, _, St) ->
    St.

up(Name, #st{linked = Linked, joining = Joining} = St0) ->
    Known = is_map_key(Name, Linked),
    St = fx({cancel, {dial, Name}}, forget_dial(Name, St0#st{linked = Linked#{Name => []}})),
    Member = is_member(Name, St),
    St1 = case Member andalso not Known of
              true -> neighbour_up(Name, St);
              false -> St
          end,
    if
        is_map_key(Name, Joining) -> ask(Name, St1);
        Member -> digest(Name, St1);
        true -> say(Name, here, St1) % it may know us, if we started anew
    end.

down(Name, Reason, #st{linked = Linked, closing = Closing, guests = Guests, asked = Asked} = St0) ->
    Neighbour = is_map_key(Name, Linked) andalso is_member(Name, St0),
    St1 = (fx({cancel, {part, Name}}, St0))#st{linked = maps:remove(Name, Linked), guests = maps:remove(Name, Guests),
                                               asked = maps:remove(Name, Asked)},
    St2 = case Neighbour of
              true -> fx({notify, {neighbour_down, Name, Reason}}, St1);
              false -> St1
          end,
    case maps:take(Name, Closing) of
        {[], Rest} when map_size(Rest) =:= 0 ->
            redial(Name, fx({notify, left}, St2#st{closing = Rest}));
        {[], Rest} -> redial(Name, St2#st{closing = Rest}); % it may have been joined since
        error -> redial(Name, St2)
    end.

%% ------------------------------------------------------------------------------------------------
%% Dialling. Of two members one dials at once, the other a little later, so that as a rule only one
%% of two connections has to be thrown away.

dial(Name, #st{linked = Linked, dialing = Dialing} = St) ->
    case not is_map_key(Name, Linked) andalso target(Name, St) of
        false -> forget_dial(Name, St);
        {ok, Spec} -> fx({connect, Spec}, St#st{dialing = Dialing#{Name => []}})
    end.

target(Name, #st{joining = Joining, set = Set}) ->
    case Joining of
        #{Name := Spec} ->
            {ok, Spec};
        #{} ->
            case partisan_membership_set:spec(Name, Set) of
                {ok, _} = Found -> Found;
                error -> false
            end
    end.

redial(Name, #st{dialing = Dialing, dial = Dial0, rand = Rand0} = St) ->
    case target(Name, St) of
        false ->
            forget_dial(Name, St);
        {ok, _} ->
            {Pause, Dial, Rand} = partisan_overlay_dial:pause(Name, Dial0, Rand0),
            fx({timer, {dial, Name}, Pause},
               St#st{dialing = Dialing#{Name => []}, dial = Dial, rand = Rand})
    end.

forget_dial(Name, #st{dialing = Dialing, dial = Dial} = St) ->
    St#st{dialing = maps:remove(Name, Dialing), dial = partisan_overlay_dial:forget(Name, Dial)}.

first_dial(Name, #st{name = Self, dialing = Dialing} = St) ->
    case is_map_key(Name, Dialing) of
        true -> St;
        false when Self < Name -> dial(Name, St);
        false -> redial(Name, St)
    end.

%% ------------------------------------------------------------------------------------------------
%% Messages

well_formed({full, Incarnation, Mine, Body}) ->
    is_integer(Incarnation) andalso (Mine =:= none orelse is_integer(Mine)) andalso is_body(Body).

is_body({join, none}) -> true;
is_body({join, {Mine, State}}) -> is_integer(Mine) andalso (State =:= up orelse State =:= left);
is_body({welcome, Items}) -> partisan_membership_set:is_items(Items);
is_body({reset, Above}) -> is_integer(Above);
is_body({What, Hash}) when What =:= digest; What =:= same -> is_integer(Hash);
is_body({summary, Summary}) -> partisan_membership_set:is_summary(Summary);
is_body({delta, Items, Wanted}) ->
    partisan_membership_set:is_items(Items) andalso partisan_overlay_shape:is_names(Wanted);
is_body(Body) -> lists:member(Body, [unknown, here, joined]).

heard(From, Incarnation, _, {join, Known}, St) ->
    joined(From, Incarnation, Known, St);
heard(From, _, _, {welcome, Items}, #st{joining = Joining} = St) when is_map_key(From, Joining) ->
    welcomed(From, Items, St);
heard(From, _, _, {reset, Above}, #st{joining = Joining} = St) when is_map_key(From, Joining) ->
    join_alone(Above, St);
heard(From, _, _, unknown, St) ->
    stranger(From, St);
heard(From, _, _, here, #st{joining = Joining} = St) ->
    case is_member(From, St) of
        _ when is_map_key(From, Joining) -> ask(From, St);
        true -> digest(From, St);
        false -> St
    end;
heard(From, Incarnation, Mine, Body, #st{unknown_to = Unknown} = St) ->
    case accept(From, Incarnation, Mine, St) of
        ok -> talk(From, Body, St#st{unknown_to = maps:remove(From, Unknown)});
        {answer, Answer} -> say(From, Answer, St);
        ignore -> St
    end.

%% Mine: the incarnation in which From knows this node.
accept(From, Incarnation, Mine, #st{set = Set, guests = Guests, left = Left, first = First,
                                    name = Self}) ->
    Current = partisan_membership_set:incarnation(Set),
    case partisan_membership_set:lookup(From, Set) of
        {Known, up} when Incarnation >= Known -> ok;
        {_, up} -> ignore; % said before it started anew
        {Known, left} when Incarnation =< Known -> {answer, {delta, [{From, Known, left}], []}};
        _ when is_map_key(From, Guests) -> ok;
        _ when Mine =:= none -> {answer, unknown};
        _ when Left =/= none, Mine =< Left; Left =/= none, Mine > Current ->
            {answer, {delta, [{Self, max(Mine, Left), left}], []}};
        _ when Mine < First; Mine > Current -> ok; % of an earlier life
        _ ->
            %% A join whose news did not get here, because who had them died.
            case Mine =:= Current andalso Incarnation > partisan_membership_set:floor(Set) of
                true -> ok;
                false -> {answer, unknown}
            end
    end.

%% Somebody wants to be in one cluster with us.
joined(From, Incarnation, Known, #st{set = Set0, guests = Guests} = St) ->
    Set = case Known of
              {Mine, left} -> renew_above(Mine, Set0);
              _ -> Set0
          end,
    case partisan_membership_set:lookup(From, Set) of
        {Gone, left} when Gone >= Incarnation ->
            say(From, {reset, Gone}, St#st{set = Set});
        _ ->
            say(From, {welcome, partisan_membership_set:take_all(Set)},
                St#st{set = Set, guests = Guests#{From => []}})
    end.

welcomed(From, Items, #st{set = Set0, name = Self} = St0) ->
    Set1 = lists:foldl(fun({Name, Incarnation, left}, Set) when Name =:= Self ->
                               renew_above(Incarnation, Set);
                          ({Name, Incarnation, _}, Set) when Name =:= Self ->
                               renew_above(Incarnation - 1, Set);
                          (_, Set) ->
                               Set
                       end, Set0, Items),
    {Changes, Set} = partisan_membership_set:merge(Items, Set1),
    Summary = [{Name, Incarnation, case State of left -> left; {up, _} -> up end}
               || {Name, Incarnation, State} <- Items],
    {Newer, _} = partisan_membership_set:compare(Summary, Set),
    changed(Changes, all, From, say(From, {delta, Newer, []}, St0#st{set = Set})).

%% The own incarnation stays if it is higher already.
renew_above(Incarnation, Set) ->
    case partisan_membership_set:incarnation(Set) > Incarnation of
        true -> Set;
        false -> partisan_membership_set:renew(Incarnation, Set)
    end.

talk(From, {digest, Hash}, #st{set = Set} = St) ->
    case partisan_membership_set:hash(Set) of
        Hash -> say(From, {same, Hash}, confirm(From, St));
        _ -> say(From, {summary, partisan_membership_set:summary(Set)}, St)
    end;
talk(From, {same, Hash}, #st{set = Set} = St) ->
    case partisan_membership_set:hash(Set) of
        Hash -> confirm(From, St);
        _ -> St
    end;
talk(From, {summary, Summary}, #st{set = Set0, name = Self} = St) ->
    About = case lists:keyfind(Self, 1, Summary) of
                {Self, Incarnation, up} -> [{Self, Incarnation, {up, #{}}}];
                {Self, Incarnation, _} -> [{Self, Incarnation, left}];
                false -> []
            end,
    case about_self(About, From, St) of
        {out, St1} ->
            St1;
        {in, #st{set = Set0} = St1} ->
            Set = partisan_membership_set:confirm(From, Summary, Set0),
            case partisan_membership_set:compare(Summary, Set) of
                {[], []} -> St1#st{set = Set};
                {Newer, Wanted} -> say(From, {delta, Newer, Wanted}, St1#st{set = Set})
            end;
        {in, St1} ->
            digest(From, St1) % renewed: begin again
    end;
talk(From, {delta, Items, Wanted}, #st{guests = Guests} = St0) ->
    case about_self(Items, From, St0) of
        {out, St} ->
            St;
        {in, #st{set = Set0} = St1} ->
            {Changes, Set} = partisan_membership_set:merge(Items, Set0),
            St2 = St1#st{set = Set, guests = maps:remove(From, Guests)},
            St3 = case partisan_membership_set:take(lists:usort(Wanted), Set) of
                      [] -> St2;
                      Answer -> say(From, {delta, Answer, []}, St2)
                  end,
            %% Who lets somebody in tells everybody.
            case is_map_key(From, Guests) of
                true -> changed(Changes, all, From, say(From, joined, St3));
                false -> changed(Changes, some, From, St3)
            end
    end;
talk(From, joined, #st{asked = Asked} = St) when is_map_key(From, Asked) ->
    St;
talk(From, joined, #st{joining = Joining} = St) ->
    St#st{joining = maps:remove(From, Joining)};
talk(_From, _Body, St) ->
    St.

confirm(From, #st{set = Set} = St) ->
    St#st{set = partisan_membership_set:confirm(From, Set)}.

%% What others believe of this node: it left (somebody took it out), or it has an incarnation that
%% it does not know of (its clock went back between two starts).
about_self(Items, From, #st{name = Self, set = Set} = St) ->
    Current = partisan_membership_set:incarnation(Set),
    case lists:keyfind(Self, 1, Items) of
        {Self, Incarnation, left} when Incarnation >= Current ->
            Line = fx({log, notice, "partisan: ~ts says that this node was taken out of the "
                       "cluster; it is alone now", [From]}, St),
            {out, join_alone(Incarnation, Line)};
        {Self, Incarnation, {up, _}} when Incarnation > Current ->
            {in, St#st{set = partisan_membership_set:renew(Incarnation, Set)}};
        _ ->
            {in, St}
    end.

stranger(From, #st{unknown_to = Unknown} = St) ->
    Times = maps:get(From, Unknown, 0) + 1,
    St1 = St#st{unknown_to = Unknown#{From => Times}},
    case Times =:= ?STRANGER_AT andalso is_member(From, St) of
        true -> fx({log, warning, "partisan: ~ts does not know this node as a member: if it was "
                    "taken out, join again", [From]}, St1);
        false -> St1
    end.

%% ------------------------------------------------------------------------------------------------
%% Leaving

%% The others are told, the links closed behind the message, and the node is alone.
leave(#st{set = Set, name = Self} = St0) ->
    Incarnation = partisan_membership_set:incarnation(Set),
    St = lists:foldl(fun(Name, Acc) -> say(Name, {delta, [{Self, Incarnation, left}], []}, Acc) end,
                     St0, neighbours(St0)),
    alone(Incarnation, #{}, St).

%% Taken out, which is no reason to give up the joins that are under way: they were asked for by this
%% node's user, who may have known of it before its overlay did.
join_alone(Incarnation, #st{joining = Joining, linked = Linked} = St) ->
    Asked = [Name || Name <- lists:sort(maps:keys(Joining)), is_map_key(Name, Linked)],
    lists:foldl(fun ask/2, alone(Incarnation, Joining, St), Asked).

%% A set of its own again, above Incarnation. Links and dials of Joining stay, the others by option.
alone(Incarnation, Joining, #st{self = Spec, name = Self, set = Set, dialing = Dialing,
                                options = #{keep_links := Kept}} = St0) ->
    Current = partisan_membership_set:incarnation(Set),
    Left = max(Incarnation, Current),
    Neighbours = neighbours(St0),
    Links = [Name || Name <- Neighbours, not Kept, not is_map_key(Name, Joining)],
    {Wanted, Dials} = lists:partition(fun(Name) -> is_map_key(Name, Joining) end,
                                      lists:sort(maps:keys(Dialing))),
    St1 = lists:foldl(fun(Name, Acc) -> fx({notify, {neighbour_down, Name, left}}, Acc) end, St0,
                      Neighbours),
    St2 = lists:foldl(fun forget_dial/2, St1, Dials),
    St3 = lists:foldl(fun(Name, Acc) -> fx({cancel, {dial, Name}}, Acc) end, St2, Dials),
    St4 = lists:foldl(fun(Name, Acc) -> fx({disconnect, Name}, Acc) end, St3, Links ++ Dials),
    St5 = fx({members, [Spec]},
             St4#st{set = partisan_membership_set:new(Self, Left + 1, Spec), left = Left,
                    dialing = maps:with(Wanted, Dialing), joining = Joining,
                    guests = #{}, round = [], unknown_to = #{}, closing = maps:from_keys(Links, [])}),
    case Links =:= [] andalso Joining =:= #{} of
        true -> fx({notify, left}, St5);
        false -> St5
    end.

take_out(Name, #st{set = Set0, joining = Joining} = St0) ->
    St = St0#st{joining = maps:remove(Name, Joining)},
    case partisan_membership_set:is_member(Name, Set0) of
        true ->
            Set = partisan_membership_set:leave(Name, Set0),
            [Item] = partisan_membership_set:take([Name], Set),
            Told = say(Name, {delta, [Item], []}, St#st{set = Set}),
            changed([{removed, Name}], all, none, Told);
        false when is_map_key(Name, Joining) ->
            unlink(Name, fx({cancel, {dial, Name}}, forget_dial(Name, St)));
        false ->
            St
    end.

%% Also ends a dial in progress.
unlink(Name, #st{linked = Linked, options = #{keep_links := true}} = St)
  when is_map_key(Name, Linked) ->
    St;
unlink(Name, St) ->
    fx({disconnect, Name}, St).

update(Specs, #st{set = Set, name = Self} = St0) ->
    Names = [Name || #{name := Name} <- Specs],
    Gone = partisan_membership_set:names(Set) -- [Self | Names],
    New = [Spec || #{name := Name} = Spec <- Specs, not is_member(Name, St0)],
    St1 = lists:foldl(fun take_out/2, St0, Gone),
    lists:foldl(fun join/2, St1, New).

%% ------------------------------------------------------------------------------------------------
%% What follows from a change of the set

changed([], _Whom, _From, St) ->
    St;
changed(Changes, Whom, From, #st{set = Set} = St0) ->
    St1 = case [C || {What, _} = C <- Changes, What =/= tombstone] of
              [] -> St0;
              _ -> fx({members, partisan_membership_set:members(Set)}, St0)
          end,
    St2 = lists:foldl(fun apply_change/2, St1, Changes),
    Names = [Name || {_, Name} <- Changes],
    {Targets, St3} = targets(Whom, neighbours(St2) -- [From | Names], St2),
    Items = partisan_membership_set:take(Names, Set),
    lists:foldl(fun(Name, Acc) -> say(Name, {delta, Items, []}, Acc) end, St3, Targets).

apply_change({removed, Name}, #st{joining = Joining} = St) when is_map_key(Name, Joining) ->
    gone(Name, St); % a dial goes on
apply_change({removed, Name}, #st{linked = Linked} = St0) ->
    St = fx({cancel, {dial, Name}}, forget_dial(Name, St0)),
    case is_map_key(Name, Linked) of
        true -> gone(Name, St);
        false -> unlink(Name, St)
    end;
apply_change({tombstone, _}, St) ->
    St;
apply_change({What, Name}, #st{linked = Linked} = St) ->
    case is_map_key(Name, Linked) of
        true when What =:= added -> digest(Name, neighbour_up(Name, St));
        true -> St;
        false -> first_dial(Name, St)
    end.

%% A neighbour is no member any more. Who leaves closes the link, behind all that its node had sent
%% to us; we would cut that off.
gone(Name, #st{linked = Linked, options = #{keep_links := Kept}} = St0) when is_map_key(Name, Linked) ->
    St = fx({notify, {neighbour_down, Name, left}}, St0),
    case Kept of
        true -> St;
        false -> fx({timer, {part, Name}, ?PART_MS}, St)
    end;
gone(_Name, St) ->
    St.

targets(all, Names, St) -> {Names, St};
targets(some, Names, #st{options = #{fanout := Fanout}} = St) ->
    {Shuffled, St1} = shuffle(Names, St),
    {lists:sublist(Shuffled, Fanout), St1}.

neighbour_up(Name, #st{set = Set} = St) ->
    {ok, Spec} = partisan_membership_set:spec(Name, Set),
    fx({notify, {neighbour_up, Spec}}, St).

neighbours(#st{linked = Linked} = St) ->
    [Name || Name <- lists:sort(maps:keys(Linked)), is_member(Name, St)].

is_member(Name, #st{set = Set}) ->
    partisan_membership_set:is_member(Name, Set).

%% ------------------------------------------------------------------------------------------------
%% Gossip

gossip(#st{set = Set, now = Now, joining = Joining, linked = Linked,
           options = #{fanout := Fanout, tombstone_keep := Keep}} = St0) ->
    St1 = St0#st{set = partisan_membership_set:collect(Now, Keep, Set)},
    {Names, St2} = next(Fanout, St1),
    %% A node that is connected and did not answer may have no overlay yet, or one that started anew.
    Again = [Name || Name <- lists:sort(maps:keys(Joining)), is_map_key(Name, Linked)],
    St3 = lists:foldl(fun ask/2, St2#st{asked = #{}}, Again),
    gossip_timer(lists:foldl(fun digest/2, St3, Names)).

%% Everybody once, in a random order, before anybody twice.
next(Fanout, #st{round = Round} = St0) ->
    Neighbours = neighbours(St0),
    case [Name || Name <- Round, lists:member(Name, Neighbours)] of
        [] ->
            {Shuffled, St} = shuffle(Neighbours, St0),
            split(Fanout, Shuffled, St);
        Left ->
            split(Fanout, Left, St0)
    end.

split(Fanout, Names, St) ->
    {Now, Later} = lists:split(min(Fanout, length(Names)), Names),
    {Now, St#st{round = Later}}.

digest(Name, #st{set = Set} = St) ->
    say(Name, {digest, partisan_membership_set:hash(Set)}, St).

say(Name, Body, #st{set = Set} = St) ->
    Theirs = case partisan_membership_set:lookup(Name, Set) of
                 {Known, _} -> Known;
                 none -> none
             end,
    fx({send, Name, {full, partisan_membership_set:incarnation(Set), Theirs, Body}}, St).

gossip_timer(#st{options = #{gossip_interval := Interval}} = St) ->
    {Ms, St1} = about(Interval, St),
    fx({timer, gossip, Ms}, St1).

%% ------------------------------------------------------------------------------------------------

fx(Effect, #st{fx = Fx} = St) -> St#st{fx = [Effect | Fx]}.

%% Within a quarter of Ms, so that nodes that started together do not stay in step.
about(Ms, #st{rand = Rand0} = St) ->
    {Float, Rand} = rand:uniform_s(Rand0),
    {max(1, round(Ms * (0.75 + Float / 2))), St#st{rand = Rand}}.

shuffle(List, #st{rand = Rand0} = St) ->
    {Keyed, Rand} = lists:mapfoldl(fun(X, Acc0) ->
                                           {Key, Acc} = rand:uniform_s(Acc0),
                                           {{Key, X}, Acc}
                                   end, Rand0, List),
    {[X || {_, X} <- lists:sort(Keyed)], St#st{rand = Rand}}.
