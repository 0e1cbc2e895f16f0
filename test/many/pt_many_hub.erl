%% Starts many nodes on this machine, each a small VM, and asks them things over a TCP connection each: the
%% distribution that is tested plays no part in that. Nodes end with the process that called start/1.
-module(pt_many_hub).

-export([start/2, names/1, all/4, one/4, kill/1]).

-export_type([hub/0]).

-type member() :: {node(), gen_tcp:socket(), OsPid :: string()}.
-type hub() :: [member()].

-define(START_MS, 120000).
-define(CALL_MS, 120000).
-define(FIRST_PORT, 20000).   % below those that the kernel gives to outgoing connections
-define(AT_A_TIME, 6).

%% N nodes; Words for erl beyond those for a small VM. Joined is called with each as it comes.
-spec start(pos_integer(), #{args := [string()], joined := fun((member(), hub()) -> term())}) -> hub().
start(N, #{args := Args, joined := Joined}) ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {packet, 4}, {active, false}, {ip, {127, 0, 0, 1}}, {backlog, 128}]),
    {ok, Port} = inet:port(Listen),
    Hub = start(lists:seq(1, N), 0, command(Port, Args), Joined, Listen, []),
    ok = gen_tcp:close(Listen),
    Hub.

start([], 0, _, _, _, Hub) ->
    Hub;
start([I | Rest], Out, Command, Joined, Listen, Hub) when Out < ?AT_A_TIME ->
    _ = os:cmd(Command(I)),
    start(Rest, Out + 1, Command, Joined, Listen, Hub);
start(Rest, Out, Command, Joined, Listen, Hub) ->
    {ok, Socket} = gen_tcp:accept(Listen, ?START_MS),
    {hello, Node, OsPid} = answer(Socket),
    Member = {Node, Socket, OsPid},
    _ = Joined(Member, Hub),
    start(Rest, Out - 1, Command, Joined, Listen, [Member | Hub]).

command(Port, Args) ->
    Dirs = lists:usort([filename:dirname(code:which(M)) || M <- [?MODULE, pt_noepmd, partisan]]),
    Words = string:lexemes("+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +P 4096 +Q 4096 +Meamin +sbwt none +sbwtdcpu none "
                           "+sbwtdio none -noinput -setcookie many -start_epmd false -epmd_module pt_noepmd "
                           "-kernel start_pg false", " ")
        ++ lists:append([["-pa", Dir] || Dir <- Dirs]) ++ Args
        ++ ["-run", "pt_many_node", "main", integer_to_list(Port)],
    Erl = os:find_executable("erl"),
    Log = os:getenv("MANY_LOG", "/dev/null"),
    fun(I) ->
            Name = lists:concat(["many_", ?FIRST_PORT + I, "@127.0.0.1"]),
            lists:flatten(lists:join(" ", [[$', W, $'] || W <- [Erl, "-name", Name | Words]])
                          ++ [" </dev/null >>", Log, " 2>&1 &"])
    end.

names(Hub) -> lists:sort([Node || {Node, _, _} <- Hub]).

%% Of all at the same time; answers in the order of the nodes.
-spec all(hub(), module(), atom(), [term()] | fun((node()) -> [term()])) -> [term()].
all(Hub, M, F, A) ->
    _ = [ask(Member, M, F, A) || Member <- Hub],
    [result(Node, answer(Socket)) || {Node, Socket, _} <- Hub].

-spec one(member(), module(), atom(), [term()]) -> term().
one({Node, Socket, _} = Member, M, F, A) ->
    ask(Member, M, F, A),
    result(Node, answer(Socket)).

ask({Node, Socket, _}, M, F, A) ->
    Args = if is_function(A) -> A(Node); true -> A end,
    ok = gen_tcp:send(Socket, term_to_binary({M, F, Args})).

answer(Socket) ->
    {ok, Packet} = gen_tcp:recv(Socket, 0, ?CALL_MS),
    binary_to_term(Packet).

result(_, {ok, Result}) -> Result;
result(Node, Failed) -> error({Node, Failed}).

%% All at once, as a failed machine or switch would.
-spec kill(hub()) -> ok.
kill(Members) ->
    [] = os:cmd(lists:flatten(["kill -KILL", [[" ", OsPid] || {_, _, OsPid} <- Members]])),
    _ = [gen_tcp:close(Socket) || {_, Socket, _} <- Members],
    ok.
