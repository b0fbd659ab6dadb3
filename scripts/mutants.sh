#!/usr/bin/env bash
# Changes the core, the packets and what threads share in small ways, one at a time, and expects a test to fail each time.
# Ends with one line that says what happened; the survivors are in target/mutants.out/missed.txt. `make mutants` calls it
# with CARGO, MUTANTS_FILES and MUTANTS_SAMPLE set: how many to try, picked at random but the same ones each time; all of
# them where it is empty.
#
# A few rounds, so that most mutants cost the build of one small binary: the bitset against its own test, all else against
# the tests inside the crate, and what is left against the programs in tests/, most of which are one binary here
# (tests/mutants.rs): those about what was changed first, and last those that take more than a second.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

"$CARGO" mutants --version >/dev/null 2>&1 || "$CARGO" install --locked cargo-mutants || exit 1

# A build serves for a second of tests: the crate is not optimised, and random programs are few.
options=(--features=allocator-api2,bytes --cargo-arg=--locked
    --cargo-arg=--config=profile.dev.package.pktalloc.opt-level=0
    --cargo-arg=--config=profile.dev.package.pktalloc.debug=false)
export PROPTEST_CASES="${PROPTEST_CASES:-4}"
# One test that fails is enough; the option for that is not stable, and older toolchains do not have it.
first=()
if [ "$(rustc -V | cut -d. -f2)" -ge 90 ]; then
    host=$(rustc -vV | awk '/^host: / { print $2 }')
    export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER=env RUSTC_BOOTSTRAP=1"
    first=(-Zunstable-options --fail-fast)
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target/mutants}"
# Some mutants take memory for ever.
ulimit -v $((8 << 20))

out=$PWD/target/mutants.out
caught=0
endless=0
unviable=0
count() {
    wc -l <"$out/$1.txt"
}

# The changes are made in one copy, so that what is built in a round is of use in the next.
# Its files are newer than what an earlier run built of changed ones.
tree=$CARGO_TARGET_DIR/tree
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -m -C "$tree" || exit 1
cd "$tree"

read -ra all <<<"$MUTANTS_FILES"
every=()
others=()
packets=()
shared=()
for file in "${all[@]}"; do
    every+=(--file "$file")
    case $file in
        src/bitset.rs) continue ;;
        src/packet* | src/api2.rs) packets+=("$file") ;;
        src/shared*) shared+=("$file") ;;
    esac
    others+=("$file")
done

# What to try: everything, or these by their names.
picked=()
total=$("$CARGO" mutants --list "${every[@]}" | wc -l) || exit 1
if [ -n "${MUTANTS_SAMPLE:-}" ]; then
    while IFS= read -r name; do
        picked+=(--re "^$(sed 's/[][\.*^$+?(){}|\\]/\\&/g' <<<"$name")\$")
    done < <("$CARGO" mutants --list "${every[@]}" | shuf -n "$MUTANTS_SAMPLE" --random-source=<(yes pktalloc))
fi

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
    "$CARGO" mutants --in-place --iterate --output "${out%/*}" \
        --minimum-test-timeout "${MUTANTS_TIMEOUT:-10}" --timeout-multiplier 4 "${options[@]}" \
        "${files[@]}" ${picked[@]+"${picked[@]}"} "${targets[@]}" -- -- ${first[@]+"${first[@]}"} "$@"
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
# Without optimisation these take ten seconds or more, and add nothing to the others.
long=(a_refusal_at_any_point a_single_refusal a_window_filled_to_its_last_unit every_size_in_every_call
    packets_of_every_size huge_pages_keep_every_byte)
# And these one to ten, or more for collections: random programs for the most part.
slow=(a_block_takes_any_layout any_configuration blocks_of_every_length blocks_that_leave checking_keeps checking_and_zeroing
    collections_hold empty_windows_go_back every_layout every_setting_and_shape packets_that_cannot_tell packets_wander
    random_programs_of_packets small_windows_keep the_default_configuration what_a_batch_reserved what_went_back
    with_check_every_call zeroing_keeps)
quick=()
for test in "${long[@]}" "${slow[@]}"; do quick+=(--skip "$test"); done
[ "${#others[@]}" -eq "${#all[@]}" ] || round src/bitset.rs -- --test=bitset
[ "${#others[@]}" -eq 0 ] || round "${others[@]}" -- --lib --skip workload::
[ "${#packets[@]}" -eq 0 ] || round "${packets[@]}" -- --test=mutants "${quick[@]}" collections packet shared_bytes
[ "${#shared[@]}" -eq 0 ] || round "${shared[@]}" -- --test=shared "${quick[@]}"
round "${all[@]}" -- --test=mutants "${quick[@]}"
round "${all[@]}" -- --test=give_back --test=pool_refusals
round "${all[@]}" -- --test=mutants --test=shared "${slow[@]}"

tried=$((caught + endless + unviable + $(count missed)))
score="of $total $tried tried: $caught caught, $endless ran for ever, $unviable did not build, $(count missed) survived"
if [ "$(count missed)" -gt 0 ]; then
    echo "make mutants: FAILED: $score"
    exit 1
fi
echo "make mutants: $score"
