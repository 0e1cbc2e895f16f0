%% Which part of the work a symbol of a profile belongs to. Pure.
%%
%% The rules are tried in order. A new symbol that matters shows up in "other" and in the profile's
%% list of symbols; a row here gives it its place.
-module(pt_bench_symbols).
-export([group/2, groups/0, parse_report/1]).
-export_type([group/0]).

-type group() :: string().

%% {group, where: driver | kernel | vm (beam.smp) | jit | library | any, pattern of the symbol}.
%% Distributions strip beam.smp; what is not exported from it has an address instead of a name.
-define(RULES, [
    {"carrier's driver", driver, ""},
    {"workload, proof", any, "^\\$pt_bench|crc32|_crc|^erts_cmp|^eq$|^do_cmp"},
    {"Erlang code", jit, ""},
    {"VM: no symbol", vm, "^0x"},
    {"kernel: copy",
        kernel, "copy_(to|from|user|page|iter)|copyin|copyout|_copy_|rep_movs|memcpy|memmove|csum"},
    {"kernel: io_uring", kernel, "^(__)?io_[a-z]*|^iou_|uring"},
    {"kernel: TCP, IP, loopback", kernel,
        "tcp|^_*ip_|^_*ip6|skb|^_*sk_|^sock|_sock|inet|^_*net|^_*dev_|^_*napi|loopback|^nf_|"
        "process_backlog|qdisc|bbr|^_*udp|import_iovec|iov_iter|veth|fib_|neigh|dst_|_rtable|sendmsg|recvmsg"},
    {"kernel: scheduling, locks", kernel,
        "sched|futex|wake|ttwu|hrtimer|enqueue|dequeue|pick_|switch|update_curr|update_load|select_task|"
        "idle|rq_|timer|ktime|tick|cpu|task|rcu|^_raw_spin|_lock|osq_|prepare_to_wait|finish_wait|spin_(un)?lock|mutex|ipi"},
    {"kernel: memory", kernel,
        "page|folio|alloc|slab|kmem|kfree|mem_cgroup|memcg|^_*mm|_mm_|fault|tlb|unmap|vma|zap|clear_|free|lru"},
    {"kernel: entry, poll, files", kernel, ""},
    {"copy in user space", any, "memcpy|memmove|memset|sys_memcpy|copy_struct|copy_shallow|^__mem"},
    {"VM: locks", any, "mutex|rwlock|^ethr_rw|spin_?lock"},
    {"VM: table of nodes", vm, "dist_entry|_node$|_node_|nodes_"},
    {"VM: encode", vm,
        "^enc_|^encode_|erts_encode|dsig|transcode|insert_acache|erts_dist_send|begin_hopefull|"
        "finalize_atom_cache|dist_ext_finalize|^store_in_vec"},
    {"VM: decode", vm,
        "^dec_|^decode|^decoded_|erts_decode|net_message|erts_prepare_dist|erts_make_dist|factory|"
        "^init_done|validated|atom_get|^index_|^hash_|erts_get_dist_ext|erts_atom_put"},
    {"VM: allocation", any,
        "alloc|alcu|^mbc_|^aoff|^bf_|^gf_|free|carrier|erts_bin|refc|malloc|^_int_|mseg"},
    {"VM: garbage collection", vm, "garbage|^gc_|sweep|minor_coll|major_coll|collect|move_|_heap|heap_"},
    {"VM: ports, inet driver", vm,
        "port|driver|tcp_|inet_|packet|dist_command|check_io|pollset|poll_|epoll|iov|ioq|ready_|output"},
    {"VM: messages, signals", vm,
        "message|msg|proc_sig|signal|queue|send|recv|deliver|lookup|erts_whereis|erts_proc_lookup|trace"},
    {"VM: scheduling, waiting", any,
        "sched|runq|aux_work|wait|spin|steal|wake|thr_|ethr|mutex|mtx|cond|time|clock|tse|poll|futex|"
        "lock|wheel|event|vdso|handle_"},
    {"VM: other", vm, ""},
    {"other", any, ""}
]).

-spec groups() -> [group()].
groups() -> [Group || {Group, _, _} <- ?RULES].

%% Dso as perf prints it: a file's base name, [kernel.kallsyms], [vdso], [JIT] tid N.
-spec group(Dso :: string(), Symbol :: string()) -> group().
group(Dso, Symbol) -> first(?RULES, where(Dso), Symbol).

first([{Group, Where, Pattern} | Rules], Here, Symbol) ->
    Fits = Where =:= any orelse Where =:= Here,
    case Fits andalso (Pattern =:= "" orelse re:run(Symbol, Pattern, [{capture, none}]) =:= match) of
        true -> Group;
        false -> first(Rules, Here, Symbol)
    end.

where("partisan_drv" ++ _) -> driver;
where("beam" ++ _) -> vm;
where("[JIT]" ++ _) -> jit;
where("perf-" ++ _) -> jit;
where("[vdso]" ++ _) -> library;
where("[" ++ _) -> kernel;
where(Dso) ->
    case lists:suffix(".ko", Dso) of
        true -> kernel;
        false -> library
    end.

%% Lines of `perf report -t "|" -F overhead,pid,dso,sym': thread id (perf calls it Pid), dso, symbol
%% and its share.
-spec parse_report(string()) -> [{Tid :: string(), Dso :: string(), Symbol :: string(), float()}].
parse_report(Text) ->
    lists:append([line(string:split(Line, "|", all)) || Line <- string:split(Text, "\n", all)]).

line([Share, Pid, Dso | Symbol]) ->
    case string:to_float(string:trim(Share)) of
        {Percent, "%" ++ _} ->
            [Id | _] = string:split(string:trim(Pid), ":"),
            %% [k] or [.] stands before the name; the name itself may hold the separator.
            Name = string:trim(lists:flatten(lists:join("|", Symbol))),
            [{Id, string:trim(Dso), string:slice(Name, 4), Percent / 100}];
        _ ->
            []
    end;
line(_) ->
    [].
