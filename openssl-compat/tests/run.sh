#!/bin/bash
# usage: run.sh [VERSION]: builds the library of that version (as build.sh, if none is given) and runs its tests; prints a
# PASS or FAIL line for each, then the counts. Fails if one failed.
#
# Every program runs three times: with the recorder in the place of the hook, which shows what the hook is told; with the
# patched library as it ships; and with an unpatched one (the distribution's, where it has this version), which shows that
# the first two behave as upstream does.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
series=${1:-$("$here/../build.sh" --series)}
upstream=$("$here/../build.sh" "$series" --upstream)
tree=$("$here/../build.sh" "$series" --objects)
library=$("$here/../build.sh" "$series")
programs=(data early facts endings)
[[ $series == 3.0 ]] || programs+=(quic)
[[ $series == 3.* ]] || programs+=(ech)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=$work/results

cc() { gcc -O1 -g -Wall -Wextra -Werror -I"$here" -I"$tree/include" "$@"; }

# A program's result lines, with $2 behind each; a program that dies is a failure too.
report() {
    local program=$1 how=$2 status=0
    shift 2
    "$@" >"$work/output" || status=$?
    sed "s|\$| ($program, $how)|" "$work/output"
    ((status <= 1)) && [[ -s $work/output ]] || echo "FAIL $program ended with status $status ($how)"
}

find "$tree" -name 'libssl-shlib-*.o' -exec ar qcs "$work/libssl.a" {} +
for part in fixture recorder; do
    cc -c "$here/$part.c" -o "$work/$part.o"
done
for program in "${programs[@]}"; do
    cc "$here/$program.c" "$work"/{fixture,recorder}.o "$work/libssl.a" "$tree/libcrypto.so" -o "$work/$program-recorded"
    cc "$here/$program.c" "$work"/{fixture,recorder}.o "$library" "$tree/libcrypto.so" -o "$work/$program"
    report "$program" recorder env LD_LIBRARY_PATH="$upstream" "$work/$program-recorded"
    report "$program" "patched library" env LD_LIBRARY_PATH="$(dirname "$library"):$upstream" "$work/$program"
    report "$program" "unpatched library" env LD_LIBRARY_PATH="$upstream" "$work/$program"
done | tee "$results"
status=0
"$here/symbols.sh" "$library" "$upstream/$(basename "$library")" >"$work/symbols" || status=$?
tee -a "$results" <"$work/symbols"
if ((status != 0)) && ! grep -q '^FAIL ' "$work/symbols"; then
    echo "FAIL symbols.sh ended with status $status" | tee -a "$results"
fi

passed=$(grep -c '^PASS ' "$results" || true)
failed=$(grep -c '^FAIL ' "$results" || true)
echo "openssl-compat $series: $passed passed, $failed failed"
((failed == 0 && passed > 0))
