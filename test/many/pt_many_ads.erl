%% The advertisement counter: every node shows advertisements and counts how often, and every node is to
%% know how often all of them together have. The counters are a CRDT, a row a node; each node gives its
%% whole state to some others every GOSSIP_MS: to its neighbours in HyParView, in a full mesh to as many
%% chosen at random, in client-server to its servers (or a server's clients).
-module(pt_many_ads).

-export([run/3]).
-export([start/2, stop_showing/0, total/0, stop/0]).

-define(ADS, 10).
-define(SHOW_MS, 100).
-define(GOSSIP_MS, 2000).
-define(RUN_MS, 15000).
-define(PARTNERS, 5).

-type row() :: {Shown :: non_neg_integer(), #{Ad :: pos_integer() => pos_integer()}}.
-type rows() :: #{node() => row()}.

%% Wire: the bytes of the cluster so far. Wait: until a condition holds. The figures, for a table.
-spec run(pt_many_hub:hub(), neighbours | random,
          #{wire := fun(() -> integer()), wait := fun((fun(() -> boolean())) -> true)}) ->
          #{shown := integer(), all_know_ms := integer(), bytes_a_node_s := float(), state_bytes := integer()}.
run(Hub, Partners, #{wire := Wire, wait := Wait}) ->
    Start = erlang:monotonic_time(millisecond),
    Bytes = Wire(),
    _ = pt_many_hub:all(Hub, ?MODULE, start, [Partners, ?PARTNERS]),
    receive after ?RUN_MS -> ok end,
    Shown = lists:sum(pt_many_hub:all(Hub, ?MODULE, stop_showing, [])),
    Stopped = erlang:monotonic_time(millisecond),
    Wait(fun() -> lists:all(fun({N, _}) -> N =:= Shown end, pt_many_hub:all(Hub, ?MODULE, total, [])) end),
    End = erlang:monotonic_time(millisecond),
    [{Shown, State} | _] = pt_many_hub:all(Hub, ?MODULE, total, []),
    Result = #{shown => Shown, all_know_ms => End - Stopped, state_bytes => State,
               bytes_a_node_s => (Wire() - Bytes) * 1000 / (End - Start) / length(Hub)},
    _ = pt_many_hub:all(Hub, ?MODULE, stop, []),
    Result.

%% ------------------------------------------------------------------------------------------------
%% On a node

start(Partners, N) ->
    Self = self(),
    _ = spawn(fun() ->
                      true = register(?MODULE, self()),
                      Self ! {?MODULE, started},
                      _ = timer:send_interval(?SHOW_MS, show),
                      %% Not all at the same time.
                      _ = erlang:send_after(rand:uniform(?GOSSIP_MS), self(), gossip),
                      loop(#{node() => {0, #{}}}, true, {Partners, N})
              end),
    receive {?MODULE, started} -> ok end.

%% What this node has shown.
stop_showing() -> ask(stop_showing).

%% What this node knows all to have shown, and how many bytes its state has.
total() -> ask(total).

stop() -> ask(stop).

ask(What) ->
    Ref = make_ref(),
    ?MODULE ! {What, self(), Ref},
    receive {Ref, Answer} -> Answer end.

-spec loop(rows(), boolean(), {neighbours | random, pos_integer()}) -> ok.
loop(Rows, Showing, Partners) ->
    receive
        show when Showing ->
            {Shown, Ads} = maps:get(node(), Rows),
            Ad = rand:uniform(?ADS),
            loop(Rows#{node() := {Shown + 1, Ads#{Ad => maps:get(Ad, Ads, 0) + 1}}}, true, Partners);
        show ->
            loop(Rows, false, Partners);
        gossip ->
            _ = erlang:send_after(?GOSSIP_MS, self(), gossip),
            _ = [erlang:send({?MODULE, Node}, {rows, Rows}, [noconnect]) || Node <- partners(Partners)],
            loop(Rows, Showing, Partners);
        {rows, Others} ->
            loop(merge(Rows, Others), Showing, Partners);
        {stop_showing, From, Ref} ->
            From ! {Ref, element(1, maps:get(node(), Rows))},
            loop(Rows, false, Partners);
        {total, From, Ref} ->
            From ! {Ref, {lists:sum([lists:sum(maps:values(Ads)) || {_, Ads} <- maps:values(Rows)]),
                          erlang:external_size(Rows)}},
            loop(Rows, Showing, Partners);
        {stop, From, Ref} ->
            From ! {Ref, ok},
            ok
    end.

partners({neighbours, _}) ->
    {ok, Nodes} = partisan_overlay_shell:neighbours(),
    Nodes;
partners({random, N}) ->
    lists:sublist([Node || {_, Node} <- lists:sort([{rand:uniform(), Node} || Node <- nodes()])], N).

%% A row is its node's alone to change, so the one with more shown is the later one.
merge(Rows, Others) ->
    maps:merge_with(fun(_, {A, _} = Mine, {B, _} = Other) -> if B > A -> Other; true -> Mine end end, Rows,
                    Others).
