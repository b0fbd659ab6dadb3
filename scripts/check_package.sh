#!/usr/bin/env bash
# Packs the crate as it would be published, unpacks it away from the repository, and builds and tests what is there: with
# every feature but Python's, with none, with the default, and with each alone. Ends with one line that says what
# happened. `make package` calls it with CARGO, FEATURES and EACH_FEATURE set.
#
# All sets compile every test, example and bench that they allow. The tests run with none and with every feature; a feature
# alone runs those inside the crate and those that need it, since the rest is the same code as in one of the two.
set -euo pipefail
cd "$(dirname "$0")/.."

# What the crate depends on is kept for the next time. What is built of the crate itself is not: packed files all have one
# date, so cargo would take what it built of an earlier package for that of this one.
target=$PWD/target/package-check
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
# Nobody debugs these.
export CARGO_PROFILE_DEV_DEBUG=0
# These are the crate's tests; how many random programs are enough is for `make test` to say.
export PROPTEST_CASES="${PROPTEST_CASES:-16}"

# Files that are not committed yet are packed as well, so that the check can come before the commit.
"$CARGO" package --locked --allow-dirty --no-verify --quiet --target-dir "$away/target"
tar -xzf "$away"/target/package/pktalloc-*.crate -C "$away"
cd "$away"/pktalloc-*/

"$CARGO" clean --quiet --locked -p pktalloc --target-dir "$target"

log=$away/log
check() {
    echo "+ cargo test $*"
    "$CARGO" test --locked --quiet --target-dir "$target" "$@" 2>&1 </dev/null | tee -a "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "make package: FAILED: the unpacked crate does not pass cargo test $*"; exit 1; }
}
build() {
    echo "+ cargo build --all-targets $*"
    "$CARGO" build --locked --quiet --all-targets --target-dir "$target" "$@"
}

check --no-default-features
check --features "$FEATURES"
"$CARGO" build --locked --quiet --examples --benches --features "$FEATURES" --target-dir "$target"
for feature in $EACH_FEATURE; do
    build --no-default-features --features "$feature"
    check --no-default-features --features "$feature" --lib
done
passed=$(awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$log")
echo "make package: $(basename "$PWD"), $(find . -type f | wc -l) files, builds with every feature, with none and with each" \
    "alone, and passes $passed tests"
