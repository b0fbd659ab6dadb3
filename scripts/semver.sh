#!/usr/bin/env bash
# Compares what others build on with the last release, or with the revision BASELINE: the crate with cargo-semver-checks,
# the Python package with griffe. Ends with one line that says what happened. `make semver` calls it with CARGO, FEATURES
# and BIN (where griffe is) set.
#
# It asks whether a change breaks users, so it needs a release to compare with. What changed at all, with or without a
# release, is docs/public-api.txt, which `make lint` keeps.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

baseline=${BASELINE:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)}
if [ -z "$baseline" ]; then
    echo "make semver: skipped: there is no release (a tag v*) to compare with; BASELINE=REVISION names another commit"
    exit 0
fi
git rev-parse --quiet --verify "$baseline^{commit}" >/dev/null ||
    { echo "make semver: FAILED: no commit is named $baseline" >&2; exit 1; }
broken=()
unchecked=""
# Hundreds of crates, for seconds of work: built without optimisation.
if "$CARGO" semver-checks --version >/dev/null 2>&1 ||
    CARGO_PROFILE_DEV_DEBUG=0 "$CARGO" install --locked --debug cargo-semver-checks; then
    "$CARGO" semver-checks --baseline-rev "$baseline" --only-explicit-features --features "default,$FEATURES"
    # 100 is its verdict; anything else is something that it could not do.
    case $? in
        0) ;;
        100) broken+=("the crate") ;;
        *) echo "make semver: FAILED: cargo-semver-checks said why" >&2; exit 1 ;;
    esac
else
    unchecked="; the crate was not looked at: cargo-semver-checks could not be installed"
fi
if ! "$BIN/griffe" check pktalloc --search python --against "$baseline"; then
    # The number that says so: the first one, or the second while the first is 0.
    breaking() {
        sed -n '/^\[package\]/,/^\[/s/^version = "\(0\.[0-9]*\|[1-9][0-9]*\)\..*"/\1/p'
    }
    before=$(git show "$baseline:Cargo.toml" | breaking)
    if [ "$before" = "$(breaking <Cargo.toml)" ]; then
        broken+=("the Python package")
    else
        unchecked+="; the Python package breaks users, as its version says"
    fi
fi
if [ "${#broken[@]}" -gt 0 ]; then
    echo "make semver: FAILED: changed since $baseline in a way that breaks users: ${broken[*]}$unchecked"
    exit 1
fi
echo "make semver: nothing that others build on is broken since $baseline$unchecked"
