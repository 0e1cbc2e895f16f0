%% What the demonstration shows: on a terminal a table that is drawn again and again, with the
%% events above it; elsewhere one plain line a second.
-module(pt_demo_view).

-export([new/1, show/3, say/3, ms/1, bytes/1, grouped/1]).

-export_type([view/0]).

-define(PLAIN_INTERVAL, 1000). % ms

-record(v, {screen :: table | lines,
            rows = [] :: [iolist()],   % of the table that is on the screen
            messages = 0, bytes = 0,   % checked until now
            last = none :: none | {Ms :: integer(), #{string() => pt_demo_node:snapshot()}}}).
-opaque view() :: #v{}.

-spec new(table | lines) -> view().
new(Screen) -> #v{screen = Screen}.

%% An event.
-spec say(integer(), iolist(), view()) -> view().
say(Ms, Text, #v{screen = Screen, rows = Rows} = View) ->
    Line = io_lib:format("~6.1f s  ~ts~n", [Ms / 1000, Text]),
    io:put_chars(case Screen of
                     table -> [wipe(Rows), Line, lines(Rows)];
                     lines -> Line
                 end),
    View.

%% What the nodes say of themselves, by letter.
-spec show(integer(), #{string() => pt_demo_node:snapshot()}, view()) -> view().
show(Ms, Seen, #v{last = none} = View) ->
    View#v{last = {Ms, Seen}};
show(Ms, _Seen, #v{screen = lines, last = {Before, _}} = View)
  when Ms - Before < ?PLAIN_INTERVAL ->
    View;
show(Ms, Seen, #v{screen = Screen, rows = Old, last = {Before, Last}} = View0) ->
    Pairs = pairs(Seen, Last),
    View = View0#v{messages = View0#v.messages + sum(messages, Pairs),
                   bytes = View0#v.bytes + sum(bytes, Pairs), last = {Ms, Seen}},
    Seconds = (Ms - Before) / 1000,
    case Screen of
        table ->
            Rows = table(Ms, Pairs, Seconds, Seen) ++ [verified(Seen, View)],
            io:put_chars([wipe(Old), lines(Rows)]),
            View#v{rows = Rows};
        lines ->
            io:put_chars([line(Ms, Pairs, Seconds, Seen), verified(Seen, View), $\n]),
            View
    end.

%% ------------------------------------------------------------------------------------------------
%% Figures

%% What happened since the last look, for each two nodes. `came': how many, by size.
pairs(Seen, Last) ->
    Names = names(Seen),
    [begin
         Received = fun(Looks) -> of_node(received, Y, Looks) end,
         Rtt = fun(Looks) -> maps:get(maps:get(Y, Names), of_node(rtt, X, Looks), #{}) end,
         From = maps:get(X, Names),
         Came = maps:from_list([{Size, N} || {{Node, Size}, N} <-
                                                 maps:to_list(less(Received(Seen), Received(Last))),
                                             Node =:= From]),
         #{from => X, to => Y, came => Came, rtt => less(Rtt(Seen), Rtt(Last)),
           messages => lists:sum(maps:values(Came)),
           bytes => maps:fold(fun(Size, N, Sum) -> Sum + Size * N end, 0, Came)}
     end || X <- maps:keys(Names), Y <- maps:keys(Names), X =/= Y].

of_node(Key, Letter, Looks) ->
    case Looks of
        #{Letter := #{Key := Value}} -> Value;
        _ -> #{}
    end.

sum(Key, Pairs) -> lists:sum([maps:get(Key, P) || P <- Pairs]).

%% Counters start again from 0 when a node went down.
less(New, Old) ->
    maps:map(fun(Key, N) ->
                     case maps:get(Key, Old, 0) of
                         Before when Before =< N -> N - Before;
                         _ -> N
                     end
             end, New).

%% The nodes are called TAG_LETTER@HOST; each is known from what the others say.
names(Seen) ->
    Nodes = lists:usort(lists:append([maps:keys(S) || #{sessions := S} <- maps:values(Seen)])),
    maps:from_list([{Letter, Node} || Node <- Nodes, Letter <- maps:keys(Seen),
                                      string:find(atom_to_list(Node), "_" ++ Letter ++ "@") =/= nomatch]).

percentile(P, Hist) ->
    Sorted = [Row || {_, N} = Row <- lists:sort(maps:to_list(Hist)), N > 0],
    case P * lists:sum([N || {_, N} <- Sorted]) of
        Rank when Rank > 0 -> find(Rank, Sorted);
        _ -> none
    end.

find(_Rank, [{Bucket, _}]) -> math:pow(2, Bucket / 8);
find(Rank, [{Bucket, N} | _]) when N >= Rank -> math:pow(2, Bucket / 8);
find(Rank, [{_, N} | Rest]) -> find(Rank - N, Rest).

%% ------------------------------------------------------------------------------------------------
%% The table

table(Ms, Pairs, Seconds, Seen) ->
    Sizes = lists:usort(lists:append([maps:keys(Came) || #{came := Came} <- Pairs])),
    [io_lib:format("~6.1f s  messages a second by size, and round trips of 64 B beside them",
                   [Ms / 1000]),
     [pad(8, "")] ++ [lpad(8, bytes(S)) || S <- Sizes]
     ++ [lpad(8, "MB/s"), lpad(11, "p50 ms"), lpad(9, "p99 ms")]]
        ++ [[pad(8, [X, " -> ", Y])]
            ++ [lpad(8, grouped(round(maps:get(S, Came, 0) / Seconds))) || S <- Sizes]
            ++ [lpad(8, mega(Bytes / Seconds)),
                lpad(11, ms_of(percentile(0.5, Rtt))), lpad(9, ms_of(percentile(0.99, Rtt)))]
            || #{from := X, to := Y, came := Came, bytes := Bytes, rtt := Rtt} <- Pairs]
        ++ ["lanes   MB sent / RTT in us, of each"]
        ++ [lanes(X, Y, Session) || {X, Y, Session} <- sessions(Seen)].

sessions(Seen) ->
    Names = names(Seen),
    [{X, Y, Session} || X <- maps:keys(Names), Y <- maps:keys(Names), X =/= Y,
                        #{} = Session <- [maps:get(maps:get(Y, Names), of_node(sessions, X, Seen),
                                                   none)]].

lanes(X, Y, #{lanes := Lanes}) ->
    [pad(8, [X, " -> ", Y]) |
     [lpad(17, [integer_to_list(No), ": ", mega(Bytes), " / ", rtt(Lane)])
      || #{lane := No, bytes_out := Bytes} = Lane <- Lanes]].

rtt(#{tcp := #{rtt_us := Us}}) -> integer_to_list(Us);
rtt(_) -> "-".

verified(Seen, #v{messages = Messages, bytes = Bytes}) ->
    Faults = lists:sum([F || #{faults := F} <- maps:values(Seen)]),
    io_lib:format("verified ~s messages, ~s, faults ~b", [grouped(Messages), bytes(Bytes), Faults]).

line(Ms, Pairs, Seconds, Seen) ->
    Rtt = lists:foldl(fun(M, Acc) ->
                              maps:fold(fun(K, V, A) -> A#{K => V + maps:get(K, A, 0)} end, Acc, M)
                      end, #{}, [R || #{rtt := R} <- Pairs]),
    Lanes = [io_lib:format("~s-~s ~b", [X, Y, length(L)])
             || {X, Y, #{lanes := L}} <- sessions(Seen), X < Y],
    io_lib:format("~6.1f s  ~s msg/s, ~s MB/s, ping p50 ~s p99 ~s ms; lanes ~s; ",
                  [Ms / 1000, grouped(round(sum(messages, Pairs) / Seconds)),
                   mega(sum(bytes, Pairs) / Seconds), ms_of(percentile(0.5, Rtt)),
                   ms_of(percentile(0.99, Rtt)), lists:join(", ", Lanes)]).

%% ------------------------------------------------------------------------------------------------
%% Text

lines(Rows) -> [[Row, $\n] || Row <- Rows].

%% Cursor to the start of what is shown, and all behind it away.
wipe([]) -> "";
wipe(Rows) -> io_lib:format("\e[~bA\e[J", [length(Rows)]).

pad(N, Text) -> string:pad(lists:flatten(Text), N).
lpad(N, Text) -> [$\s, string:pad(lists:flatten(Text), N - 1, leading)].

mega(Bytes) -> io_lib:format("~.1f", [Bytes / 1.0e6]).

ms_of(none) -> "-";
ms_of(Us) -> io_lib:format("~.2f", [Us / 1000]).

-spec ms(integer()) -> iolist().
ms(Us) -> io_lib:format("~.1f ms", [Us / 1000]).

%% 64 B, 1 KB, 8 MB: sizes; 1.2 GB: sums.
-spec bytes(non_neg_integer()) -> iolist().
bytes(N) when N < 1024 -> io_lib:format("~b B", [N]);
bytes(N) when N < 1 bsl 20, N rem 1024 =:= 0 -> io_lib:format("~b KB", [N bsr 10]);
bytes(N) when N < 1 bsl 30, N rem (1 bsl 20) =:= 0 -> io_lib:format("~b MB", [N bsr 20]);
bytes(N) when N < 1000000000 -> io_lib:format("~.1f MB", [N / 1.0e6]);
bytes(N) -> io_lib:format("~.2f GB", [N / 1.0e9]).

-spec grouped(non_neg_integer()) -> iolist().
grouped(N) when N < 1000 -> integer_to_list(N);
grouped(N) -> [grouped(N div 1000), io_lib:format(" ~3..0b", [N rem 1000])].
