#!/bin/sh
# Compiles OTP's distribution suites and what they need.
#
#   build.sh SOURCE_TREE SUITES_DIR
#
# Everything lands beside the suites because that is where they look: erl_distribution_SUITE hands
# its own directory to peers that use the example carriers, erpc_SUITE runs a C node from its data
# directory, distribution_SUITE starts `run` from its own.
set -eu

src=$1
dir=$2
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "otp build: $*" >&2; exit 2; }

# Ours, and compiled each time: it may have changed.
hook() { erlc +debug_info -o "$dir/ts" "$here/otp_report_cth.erl" || die "cannot compile the hook"; }
if [ -e "$dir/.complete" ]; then
    hook
    exit 0
fi
rm -rf "$dir"
mkdir -p "$dir/ts" "$dir/corrected"

emulator=$src/erts/emulator/test
kernel=$src/lib/kernel/test
examples=$src/lib/kernel/examples
ts=$src/lib/common_test/test_server

# +nowarn...: warnings in OTP's own tests are none of our business.
compile() {
    out=$1
    shift
    erlc +debug_info +nowarn_export_all -I "$kernel" -I "$ts" -o "$out" "$@" \
        >"$dir/compile.log" 2>&1 || { cat "$dir/compile.log" >&2; die "cannot compile $*"; }
}

for suite in "$emulator"/distribution_SUITE "$kernel"/erl_distribution_SUITE \
    "$kernel"/erl_distribution_wb_SUITE "$kernel"/erpc_SUITE; do
    # The source goes along: erpc_SUITE compiles itself on other releases, ct links to it.
    cp "$suite.erl" "$dir/"
    [ -d "${suite}_data" ] && cp -R "${suite}_data" "$dir/"
done
compile "$dir" "$dir"/*_SUITE.erl

# erl_distribution_wb_SUITE takes the other side of a handshake and insists that send_name ends with
# the name. "Any extra data after the node Name must be accepted and ignored" (ERTS User's Guide,
# Distribution Protocol, send_name), and dist_util does: this copy does, too.
wb=erl_distribution_wb_SUITE.erl
sed -e 's/^    NameLen = length(OtherNode),$/    true = NameLen =< length(OtherNode),/' \
    -e 's/^    {list_to_atom(OtherNode), Flags};$/    {list_to_atom(lists:sublist(OtherNode, NameLen)), Flags};/' \
    "$dir/$wb" >"$dir/corrected/$wb"
[ "$(diff "$dir/$wb" "$dir/corrected/$wb" | grep -c '^>')" = 2 ] ||
    die "$wb of this OTP release looks different; look at get_name/1 in it and correct build.sh"
compile "$dir/corrected" "$dir/corrected/$wb"
compile "$dir" "$emulator/erts_test_utils.erl" "$kernel"/kernel_test_*.erl \
    "$examples/gen_tcp_dist/src/gen_tcp_dist.erl" "$examples/erl_uds_dist/src/erl_uds_dist.erl"
compile "$dir/distribution_SUITE_data" "$dir/distribution_SUITE_data/run.erl"
compile "$dir/ts" "$ts/ts_lib.erl" "$ts/ts_install_cth.erl"
hook
cp "$ts/ts.config" "$ts/ts.unix.config" "$dir/ts/"

ei=$(erl -noshell -eval 'io:put_chars(code:lib_dir(erl_interface)), halt().')
[ -d "$ei/include" ] || die "erl_interface is not installed (Debian: erlang-dev)"
# _REENTRANT: ei.h declares the threaded erl_errno, the one that libei.a defines, only with it.
${CC:-cc} -O2 -w -D_REENTRANT -I "$ei/include" -o "$dir/erpc_SUITE_data/fwd_node" \
    "$dir/erpc_SUITE_data/fwd_node.c" -L "$ei/lib" -lei -lpthread
touch "$dir/.complete"
