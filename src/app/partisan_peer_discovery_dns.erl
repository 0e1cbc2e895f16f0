%% Peer discovery by DNS. Options:
%%
%%   name         the name to look up, a string
%%   record_type  a, aaaa or srv (default a)
%%   node_basename  with a and aaaa: nodes are called `basename@address`
%%   port           with a and aaaa, instead of node_basename: the carrier listens at this port, and
%%                  is asked for its name
%%   nameservers  [{Address, Port}]; default: those of the system
%%
%% An srv record has host and port. With node_basename the node is `basename@host`, without the
%% carrier at that port is asked for its name.
-module(partisan_peer_discovery_dns).

-behaviour(partisan_peer_discovery_agent).

-export([init/1, lookup/2]).

init(Options) ->
    Defaults = #{record_type => a, nameservers => []},
    #{record_type := Type, nameservers := Servers} = All = maps:merge(Defaults, Options),
    Name = text(maps:get(name, All, undefined)),
    Base = text(maps:get(node_basename, All, undefined)),
    Port = maps:get(port, All, undefined),
    if
        not is_list(Name) ->
            {error, "option name must be a string"};
        Type =/= a, Type =/= aaaa, Type =/= srv ->
            {error, "option record_type must be a, aaaa or srv"};
        Type =/= srv, not is_list(Base), not is_integer(Port) ->
            {error, "option node_basename or port is missing"};
        not is_list(Servers) ->
            {error, "option nameservers must be a list of {Address, Port}"};
        true ->
            {ok, #{name => Name, type => Type, base => Base, port => Port, servers => Servers}}
    end.

text(Binary) when is_binary(Binary) -> unicode:characters_to_list(Binary);
text(Atom) when is_atom(Atom), Atom =/= undefined -> atom_to_list(Atom);
text(Other) -> Other.

lookup(#{name := Name, type := Type, servers := Servers} = State, Timeout) ->
    Options = case Servers of
                  [] -> [];
                  _ -> [{nameservers, Servers}]
              end,
    case inet_res:resolve(Name, in, Type, Options, Timeout) of
        {ok, Message} ->
            Records = [inet_dns:rr(Answer, data)
                       || Answer <- inet_dns:msg(Message, anlist),
                          inet_dns:rr(Answer, type) =:= Type],
            {ok, [peer(Data, State) || Data <- lists:usort(Records)], State};
        {error, {Reason, _Message}} ->
            {error, {Name, Reason}, State};
        {error, Reason} ->
            {error, {Name, Reason}, State}
    end.

peer({_Priority, _Weight, Port, Host}, #{type := srv, base := undefined}) ->
    lists:concat([Host, ":", Port]);
peer({_Priority, _Weight, _Port, Host}, #{type := srv, base := Base}) ->
    Base ++ "@" ++ Host;
peer(Ip, #{base := undefined, port := Port}) ->
    lists:concat([inet:ntoa(Ip), ":", Port]);
peer(Ip, #{base := Base}) ->
    Base ++ "@" ++ inet:ntoa(Ip).
