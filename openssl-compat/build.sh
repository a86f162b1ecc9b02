#!/bin/bash
# Builds libssl.so: upstream OpenSSL, Debian's patches, those beside this file, and the Rust hook linked in.
# README.md says why each step is as it is; usage() below how to call it.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<END
usage: openssl-compat/build.sh [3.0|3.5|4.0] [--objects|--upstream|--unpatched|--series]

Leaves the patched library in TARGET/lib/sslcollector/openssl-VERSION/libssl.so.3 (4.0: libssl.so.4) and prints that path.
Without a version it is the one that fits the libcrypto which is installed. TARGET is cargo's target directory. Progress
goes to standard error.

  --objects    stop behind the compiler: print the directory with headers and objects (the tests link these)
  --upstream   print a directory with the unpatched libssl and its libcrypto: the distribution's where it has this
               version, else one that is built for that (some minutes)
  --unpatched  print the directory of a tree of the same sources without this folder's patches, with its libssl
  --series     print the version that would be built

Environment:
  OPENSSL_TARBALL     use this openssl-VERSION.x.tar.gz as it is, instead of asking apt for Debian's
  SSLCOLLECTOR_CACHE  where sources and results are kept ($cache)
  CARGO_TARGET_DIR    as for cargo
END
}

# The unpatched libraries, in $upstream.
build_upstream() {
    local work key
    if [[ -n $libcrypto ]]; then
        upstream=$(dirname "$libcrypto")
        return
    fi
    key=$({ source_hash; echo "${configure_flags[@]}" "$cppflags"; gcc --version; } | sha256 | cut -c1-16)
    upstream=$cache/upstream-$series-$key
    libcrypto=$upstream/libcrypto.so.$abi
    if [[ -e $upstream ]]; then
        touch "$upstream"
        return
    fi
    work=$cache/upstream-work
    unpack "$work"
    run "configuring OpenSSL $series as it comes" ./Configure "${configure_flags[@]}" "CPPFLAGS=$cppflags"
    run "generating headers" make build_generated
    run "compiling its libcrypto and libssl (some minutes)" make -j"$(nproc)" libcrypto.so libssl.so
    rm -rf "$upstream.new"
    mkdir "$upstream.new"
    cp "libcrypto.so.$abi" "libssl.so.$abi" "$upstream.new/"
    cd "$root"
    rm -rf "$work"
    mv "$upstream.new" "$upstream"
    prune "upstream-$series-*" 2
}

# compile NAME PATCHES…: the compiled tree, $tree; kept under a key of all that goes into it.
compile() {
    local key name=$1 ours=()
    shift
    [[ $name == unpatched ]] || ours=("$here"/mirror.{h,inc} "$root/include/mirror_hook.h")
    key=$({
        source_hash
        cat "$@" "${ours[@]}" /dev/null
        echo "${configure_flags[@]}" "$cppflags"
        gcc --version
    } | sha256 | cut -c1-16)
    # Made in its final place, since Configure writes that into its results; finished once `complete` is there.
    tree=$cache/$name-$series-$key
    if [[ -e $tree/complete ]]; then
        touch "$tree"
        use_libcrypto
        return
    fi
    unpack "$tree"
    if ((${#ours[@]})); then
        cp "$root/include/mirror_hook.h" include/
        cp "$here"/mirror.{h,inc} ssl/
    fi
    apply "$@"
    run "configuring (about 10 s)" ./Configure "${configure_flags[@]}" "CPPFLAGS=$cppflags"
    run "generating headers" make build_generated
    use_libcrypto
    run "compiling libssl (about a minute)" link_libssl ""
    [[ $name == unpatched ]] || rm -f libssl.so "libssl.so.$abi"
    touch complete
    cd "$root"
    prune "$name-$series-*" 3
}

# libssl alone is made, against the libcrypto that the programs load: the distribution's, where it has this version.
use_libcrypto() {
    ln -sf "$libcrypto" "$tree/libcrypto.so.$abi"
    ln -sf "libcrypto.so.$abi" "$tree/libcrypto.so"
}

# link_libssl WHAT: in the tree. `-o`: these are there already, and aren't ours to make.
link_libssl() {
    make -j"$(nproc)" -o libcrypto.so -o "libcrypto.so.$abi" -o libcrypto.ld -o libcrypto.a "EX_LIBS=$1" libssl.so
}

link_with_hook() {
    local key
    key=$(echo "$tree $(sha256 "$archive" "$here/build.sh")" | sha256 | cut -c1-16)
    library=$cache/lib-$key/libssl.so.$abi
    if [[ ! -e $library ]]; then
        cd "$tree"
        # make doesn't know of the archive.
        rm -f libssl.so "libssl.so.$abi"
        # gc-sections: of Rust's library only what the hook uses. OpenSSL's own objects lose nothing by it.
        run "linking the hook into libssl" link_libssl "-Wl,-z,defs -Wl,--gc-sections $archive"
        mkdir -p "$(dirname "$library")"
        strip --strip-unneeded -o "$library.new" "libssl.so.$abi"
        mv "$library.new" "$library"
        rm -f libssl.so "libssl.so.$abi"
        cd "$root"
        prune 'lib-*' 12
    fi
    installed=$target/lib/sslcollector/openssl-$series/libssl.so.$abi
    mkdir -p "$(dirname "$installed")"
    # By rename: a process that has the old one mapped keeps it.
    cp "$library" "$installed.new"
    mv "$installed.new" "$installed"
}

series=
until=library
for argument; do
    case $argument in
        --objects | --upstream | --unpatched | --series) until=${argument#--} ;;
        -h | --help) usage; exit 0 ;;
        *) [[ " ${all_series[*]} " == *" $argument "* ]] || { usage >&2; exit 2; }
            series=$argument ;;
    esac
done
[[ -n $series ]] || series=$(fitting_series)
[[ $until != series ]] || { echo "$series"; exit; }

begin build lock
[[ $until != library ]] || compile_hook
[[ $until == upstream && -n $libcrypto ]] || find_source
build_upstream
case $until in
    upstream) echo "$upstream"; exit ;;
    # 0001 is no change of behaviour of ours: Debian does it, too.
    unpatched) compile unpatched "$here/patches/$series"/0001-*.patch; echo "$tree"; exit ;;
esac
compile tree "$here/patches/$series"/*.patch
[[ $until != objects ]] || { echo "$tree"; exit; }
link_with_hook
echo "$installed"
