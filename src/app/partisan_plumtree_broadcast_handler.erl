%% What a module gives to have its messages broadcast (partisan_plumtree_broadcast:broadcast/2): how
%% a message is named, kept, compared and exchanged. Handlers written for Partisan 1 to 4 have no
%% broadcast_channel/0.
-module(partisan_plumtree_broadcast_handler).

%% Taken apart into an id and what is sent under it.
-callback broadcast_data(Message :: term()) -> {Id :: term(), Payload :: term()}.
%% The channel that broadcasts of this handler travel on.
-callback broadcast_channel() -> partisan:channel().
%% Keeps what came; whether it was new. Only what is new goes on to others.
-callback merge(Id :: term(), Payload :: term()) -> boolean().
%% Whether the message, or a newer one, is known already.
-callback is_stale(Id :: term()) -> boolean().
%% The message of that id, for a node that missed it.
-callback graft(Id :: term()) -> stale | {ok, Payload :: term()} | {error, term()}.
%% Starts a comparison with everything the node has; its process, if it has one, is waited for.
-callback exchange(node()) -> ok | {ok, pid()} | ignore | {error, term()}.

-optional_callbacks([broadcast_channel/0]).
