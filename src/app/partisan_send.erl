%% Sending a message to a process of any node: the one implementation behind `partisan`, the peer
%% service and every manager.
%%
%% `ok` says that the message is queued (or, for a process of this node, delivered), not that
%% anybody got it: as with `!`, a process that does not exist is no error. With `ack` or
%% `retransmission` the message travels by partisan_reliable, with `causal_label` by
%% partisan_causality.
-module(partisan_send).

-export([forward/2, forward/3, forward/4, cast/3, cast/4, carry/5, deliver/2, options/1, settle/0]).
-export([forward_message/2, forward_message/3, forward_message/4, forward_message/5]).
-export([cast_message/2, cast_message/3, cast_message/4, cast_message/5]).
-export([old_forward_message/2, old_forward_message/3, old_forward_message/4,
         old_forward_message/5]).
-export([old_cast_message/2, old_cast_message/3, old_cast_message/4, old_cast_message/5]).

-export_type([server_ref/0, options/0, result/0]).

-type name() :: atom() | {atom(), node()} | {global, term()} | {via, module(), term()}.
-type server_ref() :: pid() | reference() | name() | partisan_remote_ref:t().
-type options() :: map() | [{atom(), term()} | atom()].
-type result() :: ok | {error, notalive | noproc | partisan_transport:reason()}.

-define(RUNNING, {partisan, running}).
-define(ROUTED, {partisan_overlay_shell, routed}).

%% The one question a common message asks: may it go straight to its channel? `true` when the
%% application runs, has no options of its own for every message, and the overlay has no routes.
-define(STRAIGHT, ?MODULE).

%% ------------------------------------------------------------------------------------------------
%% Today's order of arguments

-spec forward(server_ref(), term()) -> result().
forward(Dest, Msg) ->
    forward(Dest, Msg, #{}).

%% The node is that of the reference.
-spec forward(server_ref(), term(), options()) -> result().
forward(Dest, Msg, Opts) ->
    locate(erlang:node(), Dest, Msg, options(Opts)).

%% To Dest on Node; a pid or a reference that names its node goes there whatever Node is.
-spec forward(node(), server_ref(), term(), options()) -> result().
forward(Node, Dest, Msg, #{channel := Channel} = Opts)
  when is_atom(Channel), is_atom(Node), (is_pid(Dest) orelse is_atom(Dest)),
       (map_size(Opts) =:= 1 orelse (map_size(Opts) =:= 2 andalso is_map_key(partition_key, Opts))) ->
    case persistent_term:get(?STRAIGHT, false) andalso straight(Node, Channel, Dest, Msg, Opts) of
        ok -> ok;
        _ -> locate(Node, Dest, Msg, options(Opts)) % nothing was sent; who is to blame is said there
    end;
forward(Node, Dest, Msg, Opts) when is_atom(Node) ->
    locate(Node, Dest, Msg, options(Opts));
forward(Node, Dest, Msg, Opts) ->
    error(badarg, [Node, Dest, Msg, Opts]).

straight(_Node, _Channel, _Dest, _Msg, #{partition_key := undefined}) ->
    false;
straight(_Node, Channel, Pid, Msg, Opts) when is_pid(Pid) ->
    partisan_channel:send(erlang:node(Pid), Channel, Pid, Msg, Opts);
straight(Node, Channel, Name, Msg, Opts) ->
    partisan_channel:send(Node, Channel, Name, Msg, Opts).

%% After a change of what that depends on.
-spec settle() -> ok.
settle() ->
    Base = persistent_term:get({partisan_config, forward_options}, #{}),
    persistent_term:put(?STRAIGHT,
                        persistent_term:get(?RUNNING, false)
                            andalso partisan_transport:kind() =:= channels
                            andalso (Base =:= #{} orelse Base =:= [])
                            andalso not persistent_term:get(?ROUTED, false)).

-spec cast(server_ref(), term(), options()) -> result().
cast(Dest, Msg, Opts) ->
    forward(Dest, {'$gen_cast', Msg}, Opts).

-spec cast(node(), server_ref(), term(), options()) -> result().
cast(Node, Dest, Msg, Opts) ->
    forward(Node, Dest, {'$gen_cast', Msg}, Opts).

%% The per-call options over those of `forward_options`, as a map.
-spec options(options()) -> map().
options(Opts) ->
    Given = case Opts of
                #{} -> Opts;
                [] -> #{};
                _ when is_list(Opts) -> proplists:to_map(Opts);
                _ -> error(badarg, [Opts])
            end,
    case persistent_term:get({partisan_config, forward_options}, #{}) of
        Base when Base =:= #{}; Base =:= [] -> Given;
        Base when is_map(Base) -> maps:merge(Base, Given);
        Base -> maps:merge(proplists:to_map(Base), Given)
    end.

%% Who is it, and where. What is left after this is a native pid, alias or local name.
locate(_Node, Pid, Msg, Opts) when is_pid(Pid) -> to(erlang:node(Pid), Pid, Msg, Opts);
locate(Node, Name, Msg, Opts) when is_atom(Name) -> to(Node, Name, Msg, Opts);
locate(_Node, Alias, Msg, Opts) when is_reference(Alias) ->
    to(erlang:node(Alias), Alias, Msg, Opts);
locate(_Node, {global, Name}, Msg, Opts) ->
    whereis_name(global, Name, Msg, Opts);
locate(_Node, {via, Module, Name}, Msg, Opts) ->
    whereis_name(Module, Name, Msg, Opts);
locate(_Node, {Name, Node}, Msg, Opts) when is_atom(Name), is_atom(Node) ->
    to(Node, Name, Msg, Opts);
locate(_Node, Ref, Msg, Opts) ->
    case partisan_remote_ref:resolve(Ref) of
        {ok, Native} -> locate(erlang:node(), Native, Msg, Opts);
        {error, _} = Error -> Error
    end.

whereis_name(Module, Name, Msg, Opts) ->
    case Module:whereis_name(Name) of
        Pid when is_pid(Pid) -> to(erlang:node(Pid), Pid, Msg, Opts);
        undefined -> {error, noproc};
        Ref -> locate(erlang:node(), Ref, Msg, Opts)
    end.

to(Node, Dest, Msg, Opts) ->
    case persistent_term:get(?RUNNING, false) of
        true when Node =:= node() -> deliver(Dest, Msg);
        true -> how(Node, Dest, Msg, Opts);
        false -> {error, notalive}
    end.

how(Node, Dest, Msg, Opts) when map_size(Opts) =:= 0 ->
    carry(Node, undefined, Dest, Msg, Opts);
how(Node, Dest, Msg, Opts) ->
    ok = check_timeout(Opts),
    ok = check_channel(Opts),
    by_kind(Node, Dest, Msg, Opts).

%% What is wrong has to fail here, in the sender: the process of a stream or a causal label, which others
%% use, too, would go down with it.
check_timeout(#{timeout := Ms} = Opts)
  when Ms =/= infinity, (not is_integer(Ms) orelse Ms > 16#ffffffff) ->
    error(badarg, [Opts]);
check_timeout(_Opts) ->
    ok.

check_channel(#{channel := {monotonic, Name}}) when is_atom(Name) -> ok;
check_channel(#{channel := {Name, _Key}}) when is_atom(Name), Name =/= monotonic -> ok;
check_channel(#{channel := Name} = Opts) when not is_atom(Name) -> error(badarg, [Opts]);
check_channel(_Opts) -> ok.

by_kind(Node, Dest, Msg, #{causal_label := Label} = Opts) when Label =/= undefined ->
    partisan_causality:send(Label, Node, Dest, Msg, maps:remove(causal_label, Opts));
by_kind(Node, Dest, Msg, Opts) ->
    Asked = case Opts of
                #{retransmission := true} -> retransmit;
                #{ack := true, retransmission := false} -> ack;
                #{ack := true} -> retransmit;
                _ -> no
            end,
    case Asked of
        no -> by_channel(Node, Dest, Msg, Opts);
        Mode -> partisan_reliable:send(Node, Dest, Msg, Mode, Opts)
    end.

%% The transport reads what it knows among the options, so as a rule they are its own as they are: a
%% map made anew for each message costs more than the rest of this module.
by_channel(Node, Dest, Msg, #{channel := Name} = Opts) when is_atom(Name) ->
    carry(Node, Name, Dest, Msg, wire(Opts));
%% Partisan 1 to 4 wrote a monotonic channel as a tuple; Riak Core writes {vnode, Index}, whose
%% second half is a partition key.
by_channel(Node, Dest, Msg, #{channel := {monotonic, Name}} = Opts) when is_atom(Name) ->
    carry(Node, Name, Dest, Msg, wire(Opts));
by_channel(Node, Dest, Msg, #{channel := {Name, Key}} = Opts) when is_atom(Name) ->
    Wire = case Opts of
               #{partition_key := Own} when Own =/= undefined -> Opts;
               #{} -> Opts#{partition_key => Key}
           end,
    carry(Node, Name, Dest, Msg, wire(Wire));
by_channel(_Node, _Dest, _Msg, #{channel := Other}) ->
    error(badarg, [Other]);
by_channel(Node, Dest, Msg, Opts) ->
    carry(Node, undefined, Dest, Msg, wire(Opts)).

wire(#{partition_key := undefined} = Opts) ->
    wire(maps:remove(partition_key, Opts));
%% On a monotonic channel the sender's clock stands for what a newer message replaces.
wire(#{clock := Clock} = Opts) when Clock =/= undefined, not is_map_key(key, Opts) ->
    Opts#{key => Clock};
wire(Opts) ->
    Opts.

%% Once, to a native pid, alias or name of another node: over a connection with it, or by relay where
%% the overlay has that way (partisan_overlay_shell:way/1), or where there is no connection. Opts are
%% those of the transport; of a relay as well, with the channel as it is meant.
-spec carry(node(), partisan:channel(), partisan_transport:dest(), term(), map()) -> result().
carry(Node, Channel, Dest, Msg, Opts) ->
    case partisan_overlay_shell:way(Node) of
        direct ->
            case partisan_transport:send(Node, Channel, Dest, Msg, Opts) of
                {error, Reason} when Reason =:= not_yet_connected; Reason =:= disconnected ->
                    relay(Node, Channel, Dest, Msg, Opts, Reason);
                Result ->
                    Result
            end;
        relay ->
            case relay(Node, Channel, Dest, Msg, Opts, none) of
                {error, none} -> partisan_transport:send(Node, Channel, Dest, Msg, Opts);
                Result -> Result
            end
    end.

%% The overlay may know a way.
relay(Node, Channel, Dest, Msg, Opts, Reason) ->
    Manager = partisan_config:get(peer_service_manager),
    case erlang:function_exported(Manager, relay_message, 4) of
        true ->
            case Manager:relay_message(Node, Dest, Msg, named(Channel, Opts)) of
                {error, Why} when Why =:= not_yet_connected; Why =:= disconnected ->
                    {error, Reason};
                Result ->
                    Result
            end;
        false ->
            {error, Reason}
    end.

named(Channel, #{channel := Channel} = Opts) -> Opts;
named(undefined, Opts) -> maps:remove(channel, Opts);
named(Channel, Opts) -> Opts#{channel => Channel}.

%% To a process of this node. Nobody there: as with `!`, the message is gone.
-spec deliver(server_ref(), term()) -> ok.
deliver(Dest, Msg) when is_pid(Dest); is_atom(Dest); is_reference(Dest) ->
    try Dest ! Msg of
        _ -> ok
    catch
        error:badarg -> ok
    end;
deliver(Dest, Msg) ->
    case partisan_remote_ref:to_pid_or_name(Dest) of
        {Name, _Node} -> deliver(Name, Msg);
        Native -> deliver(Native, Msg)
    end.

%% ------------------------------------------------------------------------------------------------
%% The arguments of Manager:forward_message/2..5, of either generation
%%
%% /3 is (Node, Dest, Msg) up to Partisan 4 and (Dest, Msg, Opts) since; /4 is (Node, Channel, Dest,
%% Msg) or (Node, Dest, Msg, Opts). What no call of today's form can be is taken for the older one:
%% a third argument that is no options, a fourth that is no options, or a channel in second and a
%% process in third place.

-spec forward_message(server_ref(), term()) -> result().
forward_message(Dest, Msg) ->
    forward(Dest, Msg, #{}).

-spec forward_message(term(), term(), term()) -> result().
forward_message(A, B, C) ->
    dispatch(fun plain/1, A, B, C).

-spec forward_message(node(), term(), term(), term()) -> result().
forward_message(A, B, C, D) ->
    dispatch(fun plain/1, A, B, C, D).

-spec forward_message(node(), term(), server_ref(), term(), options()) -> result().
forward_message(Node, Channel, Dest, Msg, Opts) ->
    old(Node, Channel, Dest, Msg, Opts).

-spec cast_message(server_ref(), term()) -> result().
cast_message(Dest, Msg) ->
    cast(Dest, Msg, #{}).

-spec cast_message(term(), term(), term()) -> result().
cast_message(A, B, C) ->
    dispatch(fun as_cast/1, A, B, C).

-spec cast_message(node(), term(), term(), term()) -> result().
cast_message(A, B, C, D) ->
    dispatch(fun as_cast/1, A, B, C, D).

-spec cast_message(node(), term(), server_ref(), term(), options()) -> result().
cast_message(Node, Channel, Dest, Msg, Opts) ->
    old(Node, Channel, Dest, as_cast(Msg), Opts).

plain(Msg) -> Msg.
as_cast(Msg) -> {'$gen_cast', Msg}.

dispatch(Wrap, A, B, C) ->
    case looks_like_options(C) andalso not (is_node_name(A) andalso is_dest(B)) of
        true -> forward(A, Wrap(B), C);
        false -> old(A, undefined, B, Wrap(C), [])
    end.

dispatch(Wrap, Node, B, C, D) ->
    case looks_like_options(D) andalso not (is_channel(B) andalso is_process(C)) of
        true -> forward(Node, B, Wrap(C), D);
        false -> old(Node, B, C, Wrap(D), [])
    end.

looks_like_options(Opts) when is_map(Opts) -> true;
looks_like_options(Opts) when is_list(Opts) ->
    is_proper(Opts) andalso
        lists:all(fun({Key, _}) -> is_atom(Key); (Key) -> is_atom(Key) end, Opts);
looks_like_options(_) -> false.

is_proper(List) ->
    try length(List) of _ -> true
    catch error:badarg -> false
    end.

%% An atom with an @ is a node, not a registered name.
is_node_name(Atom) when is_atom(Atom) -> lists:member($@, atom_to_list(Atom));
is_node_name(_) -> false.

is_dest(Term) -> is_process(Term) orelse is_atom(Term).

%% Not {Name, Node}: a message may well be a pair of atoms.
is_process({A, B}) when is_atom(A), is_atom(B) -> false;
is_process(Term) -> not is_atom(Term) andalso partisan_remote_ref:is_type(Term).

is_channel({monotonic, Name}) -> is_atom(Name);
is_channel(undefined) -> true;
is_channel(Name) when is_atom(Name) -> is_map_key(Name, partisan_config:channels());
is_channel(_) -> false.

%% ------------------------------------------------------------------------------------------------
%% The older generation only: partisan_default_peer_service_manager

-spec old_forward_message(server_ref(), term()) -> result().
old_forward_message(Dest, Msg) -> forward(Dest, Msg, #{}).

-spec old_forward_message(node(), server_ref(), term()) -> result().
old_forward_message(Node, Dest, Msg) -> old(Node, undefined, Dest, Msg, []).

-spec old_forward_message(node(), term(), server_ref(), term()) -> result().
old_forward_message(Node, Channel, Dest, Msg) -> old(Node, Channel, Dest, Msg, []).

-spec old_forward_message(node(), term(), server_ref(), term(), options()) -> result().
old_forward_message(Node, Channel, Dest, Msg, Opts) -> old(Node, Channel, Dest, Msg, Opts).

-spec old_cast_message(server_ref(), term()) -> result().
old_cast_message(Dest, Msg) -> cast(Dest, Msg, #{}).

-spec old_cast_message(node(), server_ref(), term()) -> result().
old_cast_message(Node, Dest, Msg) -> old(Node, undefined, Dest, as_cast(Msg), []).

-spec old_cast_message(node(), term(), server_ref(), term()) -> result().
old_cast_message(Node, Channel, Dest, Msg) -> old(Node, Channel, Dest, as_cast(Msg), []).

-spec old_cast_message(node(), term(), server_ref(), term(), options()) -> result().
old_cast_message(Node, Channel, Dest, Msg, Opts) -> old(Node, Channel, Dest, as_cast(Msg), Opts).

old(Node, Channel, Dest, Msg, Opts) ->
    Options = options(Opts),
    forward(Node, Dest, Msg, case Channel of
                                 undefined -> Options;
                                 _ -> Options#{channel => Channel}
                             end).
