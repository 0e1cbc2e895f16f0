%% References to processes, references and names that travel as ordinary terms.
%%
%% Native pids and references work across nodes here, so everything in this application takes them;
%% these encodings exist for code that keeps them in sets, binaries or documents. Three formats
%% (option `remote_ref_format`), and those of Partisan 1 to 4 are understood as well:
%%
%%   improper_list   [Node | <<"#Pid<0.85.0/3>">>]; <<"#Ref<0.1.2.3/3>">>, <<"#Namefoo">>
%%   tuple           {partisan_remote_ref, Node, {encoded_pid, "<0.85.0/3>"}}; encoded_ref, _name
%%   uri             <<"partisan:pid:Node:0.85.0/3">>; ref, name
%%
%% What follows the slash is the node's creation: a reference into an earlier life of a node reaches
%% nobody, where one without it (Partisan's own form, understood too) may hit a process that happens
%% to have the number now. Without it, decoding a reference to another node asks that node.
-module(partisan_remote_ref).

-export([from_term/1, from_term/2, to_term/1, to_pid/1, to_name/1, to_pid_or_name/1,
         to_reference/1, target/1, node/1, nodestring/1]).
-export([is_type/1, is_pid/1, is_reference/1, is_name/1, is_name/2, is_identical/2]).
-export([is_local/1, is_local/2, is_local_pid/1, is_local_pid/2, is_local_reference/1,
         is_local_reference/2, is_local_name/1, is_local_name/2]).
-export([resolve/1]).

-compile({no_auto_import, [is_pid/1, is_reference/1, node/1]}).
-dialyzer({no_improper_lists, encode/4}).

-type t() :: p() | r() | n().
-type p() :: encoded().
-type r() :: encoded().
-type n() :: encoded().
%% Not a proper list: [node() | binary()].
-type encoded() :: nonempty_improper_list(node(), binary()) | binary() |
                   {partisan_remote_ref | partisan_remote_reference, node(), {atom(), string()}}.
-type native() :: pid() | reference() | atom() | {atom(), node()}.
-export_type([t/0, p/0, r/0, n/0]).

-define(OLD_TUPLE, partisan_remote_reference).
-define(ASK_MS, 5000).
-define(PADDED, 65). % bytes from which a binary is kept outside of heaps

%% ------------------------------------------------------------------------------------------------
%% To and from native terms

%% An encoded reference comes back in the configured format.
-spec from_term(native() | t()) -> t().
from_term(Term) ->
    {Kind, Node, Text} = parse(Term),
    encode(Kind, Node, Text, format()).

%% A name on another node; a pid or reference as if it were Node's.
-spec from_term(native() | t(), node()) -> t().
from_term(Name, Node) when is_atom(Name), is_atom(Node) ->
    encode(name, Node, atom_to_list(Name), format());
from_term(Term, Node) when is_atom(Node) ->
    case parse(Term) of
        {Kind, Node, Text} -> encode(Kind, Node, Text, format());
        {Kind, _, Text} -> encode(Kind, Node, without_creation(Text), format())
    end;
from_term(Term, Node) ->
    error(badarg, [Term, Node]).

%% A native pid or reference, of whatever node. A local name is an atom, a remote one {Name, Node}.
-spec to_term(t() | native()) -> native().
to_term(Ref) ->
    {Kind, Node, Text} = parse(Ref),
    case decode(Kind, Node, Text) of
        {ok, Term} -> Term;
        {error, _} -> error(badarg, [Ref])
    end.

%% The same without an exception when the reference's node had to be asked and did not answer.
-spec resolve(t() | native()) -> {ok, native()} | {error, not_yet_connected}.
resolve(Ref) ->
    {Kind, Node, Text} = parse(Ref),
    decode(Kind, Node, Text).

-spec to_pid(t() | pid()) -> pid().
to_pid(Ref) ->
    case to_term(Ref) of
        Pid when erlang:is_pid(Pid) -> Pid;
        _ -> error(badarg, [Ref])
    end.

-spec to_name(t() | atom() | {atom(), node()}) -> atom().
to_name(Ref) ->
    case parse(Ref) of
        {name, _, Text} -> list_to_atom(Text);
        _ -> error(badarg, [Ref])
    end.

-spec to_pid_or_name(t() | native()) -> pid() | atom() | {atom(), node()}.
to_pid_or_name(Ref) ->
    case to_term(Ref) of
        Term when not erlang:is_reference(Term) -> Term;
        _ -> error(badarg, [Ref])
    end.

-spec to_reference(t() | reference()) -> reference().
to_reference(Ref) ->
    case to_term(Ref) of
        Term when erlang:is_reference(Term) -> Term;
        _ -> error(badarg, [Ref])
    end.

-spec target(t() | native()) -> {encoded_pid | encoded_ref | encoded_name, string()}.
target(Ref) ->
    case parse(Ref) of
        {pid, _, Text} -> {encoded_pid, "<" ++ without_creation(Text) ++ ">"};
        {ref, _, Text} -> {encoded_ref, "#Ref<" ++ without_creation(Text) ++ ">"};
        {name, _, Text} -> {encoded_name, Text}
    end.

-spec node(t() | native()) -> node().
node(Ref) ->
    {_, Node, _} = parse(Ref),
    Node.

-spec nodestring(t() | native()) -> binary().
nodestring(Ref) ->
    atom_to_binary(node(Ref), utf8).

%% ------------------------------------------------------------------------------------------------
%% What it is

-spec is_type(term()) -> boolean().
is_type(Term) -> kind(Term) =/= error.

-spec is_pid(term()) -> boolean().
is_pid(Term) -> kind(Term) =:= pid.

-spec is_reference(term()) -> boolean().
is_reference(Term) -> kind(Term) =:= ref.

-spec is_name(term()) -> boolean().
is_name(Term) -> kind(Term) =:= name.

-spec is_name(term(), atom()) -> boolean().
is_name(Term, Name) -> is_name(Term) andalso to_name(Term) =:= Name.

%% A pid and the name it is registered under, both here, are the same.
-spec is_identical(t() | native(), t() | native()) -> boolean().
is_identical(A, A) -> true;
is_identical(A, B) ->
    case {parse(A), parse(B)} of
        {{pid, Node, _}, {name, Node, Text}} -> Node =:= erlang:node() andalso registered(A, Text);
        {{name, Node, Text}, {pid, Node, _}} -> Node =:= erlang:node() andalso registered(B, Text);
        {{name, Node, Text}, {name, Node, Text}} -> true;
        {{Kind, Node, _}, {Kind, Node, _}} -> to_term(A) =:= to_term(B);
        _ -> false
    end.

registered(Ref, Text) ->
    to_pid(Ref) =:= whereis(list_to_atom(Text)).

-spec is_local(t() | native()) -> boolean().
is_local(Ref) -> node(Ref) =:= erlang:node().

-spec is_local(t() | native(), node()) -> boolean().
is_local(Ref, Node) -> node(Ref) =:= Node.

-spec is_local_pid(term()) -> boolean().
is_local_pid(Term) -> is_pid(Term) andalso is_local(Term).

-spec is_local_reference(term()) -> boolean().
is_local_reference(Term) -> is_reference(Term) andalso is_local(Term).

-spec is_local_name(term()) -> boolean().
is_local_name(Term) -> is_name(Term) andalso is_local(Term).

%% The reference is that of the local process Pid, by its pid or its name.
-spec is_local_pid(term(), pid()) -> boolean().
is_local_pid(Term, Pid) ->
    case kind(Term) of
        pid -> is_local(Term) andalso to_pid(Term) =:= Pid;
        name -> is_local(Term) andalso whereis(to_name(Term)) =:= Pid;
        _ -> false
    end.

-spec is_local_reference(term(), reference()) -> boolean().
is_local_reference(Term, Ref) -> is_local_reference(Term) andalso to_reference(Term) =:= Ref.

-spec is_local_name(term(), atom()) -> boolean().
is_local_name(Term, Name) -> is_local_name(Term) andalso to_name(Term) =:= Name.

%% ------------------------------------------------------------------------------------------------
%% Writing: Text is "0.85.0/3", "0.1.2.3/3" or the name

format() ->
    partisan_config:get(remote_ref_format, improper_list).

encode(Kind, Node, Text, improper_list) ->
    [Node | unicode:characters_to_binary(case Kind of
                                             pid -> ["#Pid<", Text, ">"];
                                             ref -> ["#Ref<", Text, ">"];
                                             name -> ["#Name", Text]
                                         end)];
encode(pid, Node, Text, tuple) -> {?MODULE, Node, {encoded_pid, "<" ++ Text ++ ">"}};
encode(ref, Node, Text, tuple) -> {?MODULE, Node, {encoded_ref, "#Ref<" ++ Text ++ ">"}};
encode(name, Node, Text, tuple) -> {?MODULE, Node, {encoded_name, Text}};
encode(Kind, Node, Text, uri) ->
    Uri = unicode:characters_to_binary(["partisan:", atom_to_list(Kind), ":", atom_to_list(Node),
                                        ":", Text]),
    case partisan_config:get(remote_ref_uri_padding, false) of
        true when Kind =/= name, byte_size(Uri) < ?PADDED - 1 ->
            Fill = ?PADDED - 1 - byte_size(Uri),
            <<Uri/binary, ":", (binary:copy(<<$\31>>, Fill))/binary>>;
        _ ->
            Uri
    end.

%% ------------------------------------------------------------------------------------------------
%% Reading: {Kind, Node, Text}, or badarg

parse(Term) ->
    try scan(Term)
    catch error:_ -> error(badarg, [Term])
    end.

kind(Term) ->
    try scan(Term) of
        {Kind, _, _} -> Kind
    catch
        error:_ -> error
    end.

scan(Pid) when erlang:is_pid(Pid) ->
    External = term_to_binary(Pid),
    <<Id:32, Serial:32, Creation:32>> = binary:part(External, byte_size(External), -12),
    {pid, erlang:node(Pid), lists:flatten(io_lib:format("0.~b.~b/~b", [Id, Serial, Creation]))};
scan(Ref) when erlang:is_reference(Ref) ->
    <<131, 90, N:16, Rest/binary>> = term_to_binary(Ref),
    <<Creation:32, Words/binary>> = binary:part(Rest, byte_size(Rest), -4 * (N + 1)),
    Numbers = lists:reverse([W || <<W:32>> <= Words]),
    {ref, erlang:node(Ref), lists:flatten(["0", [io_lib:format(".~b", [W]) || W <- Numbers],
                                           io_lib:format("/~b", [Creation])])};
scan(Name) when is_atom(Name) -> {name, erlang:node(), atom_to_list(Name)};
scan({Name, Node}) when is_atom(Name), is_atom(Node) -> {name, Node, atom_to_list(Name)};
scan([Node | <<"#Pid<", Rest/binary>>]) when is_atom(Node) -> {pid, Node, inside(Rest)};
scan([Node | <<"#Ref<", Rest/binary>>]) when is_atom(Node) -> {ref, Node, inside(Rest)};
scan([Node | <<"#Name", Rest/binary>>]) when is_atom(Node) ->
    {name, Node, unicode:characters_to_list(Rest)};
scan(<<"partisan:pid:", Rest/binary>>) -> uri(pid, Rest);
scan(<<"partisan:ref:", Rest/binary>>) -> uri(ref, Rest);
scan(<<"partisan:name:", Rest/binary>>) ->
    [Node, Name] = binary:split(Rest, <<":">>),
    {name, binary_to_atom(Node, utf8), unicode:characters_to_list(Name)};
scan({Tag, Node, {What, Text}}) when Tag =:= ?MODULE orelse Tag =:= ?OLD_TUPLE, is_atom(Node) ->
    case {What, Text} of
        {encoded_pid, "<" ++ Rest} -> {pid, Node, inside(Rest)};
        {partisan_process_reference, "<" ++ Rest} -> {pid, Node, inside(Rest)};
        {encoded_ref, "#Ref<" ++ Rest} -> {ref, Node, inside(Rest)};
        {partisan_encoded_reference, "#Ref<" ++ Rest} -> {ref, Node, inside(Rest)};
        {encoded_name, Name} -> {name, Node, Name};
        {partisan_registered_name_reference, Name} -> {name, Node, Name}
    end;
%% Partisan 2 to 4 also put the native term or the bare name there.
scan({?OLD_TUPLE, Node, Name}) when is_atom(Node), is_atom(Name) ->
    {name, Node, atom_to_list(Name)};
scan({?OLD_TUPLE, Node, Pid}) when is_atom(Node), erlang:is_pid(Pid) ->
    scan(Pid).

uri(Kind, Rest) ->
    [Node, Text | _Padding] = binary:split(Rest, <<":">>, [global]),
    {Kind, binary_to_atom(Node, utf8), numbers(binary_to_list(Text))}.

inside(Rest) when is_binary(Rest) -> inside(binary_to_list(Rest));
inside(Rest) ->
    $> = lists:last(Rest),
    numbers(lists:droplast(Rest)).

numbers("0." ++ _ = Text) ->
    {_, _} = split(Text),
    Text.

split(Text) ->
    case string:split(Text, "/") of
        [Numbers, Creation] -> {integers(Numbers), list_to_integer(Creation)};
        [Numbers] -> {integers(Numbers), unknown}
    end.

integers("0." ++ Text) ->
    [list_to_integer(N) || N <- string:split(Text, ".", all)].

without_creation(Text) ->
    hd(string:split(Text, "/")).

%% ------------------------------------------------------------------------------------------------
%% Native terms from their external form

decode(name, Node, Text) when Node =:= erlang:node() -> {ok, list_to_atom(Text)};
decode(name, Node, Text) -> {ok, {list_to_atom(Text), Node}};
decode(Kind, Node, Text) ->
    {Numbers, Given} = split(Text),
    case creation(Node, Given) of
        {ok, Creation} ->
            <<131, Atom/binary>> = term_to_binary(Node),
            {ok, binary_to_term(external(Kind, Numbers, Atom, Creation))};
        {error, _} = Error ->
            Error
    end.

external(pid, [Id, Serial], Atom, Creation) ->
    <<131, 88, Atom/binary, Id:32, Serial:32, Creation:32>>;
external(ref, Numbers, Atom, Creation) ->
    Words = << <<W:32>> || W <- lists:reverse(Numbers) >>,
    <<131, 90, (length(Numbers)):16, Atom/binary, Creation:32, Words/binary>>.

creation(_Node, Given) when is_integer(Given) -> {ok, Given};
creation(Node, unknown) when Node =:= erlang:node() -> {ok, erlang:system_info(creation)};
creation(Node, unknown) -> ask(Node).

%% A process of the node has its creation; the VM starts one without any code of ours over there.
ask(Node) ->
    case lists:member(Node, erlang:nodes(connected)) of
        true ->
            Id = erlang:spawn_request(Node, erlang, is_atom, [ok], [{reply_tag, ?MODULE}]),
            receive
                {?MODULE, Id, ok, Pid} ->
                    External = term_to_binary(Pid),
                    <<Creation:32>> = binary:part(External, byte_size(External), -4),
                    {ok, Creation};
                {?MODULE, Id, error, _} ->
                    {error, not_yet_connected}
            after ?ASK_MS ->
                    _ = erlang:spawn_request_abandon(Id),
                    {error, not_yet_connected}
            end;
        false ->
            {error, not_yet_connected}
    end.
