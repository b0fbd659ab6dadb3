#!/usr/bin/env bash
# The oldest Rust that Cargo.toml names: no dependency of the crate wants a newer one, and it builds the crate, where it
# is installed. (`make lint` also refuses what the standard library did not have then: clippy reads the same line.)
# `make msrv` calls it with CARGO, FEATURES and perhaps PYTHON set.
set -euo pipefail
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
python=${PYTHON:-python3}
command -v "$python" >/dev/null || python=python3
"$CARGO" metadata --locked --format-version 1 --all-features | "$python" -c '
import json, sys
oldest = tuple(map(int, sys.argv[1].split(".")))
data = json.load(sys.stdin)
packages = {package["id"]: package for package in data["packages"]}
nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
waiting, seen = [data["resolve"]["root"]], set()
while waiting:
    this = waiting.pop()
    if this in seen:
        continue
    seen.add(this)
    for dependency in nodes[this]["deps"]:
        if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
            waiting.append(dependency["pkg"])
newer = [
    "{name} {version} wants Rust {rust_version}".format(**packages[this])
    for this in seen
    if tuple(map(int, (packages[this]["rust_version"] or "1.0").split("."))) > oldest
]
print("\n".join(sorted(newer)) or f"{len(seen) - 1} dependencies of all features build with Rust {sys.argv[1]}")
sys.exit(bool(newer))
' "$oldest"

if ! rustup toolchain list 2>/dev/null | grep -q "^$oldest"; then
    echo "make msrv: no Rust $oldest here, so nothing was built with it: rustup toolchain install $oldest"
    exit 0
fi
"$CARGO" "+$oldest" check --locked --quiet --lib --examples --features "$FEATURES" --target-dir target/msrv
"$CARGO" "+$oldest" check --locked --quiet --lib --no-default-features --target-dir target/msrv
echo "make msrv: builds with Rust $oldest"
