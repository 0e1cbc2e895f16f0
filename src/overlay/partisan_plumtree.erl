%% Plumtree: broadcast over a tree that grows by itself out of the overlay's links, with the other
%% links for repair (Leitao, Pereira, Rodrigues: Epidemic Broadcast Trees, SRDS 2007). A pure core,
%% made as those of overlays are (partisan_overlay), with events and effects of its own.
%%
%% Every link of the overlay is eager (carries messages) or lazy (carries only their names) for a
%% tree. All start eager; a message that came twice makes the link of the second copy lazy (`prune`),
%% a name whose message does not come makes its link eager (`graft`). There is a tree for each node
%% that broadcasts, or one for all (option trees): one for each is the shorter way from each root,
%% one for all needs less memory and settles sooner where many nodes broadcast little.
%%
%% Beyond the paper: a new neighbour is told the names of the last messages (`introduce`, at most so
%% many, and none older than `introduce_age`). A name goes out once, to those who are neighbours then;
%% a node that has just lost all of its own would never hear it, whoever becomes its neighbour later.
%%
%% Messages are kept by handlers (partisan_plumtree_broadcast_handler), not here: questions/1 says what
%% a handler is to be asked about an incoming message, and its answers come in with the event. So
%% the core stays pure, and whether something is new is the handler's to say.
%%
%% Memory: for each neighbour and tree one entry at most, `max_trees` trees (the one longest unused
%% goes; its links are eager again, which costs one message with copies); names of missing
%% messages up to `max_missing`; the last 2 x `recent` names seen, with optimisation, and 2 x
%% `introduce`. A neighbour that is gone leaves
%% nothing behind. What all of this forgets, exchanges of the handlers find.
%%
%% Events, beside msg and timer:
%%   {neighbour_up, Spec}, {neighbour_down, Node, Reason}     as the overlay gives notice
%%   {broadcast, Module, Id, Payload}                         from this node; the handler has it
%%   {msg, From, Msg, Answers}                                to questions(Msg), in order
%% Effects, beside send, timer and cancel:
%%   {exchange, Node}                                         handlers are to compare with Node
-module(partisan_plumtree).

-export([init/4, handle/3, info/1, well_formed/1, defaults/0, questions/1, peers/2]).

-export_type([state/0, message/0, question/0]).

-type root() :: node() | shared.
-type key() :: {module(), Id :: term()}.

-type message() :: {payload, root(), key(), Round :: pos_integer(), Payload :: term()}
                 | {i_have, [{root(), key(), Round :: pos_integer()}]}
                 | {graft, root(), none | {key(), Round :: pos_integer()}}
                 | {prune, root()}.

-type question() :: {merge, module(), Id :: term(), Payload :: term()}   %% true: it was new
                  | {is_stale, module(), Id :: term()}                   %% true: known already
                  | {graft, module(), Id :: term()}.                     %% {ok, Payload} | _

-type last() :: {partisan_overlay:now_ms(), {root(), key(), Round :: pos_integer()}}.

-record(tree, {lazy = [] :: [node()],
               used :: partisan_overlay:now_ms()}).

-record(plt, {name :: node(),
              opt :: #{atom() => term()},
              rand :: rand:state(),
              neighbours = [] :: [node()],
              trees = #{} :: #{root() => #tree{}},
              %% Announced and not there: who has it, the first to say so first.
              missing = #{} :: #{key() => [{node(), root(), pos_integer()}]},
              queue = [] :: [{node(), {non_neg_integer(), [term()]}}],
              %% Where messages came from and over how many links; two generations.
              recent = {#{}, #{}} :: {#{key() => {pos_integer(), node()}}, map()},
              %% To tell new neighbours: the last names, newest first; two generations as well.
              last = {0, [], []} :: {non_neg_integer(), [last()], [last()]},
              now = 0 :: partisan_overlay:now_ms(),
              out = [] :: [partisan_overlay:effect() | {exchange, node()}]}).

-opaque state() :: #plt{}.

-spec defaults() -> partisan_overlay:config().
defaults() ->
    #{trees => root,                             %% root | shared
      lazy_tick_period => 1000,                  %% names wait so long, for others to go with
      batch => 1000,                             %% or until so many are there
      graft_timeout => 1000,                     %% from a name until its message is asked for
      graft_retry => 500,                        %% until the next that has it is asked
      exchange_tick_period => 10000,
      optimisation => off,                       %% off, or how many links a way must be shorter by
      max_trees => 1024,
      max_missing => 10000,
      recent => 1000,
      introduce => 100,                          %% off, or how many names a new neighbour is told
      introduce_age => 60000}.

-spec init(partisan_overlay:spec(), partisan_overlay:config(), partisan_overlay:now_ms(),
           rand:state()) -> {state(), [partisan_overlay:effect()]}.
init(#{name := Name}, Config, Now, Rand0) ->
    Opt = maps:merge(defaults(), Config),
    ok = check(Opt),
    {Ms, Rand} = rand:uniform_s(maps:get(exchange_tick_period, Opt), Rand0),
    done(after_ms(exchange, Ms, #plt{name = Name, opt = Opt, rand = Rand, now = Now})).

-spec handle(term(), partisan_overlay:now_ms(), state()) ->
          {state(), [partisan_overlay:effect() | {exchange, node()}]}.
handle(Event, Now, S) ->
    done(event(Event, S#plt{now = Now})).

%% A message, as far as the core looks into it; questions/1 and handle/3 take no other.
-spec well_formed(term()) -> boolean().
well_formed({payload, Root, Key, Round, _}) -> is_name({Root, Key, Round});
well_formed({i_have, Names}) -> partisan_overlay_shape:all(fun is_name/1, Names);
well_formed({graft, Root, none}) -> is_atom(Root);
well_formed({graft, Root, {Key, Round}}) -> is_name({Root, Key, Round});
well_formed({prune, Root}) -> is_atom(Root);
well_formed(_) -> false.

is_name({Root, Key, Round}) ->
    is_atom(Root) andalso partisan_overlay_shape:is_key(Key) andalso is_integer(Round)
        andalso Round > 0;
is_name(_) ->
    false.

%% What to ask the handlers before the message is handed in.
-spec questions(term()) -> [question()].
questions({payload, _, {Mod, Id}, _, Payload}) -> [{merge, Mod, Id, Payload}];
questions({i_have, Names}) when is_list(Names) -> [{is_stale, Mod, Id} || {_, {Mod, Id}, _} <- Names];
questions({graft, _, {{Mod, Id}, _}}) -> [{graft, Mod, Id}];
questions(_) -> [].

%% The links of a tree: {eager, lazy}.
-spec peers(root(), state()) -> {[node()], [node()]}.
peers(Root, #plt{neighbours = Neighbours} = S) ->
    Lazy = lazy(Root, S),
    {Neighbours -- Lazy, Lazy}.

-spec info(state()) -> partisan_overlay:info().
info(#plt{name = Name, neighbours = Neighbours, trees = Trees, missing = Missing} = S) ->
    #{members => [#{name => Name}],
      neighbours => Neighbours,
      trees => [{Root, peers(Root, S)} || Root <- lists:sort(maps:keys(Trees))],
      missing => map_size(Missing)}.

%% --- events -----------------------------------------------------------------------------------------

event({neighbour_up, #{name := Node}}, #plt{neighbours = Neighbours} = S) ->
    case ordsets:is_element(Node, Neighbours) of
        true -> S;
        false -> introduce(Node, S#plt{neighbours = ordsets:add_element(Node, Neighbours)})
    end;
event({neighbour_down, Node, _}, S) ->
    gone(Node, S);
event({broadcast, Mod, Id, Payload}, #plt{name = Name, opt = Opt} = S) ->
    Root = case maps:get(trees, Opt) of
               root -> Name;
               shared -> shared
           end,
    push(Root, {Mod, Id}, 1, Payload, none, remember({Mod, Id}, {1, Name}, S));
event({msg, From, Msg, Answers}, #plt{neighbours = Neighbours} = S) ->
    %% From a former neighbour something may still arrive: taken in, but nothing is built on it.
    msg(Msg, Answers, From, lists:member(From, Neighbours), S);
event({timer, {missing, Key}}, S) ->
    ask(Key, S);
event({timer, lazy}, S) ->
    flush(S);
event({timer, exchange}, S) ->
    exchange(S);
event(_, S) ->
    S.

msg({payload, Root, Key, Round, Payload}, [true], From, Near, S0) ->
    S1 = found(Key, remember(Key, {Round, From}, S0)),
    S2 = case Near of
             true -> eager(From, Root, S1);
             false -> S1
         end,
    push(Root, Key, Round + 1, Payload, From, S2);
msg({payload, Root, Key, _, _}, [false], From, true, S) ->
    send(From, {prune, Root}, make_lazy(From, Root, found(Key, S)));
msg({prune, Root}, [], From, true, S) ->
    make_lazy(From, Root, S);
msg({graft, Root, none}, [], From, true, S) ->
    eager(From, Root, S);
msg({graft, Root, {Key, Round}}, [Answer], From, true, S) ->
    case Answer of
        {ok, Payload} -> send(From, {payload, Root, Key, Round, Payload}, eager(From, Root, S));
        _ -> eager(From, Root, S)
    end;
%% Also from who is no neighbour yet: the two ends of a link do not learn of it at the same time, and
%% the other one tells its names when it does.
msg({i_have, Names}, Answers, From, Near, S) ->
    lists:foldl(fun({_, true}, Acc) when not Near -> Acc;
                   ({Name, Known}, Acc) -> named(Name, Known, From, Acc)
                end, S, lists:zip(Names, Answers));
msg(_, _, _, _, S) ->
    S.

%% --- push -------------------------------------------------------------------------------------------

push(Root, Key, Round, Payload, From, #plt{neighbours = Neighbours} = S0) ->
    S1 = told({Root, Key, Round}, touch(Root, S0)),
    Lazy = lazy(Root, S1),
    S2 = lists:foldl(fun(N, Acc) -> send(N, {payload, Root, Key, Round, Payload}, Acc) end,
                     S1, (Neighbours -- Lazy) -- [From]),
    lists:foldl(fun(N, Acc) -> announce(N, {Root, Key, Round}, Acc) end, S2, Lazy -- [From]).

%% Names wait for others to the same node; a full batch does not wait.
announce(Node, Name, #plt{queue = Queue, opt = #{batch := Batch}} = S0) ->
    S = case Queue of
            [] -> after_ms(lazy, maps:get(lazy_tick_period, S0#plt.opt), S0);
            _ -> S0
        end,
    case orddict:find(Node, Queue) of
        {ok, {Count, Names}} when Count + 1 >= Batch ->
            send(Node, {i_have, lists:reverse([Name | Names])},
                 S#plt{queue = orddict:store(Node, {0, []}, Queue)});
        {ok, {Count, Names}} ->
            S#plt{queue = orddict:store(Node, {Count + 1, [Name | Names]}, Queue)};
        error ->
            S#plt{queue = orddict:store(Node, {1, [Name]}, Queue)}
    end.

flush(#plt{queue = Queue} = S) ->
    lists:foldl(fun({_, {0, []}}, Acc) -> Acc;
                   ({N, {_, Names}}, Acc) -> send(N, {i_have, lists:reverse(Names)}, Acc)
                end, S#plt{queue = []}, Queue).

told(_, #plt{opt = #{introduce := off}} = S) ->
    S;
told(Name, #plt{last = {Count, New, _}, now = Now, opt = #{introduce := Max}} = S) when Count >= Max ->
    S#plt{last = {1, [{Now, Name}], New}};
told(Name, #plt{last = {Count, New, Old}, now = Now} = S) ->
    S#plt{last = {Count + 1, [{Now, Name} | New], Old}}.

%% It goes at once: whoever is new may have waited for a while.
introduce(_, #plt{opt = #{introduce := off}} = S) ->
    S;
introduce(Node, #plt{last = {_, New, Old}, now = Now,
                     opt = #{introduce := Max, introduce_age := Age}} = S) ->
    case [Name || {Time, Name} <- lists:sublist(New ++ Old, Max), Now - Time =< Age] of
        [] -> S;
        Names -> send(Node, {i_have, lists:reverse(Names)}, S)
    end.

%% --- repair -----------------------------------------------------------------------------------------

named({Root, Key, Round}, true, From, S) ->
    shorten(Root, Key, Round, From, S);
named({Root, Key, Round}, false, From, #plt{missing = Missing, opt = Opt} = S) ->
    Who = {From, Root, Round},
    case Missing of
        #{Key := Others} ->
            case lists:keymember(From, 1, Others) of
                true -> S;
                false -> S#plt{missing = Missing#{Key := Others ++ [Who]}}
            end;
        #{} ->
            case map_size(Missing) < maps:get(max_missing, Opt) of
                true ->
                    after_ms({missing, Key}, maps:get(graft_timeout, Opt),
                             S#plt{missing = Missing#{Key => [Who]}});
                false ->
                    S
            end
    end.

%% The message did not come over the tree: the link of the first that has it becomes part of it.
ask(Key, #plt{missing = Missing, neighbours = Neighbours, opt = Opt} = S0) ->
    case Missing of
        #{Key := [{Node, Root, Round} | Others]} ->
            S1 = case lists:member(Node, Neighbours) of
                     true -> send(Node, {graft, Root, {Key, Round}}, eager(Node, Root, S0));
                     false -> S0
                 end,
            case Others of
                [] ->
                    S1#plt{missing = maps:remove(Key, Missing)};
                _ ->
                    after_ms({missing, Key}, maps:get(graft_retry, Opt),
                             S1#plt{missing = Missing#{Key := Others}})
            end;
        #{} ->
            S0
    end.

found(Key, #plt{missing = Missing} = S) when is_map_key(Key, Missing) ->
    emit({cancel, {missing, Key}}, S#plt{missing = maps:remove(Key, Missing)});
found(_, S) ->
    S.

%% A name that had fewer links behind it than the message itself: that way is shorter.
shorten(Root, Key, Round, From, #plt{opt = #{optimisation := Least}, recent = {New, Old}} = S)
  when is_integer(Least) ->
    case maps:get(Key, New, maps:get(Key, Old, none)) of
        {Had, Parent} when Had - Round >= Least, Parent =/= From ->
            S1 = send(From, {graft, Root, none}, eager(From, Root, S)),
            remember(Key, {Round, From},
                     send(Parent, {prune, Root}, make_lazy(Parent, Root, S1)));
        _ ->
            S
    end;
shorten(_, _, _, _, S) ->
    S.

remember(_, _, #plt{opt = #{optimisation := off}} = S) ->
    S;
remember(Key, What, #plt{recent = {New, _}, opt = #{recent := Max}} = S)
  when map_size(New) >= Max ->
    S#plt{recent = {#{Key => What}, New}};
remember(Key, What, #plt{recent = {New, Old}} = S) ->
    S#plt{recent = {New#{Key => What}, Old}}.

exchange(#plt{neighbours = Neighbours, rand = Rand0, opt = Opt} = S0) ->
    {Ms, Rand1} = partisan_sample:jitter(maps:get(exchange_tick_period, Opt), Rand0),
    {Peer, Rand} = partisan_sample:one(Neighbours, Rand1),
    S = after_ms(exchange, Ms, S0#plt{rand = Rand}),
    case Peer of
        {value, Node} -> emit({exchange, Node}, S);
        none -> S
    end.

%% --- trees ------------------------------------------------------------------------------------------

lazy(Root, #plt{trees = Trees}) ->
    case Trees of
        #{Root := #tree{lazy = Lazy}} -> Lazy;
        #{} -> []
    end.

eager(Node, Root, #plt{trees = Trees} = S) ->
    case Trees of
        #{Root := #tree{lazy = Lazy} = T} ->
            S#plt{trees = Trees#{Root := T#tree{lazy = ordsets:del_element(Node, Lazy)}}};
        #{} ->
            S
    end.

make_lazy(Node, Root, S0) ->
    #plt{trees = #{Root := #tree{lazy = Lazy} = T} = Trees, neighbours = Near} = S = touch(Root, S0),
    case ordsets:is_element(Node, Near) of
        true -> S#plt{trees = Trees#{Root := T#tree{lazy = ordsets:add_element(Node, Lazy)}}};
        false -> S
    end.

touch(Root, #plt{trees = Trees, now = Now, opt = #{max_trees := Max}} = S) ->
    case Trees of
        #{Root := T} ->
            S#plt{trees = Trees#{Root := T#tree{used = Now}}};
        #{} when map_size(Trees) >= Max ->
            {_, Oldest} = lists:min([{Used, R} || {R, #tree{used = Used}} <- maps:to_list(Trees)]),
            S#plt{trees = (maps:remove(Oldest, Trees))#{Root => #tree{used = Now}}};
        #{} ->
            S#plt{trees = Trees#{Root => #tree{used = Now}}}
    end.

gone(Node, #plt{trees = Trees, missing = Missing, queue = Queue} = S) ->
    Left = maps:map(fun(_, Who) -> lists:keydelete(Node, 1, Who) end, Missing),
    Nobody = lists:sort([K || {K, []} <- maps:to_list(Left)]),
    lists:foldl(fun(K, Acc) -> emit({cancel, {missing, K}}, Acc) end,
                S#plt{neighbours = ordsets:del_element(Node, S#plt.neighbours),
                      queue = orddict:erase(Node, Queue),
                      missing = maps:without(Nobody, Left),
                      trees = maps:map(fun(_, #tree{lazy = Lazy} = T) ->
                                               T#tree{lazy = ordsets:del_element(Node, Lazy)}
                                       end, Trees)}, Nobody).

%% --- effects ----------------------------------------------------------------------------------------

emit(Effect, #plt{out = Out} = S) -> S#plt{out = [Effect | Out]}.
send(To, Msg, S) -> emit({send, To, Msg}, S).
after_ms(Name, Ms, S) -> emit({timer, Name, Ms}, S).

done(#plt{out = Out} = S) ->
    {S#plt{out = []}, lists:reverse(Out)}.

check(Opt) ->
    maps:foreach(fun(Key, Value) ->
                         {Ok, Expected} = valid(Key, Value),
                         Ok orelse error({bad_option, Key, Value, Expected})
                 end, Opt).

valid(trees, V) ->
    {V =:= root orelse V =:= shared, "root or shared"};
valid(Key, V) when Key =:= optimisation; Key =:= introduce ->
    {V =:= off orelse (is_integer(V) andalso V > 0), "off or a whole number above 0"};
valid(Key, V) ->
    case is_map_key(Key, defaults()) of
        true -> {is_integer(V) andalso V > 0, "a whole number above 0"};
        false -> {false, "no such option"}
    end.
