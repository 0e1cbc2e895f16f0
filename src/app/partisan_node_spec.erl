%% Node specs: #{name, listen_addrs, channels}, and what may stand for one.
-module(partisan_node_spec).

-export([own/0, from/1, name/1]).

-type t() :: #{name := node(), listen_addrs => [map()], atom() => term()}.
-export_type([t/0]).

-define(ASK_MS, 5000).

-spec own() -> t().
own() ->
    #{name => node(), listen_addrs => partisan_config:listen_addrs(),
      channels => partisan_config:channels()}.

%% The spec that is meant by a spec of either generation, a node name (atom, string or binary), or
%% "host:port", which asks the carrier that listens there for its name and takes up to 5 s.
-spec from(term()) -> {ok, t()} | {error, term()}.
from(#{name := Node} = Spec) when is_atom(Node) ->
    case addresses(maps:get(listen_addrs, Spec, [])) of
        {ok, Addresses} -> {ok, Spec#{listen_addrs => Addresses}};
        error -> {error, {bad_node_spec, Spec}}
    end;
from(Node) when is_atom(Node) ->
    case partisan_dist_addr:is_node_name(Node) of
        true -> {ok, #{name => Node, listen_addrs => []}};
        false -> {error, {bad_node_name, Node}}
    end;
from(Text) when is_binary(Text) ->
    from(unicode:characters_to_list(Text));
from([_ | _] = Text) ->
    case io_lib:printable_unicode_list(Text) of
        true -> from_text(Text);
        false -> {error, {bad_node_spec, Text}}
    end;
from(Other) ->
    {error, {bad_node_spec, Other}}.

from_text(Text) ->
    case lists:member($@, Text) of
        true when length(Text) =< 255 -> from(list_to_atom(Text));
        true -> {error, {bad_node_name, Text}};
        false -> from_address(Text)
    end.

%% The port is behind the last colon, so that an IPv6 address needs no brackets, but may have them.
from_address(Text) ->
    case string:split(Text, ":", trailing) of
        [[_ | _] = Host0, Digits] ->
            Host = string:trim(Host0, both, "[]"),
            case string:to_integer(Digits) of
                {Port, ""} when Port > 0, Port < 65536 -> ask(parsed(Host), Port);
                _ -> {error, {bad_address, Text}}
            end;
        _ ->
            {error, {bad_address, Text}}
    end.

parsed(Host) ->
    case inet:parse_address(Host) of
        {ok, Ip} -> Ip;
        {error, _} -> Host
    end.

ask(Host, Port) ->
    case partisan_dist_who:ask(Host, Port, ?ASK_MS) of
        {ok, {Node, Ip}} -> {ok, #{name => Node, listen_addrs => [#{ip => Ip, port => Port}]}};
        {error, _} = Error -> Error
    end.

%% Partisan's older generation has the channels in a list; nobody here reads those of others.
addresses(List) when is_list(List) ->
    case lists:all(fun(#{ip := Ip, port := Port}) -> is_tuple(Ip) andalso is_integer(Port);
                      (_) -> false
                   end, List) of
        true -> {ok, lists:usort(List)};
        false -> error
    end;
addresses(_) ->
    error.

%% The name in a spec or a name itself; badarg for anything else.
-spec name(t() | node() | string() | binary()) -> node().
name(#{name := Node}) when is_atom(Node) -> Node;
name(Node) when is_atom(Node) -> Node;
name(Text) when is_binary(Text) -> name(unicode:characters_to_list(Text));
name([_ | _] = Text) ->
    try list_to_atom(Text)
    catch error:_ -> error(badarg, [Text])
    end;
name(Other) -> error(badarg, [Other]).
