%% Certificates for inet_tls, made for one run: a throw-away authority and a certificate signed by it
%% in the results directory. Both nodes present it and check the other's.
-module(pt_bench_tls).
-export([make/2, options_file/2, version/1]).

%% Makes them by openssl(1), once a directory, for nodes on these hosts.
-spec make(file:filename(), [string()]) -> ok | {error, string()}.
make(Dir, Hosts) ->
    Tls = filename:join(Dir, "tls"),
    case {filelib:is_file(filename:join(Tls, "tls-1.2.conf")), os:find_executable("openssl")} of
        {true, _} -> ok;
        {false, false} -> {error, "inet_tls needs openssl (package openssl) for its certificate"};
        {false, _} -> make_in(Tls, Hosts)
    end.

make_in(Tls, Hosts) ->
    ok = filelib:ensure_path(Tls),
    Names = [name(H) || H <- lists:usort(Hosts)],
    Extension = ["subjectAltName=", lists:join(",", Names), $\n],
    ok = file:write_file(filename:join(Tls, "san.cnf"), Extension),
    Commands = [
        "openssl ecparam -name prime256v1 -genkey -noout -out ca.key",
        "openssl req -x509 -new -key ca.key -days 7 -subj '/CN=bench throw-away' -out ca.pem",
        "openssl ecparam -name prime256v1 -genkey -noout -out node.key",
        "openssl req -new -key node.key -subj '/CN=bench' -out node.csr",
        "openssl x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 7 "
            "-extfile san.cnf -out node.pem"
    ],
    Script = ["cd '", Tls, "' && { ", lists:join(" && ", Commands), "; } >openssl.log 2>&1; echo $?"],
    case string:trim(os:cmd(lists:flatten(Script))) of
        "0" ->
            [
                ok = file:write_file(filename:join(Tls, "tls-" ++ V ++ ".conf"), options(Tls, V))
             || V <- ["1.3", "1.2"]
            ],
            ok;
        _ ->
            {error, "openssl made no certificate: see " ++ filename:join(Tls, "openssl.log")}
    end.

%% inet_tls compares the host part of the node's name with the DNS names, also when it is an address.
name(Host) ->
    case inet:parse_address(Host) of
        {ok, _} -> ["DNS:", Host, ",IP:", Host];
        {error, _} -> ["DNS:", Host]
    end.

options(Tls, Version) ->
    Common = [
        {certfile, filename:join(Tls, "node.pem")},
        {keyfile, filename:join(Tls, "node.key")},
        {cacertfile, filename:join(Tls, "ca.pem")},
        {versions, [list_to_atom("tlsv" ++ Version)]},
        {verify, verify_peer}
    ],
    Server = {server, Common ++ [{fail_if_no_peer_cert, true}]},
    io_lib:format("~p.~n", [[Server, {client, Common}]]).

-spec options_file(file:filename(), Version :: string()) -> file:filename().
options_file(Dir, Version) -> filename:join([Dir, "tls", "tls-" ++ Version ++ ".conf"]).

%% On a measured node: what the connection to Node speaks. The distribution controller of inet_tls
%% is the sender process of a TLS connection; ssl keeps no public way from one to the other, so
%% the configuration is what is asked.
-spec version(node()) -> {ok, string()} | {error, term()}.
version(_Node) ->
    case ets:lookup(ssl_dist_opts, server) of
        [{server, Options}] ->
            case proplists:get_value(versions, Options) of
                ['tlsv1.3'] -> {ok, "1.3"};
                ['tlsv1.2'] -> {ok, "1.2"};
                Other -> {error, Other}
            end;
        Other ->
            {error, Other}
    end.
