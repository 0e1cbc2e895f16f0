%% Links as configured, and nothing else: the core behind partisan_static_peer_service_manager.
%%
%% The members are the own node, the peers of the configuration, those joined, and those that have
%% us as a peer, for as long as they are linked. Nobody is told of anybody else. A peer that is down
%% stays a member and is dialled again and again; leave takes it out.
%%
%% Messages: {hello, Spec}, this link is wanted, answered by {welcome, Spec}; `here`, over a link of
%% which we know nothing (the other side may, if we started anew): answered by hello, or not; bye.
%%
%% Options: peers (specs), connection_interval, redial_max (ms, see partisan_overlay_dial).
-module(partisan_overlay_static).

-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-define(PART_MS, 3000). % that a node that said bye has to close the link

-record(st, {self :: partisan_overlay:spec(),
             peers = #{} :: #{node() => partisan_overlay:spec()}, % configured or joined
             guests = #{} :: #{node() => partisan_overlay:spec()}, % that said hello to us
             linked = #{} :: #{node() => []},
             greeted = #{} :: #{node() => []},      % that said hello over the link there is
             closing = #{} :: #{node() => []},
             dial :: partisan_overlay_dial:t(),
             rand :: rand:state(),
             fx = [] :: [partisan_overlay:effect()]}). % newest first

init(#{name := Name} = Self, Config, _Now, Rand) ->
    #{peers := Peers, connection_interval := First, redial_max := Max} =
        partisan_overlay_opts:check(options(), Config),
    St = #st{self = Self, dial = partisan_overlay_dial:new(First, Max), rand = Rand,
             peers = maps:from_list([{Peer, Spec} || #{name := Peer} = Spec <- Peers, Peer =/= Name])},
    done(lists:foldl(fun(Spec, Acc) -> fx({connect, Spec}, Acc) end, members(St),
                     maps:values(St#st.peers))).

options() ->
    #{peers => {list_of, fun(#{name := Name}) -> is_atom(Name); (_) -> false end,
                "node names or specs", []},
      connection_interval => {integer, 1, infinity, 1000},
      redial_max => {integer, 1, infinity, 30000}}.

handle(Event, _Now, St) ->
    done(event(Event, St)).

done(#st{fx = Fx} = St) ->
    {St#st{fx = []}, lists:reverse(Fx)}.

info(#st{peers = Peers} = St) ->
    #{members => specs(St), neighbours => neighbours(St), peers => lists:sort(maps:keys(Peers))}.

%% ------------------------------------------------------------------------------------------------

event({join, #{name := Name}}, #st{self = #{name := Name}} = St) ->
    St;
event({join, #{name := Name} = Spec}, #st{peers = Peers, linked = Linked} = St0) ->
    St = St0#st{peers = Peers#{Name => Spec}},
    case is_map_key(Name, Linked) of
        true -> changed(Name, St0, hello(Name, St));
        false -> changed(Name, St0, fx({connect, Spec}, fx({cancel, {dial, Name}}, St)))
    end;
event({leave, Name}, #st{self = #{name := Name}} = St) -> leave(St);
event({leave, Name}, St) -> part(Name, disconnect, bye(Name, St));
event({call, Tag, {reserve, _}}, St) -> fx({reply, Tag, {error, no_available_slots}}, St);
event({call, Tag, _}, St) -> fx({reply, Tag, {error, not_implemented}}, St);
event({up, Name}, #st{linked = Linked, peers = Peers, dial = Dial} = St0) ->
    St = fx({cancel, {dial, Name}},
            St0#st{linked = Linked#{Name => []}, dial = partisan_overlay_dial:forget(Name, Dial)}),
    case is_map_key(Name, Peers) of
        true -> hello(Name, St);
        false -> fx({send, Name, here}, St)
    end;
event({down, Name, Reason}, St) -> down(Name, Reason, St);
event({msg, From, {hello, Spec} = Msg}, #st{self = Self} = St) ->
    case well_formed(From, Msg) of
        true -> fx({send, From, {welcome, Self}}, greeted(From, Spec, St));
        false -> fx({malformed, From}, St)
    end;
event({msg, From, {welcome, Spec} = Msg}, #st{peers = Peers} = St) when is_map_key(From, Peers) ->
    case well_formed(From, Msg) of
        true -> greeted(From, Spec, St);
        false -> fx({malformed, From}, St)
    end;
event({msg, From, here}, #st{peers = Peers} = St) when is_map_key(From, Peers) ->
    hello(From, St);
event({msg, From, bye}, St) -> part(From, wait, St);
event({msg, From, Msg}, St) ->
    case well_formed(From, Msg) of
        true -> St;                              % of one that is no peer
        false -> fx({malformed, From}, St)
    end;
event({timer, {dial, Name}}, #st{peers = Peers, linked = Linked} = St) ->
    case Peers of
        #{Name := Spec} when not is_map_key(Name, Linked) -> fx({connect, Spec}, St);
        #{} -> St
    end;
event({timer, {part, Name}}, #st{linked = Linked} = St) ->
    case is_map_key(Name, Linked) andalso not is_member(Name, St) of
        true -> fx({disconnect, Name}, St);
        false -> St
    end;
event(_Other, St) -> St.

well_formed(From, {What, Spec}) when What =:= hello; What =:= welcome ->
    partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(_, Msg) -> Msg =:= here orelse Msg =:= bye.

hello(Name, #st{self = Self} = St) ->
    fx({send, Name, {hello, Self}}, St).

bye(Name, #st{linked = Linked} = St) ->
    case is_map_key(Name, Linked) of
        true -> fx({send, Name, bye}, St);
        false -> St
    end.

%% A neighbour is one that has said hello: it runs the same overlay and wants the link.
greeted(From, Spec, #st{peers = Peers, guests = Guests, greeted = Greeted} = St0) ->
    Peer = is_map_key(From, Peers),
    St1 = St0#st{greeted = Greeted#{From => []}},
    %% What it says of itself is newer than what our configuration says.
    St2 = case Peer of
              true -> St1#st{peers = Peers#{From := Spec}};
              false -> St1#st{guests = Guests#{From => Spec}}
          end,
    case is_map_key(From, Greeted) of
        true -> changed(From, St0, St2);
        false -> fx({notify, {neighbour_up, Spec}}, changed(From, St0, St2))
    end.

down(Name, Reason, #st{linked = Linked, greeted = Greeted, guests = Guests, closing = Closing} = St0) ->
    Quiet = fx({cancel, {part, Name}}, St0),
    St1 = Quiet#st{linked = maps:remove(Name, Linked), greeted = maps:remove(Name, Greeted),
                   guests = maps:remove(Name, Guests), closing = maps:remove(Name, Closing)},
    St2 = case is_map_key(Name, Greeted) of
              true -> fx({notify, {neighbour_down, Name, Reason}}, St1);
              false -> St1
          end,
    St3 = changed(Name, St0, St2),
    case is_map_key(Name, Closing) andalso map_size(St3#st.closing) =:= 0 of
        true -> redial(Name, fx({notify, left}, St3));
        false -> redial(Name, St3)
    end.

redial(Name, #st{peers = Peers, dial = Dial0, rand = Rand0} = St) ->
    case is_map_key(Name, Peers) of
        true ->
            {Ms, Dial, Rand} = partisan_overlay_dial:pause(Name, Dial0, Rand0),
            fx({timer, {dial, Name}, Ms}, St#st{dial = Dial, rand = Rand});
        false ->
            St
    end.

%% Neither side dials the other any more. Who said bye closes the link, behind all that its node had
%% sent; the other one waits for that.
part(Name, How, #st{peers = Peers, guests = Guests, greeted = Greeted, dial = Dial} = St0) ->
    Known = is_map_key(Name, Peers) orelse is_map_key(Name, Guests),
    St1 = St0#st{peers = maps:remove(Name, Peers), guests = maps:remove(Name, Guests),
                 greeted = maps:remove(Name, Greeted), dial = partisan_overlay_dial:forget(Name, Dial)},
    case Known of
        false ->
            St0;
        true ->
            St2 = case is_map_key(Name, Greeted) of
                      true -> fx({notify, {neighbour_down, Name, left}}, St1);
                      false -> St1
                  end,
            close(How, Name, fx({cancel, {dial, Name}}, changed(Name, St0, St2)))
    end.

close(disconnect, Name, St) -> fx({disconnect, Name}, St);
close(wait, Name, St) -> fx({timer, {part, Name}, ?PART_MS}, St).

leave(#st{peers = Peers, guests = Guests, linked = Linked} = St0) ->
    Others = lists:usort(maps:keys(Peers) ++ maps:keys(Guests)),
    Links = [Name || Name <- Others, is_map_key(Name, Linked)],
    St = lists:foldl(fun(Name, Acc) -> part(Name, disconnect, bye(Name, Acc)) end, St0, Others),
    case Links of
        [] -> fx({notify, left}, St);
        _ -> St#st{closing = maps:from_keys(Links, [])}
    end.

changed(Name, Before, After) ->
    case is_member(Name, Before) =:= is_member(Name, After) of
        true -> After;
        false -> members(After)
    end.

is_member(Name, #st{peers = Peers, guests = Guests}) ->
    is_map_key(Name, Peers) orelse is_map_key(Name, Guests).

members(St) ->
    fx({members, specs(St)}, St).

specs(#st{self = #{name := Name} = Self, peers = Peers, guests = Guests}) ->
    [Spec || {_, Spec} <- lists:sort(maps:to_list((maps:merge(Guests, Peers))#{Name => Self}))].

neighbours(#st{greeted = Greeted} = St) ->
    [Name || Name <- lists:sort(maps:keys(Greeted)), is_member(Name, St)].

fx(Effect, #st{fx = Fx} = St) -> St#st{fx = [Effect | Fx]}.
