#!/usr/bin/env bash
# Packs the crate as it would be published, and builds what is in the package away from the repository: the library with
# every feature but Python's, and the examples. `make package` calls it with CARGO and FEATURES set.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-$PWD/target}
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT

# Files that are not committed yet are packed as well, so that the check can come before the commit.
"$CARGO" package --locked --allow-dirty --no-verify --quiet --target-dir "$away/target"
tar -xzf "$away"/target/package/pktalloc-*.crate -C "$away"
cd "$away"/pktalloc-*/
"$CARGO" check --locked --quiet --lib --examples --features "$FEATURES" --target-dir "$target"
echo "check_package: $(basename "$PWD") builds from its package, $(find . -type f | wc -l) files"
