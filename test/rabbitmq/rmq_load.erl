%% Load with proof: publishers that know what was confirmed, consumers that know what arrived.
%%
%% A publisher numbers its messages 1.. and publishes a number again until it is confirmed: a message
%% that was on its way when a node died may arrive twice, a confirmed one must arrive at least once.
-module(rmq_load).

-export([publisher/3, confirmed/1, finish/1, consumer/2, arrived/2, await/3]).

-include_lib("amqp_client/include/amqp_client.hrl").

%% Unconfirmed messages of a publisher; enough to keep replication busy.
-define(WINDOW, 64).
%% Milliseconds before the next try with a broker that refuses.
-define(BACKOFF, 200).
%% Indexes of a publisher's counters.
-define(CONFIRMS, 1).
-define(STOP, 2).

-record(pub, {id, queue, ports, conn, chan, next = 1, again = [], open = #{}, count}).

%% Publishes to Queue through the first of Ports that answers, until finish/1.
-spec publisher(non_neg_integer(), binary(), [inet:port_number()]) -> map().
publisher(Id, Queue, Ports) ->
    Count = counters:new(2, []),
    {Pid, Mon} = spawn_monitor(fun() ->
        %% Connections of the client die with their node; that is expected here.
        process_flag(trap_exit, true),
        rand:seed(exsss, {Id, 7, 42}),
        publish(connect(#pub{id = Id, queue = Queue, ports = Ports, count = Count}))
    end),
    #{id => Id, queue => Queue, pid => Pid, mon => Mon, count => Count}.

%% Raises when the publisher has died.
-spec confirmed(map()) -> non_neg_integer().
confirmed(#{count := Count, mon := Mon, pid := Pid, id := Id}) ->
    receive {'DOWN', Mon, _, Pid, Reason} -> error({publisher_died, Id, Reason}) after 0 -> ok end,
    counters:get(Count, ?CONFIRMS).

%% No new messages; returns how many there are once each of them is confirmed.
-spec finish(map()) -> non_neg_integer().
finish(#{pid := Pid, mon := Mon, count := Count}) ->
    counters:put(Count, ?STOP, 1),
    receive
        {'DOWN', Mon, _, Pid, {finished, N}} -> N;
        {'DOWN', Mon, _, Pid, Reason} -> error({publisher_died, Reason})
    after 120_000 -> error({publisher_stuck, process_info(Pid, current_stacktrace)})
    end.

publish(#pub{open = Open, again = Again, next = Next, count = Count} = P) ->
    Stop = counters:get(Count, ?STOP) =:= 1,
    if
        map_size(Open) >= ?WINDOW -> wait(P);
        Again =/= [] -> publish(send(hd(Again), P#pub{again = tl(Again)}));
        Stop, map_size(Open) =:= 0 -> exit({finished, Next - 1});
        Stop -> wait(P);
        true -> publish(send(Next, P#pub{next = Next + 1}))
    end.

send(Seq, #pub{id = Id, queue = Queue, chan = Chan, open = Open} = P) ->
    Body = crypto:strong_rand_bytes(body_size()),
    Payload = <<Id:32, Seq:32, (erlang:crc32(Body)):32, Body/binary>>,
    try
        Tag = amqp_channel:next_publish_seqno(Chan),
        ok = amqp_channel:call(Chan, #'basic.publish'{routing_key = Queue},
                               #amqp_msg{props = #'P_basic'{delivery_mode = 2},
                                         payload = Payload}),
        P#pub{open = Open#{Tag => Seq}}
    catch
        _:_ -> reconnect(P#pub{again = [Seq | P#pub.again]})
    end.

%% Mostly small, some that VM distribution cuts into fragments, a few large.
body_size() ->
    case rand:uniform(100) of
        N when N =< 70 -> rand:uniform(1024) - 1;
        N when N =< 97 -> rand:uniform(100_000);
        _ -> rand:uniform(1_000_000)
    end.

wait(#pub{chan = Chan, conn = Conn} = P) ->
    receive
        #'basic.ack'{delivery_tag = Tag, multiple = Multiple} ->
            {Done, P1} = take(Tag, Multiple, P),
            counters:add(P#pub.count, ?CONFIRMS, length(Done)),
            publish(P1);
        #'basic.nack'{delivery_tag = Tag, multiple = Multiple} ->
            %% RabbitMQ 3.10 rejects for as long as a channel lives when its first message to a quorum
            %% queue found no leader (rabbit_fifo_client keeps asking the dead server): start afresh.
            {Done, P1} = take(Tag, Multiple, P),
            timer:sleep(?BACKOFF),
            publish(reconnect(P1#pub{again = Done ++ P1#pub.again}));
        {'DOWN', _, _, Pid, _} when Pid =:= Chan; Pid =:= Conn ->
            publish(reconnect(P))
    after 60_000 ->
        exit({no_confirm_in_60_s, P#pub.queue, maps:size(P#pub.open)})
    end.

take(Tag, false, #pub{open = Open} = P) ->
    {Seq, Rest} = maps:take(Tag, Open),
    {[Seq], P#pub{open = Rest}};
take(Tag, true, #pub{open = Open} = P) ->
    Done = maps:filter(fun(T, _) -> T =< Tag end, Open),
    {maps:values(Done), P#pub{open = maps:without(maps:keys(Done), Open)}}.

reconnect(#pub{open = Open, again = Again, ports = [H | T]} = P) ->
    close(P#pub.conn),
    flush(),
    connect(P#pub{open = #{}, again = Again ++ maps:values(Open), ports = T ++ [H]}).

%% Acks and DOWNs of a connection given up must not be taken for those of the next.
flush() ->
    receive _ -> flush() after 0 -> ok end.

connect(#pub{ports = Ports} = P) ->
    {Conn, Chan} = open(Ports),
    #'confirm.select_ok'{} = amqp_channel:call(Chan, #'confirm.select'{}),
    ok = amqp_channel:register_confirm_handler(Chan, self()),
    P#pub{conn = Conn, chan = Chan}.

open(Ports) ->
    Try = fun() -> lists:foldl(fun(Port, none) -> try_open(Port); (_, Got) -> Got end, none, Ports) end,
    await("a broker that accepts a connection", 60_000,
          fun() -> case Try() of none -> false; Got -> {true, Got} end end).

try_open(Port) ->
    case amqp_connection:start(#amqp_params_network{port = Port, connection_timeout = 5000}) of
        {ok, Conn} ->
            _ = monitor(process, Conn),
            try amqp_connection:open_channel(Conn) of
                {ok, Chan} ->
                    _ = monitor(process, Chan),
                    {Conn, Chan};
                _ ->
                    close(Conn),
                    none
            catch _:_ ->
                close(Conn),
                none
            end;
        {error, _} ->
            none
    end.

close(Conn) ->
    try amqp_connection:close(Conn, 2000) catch _:_ -> gone end.

%% Consumes Queue until the owner ends; what arrived is kept in the returned table as
%% {{PublisherId, Seq}, HowOften}.
-spec consumer(binary(), [inet:port_number()]) -> ets:table().
consumer(Queue, Ports) ->
    Table = ets:new(arrived, [public, set]),
    Owner = self(),
    {_Pid, _} = spawn_monitor(fun() ->
        process_flag(trap_exit, true),
        subscribe(Queue, Ports, Table, monitor(process, Owner))
    end),
    Table.

-spec arrived(ets:table(), non_neg_integer()) -> [pos_integer()].
arrived(Table, Id) ->
    lists:sort(ets:select(Table, [{{{Id, '$1'}, '_'}, [], ['$1']}])).

subscribe(Queue, Ports, Table, Owner) ->
    {Conn, Chan} = open(Ports),
    #'basic.qos_ok'{} = amqp_channel:call(Chan, #'basic.qos'{prefetch_count = 200}),
    #'basic.consume_ok'{} =
        amqp_channel:subscribe(Chan, #'basic.consume'{queue = Queue}, self()),
    Why = consume(Chan, Conn, Table, Owner),
    close(Conn),
    Why =:= owner orelse subscribe(Queue, tl(Ports) ++ [hd(Ports)], Table, Owner).

consume(Chan, Conn, Table, Owner) ->
    receive
        {#'basic.deliver'{delivery_tag = Tag},
         #amqp_msg{payload = <<Id:32, Seq:32, Crc:32, Body/binary>>}} ->
            Crc =:= erlang:crc32(Body) orelse exit({damaged, Id, Seq}),
            _ = ets:update_counter(Table, {Id, Seq}, 1, {{Id, Seq}, 0}),
            try amqp_channel:cast(Chan, #'basic.ack'{delivery_tag = Tag}) of
                ok -> consume(Chan, Conn, Table, Owner);
                _ -> lost
            catch _:_ -> lost
            end;
        #'basic.cancel'{} -> lost;
        {'DOWN', Owner, _, _, _} -> owner;
        {'DOWN', _, _, Pid, _} when Pid =:= Chan; Pid =:= Conn -> lost
    end.

%% Polls Fun until it gives true or {true, Result}.
-spec await(string(), non_neg_integer(), fun(() -> boolean() | {true, T})) -> ok | T.
await(What, Ms, Fun) ->
    await_until(What, erlang:monotonic_time(millisecond) + Ms, Fun).

await_until(What, Deadline, Fun) ->
    case Fun() of
        true -> ok;
        {true, Result} -> Result;
        false ->
            erlang:monotonic_time(millisecond) < Deadline orelse error({timeout_waiting_for, What}),
            timer:sleep(200),
            await_until(What, Deadline, Fun)
    end.
