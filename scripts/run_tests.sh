#!/usr/bin/env bash
# Runs every suite, also after one has failed, and ends with one line that says what happened.
# `make test` calls it with CARGO, FEATURES and PYTHON set; the package is already installed for that PYTHON.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()

suite() {
    echo "+ $*"
    "$@" 2>&1 </dev/null | tee -a "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$*")
}

suite "$CARGO" test --locked --no-default-features --lib
suite "$CARGO" test --locked
suite "$CARGO" test --locked --features "$FEATURES"
for example in examples/*.rs; do
    suite "$CARGO" run --locked --quiet --features "$FEATURES" --example "$(basename "$example" .rs)"
done
suite scripts/check_no_std.sh
suite "$PYTHON" -m pytest

# cargo test closes each binary with "test result: ok. 12 passed; 0 failed; 1 ignored; …",
# pytest closes with "=== 12 passed, 1 skipped in 0.5s ===".
read -r rust python skipped < <(awk '
    /^test result: / { rust += $4; skipped += $8 }
    /^=+ .* in [0-9.]+s/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) python += $(i - 1)
            if ($i ~ /^skipped/) skipped += $(i - 1)
        }
    }
    END { print rust + 0, python + 0, skipped + 0 }' "$log")

counts="$rust Rust tests (over three feature sets) and $python Python tests passed, $skipped skipped, in ${SECONDS} s"
if [ "${#failed[@]}" -gt 0 ]; then
    printf -v names '%s; ' "${failed[@]}"
    echo "make test: FAILED: ${names%; } ($counts)"
    exit 1
fi
echo "make test: $counts"
