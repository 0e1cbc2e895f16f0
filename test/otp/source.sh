#!/bin/sh
# Gets the source of the installed Erlang/OTP and unpacks the parts with the test suites.
#
#   source.sh WORKDIR     prints the directory that holds the unpacked tree
#
# OTP_SRC=DIR: use that tree instead (of the same OTP release) and fetch nothing.
#
# The package comes from wherever this machine gets its packages: the installed source lists are
# copied into WORKDIR as deb-src entries and used for this one fetch, so the lists of the system
# stay as they are and no root is needed.
set -eu

work=$1
die() { echo "otp source: $*" >&2; exit 2; }

if [ -n "${OTP_SRC:-}" ]; then
    [ -d "$OTP_SRC/erts/emulator/test" ] ||
        die "OTP_SRC=$OTP_SRC has no erts/emulator/test; name the top of an unpacked OTP source tree"
    echo "$OTP_SRC"
    exit 0
fi

command -v apt-get >/dev/null ||
    die "no apt-get here; unpack the source of your OTP release and set OTP_SRC to its top directory"
version=$(dpkg-query -W -f '${source:Version}' erlang-base 2>/dev/null) ||
    die "Debian's erlang-base is not installed; set OTP_SRC to the source tree of your OTP release"

tree=$work/src-${version#*:}
if [ -e "$tree/.complete" ]; then
    echo "$tree"
    exit 0
fi

apt=$work/apt
mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial" "$work/download"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$list" ] || continue
    # One-line format: "deb [options] uri suite components"; a deb-src line is a repetition then.
    sed -n 's/^[[:space:]]*deb[[:space:]]/deb-src /p' "$list" \
        >"$apt/sources/$(basename "$list" .list).list"
done
for list in /etc/apt/sources.list.d/*.sources; do
    [ -f "$list" ] || continue
    sed 's/^[Tt]ypes:.*/Types: deb-src/' "$list" >"$apt/sources/$(basename "$list")"
done

# APT::Sandbox::User: apt drops its rights for downloads and could not write below WORKDIR then.
apt_get() {
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/sources" \
        -o Dir::State::lists="$apt/lists" -o Dir::Cache="$apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -o APT::Get::List-Cleanup=0 "$@"
}
# An archive without sources among the lists is no reason to stop: the next step tells.
apt_get update >"$apt/log" 2>&1 || true
(cd "$work/download" && apt_get source --download-only "erlang=$version") >>"$apt/log" 2>&1 || {
    tail -n 5 "$apt/log" >&2
    die "cannot get the source package erlang $version (log: $apt/log)"
}

orig=$(find "$work/download" -name 'erlang_*.orig.tar.*' ! -name '*.asc' 2>/dev/null | sort | tail -n 1)
[ -n "$orig" ] || die "no orig tarball in $work/download"
rm -rf "$tree"
mkdir -p "$tree"
# Debian's patches touch none of the suites used here, so the upstream tarball is enough.
tar -xf "$orig" -C "$tree" --strip-components=1 --wildcards \
    '*/erts/emulator/test' '*/lib/kernel/test' '*/lib/kernel/examples' \
    '*/lib/common_test/test_server'
touch "$tree/.complete"
echo "$tree"
