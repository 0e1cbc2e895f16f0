%% The packet scanner in C against its twin in Erlang.
-module(prop_dop).

-include("pt_proper.hrl").

-import(proper, [aggregate/2, conjunction/1]).
-import(proper_types, [any/0, atom/0, binary/0, binary/1, bitstring/0, boolean/0, byte/0, float/0,
                       frequency/1, integer/0, list/1, non_empty/1, oneof/1, range/2, resize/2,
                       string/0, vector/2]).

-export([prop_generated/0, prop_mutated/0, prop_any_term_is_skipped/0, prop_one_key_a_pid/0,
         prop_deep_and_wide/0]).

%% --- properties ------------------------------------------------------------------------

%% Packets near what VMs send. The whole packet is seen, or only its beginning.
prop_generated() ->
    with_scanner(?FORALL(Packets, non_empty(list(seen(packet()))), agree(Packets))).

%% The same, damaged.
prop_mutated() ->
    with_scanner(?FORALL(Packets, non_empty(list(seen(mutated(packet())))), agree(Packets))).

%% UNLINK_ID's sender comes after its first operand: whatever the VM encodes there is stepped over.
prop_any_term_is_skipped() ->
    with_scanner(?FORALL({Term, Options, {Sender, _} = Pid}, {term(), encoding(), pid()},
        begin
            <<Tag, _/binary>> = Skipped = bare(term_to_binary(Term, Options)),
            Packet = iolist_to_binary([131, 68, 0, 104, 4, 97, 35, Skipped, encode_pid(Pid), 106]),
            #{order := Order, op := Op, key := Key} = c_scan(Packet),
            #{sender := TwinSender} = partisan_dop_twin:scan(Packet),
            aggregate([Tag], conjunction([{c, {Order, Op, Key} =:= {sender, 35, key(Sender)}},
                                          {twin, TwinSender =:= Sender}]))
        end)).

%% One key for a process, however its pid is written; different keys for different processes.
prop_one_key_a_pid() ->
    with_scanner(?FORALL(Pids, non_empty(list(pid())),
        one_to_one([begin
                        Packet = [131, 68, 0, 104, 3, 97, 22, encode_pid(P), 106],
                        #{order := sender, key := Key} = c_scan(iolist_to_binary(Packet)),
                        {Key, Sender}
                    end || {Sender, _} = P <- Pids]))).

%% Nested a million deep, wide beyond the bound, lengths that lie: answered all the same.
prop_deep_and_wide() ->
    Numbers = oneof([range(1, 300), range(65530, 65540), 200000]),
    with_scanner(?FORALL({Head, N}, {hostile_head(), Numbers},
        begin
            Nest = binary:copy(Head, N),
            Pid = encode_pid({{1, 2, 3}, {88, 119, <<"n@h">>}}),
            Start = [131, 68, 0, 104, 4, 97, 35],
            Nils = binary:copy(<<106>>, N),
            agree([whole(iolist_to_binary(P)) || P <- [[Start, Nest, Pid, 106],
                                                       [Start, Nest, 106, Pid, 106],
                                                       [Start, 105, <<N:32>>, Nest, Pid, 106],
                                                       [Start, 105, <<N:32>>, Nils, Pid, 106]]])
        end)).

hostile_head() ->
    oneof([<<104, 1>>, <<105, 1:32>>, <<108, 0:32>>, <<108, 1:32>>, <<113>>, <<116, 1:32>>, <<106>>,
           <<104, 255>>, <<105, -1:32>>, <<116, -1:32>>, <<117, -1:32>>, <<109, -1:32>>]).

%% --- comparing -------------------------------------------------------------------------

with_scanner(Property) ->
    ?SETUP(fun() ->
               Pid = partisan_scan_port:start(),
               persistent_term:put(?MODULE, Pid),
               fun() -> partisan_scan_port:stop(Pid) end
           end,
           Property).

scanner() -> persistent_term:get(?MODULE).

c_scan(Packet) -> partisan_scan_port:scan(scanner(), whole(Packet)).

whole(Packet) -> {Packet, byte_size(Packet)}.

agree(Packets) ->
    Pairs = [{P, partisan_scan_port:scan(scanner(), P), twin(P)} || P <- Packets],
    Same = [{P, C, T} || {P, C, T} <- Pairs,
                         maps:without([key, name], C) =/= maps:without([sender], T)
                         orelse known(C) =/= true],
    Keys = [{Key, Sender} || {_, #{key := Key}, #{sender := Sender}} <- Pairs],
    ?WHENFAIL(io:format("differ: ~p~nkeys: ~p~n", [Same, Keys]),
              aggregate([{maps:get(form, T), maps:get(order, T)} || {_, _, T} <- Pairs],
                        Same =:= [] andalso one_to_one(Keys))).

twin({Seen, Total}) -> partisan_dop_twin:scan(Seen, Total).

%% An operation that was recognised has a name, any other has none.
known(#{op := 0, name := Name}) -> Name =:= <<"UNKNOWN">>;
known(#{name := Name}) -> Name =/= <<"UNKNOWN">>.

%% C key 0 and twin's `none' go together, and so do equal keys and equal senders.
one_to_one(Keys) ->
    Pairs = lists:usort([{0, none} | Keys]),
    {Ks, Ss} = lists:unzip(Pairs),
    length(lists:usort(Ks)) =:= length(Pairs) andalso length(lists:usort(Ss)) =:= length(Pairs).

key({Id, Serial, Creation}) ->
    Packet = <<131, 68, 0, 104, 3, 97, 22, 88, 119, 0, Id:32, Serial:32, Creation:32, 106>>,
    maps:get(key, c_scan(Packet)).

%% --- packets ---------------------------------------------------------------------------

seen(Packet) ->
    ?LET(Bin, Packet,
         frequency([{8, whole(Bin)},
                    {1, {Bin, byte_size(Bin) + 5000}},
                    {1, ?LET(N, range(0, byte_size(Bin)),
                             {binary:part(Bin, 0, N), byte_size(Bin)})}])).

packet() ->
    ?LET({Header, Control, Payload}, {header(), control(), binary()},
         iolist_to_binary([Header, Control, Payload])).

header() ->
    frequency([{20, [131, 68, 0]},
               {6, ?LET({S, F}, {word(), word()}, [131, 69, <<S:64, F:64>>, 0])},
               {2, ?LET({S, F}, {word(), word()}, [131, 70, <<S:64, F:64>>])},
               {10, ?LET(Section, section(), [131, 68, Section])},
               {4, ?LET({S, F, Section}, {word(), word(), section()},
                        [131, 69, <<S:64, F:64>>, Section])},
               {1, ?LET(N, byte(), [131, 68, N])},
               {1, ?LET({S, F, N}, {word(), word(), byte()}, [131, 69, <<S:64, F:64>>, N])},
               {1, [112, 131]},
               {1, ?LET({A, B}, {byte(), byte()}, [A, B])},
               {1, []}]).

%% Atom references: {Segment, Index, Text of a NEW one}.
section() ->
    ?LET({References, Long},
         {frequency([{6, list(reference())}, {1, ?LET(N, range(0, 255), vector(N, reference()))}]),
          frequency([{3, false}, {1, true}])},
         encode_section(References, Long)).

reference() ->
    {range(0, 7), byte(), frequency([{3, none}, {2, ?LET(L, range(0, 20), binary(L))},
                                     {1, node_name()}, {1, ?LET(L, range(1018, 1023), binary(L))}])}.

encode_section([], _) ->
    [0];
encode_section(References, Long) ->
    N = length(References),
    Nibbles = [case Text of none -> Segment; _ -> 8 bor Segment end
               || {Segment, _, Text} <- References]
        ++ [case Long of true -> 1; false -> 0 end | lists:duplicate((N + 1) rem 2, 0)],
    [N, pairs(Nibbles), [[Index, encode_text(Text, Long)] || {_, Index, Text} <- References]].

pairs([Low, High | Rest]) -> [<<High:4, Low:4>> | pairs(Rest)];
pairs([]) -> [].

encode_text(none, _) -> [];
encode_text(Text, true) -> [<<(byte_size(Text)):16>>, Text];
encode_text(Text, false) ->
    Short = binary:part(Text, 0, min(255, byte_size(Text))),
    [byte_size(Short), Short].

word() -> frequency([{1, 0}, {3, range(1, 3)}, {4, range(0, 16#ffffffffffffffff)}]).

%% Tuples of known operations with operands of the right and of wrong kinds, with too few and too
%% many elements, and some that are no control tuples.
control() ->
    frequency([{20, ?LET(Op, oneof(partisan_dop_twin:operations()), tuple_for(Op))},
               {4, ?LET(Op, oneof([21, 28, 31, 32]), tuple_for(Op))},
               {3, ?LET(Op, oneof([byte(), range(256, 1 bsl 40), integer()]), tuple_for(Op))},
               {1, ?LET({T, O}, {term(), encoding()}, bare(term_to_binary(T, O)))},
               {1, []}]).

tuple_for(Op) ->
    ?LET({Code, Operands, Extra, Big},
         {operation(Op), operands(Op), frequency([{8, 0}, {1, range(-2, 3)}]), boolean()},
         begin
             Arity = max(0, length(Operands) + 1 + Extra),
             Tag = case Big of true -> [105, <<Arity:32>>]; false -> [104, Arity] end,
             [Tag, Code, Operands]
         end).

%% Other encodings of the number than the VM's own, too.
operation(Op) when Op >= 0, Op < 256 ->
    frequency([{10, [97, Op]}, {1, [98, <<Op:32>>]}, {1, [110, 1, 0, Op]},
               {1, [111, <<3:32>>, 0, Op, 0, 0]}, {1, [110, 1, 1, Op]},
               {1, [110, 9, 0, Op, <<0:64>>]}]);
operation(Op) ->
    bare(term_to_binary(Op)).

operands(Op) ->
    case partisan_dop_twin:rule(Op) of
        {Arity, Between, _} ->
            ?LET({Before, Sender, After},
                 {vector(Between, operand()), sender(), vector(Arity - Between - 2, operand())},
                 Before ++ [Sender | After]);
        _ ->
            list(operand())
    end.

sender() -> frequency([{6, encoded_pid()}, {2, encoded_atom()}, {1, operand()}]).

operand() ->
    frequency([{4, encoded_pid()}, {3, encoded_atom()}, {2, encoded_reference()},
               {1, encoded_port()},
               {2, ?LET({T, O}, {term(), encoding()}, bare(term_to_binary(T, O)))}]).

%% --- pids and the like, in every encoding ----------------------------------------------

%% {{Id, Serial, Creation}, {PidTag, AtomTag, NodeName}}; few values, so that senders meet again.
pid() ->
    ?LET(Creation, oneof([0, 1, 3, 255, 256, 16#71ac3e2f]),
         {{oneof([0, 1, 9, 16#7fff, 16#ffffffff]), oneof([0, 1, 8191, 16#ffffffff]), Creation},
          {oneof([88 | [103 || Creation < 256]]), atom_tag(), node_name()}}).

encode_pid({{Id, Serial, Creation}, {88, AtomTag, Node}}) ->
    iolist_to_binary([88, encode_atom(AtomTag, Node), <<Id:32, Serial:32, Creation:32>>]);
encode_pid({{Id, Serial, Creation}, {103, AtomTag, Node}}) ->
    iolist_to_binary([103, encode_atom(AtomTag, Node), <<Id:32, Serial:32, Creation>>]).

encoded_pid() -> ?LET(Pid, pid(), encode_pid(Pid)).

encoded_atom() ->
    ?LET({Tag, Name}, {atom_tag(), oneof([<<>>, <<"noproc">>, node_name()])},
         encode_atom(Tag, Name)).

encoded_reference() ->
    ?LET({Tag, AtomTag, Node, Words}, {oneof([90, 114, 101]), atom_tag(), node_name(), range(0, 5)},
         begin
             Name = encode_atom(AtomTag, Node),
             case Tag of
                 90 -> [90, <<Words:16>>, Name, <<7:32>>, <<0:(32 * Words)>>];
                 114 -> [114, <<Words:16>>, Name, 3, <<0:(32 * Words)>>];
                 101 -> [101, Name, <<17:32>>, 3]
             end
         end).

encoded_port() ->
    ?LET({{Tag, Size}, AtomTag, Node},
         {oneof([{120, 12}, {89, 8}, {102, 5}]), atom_tag(), node_name()},
         [Tag, encode_atom(AtomTag, Node), <<0:Size/unit:8>>]).

atom_tag() -> oneof([82, 100, 115, 118, 119]).

node_name() ->
    oneof([<<"a@b">>, <<"partisan@host.example.org">>, binary:copy(<<"n">>, 255),
           unicode:characters_to_binary(lists:duplicate(60, 16#1f600))]).

encode_atom(Tag, Name) when Tag =:= 100; Tag =:= 118 -> [Tag, <<(byte_size(Name)):16>>, Name];
encode_atom(82, Name) -> [82, erlang:phash2(Name, 256)];
encode_atom(Tag, Name) -> [Tag, byte_size(Name), Name].

%% --- terms -----------------------------------------------------------------------------

bare(<<131, Bin/binary>>) -> Bin.

encoding() -> oneof([[{minor_version, V}] || V <- [0, 1, 2]]).

term() ->
    ?SIZED(Size, resize(min(Size, 12), frequency([{6, any()}, {4, special()}, {2, compound()}]))).

compound() ->
    oneof([list(special()), ?LET(L, list(special()), list_to_tuple(L)),
           ?LET(L, list({special(), special()}), maps:from_list(L)),
           ?LET({L, T}, {non_empty(list(any())), special()}, L ++ T),
           ?LET(N, range(256, 400), erlang:make_tuple(N, x))]).

special() ->
    oneof([integer(), float(), atom(), bitstring(), ?LET(B, range(64, 3000), 1 bsl B),
           ?LET(B, range(8, 70), -(1 bsl B)), string(), [], fun lists:map/2,
           ?LET(X, any(), fun() -> X end), ?LET(_, integer(), make_ref()), self(),
           hd(erlang:ports()), list_to_atom(lists:duplicate(255, 16#20ac)),
           ?LET({{I, S, C}, _}, pid(),
                binary_to_term(<<131, 88, 119, 3, "a@b", I:32, S:32, (max(C, 1)):32>>)),
           ?LET(B, binary(), binary_to_list(B))]).

%% --- damage ----------------------------------------------------------------------------

mutated(Packet) ->
    ?LET({Bin, Changes}, {Packet, ?LET(N, range(1, 3), vector(N, change()))},
         lists:foldl(fun mutate/2, Bin, Changes)).

%% Most damage goes where the scanner looks: near the beginning.
change() ->
    {frequency([{4, set}, {4, flip}, {2, delete}, {2, insert}, {1, cut}, {1, double}]),
     oneof([range(2, 12), range(0, 60), range(0, 1500)]),
     oneof([0, 1, 255, range(67, 131), byte()])}.

mutate({_, _, _}, <<>>) ->
    <<>>;
mutate({What, Where, Value}, Bin) ->
    {Before, <<Byte, After/binary>>} = split_binary(Bin, Where rem byte_size(Bin)),
    case What of
        set -> <<Before/binary, Value, After/binary>>;
        flip -> <<Before/binary, (Byte bxor (1 bsl (Value rem 8))), After/binary>>;
        delete -> <<Before/binary, After/binary>>;
        insert -> <<Before/binary, Value, Byte, After/binary>>;
        cut -> Before;
        double -> <<Before/binary, Byte, After/binary, Byte, After/binary>>
    end.
