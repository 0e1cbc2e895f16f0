%% Who is a member: a replicated set, pure. Every node holds a replica; replicas that have exchanged
%% what they hold are equal, in whatever order, how often and over whom the pieces came.
%%
%% An entry is a name with an *incarnation*, a number that only the node of that name chooses and
%% that grows each time it starts or comes back. Of two entries of a name the one with the higher
%% incarnation counts, and of two with the same one that says the node left. So nothing that was
%% said before a node left can bring it back, and a node that joins again does so with a higher
%% number. A node's spec belongs to its incarnation: written once, by the node itself.
%%
%% Life of a tombstone, the entry of a node that left:
%%
%%   left   told to everybody, until each member is known to hold it (confirm/2,3);
%%   gone   not told any more, but still stronger than what it replaced, for a time given to
%%          collect/3;
%%   and then nothing is left of it.
%%
%% Nobody creates a message with the old entry once all members hold the tombstone, so one that
%% stays in `gone` for longer than a message can be on its way is not missed. A member that is down
%% keeps tombstones from being collected until it is back or taken out, since it may remember.
%% (Rejected: collecting by age alone. A node cut off for longer would bring everybody back. And an
%% observed-remove set with a dot for each change: its context grows with every name ever seen.)
%%
%% Costs: merge and compare are linear in what they are given, hash/1 is kept up to date with each
%% change. A summary has one short tuple a name.
-module(partisan_membership_set).

-export([new/3, self/1, incarnation/1, renew/2]).
-export([members/1, names/1, is_member/2, spec/2, lookup/2, size/1, tombstones/1]).
-export([leave/2, merge/2, is_items/1, is_summary/1]).
-export([hash/1, summary/1, compare/2, take/2, take_all/1]).
-export([confirm/2, confirm/3, collect/3, floor/1]).

-export_type([set/0, incarnation/0, item/0, summary/0, change/0]).

-type incarnation() :: non_neg_integer().
-type spec() :: partisan_overlay:spec().
-type item() :: {node(), incarnation(), {up, spec()} | left}.        % as told to others
-type summary() :: [{node(), incarnation(), up | left | gone}].
%% What a merge did to a name: became a member, is one with a new incarnation, is none any more,
%% or only its tombstone is new.
-type change() :: {added | renewed | removed | tombstone, node()}.

-type entry() :: {incarnation(), {up, spec()}}
               | {incarnation(), {left, Holders :: [node()]}}
               | {incarnation(), {gone, Since :: partisan_overlay:now_ms()}}.

-record(set, {self :: node(),
              entries :: #{node() => entry()},
              hash = 0 :: non_neg_integer(),
              floor = 0 :: incarnation()}).
-opaque set() :: #set{}.

%% ------------------------------------------------------------------------------------------------
%% The own node

%% A set with the own node as its only member.
-spec new(node(), incarnation(), spec()) -> set().
new(Self, Incarnation, Spec) ->
    put_entry(Self, {Incarnation, {up, Spec}}, #set{self = Self, entries = #{}}).

-spec self(set()) -> node().
self(#set{self = Self}) -> Self.

%% Of the own node.
-spec incarnation(set()) -> incarnation().
incarnation(#set{self = Self, entries = Entries}) ->
    element(1, maps:get(Self, Entries)).

%% The own node with a higher incarnation than Above and than it had.
-spec renew(incarnation(), set()) -> set().
renew(Above, #set{self = Self, entries = Entries} = Set) ->
    {Incarnation, {up, Spec}} = maps:get(Self, Entries),
    put_entry(Self, {max(Above, Incarnation) + 1, {up, Spec}}, Set).

%% ------------------------------------------------------------------------------------------------
%% Reading

%% Specs of all members, the own node among them, in the order of their names.
-spec members(set()) -> [spec()].
members(#set{entries = Entries}) ->
    [Spec || {_, {_, {up, Spec}}} <- lists:sort(maps:to_list(Entries))].

-spec names(set()) -> [node()].
names(#set{entries = Entries}) ->
    lists:sort([Name || {Name, {_, {up, _}}} <- maps:to_list(Entries)]).

-spec is_member(node(), set()) -> boolean().
is_member(Name, #set{entries = Entries}) ->
    case Entries of
        #{Name := {_, {up, _}}} -> true;
        #{} -> false
    end.

-spec spec(node(), set()) -> {ok, spec()} | error.
spec(Name, #set{entries = Entries}) ->
    case Entries of
        #{Name := {_, {up, Spec}}} -> {ok, Spec};
        #{} -> error
    end.

%% What is known of a name; a tombstone that is only remembered counts as one.
-spec lookup(node(), set()) -> {incarnation(), up | left} | none.
lookup(Name, #set{entries = Entries}) ->
    case Entries of
        #{Name := {Incarnation, {up, _}}} -> {Incarnation, up};
        #{Name := {Incarnation, _}} -> {Incarnation, left};
        #{} -> none
    end.

%% Of members.
-spec size(set()) -> pos_integer().
size(Set) -> length(names(Set)).

%% Tombstones of both kinds.
-spec tombstones(set()) -> non_neg_integer().
tombstones(#set{entries = Entries} = Set) -> map_size(Entries) - ?MODULE:size(Set).

%% ------------------------------------------------------------------------------------------------
%% Changes

%% Takes a member out; a name that is none stays what it is. Not for the own node: one that leaves
%% starts a set of its own, and tells its tombstone to the others as an item.
-spec leave(node(), set()) -> set().
leave(Name, #set{self = Self, entries = Entries} = Set) when Name =/= Self ->
    case Entries of
        #{Name := {Incarnation, {up, _}}} -> put_entry(Name, {Incarnation, {left, []}}, Set);
        #{} -> Set
    end.

%% Takes in what others said. Items about the own node are left out: what to do about them is the
%% overlay's decision.
-spec merge([item()], set()) -> {[change()], set()}.
merge(Items, #set{self = Self} = Set) ->
    {Changes, Merged} =
        lists:foldl(fun({Name, _, _}, Acc) when Name =:= Self -> Acc;
                       (Item, {Changes0, Set0}) ->
                            case merge_item(Item, Set0) of
                                {none, Set1} -> {Changes0, Set1};
                                {Change, Set1} -> {[Change | Changes0], Set1}
                            end
                    end, {[], Set}, Items),
    {lists:reverse(Changes), Merged}.

merge_item({Name, Incarnation, State}, #set{entries = Entries} = Set) ->
    Old = maps:get(Name, Entries, none),
    case is_newer(Incarnation, State =:= left, Old) of
        true when State =:= left ->
            {change(Old, left, Name), put_entry(Name, {Incarnation, {left, []}}, Set)};
        true ->
            {change(Old, up, Name), unconfirm(Name, put_entry(Name, {Incarnation, State}, Set))};
        false ->
            {none, Set}
    end.

is_newer(_Incarnation, _Left, none) -> true;
is_newer(Incarnation, _Left, {Known, _}) when Incarnation =/= Known -> Incarnation > Known;
is_newer(_Incarnation, Left, {_, {State, _}}) -> Left andalso State =:= up.

change({_, {up, _}}, up, Name) -> {renewed, Name};
change(_, up, Name) -> {added, Name};
change({_, {up, _}}, left, Name) -> {removed, Name};
change(_, left, Name) -> {tombstone, Name}.

%% What merge/2 and compare/2 can take: each name once, with its own spec.
-spec is_items(term()) -> boolean().
is_items(Items) ->
    partisan_overlay_shape:all(fun is_item/1, Items) andalso is_unique(Items).

is_item({Name, Incarnation, left}) -> is_atom(Name) andalso is_count(Incarnation);
is_item({Name, Incarnation, {up, Spec}}) ->
    is_count(Incarnation) andalso partisan_overlay_shape:is_spec_of(Name, Spec);
is_item(_) -> false.

-spec is_summary(term()) -> boolean().
is_summary(Summary) ->
    partisan_overlay_shape:all(fun({Name, Incarnation, State}) ->
                                       is_atom(Name) andalso is_count(Incarnation)
                                           andalso lists:member(State, [up, left, gone]);
                                  (_) ->
                                       false
                               end, Summary) andalso is_unique(Summary).

is_count(N) -> is_integer(N) andalso N >= 0.

is_unique(List) -> length(lists:ukeysort(1, List)) =:= length(List).

%% ------------------------------------------------------------------------------------------------
%% Comparing replicas

%% Equal for replicas that tell others the same, and (but for a chance of 2^-128) only for those.
-spec hash(set()) -> non_neg_integer().
hash(#set{hash = Hash}) -> Hash.

-spec summary(set()) -> summary().
summary(#set{entries = Entries}) ->
    [{Name, Incarnation, State} || {Name, {Incarnation, {State, _}}} <- maps:to_list(Entries)].

%% Given another's summary: the items that it lacks, and the names of which it knows more.
-spec compare(summary(), set()) -> {Newer :: [item()], Wanted :: [node()]}.
compare(Summary, #set{entries = Entries} = Set) ->
    Theirs = maps:from_list([{Name, {Incarnation, {State, []}}}
                             || {Name, Incarnation, State} <- Summary]),
    Newer = [Name || {Name, {Incarnation, {State, _}}} <- maps:to_list(Entries),
                     tells(Incarnation, State, maps:get(Name, Theirs, none))],
    Wanted = [Name || {Name, Incarnation, State} <- Summary, Name =/= Set#set.self,
                      wants(Incarnation, State, maps:get(Name, Entries, none))],
    {take(Newer, Set), Wanted}.

%% A tombstone that is not told any more is of use only to who still takes the node for a member.
tells(_Incarnation, gone, none) -> false;
tells(Incarnation, State, Theirs) -> is_newer(Incarnation, State =/= up, Theirs).

wants(_Incarnation, gone, none) -> false;
wants(Incarnation, State, Known) -> is_newer(Incarnation, State =/= up, Known).

%% Items to tell others; names that are unknown are left out.
-spec take([node()], set()) -> [item()].
take(Names, #set{entries = Entries}) ->
    [item(Name, maps:get(Name, Entries)) || Name <- Names, is_map_key(Name, Entries)].

%% All that is told to others.
-spec take_all(set()) -> [item()].
take_all(#set{entries = Entries}) ->
    [item(Name, Entry) || {Name, {_, {State, _}} = Entry} <- maps:to_list(Entries), State =/= gone].

item(Name, {Incarnation, {up, Spec}}) -> {Name, Incarnation, {up, Spec}};
item(Name, {Incarnation, _}) -> {Name, Incarnation, left}.

%% ------------------------------------------------------------------------------------------------
%% Collecting tombstones

%% Member was seen to have the same hash: it holds all that this replica tells.
-spec confirm(node(), set()) -> set().
confirm(Member, Set) ->
    confirm_if(Member, fun(_, _) -> true end, Set).

%% Member holds the tombstones in its summary, or newer entries.
-spec confirm(node(), summary(), set()) -> set().
confirm(Member, Summary, Set) ->
    Held = maps:from_list([{Name, {Incarnation, {State, []}}}
                           || {Name, Incarnation, State} <- Summary]),
    confirm_if(Member, fun(Name, Incarnation) ->
                               is_map_key(Name, Held)
                                   andalso not is_newer(Incarnation, true, maps:get(Name, Held))
                       end, Set).

confirm_if(Member, Holds, #set{entries = Entries} = Set) ->
    Set#set{entries = maps:map(fun(Name, {Incarnation, {left, Holders}} = Entry) ->
                                       case Holds(Name, Incarnation) of
                                           true -> {Incarnation,
                                                    {left, ordsets:add_element(Member, Holders)}};
                                           false -> Entry
                                       end;
                                  (_Name, Entry) ->
                                       Entry
                               end, Entries)}.

%% A member that started anew holds nothing of what it held.
unconfirm(Member, #set{entries = Entries} = Set) ->
    Set#set{entries = maps:map(fun(_Name, {Incarnation, {left, Holders}}) ->
                                       {Incarnation, {left, ordsets:del_element(Member, Holders)}};
                                  (_Name, Entry) ->
                                       Entry
                               end, Entries)}.

%% Tombstones that every member holds become silent, and those that were silent for Keep ms are
%% forgotten. Keep must be longer than a message of the overlay can be on its way.
-spec collect(partisan_overlay:now_ms(), non_neg_integer(), set()) -> set().
collect(Now, Keep, #set{self = Self, entries = Entries} = Set) ->
    Others = lists:delete(Self, names(Set)),
    maps:fold(fun(Name, {Incarnation, {left, Holders}}, Acc) ->
                      case ordsets:is_subset(Others, Holders) of
                          true -> put_entry(Name, {Incarnation, {gone, Now}}, Acc);
                          false -> Acc
                      end;
                 (Name, {Incarnation, {gone, Since}}, Acc) when Now - Since > Keep ->
                      Acc#set{entries = maps:remove(Name, Acc#set.entries),
                              floor = max(Incarnation, Acc#set.floor)};
                 (_Name, _Entry, Acc) ->
                      Acc
              end, Set, Entries).

%% No forgotten tombstone had a higher incarnation: a node with one that is unknown here was never
%% taken out here. Incarnations are times as a rule, so that this tells most strangers apart.
-spec floor(set()) -> incarnation().
floor(#set{floor = Floor}) -> Floor.

%% ------------------------------------------------------------------------------------------------

%% The hash is a sum of hashes, so that one change costs the same in a set of any size. Of the bytes
%% of an entry, not of its external format: releases of OTP differ in that.
put_entry(Name, Entry, #set{entries = Entries, hash = Hash} = Set) ->
    Old = case Entries of
              #{Name := Known} -> part(Name, Known);
              #{} -> 0
          end,
    Set#set{entries = Entries#{Name => Entry},
            hash = (Hash - Old + part(Name, Entry)) band (1 bsl 128 - 1)}.

part(_Name, {_, {gone, _}}) ->
    0;
part(Name, {Incarnation, {State, _}}) ->
    <<Part:128>> = erlang:md5([atom_to_binary(Name), 0, atom_to_binary(State), 0,
                               integer_to_binary(Incarnation)]),
    Part.
