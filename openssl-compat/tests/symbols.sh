#!/bin/bash
# usage: symbols.sh LIBSSL UNPATCHED: is it the unpatched libssl to programs and to the dynamic linker? The same
# exported symbols with the same versions, the same SONAME, the same needed libraries, and nothing undefined.
set -euo pipefail
export LC_ALL=C

ours=$1
theirs=$2
failed=0

compare() {
    local what=$1
    shift
    if difference=$(diff <("$@" "$theirs") <("$@" "$ours")); then
        echo "PASS symbols: $what ($("$@" "$ours" | wc -l))"
    else
        printf 'FAIL symbols: %s (<: unpatched, >: ours)\n%s\n' "$what" "$difference"
        failed=1
    fi
}

exports() { nm -D --with-symbol-versions --defined-only "$1" | awk '{ print $2, $3 }' | sort; }
# Rust's panics count in thread-local storage, so the dynamic linker itself is named; every process has it already.
dynamic() { readelf -dW "$1" | sed -n 's/.*(\(SONAME\|NEEDED\)).*\[\(.*\)\]/\1 \2/p' | grep -v '^NEEDED ld-linux' | sort; }
hardening() { readelf -lW "$1" | awk '/GNU_STACK/ { print "stack", $(NF-1) } /GNU_RELRO/ { print "relro" }'; readelf -dW "$1" | grep -o 'BIND_NOW\|NODELETE' | sort -u; }

compare "exported symbols and versions" exports
compare "SONAME and NEEDED" dynamic
compare "stack and relocation flags" hardening

# Each of its needed versions exists in the libcrypto beside the unpatched one.
if undefined=$(LD_LIBRARY_PATH=$(dirname "$theirs") LD_BIND_NOW=1 ldd -r "$ours" 2>&1 | grep -E 'undefined|not found'); then
    printf 'FAIL symbols: unresolved\n%s\n' "$undefined"
    failed=1
else
    echo "PASS symbols: all resolved"
fi
exit $failed
