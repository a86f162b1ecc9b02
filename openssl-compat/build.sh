#!/bin/bash
# Builds libssl.so.3: upstream OpenSSL 3.0, the patches beside this file, and the Rust hook linked in.
# README.md says why each step is as it is; usage() below how to call it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
series=3.0
cache=${SSLCOLLECTOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sslcollector}/openssl

usage() {
    cat <<EOF
usage: openssl-compat/build.sh [--objects]

Leaves the patched library in TARGET/lib/sslcollector/openssl-$series/libssl.so.3 and prints that path.
TARGET is cargo's target directory. Progress goes to standard error.

  --objects   stop behind the compiler: print the directory with headers and objects (the tests link these)

Environment:
  OPENSSL_TARBALL     use this openssl-3.0.x.tar.gz instead of asking apt for Debian's
  SSLCOLLECTOR_CACHE  where sources and results are kept ($cache)
  CARGO_TARGET_DIR    as for cargo
EOF
}

# Releases that are known, newest first: version and sha256 of Debian's openssl_VERSION.orig.tar.gz.
pins() {
    cat <<EOF
3.0.22 67ebca7e50d17383028045486653492195b83db95f8558709701bb47b5c1ef81
3.0.20 c80a01dfc70ece4dc21168932c37739042d404d46ccc81a5986dd75314ecda6f
3.0.17 dfdd77e4ea1b57ff3a6dbde6b0bdc3f31db5ac99e7fdd4eaf9e1fbb6ec2db8ce
EOF
}

# From Debian 12's debian/rules and its target "debian-*". Against those: no-ktls, since the kernel
# would encrypt clear text that libssl never sees; no-tests, since they aren't built here.
configure_flags=(
    shared --prefix=/usr --openssldir=/usr/lib/ssl
    no-idea no-mdc2 no-rc5 no-zlib no-ssl3 enable-unit-test no-ssl3-method
    enable-rfc3779 enable-cms no-capieng no-rdrand
    no-ktls no-tests
    "CFLAGS=-O2 -Wall -Wa,--noexecstack -fzero-call-used-regs=used-gpr -fstack-protector-strong -Wformat -Werror=format-security"
    "CPPFLAGS=-DOPENSSL_TLS_SECURITY_LEVEL=2 -Wdate-time -D_FORTIFY_SOURCE=2"
    "LDFLAGS=-Wl,-z,relro -Wl,-z,now -static-libgcc"
)
case $(uname -m) in
    x86_64) configure_flags+=(linux-x86_64 --libdir=lib/x86_64-linux-gnu enable-ec_nistp_64_gcc_128) ;;
    aarch64) configure_flags+=(linux-aarch64 --libdir=lib/aarch64-linux-gnu) ;;
    *) echo "build.sh: no configuration for $(uname -m): add one beside linux-x86_64" >&2; exit 1 ;;
esac

say() { echo "openssl-compat: $*" >&2; }
die() { say "$@"; exit 1; }

# run WHAT COMMAND…: output into the log; on failure its tail and where the rest is.
run() {
    local what=$1
    shift
    say "$what"
    echo "== $what: $*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null && return
    tail -n 25 "$log" >&2
    die "$what failed. The whole log: $log"
}

check_tools() {
    local tool package missing=()
    while read -r tool package; do
        command -v "$tool" >/dev/null || missing+=("$package")
    done <<EOF
gcc gcc
make make
perl perl
patch patch
strip binutils
EOF
    [[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
    # perl-base alone has perl, but not what Configure uses.
    perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1 2>/dev/null || missing+=(perl)
    if command -v gcc >/dev/null; then
        libcrypto=$(gcc -print-file-name=libcrypto.so.3)
        [[ $libcrypto == /* ]] || missing+=(libssl3)
    fi
    ((${#missing[@]} == 0)) || die "missing Debian packages. Next: apt-get install ${missing[*]}"
}

sha256() { sha256sum "$@" | cut -d' ' -f1; }

# Debian's own entries of the machine's apt sources, as deb-src, into directory $1.
source_entries() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    find /etc/apt/sources.list.d -name '*.sources' -exec awk -v RS= -v name="$codename" '
        /(^|\n)Types:[^\n]*deb/ && $0 ~ "(^|\n)Suites:[^\n]*[ ]" name "(-updates|-security)?([ \n]|$)" &&
        /(^|\n)Components:[^\n]* main/ && !/(^|\n)Enabled: *no/ {
            sub(/Types:[^\n]*/, "Types: deb-src"); print $0 "\n" }' {} + >"$1/debian.sources" || true
    find /etc/apt/sources.list /etc/apt/sources.list.d/ -name '*.list' -exec cat {} + 2>/dev/null |
        awk -v name="$codename" '$1 == "deb" && $0 ~ " " name "(-updates|-security)? .*main" {
            sub(/^deb/, "deb-src"); print }' >"$1/debian.list" || true
}

# Asks apt, with lists and caches of its own so that nothing in /etc or /var changes, for the newest
# pinned release that the machine's mirror offers.
download() {
    local work=$cache/apt version hash package offered
    command -v apt-get >/dev/null || die "no apt-get here. Next: download openssl-3.0.x.tar.gz and set OPENSSL_TARBALL to its path"
    rm -rf "$work"
    mkdir -p "$work"/{sources,lists/partial,archives/partial}
    source_entries "$work/sources"
    cat >"$work/apt.conf" <<EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$work/sources";
Dir::State::Lists "$work/lists";
Dir::Cache "$work";
Dir::Cache::Archives "$work/archives";
APT::Sandbox::User "$(id -un)";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF
    run "asking apt which OpenSSL $series sources it offers" apt-get -c "$work/apt.conf" update
    offered=$(apt-cache -c "$work/apt.conf" showsrc openssl 2>>"$log" | sed -n 's/^Version: //p')
    while read -r version hash; do
        package=$(grep -m1 -F "$version-" <<<"$offered") || continue
        (cd "$work" && run "downloading OpenSSL $version" \
            apt-get -c "$work/apt.conf" source --tar-only --download-only "openssl=$package")
        tarball=$cache/sources/openssl_$version.orig.tar.gz
        [[ $(sha256 "$work/openssl_$version.orig.tar.gz") == "$hash" ]] ||
            die "openssl_$version.orig.tar.gz has another sha256 than this script knows. Next: find out why; nothing was built"
        mv "$work/openssl_$version.orig.tar.gz" "$tarball"
        rm -rf "$work"
        return
    done < <(pins)
    die "apt offers OpenSSL sources: ${offered:-none}
Known here: $(pins | cut -d' ' -f1 | tr '\n' ' ')
Next: add a newer release and its sha256 to pins() in $here/build.sh, or set OPENSSL_TARBALL to an openssl-3.0.x.tar.gz"
}

find_source() {
    local version hash
    if [[ -n ${OPENSSL_TARBALL:-} ]]; then
        [[ -r $OPENSSL_TARBALL ]] || die "OPENSSL_TARBALL=$OPENSSL_TARBALL can't be read"
        tarball=$(realpath "$OPENSSL_TARBALL")
        return
    fi
    while read -r version hash; do
        tarball=$cache/sources/openssl_$version.orig.tar.gz
        [[ -e $tarball && $(sha256 "$tarball") == "$hash" ]] && return
    done < <(pins)
    download
}

# The patched and compiled tree, $tree; kept under a key of all that goes into it.
compile() {
    local key patch
    key=$({
        sha256 "$tarball"
        cat "$here/patches/$series"/*.patch "$root/include/mirror_hook.h"
        echo "${configure_flags[@]}"
        gcc --version
    } | sha256 | cut -c1-16)
    # Made in its final place, since Configure writes that into its results; finished once `complete` is there.
    tree=$cache/tree-$key
    if [[ -e $tree/complete ]]; then
        touch "$tree"
        return
    fi
    rm -rf "$tree"
    mkdir "$tree"
    run "unpacking $(basename "$tarball")" tar xzf "$tarball" -C "$tree" --strip-components=1 --no-same-owner
    grep -qx 'MAJOR=3' "$tree/VERSION.dat" && grep -qx 'MINOR=0' "$tree/VERSION.dat" ||
        die "$tarball isn't OpenSSL $series"
    cp "$root/include/mirror_hook.h" "$tree/include/"
    cd "$tree"
    for patch in "$here/patches/$series"/*.patch; do
        run "applying $(basename "$patch")" patch -p1 --fuzz=0 -i "$patch"
    done
    run "configuring (about 10 s)" ./Configure "${configure_flags[@]}"
    run "generating headers" make build_generated
    # libssl alone, against the libcrypto that the distribution ships: the programs load that one.
    ln -sf "$libcrypto" libcrypto.so.3
    ln -sf libcrypto.so.3 libcrypto.so
    run "compiling libssl (about 30 s)" link_libssl ""
    rm -f libssl.so libssl.so.3
    touch complete
    cd "$root"
    # Of older trees keep two.
    find "$cache" -maxdepth 1 -name 'tree-*' -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2- | xargs -r rm -rf
}

# link_libssl WHAT: in the tree. `-o`: these are there already, and aren't ours to make.
link_libssl() {
    make -j"$(nproc)" -o libcrypto.so -o libcrypto.so.3 -o libcrypto.ld -o libcrypto.a "EX_LIBS=$1" libssl.so
}

# The archive of the Rust hook, $archive, and cargo's target directory, $target.
compile_hook() {
    command -v cargo >/dev/null || die "no cargo here. Next: install Rust from rustup.rs, or Debian's rustup"
    target=$(cargo metadata --quiet --no-deps --format-version 1 --manifest-path "$root/Cargo.toml" |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    [[ -n $target ]] || die "cargo metadata names no target directory"
    say "compiling the hook"
    cargo build --release --quiet --package mirror-hook --manifest-path "$root/Cargo.toml" >&2
    archive=$target/release/libmirror_hook.a
}

link_with_hook() {
    local key
    key=$(echo "$tree $(sha256 "$archive" "$here/build.sh")" | sha256 | cut -c1-16)
    library=$cache/lib-$key/libssl.so.3
    if [[ ! -e $library ]]; then
        cd "$tree"
        # make doesn't know of the archive.
        rm -f libssl.so libssl.so.3
        # gc-sections: of Rust's library only what the hook uses. OpenSSL's own objects lose nothing by it.
        run "linking the hook into libssl" link_libssl "-Wl,-z,defs -Wl,--gc-sections $archive"
        mkdir -p "$(dirname "$library")"
        strip --strip-unneeded -o "$library.new" libssl.so.3
        mv "$library.new" "$library"
        rm -f libssl.so libssl.so.3
        cd "$root"
        find "$cache" -maxdepth 1 -name 'lib-*' -printf '%T@ %p\n' | sort -rn | tail -n +9 | cut -d' ' -f2- | xargs -r rm -rf
    fi
    installed=$target/lib/sslcollector/openssl-$series/libssl.so.3
    mkdir -p "$(dirname "$installed")"
    # By rename: a process that has the old one mapped keeps it.
    cp "$library" "$installed.new"
    mv "$installed.new" "$installed"
}

objects_only=
case ${1:-} in
    "") ;;
    --objects) objects_only=1 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p "$cache/sources"
cache=$(cd "$cache" && pwd)
log=$cache/build.log
check_tools
[[ -n $objects_only ]] || compile_hook
exec 9>"$cache/lock"
flock -n 9 || { say "another build is running: waiting for it"; flock 9; }
: >"$log"
find_source
compile
if [[ -n $objects_only ]]; then
    echo "$tree"
else
    link_with_hook
    echo "$installed"
fi
