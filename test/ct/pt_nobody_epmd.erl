%% An epmd module that knows no node: they meet only by addresses told otherwise.
-module(pt_nobody_epmd).

-export([start_link/0, register_node/3, listen_port_please/2, address_please/3, port_please/3,
         port_please/2, names/1]).

start_link() -> ignore.
register_node(_Name, _Port, _Family) -> {ok, 1 + rand:uniform(1 bsl 20)}.
listen_port_please(_Name, _Host) -> {ok, 0}.
address_please(_Name, _Host, _Family) -> {error, nxdomain}.
port_please(Name, Host) -> port_please(Name, Host, infinity).
port_please(_Name, _Host, _Timeout) -> noport.
names(_Host) -> {error, address}.
