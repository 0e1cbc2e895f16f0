%% What messages of cores are made of, for their well_formed/2 (partisan_overlay): a peer may be of
%% another version, and what it says must not end up in a state and fail there later.
-module(partisan_overlay_shape).

-export([is_spec/1, is_spec_of/2, is_specs/1, is_names/1, is_key/1, all/2]).

%% A node's spec, with addresses that a dialler can take.
-spec is_spec(term()) -> boolean().
is_spec(#{name := Name} = Spec) when is_atom(Name) ->
    all(fun is_address/1, maps:get(listen_addrs, Spec, []));
is_spec(_) ->
    false.

is_address(#{ip := Ip, port := Port}) when is_integer(Port), Port >= 0, Port < 65536 ->
    inet:is_ip_address(Ip);
is_address(_) ->
    false.

%% That node's own spec.
-spec is_spec_of(node(), term()) -> boolean().
is_spec_of(Node, #{name := Node} = Spec) -> is_spec(Spec);
is_spec_of(_, _) -> false.

-spec is_specs(term()) -> boolean().
is_specs(Specs) -> all(fun is_spec/1, Specs).

-spec is_names(term()) -> boolean().
is_names(Names) -> all(fun is_atom/1, Names).

%% The name of a broadcast message.
-spec is_key(term()) -> boolean().
is_key({Module, _Id}) -> is_atom(Module);
is_key(_) -> false.

%% A proper list of such.
-spec all(fun((term()) -> boolean()), term()) -> boolean().
all(_, []) -> true;
all(Is, [First | Rest]) -> Is(First) andalso all(Is, Rest);
all(_, _) -> false.
