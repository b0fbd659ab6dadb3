#!/usr/bin/env bash
# Every pattern of traffic for SOAK_SECONDS, the self-check every second, and the memory over time as a table and a plot.
# Ends with one line that says what happened. `make soak` calls it with CARGO and SOAK_SECONDS set.
set -uo pipefail
cd "$(dirname "$0")/.."

outcome=$("$CARGO" run --locked --release --quiet --example soak -- "$SOAK_SECONDS" target/soak) || {
    echo "make soak: FAILED: what went wrong is said above"
    exit 1
}
echo "make $outcome"
