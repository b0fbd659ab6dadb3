#!/usr/bin/env bash
# Wheels for Linux, of this machine's processor, for each of INTERPRETERS: manylinux2014 (glibc 2.17) and, with the
# standard library for it, musllinux_1_2. Each is checked, and each for glibc is installed into a clean environment where
# the tests run. Ends with one line that says what happened. `make wheels` calls it with BIN (where maturin, zig and the
# checks are), INTERPRETERS and perhaps EXTRA_TARGETS set: further targets to build for, as `aarch64-unknown-linux-gnu`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

# maturin asks the Python that it finds for zig.
export PATH=$BIN:$PATH
rm -rf dist/*.whl
arch=$(uname -m)
# The wheel does not say where it was built.
export RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/pktalloc"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
read -ra interpreters <<<"$INTERPRETERS"
[ "${#interpreters[@]}" -gt 0 ] || { echo "make wheels: FAILED: none of python3.11 to python3.15 is here" >&2; exit 1; }

# build TARGET PLATFORM
build() {
    local std=()
    if [ ! -d "$(rustc --print target-libdir --target "$1")" ]; then
        if [ -z "${RUST_SOURCES:-}" ]; then
            echo "make wheels: no standard library for $1 here, so no wheel: rustup target add $1"
            return
        fi
        std=(-Zbuild-std)
        export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$RUST_SOURCES/library
        export RUSTFLAGS="$RUSTFLAGS --remap-path-prefix=$RUST_SOURCES=/rust"
    fi
    echo "+ wheels for $1, $2"
    "$BIN/maturin" build --locked --release --zig --target "$1" --compatibility "$2" --target-dir target/wheel-build \
        --out dist --interpreter "${interpreters[@]}" "${std[@]}"
}

build "$arch-unknown-linux-gnu" manylinux2014
for target in "$arch-unknown-linux-musl" ${EXTRA_TARGETS:-}; do
    case $target in
        *-musl*) (build "$target" musllinux_1_2) ;;
        *) (build "$target" manylinux2014) ;;
    esac
done

wheels=(dist/*.whl)
"$BIN/twine" check --strict "${wheels[@]}"
# W002: the stubs of an empty package marker are alike; what else it finds is an error.
"$BIN/check-wheel-contents" "${wheels[@]}"
for wheel in "${wheels[@]}"; do
    "$BIN/auditwheel" show "$wheel" | grep -qE 'platform tag:|consistent with' ||
        { echo "make wheels: FAILED: auditwheel does not know $wheel" >&2; exit 1; }
    if unzip -p "$wheel" '*.so' | grep -aqE "$PWD|${CARGO_HOME:-$HOME/.cargo}|$HOME/"; then
        echo "make wheels: FAILED: a path of this machine is in $wheel" >&2
        exit 1
    fi
done

tested=()
for interpreter in "${interpreters[@]}"; do
    tag=cp$("$interpreter" -c 'import sys; print("%d%d" % sys.version_info[:2])')
    scripts/test_installed.sh "$interpreter" dist/pktalloc-*-"$tag-$tag"-manylinux*_"$arch".whl
    tested+=("$("$interpreter" -c 'import platform; print(platform.python_version())')")
done
echo "make wheels: ${#wheels[@]} wheels in dist, the tests passed with those for glibc on Python ${tested[*]}"
