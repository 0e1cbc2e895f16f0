%% The carrier for IPv6: `erl -proto_dist partisan6`. See partisan_dist.
-module(partisan6_dist).

-export([listen/1, listen/2, accept/1, accept_connection/5, setup/5, close/1, select/1,
         is_node_name/1, address/0, address/1, setopts/2, getopts/2]).

-define(DRIVER, inet6_tcp).

listen(Name) ->
    {ok, Host} = inet:gethostname(),
    listen(Name, Host).

listen(Name, Host) ->
    partisan_dist:listen(?DRIVER, Name, Host).

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
    partisan_dist:address(?DRIVER, undefined).

address(Host) ->
    partisan_dist:address(?DRIVER, Host).

setopts(Socket, Options) ->
    partisan_dist_addr:setopts(Socket, Options).

getopts(Socket, Options) ->
    inet:getopts(Socket, Options).
