%% The options of partisan_hyparview, as partisan_overlay_opts checks them.
-module(partisan_hyparview_opts).

-export([options/0]).

%% Options, under the names of Partisan's `hyparview` configuration, with the paper's defaults for
%% 10,000 nodes. Sizes count peers, not the node itself (Partisan's 6 is our 5). Times are ms.
-spec options() -> partisan_overlay_opts:table().
options() ->
    #{active_max_size => {integer, 1, 1000, 5},
      %% With fewer, a refused request is followed by another at once, not at the next promotion tick.
      active_min_size => {integer, 0, 1000, 3},
      passive_max_size => {integer, 0, 10000, 30},
      %% Names beyond the passive view, for when nobody in that answers.
      remembered_max_size => {integer, 0, 10000, 200},
      %% Hops of a forward join; where on its way it enters passive views.
      active_rwl => {integer, 0, 100, 6},
      passive_rwl => {integer, 0, 100, 3},
      shuffle_interval => {integer, 1, infinity, 10000},
      shuffle_k_active => {integer, 0, 100, 3},
      shuffle_k_passive => {integer, 0, 100, 4},
      %% false: places are filled on failure only.
      random_promotion => {one_of, [true, false], true},
      random_promotion_interval => {integer, 1, infinity, 5000},
      %% Longer than a dial takes (net_setuptime, 7 s).
      request_timeout => {integer, 2, infinity, 8000},
      drain_timeout => {integer, 1, infinity, 5000},
      heal_interval => {integer, 1, infinity, 30000},
      heal_ttl => {integer, 0, infinity, 3600000},
      xbot_enabled => {one_of, [true, false], false},
      xbot_interval => {integer, 1, infinity, 30000},
      xbot_unbiased => {integer, 0, 1000, 1}}.
