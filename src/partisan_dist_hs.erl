%% The handshake, in both directions: dist_util does OTP's part, this module carries its packets,
%% adds the hello to them, decides between carrier and plain peer, and derives the session's keys.
%%
%% dist_util calls f_send and f_recv in the process that will own the connection; what they have to
%% remember stays in its dictionary (#hs{}) until the handshake is over.
%%
%% Keys. Transcript = every handshake packet in the order in which it crossed the wire, each with
%% its 2-byte length: both hellos and nonces, both challenges and digests, names and flags are in
%% it. With T = HMAC-SHA256("partisan transcript", Transcript) and HKDF-SHA256(cookie, T, info):
%%
%%   session id = info "partisan session id", 16 bytes     lane key = "partisan lane key", 32
%%   MAC of a side = HMAC(HKDF(.., "partisan auth key", 32), "connector" or "acceptor")
%%
%% The MACs open lane 0 in both directions (AUTH frame), so that somebody who edited a hello or a
%% flag on the way, or took a hello out, ends the connection before anything is delivered.
-module(partisan_dist_hs).

-export([accept_connection/6, setup/6]).
-export([do_accept/7, do_setup/7]).
-export([send/2, recv/3, pre_nodeup/1, post_nodeup/1, getll/1]).
-export([accepted_address/2]).
-export([keys/2]).

-include_lib("kernel/include/dist_util.hrl").
-include_lib("kernel/include/logger.hrl").
-include_lib("kernel/include/net_address.hrl").

-define(KEY, ?MODULE).

-record(hs, {driver :: partisan_dist_addr:driver(),
             role :: connector | acceptor,
             peer :: node() | binary() | undefined,   % binary: as claimed in send_name, latin1
             door :: {pid(), partisan_dist_listen:gate()} | undefined, % of the acceptor
             target :: partisan_dist_lanes:target() | undefined, % of the connector
             first :: binary() | undefined,           % read by the door, not yet by dist_util
             hello :: partisan_dist_hello:hello() | undefined, % ours, sent or to be sent
             mode = plain :: plain | {carrier, partisan_dist_hello:agreement()},
             transcript = [] :: iolist(),
             atom_cache = true :: boolean(),          % the flags of both sides so far have it
             keys :: keys() | undefined,
             lanes :: pid() | undefined}).

-type keys() :: #{session_id := <<_:128>>, lane_key := <<_:256>>, connector_mac := <<_:256>>,
                  acceptor_mac := <<_:256>>}.

%% ------------------------------------------------------------------------------------------------
%% Accepting

accept_connection(Driver, Door, Accepted, MyNode, Allowed, SetupTime) ->
    spawn_opt(?MODULE, do_accept, [Driver, self(), Door, Accepted, MyNode, Allowed, SetupTime],
              dist_util:net_ticker_spawn_options()).

do_accept(Driver, Kernel, Door, {Socket, Packet, Gate}, MyNode, Allowed, SetupTime) ->
    link(Door), % whoever shuts the door ends the handshake; see authenticated/1
    DoorRef = erlang:monitor(process, Door),
    receive
        {Door, controller} -> erlang:demonitor(DoorRef, [flush]);
        {'DOWN', DoorRef, process, _, _} -> ?shutdown(no_node)
    end,
    Timer = dist_util:start_timer(SetupTime),
    case partisan_dist_addr:allowed_ip(Driver, Socket) of
        true ->
            ok;
        {false, Ip} ->
            ?LOG_ERROR("** Connection attempt from disallowed IP ~w **", [Ip]),
            ?shutdown(no_node)
    end,
    Hs = answer_hello(Socket, Packet, #hs{driver = Driver, role = acceptor,
                                          door = {Door, Gate},
                                          peer = claimed_name(Packet), first = Packet}),
    put(?KEY, Hs),
    HsData = hs_data(Kernel, MyNode, Socket, Timer),
    dist_util:handshake_other_started(
      HsData#hs_data{allowed = Allowed,
                     f_address = fun ?MODULE:accepted_address/2}).

%% A hello that cannot be read, or of a version that we do not share, is not answered: the peer then
%% takes us for a plain node, and is one to us.
answer_hello(Socket, Packet, Hs) ->
    Mine = my_hello(),
    case agree(Mine, partisan_dist_hello:find({send_name, Packet})) of
        {carrier, Agreement} ->
            Hs#hs{mode = {carrier, Agreement}, hello = Mine};
        {plain, Why} ->
            case partisan_dist_conf:get(plain_peers) of
                allow ->
                    Why =:= "" orelse ?LOG_NOTICE("partisan: ~ts is served as a plain peer: ~ts",
                                                  [shown(Hs#hs.peer), Why]),
                    Hs;
                refuse ->
                    ?LOG_NOTICE("partisan: refused ~ts: not a carrier (option plain_peers)~ts",
                                [shown(Hs#hs.peer), [[": ", Why] || Why =/= ""]]),
                    _ = write(Hs#hs.driver, Socket, <<"snot_allowed">>),
                    ?shutdown2(no_node, not_allowed)
            end
    end.

my_hello() ->
    partisan_dist_hello:new(partisan_dist_conf:get(lanes), partisan_nif:random(16)).

agree(_Mine, none) ->
    {plain, ""};
agree(_Mine, {error, Why}) ->
    {plain, "its hello cannot be read: " ++ Why};
agree(Mine, {ok, Theirs}) ->
    case partisan_dist_hello:agree(Mine, Theirs) of
        {ok, Agreement} -> {carrier, Agreement};
        {error, Why} -> {plain, Why}
    end.

%% For log lines, until dist_util has checked it. No atom: anybody can send a name.
claimed_name(<<$N, _Flags:64, _Creation:32, Size:16, Name:Size/binary, _/binary>>) -> Name;
claimed_name(_) -> undefined.

shown(undefined) -> "a node without a name";
shown(Name) when is_binary(Name) -> io_lib:format("~tp", [binary_to_list(Name)]);
shown(Node) -> atom_to_list(Node).

accepted_address(Socket, Node) ->
    #hs{driver = Driver} = get(?KEY),
    case partisan_dist_addr:peer_address(Driver, Socket, Node) of
        {ok, Address} -> Address;
        error -> ?shutdown(no_node)
    end.

%% ------------------------------------------------------------------------------------------------
%% Connecting

setup(Driver, Node, Type, MyNode, LongOrShort, SetupTime) ->
    spawn_opt(?MODULE, do_setup, [Driver, self(), Node, Type, MyNode, LongOrShort, SetupTime],
              dist_util:net_ticker_spawn_options()).

do_setup(Driver, Kernel, Node, Type, MyNode, LongOrShort, SetupTime) ->
    %% A node that does not listen (-dist_listen false) has not loaded anything yet.
    case partisan_dist_reg:start_carrier() of
        ok ->
            ok;
        {error, Line} ->
            ?LOG_ERROR("~ts", [Line]),
            ?shutdown(Node)
    end,
    Timer = dist_util:start_timer(SetupTime),
    case partisan_dist_addr:resolve(Driver, Node, LongOrShort) of
        {ok, Ip, Port, Version, Host} ->
            dist_util:reset_timer(Timer),
            case Driver:connect(Ip, Port, partisan_dist_addr:connect_options()) of
                {ok, Socket} ->
                    put(?KEY, #hs{driver = Driver, role = connector, peer = Node,
                                  target = {Ip, Port}, hello = my_hello()}),
                    Address = #net_address{address = {Ip, Port}, host = Host, protocol = tcp,
                                           family = Driver:family()},
                    HsData = hs_data(Kernel, MyNode, Socket, Timer),
                    dist_util:handshake_we_started(
                      HsData#hs_data{other_node = Node, other_version = Version,
                                     request_type = Type,
                                     f_address = fun(_, _) -> Address end});
                {error, _} ->
                    ?shutdown(Node)
            end;
        error ->
            ?shutdown(Node)
    end.

hs_data(Kernel, MyNode, Socket, Timer) ->
    #hs_data{kernel_pid = Kernel,
             this_node = MyNode,
             socket = Socket,
             timer = Timer,
             this_flags = 0,
             f_send = fun ?MODULE:send/2,
             f_recv = fun ?MODULE:recv/3,
             f_setopts_pre_nodeup = fun ?MODULE:pre_nodeup/1,
             f_setopts_post_nodeup = fun ?MODULE:post_nodeup/1,
             f_getll = fun ?MODULE:getll/1,
             mf_tick = fun partisan_dist_conn:tick/1,
             mf_getstat = fun partisan_dist_conn:getstat/1,
             mf_setopts = fun partisan_dist_conn:setopts/2,
             mf_getopts = fun partisan_dist_conn:getopts/2}.

%% ------------------------------------------------------------------------------------------------
%% Packets of the handshake: 2-byte length, tag, rest

send(Socket, Data) ->
    Hs0 = get(?KEY),
    {Packet, Hs1} = outgoing(iolist_to_binary(Data), Hs0),
    Hs2 = record(Packet, Hs1),
    put(?KEY, before_send(Packet, Hs2)),
    write(Hs2#hs.driver, Socket, Packet).

recv(Socket, 0, Timeout) ->
    #hs{first = First} = Hs = get(?KEY),
    case First of
        undefined ->
            case read(Hs#hs.driver, Socket, Timeout) of
                {ok, Packet} -> received(Packet, Hs);
                {error, _} = Error -> Error
            end;
        Packet ->
            received(Packet, Hs#hs{first = undefined})
    end.

received(Packet, Hs0) ->
    Hs = incoming(Packet, Hs0),
    put(?KEY, record(Packet, Hs)),
    {ok, binary_to_list(Packet)}. % what dist_util matches on

write(Driver, Socket, Packet) ->
    Driver:send(Socket, [<<(byte_size(Packet)):16>>, Packet]).

read(Driver, Socket, Timeout) ->
    case Driver:recv(Socket, 2, Timeout) of
        {ok, <<0:16>>} -> {ok, <<>>};
        {ok, <<Length:16>>} -> Driver:recv(Socket, Length, Timeout);
        {error, _} = Error -> Error
    end.

%% What both sides say, send_name and challenge with their flags among it.
record(Packet, #hs{transcript = Transcript, atom_cache = AtomCache} = Hs) ->
    Hs#hs{transcript = [Transcript, <<(byte_size(Packet)):16>>, Packet],
          atom_cache = AtomCache andalso atom_cache(Packet)}.

%% The VM has the atom cache if the flags of both have it: neither packet says what the other's
%% said. Without it a packet that refers to the cache would crash OTP 25.
atom_cache(<<$N, Flags:64, _/binary>>) ->
    Flags band dist_util:strict_order_flags() =/= 0;
atom_cache(_) ->
    true.

%% The hello goes behind the name: of the connector in send_name, of an acceptor that met one in
%% challenge. Both have the tag $N, and are the only packet of their side that has.
outgoing(<<$N, _/binary>> = Packet, #hs{role = connector, hello = Hello} = Hs) ->
    {<<Packet/binary, (partisan_dist_hello:encode(Hello))/binary>>, Hs};
outgoing(<<$N, _/binary>> = Packet, #hs{mode = {carrier, _}, hello = Hello} = Hs) ->
    {<<Packet/binary, (partisan_dist_hello:encode(Hello))/binary>>, Hs};
outgoing(<<"snamed:", Size:16, Name:Size/binary, _/binary>> = Packet, #hs{role = acceptor} = Hs) ->
    {Packet, Hs#hs{peer = binary_to_existing_atom(Name, utf8)}}; % the peer asked us for its name
outgoing(Packet, Hs) ->
    {Packet, Hs}.

%% The acceptor's last packet, sent when the peer has proved that it knows the cookie. The lanes
%% process must be known before the peer can ask for it, and the peer opens its lanes as soon as it has
%% read this.
before_send(<<$a, _/binary>>, #hs{role = acceptor, mode = Mode, peer = Peer} = Hs) ->
    authenticated(Hs),
    case Mode of
        plain -> Hs;
        {carrier, _} when is_binary(Peer) ->
            start_lanes(Hs#hs{peer = binary_to_existing_atom(Peer, latin1)});
        {carrier, _} -> start_lanes(Hs)
    end;
before_send(_Packet, Hs) ->
    Hs.

authenticated(#hs{door = {Door, Gate}, peer = Peer}) ->
    case partisan_dist_listen:authenticated(Gate) of
        true -> unlink(Door);
        false -> ?shutdown(Peer)
    end.

incoming(<<$N, _/binary>> = Packet,
         #hs{role = connector, hello = Mine, peer = Peer} = Hs) ->
    case partisan_dist_hello:find({challenge, Packet}) of
        none ->
            partisan_dist_conf:get(plain_peers) =:= allow
                orelse refuse(Peer, "it is not a carrier (option plain_peers)"),
            Hs;
        Found ->
            %% An acceptor that says hello is a carrier to us: there is no way back to plain.
            case agree(Mine, Found) of
                {plain, Why} ->
                    refuse(Peer, Why);
                {carrier, Agreement} ->
                    Hs#hs{mode = {carrier, Agreement}}
            end
    end;
incoming(_Packet, Hs) ->
    Hs.

-spec refuse(node(), string()) -> no_return().
refuse(Peer, Why) ->
    ?LOG_NOTICE("partisan: no connection to ~ts: ~ts", [Peer, Why]),
    ?shutdown2(Peer, {partisan, Why}).

%% ------------------------------------------------------------------------------------------------
%% The end of the handshake. In mode plain the tcp_inet port is the distribution controller, as it
%% is with inet_tcp_dist; in mode carrier the driver's port is, and the tcp_inet port stays idle.

pre_nodeup(Socket) ->
    case get(?KEY) of
        #hs{mode = plain} ->
            partisan_dist_conn:plain_pre_nodeup(Socket);
        #hs{mode = {carrier, _}, lanes = undefined} = Hs ->
            open_session(Socket, start_lanes(Hs));
        #hs{mode = {carrier, _}} = Hs ->
            open_session(Socket, Hs)
    end.

open_session(Socket, #hs{mode = {carrier, #{lanes := Lanes} = Agreed}, role = Role, peer = Peer,
                         keys = Keys, lanes = LanesPid, atom_cache = AtomCache}) ->
    #{session_id := Id, connector_mac := Connector, acceptor_mac := Acceptor} = Keys,
    {MyMac, PeerMac} = case Role of
                           connector -> {Connector, Acceptor};
                           acceptor -> {Acceptor, Connector}
                       end,
    Init = #{lanes => Lanes, atom_cache => AtomCache,
             channel_names => partisan_dist_hello:has(channel_names, Agreed), session_id => Id, my_mac => MyMac,
             peer_mac => PeerMac, node => Peer, max_queue => partisan_dist_conf:get(max_queue),
             max_message => partisan_dist_conf:get(max_message)},
    case partisan_dist_conn:open(Socket, LanesPid, Init) of
        ok ->
            ok;
        {error, Words} ->
            ?LOG_ERROR("partisan: no connection with ~ts: ~ts", [Peer, Words]),
            {error, Words}
    end.

getll(Socket) ->
    partisan_dist_conn:getll(Socket).

post_nodeup(Socket) ->
    #hs{door = Door, peer = Peer} = erase(?KEY),
    case partisan_dist_conn:post_nodeup(Socket) of
        ok ->
            case Door of
                undefined -> ok;
                {Pid, _Gate} -> partisan_dist_listen:connection_up(Pid)
            end;
        {error, Words} = Error ->
            ?LOG_ERROR("partisan: no connection with ~ts: ~0tp", [shown(Peer), Words]),
            Error
    end.

start_lanes(#hs{driver = Driver, role = Role, peer = Peer, transcript = Transcript,
                mode = {carrier, #{lanes := Lanes}}, target = Target} = Hs) ->
    Keys = keys(auth:get_cookie(Peer), Transcript),
    Pid = partisan_dist_lanes:start_link(#{driver => Driver, role => Role, node => Peer,
                                           lanes => Lanes, target => Target,
                                           session_id => maps:get(session_id, Keys),
                                           lane_key => maps:get(lane_key, Keys)}),
    Hs#hs{keys = Keys, lanes = Pid, transcript = []}.

%% See the head of this file.
-spec keys(atom(), iodata()) -> keys().
keys(Cookie, Transcript) ->
    Secret = atom_to_binary(Cookie, utf8),
    Digest = partisan_nif:hmac(<<"partisan transcript">>, Transcript),
    Key = fun(Info, Size) -> partisan_nif:hkdf(Secret, Digest, Info, Size) end,
    AuthKey = Key(<<"partisan auth key">>, 32),
    #{session_id => Key(<<"partisan session id">>, 16),
      lane_key => Key(<<"partisan lane key">>, 32),
      connector_mac => partisan_nif:hmac(AuthKey, <<"connector">>),
      acceptor_mac => partisan_nif:hmac(AuthKey, <<"acceptor">>)}.
