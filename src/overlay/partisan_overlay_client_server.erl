%% Servers in a full mesh, and clients that have links to servers only: the core behind
%% partisan_client_server_peer_service_manager. The servers' part is partisan_overlay_full, run
%% inside; here is what concerns clients.
%%
%% A client has a link with each server that it joined. While none of those answers it keeps one with
%% another server, of those that the last one told it of, and drops it when one of its own is back.
%% Its members are itself and the servers it is linked with or joined; the members of a server are
%% the servers.
%%
%% Messages to a node without a link are relayed: a client gives them to a server, and servers tell
%% each other which clients they have. That is one name a client on each server, and one message a
%% server for each client that comes or goes.
%%
%% Messages: client to server {hello, Spec}; server to client {welcome, Servers}, {servers, Servers};
%% server to server {mesh, Term} (the core inside), {clients, Come, Gone}; bye; `here` over a link
%% of which we know nothing, in case we started anew: a client says hello again, a server welcomes;
%% `no_server`: what you said is for servers.
%%
%% Options: tag (client or server), and those of partisan_overlay_full.
-module(partisan_overlay_client_server).

-behaviour(partisan_overlay).

-export([init/4, handle/3, info/1]).

-define(PART_MS, 3000). % that a node that said bye has to close the link

-type spec() :: partisan_overlay:spec().

-record(client, {self :: spec(),
                 joined = #{} :: #{node() => spec()},
                 backup = none :: none | spec(),     % dialled or linked, for want of a joined one
                 known = [] :: [spec()],             % servers, as last told
                 queue = [] :: [spec()],             % of them, still to be tried
                 linked = #{} :: #{node() => []},
                 servers = #{} :: #{node() => spec()}, % that welcomed us
                 closing = #{} :: #{node() => []},
                 default = none :: none | node(),    % relays for us
                 fresh = true :: boolean(),          % neither joined nor left anything yet
                 dial :: partisan_overlay_dial:t(),
                 rand :: rand:state(),
                 fx = [] :: [partisan_overlay:effect()]}). % newest first

-record(server, {mesh :: term(),
                 now = 0 :: partisan_overlay:now_ms(),
                 self :: spec(),
                 mates = #{} :: #{node() => []},     % servers with a link
                 clients = #{} :: #{node() => spec()}, % own
                 others = #{} :: #{node() => [node()]}, % clients of other servers: of which
                 specs = [] :: [spec()],             % of the servers
                 fx = [] :: [partisan_overlay:effect()]}).

init(Self, Config, Now, Rand) ->
    case partisan_overlay_opts:check(options(), Config) of
        #{tag := client, connection_interval := First, redial_max := Max} ->
            done(fx({members, [Self]},
                    #client{self = Self, dial = partisan_overlay_dial:new(First, Max), rand = Rand}));
        #{tag := server} ->
            {Mesh, Effects} = partisan_overlay_full:init(Self, Config, Now, Rand),
            done(mesh_effects(Effects, #server{self = Self, mesh = Mesh, now = Now}))
    end.

options() ->
    #{tag => {one_of, [client, server], undefined},
      connection_interval => {integer, 1, infinity, 1000},
      redial_max => {integer, 1, infinity, 30000}}.

handle({msg, From, Msg} = Event, Now, S) ->
    case well_formed(From, Msg) of
        true -> handled(Event, Now, S);
        false -> done(fx({malformed, From}, S))
    end;
handle(Event, Now, S) ->
    handled(Event, Now, S).

%% What is said in the mesh of servers is for the core inside to judge.
well_formed(From, {hello, Spec}) -> partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(_, {What, Specs}) when What =:= welcome; What =:= servers ->
    partisan_overlay_shape:is_specs(Specs);
well_formed(_, {clients, Come, Gone}) ->
    partisan_overlay_shape:is_names(Come) andalso partisan_overlay_shape:is_names(Gone);
well_formed(_, {mesh, _}) -> true;
well_formed(_, Msg) -> lists:member(Msg, [here, bye, no_server]).

handled(Event, _Now, #client{} = Cl) -> done(client(Event, Cl));
handled(Event, Now, #server{} = Sv) -> done(server(Event, Sv#server{now = Now})).

done(#client{fx = Fx} = Cl) -> {Cl#client{fx = []}, lists:reverse(Fx)};
done(#server{fx = Fx} = Sv) -> {Sv#server{fx = []}, lists:reverse(Fx)}.

info(#client{servers = Servers, known = Known, default = Default} = Cl) ->
    #{members => client_members(Cl), neighbours => lists:sort(maps:keys(Servers)), tag => client,
      relay => Default, known_servers => [Name || #{name := Name} <- Known]};
info(#server{mesh = Mesh, clients = Clients, others = Others}) ->
    #{neighbours := Mates} = Info = partisan_overlay_full:info(Mesh),
    Info#{tag => server, clients => lists:sort(maps:keys(Clients)),
          clients_of_others => lists:sort(maps:keys(Others)),
          neighbours := lists:usort(Mates ++ maps:keys(Clients))}.

fx(Effect, #client{fx = Fx} = Cl) -> Cl#client{fx = [Effect | Fx]};
fx(Effect, #server{fx = Fx} = Sv) -> Sv#server{fx = [Effect | Fx]}.

%% ------------------------------------------------------------------------------------------------
%% A client

client({join, #{name := Name}}, #client{self = #{name := Name}} = Cl) ->
    Cl;
client({join, #{name := Name} = Spec}, #client{joined = Joined, linked = Linked} = Cl0) ->
    Cl = as_joined(Name, members_changed(Cl0, Cl0#client{joined = Joined#{Name => Spec},
                                                         fresh = false})),
    case is_map_key(Name, Linked) of
        true -> hello(Name, Cl);
        false -> fx({connect, Spec}, fx({cancel, {dial, Name}}, Cl))
    end;
client({leave, Name}, #client{self = #{name := Name}} = Cl) -> leave(Cl);
client({leave, Name}, Cl) -> failover(part(Name, true, Cl));
client({call, Tag, {reserve, _}}, Cl) -> fx({reply, Tag, {error, no_available_slots}}, Cl);
client({call, Tag, _}, Cl) -> fx({reply, Tag, {error, not_implemented}}, Cl);
client({up, Name}, #client{linked = Linked, dial = Dial} = Cl0) ->
    Cl = fx({cancel, {dial, Name}},
            Cl0#client{linked = Linked#{Name => []},
                       dial = partisan_overlay_dial:forget(Name, Dial)}),
    case is_wanted(Name, Cl) of
        true -> hello(Name, Cl);
        false -> fx({send, Name, here}, Cl)
    end;
client({down, Name, Reason}, Cl) -> lost(Name, Reason, Cl);
client({msg, From, {welcome, Servers}}, #client{fresh = Fresh} = Cl) ->
    case is_wanted(From, Cl) of
        true -> welcomed(From, Servers, Cl);
        false when Fresh -> client({join, #{name => From}}, Cl); % we were its client before
        false -> fx({send, From, bye}, Cl) % meanwhile we have left it
    end;
client({msg, From, {servers, Known}}, #client{servers = Servers} = Cl)
  when is_map_key(From, Servers) ->
    failover(Cl#client{known = Known, queue = []});
client({msg, From, here}, Cl) ->
    case is_wanted(From, Cl) of
        true -> hello(From, Cl);
        false -> Cl
    end;
%% The server leaves, or was told to do without us.
client({msg, From, bye}, Cl) -> failover(part(From, false, Cl));
client({msg, From, no_server}, Cl) ->
    case is_wanted(From, Cl) of
        true -> failover(part(From, false, fx({log, warning, "partisan: ~ts is a client (option tag) "
                                               "and cannot be joined", [From]}, Cl)));
        false -> Cl
    end;
client({msg, From, {mesh, _}}, Cl) -> fx({send, From, no_server}, Cl);
client({msg, From, {hello, _}}, Cl) -> fx({send, From, no_server}, Cl);
client({timer, {dial, Name}}, #client{joined = Joined, linked = Linked} = Cl) ->
    case Joined of
        #{Name := Spec} when not is_map_key(Name, Linked) -> fx({connect, Spec}, Cl);
        #{} -> Cl
    end;
client({timer, failover}, Cl) -> failover(Cl);
client({timer, {part, Name}}, #client{linked = Linked} = Cl) ->
    case is_map_key(Name, Linked) andalso not is_wanted(Name, Cl) of
        true -> fx({disconnect, Name}, Cl);
        false -> Cl
    end;
client(_Other, Cl) -> Cl.

hello(Name, #client{self = Self} = Cl) ->
    fx({send, Name, {hello, Self}}, Cl).

is_wanted(Name, #client{joined = Joined, backup = Backup}) ->
    is_map_key(Name, Joined) orelse is_backup(Name, Backup).

is_backup(Name, #{name := Name}) -> true;
is_backup(_Name, _) -> false.

%% What was a stopgap is now wanted for good.
as_joined(Name, #client{backup = Backup} = Cl) ->
    case is_backup(Name, Backup) of
        true -> Cl#client{backup = none};
        false -> Cl
    end.

welcomed(From, Known, #client{servers = Servers, joined = Joined, backup = Backup} = Cl0) ->
    Spec = case [S || #{name := Name} = S <- Known, Name =:= From] of
               [Found | _] -> Found;
               [] -> maps:get(From, Joined, #{name => From})
           end,
    Cl1 = Cl0#client{servers = Servers#{From => Spec}, known = Known, queue = []},
    Cl2 = case is_map_key(From, Servers) of
              true -> Cl1;
              false -> fx({notify, {neighbour_up, Spec}}, Cl1)
          end,
    Cl = route(members_changed(Cl0, Cl2)),
    case Backup of
        #{name := Stopgap} when is_map_key(From, Joined) -> part(Stopgap, true, Cl);
        _ -> Cl
    end.

lost(Name, Reason, #client{linked = Linked, servers = Servers, closing = Closing,
                           backup = Backup} = Cl0) ->
    Quiet = fx({cancel, {part, Name}}, Cl0),
    Cl1 = Quiet#client{linked = maps:remove(Name, Linked), servers = maps:remove(Name, Servers),
                     closing = maps:remove(Name, Closing),
                     backup = case is_backup(Name, Backup) of
                                  true -> none;
                                  false -> Backup
                              end},
    Cl2 = case is_map_key(Name, Servers) of
              true -> fx({notify, {neighbour_down, Name, Reason}}, Cl1);
              false -> Cl1
          end,
    Cl3 = case is_map_key(Name, Closing) andalso map_size(Cl2#client.closing) =:= 0 of
              true -> fx({notify, left}, Cl2);
              false -> Cl2
          end,
    failover(redial(Name, route(members_changed(Cl0, Cl3)))).

redial(Name, #client{joined = Joined, dial = Dial0, rand = Rand0} = Cl) ->
    case is_map_key(Name, Joined) of
        true ->
            {Ms, Dial, Rand} = partisan_overlay_dial:pause(Name, Dial0, Rand0),
            fx({timer, {dial, Name}, Ms}, Cl#client{dial = Dial, rand = Rand});
        false ->
            Cl
    end.

%% No server at all, and nobody is asked yet: the next of those that we were told of; after the last
%% one a pause, and all again.
failover(#client{joined = Joined, servers = Servers, backup = none, known = [_ | _]} = Cl0)
  when map_size(Servers) =:= 0 ->
    case Cl0#client.queue of
        [Spec | Rest] ->
            fx({connect, Spec}, Cl0#client{backup = Spec, queue = Rest});
        [] ->
            case shuffle([S || #{name := Name} = S <- Cl0#client.known,
                               not is_map_key(Name, Joined)], Cl0) of
                {[], Cl} ->
                    Cl;
                {Queue, #client{dial = Dial0, rand = Rand0} = Cl} ->
                    {Ms, Dial, Rand} = partisan_overlay_dial:pause(failover, Dial0, Rand0),
                    fx({timer, failover, Ms}, Cl#client{queue = Queue, dial = Dial, rand = Rand})
            end
    end;
failover(#client{dial = Dial} = Cl) ->
    Cl#client{dial = case map_size(Cl#client.servers) of
                         0 -> Dial;
                         _ -> partisan_overlay_dial:forget(failover, Dial)
                     end}.

part(Name, Say, #client{joined = Joined, servers = Servers, linked = Linked, backup = Backup,
                        known = Known, dial = Dial} = Cl0) ->
    case is_wanted(Name, Cl0) orelse is_map_key(Name, Servers) of
        false ->
            Cl0;
        true ->
            Cl1 = case Say andalso is_map_key(Name, Linked) of
                      true -> fx({send, Name, bye}, Cl0);
                      false -> Cl0
                  end,
            Stopgap = is_backup(Name, Backup),
            Cl2 = Cl1#client{joined = maps:remove(Name, Joined),
                             servers = maps:remove(Name, Servers),
                             dial = partisan_overlay_dial:forget(Name, Dial),
                             backup = if Stopgap -> none; true -> Backup end,
                             %% One that we left, or that left, is no stopgap later either.
                             known = if
                                         Stopgap -> Known;
                                         true -> [S || #{name := N} = S <- Known, N =/= Name]
                                     end},
            Cl3 = case is_map_key(Name, Servers) of
                      true -> fx({notify, {neighbour_down, Name, left}}, Cl2);
                      false -> Cl2
                  end,
            close(Say, Name, fx({cancel, {dial, Name}}, route(members_changed(Cl0, Cl3))))
    end.

%% Who said bye closes the link, behind all that its node had sent; the other one waits for that.
close(true, Name, S) -> fx({disconnect, Name}, S);
close(false, Name, S) -> fx({timer, {part, Name}, ?PART_MS}, S).

leave(#client{joined = Joined, servers = Servers, linked = Linked, backup = Backup} = Cl0) ->
    Wanted = lists:usort([Name || #{name := Name} <- [Backup], Backup =/= none]
                         ++ maps:keys(Joined) ++ maps:keys(Servers)),
    Cl1 = lists:foldl(fun(Name, Acc) -> part(Name, true, Acc) end, Cl0, Wanted),
    Cl = fx({cancel, failover}, Cl1#client{known = [], queue = [], fresh = false}),
    case [Name || Name <- Wanted, is_map_key(Name, Linked)] of
        [] -> fx({notify, left}, Cl);
        Links -> Cl#client{closing = maps:from_keys(Links, [])}
    end.

%% The relay stays the same while it can, for the order of what it relays.
route(#client{servers = Servers, default = Old} = Cl) ->
    case lists:sort(maps:keys(Servers)) of
        _ when is_map_key(Old, Servers) -> Cl;
        [New | _] -> fx({routes, [{default, New}], []}, Cl#client{default = New});
        [] when Old =:= none -> Cl;
        [] -> fx({routes, [], [default]}, Cl#client{default = none})
    end.

client_members(#client{self = #{name := Name} = Self, joined = Joined, servers = Servers}) ->
    [Spec || {_, Spec} <- lists:sort(maps:to_list((maps:merge(Joined, Servers))#{Name => Self}))].

members_changed(Before, After) ->
    Members = client_members(After),
    case client_members(Before) of
        Members -> After;
        _ -> fx({members, Members}, After)
    end.

shuffle(List, #client{rand = Rand0} = Cl) ->
    {Keyed, Rand} = lists:mapfoldl(fun(X, Acc0) ->
                                           {Key, Acc} = rand:uniform_s(Acc0),
                                           {{Key, X}, Acc}
                                   end, Rand0, List),
    {[X || {_, X} <- lists:sort(Keyed)], Cl#client{rand = Rand}}.

%% ------------------------------------------------------------------------------------------------
%% A server

server({leave, Name}, #server{self = #{name := Name}, clients = Clients} = Sv) ->
    mesh({leave, Name}, lists:foldl(fun(Client, Acc) -> detach(Client, true, left, Acc) end, Sv,
                                    lists:sort(maps:keys(Clients))));
server({leave, Name}, #server{clients = Clients} = Sv) when is_map_key(Name, Clients) ->
    detach(Name, true, left, Sv);
server({call, Tag, {update, _}}, Sv) ->
    fx({reply, Tag, {error, not_implemented}}, Sv);
server({up, Name}, Sv) ->
    fx({send, Name, here}, mesh({up, Name}, Sv));
server({down, Name, Reason}, Sv) ->
    Quiet = fx({cancel, {part, Name}}, Sv),
    mesh({down, Name, Reason}, elsewhere(Name, [], all, detach(Name, false, Reason, Quiet)));
server({msg, From, {mesh, Term}}, Sv) ->
    mesh({msg, From, Term}, Sv);
server({msg, From, {hello, #{name := From} = Spec}}, Sv) ->
    attach(From, Spec, Sv);
server({msg, From, here}, #server{clients = Clients, specs = Specs} = Sv)
  when is_map_key(From, Clients) ->
    fx({send, From, {welcome, Specs}}, Sv);
server({msg, From, bye}, Sv) ->
    detach(From, false, left, Sv);
%% It may have us for a server of its mesh before we have it.
server({msg, From, {clients, Come, Gone}}, Sv) ->
    elsewhere(From, Come, Gone, Sv);
%% An answer to a join, or only to the core's question whether we are known.
server({msg, From, no_server}, #server{mesh = Mesh} = Sv) ->
    case lists:member(From, maps:get(joining, partisan_overlay_full:info(Mesh))) of
        true -> mesh({leave, From}, fx({log, warning, "partisan: ~ts is a client (option tag) and "
                                        "cannot be joined: clients join servers", [From]}, Sv));
        false -> Sv
    end;
server({msg, _, _}, Sv) ->
    Sv;
server({timer, {mesh, Name}}, Sv) ->
    mesh({timer, Name}, Sv);
server({timer, {part, Name}}, #server{clients = Clients} = Sv) ->
    case is_map_key(Name, Clients) of
        true -> Sv; % it is back
        false -> fx({disconnect, Name}, Sv)
    end;
server({timer, _}, Sv) ->
    Sv;
server(Event, Sv) ->
    mesh(Event, Sv).

mesh(Event, #server{mesh = Mesh0, now = Now} = Sv) ->
    {Mesh, Effects} = partisan_overlay_full:handle(Event, Now, Mesh0),
    mesh_effects(Effects, Sv#server{mesh = Mesh}).

mesh_effects(Effects, Sv) ->
    lists:foldl(fun mesh_effect/2, Sv, Effects).

mesh_effect({send, Node, Term}, Sv) -> fx({send, Node, {mesh, Term}}, Sv);
mesh_effect({timer, Name, Ms}, Sv) -> fx({timer, {mesh, Name}, Ms}, Sv);
mesh_effect({cancel, Name}, Sv) -> fx({cancel, {mesh, Name}}, Sv);
mesh_effect({members, Specs} = Effect, #server{clients = Clients} = Sv) ->
    lists:foldl(fun(Client, Acc) -> fx({send, Client, {servers, Specs}}, Acc) end,
                fx(Effect, Sv#server{specs = Specs}), lists:sort(maps:keys(Clients)));
mesh_effect({notify, {neighbour_up, #{name := Name}}} = Effect,
            #server{mates = Mates, clients = Clients} = Sv) ->
    fx({send, Name, {clients, lists:sort(maps:keys(Clients)), []}},
       fx(Effect, Sv#server{mates = Mates#{Name => []}}));
mesh_effect({notify, {neighbour_down, Name, _}} = Effect, #server{mates = Mates} = Sv) ->
    fx(Effect, elsewhere(Name, [], all, Sv#server{mates = maps:remove(Name, Mates)}));
mesh_effect(Effect, Sv) -> fx(Effect, Sv).

attach(Name, Spec, #server{clients = Clients, specs = Specs} = Sv0) ->
    Sv = fx({send, Name, {welcome, Specs}}, Sv0#server{clients = Clients#{Name => Spec}}),
    case is_map_key(Name, Clients) of
        true -> Sv;
        false -> tell_mates([Name], [], fx({notify, {neighbour_up, Spec}}, Sv))
    end.

detach(Name, Say, Reason, #server{clients = Clients} = Sv0) ->
    case is_map_key(Name, Clients) of
        false ->
            Sv0;
        true ->
            Sv1 = case Say of
                      true -> fx({send, Name, bye}, Sv0);
                      false -> Sv0
                  end,
            Sv2 = fx({notify, {neighbour_down, Name, Reason}},
                     Sv1#server{clients = maps:remove(Name, Clients)}),
            Sv3 = case Reason of
                      left -> close(Say, Name, Sv2);
                      _ -> Sv2
                  end,
            tell_mates([], [Name], Sv3)
    end.

tell_mates(Come, Gone, #server{mates = Mates} = Sv) ->
    lists:foldl(fun(Mate, Acc) -> fx({send, Mate, {clients, Come, Gone}}, Acc) end, Sv,
                lists:sort(maps:keys(Mates))).

%% Clients that came to Server or went from it. Of several servers of a client the first relays,
%% as long as it is one.
elsewhere(Server, Come, all, #server{others = Others} = Sv) ->
    elsewhere(Server, Come, [Name || {Name, Servers} <- lists:sort(maps:to_list(Others)),
                                     lists:member(Server, Servers)], Sv);
elsewhere(Server, Come, Gone, #server{others = Others0} = Sv) ->
    Others1 = lists:foldl(fun(Name, Acc) ->
                                  Known = maps:get(Name, Acc, []),
                                  Acc#{Name => (Known -- [Server]) ++ [Server]}
                          end, Others0, Come),
    Others2 = lists:foldl(fun(Name, Acc) ->
                                  case maps:get(Name, Acc, []) -- [Server] of
                                      [] -> maps:remove(Name, Acc);
                                      Left -> Acc#{Name => Left}
                                  end
                          end, Others1, Gone),
    Touched = lists:usort(Come ++ Gone),
    Add = [{Name, hd(maps:get(Name, Others2))} || Name <- Touched, is_map_key(Name, Others2),
                                                  first(Name, Others0) =/= first(Name, Others2)],
    Remove = [Name || Name <- Touched, is_map_key(Name, Others0), not is_map_key(Name, Others2)],
    case {Add, Remove} of
        {[], []} -> Sv#server{others = Others2};
        _ -> fx({routes, Add, Remove}, Sv#server{others = Others2})
    end.

first(Name, Others) ->
    case Others of
        #{Name := [Server | _]} -> Server;
        #{} -> none
    end.
