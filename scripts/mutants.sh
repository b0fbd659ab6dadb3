#!/usr/bin/env bash
# Changes the core in small ways, one at a time, and expects a test to fail each time. Ends with one line that says what
# happened; the survivors are in target/mutants.out/missed.txt. `make mutants` calls it with CARGO and MUTANTS_FILES set.
set -uo pipefail
cd "$(dirname "$0")/.."

"$CARGO" mutants --version >/dev/null 2>&1 || "$CARGO" install --locked cargo-mutants || exit 1
files=()
for file in $MUTANTS_FILES; do
    files+=(--file "$file")
done
"$CARGO" mutants --output target "${files[@]}" --timeout 120 -- --locked \
    --lib --test bitset --test defects --test misuse --test model --test sizes --test fuzz_corpus
found=$?

count() {
    wc -l <"target/mutants.out/$1.txt"
}
score="$(count caught) caught, $(count timeout) ran for ever, $(count unviable) did not build, $(count missed) survived"
# 2: some survived; 3: some ran for ever, which shows, too.
case $found in
    0 | 3) echo "make mutants: $score" ;;
    *) echo "make mutants: FAILED: $score"; exit 1 ;;
esac
