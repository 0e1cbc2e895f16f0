%% Packets that no VM writes, pushed into the connection of two carriers by port_command/2 as any
%% process can: the connection ends, once, and both nodes live.
-module(raw_packet_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([atom_cache_references/1, broken_fragments/1]).

suite() ->
    [{timetrap, {seconds, 240}}].

all() ->
    [atom_cache_references, broken_fragments].

%% References to slots that hold nothing, new entries, short and long atoms, all of it cut short; in
%% whole messages and in first fragments. Where there is nothing wrong with a section, the message
%% behind it is missing, or the sequence it begins goes on with a number that is not its next.
atom_cache_references(_Config) ->
    Ctl = term_ext({255, self(), '', nobody}),
    Tables = [<<1, Flags, Rest/binary>> || Flags <- [0, 8, 16#0F, 16#18, 16#FF],
                                           Rest <- [<<7>>, <<7, 3, "abc">>, <<7, 0, 3, "abc">>]]
        ++ [<<255, 0:(128 * 8), 0:(255 * 8)>>, <<255>>],
    refused([[<<Head/binary, Table/binary>>, Ctl] || Head <- [<<131, 68>>, <<131, 69, 1:64, 1:64>>],
                                                     Table <- Tables],
            fun([Packet, Rest]) ->
                    [<<Packet/binary, Rest/binary>>, <<131, 70, 1:64, 3:64, "rest">>]
            end).

broken_fragments(_Config) ->
    First = fun(Id) -> <<131, 69, 77:64, Id:64, 0, (term_ext({6, self(), '', nobody}))/binary, 131, 107>> end,
    Next = fun(Id) -> <<131, 70, 77:64, Id:64, "rest">> end,
    refused([[Next(1)], [First(3), First(3)], [First(3), Next(1)], [First(3), Next(2), Next(2)],
             [First(2), Next(2)], [First(1), Next(1)]],
            fun(Packets) -> Packets end).

refused(Cases, Packets) ->
    %% Nobody but the test connects: global would do it again at once, over and over.
    Peer = #{args => ["-connect_all", "false", "-kernel", "dist_auto_connect", "never"]},
    [A, B] = Peers = [pt_peer:start(raw, Peer), pt_peer:start(raw, Peer)],
    NodeA = pt_peer:node(A),
    NodeB = pt_peer:node(B),
    Events = pt_peer:spawn_collector(B),
    pt_peer:eval(B, fun() ->
                        spawn(fun() ->
                                  ok = net_kernel:monitor_nodes(true),
                                  Events ! monitoring,
                                  (fun Loop() -> receive M -> Events ! M, Loop() end end)()
                              end)
                    end),
    ?assert(pt_peer:wait(fun() -> pt_peer:collected(B, Events) =:= [monitoring] end)),
    lists:foldl(
      fun(Case, Seen) ->
              pt_peer:connect(A, B),
              pt_peer:eval(A, fun() ->
                                  Port = pt_peer:dist_port(NodeB),
                                  [try port_command(Port, P) catch error:badarg -> gone end
                                   || P <- Packets(Case)]
                              end),
              Now = Seen ++ [{nodeup, NodeA}, {nodedown, NodeA}],
              ?assert(pt_peer:wait(fun() -> pt_peer:collected(B, Events) =:= Now end),
                      {Case, pt_peer:collected(B, Events),
                       [pt_peer:call(X, partisan_dist, info, [N]) || {X, N} <- [{A, NodeB}, {B, NodeA}]]}),
              ?assert(pt_peer:wait(fun() -> pt_peer:call(A, erlang, nodes, []) =:= [] end)),
              Now
      end, [monitoring], Cases),
    pt_peer:connect(A, B),
    ?assertEqual(pong, pt_peer:call(A, net_adm, ping, [NodeB])),
    [pt_peer:stop(P) || P <- Peers].

term_ext(Term) ->
    <<131, Ext/binary>> = term_to_binary(Term),
    Ext.
