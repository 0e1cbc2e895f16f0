%% Behaviour and API of supervisor,
%% which is OTP's own: native pids and names work across nodes here, so nothing is forked. What is
%% added: encoded references are taken, and the options `timeout` and those of
%% partisan:forward_message/3 (`channel` above all) where Partisan takes them.
-module(partisan_gen_supervisor).

-export([start_link/2, start_link/3, start_child/2, restart_child/2, delete_child/2,
         terminate_child/2, which_children/1, count_children/1, check_childspecs/1,
         get_childspec/2]).

-callback init(term()) ->
    {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}} | ignore.

-spec start_link(module(), term()) -> supervisor:startlink_ret().
start_link(Mod, Args) -> supervisor:start_link(Mod, Args).

-spec start_link(partisan_gen:name(), module(), term()) -> supervisor:startlink_ret().
start_link(Name, Mod, Args) -> supervisor:start_link(Name, Mod, Args).

-spec start_child(partisan_gen:server_ref(), supervisor:child_spec() | [term()]) ->
          supervisor:startchild_ret().
start_child(Sup, Child) -> supervisor:start_child(partisan_gen:native(Sup), Child).

-spec restart_child(partisan_gen:server_ref(), term()) ->
          {ok, term()} | {ok, term(), term()} | {error, term()}.
restart_child(Sup, Id) -> supervisor:restart_child(partisan_gen:native(Sup), Id).

-spec delete_child(partisan_gen:server_ref(), term()) -> ok | {error, term()}.
delete_child(Sup, Id) -> supervisor:delete_child(partisan_gen:native(Sup), Id).

-spec terminate_child(partisan_gen:server_ref(), term()) -> ok | {error, term()}.
terminate_child(Sup, Id) ->
    supervisor:terminate_child(partisan_gen:native(Sup), partisan_gen:native_pid(Id)).

-spec which_children(partisan_gen:server_ref()) -> [tuple()].
which_children(Sup) -> supervisor:which_children(partisan_gen:native(Sup)).

-spec count_children(partisan_gen:server_ref()) -> [{atom(), non_neg_integer()}].
count_children(Sup) -> supervisor:count_children(partisan_gen:native(Sup)).

-spec check_childspecs([supervisor:child_spec()]) -> ok | {error, term()}.
check_childspecs(Specs) -> supervisor:check_childspecs(Specs).

-spec get_childspec(partisan_gen:server_ref(), term()) ->
          {ok, supervisor:child_spec()} | {error, term()}.
get_childspec(Sup, Id) ->
    supervisor:get_childspec(partisan_gen:native(Sup), partisan_gen:native_pid(Id)).
