#!/bin/bash
# Breaks the code in small ways, each in a copy of the tree, and sees a named test fail: a test that
# can't fail proves nothing.
#
#   scripts/test-mutations.sh [NAME…]      tests/mutations/NAME.patch; no name: all of them
#   scripts/test-mutations.sh --check      only whether all of them still apply
#
# The head of each patch names the test that must object, as `Test: BINARY TEST`, and behind it the package, if
# that isn't mirror-tests. Before any mutation
# these tests have to pass. Programs and the patched library must be there (make test-mutations).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "${1-}" = --check ]; then
    for patch in "$root"/tests/mutations/*.patch; do
        patch --quiet --forward --dry-run -p1 -d "$root" <"$patch" || {
            echo "mutations: $patch doesn't apply any more: make it anew" >&2
            exit 1
        }
    done
    exit
fi
target=${CARGO_TARGET_DIR:-$root/target}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

# Of their own, so that the tree's results stay; kept, so that a second run builds only what differs.
mkdir -p "$target/mutations"
CARGO_TARGET_DIR=$(cd "$target/mutations" && pwd)
export CARGO_TARGET_DIR

say() { printf 'mutations: %s\n' "$*"; }

# What would be committed now. Times are kept: cargo builds only what a mutation changes.
git -C "$root" ls-files -z --cached --others --exclude-standard |
    (cd "$root" && xargs -0 ls -d 2>/dev/null | tar -c -T - -f -) | tar -xp -C "$copy" -f -
cd "$copy"

if [ $# -eq 0 ]; then
    set -- tests/mutations/*.patch
else
    set -- "${@/#/tests/mutations/}"
    set -- "${@/%/.patch}"
fi

test_of() { sed -n 's/^Test: *//p' "$1" | head -n 1; }

# The hook is in the library, the rest in the binary; a mutation may be of either.
build() {
    openssl-compat/build.sh && cargo build --package sslcollector && cargo test --package mirror-tests --package rustls-mirror --no-run
} >"$copy/log" 2>&1

# run_test BINARY TEST [PACKAGE]
run_test() {
    cargo test --package "${3:-mirror-tests}" --test "$1" -- --exact "$2" >"$copy/log" 2>&1 </dev/null &&
        grep -q '^test result: ok. 1 passed' "$copy/log"
}

say "building without a mutation"
build || { tail -n 30 "$copy/log"; exit 1; }
for patch in "$@"; do test_of "$patch"; done | sort -u | while read -r binary name package; do
    run_test "$binary" "$name" "$package" || {
        tail -n 30 "$copy/log"
        say "$binary $name fails without any mutation (or isn't there)"
        exit 1
    }
done

survivors=0
for patch in "$@"; do
    mutation=$(basename "$patch" .patch)
    read -r binary name package <<<"$(test_of "$patch")"
    patch --quiet --forward -p1 <"$patch" || {
        say "$mutation: the patch doesn't apply any more"
        exit 1
    }
    build || {
        tail -n 30 "$copy/log"
        say "$mutation: doesn't build; a mutation has to"
        exit 1
    }
    if run_test "$binary" "$name" "$package"; then
        say "$mutation: SURVIVES $binary $name"
        survivors=$((survivors + 1))
    else
        say "$mutation: found by $binary $name: $(grep -m 1 -A 1 'panicked at' "$copy/log" | tail -n 1 | cut -c 1-100)"
    fi
    patch --quiet --reverse -p1 <"$patch"
done
[ "$survivors" -eq 0 ] || { say "$survivors survived"; exit 1; }
say "every mutation is found"
