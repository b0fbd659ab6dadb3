#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS, also after one has failed, and ends with one line that says what happened.
# `make fuzz` calls it with CARGO, FUZZ_SECONDS and FUZZ_TARGETS set.
#
# A stable toolchain does it: cargo-fuzz asks the compiler for a sanitizer, which stable has but hides behind
# RUSTC_BOOTSTRAP. New inputs are collected in target/fuzz, and what fails a target in fuzz/artifacts; `cargo fuzz cmin`
# and `cargo fuzz tmin` make the small ones that belong into tests/corpus.
set -uo pipefail
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1

host=$(rustc -vV | awk '/^host: / { print $2 }')
"$CARGO" fuzz --version >/dev/null 2>&1 || "$CARGO" install --locked cargo-fuzz || exit 1
fuzz=("$CARGO" fuzz)
"${fuzz[@]}" build --target "$host" || { echo "make fuzz: FAILED: the targets do not build"; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
summary=()
for target in $FUZZ_TARGETS; do
    found=target/fuzz/$target
    mkdir -p "$found"
    echo "+ $target for $FUZZ_SECONDS s"
    "${fuzz[@]}" run --target "$host" "$target" "$found" "tests/corpus/$target" -- \
        -max_total_time="$FUZZ_SECONDS" -max_len=2048 -timeout=60 -print_final_stats=1 >"$log" 2>&1 </dev/null ||
        { failed+=("$target"); grep -A 3 -E 'panicked at|ERROR: ' "$log" | head -n 12; }
    summary+=("$target $(awk '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
        /^stat::number_of_executed_units:/ { runs = $2 }
        END { printf "%d runs, %d edges", runs, edges }' "$log")")
    echo "  ${summary[-1]}"
done

printf -v counts '%s; ' "${summary[@]}"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "make fuzz: FAILED: ${failed[*]}: the input is in fuzz/artifacts (${counts%; })"
    exit 1
fi
echo "make fuzz: $FUZZ_SECONDS s each, nothing found: ${counts%; }"
