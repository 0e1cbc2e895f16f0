%% Nodes with the application started, for the suites of membership and overlays.
-module(pt_cluster).

-export([start/1, start/2, start/3, restart/2, app/2, join/2, stop/1, names/1]).
-export([members/1, neighbours/1, all_members/1, is_cluster/1, is_mesh/1, service/3]).

start(N) -> start(N, []).

%% N nodes, each with Env as environment of the application; started, not joined.
start(N, Env) -> start(N, Env, #{}).

%% The number of nodes, or an environment for each; Opts as pt_peer has them.
start(N, Env, Opts) when is_integer(N) -> start(lists:duplicate(N, []), Env, Opts);
start(Envs, Common, Opts) -> [app(pt_peer:start(m, Opts), Env ++ Common) || Env <- Envs].

app(Peer, Env0) ->
    %% Short times: a test that waits for a round of gossip should not wait for ten seconds.
    Env = Env0 ++ [{periodic_interval, 500}, {connection_interval, 100}],
    ok = pt_peer:eval(Peer, fun() ->
                                    _ = application:load(partisan),
                                    lists:foreach(fun({Key, Value}) ->
                                                          application:set_env(partisan, Key, Value)
                                                  end, lists:reverse(Env)),
                                    {ok, _} = application:ensure_all_started(partisan),
                                    ok
                            end),
    Peer.

%% A new node of the same name.
restart(Peer, Env) ->
    [Name, _] = string:lexemes(atom_to_list(pt_peer:node(Peer)), "@"),
    pt_peer:kill(Peer),
    true = pt_peer:wait(fun() ->
                                {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
                                not lists:keymember(Name, 1, Names)
                        end),
    app(pt_peer:start(m, #{name => Name}), Env).

service(Peer, Function, Args) ->
    pt_peer:call(Peer, partisan_peer_service, Function, Args).

%% Each joins the first.
join([First | Rest], How) ->
    [ok = service(Peer, How, [pt_peer:node(First)]) || Peer <- Rest],
    ok.

stop(Peers) -> lists:foreach(fun pt_peer:stop/1, Peers).

names(Peers) -> lists:sort([pt_peer:node(Peer) || Peer <- Peers]).

members(Peer) ->
    {ok, Members} = service(Peer, members, []),
    lists:sort(Members).

neighbours(Peer) ->
    {ok, Nodes} = pt_peer:call(Peer, partisan_overlay_shell, neighbours, []),
    Nodes.

all_members(Peers) -> lists:usort([members(Peer) || Peer <- Peers]).

%% Everybody takes these and no others for members.
is_cluster(Peers) -> all_members(Peers) =:= [names(Peers)].

is_mesh(Peers) ->
    Names = names(Peers),
    is_cluster(Peers) andalso
        lists:all(fun(Peer) -> neighbours(Peer) =:= Names -- [pt_peer:node(Peer)] end, Peers).
