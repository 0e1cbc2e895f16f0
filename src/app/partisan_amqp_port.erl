%% A connection to the broker, for the process that has it: a port program for each attempt, another one
%% after a pause when that ends. No process of its own but one that writes: a port whose program takes
%% nothing suspends who writes to it, and that must not be who answers callers.
%%
%% The owner traps exits: a port is linked to it, and may end at any write.
%%
%% Memory: what is given to send/2 waits in the writer, so its owner has to bound what it sends
%% (a window, or acknowledgements of what a prefetch bounds).
-module(partisan_amqp_port).

-export([new/1, open/2, close/1, send/2, handle/2, is_up/1, problem/1]).

-export_type([t/0]).

-include_lib("kernel/include/logger.hrl").

-define(RETRY, amqp_retry).
-define(LATE, amqp_late).
-define(SILENCE, 4). % times `timeout`, that an attempt may take altogether

-record(link, {role :: publisher | consumer,
               exe = "" :: file:filename_all(),
               open = none :: none | {partisan_amqp_proto:open(), Timeout :: pos_integer()},
               dial :: partisan_overlay_dial:t() | none,
               port = none :: none | port(),
               writer = none :: none | pid(),
               up = false :: boolean(),
               timer = none :: none | reference(),
               said = none :: none | binary()}). % the last failure that has a line in the log
-opaque t() :: #link{}.

%% `up` and `down` are our own; the rest is what the program says.
-type event() :: up | down | partisan_amqp_proto:event().

-spec new(publisher | consumer) -> t().
new(Role) -> #link{role = Role, dial = none}.

%% priv/ beside the code that runs: with `-pa` code:priv_dir/1 does not know the application.
executable() ->
    Ebin = filename:dirname(code:which(?MODULE)),
    filename:join([filename:dirname(Ebin), "priv", "partisan_amqp"]).

%% Connects, now and again and again. The process that calls has the messages for handle/2.
-spec open(partisan_amqp_conf:t(), t()) -> t().
open(#{timeout := Timeout, reconnect_min := Min, reconnect_max := Max, program := Program} = Conf,
     #link{role = Role} = Link) ->
    Exe = case Program of
              undefined -> executable();
              _ -> Program
          end,
    start((close(Link))#link{exe = Exe,
                             open = {partisan_amqp_conf:open(Role, node(), Conf), Timeout},
                             dial = partisan_overlay_dial:new(Min, Max), said = none}).

-spec close(t()) -> t().
close(Link) ->
    (ended(Link))#link{open = none}.

-spec is_up(t()) -> boolean().
is_up(#link{up = Up}) -> Up.

%% Why there is no connection, in words.
-spec problem(t()) -> none | binary().
problem(#link{said = Said}) -> Said.

%% Without a connection the frame is dropped.
-spec send(iodata(), t()) -> ok.
send(Frame, #link{up = true, writer = Writer}) ->
    Writer ! {write, Frame},
    ok;
send(_Frame, #link{}) ->
    ok.

%% What a message means for the connection; `ignore` if it is not about it.
-spec handle(term(), t()) -> {ok, [event()], t()} | ignore.
handle({Port, {data, Data}}, #link{port = Port} = Link) ->
    case partisan_amqp_proto:decode(Data) of
        {ok, ready} -> {ok, [up], ready(Link)};
        {ok, {failed, Why}} -> failed(Why, Link);
        {ok, Event} -> {ok, [Event], Link};
        {error, bad_frame} -> failed(<<"partisan_amqp and this node do not fit: build both again">>, Link)
    end;
handle({Port, {exit_status, 127}}, #link{port = Port} = Link) ->
    failed(<<"priv/partisan_amqp cannot run, most likely for want of librabbitmq "
             "(Debian package librabbitmq4)">>, Link);
handle({Port, {exit_status, Status}}, #link{port = Port} = Link) ->
    failed(iolist_to_binary(io_lib:format("partisan_amqp ended with status ~b", [Status])), Link);
%% A port ends like this, without a status, when it is written to after the program has ended.
handle({'EXIT', Port, Reason}, #link{port = Port} = Link) ->
    failed(iolist_to_binary(io_lib:format("partisan_amqp has ended: ~tp", [Reason])), Link);
handle({'EXIT', Pid, normal}, Link) when is_pid(Pid) ->
    {ok, [], Link}; % a writer whose port is closed
handle({timeout, Ref, ?RETRY}, #link{timer = Ref} = Link) ->
    {ok, [], start(Link#link{timer = none})};
handle({timeout, Ref, ?LATE}, #link{timer = Ref} = Link) ->
    failed(<<"no answer from partisan_amqp">>, Link#link{timer = none});
handle({timeout, _, What}, Link) when What =:= ?RETRY; What =:= ?LATE ->
    {ok, [], Link}; % one that was cancelled too late
handle({'EXIT', Port, _}, Link) when is_port(Port) ->
    {ok, [], Link};
handle({Port, {_, _}}, Link) when is_port(Port) ->
    {ok, [], Link}; % of one that was closed
handle(_Message, _Link) ->
    ignore.

%% ------------------------------------------------------------------------------------------------

start(#link{exe = Exe, open = {Open, Timeout}} = Link) ->
    try open_port({spawn_executable, Exe}, [{packet, 4}, binary, exit_status, {args, []}]) of
        Port ->
            Writer = writer(Port),
            Writer ! {write, partisan_amqp_proto:open(Open)},
            timer(Timeout * ?SILENCE, ?LATE, Link#link{port = Port, writer = Writer})
    catch
        error:Reason ->
            {ok, _, Waiting} = failed(cannot_start(Exe, Reason), Link),
            Waiting
    end.

cannot_start(Exe, enoent) ->
    iolist_to_binary([Exe, " is missing: build partisan with librabbitmq (Debian package "
                      "librabbitmq-dev), or use another peer_service_manager"]);
cannot_start(Exe, Reason) ->
    iolist_to_binary(io_lib:format("~ts cannot be started: ~tp", [Exe, Reason])).

writer(Port) ->
    spawn_link(fun() -> write(Port) end).

write(Port) ->
    receive
        {write, Frame} ->
            try port_command(Port, Frame) of
                true -> write(Port)
            catch
                error:badarg -> ok % the port is closed
            end;
        stop ->
            ok
    end.

ready(#link{open = {#{host := Host, port := TcpPort}, _}, role = Role, said = Said, dial = Dial} = Link) ->
    Said =:= none orelse
        ?LOG_NOTICE("partisan: connected to the AMQP broker ~ts:~b again, as ~ts",
                    [Host, TcpPort, Role]),
    (cancel(Link))#link{up = true, said = none,
                        dial = partisan_overlay_dial:forget(node(), Dial)}.

failed(Why, #link{up = Up, dial = Dial0, said = Said} = Link0) ->
    {Ms, Dial, _} = partisan_overlay_dial:pause(node(), Dial0, rand:seed_s(exsss)),
    Said =:= Why orelse say(Why, Link0),
    Link = timer(Ms, ?RETRY, (ended(Link0))#link{dial = Dial, said = Why}),
    {ok, [down || Up], Link}.

say(Why, #link{open = {#{host := Host, port := TcpPort}, _}, role = Role}) ->
    ?LOG_WARNING("partisan: no connection to the AMQP broker ~ts:~b as ~ts: ~ts; trying again",
                 [Host, TcpPort, Role, Why]).

%% The program sees the end of its input, and ends.
ended(#link{port = none} = Link) ->
    cancel(Link);
ended(#link{port = Port, writer = Writer} = Link) ->
    unlink(Port),
    _ = try port_close(Port)
        catch error:badarg -> true
        end,
    unlink(Writer),
    exit(Writer, kill),
    cancel(Link#link{port = none, writer = none, up = false}).

timer(Ms, What, Link) ->
    (cancel(Link))#link{timer = erlang:start_timer(Ms, self(), What)}.

cancel(#link{timer = none} = Link) ->
    Link;
cancel(#link{timer = Ref} = Link) ->
    _ = erlang:cancel_timer(Ref),
    Link#link{timer = none}.
