%% The hello parser against anything that may stand behind a node name.
-module(prop_dist_hello).

-include("pt_proper.hrl").

-import(proper_types, [binary/0, binary/1, frequency/1, integer/2, oneof/1]).

-export([prop_round_trip/0, prop_damaged/0, prop_any_bytes/0, prop_agreement/0]).

%% What was put behind any name comes back, whatever follows it.
prop_round_trip() ->
    ?FORALL({Hello, Name, Behind}, {hello(), binary(), binary()},
        found(Name, [partisan_dist_hello:encode(Hello), Behind]) =:= {ok, Hello}).

%% One byte changed, bytes lost at the end: an answer, never an exception; and no hello without all
%% of its elements.
prop_damaged() ->
    ?FORALL({Hello, At, Byte, Cut}, {hello(), integer(0, 100), integer(0, 255), integer(0, 20)},
        begin
            Bin = partisan_dist_hello:encode(Hello),
            Changed = change(Bin, At rem byte_size(Bin), Byte),
            well_formed(found(<<"a@b">>, binary:part(Changed, 0, byte_size(Changed) - Cut)))
        end).

prop_any_bytes() ->
    ?FORALL({Start, Rest}, {oneof([<<>>, <<"ptsn">>, <<"ptsn", 1, 1>>, <<"ptsn", 1, 1, 0, 9>>]),
                            binary()},
        well_formed(found(<<"a@b">>, [Start, Rest]))).

%% Both sides come to the same result, and it is within what both offered.
prop_agreement() ->
    ?FORALL({A, B}, {hello(), hello()},
        case {partisan_dist_hello:agree(A, B), partisan_dist_hello:agree(B, A)} of
            {{ok, #{version := V, lanes := L, capabilities := C} = Same}, {ok, Same}} ->
                lists:all(fun(#{version := Newest, oldest := Oldest, lanes := Wish,
                                capabilities := Caps}) ->
                                  V =< Newest andalso V >= Oldest andalso L =< Wish
                                      andalso C band (bnot Caps) =:= 0
                          end, [A, B]);
            {{error, _}, {error, _}} ->
                min(maps:get(version, A), maps:get(version, B))
                    < max(maps:get(oldest, A), maps:get(oldest, B));
            _ ->
                false
        end).

found(Name, Behind) ->
    Tail = iolist_to_binary([<<(byte_size(Name)):16>>, Name, Behind]),
    Answer = partisan_dist_hello:find({send_name, <<$N, 0:64, 0:32, Tail/binary>>}),
    Answer = partisan_dist_hello:find({challenge, <<$N, 0:64, 0:32, 0:32, Tail/binary>>}).

well_formed(none) -> true;
well_formed({error, [_ | _]}) -> true;
well_formed({ok, #{version := V, oldest := O, lanes := L, nonce := <<_:16/binary>>}}) ->
    V >= O andalso L >= 1.

change(Bin, At, Byte) ->
    <<Head:At/binary, _, Tail/binary>> = Bin,
    <<Head/binary, Byte, Tail/binary>>.

hello() ->
    ?LET({Oldest, More, Caps, Lanes, Nonce},
         {integer(0, 5), frequency([{3, 0}, {1, integer(0, 5)}]), integer(0, 1 bsl 64 - 1),
          integer(1, 255), binary(16)},
         #{version => Oldest + More, oldest => Oldest, capabilities => Caps, lanes => Lanes,
           nonce => Nonce}).
