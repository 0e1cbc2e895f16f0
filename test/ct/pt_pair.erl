%% Pairs of nodes for the suites, and short words for what is done on them.
-module(pt_pair).

-export([cast/2, do/2, do_on/3, free_port/0, ipv6_opts/0, lanes_of/3, listen_port/1, monitor_nodes/2, nodes_of/2,
         nothing_left/0, on/2, pair/0, pair/2, stop/1]).

pair() -> pair(#{}, #{}).
pair(OptsA, OptsB) ->
    {A, B} = nodes_of(OptsA, OptsB),
    pt_peer:connect(A, B),
    {A, B}.

nodes_of(OptsA, OptsB) -> {pt_peer:start(tr, OptsA), pt_peer:start(tr, OptsB)}.

stop(Peers) -> lists:foreach(fun pt_peer:stop/1, Peers).

on(Peer, Fun) -> pt_peer:eval(Peer, Fun).

%% Without waiting for an answer: the node may end in it.
cast(#{ctl := Ctl}, Fun) ->
    unlink(Ctl),
    peer:cast(Ctl, erlang, apply, [Fun, []]).

%% Runs a fun in a collector.
do(Pid, Fun) ->
    Ref = make_ref(),
    Pid ! {pt_do, self(), Ref, Fun},
    receive {Ref, X} -> X end.

do_on(Peer, Pid, Fun) -> on(Peer, fun() -> do(Pid, Fun) end).

monitor_nodes(Peer, Opts) ->
    C = pt_peer:spawn_collector(Peer),
    ok = do_on(Peer, C, fun() -> case Opts of
                                     default -> net_kernel:monitor_nodes(true);
                                     [] -> net_kernel:monitor_nodes(true);
                                     _ -> net_kernel:monitor_nodes(true, Opts)
                                 end end),
    C.

nothing_left() ->
    receive X -> error({unexpected, X}) after 100 -> ok end.

listen_port(Peer) ->
    [Name, _] = string:lexemes(atom_to_list(pt_peer:node(Peer)), "@"),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    {_, Port} = lists:keyfind(Name, 1, Names),
    Port.

%% For a node that is about to start: below the ports that the kernel gives to others meanwhile.
free_port() ->
    Port = 20000 + rand:uniform(10000),
    case gen_tcp:listen(Port, [{ip, {127, 0, 0, 1}}]) of
        {ok, L} ->
            ok = gen_tcp:close(L),
            Port;
        {error, eaddrinuse} ->
            free_port()
    end.

%% Has Peer so many lanes to Node? True of what has none.
lanes_of(Peer, Node, Lanes) ->
    case pt_peer:carrier() of
        "partisan" ->
            case pt_peer:call(Peer, partisan_dist, info, [Node]) of
                #{lanes_attached := N} -> N =:= Lanes;
                _ -> false
            end;
        _ ->
            true
    end.

%% One set of options for a node on IPv6, none where this machine has no such loopback.
ipv6_opts() ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {error, _} ->
            [];
        {ok, L} ->
            gen_tcp:close(L),
            Carrier = case pt_peer:carrier() of
                          "inet_tcp" -> "inet6_tcp";
                          "partisan" -> "partisan6"
                      end,
            [#{carrier => Carrier, host => "::1"}]
    end.
