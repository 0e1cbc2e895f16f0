%% A manager for the ring of docs/overlays.md, with routes: what the tests use of a manager.
-module(pt_ring).

-export([overlay/0, start_link/0, members/0, join/1, leave/0, receive_message/3, relay_message/4]).

overlay() ->
    #{core => partisan_overlay_routed, links => hidden,
      config => #{core => partisan_ring, options => #{gossip_interval => 200, retry_interval => 300},
                  tree => #{exchange_tick_period => 500},
                  incarnation => erlang:system_time(microsecond)}}.

start_link() -> partisan_overlay_shell:start_link(?MODULE).
members() -> partisan_manager:members().
join(Node) -> partisan_manager:join(Node).
leave() -> partisan_manager:leave().
receive_message(Node, Channel, Message) -> partisan_manager:receive_message(Node, Channel, Message).
relay_message(Node, Dest, Message, _) -> partisan_relay:send(Node, Dest, Message, 32).
