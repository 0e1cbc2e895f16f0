%% A partition of the service of pt_bench_kvs: one gen_server, a map of keys to values.
%%
%% It checks what it is sent as any receiver does, counts what it handled, and for each request may
%% sleep a while, which stands for a disk.
-module(pt_bench_vnode).
-behaviour(gen_server).
-export([start/2, tally/1, echo/3, put/3, get/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export_type([object/0]).

%% Version Seq of a key, written by worker Flow: the payload is that of Flow's message Seq.
-type object() :: {Flow :: pos_integer(), Seq :: pos_integer(), Crc :: term(), Payload :: term()}.

%% Starts Count partitions on this node. They end with the process that the caller names.
-spec start(pos_integer(), #{part := pt_bench_work:part(), owner := pid()}) -> [pid()].
start(Count, Options) ->
    [begin {ok, Pid} = gen_server:start(?MODULE, Options, []), Pid end || _ <- lists:seq(1, Count)].

%% Requests handled, and contents found damaged, by these partitions of this node.
-spec tally([pid()]) -> {Handled :: non_neg_integer(), Corrupt :: non_neg_integer()}.
tally(Pids) ->
    Each = [gen_server:call(P, tally, infinity) || P <- Pids],
    {lists:sum([H || {H, _} <- Each]), lists:sum([C || {_, C} <- Each])}.

%% Each answers the caller {Tag, self(), Answer}.
-spec echo(pid(), term(), object()) -> ok.
echo(Vnode, Tag, Object) -> cast(Vnode, {echo, self(), Tag, Object}).

-spec put(pid(), term(), {Key :: term(), object()}) -> ok.
put(Vnode, Tag, {Key, Object}) -> cast(Vnode, {put, self(), Tag, Key, Object}).

-spec get(pid(), term(), Key :: term()) -> ok.
get(Vnode, Tag, Key) -> cast(Vnode, {get, self(), Tag, Key}).

%% As gen_server:cast/2 does, but by whatever carries messages here.
cast(Vnode, Request) -> pt_bench_via:post(Vnode, {'$gen_cast', Request}).

-spec init(map()) -> {ok, map()}.
init(#{part := Part, owner := Owner}) ->
    _ = monitor(process, Owner),
    {ok, #{
        set => pt_bench_flow:set(Part), work => maps:get(work_ms, Part, 0), store => #{},
        handled => 0, corrupt => 0
    }}.

-spec handle_call(tally, gen_server:from(), map()) -> {reply, term(), map()}.
handle_call(tally, _From, #{handled := Handled, corrupt := Corrupt} = State) ->
    {reply, {Handled, Corrupt}, State}.

-spec handle_cast(term(), map()) -> {noreply, map()}.
handle_cast({echo, From, Tag, Object}, State) ->
    State1 = handled(check(Object, State)),
    pt_bench_via:post(From, {Tag, self(), Object}),
    {noreply, State1};
handle_cast({put, From, Tag, Key, Object}, State) ->
    #{store := Store} = State1 = handled(check(Object, State)),
    pt_bench_via:post(From, {Tag, self(), ok}),
    %% Writes of one key come from different coordinators, so in any order.
    {noreply, State1#{store := maps:update_with(Key, fun(Old) -> newer(Old, Object) end, Object, Store)}};
handle_cast({get, From, Tag, Key}, #{store := Store} = State) ->
    State1 = handled(State),
    pt_bench_via:post(From, {Tag, self(), maps:get(Key, Store, notfound)}),
    {noreply, State1}.

-spec handle_info(term(), map()) -> {noreply, map()} | {stop, normal, map()}.
handle_info({'DOWN', _Mon, process, _Owner, _Why}, State) ->
    {stop, normal, State};
handle_info(_Garbage, #{corrupt := Corrupt} = State) ->
    {noreply, State#{corrupt := Corrupt + 1}}.

newer({_, Old, _, _}, {_, New, _, _} = Object) when New > Old -> Object;
newer(Old, _Object) -> Old.

handled(#{work := Work, handled := Handled} = State) ->
    Work > 0 andalso timer:sleep(Work),
    State#{handled := Handled + 1}.

check({Flow, Seq, Crc, Payload}, #{set := Set, corrupt := Corrupt} = State) ->
    case pt_bench_flow:intact(Flow, Seq, Crc, Payload, 16, Set) of
        true -> State;
        false -> State#{corrupt := Corrupt + 1}
    end.
