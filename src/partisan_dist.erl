%% The carrier for IPv4: `erl -proto_dist partisan`. What net_kernel calls; the IPv6 twin is
%% partisan6_dist. The work is done in partisan_dist_listen and partisan_dist_hs.
-module(partisan_dist).

-export([listen/1, listen/2, accept/1, accept_connection/5, setup/5, close/1, select/1,
         is_node_name/1, address/0, address/1, setopts/2, getopts/2]).
-export([info/0, info/1]).
-export([listen/3, address/2]).

-define(DRIVER, inet_tcp).

listen(Name) ->
    {ok, Host} = inet:gethostname(),
    listen(Name, Host).

listen(Name, Host) ->
    listen(?DRIVER, Name, Host).

accept(Listen) ->
    partisan_dist_listen:accept(?DRIVER, Listen).

accept_connection(AcceptPid, Accepted, MyNode, Allowed, SetupTime) ->
    partisan_dist_hs:accept_connection(?DRIVER, AcceptPid, Accepted, MyNode, Allowed, SetupTime).

setup(Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    partisan_dist_hs:setup(?DRIVER, Node, Type, MyNode, LongOrShortNames, SetupTime).

close(Socket) ->
    ?DRIVER:close(Socket).

select(Node) ->
    partisan_dist_addr:select(?DRIVER, Node).

is_node_name(Node) ->
    partisan_dist_addr:is_node_name(Node).

address() ->
    address(?DRIVER, undefined).

address(Host) ->
    address(?DRIVER, Host).

%% Of the listen socket.
setopts(Socket, Options) ->
    partisan_dist_addr:setopts(Socket, Options).

getopts(Socket, Options) ->
    inet:getopts(Socket, Options).

%% ------------------------------------------------------------------------------------------------
%% Inspection

%% Backend and memory (partisan_nif:info/0), the options in force, what knocked at the listening
%% port, and the nodes connected over this carrier.
-spec info() -> map() | {error, not_started}.
info() ->
    try partisan_nif:info() of
        Info ->
            Info#{options => partisan_dist_conf:get(),
                  listener => partisan_dist_reg:counters(),
                  relay => partisan_nif:relay_info(),
                  sessions => partisan_nif:sessions()}
    catch
        error:_ -> {error, not_started}
    end.

%% The session with one peer: lanes, queues, order; `undefined` if there is none (a plain peer, or
%% no connection).
-spec info(node()) -> map() | undefined | {error, not_started}.
info(Node) ->
    try partisan_nif:session(Node)
    catch error:_ -> {error, not_started}
    end.

%% ------------------------------------------------------------------------------------------------
%% Shared with partisan6_dist

%% net_kernel shows the reason of a failure and gives up: one line says all.
-spec listen(partisan_dist_addr:driver(), atom(), string()) -> {ok, term()} | {error, term()}.
listen(Driver, Name, Host) ->
    partisan_dist_listen:listen(Driver, Name, Host).

%% Also the first call on a node that does not listen (-dist_listen false): the place to find out
%% that the carrier cannot work here, rather than at every connection.
-spec address(partisan_dist_addr:driver(), string() | undefined) -> tuple().
address(Driver, Host) ->
    case partisan_dist_reg:start_carrier() of
        ok ->
            partisan_dist_addr:local_address(Driver, Host);
        {error, Line} ->
            erlang:display_string(Line ++ "\n"),
            error({partisan, Line})
    end.
