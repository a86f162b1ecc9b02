#!/bin/sh
# Installs the programs that building, the demo and the tests need. Debian 12 and later, Ubuntu 24.04.
#
#   scripts/install-peers.sh [build] [demo] [test] [libcrypto] [bench]      no group: the first three
#
# Nothing is done, and no privilege is needed, when everything is there. Packages come from the
# mirrors that this machine's apt is set up for. Suricata 7 is in Debian 12's backports only: where apt
# doesn't offer it, that suite of the same mirror, with the same key, is used for this one
# installation; nothing in /etc/apt changes. No service is started.
set -eu

say() { printf 'install-peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# a command, or a header behind @@, and the package that has it
needs() {
    case $1 in
    build) cat <<-END
		make make
		cc gcc
		perl perl
		patch patch
		xz xz-utils
		git git
		pkg-config pkg-config
		@@pcap.h libpcap-dev
		END
        ;;
    demo) cat <<-END
		nginx nginx-light
		curl curl
		openssl openssl
		tshark tshark
		END
        ;;
    test) needs demo; cat <<-END
		capinfos wireshark-common
		/usr/bin/python3 python3
		strace strace
		dumpcap wireshark-common
		nsenter util-linux
		ip iproute2
		nft nftables
		ss iproute2
		setpriv util-linux
		ldd libc-bin
		wget wget
		openssl openssl
		c++ g++
		@@openssl/ssl.h libssl-dev
		suricata suricata
		apache2 apache2-bin
		haproxy haproxy
		pg_ctlcluster postgresql
		psql postgresql-client
		redis-server redis-server
		redis-cli redis-tools
		stunnel4 stunnel4
		wrk wrk
		h2load nghttp2-client
		nghttpd nghttp2-server
		nats-server nats-server
		ab apache2-utils
		chromium chromium
		valgrind valgrind
		brotli brotli
		zstd zstd
		END
        ;;
    bench) cat <<-END
		openssl openssl
		@@openssl/ssl.h libssl-dev
		wrk wrk
		bpftrace bpftrace
		valgrind valgrind
		tcpreplay tcpreplay
		ip iproute2
		mountpoint util-linux
		END
        ;;
    libcrypto) cat <<-END
		@@zlib.h zlib1g-dev
		@@zstd.h libzstd-dev
		END
        ;;
    *) die "there is no group '$1': build, demo, test, libcrypto, bench" ;;
    esac
}

is_there() {
    case $1 in
    @@*) for dir in /usr/include "/usr/include/$(cc -dumpmachine 2>/dev/null || echo none)"; do
            [ ! -e "$dir/${1#@@}" ] || return 0
        done; return 1 ;;
    *) PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing() {
    for group in "$@"; do needs "$group"; done | sort -u | while read -r what package; do
        is_there "$what" || echo "$package"
    done | sort -u
}

[ $# -gt 0 ] || set -- build demo test
packages=$(missing "$@")
[ -n "$packages" ] || exit 0

# shellcheck disable=SC2086 # a list of words
say "missing:" $packages
command -v apt-get >/dev/null 2>&1 ||
    die "this system has no apt-get: install the packages above (or what your system calls them) by hand"
if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    root='sudo -n'
else
    # shellcheck disable=SC2086
    die "needs root to install them. As root: apt-get install" $packages
fi

work=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
own_policy=
cleanup() {
    [ -z "$own_policy" ] || $root rm -f "$policy"
    $root rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# Packages would start their daemons; where the system has no policy yet it says no meanwhile.
if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
    $root chmod 755 "$policy"
fi

apt() {
    # shellcheck disable=SC2086 # options are words
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 $apt_options "$@"
}
apt_options=

# Copies this system's sources of suite $1 with the suite replaced by $2.
same_mirror() {
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -e "$file" ] || sed -nE "s|^(deb +(\[[^]]*\] +)?[^ ]+ +)$1 +.*|\1$2 main|p" "$file"
    done >"$work/sources/backports.list"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -e "$file" ] || awk -v suite="$1" -v other="$2" 'BEGIN { RS = ""; FS = "\n" }
            {
                ours = 0; text = ""
                for (i = 1; i <= NF; i++) {
                    line = $i
                    if (line ~ /^#/) continue
                    if (line ~ /^Suites:/) {
                        n = split(substr(line, 8), names, /[ \t]+/)
                        for (j = 1; j <= n; j++) if (names[j] == suite) ours = 1
                        line = "Suites: " other
                    }
                    if (line ~ /^Components:/) line = "Components: main"
                    text = text line "\n"
                }
                if (ours) print text
            }' "$file"
    done >"$work/sources/backports.sources"
}

# Sets `backports` to the suite that has Suricata 7 where apt's own lists have none.
find_suricata() {
    backports=
    case " $(echo $packages) " in *' suricata '*) ;; *) return 0 ;; esac
    candidate=$(apt-cache policy suricata 2>/dev/null | sed -n 's/^ *Candidate: *//p')
    case $candidate in ''|'(none)'|1:[0-6].*|[0-6].*) ;; *) return 0 ;; esac
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release; echo "${VERSION_CODENAME:-}")
    [ "$(. /etc/os-release; echo "$ID")" = debian ] ||
        die "apt offers no Suricata 7 or later (candidate: ${candidate:-none}); install it by hand"
    backports=$codename-backports
    mkdir -p "$work/sources" "$work/lists/partial"
    cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$work/sources/" 2>/dev/null || true
    [ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$work/sources/system.list"
    same_mirror "$codename" "$backports"
    grep -q "$backports" "$work/sources/backports.list" "$work/sources/backports.sources" ||
        die "found no source of $codename in /etc/apt to derive $backports from"
    chmod -R a+rX "$work"
    apt_options="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$work/sources -o Dir::State::lists=$work/lists"
}

# shellcheck disable=SC2086 # a list of words
install() {
    others=$(for package in $packages; do [ "$package" = suricata ] && [ -n "$backports" ] || echo "$package"; done)
    [ -z "$others" ] || apt install -y --no-install-recommends $others || return 1
    [ -z "$backports" ] || apt install -y --no-install-recommends -t "$backports" suricata
}

# Packages enable their services for the next boot; nobody has asked for that.
disable_services() {
    command -v systemctl >/dev/null 2>&1 || return 0
    for package in $packages; do
        case $package in
        nginx-light) $root systemctl --quiet disable nginx.service >/dev/null 2>&1 || true ;;
        stunnel4) $root systemctl --quiet disable stunnel.target >/dev/null 2>&1 || true ;;
        haproxy | nats-server | postgresql | redis-server | suricata) $root systemctl --quiet disable "$package.service" >/dev/null 2>&1 || true ;;
        esac
    done
}

find_suricata
# Lists may be there and fresh already: then the update (most of the time) can be spared.
if [ -n "$backports" ] || ! install >/dev/null 2>&1; then
    say "updating apt's lists"
    apt update || say "some of apt's sources can't be reached; going on with the others"
    [ -n "$backports" ] || find_suricata
    if [ -n "$backports" ]; then apt update || true; fi
    say "installing"
    install >&2 || die "apt-get could not install everything, see above"
fi
disable_services

left=$(missing "$@")
# shellcheck disable=SC2086
[ -z "$left" ] || die "still missing after installation:" $left
say "all there"
