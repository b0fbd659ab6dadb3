#!/usr/bin/env bash
# Changes the core in small ways, one at a time, and expects a test to fail each time. Ends with one line that says what
# happened; the survivors are in target/mutants.out/missed.txt. `make mutants` calls it with CARGO and MUTANTS_FILES set.
#
# Four rounds, so that most mutants cost the build of one small binary: the bitset against its own test, all else against
# the tests inside the crate, and what is left against the programs in tests/, the tests of a fraction of a second first.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

"$CARGO" mutants --version >/dev/null 2>&1 || "$CARGO" install --locked cargo-mutants || exit 1

# A build serves for a second of tests: nothing is optimised, and random programs are few.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_CASES="${PROPTEST_CASES:-4}"
export CARGO_TARGET_DIR="$PWD/target/mutants"
# Some mutants take memory for ever.
ulimit -v $((8 << 20))

out=target/mutants.out
caught=0
endless=0
unviable=0
count() {
    wc -l <"$out/$1.txt"
}
# A round over the files in front of `--`, with the targets and test arguments behind it; leaves out what earlier rounds
# have caught. 2: some survived; 3: some ran for ever, which shows, too, and would take the longest in every further
# round; anything else is no result.
round() {
    local files=()
    while [ "$1" != -- ]; do
        files+=(--file "$1")
        shift
    done
    shift
    local targets=()
    while [ "$#" -gt 0 ] && [[ "$1" == --lib || "$1" == --test=* ]]; do
        targets+=("--cargo-arg=$1")
        shift
    done
    "$CARGO" mutants --iterate --output target --minimum-test-timeout 10 --timeout-multiplier 4 --cargo-arg=--locked \
        "${files[@]}" "${targets[@]}" -- "$@"
    local found=$?
    case $found in
        0 | 2 | 3) ;;
        *) echo "make mutants: FAILED: cargo-mutants ended with $found"; exit 1 ;;
    esac
    caught=$((caught + $(count caught)))
    endless=$((endless + $(count timeout)))
    unviable=$((unviable + $(count unviable)))
    cat "$out/timeout.txt" >>"$out/caught.txt"
}

rm -rf "$out" "$out.old"
read -ra all <<<"$MUTANTS_FILES"
others=()
for file in "${all[@]}"; do
    [ "$file" = src/bitset.rs ] || others+=("$file")
done
[ "${#others[@]}" -eq "${#all[@]}" ] || round src/bitset.rs -- --test=bitset
[ "${#others[@]}" -eq 0 ] || round "${others[@]}" -- --lib -- --skip workload::
# Without optimisation these take ten seconds or more, and add nothing to the others.
long=(--skip a_refusal_at_any_point --skip a_single_refusal --skip a_window_filled_to_its_last_unit
    --skip every_size_in_every_call --skip packets_of_every_size --skip huge_pages_keep_every_byte)
# And these one to ten.
slow=(--skip a_pointer_into_a_window --skip blocks_of_every_length --skip blocks_that_leave
    --skip every_memory_limit --skip every_pointer_that_is --skip the_memory_limit --skip what_went_back
    --skip with_check_every_call)
round "${all[@]}" -- --test=defects --test=faults --test=misuse --test=reuse --test=sizes -- "${long[@]}" "${slow[@]}"
round "${all[@]}" -- --test=faults --test=misuse --test=model --test=packet --test=reuse --test=sizes -- "${long[@]}"

score="$caught caught, $endless ran for ever, $unviable did not build, $(count missed) survived"
if [ "$(count missed)" -gt 0 ]; then
    echo "make mutants: FAILED: $score"
    exit 1
fi
echo "make mutants: $score"
