#!/bin/bash
# Runs OpenSSL's own tests with the patched libssl, and compares what they say with the same tests of the unpatched tree.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<END
usage: openssl-compat/suite.sh VERSION [--all] [MODE…]    the tests of VERSION (${all_series[*]})
       openssl-compat/suite.sh VERSION --sslapi           test_sslapi alone, with the library that build.sh makes

Builds two full trees, unpatched and patched (the first time half an hour or more on two cores; kept in the cache), runs
in both every test whose program links libssl or speaks TLS through the program openssl (--all: every test), and compares
the lists of results, subtests too. Prints a line for each mode; fails, with the difference, if two lists differ.

MODE (all three if none is given):
  absent   the hook is enabled, and no agent is there
  agent    an agent serves every process
  killed   the same, and the agent is killed every 100 to 500 ms, and started anew

Environment: as for build.sh, and
  SUITE_JOBS  how many tests run at once ($(nproc))
END
}

# The shape of a test's output that must be equal: each result with its name, subtests indented, and the plans.
results() { grep -aE '^ *((not )?ok\b|[0-9]+\.\.[0-9]+)' "$1" || true; }

# Programs below test/ that link libssl, each with the kind (libssl or libssl.a), in a configured tree.
ssl_programs() {
    perl -I. -Mconfigdata -e '
        my $depends = $unified_info{depends};
        for my $program (sort grep { m{^test/} && !/\.[a-z]+$|buildtest/ } keys %$depends) {
            my @ssl = grep { m{^libssl} } @{$depends->{$program}};
            print "$program $ssl[0]\n" if @ssl;
        }'
}

# The tests to be run, by their names.
choose_tests() {
    local programs
    if [[ -n $all ]]; then
        find test/recipes -maxdepth 1 -name '[0-9]*.t'
    else
        programs=$(ssl_programs | sed 's/^test.//; s/ .*//' | paste -sd'|')
        grep -lwE "$programs|TLSProxy|s_server|s_client" test/recipes/[0-9]*.t
    fi | sed 's/.*[0-9][0-9]-//; s/\.t$//' | grep -vE '^prep_|^test_buildtest' | sort
}

# What `make` shall make: all, or what the chosen tests use.
goals() {
    if [[ -n $all ]]; then
        echo build_sw
        return
    fi
    # Every program of test/ whose name the recipes say as a word, and what they load.
    echo apps/openssl build_modules_nodep util/wrap.pl util/shlib_wrap.sh util/opensslwrap.sh apps/openssl.cnf
    perl -I. -Mconfigdata -e 'print "$_\n" for grep { m{^test/} && !/buildtest/ } map { @$_ }
        ref $unified_info{programs} eq "HASH" ? [keys %{$unified_info{programs}}] : $unified_info{programs}' |
        while read -r program; do
            ! grep -qwF -- "$(basename "$program")" $(sed 's|.*|test/recipes/[0-9][0-9]-&.t|' "$work/tests") || echo "$program"
        done
}

# build_unpatched: the whole tree, $plain, as upstream and Debian have it.
build_unpatched() {
    local key
    # The tests of 3.0 expect upstream's own default, and so does every later release.
    cppflags=${cppflags/-DOPENSSL_TLS_SECURITY_LEVEL=2 /}
    key=$({ source_hash; cat "$here/patches/$series"/0001-*.patch /dev/null; echo "${configure_flags[@]}" "$cppflags"
        gcc --version; } | sha256 | cut -c1-16)
    plain=$cache/suite-$series-$key
    if [[ ! -e $plain/configured ]]; then
        unpack "$plain"
        # Debian does it, too: no change of ours.
        apply "$here/patches/$series"/0001-*.patch
        run "configuring" ./Configure "${configure_flags[@]}" "CPPFLAGS=$cppflags"
        run "generating headers" make build_generated
        touch configured
    fi
    cd "$plain"
    choose_tests >"$work/tests"
    if [[ ! -e complete${all:+-all} ]]; then
        run "compiling all of OpenSSL $series unpatched (a quarter of an hour on two idle cores)" \
            make -j"$(nproc)" $(goals)
        # So that make knows in the copy which objects a changed header touches.
        run "noting what depends on what" make depend
        touch complete "complete${all:+-all}"
    fi
    touch "$plain"
    prune "suite-$series-*" 2
}

# build_patched: a copy of that, $patched, with the patches and the hook.
build_patched() {
    local key file
    key=$({ echo "$plain"; cat "$here/patches/$series"/*.patch "$here"/mirror.{h,inc} "$root/include/mirror_hook.h"; } |
        sha256 | cut -c1-16)
    patched=$cache/patched-$series-$key
    if [[ ! -e $patched/complete${all:+-all} ]]; then
        rm -rf "$patched"
        say "copying the tree"
        cp -a "$plain" "$patched"
        rm -rf "$patched"/complete* "$patched/test-runs"
        cd "$patched"
        # What Configure wrote of its place; the times stay, or make would begin at the beginning.
        for file in $(grep -rlIF "$plain" configdata.pm Makefile util apps tools); do
            touch -r "$file" "$work/time"
            sed -i "s|$plain|$patched|g" "$file"
            touch -r "$work/time" "$file"
        done
        cp "$root/include/mirror_hook.h" include/
        cp "$here"/mirror.{h,inc} ssl/
        apply $(find "$here/patches/$series" -name '*.patch' ! -name '0001-*' | sort)
    fi
    cd "$patched"
    # make doesn't know of the archive.
    rm -f libssl.so "libssl.so.$abi" $(ssl_programs | sed -n 's/ libssl\.a$//p')
    run "compiling what the patches change, and linking the hook into libssl and into programs that hold it" \
        make -j"$(nproc)" "EX_LIBS=-Wl,--gc-sections $archive" libssl.so $(goals)
    touch complete "complete${all:+-all}"
    prune "patched-$series-*" 2
}

# run_tests TREE DIRECTORY: each test's output into DIRECTORY/NAME.tap; the list of all into DIRECTORY/list.
run_tests() {
    local tree=$1 to=$2 name
    rm -rf "$to"
    mkdir -p "$to"
    cd "$tree"
    export SRCTOP=. BLDTOP=. PERL=perl EXE_EXT= FIPSKEY= TEST_OUTPUT=$to
    # shellcheck disable=SC2016 # for the inner shell
    xargs -P "${SUITE_JOBS:-$(nproc)}" -I{} bash -c '
        status=0
        HARNESS_TAP_COPY=$TEST_OUTPUT/{}.tap timeout -k 10 1800 \
            perl test/run_tests.pl {} >"$TEST_OUTPUT/{}.log" 2>&1 </dev/null || status=$?
        echo "$status" >"$TEST_OUTPUT/{}.status"
        echo "  $(ls "$TEST_OUTPUT" | grep -c "status$") {}" >&2' <"$work/tests" 2>"$to/progress" &
    local runner=$!
    while kill -0 $runner 2>/dev/null; do
        sleep 5
        [[ ! -t 2 ]] || printf '\r%s of %s tests' "$(wc -l <"$to/progress")" "$(wc -l <"$work/tests")" >&2
    done
    [[ ! -t 2 ]] || echo >&2
    wait $runner
    while read -r name; do
        echo "$name: status $(cat "$to/$name.status")"
        results "$to/$name.tap"
    done <"$work/tests" >"$to/list"
    cd "$root"
}

count() { grep -cE "$1" "$2" || true; }
describe() { echo "$(count '^test_' "$1") tests, $(count '^ *ok' "$1") results ok, $(count '^ *not ok' "$1") not ok, $(count '# skip' "$1") skipped"; }

# An agent at $socket that writes into $1.
start_agent() {
    "$collector" -I none -w "$1" --socket "$socket" >>"$work/agent.log" 2>&1 </dev/null &
    agent=$!
}

# Sessions in a capture: each has one comment that says how its addresses were found.
sessions_in() { grep -aoF ' bound=' "$1" 2>/dev/null | wc -l; }

# Kills the agent again and again, until $work/stop is there; leaves the numbers of kills and of sessions.
torment() {
    local kills=0 sessions=0
    while [[ ! -e $work/stop ]]; do
        start_agent "$work/killed.pcapng"
        sleep "0.$((RANDOM % 5 + 1))"
        kill -KILL "$agent" 2>/dev/null || true
        wait "$agent" 2>/dev/null || true
        kills=$((kills + 1))
        sessions=$((sessions + $(sessions_in "$work/killed.pcapng")))
        rm -f "$work/killed.pcapng"
        echo "$kills $sessions" >"$work/torment"
    done
}

# run_mode MODE: prints how it went; fails if the lists differ, or if the mode wasn't what it says.
run_mode() {
    local mode=$1 list=$work/$1/list detail="" sessions=1 kills=1 tormentor
    export SSLCOLLECTOR_ENABLE=1 SSLCOLLECTOR_SOCKET=$socket SSLCOLLECTOR_AGENT_UID
    SSLCOLLECTOR_AGENT_UID=$(id -u)
    say "OpenSSL $version, patched, agent: $mode"
    case $mode in
        absent) run_tests "$patched" "$work/absent" ;;
        agent)
            start_agent "$work/agent.pcapng"
            run_tests "$patched" "$work/agent"
            kill -0 "$agent" 2>/dev/null || die "the agent ended before the tests did: $work/agent.log"
            kill -TERM "$agent"
            wait "$agent" || die "the agent failed: $(tail -n 5 "$work/agent.log")"
            agent=
            sessions=$(sessions_in "$work/agent.pcapng")
            detail="; $sessions sessions mirrored"
            rm -f "$work/agent.pcapng"
            ;;
        killed)
            rm -f "$work/stop"
            torment &
            tormentor=$!
            run_tests "$patched" "$work/killed"
            touch "$work/stop"
            wait $tormentor
            read -r kills sessions <"$work/torment"
            detail="; $kills agents killed, $sessions sessions mirrored between"
            ;;
    esac
    unset SSLCOLLECTOR_ENABLE SSLCOLLECTOR_SOCKET SSLCOLLECTOR_AGENT_UID
    if ! diff "$reference" "$list" >"$work/$mode.diff"; then
        echo "FAIL OpenSSL $version, $mode: another list of results than unpatched (<); all output: $work/$mode"
        cat "$work/$mode.diff"
        return 1
    fi
    # Else nothing was put to the test.
    ((sessions > 0 && kills > 0)) || { echo "FAIL OpenSSL $version, $mode: no session came to the agent"; return 1; }
    echo "PASS OpenSSL $version, $mode: the list of the unpatched tree$detail"
}

# The quick one: test_sslapi with the library as it ships, and with the unpatched one of the same sources.
run_sslapi() {
    local library tree key reference list which
    library=$("$here/build.sh" "$series")
    tree=$("$here/build.sh" "$series" --unpatched)
    cd "$tree"
    if [[ ! -e test/sslapitest || ! -e engines/dasync.so ]]; then
        run "compiling test_sslapi" make -j"$(nproc)" -o libcrypto.so -o "libcrypto.so.$abi" -o libssl.so \
            -o "libssl.so.$abi" -o libcrypto.ld -o libssl.ld -o libcrypto.a test/sslapitest engines/dasync.so
    fi
    # The level that these tests expect is upstream's own default.
    printf '%s\n' 'openssl_conf = all' '[all]' 'ssl_conf = ssl' '[ssl]' 'system_default = level' \
        '[level]' 'CipherString = DEFAULT@SECLEVEL=1' >"$work/openssl.cnf"
    # sslapi NAME DIRECTORY: with the libssl there; the list into $work/NAME.
    sslapi() {
        local status=0 data=test/recipes/90-test_sslapi_data
        LD_LIBRARY_PATH=$2:$tree OPENSSL_CONF=$work/openssl.cnf CTLOG_FILE=$tree/test/ct/log_list.cnf \
            OPENSSL_MODULES=$tree/providers OPENSSL_ENGINES=$tree/engines timeout -k 10 600 \
            ./test/sslapitest test/certs $data/passwd.txt "$work/session" default test/default.cnf $data/dhparams.pem \
            >"$work/$1.tap" 2>"$work/$1.log" </dev/null || status=$?
        { echo "test_sslapi: status $status"; results "$work/$1.tap"; } >"$work/$1"
    }
    key=$(cat "$(realpath libcrypto.so)" "libssl.so.$abi" "$work/openssl.cnf" | sha256 | cut -c1-16)
    reference=$tree/sslapi-$key.list
    if [[ ! -e $reference ]]; then
        say "test_sslapi, unpatched"
        sslapi unpatched "$tree"
        mv "$work/unpatched" "$reference"
    fi
    (($(wc -l <"$reference") > 100)) || die "test_sslapi of the unpatched tree says next to nothing: $reference"
    say "test_sslapi, patched"
    export SSLCOLLECTOR_ENABLE=1 SSLCOLLECTOR_SOCKET=$socket
    sslapi patched "$(dirname "$library")"
    if ! diff "$reference" "$work/patched"; then
        tail -n 40 "$work/patched.log"
        echo "FAIL test_sslapi $series: another list of results (>) than unpatched (<)"
        exit 1
    fi
    echo "PASS test_sslapi $series: the list of the unpatched library; $(describe "$reference")"
}

series=
all=
sslapi=
modes=()
for argument; do
    case $argument in
        --all) all=yes ;;
        --sslapi) sslapi=yes ;;
        absent | agent | killed) modes+=("$argument") ;;
        -h | --help) usage; exit 0 ;;
        *) [[ -z $series && " ${all_series[*]} " == *" $argument "* ]] || { usage >&2; exit 2; }
            series=$argument ;;
    esac
done
[[ -n $series ]] || { usage >&2; exit 2; }
((${#modes[@]})) || modes=(absent agent killed)

agent=
socket=$(mktemp -d)/agent.sock
# At the end no process of ours is left.
trap 'touch "$work/stop" 2>/dev/null; [[ -z $agent ]] || kill -KILL "$agent" 2>/dev/null; rm -rf "$(dirname "$socket")"' EXIT
if [[ -n $sslapi ]]; then
    work=$(dirname "$socket")
    begin sslapi sslapi.lock
    run_sslapi
    exit
fi

begin suite suite.lock
work=$cache/suite-results
rm -rf "$work"
mkdir "$work"
compile_hook
say "compiling the agent"
cargo build --release --quiet --package sslcollector --manifest-path "$root/Cargo.toml" >&2
collector=$target/release/sslcollector
find_source
version=$(basename "$tarball" .orig.tar.gz | sed 's/.*[_-]//')
[[ -z $debian_part ]] || version=$(basename "$debian_part" .debian.tar.xz | sed 's/.*_//')
build_unpatched
reference=$plain/results${all:+-all}.list
if [[ ! -e $reference ]]; then
    say "OpenSSL $version, unpatched"
    run_tests "$plain" "$work/unpatched"
    mv "$work/unpatched/list" "$reference"
fi
echo "OpenSSL $version unpatched (source $(source_hash | sha256 | cut -c1-16)): $(describe "$reference")"
build_patched
failed=0
for mode in "${modes[@]}"; do
    run_mode "$mode" || failed=1
done
exit $failed
