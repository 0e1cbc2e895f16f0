%% Moves a running cluster from one overlay to another: every member that can be reached (of those
%% that this node knows, that they know, and so on) starts the core of the new manager over the links
%% there are, and joins this node in it. Five seconds later
%% the links that the new overlay does not use are closed, behind what the overlays had to say on
%% them. What was sent with `ack` or `retransmission` is sent again where a closing link lost it;
%% plain sends have the promise they always have when a connection ends.
%%
%% From a full mesh to less needs nodes started with `-kernel prevent_overlapping_partitions false`.
%%
%% Members that cannot be reached stay with the old overlay, and are in the answer: start them with
%% the new one in their configuration, or switch again when they are back. The configuration files of
%% all nodes are the user's to change.
-module(partisan_overlay_switch).

-export([set/1, here/2]).

-define(MS, 10000).
%% A ring closes what it does not need in its next round, and on a busy machine an answer may take as long
%% as a round: few tries may all be in vain.
-define(TRIES, 20).

%% Manager: a module that partisan_peer_service:manager/0 could answer. Asks every member first
%% whether it can, and changes nothing if one says no.
-spec set(module()) -> ok | {error, notalive | {bad_manager, node(), term()} | {unreached, [node()]}}.
set(Manager) ->
    case names() of
        {ok, Names} ->
            {Reached, Unreached} = everybody(Names, [], []),
            case ask(Reached, ensure_loaded, [Manager]) of
                [] ->
                    %% This node first: the others join it.
                    Failed = ask([node() | lists:delete(node(), Reached)], switch,
                                 [Manager, node()]),
                    answer(Failed, Unreached);
                [{Node, Reason} | _] ->
                    {error, {bad_manager, Node, Reason}}
            end;
        {error, _} = Error ->
            Error
    end.

%% Whom this node knows. The members of a partial view, of a client or of one end of a line are not
%% the cluster.
names() ->
    case partisan_manager:members() of
        {ok, Members} ->
            Info = partisan_overlay_shell:info(),
            {ok, lists:usort(lists:append([Members | [maps:get(Key, Info, [])
                                                      || Key <- [neighbours, known, known_servers, clients,
                                                                 clients_of_others]]]))};
        {error, _} = Error ->
            Error
    end.

%% All that these nodes know of, and those know of: {that could be asked, that could not}.
everybody([], Reached, Unreached) ->
    {lists:usort(Reached), lists:usort(Unreached)};
everybody(New, Reached, Unreached) ->
    {Here, Away} = lists:partition(fun(Name) ->
                                           Name =:= node() orelse partisan_manager:reach(#{name => Name}) =:= ok
                                   end, New),
    Told = lists:usort(lists:append([Names || {_, {ok, {ok, Names}}} <- each(Here, names, [])])),
    everybody(Told -- (New ++ Reached ++ Unreached), Here ++ Reached, Away ++ Unreached).

answer([{Node, Reason} | _], _Unreached) -> {error, {bad_manager, Node, Reason}};
answer([], []) -> ok;
answer([], Unreached) -> {error, {unreached, Unreached}}.

%% Those that did not say ok, with why.
ask(Nodes, What, Args) ->
    [{Node, case Answer of
                {ok, {error, Reason}} -> Reason;
                Other -> Other
            end} || {Node, Answer} <- each(Nodes, What, Args), Answer =/= {ok, ok}].

%% The connection with a node that the overlay of before has just put out is on its way down when it is
%% asked over it: it is asked again, over another. Whatever it is asked may be asked twice.
each(Nodes, What, Args) ->
    each(Nodes, What, Args, ?TRIES).

each(Nodes, What, Args, Tries) ->
    Answers = lists:zip(Nodes, erpc:multicall(Nodes, ?MODULE, here, [What, Args], ?MS)),
    Lost = [Node || {Node, {error, {erpc, noconnection}}} <- Answers, Tries > 1,
                    partisan_manager:reach(#{name => Node}) =:= ok],
    Again = case Lost of
                [] -> [];
                _ -> each(Lost, What, Args, Tries - 1)
            end,
    [case lists:keyfind(Node, 1, Again) of
         false -> First;
         Second -> Second
     end || {Node, _} = First <- Answers].

%% Run on each member.
-spec here(names | ensure_loaded | switch, [term()]) -> ok | {ok, [node()]} | {error, term()}.
here(names, []) ->
    names();
here(ensure_loaded, [Manager]) ->
    case code:ensure_loaded(Manager) of
        {module, _} ->
            case erlang:function_exported(Manager, overlay, 0) of
                true -> closes_well(Manager);
                false -> {error, no_overlay}
            end;
        {error, _} = Error ->
            Error
    end;
here(switch, [Manager, Contact]) ->
    case partisan_overlay_shell:switch(Manager, Contact) of
        ok -> partisan_config:set(peer_service_manager, Manager);
        {error, _} = Error -> Error
    end.

%% The links of a full mesh are visible. When some of them are closed, `global` makes all nodes drop
%% those that are gone for one of them, unless it is told not to.
closes_well(Manager) ->
    {ok, Now} = partisan_overlay_shell:manager(),
    case {maps:get(links, Now:overlay()), maps:get(links, Manager:overlay())} of
        {visible, hidden} ->
            case application:get_env(kernel, prevent_overlapping_partitions, true) of
                false -> ok;
                _ -> {error, prevent_overlapping_partitions}
            end;
        _ ->
            ok
    end.
