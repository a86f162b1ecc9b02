#!/bin/bash
# Builds libssl.so.3: upstream OpenSSL, the patches beside this file, and the Rust hook linked in.
# README.md says why each step is as it is; usage() below how to call it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cache=${SSLCOLLECTOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sslcollector}/openssl

usage() {
    cat <<EOF
usage: openssl-compat/build.sh [3.0|3.5] [--objects|--upstream]

Leaves the patched library in TARGET/lib/sslcollector/openssl-VERSION/libssl.so.3 and prints that path. VERSION is 3.0
if none is given; TARGET is cargo's target directory. Progress goes to standard error.

  --objects   stop behind the compiler: print the directory with headers and objects (the tests link these)
  --upstream  print a directory with the unpatched libssl.so.3 and its libcrypto.so.3: the distribution's where it
              has this version, else one that is built for that (some minutes)

Environment:
  OPENSSL_TARBALL     use this openssl-VERSION.x.tar.gz instead of asking apt for Debian's
  SSLCOLLECTOR_CACHE  where sources and results are kept ($cache)
  CARGO_TARGET_DIR    as for cargo
EOF
}

# Releases that are known, newest first: version and sha256 of Debian's openssl_VERSION.orig.tar.gz.
# upgrade.sh makes these lines.
pins() {
    grep -F "$series." <<EOF
3.5.7 a8c0d28a529ca480f9f36cf5792e2cd21984552a3c8e4aa11a24aa31aeac98e8
3.5.6 deae7c80cba99c4b4f940ecadb3c3338b13cb77418409238e57d7f31f2a3b736
3.0.22 67ebca7e50d17383028045486653492195b83db95f8558709701bb47b5c1ef81
3.0.20 c80a01dfc70ece4dc21168932c37739042d404d46ccc81a5986dd75314ecda6f
3.0.17 dfdd77e4ea1b57ff3a6dbde6b0bdc3f31db5ac99e7fdd4eaf9e1fbb6ec2db8ce
EOF
}

# From debian/rules and its target "debian-*", of Debian 12 for 3.0 and of Debian 13 for 3.5. Against those: no-ktls, since
# the kernel would encrypt clear text that libssl never sees; and what isn't libssl isn't built (tests, the FIPS provider).
choose_configuration() {
    local hardening="-O2 -Wall -Wa,--noexecstack -fzero-call-used-regs=used-gpr -fstack-protector-strong"
    hardening+=" -Wformat -Werror=format-security"
    configure_flags=(
        shared --prefix=/usr --openssldir=/usr/lib/ssl
        no-idea no-mdc2 no-rc5 no-ssl3 enable-unit-test no-ssl3-method
        enable-rfc3779 enable-cms no-capieng no-rdrand
        no-ktls no-tests
        "CPPFLAGS=-DOPENSSL_TLS_SECURITY_LEVEL=2 -Wdate-time -D_FORTIFY_SOURCE=2"
        "LDFLAGS=-Wl,-z,relro -Wl,-z,now -static-libgcc"
    )
    case $series in
        3.0) debian=bookworm
            configure_flags+=(no-zlib) ;;
        3.5) debian=trixie
            configure_flags+=(enable-zlib enable-zstd enable-tfo no-apps no-docs)
            hardening+=" -fstack-clash-protection" ;;
    esac
    case $series,$(uname -m) in
        3.0,x86_64) configure_flags+=(linux-x86_64 --libdir=lib/x86_64-linux-gnu enable-ec_nistp_64_gcc_128) ;;
        3.0,aarch64) configure_flags+=(linux-aarch64 --libdir=lib/aarch64-linux-gnu) ;;
        3.5,x86_64) configure_flags+=(linux-x86_64 --libdir=lib/x86_64-linux-gnu enable-ec_nistp_64_gcc_128)
            hardening+=" -fcf-protection" ;;
        3.5,aarch64) configure_flags+=(linux-aarch64 --libdir=lib/aarch64-linux-gnu enable-ec_nistp_64_gcc_128)
            hardening+=" -mbranch-protection=standard" ;;
        *) die "no configuration for $(uname -m): add one beside x86_64" ;;
    esac
    configure_flags+=("CFLAGS=$hardening")
}

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
    local tool package missing=() installed
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
        installed=$(gcc -print-file-name=libcrypto.so.3)
        if [[ $installed == /* ]] && (($(readelf --dyn-syms -W "$installed" | grep -c "@OPENSSL_$series\.0") > 0)); then
            libcrypto=$installed
        elif [[ $series == 3.0 ]]; then
            missing+=(libssl3)
        else
            # One is built, which takes the compression libraries that Debian's has.
            [[ -e /usr/include/zlib.h ]] || missing+=(zlib1g-dev)
            [[ -e /usr/include/zstd.h ]] || missing+=(libzstd-dev)
        fi
    fi
    ((${#missing[@]} == 0)) || die "missing Debian packages. Next: apt-get install ${missing[*]}"
}

sha256() { sha256sum "$@" | cut -d' ' -f1; }

# Debian's own entries of the machine's apt sources, as deb-src of the Debian that has $series, into directory $1.
source_entries() {
    local codename rename=
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [[ $(. /etc/os-release && echo "$ID") != debian ]] || rename="s/\\b$codename\\b/$debian/g"
    find /etc/apt/sources.list.d -name '*.sources' -exec awk -v RS= -v name="$codename" '
        /(^|\n)Types:[^\n]*deb/ && $0 ~ "(^|\n)Suites:[^\n]*[ ]" name "(-updates|-security)?([ \n]|$)" &&
        /(^|\n)Components:[^\n]* main/ && !/(^|\n)Enabled: *no/ {
            sub(/Types:[^\n]*/, "Types: deb-src"); print $0 "\n" }' {} + | sed "$rename" >"$1/debian.sources" || true
    find /etc/apt/sources.list /etc/apt/sources.list.d/ -name '*.list' -exec cat {} + 2>/dev/null |
        awk -v name="$codename" '$1 == "deb" && $0 ~ " " name "(-updates|-security)? .*main" {
            sub(/^deb/, "deb-src"); print }' | sed "$rename" >"$1/debian.list" || true
}

# Asks apt, with lists and caches of its own so that nothing in /etc or /var changes, for the newest
# pinned release that the machine's mirror offers.
download() {
    local work=$cache/apt version hash package offered
    command -v apt-get >/dev/null || die "no apt-get here. Next: download openssl-$series.x.tar.gz and set OPENSSL_TARBALL to its path"
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
Next: ask $here/upgrade.sh about a newer release, or set OPENSSL_TARBALL to an openssl-$series.x.tar.gz"
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

# unpack DIRECTORY: a new one, with the sources; goes there.
unpack() {
    rm -rf "$1"
    mkdir "$1"
    run "unpacking $(basename "$tarball")" tar xzf "$tarball" -C "$1" --strip-components=1 --no-same-owner
    cd "$1"
    grep -qx "MAJOR=${series%.*}" VERSION.dat && grep -qx "MINOR=${series#*.}" VERSION.dat ||
        die "$tarball isn't OpenSSL $series"
}

# prune NAMES N: of the cache's entries with such a name, keep the N that were used last.
prune() {
    find "$cache" -maxdepth 1 -name "$1" -printf '%T@ %p\n' | sort -rn | tail -n +$(($2 + 1)) | cut -d' ' -f2- |
        xargs -r rm -rf
}

# The unpatched libraries, in $upstream.
build_upstream() {
    local work key
    if [[ -n $libcrypto ]]; then
        upstream=$(dirname "$libcrypto")
        return
    fi
    key=$({ sha256 "$tarball"; echo "${configure_flags[@]}"; gcc --version; } | sha256 | cut -c1-16)
    upstream=$cache/upstream-$series-$key
    libcrypto=$upstream/libcrypto.so.3
    if [[ -e $upstream ]]; then
        touch "$upstream"
        return
    fi
    work=$cache/upstream-work
    unpack "$work"
    run "configuring OpenSSL $series as it comes" ./Configure "${configure_flags[@]}"
    run "generating headers" make build_generated
    run "compiling its libcrypto and libssl (some minutes)" make -j"$(nproc)" libcrypto.so libssl.so
    rm -rf "$upstream.new"
    mkdir "$upstream.new"
    cp libcrypto.so.3 libssl.so.3 "$upstream.new/"
    cd "$root"
    rm -rf "$work"
    mv "$upstream.new" "$upstream"
    prune "upstream-$series-*" 2
}

# The patched and compiled tree, $tree; kept under a key of all that goes into it.
compile() {
    local key patch
    key=$({
        sha256 "$tarball"
        cat "$here/patches/$series"/*.patch "$here"/mirror.{h,inc} "$root/include/mirror_hook.h"
        echo "${configure_flags[@]}"
        gcc --version
    } | sha256 | cut -c1-16)
    # Made in its final place, since Configure writes that into its results; finished once `complete` is there.
    tree=$cache/tree-$series-$key
    if [[ -e $tree/complete ]]; then
        touch "$tree"
        use_libcrypto
        return
    fi
    unpack "$tree"
    cp "$root/include/mirror_hook.h" include/
    cp "$here"/mirror.{h,inc} ssl/
    for patch in "$here/patches/$series"/*.patch; do
        run "applying $(basename "$patch")" patch -p1 --fuzz=0 -i "$patch"
    done
    run "configuring (about 10 s)" ./Configure "${configure_flags[@]}"
    run "generating headers" make build_generated
    use_libcrypto
    run "compiling libssl (about a minute)" link_libssl ""
    rm -f libssl.so libssl.so.3
    touch complete
    cd "$root"
    prune "tree-$series-*" 3
}

# libssl alone is made, against the libcrypto that the programs load: the distribution's, where it has this version.
use_libcrypto() {
    ln -sf "$libcrypto" "$tree/libcrypto.so.3"
    ln -sf libcrypto.so.3 "$tree/libcrypto.so"
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
        prune 'lib-*' 12
    fi
    installed=$target/lib/sslcollector/openssl-$series/libssl.so.3
    mkdir -p "$(dirname "$installed")"
    # By rename: a process that has the old one mapped keeps it.
    cp "$library" "$installed.new"
    mv "$installed.new" "$installed"
}

series=3.0
until=library
for argument; do
    case $argument in
        3.0 | 3.5) series=$argument ;;
        --objects | --upstream) until=${argument#--} ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p "$cache/sources"
cache=$(cd "$cache" && pwd)
log=$cache/build.log
libcrypto=
choose_configuration
check_tools
[[ $until != library ]] || compile_hook
exec 9>"$cache/lock"
flock -n 9 || { say "another build is running: waiting for it"; flock 9; }
: >"$log"
[[ $until == upstream && -n $libcrypto ]] || find_source
build_upstream
[[ $until != upstream ]] || { echo "$upstream"; exit; }
compile
[[ $until != objects ]] || { echo "$tree"; exit; }
link_with_hook
echo "$installed"
