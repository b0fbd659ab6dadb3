#!/usr/bin/env bash
# The Rust suite under AddressSanitizer, with units that are in no block hidden from it, then under valgrind where that
# is installed. Ends with one line that says what happened. `make sanitize` calls it with CARGO and FEATURES set.
#
# A stable toolchain does it: it has the sanitizer's runtime, and hides the option behind RUSTC_BOOTSTRAP.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

host=$(rustc -vV | awk '/^host: / { print $2 }')
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()
# Random programs are ten to thirty times as slow here: fewer of them.
export PROPTEST_CASES="${PROPTEST_CASES:-8}"
# Timing says nothing here, the programs of every refusal would take half an hour, and the long streams are arithmetic.
# The sanitizer's stacks take page faults of their own: 19 for an allocator, and none without those stacks.
skip=(--skip ten_thousand_windows --skip a_refusal_at_any_point --skip a_single_refusal
    --skip streams_are_pinned --skip every_cycle_can_be_repeated --skip claims_of_huge_packets
    --skip come_and_go_take_no_page_faults)

passed() {
    awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$log"
}

# `allocator_may_return_null`: sizes that no system serves are refused rather than reported.
echo "+ the suite under AddressSanitizer"
ASAN_OPTIONS="allocator_may_return_null=1:detect_odr_violation=0" \
    LSAN_OPTIONS="suppressions='$PWD/tests/lsan.txt':print_suppressions=0" RUSTC_BOOTSTRAP=1 \
    RUSTFLAGS="-Zsanitizer=address --cfg pktalloc_asan" \
    "$CARGO" test --locked --no-fail-fast --target "$host" --target-dir target/asan --features "$FEATURES" --lib --tests \
    -- "${skip[@]}" \
    2>&1 | tee "$log"
[ "${PIPESTATUS[0]}" -eq 0 ] || failed+=(AddressSanitizer)
summary="$(passed) tests under AddressSanitizer"

if command -v valgrind >/dev/null; then
    echo "+ the suite under valgrind memcheck"
    : >"$log"
    # The runner is handed each test binary with its arguments. What is "possibly lost" is the test harness's, which keeps
    # the handle of its thread by a pointer into the middle of it.
    # Tests that damage something leak it, as tests/lsan.txt says.
    memcheck="valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
    export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER=$memcheck"
    PROPTEST_CASES=2 "$CARGO" test --locked --no-fail-fast --features "$FEATURES" --lib --test misuse --test faults \
        --test defects --test fuzz_corpus --test bitset --test packet --test reuse --test collections --test shared \
        --test shared_bytes --test user_memory -- --test-threads=1 "${skip[@]}" --skip top_of_the_address_space \
        --skip blocks_that_leave --skip overflow --skip overwritten 2>&1 | tee "$log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=(valgrind)
    summary+=", $(passed) under valgrind"
else
    summary+=", none under valgrind, which is not installed"
fi

if [ "${#failed[@]}" -gt 0 ]; then
    echo "make sanitize: FAILED: ${failed[*]} ($summary)"
    exit 1
fi
echo "make sanitize: $summary; no report"
