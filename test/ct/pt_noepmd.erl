%% An epmd module that asks nobody (-start_epmd false -epmd_module pt_noepmd): the port is the end
%% of the node's name, x_4711@host listens on 4711. Every name lives on 127.0.0.1.
-module(pt_noepmd).

-export([start_link/0, register_node/2, register_node/3, listen_port_please/2]).
-export([address_please/3, port_please/2, port_please/3, names/1]).

start_link() -> ignore.
register_node(_Name, _Port) -> {ok, 1 + rand:uniform(1 bsl 20)}.
register_node(Name, Port, _Family) -> register_node(Name, Port).
listen_port_please(Name, _Host) -> {ok, port(Name)}.
address_please(Name, _Host, _Family) -> {ok, {127, 0, 0, 1}, port(Name), 6}.
port_please(Name, Host) -> port_please(Name, Host, infinity).
port_please(Name, _Host, _Timeout) -> {port, port(Name), 6}.
names(_Host) -> {error, address}.

port(Name) when is_atom(Name) -> port(atom_to_list(Name));
port(Name) -> list_to_integer(lists:last(string:lexemes(Name, "_"))).
