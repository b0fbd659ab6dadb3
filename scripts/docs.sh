#!/usr/bin/env bash
# The documentation site in target/site: the pages of docs/ with the Python reference, the crate's documentation beside
# them in rust/, and every link and anchor followed. `make docs` calls it with CARGO, FEATURES and BIN set.
set -euo pipefail
cd "$(dirname "$0")/.."

site=target/site
rm -rf "$site"
# As docs.rs builds it: what needs a feature says so, which a stable compiler hides behind RUSTC_BOOTSTRAP.
RUSTC_BOOTSTRAP=1 RUSTDOCFLAGS="-D warnings --cfg docsrs" \
    "$CARGO" doc --locked --quiet --no-deps --features "$FEATURES" --target-dir target/site-rust
"$BIN/sphinx-build" --quiet --fail-on-warning --keep-going --doctree-dir target/doctrees -b html docs "$site"
cp -r target/site-rust/doc "$site/rust"
# rustdoc's own pages lead there.
echo '<!doctype html><meta charset="utf-8"><title>pktalloc</title><meta http-equiv="refresh" content="0; url=pktalloc/">' \
    >"$site/rust/index.html"
"$BIN/python" scripts/check_links.py "$site"
echo "make docs: $site/index.html, $(find "$site" -name '*.html' | wc -l) pages, no dead link"
