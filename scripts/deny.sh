#!/usr/bin/env bash
# Licences and sources of all that the crate depends on, tests and benches included, as deny.toml allows them; with
# ADVISORIES=yes also known vulnerabilities, which asks the network. `make deny` calls it with CARGO set.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

"$CARGO" deny --version >/dev/null 2>&1 || "$CARGO" install --locked cargo-deny ||
    { echo "make deny: skipped: cargo-deny could not be installed"; exit 0; }
checks=(licenses bans sources)
[ "${ADVISORIES:-}" != yes ] || checks+=(advisories)
"$CARGO" deny --locked --all-features check "${checks[@]}"
echo "make deny: ${checks[*]} are as deny.toml allows them"
