%% Who has links with whom, as far as this node knows: from the link-state map where the overlay has
%% one, else by asking the members it can reach.
-module(partisan_topology).

-export([read/0, read/1]).

-export_type([t/0]).

-type t() :: #{node := node(),
               manager := module(),
               members := [node()],
               %% Both ends of a link that both speak of, the smaller name first.
               links := [{node(), node()}],
               %% The broadcast tree of this node: its own links.
               eager := [node()],
               lazy := [node()],
               %% Lanes and counters of the channels to each neighbour, as partisan_channel has them.
               channels := #{node() => map()},
               %% Nodes that were asked and did not answer.
               silent := [node()]}.

-define(ASK_MS, 2000).

-spec read() -> {ok, t()} | {error, notalive}.
read() ->
    read(?ASK_MS).

%% Timeout: how long others may take to answer.
-spec read(non_neg_integer()) -> {ok, t()} | {error, notalive}.
read(Timeout) ->
    case partisan_overlay_shell:manager() of
        {ok, Manager} ->
            Info = #{neighbours := Near} = partisan_overlay_shell:info(),
            {Members, Views, Silent} = views(Info, Timeout),
            {Eager, Lazy} = tree(),
            {ok, #{node => node(), manager => Manager, members => Members,
                   links => links(Views), eager => Eager, lazy => Lazy, silent => Silent,
                   channels => maps:from_list([{N, partisan_channel:info(N)} || N <- Near])}};
        {error, notalive} = Error ->
            Error
    end.

views(#{words := Words, known := Known}, _) ->
    {Known, maps:from_list([{N, Near} || {N, _, Near} <- Words, lists:member(N, Known)]), []};
views(#{members := Specs, neighbours := Near}, Timeout) ->
    Members = lists:usort([N || #{name := N} <- Specs]),
    {Answers, Silent} = gen_server:multi_call(lists:delete(node(), Members), partisan_overlay_shell,
                                              info, Timeout),
    Views = maps:from_list([{node(), Near} | [{N, Ns} || {N, #{neighbours := Ns}} <- Answers]]),
    {Members, Views, Silent}.

%% The word of one end does where the other is silent.
links(Views) ->
    lists:usort([{min(A, B), max(A, B)} || {A, Near} <- maps:to_list(Views), B <- Near,
                                           lists:member(A, maps:get(B, Views, [A]))]).

tree() ->
    try partisan_plumtree_broadcast:get_peers(node())
    catch exit:_ -> {[], []}
    end.
