%% A name server with a few records, on a port of its own.
-module(pt_dns).

-export([start/1, stop/1, port/1]).

%% RFC 1035, 4.1.1. kernel/src/inet_dns.hrl has them, but Debian 13 installs it with the source only.
-define(NOERROR, 0).
-define(NXDOMAIN, 3).

%% Records: {Name, Type} => [Data], as inet_res has them.
start(Records) ->
    Caller = self(),
    Pid = spawn_link(fun() ->
                             {ok, Socket} = gen_udp:open(0, [binary, {ip, {127, 0, 0, 1}}]),
                             {ok, Port} = inet:port(Socket),
                             Caller ! {self(), Port},
                             loop(Socket, Records)
                     end),
    receive {Pid, Port} -> {Pid, Port} end.

stop({Pid, _}) ->
    unlink(Pid),
    exit(Pid, kill).

port({_, Port}) -> Port.

loop(Socket, Records) ->
    receive
        {udp, Socket, Ip, Port, Packet} ->
            {ok, Query} = inet_dns:decode(Packet),
            [Question] = inet_dns:msg(Query, qdlist),
            Name = string:lowercase(inet_dns:dns_query(Question, domain)),
            Type = inet_dns:dns_query(Question, type),
            Answers = [inet_dns:make_rr([{domain, Name}, {type, Type}, {class, in}, {ttl, 0},
                                         {data, Data}])
                       || Data <- maps:get({Name, Type}, Records, [])],
            Code = case Answers of
                       [] -> ?NXDOMAIN;
                       _ -> ?NOERROR
                   end,
            Header = inet_dns:make_header(inet_dns:msg(Query, header),
                                          [{qr, true}, {aa, true}, {rcode, Code}]),
            Reply = inet_dns:make_msg([{header, Header}, {qdlist, [Question]},
                                       {anlist, Answers}]),
            ok = gen_udp:send(Socket, Ip, Port, inet_dns:encode(Reply)),
            loop(Socket, Records)
    end.
