%% What code written for Partisan takes from its header: names of defaults. The record and macros of
%% Partisan's own tests are not here, and no `export_all`.
-ifndef(PARTISAN_HRL).
-define(PARTISAN_HRL, true).

-define(APP, partisan).

-define(DEFAULT_CHANNEL, undefined).
-define(MEMBERSHIP_CHANNEL, partisan_membership).
-define(RPC_CHANNEL, rpc).
-define(PARALLELISM, 1).
-define(DEFAULT_PARALLELISM, ?PARALLELISM).
-define(DEFAULT_PARTITION_KEY, undefined).
-define(CAUSAL_LABELS, []).
-define(DEFAULT_TIMEOUT, 5000).
-define(RELAY_TTL, 5).

-define(DEFAULT_PEER_SERVICE_MANAGER, partisan_pluggable_peer_service_manager).
-define(DEFAULT_MEMBERSHIP_STRATEGY, partisan_full_membership_strategy).
-define(PEER_SERVICE_MANAGER,
        (partisan_config:get(peer_service_manager, ?DEFAULT_PEER_SERVICE_MANAGER))).

-define(DEFAULT_LAZY_TICK_PERIOD, 1000).
-define(DEFAULT_EXCHANGE_TICK_PERIOD, 10000).

%% Parallelism of a channel that names none, as a `channels` option.
-define(CHANNELS, ?CHANNELS(?PARALLELISM)).
-define(CHANNELS(Parallelism),
        #{undefined => #{parallelism => Parallelism, monotonic => false}}).

%% In the list of partisan_peer_service:connections/0: one for each channel with a neighbour.
-record(partisan_peer_connection, {pid :: pid() | port() | undefined,
                                   node :: node(),
                                   channel :: atom(),
                                   listen_addr :: map() | undefined,
                                   timestamp :: integer() | undefined}).

-endif.
