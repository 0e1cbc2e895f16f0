%% The application: Partisan's API over whatever carries the distribution. The carrier runs without
%% it; it runs without the carrier, over the distribution there is, with one channel.
-module(partisan_app).

-behaviour(application).

-export([start/2, stop/1, running/0]).

-include_lib("kernel/include/logger.hrl").

-define(RUNNING, {partisan, running}).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    try partisan_config:init() of
        ok ->
            partisan_transport:init(),
            %% Children may send when they start.
            persistent_term:put(?RUNNING, true),
            partisan_send:settle(),
            case partisan_sup:start_link() of
                {ok, Pid} -> {ok, Pid};
                Error -> stop([]), Error
            end
    catch
        error:{bad_options, Lines} ->
            _ = [?LOG_ERROR("~ts", [Line]) || Line <- Lines],
            {error, {bad_options, Lines}};
        error:{bad_option, Line} ->
            ?LOG_ERROR("~ts", [Line]),
            {error, {bad_options, [Line]}}
    end.

-spec stop(term()) -> ok.
stop(_State) ->
    _ = persistent_term:erase(?RUNNING),
    partisan_send:settle().

-spec running() -> boolean().
running() ->
    persistent_term:get(?RUNNING, false).
