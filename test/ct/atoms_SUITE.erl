%% Atoms between real nodes: thousands, so that the slots of the VM's cache collide all the time,
%% long ones, hundreds in one message; in small and in large messages of many processes, over lanes
%% that are paused at random. Each message is judged where it arrives and where it comes back.
-module(atoms_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([four_lanes/1, one_lane/1, another_connection/1]).
-export([server/0, client/4]).

-define(ATOMS, 5000).
-define(CLIENTS, 10).
-define(ROUNDS, 150).
-define(IN_FLIGHT, 6).

suite() -> [{timetrap, {seconds, 240}}].

all() -> [four_lanes, one_lane, another_connection].

four_lanes(_Config) -> with_nodes("4", fun(A, B) -> traffic(A, B, ?ROUNDS) end).

one_lane(_Config) -> with_nodes("1", fun(A, B) -> traffic(A, B, ?ROUNDS) end).

%% The next connection's caches are empty, whatever the last one's held.
another_connection(_Config) ->
    with_nodes("4", fun(A, B) ->
                        [begin
                             traffic(A, B, 5),
                             pt_peer:disconnect(A, B),
                             pt_peer:connect(From, To)
                         end || {From, To} <- [{A, B}, {B, A}, {A, B}]],
                        traffic(A, B, 5)
                    end).

with_nodes(Lanes, Fun) ->
    Args = #{args => ["-connect_all", "false", "-partisan", "lanes", Lanes, "lanes_at_start", Lanes]},
    [A, B] = Peers = [pt_peer:start(atm, Args), pt_peer:start(atm, Args)],
    [pt_peer:log_start(P) || P <- Peers],
    pt_peer:connect(A, B),
    Fun(A, B),
    [?assertEqual([], pt_peer:unexpected_logs(P)) || P <- Peers],
    [pt_peer:stop(P) || P <- Peers].

%% ------------------------------------------------------------------------------------------------

traffic(A, B, Rounds) ->
    NodeB = pt_peer:node(B),
    Chaos = [{P, pt_peer:call(P, erlang, spawn, [order_SUITE, chaos, [I]])}
             || P <- [A, B], I <- [1, 2]],
    Answers = pt_peer:call(A, erlang, apply, [fun() -> run(NodeB, Rounds) end, []], 200000),
    [pt_peer:eval(P, fun() -> calm(C) end) || {P, C} <- Chaos],
    ?assertEqual(lists:duplicate(?CLIENTS, ok), Answers).

%% Ends one that pauses lanes, and resumes the lane that it may have left paused.
calm(Chaos) ->
    Ref = monitor(process, Chaos),
    exit(Chaos, kill),
    receive {'DOWN', Ref, process, Chaos, _} -> ok end,
    [port_control(P, 6, <<Resume:8, Lane:8, 0:32>>)
     || {_, P} <- erlang:system_info(dist_ctrl), is_port(P), pt_peer:is_partisan_port(P),
        Lane <- lists:seq(0, 3), Resume <- [2, 4]].

run(NodeB, Rounds) ->
    Seed = erlang:unique_integer([positive]),
    Clients = [spawn_monitor(?MODULE, client, [NodeB, Seed, I, Rounds])
               || I <- lists:seq(1, ?CLIENTS)],
    [receive
         {'DOWN', Ref, process, Pid, Why} -> Why
     after 180000 ->
         nothing_came
     end || {Pid, Ref} <- Clients].

%% A client and its server; the server has a name of its own, an atom as good as any.
-spec client(node(), integer(), integer(), pos_integer()) -> no_return().
client(NodeB, Seed, I, Rounds) ->
    rand:seed(exsss, {Seed, I, Rounds}),
    {Server, Ref} = spawn_monitor(NodeB, ?MODULE, server, []),
    Name = list_to_atom("server_" ++ integer_to_list(Seed) ++ "_" ++ integer_to_list(I)),
    Server ! {name, self(), Name},
    receive {named, Name} -> ok end,
    Waiting = lists:foldl(fun(N, Waiting) -> call([Server, {Name, NodeB}], N, Waiting) end,
                          [], lists:seq(1, Rounds)),
    lists:foreach(fun answer/1, lists:reverse(Waiting)),
    Reason = term(),
    Server ! {die, Reason},
    receive
        {'DOWN', Ref, process, Server, Reason} -> exit(ok);
        Other -> exit({wrong_end, Reason, Other})
    end.

call(Servers, N, Waiting) ->
    Term = term(),
    lists:nth(rand:uniform(2), Servers) ! {call, self(), N, Term, erlang:phash2(Term)},
    case Waiting of
        [] ->
            [{N, Term}];
        _ when length(Waiting) < ?IN_FLIGHT ->
            [{N, Term} | Waiting];
        _ ->
            answer(lists:last(Waiting)),
            [{N, Term} | lists:droplast(Waiting)]
    end.

answer({N, Term}) ->
    receive
        {answer, N, true, Term} -> ok;
        {answer, N, Right, Other} -> exit({exchanged, N, Right, Term, Other});
        Other -> exit({unexpected, Other})
    end.

%% The hash is of the texts: an exchange on the way here is seen even if the way back undid it.
-spec server() -> no_return().
server() ->
    receive
        {name, From, Name} ->
            true = register(Name, self()),
            From ! {named, Name};
        {call, From, N, Term, Hash} ->
            From ! {answer, N, erlang:phash2(Term) =:= Hash, Term};
        {die, Reason} ->
            exit(Reason)
    end,
    server().

%% ------------------------------------------------------------------------------------------------

term() ->
    case rand:uniform(14) of
        1 -> list_to_tuple(atoms(200 + rand:uniform(300)));
        2 -> maps:from_list([{A, atom()} || A <- atoms(rand:uniform(60))]);
        3 -> {atom(), rand:bytes(60000 + rand:uniform(10000)), atoms(3)};
        4 -> {atoms(40), rand:bytes(rand:uniform(400000)), atoms(40)};
        5 -> [{A, [{B, self(), rand:uniform(100)} || B <- atoms(30)]} || A <- atoms(60)];
        6 -> [long_atom() || _ <- lists:seq(1, rand:uniform(40))];
        7 -> {fun erlang:apply/2, fun(X) -> {X, ?MODULE} end, atom(), make_ref()};
        _ -> {atom(), rand:uniform(1000), #{atom() => atom()}, [self() | atoms(rand:uniform(6))]}
    end.

atoms(N) -> [atom() || _ <- lists:seq(1, N)].

%% Some often, most seldom.
atom() ->
    case rand:uniform(10) of
        1 -> long_atom();
        N when N < 6 -> short_atom(rand:uniform(50));
        _ -> short_atom(rand:uniform(?ATOMS))
    end.

short_atom(N) -> list_to_atom("a" ++ integer_to_list(N)).

%% Up to 255 characters of one to four bytes, that is 1020 bytes.
long_atom() ->
    N = rand:uniform(200),
    Char = element(1 + N rem 4, {$x, 16#e9, 16#20ac, 16#1f600}),
    list_to_atom(integer_to_list(N) ++ lists:duplicate(252 - N rem 3 * 90, Char)).
