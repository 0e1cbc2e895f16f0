%% The shared object: loading it, and the verbs of its port (docs/architecture.md).
-module(partisan_drv).

-export([load/0]).
-export([open/0, init/2, lane/3, start/1, tick/1, stat/1, test/4, set_max_queue/2, notify/1]).
-export([channel/3, channel_lane/4, channel_state/2, channel_stop/3, channel_close/2]).

-export_type([init/0]).

-define(NAME, "partisan_drv").

-define(INIT, 1).
-define(LANE, 2).
-define(START, 3).
-define(TICK, 4).
-define(STAT, 5).
-define(TEST, 6).
-define(SETQ, 7).
-define(NOTIFY, 8).
-define(CHANNEL, 9).
-define(CHANNEL_LANE, 10).
-define(CHANNEL_STATE, 11).
-define(CHANNEL_CLOSE, 12).
-define(CHANNEL_STOP, 13).

-define(VERSION, 1).

-type init() :: #{lanes := 1..255, atom_cache := boolean(), channel_names => boolean(), session_id := <<_:128>>, my_mac := <<_:256>>,
                  peer_mac := <<_:256>>, max_queue := non_neg_integer(),
                  max_message := non_neg_integer(), node := node()}.
-type answer() :: ok | {error, string()}.

%% ------------------------------------------------------------------------------------------------
%% Loading

%% Loads driver and NIF from priv/partisan_drv.so. Call it through partisan_dist_reg only: erl_ddll
%% counts references by process, so the process that loads must live as long as the VM.
-spec load() -> answer().
load() ->
    case find(directories()) of
        {ok, Dir} ->
            case load_driver(Dir) of
                ok ->
                    case partisan_nif:load(filename:join(Dir, ?NAME)) of
                        ok -> ok;
                        {error, Text} -> cannot_load(Dir, Text)
                    end;
                {error, Error} ->
                    cannot_load(Dir, erl_ddll:format_error(Error))
            end;
        {error, Dirs} ->
            {error, lists:flatten(["partisan: ", ?NAME, ".so is missing; looked in ",
                                   lists:join(" and ", Dirs),
                                   ": build it with make, or install priv/ beside ebin/"])}
    end.

cannot_load(Dir, Text) ->
    {error, lists:flatten(io_lib:format("partisan: cannot load ~ts: ~ts",
                                        [filename:join(Dir, ?NAME ++ ".so"), Text]))}.

%% Locked by an earlier load (the driver locks itself: sessions may outlive the loading process).
load_driver(Dir) ->
    case erl_ddll:load(Dir, ?NAME) of
        {error, permanent} -> ok;
        Other -> Other
    end.

%% priv/ beside the code that runs comes first: with `-pa`, code:priv_dir/1 knows only directories
%% named like the application, and could find another installation.
directories() ->
    Beside = case code:which(?MODULE) of
                 File when is_list(File), File =/= [] ->
                     [filename:join(filename:dirname(filename:dirname(File)), "priv")];
                 _ ->
                     []
             end,
    App = case code:priv_dir(partisan) of
              {error, bad_name} -> [];
              Dir -> [Dir]
          end,
    Beside ++ (App -- Beside).

%% erl_prim_loader, because the file server is not up yet when OTP 25 calls listen.
find(Dirs) ->
    Exists = fun(Dir) ->
                     erl_prim_loader:read_file_info(filename:join(Dir, ?NAME ++ ".so")) =/= error
             end,
    case lists:filter(Exists, Dirs) of
        [Dir | _] -> {ok, Dir};
        [] -> {error, Dirs}
    end.

%% ------------------------------------------------------------------------------------------------
%% Verbs. The caller of open/0 owns the port and is linked to it.

-spec open() -> {ok, port()} | {error, string()}.
open() ->
    try {ok, open_port({spawn_driver, ?NAME}, [binary])}
    catch error:Reason -> {error, lists:flatten(io_lib:format("open_port: ~0p", [Reason]))}
    end.

-spec init(port(), init()) -> answer().
init(Port, #{lanes := Lanes, atom_cache := AtomCache, session_id := <<_:16/binary>> = Id,
             my_mac := <<_:32/binary>> = MyMac, peer_mac := <<_:32/binary>> = PeerMac, max_queue := MaxQueue,
             max_message := MaxMessage, node := Node} = Init) ->
    Name = atom_to_binary(Node, utf8),
    Flags = flag(AtomCache, 1) bor flag(maps:get(channel_names, Init, false), 2),
    control(Port, ?INIT, <<?VERSION:8, Lanes:8, Flags:8, Id/binary, MyMac/binary, PeerMac/binary,
                           MaxQueue:64, MaxMessage:64, (byte_size(Name)):16, Name/binary>>).

flag(true, Bit) -> Bit;
flag(false, _Bit) -> 0.

%% The descriptor is duplicated: Socket stays open and must stay idle.
-spec lane(port(), 0..255, inet:socket()) -> answer().
lane(Port, LaneNo, Socket) ->
    case inet:getfd(Socket) of
        {ok, Fd} -> control(Port, ?LANE, <<LaneNo:8, Fd:32>>);
        {error, Reason} -> {error, inet:format_error(Reason)}
    end.

%% Input may be delivered from now on.
-spec start(port()) -> answer().
start(Port) -> control(Port, ?START, <<>>).

-spec tick(port()) -> answer().
tick(Port) -> control(Port, ?TICK, <<>>).

-spec stat(port()) -> {ok, non_neg_integer(), non_neg_integer(), non_neg_integer()} |
                      {error, string()}.
stat(Port) ->
    case result(Port, ?STAT, <<>>) of
        {ok, <<In:64, Out:64, Pending:64, _/binary>>} -> {ok, In, Out, Pending};
        {error, _} = Error -> Error
    end.

%% Test hook: the lane behaves as if the network did `What`. Channel: its number here; 0 is the
%% distribution's own stream.
-spec test(port(), pause_send | resume_send | pause_recv | resume_recv | shut | break_loop, 0..255,
           non_neg_integer()) -> answer().
test(Port, What, LaneNo, Channel) ->
    Code = case What of
               pause_send -> 1;
               resume_send -> 2;
               pause_recv -> 3;
               resume_recv -> 4;
               shut -> 5;
               break_loop -> 6
           end,
    control(Port, ?TEST, <<Code:8, LaneNo:8, Channel:32>>).

-spec set_max_queue(port(), non_neg_integer()) -> answer().
set_max_queue(Port, Bytes) -> control(Port, ?SETQ, <<Bytes:64>>).

%% The caller gets {partisan_closed, Port, Reason :: string()} before the wire ends the port.
-spec notify(port()) -> answer().
notify(Port) -> control(Port, ?NOTIFY, <<>>).

%% A channel of the number No, which has no lane yet.
-spec channel(port(), pos_integer(),
              #{name := binary(), lanes := 1..16, monotonic := boolean(),
                max_queue := pos_integer(), _ => _}) -> answer().
channel(Port, No, #{name := Name, lanes := Lanes, monotonic := Monotonic, max_queue := Max} = Conf) ->
    Flags = case {Monotonic, Conf} of
                {_, #{relay := true}} -> 2;
                {true, _} -> 1;
                {false, _} -> 0
            end,
    control(Port, ?CHANNEL, <<No:32, Lanes:8, Flags:8, Max:64, Name/binary>>).

%% As lane/3.
-spec channel_lane(port(), pos_integer(), 0..255, inet:socket()) -> answer().
channel_lane(Port, No, LaneNo, Socket) ->
    case inet:getfd(Socket) of
        {ok, Fd} -> control(Port, ?CHANNEL_LANE, <<No:32, LaneNo:8, Fd:32>>);
        {error, Reason} -> {error, inet:format_error(Reason)}
    end.

%% How many messages were sent, how many were delivered here, and is anything queued?
-spec channel_state(port(), pos_integer()) ->
          {ok, non_neg_integer(), non_neg_integer(), boolean()} | {error, string()}.
channel_state(Port, No) ->
    case result(Port, ?CHANNEL_STATE, <<No:32>>) of
        {ok, <<Sent:64, Delivered:64, Queued:8>>} -> {ok, Sent, Delivered, Queued =/= 0};
        {error, _} = Error -> Error
    end.

%% true: if nothing is queued, no more is sent, and senders get `closed`. drain: until then senders find
%% the channel full; not one that relays. false: takes both back.
-spec channel_stop(port(), pos_integer(), boolean() | drain) -> answer().
channel_stop(Port, No, true) -> control(Port, ?CHANNEL_STOP, <<No:32, 1>>);
channel_stop(Port, No, false) -> control(Port, ?CHANNEL_STOP, <<No:32, 0>>);
channel_stop(Port, No, drain) -> control(Port, ?CHANNEL_STOP, <<No:32, 2>>).

%% What is queued is lost; senders get `closed`.
-spec channel_close(port(), pos_integer()) -> answer().
channel_close(Port, No) -> control(Port, ?CHANNEL_CLOSE, <<No:32>>).

control(Port, Verb, Data) ->
    case result(Port, Verb, Data) of
        {ok, _} -> ok;
        {error, _} = Error -> Error
    end.

result(Port, Verb, Data) ->
    try iolist_to_binary(erlang:port_control(Port, Verb, Data)) of
        <<0, Result/binary>> -> {ok, Result};
        <<1, Words/binary>> -> {error, binary_to_list(Words)}
    catch
        error:badarg ->
            case erlang:port_info(Port, name) of
                undefined -> {error, "the connection's port is closed"};
                _ -> {error, "the loaded driver is older than its modules: restart the node"}
            end
    end.
