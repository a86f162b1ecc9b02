#!/bin/bash
# Builds the library and runs its tests; prints a PASS or FAIL line for each, then the counts. Fails if one failed.
#
# Every program runs three times: with the recorder in the place of the hook, which shows what the hook is told; with the
# patched library as it ships; and with the distribution's, which shows that the first two behave as upstream does.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$("$here/../build.sh" --objects)
library=$("$here/../build.sh")
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
for program in data early facts endings; do
    cc "$here/$program.c" "$work"/{fixture,recorder}.o "$work/libssl.a" "$tree/libcrypto.so.3" -o "$work/$program-recorded"
    cc "$here/$program.c" "$work"/{fixture,recorder}.o "$library" "$tree/libcrypto.so.3" -o "$work/$program"
    report "$program" recorder "$work/$program-recorded"
    report "$program" "patched library" env LD_LIBRARY_PATH="$(dirname "$library")" "$work/$program"
    report "$program" "distribution's library" env -u LD_LIBRARY_PATH "$work/$program"
done | tee "$results"
"$here/symbols.sh" "$library" | tee -a "$results" || true

passed=$(grep -c '^PASS ' "$results" || true)
failed=$(grep -c '^FAIL ' "$results" || true)
echo "openssl-compat: $passed passed, $failed failed"
((failed == 0 && passed > 0))
