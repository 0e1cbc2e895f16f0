%% Monitors of processes and nodes: erlang's own, which work over the carrier as everywhere. What is
%% added: encoded references are taken, and monitoring never makes a connection, because here the
%% membership decides who is connected.
-module(partisan_monitor).

-export([monitor/2, demonitor/2, monitor_node/2, monitor_nodes/2, erlang_options/1]).

-compile({no_auto_import, [monitor/2, demonitor/2, monitor_node/2]}).

-export_type([item/0]).

-type item() :: partisan_send:server_ref().

%% The 'DOWN' message is erlang's. A node that is not connected: noconnection at once.
-spec monitor(item(), [partisan:monitor_opt()]) -> reference().
monitor(Item, Opts) when is_list(Opts) ->
    Known = erlang_options(Opts),
    case find(Item) of
        {at, Node, Native} ->
            case Node =:= node() orelse partisan_transport:connected(Node) of
                true -> erlang:monitor(process, Native, Known);
                false -> down(Native, noconnection, Known)
            end;
        unreachable ->
            down(Item, noconnection, Known);
        nobody ->
            down(Item, noproc, Known)
    end;
monitor(Item, Opts) ->
    error(badarg, [Item, Opts]).

find(Pid) when is_pid(Pid) -> {at, node(Pid), Pid};
find(Name) when is_atom(Name) -> {at, node(), Name};
find({global, Name}) -> find_name(global, Name);
find({via, Module, Name}) -> find_name(Module, Name);
find({Name, Node}) when is_atom(Name), is_atom(Node) -> {at, Node, {Name, Node}};
find(Ref) ->
    case partisan_remote_ref:resolve(Ref) of
        {ok, Pid} when is_pid(Pid) -> {at, node(Pid), Pid};
        {ok, {_, Node} = Name} -> {at, Node, Name};
        {ok, Name} when is_atom(Name) -> {at, node(), Name};
        {ok, Other} -> error(badarg, [Other]);
        {error, _} -> unreachable
    end.

find_name(Module, Name) ->
    case Module:whereis_name(Name) of
        Pid when is_pid(Pid) -> {at, node(Pid), Pid};
        undefined -> nobody
    end.

down(Item, Reason, Opts) ->
    Ref = case lists:keyfind(alias, 1, Opts) of
              {alias, _} -> erlang:alias([explicit_unalias]);
              false -> make_ref()
          end,
    self() ! {proplists:get_value(tag, Opts, 'DOWN'), Ref, process, Item, Reason},
    Ref.

%% What erlang:monitor/3 understands; a channel has no meaning for a signal of the distribution.
-spec erlang_options([partisan:monitor_opt()]) -> [{tag | alias, term()}].
erlang_options(Opts) ->
    [Opt || {Key, _} = Opt <- Opts, Key =:= tag orelse Key =:= alias].

-spec demonitor(partisan:any_reference(), [partisan:demonitor_opt()]) -> boolean().
demonitor(Ref, Opts) ->
    erlang:demonitor(partisan_remote_ref:to_reference(Ref), Opts).

%% A node that is not connected counts as down.
-spec monitor_node(node(), boolean()) -> true.
monitor_node(Node, true) when Node =/= node() ->
    case partisan_transport:connected(Node) of
        true ->
            erlang:monitor_node(Node, true);
        false ->
            self() ! {nodedown, Node},
            true
    end;
monitor_node(Node, false) when Node =/= node() ->
    case erlang:is_alive() of
        true -> erlang:monitor_node(Node, false);
        false -> true
    end;
monitor_node(_Node, Flag) when is_boolean(Flag) ->
    true;
monitor_node(Node, Flag) ->
    error(badarg, [Node, Flag]).

-spec monitor_nodes(boolean(), [partisan:monitor_nodes_opt()]) -> ok | {error, notalive | badarg}.
monitor_nodes(Flag, Opts) when is_boolean(Flag), is_list(Opts) ->
    case partisan_app:running() of
        true ->
            Kernel = [Opt || Opt <- Opts, not is_channel_option(Opt)],
            case net_kernel:monitor_nodes(Flag, Kernel) of
                ok -> ok;
                _ -> {error, badarg}
            end;
        false ->
            {error, notalive}
    end;
monitor_nodes(_, _) ->
    {error, badarg}.

is_channel_option({channel, _}) -> true;
is_channel_option({channel_fallback, _}) -> true;
is_channel_option(_) -> false.
