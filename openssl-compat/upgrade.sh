#!/bin/bash
# Is a new OpenSSL release ready to be built here? README.md says what to do with the answer.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<EOF
usage: openssl-compat/upgrade.sh TARBALL

Says whether the patches apply to openssl-x.y.z.tar.gz without fuzz, and if they do, prints the line for pins() in
build.sh. A release of a series without patches is tried with those of the nearest older series. Builds nothing.
Ends with 0 if they apply, with 1 if not.
EOF
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    "") usage >&2; exit 2 ;;
esac
tarball=$1
[[ -r $tarball ]] || { echo "upgrade.sh: $tarball can't be read" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar xzf "$tarball" -C "$work" --strip-components=1 --no-same-owner --wildcards \
    '*/VERSION.dat' '*/Configurations/*' '*/ssl/ssl_lib.c' '*/ssl/ssl_local.h' \
    '*/ssl/statem/statem_srvr.c' ||
    { echo "upgrade.sh: $tarball isn't OpenSSL's source as a .tar.gz" >&2; exit 2; }
part() { sed -n "s/^$1=//p" "$work/VERSION.dat"; }
series=$(part MAJOR).$(part MINOR)
version=$series.$(part PATCH)$(part PRE_RELEASE_TAG)

patches=$({ ls "$here/patches"; echo "$series"; } | sort -V | grep -B1 -Fx "$series" | head -n 1)
[[ ! -d $here/patches/$series ]] || patches=$series
[[ -d $here/patches/$patches ]] || { echo "OpenSSL $version is older than every patch here"; exit 1; }

failed=0
for patch in "$here/patches/$patches"/*.patch; do
    if answer=$(patch -d "$work" -p1 --fuzz=0 --batch --forward --no-backup-if-mismatch -i "$patch" 2>&1); then
        echo "applies: patches/$patches/$(basename "$patch")$(grep -q offset <<<"$answer" && echo " (at other lines)" || true)"
    else
        printf "doesn't apply: patches/%s/%s\n%s\n" "$patches" "$(basename "$patch")" "$answer"
        failed=1
    fi
done
if ((failed)); then
    echo "OpenSSL $version: not ready. Next: make these changes by hand in its tree, and let patches/$series hold them"
    exit 1
fi
echo "OpenSSL $version: every patch applies. The line for pins() in build.sh:"
echo "$version $(sha256sum "$tarball" | cut -d' ' -f1)"
if [[ $patches == "$series" ]]; then
    echo "Next: OPENSSL_TARBALL=$tarball openssl-compat/tests/run.sh $series"
else
    echo "Next: copy patches/$patches to patches/$series and add a configuration of $series to build.sh"
fi
