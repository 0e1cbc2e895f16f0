%% What HyParView's nodes say to each other, and what a node can take (partisan_overlay_shape).
-module(partisan_hyparview_message).

-export([well_formed/2]).

%% Who asks for a place, or gives one, speaks for itself; and nobody is put out for itself.
-spec well_formed(node(), term()) -> boolean().
well_formed(From, {join, Spec, Who}) ->
    is_atom(Who) andalso partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(From, {neighbour, Priority, Spec}) ->
    is_atom(Priority) andalso partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(From, {meet, First, Spec}) ->
    is_atom(First) andalso partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(_, {first, First, Word}) -> is_atom(First) andalso is_integer(Word);
well_formed(From, {accept, Spec}) -> partisan_overlay_shape:is_spec_of(From, Spec);
well_formed(_, {What, Why}) when What =:= refuse; What =:= disconnect -> is_atom(Why);
well_formed(_, What) when What =:= keep; What =:= goodbye; What =:= leave -> true;
well_formed(From, {optimise, Spec, Other, Latency}) ->
    partisan_overlay_shape:is_spec_of(From, Spec) andalso partisan_overlay_shape:is_spec(Other)
        andalso is_integer(Latency) andalso Latency >= 0;
well_formed(From, {replace, Other, I}) ->
    partisan_overlay_shape:is_spec(Other) andalso is_atom(I) andalso I =/= From;
well_formed(From, {switch, Spec, I}) ->
    partisan_overlay_shape:is_spec_of(From, Spec) andalso is_atom(I) andalso I =/= From;
well_formed(_, {forward_join, Spec, Ttl}) ->
    partisan_overlay_shape:is_spec(Spec) andalso is_integer(Ttl);
well_formed(_, {shuffle, Specs, Ttl, Path}) ->
    partisan_overlay_shape:is_specs(Specs) andalso is_integer(Ttl)
        andalso partisan_overlay_shape:is_names(Path);
well_formed(_, {shuffle_reply, Specs, Path}) ->
    partisan_overlay_shape:is_specs(Specs) andalso partisan_overlay_shape:is_names(Path);
well_formed(_, _) -> false.
