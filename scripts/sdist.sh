#!/usr/bin/env bash
# The source distribution, checked, then unpacked elsewhere, built from there and tested in a clean environment.
# `make sdist` calls it with BIN set.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

rm -f dist/*.tar.gz
"$BIN/maturin" sdist --out dist
sdist=$(realpath dist/pktalloc-*.tar.gz)
"$BIN/twine" check --strict "$sdist"
# All but the address of an author, which a project of several has not.
"$BIN/pyroma" --min 8 "$sdist"
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
tar -xzf "$sdist" -C "$away"
# Its own copy of the scripts and the tests, not the repository's.
bash "$away"/pktalloc-*/scripts/test_installed.sh "$BIN/python" "$sdist"
echo "make sdist: $(basename "$sdist") builds from itself and passes its tests"
