#!/usr/bin/env bash
# The crate without the standard library: builds for a microcontroller where the toolchain has the target, and runs
# tests/no_std, which would not build if anything brought the standard library in.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
target=thumbv7em-none-eabihf
if [ -d "$(rustc --print target-libdir --target "$target")" ]; then
    "$cargo" build --locked --quiet --lib --no-default-features --features allocator-api2 --target "$target"
else
    echo "check_no_std: no $target here, so not built for it: rustup target add $target"
fi
# The program starts as Linux starts programs.
if [ "$(uname -s)" = Linux ]; then
    "$cargo" run --locked --quiet --manifest-path tests/no_std/Cargo.toml --target-dir target/no-std
fi
echo "check_no_std: the crate stands on core and alloc alone"
