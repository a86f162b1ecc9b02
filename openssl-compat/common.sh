# What build.sh and suite.sh share: which versions there are, their flags, where their sources come from. Sourced, not run.
# shellcheck shell=bash

# Not each version has each patch.
shopt -s nullglob
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cache=${SSLCOLLECTOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sslcollector}/openssl
# Oldest first: a libcrypto that is none of these takes the newest one that is older.
all_series=(3.0 3.5 4.0)

# Releases that are known, newest first: version and sha256 of Debian's openssl_VERSION.orig.tar.gz.
# upgrade.sh makes these lines.
pins() {
    grep -F "$series." <<END
4.0.2 736b467530f916737b7031310ccb21d8218c6229e61e8e160cd1d3458cd543a8
3.5.7 a8c0d28a529ca480f9f36cf5792e2cd21984552a3c8e4aa11a24aa31aeac98e8
3.5.6 deae7c80cba99c4b4f940ecadb3c3338b13cb77418409238e57d7f31f2a3b736
3.0.22 67ebca7e50d17383028045486653492195b83db95f8558709701bb47b5c1ef81
3.0.20 c80a01dfc70ece4dc21168932c37739042d404d46ccc81a5986dd75314ecda6f
3.0.17 dfdd77e4ea1b57ff3a6dbde6b0bdc3f31db5ac99e7fdd4eaf9e1fbb6ec2db8ce
END
}

# From debian/rules and its target "debian-*", of the Debian that has the series. Against those: no-ktls, since the kernel
# would encrypt clear text that libssl never sees; and what isn't libssl isn't built (the programs, the FIPS provider).
choose_configuration() {
    local hardening="-O2 -Wall -Wa,--noexecstack -fzero-call-used-regs=used-gpr -fstack-protector-strong"
    hardening+=" -Wformat -Werror=format-security"
    configure_flags=(
        shared --prefix=/usr --openssldir=/usr/lib/ssl
        no-idea no-mdc2 no-rc5 enable-unit-test
        enable-rfc3779 enable-cms no-rdrand
        no-ktls
        "LDFLAGS=-Wl,-z,relro -Wl,-z,now -static-libgcc"
    )
    cppflags="-Wdate-time -D_FORTIFY_SOURCE=2"
    case $series in
        3.*) configure_flags+=(no-ssl3 no-ssl3-method no-capieng)
            cppflags="-DOPENSSL_TLS_SECURITY_LEVEL=2 $cppflags" ;;
    esac
    case $series in
        3.0) debian=bookworm
            configure_flags+=(no-zlib) ;;
        3.5) debian=trixie ;;
        4.0) debian=experimental ;;
    esac
    case $series in
        3.0) ;;
        *) configure_flags+=(enable-zlib enable-zstd enable-tfo no-docs)
            hardening+=" -fstack-clash-protection" ;;
    esac
    case $series,$(uname -m) in
        3.0,x86_64) configure_flags+=(linux-x86_64 --libdir=lib/x86_64-linux-gnu enable-ec_nistp_64_gcc_128) ;;
        3.0,aarch64) configure_flags+=(linux-aarch64 --libdir=lib/aarch64-linux-gnu) ;;
        *,x86_64) configure_flags+=(linux-x86_64 --libdir=lib/x86_64-linux-gnu enable-ec_nistp_64_gcc_128)
            hardening+=" -fcf-protection" ;;
        *,aarch64) configure_flags+=(linux-aarch64 --libdir=lib/aarch64-linux-gnu enable-ec_nistp_64_gcc_128)
            hardening+=" -mbranch-protection=standard" ;;
        *) die "no configuration for $(uname -m): add one beside x86_64" ;;
    esac
    configure_flags+=("CFLAGS=$hardening")
    abi=${series%.*}
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

# The version in a libcrypto's file, such as 3.0.19; nothing is loaded for it.
libcrypto_version() { grep -aoE -m1 'OpenSSL [0-9]+\.[0-9]+\.[0-9]+' "$1" | head -n 1 | cut -d' ' -f2; }

# installed_libcrypto ABI: its path, or nothing.
installed_libcrypto() {
    local path
    command -v gcc >/dev/null || return 0
    path=$(gcc -print-file-name="libcrypto.so.$1")
    [[ $path != /* ]] || echo "$path"
}

# The series whose libssl fits the libcrypto that is installed: the newest that isn't newer than that.
fitting_series() {
    local abi path version
    for abi in 3 4; do
        path=$(installed_libcrypto $abi)
        [[ -n $path ]] || continue
        version=$(libcrypto_version "$path")
        { printf '%s\n' "${all_series[@]}"; echo "$version"; } | sort -V | grep -B1 -Fx "$version" | grep -m1 "^$abi\.[0-9]*$" && return
    done
    echo "${all_series[0]}"
}

check_tools() {
    local tool package missing=() installed
    while read -r tool package; do
        command -v "$tool" >/dev/null || missing+=("$package")
    done <<END
gcc gcc
make make
perl perl
patch patch
strip binutils
xz xz-utils
END
    [[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
    # perl-base alone has perl, but not what Configure uses.
    perl -MFindBin -MIPC::Cmd -MFile::Compare -e 1 2>/dev/null || missing+=(perl)
    installed=$(installed_libcrypto "$abi")
    if [[ -n $installed && $(libcrypto_version "$installed") == "$series".* ]]; then
        libcrypto=$installed
    elif [[ $series != 3.0 ]]; then
        # One is built, which takes the compression libraries that Debian's has.
        [[ -e /usr/include/zlib.h ]] || missing+=(zlib1g-dev)
        [[ -e /usr/include/zstd.h ]] || missing+=(libzstd-dev)
    fi
    ((${#missing[@]} == 0)) || die "missing Debian packages. Next: apt-get install ${missing[*]}"
}

sha256() { sha256sum "$@" | cut -d' ' -f1; }

# Debian's own entries of the machine's apt sources, as deb-src of the Debian that has $series, into directory $1.
source_entries() {
    local codename suites="(-updates|-security)?" rename=
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [[ $(. /etc/os-release && echo "$ID") != debian ]] || rename="s/\\b$codename\\b/$debian/g"
    if [[ -n $rename && $debian == experimental ]]; then
        # It has neither updates nor security.
        suites=
        rename="s/^Suites:.*/Suites: $debian/; s/ $codename / $debian /"
    fi
    find /etc/apt/sources.list.d -name '*.sources' -exec awk -v RS= -v name="$codename" -v suites="$suites" '
        /(^|\n)Types:[^\n]*deb/ && $0 ~ "(^|\n)Suites:([^\n]*[ ])?" name suites "([ \n]|$)" &&
        /(^|\n)Components:[^\n]* main/ && !/(^|\n)Enabled: *no/ {
            sub(/Types:[^\n]*/, "Types: deb-src"); print $0 "\n" }' {} + | sed "$rename" >"$1/debian.sources" || true
    find /etc/apt/sources.list /etc/apt/sources.list.d/ -name '*.list' -exec cat {} + 2>/dev/null |
        awk -v name="$codename" -v suites="$suites" '$1 == "deb" && $0 ~ " " name suites " .*main" {
            sub(/^deb/, "deb-src"); print }' | sed "$rename" >"$1/debian.list" || true
}

# ask_apt: which source packages of OpenSSL the machine's mirror offers, newest first, in $offered. With lists and caches of
# its own in $apt, so that nothing in /etc or /var changes.
ask_apt() {
    apt=$cache/apt
    command -v apt-get >/dev/null || die "no apt-get here. Next: download openssl-$series.x.tar.gz and set OPENSSL_TARBALL to its path"
    rm -rf "$apt"
    mkdir -p "$apt"/{sources,lists/partial,archives/partial}
    source_entries "$apt/sources"
    cat >"$apt/apt.conf" <<END
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$apt/sources";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt";
Dir::Cache::Archives "$apt/archives";
APT::Sandbox::User "$(id -un)";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
END
    run "asking apt which OpenSSL $series sources it offers" apt-get -c "$apt/apt.conf" update
    offered=$(apt-cache -c "$apt/apt.conf" showsrc openssl 2>>"$log" | sed -n 's/^Version: //p' | sort -rVu)
}

# from_apt PART VERSION: `tar` or `diff` of that source package, into $apt; fails quietly where the mirror lacks it.
from_apt() {
    (cd "$apt" && apt-get -c apt.conf source "--$1-only" --download-only "openssl=$2") >>"$log" 2>&1 </dev/null
}

download_tarball() {
    local version hash package
    ask_apt
    while read -r version hash; do
        package=$(grep -m1 -F "$version-" <<<"$offered") || continue
        say "downloading OpenSSL $version"
        from_apt tar "$package" || { say "the mirror offers it, but lacks it"; continue; }
        tarball=$cache/sources/openssl_$version.orig.tar.gz
        [[ $(sha256 "$apt/openssl_$version.orig.tar.gz") == "$hash" ]] ||
            die "openssl_$version.orig.tar.gz has another sha256 than this script knows. Next: find out why; nothing was built"
        mv "$apt/openssl_$version.orig.tar.gz" "$tarball"
        return
    done < <(pins)
    die "apt offers OpenSSL sources: ${offered:-none}
Known here: $(pins | cut -d' ' -f1 | tr '\n' ' ')
Next: ask $here/upgrade.sh about a newer release, or set OPENSSL_TARBALL to an openssl-$series.x.tar.gz"
}

# Debian's own patches of that release, security fixes among them, in $debian_part. apt checks it against Debian's signed
# lists. A mirror may lack it: then upstream's release alone is built, and apt is asked again a day later.
find_debian_part() {
    local version package none
    version=$(basename "$tarball" .orig.tar.gz)
    none=$cache/sources/$version.without-debian
    debian_part=$(find "$cache/sources" -name "$version-*.debian.tar.xz" | sort -V | tail -n 1)
    [[ -z $debian_part && -z $(find "$none" -mtime -1 2>/dev/null) ]] || return 0
    [[ -d $cache/apt/lists ]] || ask_apt
    for package in $(grep -F "${version#openssl_}-" <<<"$offered"); do
        if from_apt diff "$package"; then
            mv "$apt"/openssl_*.debian.tar.xz "$cache/sources/"
            debian_part=$cache/sources/openssl_$package.debian.tar.xz
            say "with Debian's patches of $package"
            return
        fi
    done
    touch "$none"
    say "the mirror lacks Debian's patches of ${version/_/ }: upstream's release is built as it is"
}

# The source: $tarball, and $debian_part or nothing.
find_source() {
    local version hash
    debian_part=
    if [[ -n ${OPENSSL_TARBALL:-} ]]; then
        [[ -r $OPENSSL_TARBALL ]] || die "OPENSSL_TARBALL=$OPENSSL_TARBALL can't be read"
        tarball=$(realpath "$OPENSSL_TARBALL")
        return
    fi
    exec 8>"$cache/sources/lock"
    flock 8
    rm -rf "$cache/apt"
    tarball=
    while read -r version hash; do
        tarball=$cache/sources/openssl_$version.orig.tar.gz
        [[ -e $tarball && $(sha256 "$tarball") == "$hash" ]] && break
        tarball=
    done < <(pins)
    [[ -n $tarball ]] || download_tarball
    find_debian_part
    rm -rf "$cache/apt"
    exec 8>&-
}

# All that makes the sources, as one hash.
source_hash() { sha256 "$tarball" ${debian_part:+"$debian_part"}; }

# unpack DIRECTORY: a new one, with the sources, Debian's patches among them; goes there.
unpack() {
    rm -rf "$1"
    mkdir "$1"
    run "unpacking $(basename "$tarball")" tar xzf "$tarball" -C "$1" --strip-components=1 --no-same-owner
    cd "$1"
    grep -qx "MAJOR=${series%.*}" VERSION.dat && grep -qx "MINOR=${series#*.}" VERSION.dat ||
        die "$tarball isn't OpenSSL $series"
    [[ -n $debian_part ]] || return 0
    run "unpacking $(basename "$debian_part")" tar xJf "$debian_part" --no-same-owner debian/patches
    run "applying Debian's patches" apply_series
}

apply_series() {
    local patch
    sed 's/[[:space:]]*#.*//; /^$/d' debian/patches/series | while read -r patch; do
        patch -p1 --fuzz=0 -i "debian/patches/$patch" || return
    done
}

# apply PATCH…: without fuzz; but what Debian has done already.
apply() {
    local patch
    for patch; do
        if patch -p1 --fuzz=0 --reverse --force --dry-run --silent -i "$patch" >/dev/null; then
            echo "== $(basename "$patch"): Debian has this already" >>"$log"
        else
            run "applying $(basename "$patch")" patch -p1 --fuzz=0 -i "$patch"
        fi
    done
}

# prune NAMES N: of the cache's entries with such a name, keep the N that were used last.
prune() {
    find "$cache" -maxdepth 1 -name "$1" -printf '%T@ %p\n' | sort -rn | tail -n +$(($2 + 1)) | cut -d' ' -f2- |
        xargs -r rm -rf
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

# begin LOG LOCK: what both scripts do first, with $series chosen. Of each, one at a time works in the cache.
begin() {
    export LC_ALL=C
    unset MAKEFLAGS MFLAGS MAKELEVEL
    mkdir -p "$cache/sources"
    cache=$(cd "$cache" && pwd)
    log=$cache/$1.log
    libcrypto=
    choose_configuration
    check_tools
    exec 9>"$cache/$2"
    flock -n 9 || { say "another $1 is running: waiting for it"; flock 9; }
    : >"$log"
}
