%% The cores of full mesh, static and client-server, simulated: nodes that join, leave, die, come
%% back, are cut off from each other and lose messages, and what must be so when that is over.
-module(prop_members).

-include("pt_proper.hrl").

-import(proper_types, [frequency/1, integer/2, list/1, oneof/1]).

-export([prop_full_mesh_agrees/0, prop_nobody_comes_back/0, prop_join_is_kept/0,
         prop_clients_find_servers/0, prop_static_links/0]).
%% The overlay that pt_sim runs: one of the cores, with a configuration that depends on the node.
-export([init/4, handle/3, info/1]).

%% Longer than any cut here: who is taken out while it is away learns of it only as long as the others
%% remember (docs/membership.md).
-define(DAY, 86400000).
-define(QUIET, 120000). % ms of virtual time, several times what anything here waits for

init(#{name := Name} = Self, #{core := Core, config := Config}, Now, Rand) ->
    {State, Effects} = Core:init(Self, Config(Name, Now), Now, Rand),
    {{Core, State}, Effects}.

handle(Event, Now, {Core, State0}) ->
    {State, Effects} = Core:handle(Event, Now, State0),
    {{Core, State}, Effects}.

info({Core, State}) -> Core:info(State).

sim(Core, Config, Seed) ->
    pt_sim:new(#{overlay => {?MODULE, #{core => Core, config => Config}}, seed => Seed,
                 dial_timeout => 2000, acc => #{},
                 collect => fun(Node, overlay, {routes, Add, Gone}, Acc) ->
                                    Routes = maps:without(Gone, maps:get(Node, Acc, #{})),
                                    Acc#{Node => maps:merge(Routes, maps:from_list(Add))};
                               (_Node, _Layer, _Effect, Acc) ->
                                    Acc
                            end}).

name(Letter, N) -> list_to_atom(Letter ++ integer_to_list(N)).

%% ------------------------------------------------------------------------------------------------
%% Full mesh

%% What a node that starts again knows of itself is that it is later.
%% Links of nodes that are no members any more stay (the managers of the full mesh) or are closed (the
%% servers of the client-server overlay): by the seed.
full(Keep, Seed) ->
    sim(partisan_overlay_full,
        fun(_Name, Now) -> #{incarnation => Now + 1, tombstone_keep => Keep,
                             keep_links => Seed rem 2 =:= 0} end, Seed).

named(N) -> [name("n", I) || I <- lists:seq(1, N)].

%% Joins, leaves, deaths and cuts in any order: in the end all members of a cluster agree on who
%% they are, and are linked, each with each. Tombstones outlive the run: who was taken out unseen and
%% comes back when all have forgotten that is the case that nobody can decide (docs/membership.md).
prop_full_mesh_agrees() ->
    ?FORALL({N, Seed, Commands}, {integer(2, 7), integer(1, 1 bsl 30), list(command())},
        begin
            Nodes = named(N),
            Start = lists:foldl(fun pt_sim:start/2, full(3600000, Seed), Nodes),
            End = quiet(Nodes, run(Commands, Nodes, Start)),
            ?WHENFAIL(show(Nodes, End), agrees(Nodes, End))
        end).

%% A cluster, and then nobody joins any more: who left stays away, whatever was said before and is
%% repeated by whoever was cut off. Who starts again after it left is another matter: it has
%% forgotten that it did, and so may those that it told.
prop_nobody_comes_back() ->
    ?FORALL({N, Seed, Commands}, {integer(2, 6), integer(1, 1 bsl 30), list(command())},
        begin
            Nodes = named(N),
            [First | Rest] = Nodes,
            Start = lists:foldl(fun pt_sim:start/2, full(?DAY, Seed), Nodes),
            Joined = pt_sim:run(?QUIET, lists:foldl(fun(Name, S) -> pt_sim:join(Name, First, S) end,
                                                    Start, Rest)),
            NoJoins = [C || C <- Commands, element(1, C) =/= join],
            End = quiet(Nodes, run(NoJoins, Nodes, Joined)),
            ?WHENFAIL(show(Nodes, End),
                      agrees(Nodes, Joined) andalso agrees(Nodes, End)
                          andalso lists:all(fun(Name) -> members(Name, End) =:= [Name] end,
                                            left(NoJoins, Nodes)))
        end).

%% A join that is asked for right behind a removal of the same node, by either of the two, with the
%% news of that under way or not even sent: both are members of one cluster soon, and stay it.
prop_join_is_kept() ->
    ?FORALL({N, Seed, Who, Removals},
            frequency([{30, {integer(2, 5), integer(1, 1 bsl 30), oneof([joiner, other]), list(removal())}},
                       {1, found_once()}]),
        begin
            Nodes = [A, B | _] = named(N),
            Start = lists:foldl(fun pt_sim:start/2, full(?DAY, Seed), Nodes),
            Joined = pt_sim:run(?QUIET, lists:foldl(fun(Name, S) -> pt_sim:join(Name, A, S) end, Start,
                                                    Nodes -- [A])),
            Removed = lists:foldl(fun(Removal, S) -> remove(Removal, A, B, S) end, Joined, Removals),
            Asked = case Who of
                        joiner -> pt_sim:join(A, B, Removed);
                        other -> pt_sim:join(B, A, Removed)
                    end,
            Soon = pt_sim:run(12000, Asked),
            Later = pt_sim:run(?QUIET, Soon),
            ?WHENFAIL(show(Nodes, Soon),
                      agrees(Nodes, Joined) andalso
                          lists:all(fun(S) -> lists:member(B, members(A, S))
                                                  andalso lists:member(A, members(B, S))
                                                  andalso lists:member(B, pt_sim:neighbours(A, S))
                                    end, [Soon, Later]))
        end).

%% Two answers to earlier joins are under way when the last is asked.
found_once() ->
    {3, 4, joiner, [left, join, taken_out, {run, 5}, join, {run, 20}, taken_out]}.

%% B takes A out, A leaves, or they are one cluster again and the links are closed or not.
removal() ->
    oneof([taken_out, left, join, {run, oneof([1, 5, 20, 60, 500, 2500, 5000])}]).

remove(taken_out, A, B, S) -> pt_sim:tell(B, overlay, {leave, A}, S);
remove(left, A, _B, S) -> pt_sim:tell(A, overlay, {leave, A}, S);
remove(join, A, B, S) -> pt_sim:join(A, B, S);
remove({run, Ms}, _A, _B, S) -> pt_sim:run(Ms, S).

command() ->
    frequency([{4, {join, nth(), nth()}},
               {3, {leave, nth(), nth()}},
               {2, {leave_self, nth()}},
               {2, {kill, nth()}},
               {3, {start, nth()}},
               {2, {cut, integer(1, 127)}},
               {2, mend},
               {6, {run, oneof([1, 20, 500, 5000, 70000])}}]).

nth() -> integer(1, 7).

pick(I, Nodes) -> lists:nth((I - 1) rem length(Nodes) + 1, Nodes).

run(Commands, Nodes, Sim) ->
    lists:foldl(fun(Command, S) -> do(Command, Nodes, S) end, Sim, Commands).

do({join, I, J}, Nodes, S) ->
    case {pick(I, Nodes), pick(J, Nodes)} of
        {Same, Same} -> S;
        {A, B} -> pt_sim:join(A, B, S)
    end;
do({leave, I, J}, Nodes, S) -> pt_sim:tell(pick(I, Nodes), overlay, {leave, pick(J, Nodes)}, S);
do({leave_self, I}, Nodes, S) -> do({leave, I, I}, Nodes, S);
do({kill, I}, Nodes, S) -> pt_sim:kill([pick(I, Nodes)], S);
do({start, I}, Nodes, S) -> start(pick(I, Nodes), S);
do({cut, Bits}, Nodes, S) ->
    {A, B} = lists:partition(fun({I, _}) -> Bits band (1 bsl I) =/= 0 end, lists:enumerate(0, Nodes)),
    pt_sim:cut([[Name || {_, Name} <- A], [Name || {_, Name} <- B]], S);
do(mend, _Nodes, S) -> pt_sim:mend(S);
do({run, Ms}, _Nodes, S) -> pt_sim:run(Ms, S).

start(Name, S) ->
    case pt_sim:is_alive(Name, S) of
        true -> S;
        false -> pt_sim:start(Name, S)
    end.

quiet(_Nodes, S) -> pt_sim:run(?QUIET, pt_sim:mend(S)).

%% Those that left themselves and were not started again since.
left(Commands, Nodes) ->
    {Alive, Left} =
        lists:foldl(fun({leave_self, I}, {Alive, Left}) ->
                            Name = pick(I, Nodes),
                            case lists:member(Name, Alive) of
                                true -> {Alive, [Name | Left]};
                                false -> {Alive, Left}
                            end;
                       ({leave, I, J}, Acc) when I =/= J ->
                            Acc;
                       ({kill, I}, {Alive, Left}) ->
                            {Alive -- [pick(I, Nodes)], Left -- [pick(I, Nodes), pick(I, Nodes)]};
                       ({start, I}, {Alive, Left}) ->
                            {lists:usort([pick(I, Nodes) | Alive]), Left};
                       (_, Acc) ->
                            Acc
                    end, {Nodes, []}, Commands),
    [Name || Name <- lists:usort(Left), lists:member(Name, Alive)].

members(Name, S) -> [Member || #{name := Member} <- maps:get(members, pt_sim:overlay(Name, S))].

agrees(Nodes, S) ->
    Alive = [Name || Name <- Nodes, pt_sim:is_alive(Name, S)],
    lists:all(fun(Name) ->
                      Members = members(Name, S),
                      Others = [M || M <- Members, M =/= Name, lists:member(M, Alive)],
                      lists:member(Name, Members)
                          andalso lists:all(fun(M) -> members(M, S) =:= Members end, Others)
                          andalso pt_sim:neighbours(Name, S) =:= Others
              end, Alive).

show(Nodes, S) ->
    [io:format("~p: ~p~n", [Name, pt_sim:overlay(Name, S)])
     || Name <- Nodes, pt_sim:is_alive(Name, S)].

%% ------------------------------------------------------------------------------------------------
%% Clients and servers

%% s1 to s3 are servers, joined at the start; c1 to c4 join one or two of them. Servers die and come
%% back, clients too. In the end every client has a server if one lives that it joined or was told
%% of, clients are linked with servers only, and the routes lead from every client that has a server
%% to every other.
prop_clients_find_servers() ->
    ?FORALL({Seed, Homes, Commands},
            {integer(1, 1 bsl 30), proper_types:vector(4, {integer(1, 3), integer(1, 3)}),
             list(frequency([{3, {kill, integer(1, 7)}}, {3, {start, integer(1, 7)}},
                             {4, {run, oneof([5, 300, 5000, 40000])}}]))},
        begin
            Servers = [name("s", I) || I <- [1, 2, 3]],
            Clients = [name("c", I) || I <- [1, 2, 3, 4]],
            Nodes = Servers ++ Clients,
            Sim = sim(partisan_overlay_client_server,
                      fun(Name, Now) -> #{tag => tag(Name), incarnation => Now + 1} end, Seed),
            Joins = [{s2, s1}, {s3, s1}]
                ++ lists:append([[{C, name("s", X)}, {C, name("s", Y)}]
                                 || {C, {X, Y}} <- lists:zip(Clients, Homes)]),
            Start = lists:foldl(fun pt_sim:start/2, Sim, Nodes),
            Up = pt_sim:run(?QUIET, lists:foldl(fun({A, B}, S) -> pt_sim:join(A, B, S) end, Start,
                                                Joins)),
            Done = lists:foldl(fun(Command, S) -> again(Command, Nodes, Joins, S) end, Up, Commands),
            End = quiet(Nodes, Done),
            ?WHENFAIL(begin show(Nodes, End), io:format("~p~n", [pt_sim:collected(End)]) end,
                      star(Servers, Clients, Joins, Up)
                          andalso star(Servers, Clients, Joins, End))
        end).

tag(Name) ->
    case atom_to_list(Name) of
        "s" ++ _ -> server;
        "c" ++ _ -> client
    end.

%% A client that starts again joins what its configuration says; a server is taken back, unless all
%% are gone at once, so it joins the others too.
again({start, I}, Nodes, Joins, S) ->
    Name = pick(I, Nodes),
    case pt_sim:is_alive(Name, S) of
        true -> S;
        false ->
            Mine = [B || {A, B} <- Joins, A =:= Name]
                ++ [Other || tag(Name) =:= server, Other <- [s1, s2, s3], Other =/= Name],
            Fresh = pt_sim:set_collected(maps:remove(Name, pt_sim:collected(S)), S),
            lists:foldl(fun(Other, Acc) -> pt_sim:join(Name, Other, Acc) end,
                        pt_sim:start(Name, Fresh), Mine)
    end;
again(Command, Nodes, _Joins, S) -> do(Command, Nodes, S).

star(Servers0, Clients0, Joins, S) ->
    Servers = [Name || Name <- Servers0, pt_sim:is_alive(Name, S)],
    {Clients, Alone} = lists:partition(fun(Name) -> pt_sim:neighbours(Name, S) =/= [] end,
                                       [Name || Name <- Clients0, pt_sim:is_alive(Name, S)]),
    lists:all(fun(Client) -> pt_sim:neighbours(Client, S) -- Servers =:= [] end, Clients)
        andalso lists:all(fun(Client) ->
                                  #{known_servers := Told} = pt_sim:overlay(Client, S),
                                  Known = Told ++ [Server || {C, Server} <- Joins, C =:= Client],
                                  not lists:any(fun(Name) -> lists:member(Name, Servers) end, Known)
                          end, Alone)
        andalso lists:all(fun(Server) ->
                                  pt_sim:neighbours(Server, S) -- Clients =:= Servers -- [Server]
                          end, Servers)
        andalso (Servers =:= [] orelse
                 lists:all(fun({A, B}) -> leads(A, B, 4, S) end,
                           [{A, B} || A <- Clients, B <- Clients ++ Servers, A =/= B])).

leads(At, At, _Hops, _S) -> true;
leads(_At, _To, 0, _S) -> false;
leads(At, To, Hops, S) ->
    case lists:member(To, pt_sim:neighbours(At, S)) of
        true -> true;
        false ->
            Routes = maps:get(At, pt_sim:collected(S), #{}),
            case maps:get(To, Routes, maps:get(default, Routes, none)) of
                none -> false;
                Via -> lists:member(Via, pt_sim:neighbours(At, S)) andalso leads(Via, To, Hops - 1, S)
            end
    end.

%% ------------------------------------------------------------------------------------------------
%% Static links

%% Whatever happens, links are those of the configuration, of either side; and in the end they are
%% all there.
prop_static_links() ->
    ?FORALL({Seed, Pairs, Commands},
            {integer(1, 1 bsl 30), list({integer(1, 5), integer(1, 5)}),
             list(frequency([{2, {kill, nth()}}, {3, {start, nth()}}, {2, {cut, integer(1, 31)}},
                             {2, mend}, {4, {run, oneof([5, 300, 5000])}}]))},
        begin
            Nodes = named(5),
            Edges = [{pick(I, Nodes), pick(J, Nodes)} || {I, J} <- Pairs, I =/= J],
            Sim = sim(partisan_overlay_static,
                      fun(Name, _Now) -> #{peers => [pt_sim:spec(B) || {A, B} <- Edges, A =:= Name]} end,
                      Seed),
            Start = lists:foldl(fun pt_sim:start/2, Sim, Nodes),
            {Good, Done} = lists:foldl(fun(Command, {Ok, S0}) ->
                                               S = do(Command, Nodes, S0),
                                               {Ok andalso within(Nodes, Edges, S), S}
                                       end, {true, Start}, Commands),
            End = quiet(Nodes, lists:foldl(fun start/2, Done, Nodes)),
            ?WHENFAIL(show(Nodes, End),
                      Good andalso lists:all(fun(Name) ->
                                                     pt_sim:neighbours(Name, End) =:= edges(Name, Edges)
                                             end, Nodes))
        end).

within(Nodes, Edges, S) ->
    lists:all(fun(Name) ->
                      not pt_sim:is_alive(Name, S)
                          orelse pt_sim:neighbours(Name, S) -- edges(Name, Edges) =:= []
              end, Nodes).

edges(Name, Edges) ->
    lists:usort([B || {A, B} <- Edges, A =:= Name] ++ [A || {A, B} <- Edges, B =:= Name]).
