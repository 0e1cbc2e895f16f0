%% Who has links with whom, as far as this node knows: from the link-state map where the overlay has
%% one, else by asking the members it can reach. With option `all` every member is asked for its part
%% of the broadcast tree, its lanes and their traffic, by messages that go over relays where there is no
%% link: looking at an overlay does not connect it.
-module(partisan_topology).

-export([read/0, read/1, tell/4, collect/3]).

-export_type([t/0, options/0, seen/0, use/0]).

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
               %% What this node, with `all` every node that answered, says of its own links.
               seen := #{node() => seen()},
               %% Nodes that were asked and did not answer.
               silent := [node()]}.

%% timeout: how long others may take to answer, ms (2000). all: ask every member (false).
%% rate_ms: how long traffic is counted for the rates (100); 0 for none.
-type options() :: #{timeout => non_neg_integer(), all => boolean(), rate_ms => non_neg_integer()}.

%% Its links in the tree whose root is the node that asks, and how its neighbours are used.
-type seen() :: #{eager := [node()], lazy := [node()], links := #{node() => use()}}.

%% TCP connections, those of channels and relays among them; bytes a second on them, none with rate_ms 0.
-type use() :: #{lanes := non_neg_integer(), bytes_out => float(), bytes_in => float()}.

-spec read() -> {ok, t()} | {error, notalive}.
read() ->
    read(#{}).

-spec read(options()) -> {ok, t()} | {error, notalive}.
read(Options) ->
    #{timeout := Timeout, all := All, rate_ms := RateMs} =
        maps:merge(#{timeout => 2000, all => false, rate_ms => 100}, Options),
    case partisan_overlay_shell:manager() of
        {ok, Manager} ->
            Info = #{neighbours := Near} = partisan_overlay_shell:info(),
            {Members, Views, Silent} = views(Info, Timeout),
            Asked = [N || All, N <- Members, N =/= node(), not lists:member(N, Silent)],
            {Seen0, Silent1} = ask(Asked, RateMs, Timeout),
            Own = #{eager := Eager, lazy := Lazy} = own(node(), RateMs),
            {ok, #{node => node(), manager => Manager, members => Members,
                   links => links(Views), eager => Eager, lazy => Lazy,
                   seen => Seen0#{node() => Own}, silent => lists:usort(Silent ++ Silent1),
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

%% --- how links are used -----------------------------------------------------------------------------

%% What this node says of its links; in the broadcast tree of Root.
-spec own(Root :: node(), RateMs :: non_neg_integer()) -> seen().
own(Root, RateMs) ->
    {Eager, Lazy} = try partisan_plumtree_broadcast:get_peers(Root)
                    catch exit:_ -> {[], []}
                    end,
    Near = try maps:get(neighbours, partisan_overlay_shell:info())
           catch exit:_ -> []
           end,
    #{eager => Eager, lazy => Lazy, links => uses(Near, RateMs)}.

uses(Near, RateMs) ->
    Before = [{N, counted(N), erlang:monotonic_time()} || N <- Near],
    _ = RateMs > 0 andalso timer:sleep(RateMs),
    maps:from_list([{N, use(Then, counted(N), erlang:monotonic_time() - Since, RateMs)}
                    || {N, Then, Since} <- Before]).

use(_, {Lanes, _, _, _}, _, 0) ->
    #{lanes => Lanes};
use({_, Out0, In0, Session}, {Lanes, Out, In, Session}, Time, _) ->
    Seconds = erlang:convert_time_unit(Time, native, microsecond) / 1.0e6,
    %% A lane that was closed meanwhile takes its count along.
    #{lanes => Lanes, bytes_out => max(0, Out - Out0) / Seconds, bytes_in => max(0, In - In0) / Seconds};
use(_, {Lanes, _, _, _}, _, _) ->                %% another session: it counts from the start
    #{lanes => Lanes}.

counted(Node) ->
    try partisan_nif:session(Node) of
        #{lanes := Lanes, channels := Channels, session_id := Session} ->
            All = Lanes ++ lists:append([L || #{lanes := L} <- Channels]),
            {length(All), lists:sum([N || #{bytes_out := N} <- All]),
             lists:sum([N || #{bytes_in := N} <- All]), Session};
        undefined ->                             %% linked by another carrier
            {0, 0, 0, none}
    catch
        error:_ -> {0, 0, 0, none}
    end.

%% All at once: the time is that of the slowest. Both ways by forward_message, in one process of its own, for
%% answers that are late; calls would take a process each.
ask([], _, _) ->
    {#{}, []};
ask(Nodes, RateMs, Timeout) ->
    {_, Ref} = spawn_monitor(?MODULE, collect, [Nodes, RateMs, Timeout + RateMs]),
    receive
        {'DOWN', Ref, process, _, {said, Seen}} -> {Seen, Nodes -- maps:keys(Seen)};
        {'DOWN', Ref, process, _, _} -> {#{}, Nodes}
    end.

-spec collect([node()], non_neg_integer(), non_neg_integer()) -> no_return().
collect(Nodes, RateMs, Timeout) ->
    Tag = make_ref(),
    Until = erlang:monotonic_time(millisecond) + Timeout,
    _ = [partisan_send:forward(N, partisan_rpc_backend, {call, Tag, ?MODULE, tell, [node(), self(), Tag, RateMs]},
                               #{nosuspend => true}) || N <- Nodes],
    exit({said, heard(Tag, length(Nodes), Until, #{})}).

heard(_, 0, _, Seen) ->
    Seen;
heard(Tag, Left, Until, Seen) ->
    receive
        {Tag, Node, #{eager := _, lazy := _, links := _} = Own} ->
            heard(Tag, Left - 1, Until, Seen#{Node => Own})
    after max(0, Until - erlang:monotonic_time(millisecond)) ->
            Seen
    end.

%% The answer to somebody who asks; by a message too, as the asker need be no neighbour.
-spec tell(node(), pid(), reference(), non_neg_integer()) -> ok | {error, term()}.
tell(Asker, Pid, Tag, RateMs) ->
    partisan_send:forward(Asker, Pid, {Tag, node(), own(Asker, RateMs)}, #{}).
