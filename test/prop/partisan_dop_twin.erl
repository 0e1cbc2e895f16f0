%% The packet scanner of c_src/proto/{etf,dop}.c once more, in Erlang, as an oracle for property
%% tests. Written from OTP's erl_ext_dist and erl_dist_protocol documents, with bit syntax and
%% pattern matching where the C code has tables and cursors, so that the two share no mistakes.
-module(partisan_dop_twin).

-export([scan/1, scan/2, skip/1, operations/0, rule/1]).

-export_type([scan/0, sender/0, rule/0]).

-type sender() :: {Id :: integer(), Serial :: integer(), Creation :: integer()}.
-type order() :: sender | free | half_fence | fence.
-type scan() :: #{form := tick | whole | frag_first | frag_next | other,
                  order := order(),
                  op := byte(),
                  sender := sender() | none,
                  seq := non_neg_integer(),
                  frag := non_neg_integer(),
                  atoms := byte(),
                  cut := boolean(),
                  header := non_neg_integer()}.
%% Smallest arity; elements between the operation and the sender; order if that is an atom.
-type rule() :: {pos_integer(), non_neg_integer(), order()} | fence | unknown.

-define(MAX_TERMS, 65536). % PT_ETF_MAX_WORK

-spec scan(binary()) -> scan().
scan(Packet) -> scan(Packet, byte_size(Packet)).

%% `Seen' is the beginning of a packet of `Total' bytes.
-spec scan(binary(), non_neg_integer()) -> scan().
scan(_, 0) ->
    (other())#{form := tick, order := free};
scan(Seen, Total) when byte_size(Seen) > Total ->
    scan(binary:part(Seen, 0, Total), Total);
scan(<<131, 68, Section/binary>> = Seen, _) when Section =/= <<>> ->
    behind_section(Seen, Section, #{form => whole});
scan(<<131, 69, Seq:64, Frag:64, Section/binary>> = Seen, _)
  when Seq > 0, Frag > 0, Section =/= <<>> ->
    behind_section(Seen, Section, #{form => frag_first, seq => Seq, frag => Frag});
scan(<<131, 70, Seq:64, Frag:64, _/binary>>, _) when Seq > 0, Frag > 0 ->
    (other())#{form := frag_next, order := sender, header := 18, seq := Seq, frag := Frag};
scan(_, _) ->
    other().

other() ->
    #{form => other, order => fence, op => 0, sender => none, seq => 0, frag => 0, header => 0,
      atoms => 0, cut => false}.

%% The control tuple follows the section of atom references.
behind_section(Seen, <<Atoms, _/binary>> = Section, Known) ->
    case section(Section) of
        more ->
            (other())#{cut := true};
        bad ->
            other();
        Control ->
            Header = byte_size(Seen) - byte_size(Control),
            control(Control, maps:merge(other(), Known#{atoms => Atoms, header => Header}))
    end.

%% What follows a section. Nibbles go from the low end of a byte to its high end.
section(<<0, Rest/binary>>) ->
    Rest;
section(<<N, Rest/binary>>) when byte_size(Rest) > N div 2 ->
    {Flags, References} = split_binary(Rest, N div 2 + 1),
    Nibbles = lists:append([[Low, High] || <<High:4, Low:4>> <= Flags]),
    Width = case lists:nth(N + 1, Nibbles) band 1 of
                0 -> 8;
                1 -> 16
            end,
    lists:foldl(fun(Nibble, Bin) -> reference(Nibble band 8, Width, Bin) end, References,
                lists:sublist(Nibbles, N));
section(_) ->
    more.

reference(_, _, Failed) when is_atom(Failed) -> Failed;
reference(0, _, <<_Index, Rest/binary>>) -> Rest;
reference(8, Width, Bin) ->
    case Bin of
        <<_Index, Length:Width, _/binary>> when Length > 255 * 4 -> bad;
        <<_Index, Length:Width, _:Length/binary, Rest/binary>> -> Rest;
        _ -> more
    end;
reference(_, _, _) -> more.

control(<<104, Arity, Rest/binary>>, Scan) -> control(Arity, uint(Rest), Scan);
control(<<105, Arity:32, Rest/binary>>, Scan) -> control(Arity, uint(Rest), Scan);
control(_, Scan) -> Scan.

control(Arity, {Op, Rest}, Scan) when Arity > 0 ->
    case rule(Op) of
        unknown ->
            Scan;
        {MinArity, Between, OnAtom} when Arity >= MinArity ->
            sender(Between, OnAtom, Rest, Scan#{op := Op});
        _ ->
            Scan#{op := Op}
    end;
control(_, _, Scan) ->
    Scan.

sender(0, OnAtom, Bin, Scan) ->
    case {pid(Bin), atom(Bin)} of
        {error, error} -> Scan;
        {error, _Rest} -> Scan#{order := OnAtom};
        {Sender, error} -> Scan#{order := sender, sender := Sender}
    end;
sender(N, OnAtom, Bin, Scan) ->
    case skip(Bin) of
        {ok, Rest} -> sender(N - 1, OnAtom, Rest, Scan);
        error -> Scan
    end.

-spec operations() -> [byte()].
operations() -> [Op || Op <- lists:seq(0, 255), rule(Op) =/= unknown].

-spec rule(non_neg_integer()) -> rule().
rule(1) -> {3, 0, fence};       % {1, From, To}
rule(2) -> fence;               % {2, '', To}
rule(3) -> {4, 0, fence};       % {3, From, To, Reason}
rule(4) -> {3, 0, fence};       % {4, From, To}
rule(6) -> {4, 0, fence};       % {6, From, '', Name}
rule(7) -> fence;               % {7, Leader, To}
rule(8) -> {4, 0, fence};       % {8, From, To, Reason}
rule(12) -> fence;              % {12, '', To, Token}
rule(13) -> {5, 0, fence};      % {13, From, To, Token, Reason}
rule(16) -> {5, 0, fence};      % {16, From, '', Name, Token}
rule(18) -> {5, 0, fence};      % {18, From, To, Token, Reason}
rule(19) -> {4, 0, fence};      % {19, From, PidOrName, Ref}
rule(20) -> {4, 0, fence};      % {20, From, PidOrName, Ref}
rule(21) -> {5, 0, half_fence}; % {21, FromPidOrName, To, Ref, Reason}
rule(22) -> {3, 0, fence};      % {22, From, To}
rule(23) -> {4, 0, fence};      % {23, From, To, Token}
rule(24) -> {3, 0, fence};      % {24, From, To}
rule(25) -> {4, 0, fence};      % {25, From, To, Token}
rule(26) -> {3, 0, fence};      % {26, From, To}
rule(27) -> {4, 0, fence};      % {27, From, To, Token}
rule(28) -> {4, 0, half_fence}; % {28, FromPidOrName, To, Ref}
rule(29) -> {6, 1, fence};      % {29, ReqId, From, GroupLeader, {M,F,A}, Opts}
rule(30) -> {7, 1, fence};      % the same and Token
rule(31) -> {5, 3, free};       % {31, ReqId, To, Flags, Result}
rule(32) -> {6, 3, free};       % the same and Token
rule(33) -> {3, 0, fence};      % {33, From, Alias}
rule(34) -> {4, 0, fence};      % {34, From, Alias, Token}
rule(35) -> {4, 1, fence};      % {35, Id, From, To}
rule(36) -> {4, 1, fence};      % {36, Id, From, To}
rule(37) -> {4, 1, fence};      % {37, Flags, From, To, ...}
rule(_) -> unknown.

uint(<<97, N, Rest/binary>>) -> {N, Rest};
uint(<<98, 0:1, N:31, Rest/binary>>) -> {N, Rest};
uint(<<110, Size, 0, N:Size/little-unit:8, Rest/binary>>) when Size =< 8 -> {N, Rest};
uint(<<111, Size:32, 0, N:Size/little-unit:8, Rest/binary>>) when Size =< 8 -> {N, Rest};
uint(_) -> error.

atom(<<100, Len:16, _:Len/binary, Rest/binary>>) -> Rest;
atom(<<118, Len:16, _:Len/binary, Rest/binary>>) -> Rest;
atom(<<115, Len, _:Len/binary, Rest/binary>>) -> Rest;
atom(<<119, Len, _:Len/binary, Rest/binary>>) -> Rest;
atom(<<82, _Reference, Rest/binary>>) -> Rest;
atom(_) -> error.

pid(<<Tag, Bin/binary>>) when Tag =:= 88; Tag =:= 103 ->
    case {Tag, atom(Bin)} of
        {88, <<Id:32, Serial:32, Creation:32, _/binary>>} -> {Id, Serial, Creation};
        {103, <<Id:32, Serial:32, Creation, _/binary>>} -> {Id, Serial, Creation};
        _ -> error
    end;
pid(_) ->
    error.

%% What follows the first term of `Bin'.
-spec skip(binary()) -> {ok, binary()} | error.
skip(Bin) -> skip(Bin, 1, 1).

skip(Bin, 0, _Found) ->
    {ok, Bin};
skip(Bin, Todo, Found) ->
    case term(Bin) of
        {Rest, Children} when Found + Children =< ?MAX_TERMS ->
            skip(Rest, Todo - 1 + Children, Found + Children);
        _ ->
            error
    end.

%% One term without its children, and their number.
term(<<97, _, Rest/binary>>) -> {Rest, 0};
term(<<98, _:32, Rest/binary>>) -> {Rest, 0};
term(<<99, _:31/binary, Rest/binary>>) -> {Rest, 0};
term(<<70, _:64, Rest/binary>>) -> {Rest, 0};
term(<<106, Rest/binary>>) -> {Rest, 0};
term(<<107, Len:16, _:Len/binary, Rest/binary>>) -> {Rest, 0};
term(<<109, Len:32, _:Len/binary, Rest/binary>>) -> {Rest, 0};
term(<<77, Len:32, _Bits, _:Len/binary, Rest/binary>>) -> {Rest, 0};
term(<<110, Len, _Sign, _:Len/binary, Rest/binary>>) -> {Rest, 0};
term(<<111, Len:32, _Sign, _:Len/binary, Rest/binary>>) -> {Rest, 0};
term(<<104, N, Rest/binary>>) -> {Rest, N};
term(<<105, N:32, Rest/binary>>) -> {Rest, N};
term(<<108, N:32, Rest/binary>>) -> {Rest, N + 1};
term(<<116, N:32, Rest/binary>>) -> {Rest, 2 * N};
term(<<113, Rest/binary>>) -> {Rest, 3};
term(<<112, _Size:32, _Arity, _Uniq:16/binary, _Index:32, Free:32, Rest/binary>>) ->
    {Rest, 4 + Free};
term(<<117, Free:32, Rest/binary>>) -> {Rest, 4 + Free};
term(<<88, Rest/binary>>) -> after_node(Rest, 12);
term(<<103, Rest/binary>>) -> after_node(Rest, 9);
term(<<120, Rest/binary>>) -> after_node(Rest, 12);
term(<<89, Rest/binary>>) -> after_node(Rest, 8);
term(<<102, Rest/binary>>) -> after_node(Rest, 5);
term(<<101, Rest/binary>>) -> after_node(Rest, 5);
term(<<114, Words:16, Rest/binary>>) -> after_node(Rest, 1 + 4 * Words);
term(<<90, Words:16, Rest/binary>>) -> after_node(Rest, 4 + 4 * Words);
term(Bin) ->
    case atom(Bin) of
        error -> error;
        Rest -> {Rest, 0}
    end.

after_node(Bin, Size) ->
    case atom(Bin) of
        <<_:Size/binary, Rest/binary>> -> {Rest, 0};
        _ -> error
    end.
