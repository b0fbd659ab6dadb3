#!/usr/bin/env bash
# The crate on other systems and processors: compiled for all of TARGETS, and its tests run where this machine can run
# them, natively or under qemu's user mode. Ends with one line that says what happened. `make cross` calls it with CARGO,
# FEATURES, BIN (where cargo-zigbuild and zig are) and perhaps TARGETS and RESUME set.
#
# Each target takes minutes. With RESUME=yes those are left out that passed with the same sources and compiler already, so
# that a run that was interrupted goes on where it stopped.
#
# Where the toolchain has no standard library for a target it is built from source: rustup's rust-src, or Debian's
# package of the same version, unpacked into target/cross. Zig links. What cannot be had is said, and skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
. scripts/debian.sh

here=$PWD/target/cross
mkdir -p "$here"
version=$(rustc -V | awk '{ print $2 }')
host=$(rustc -vV | awk '/^host: / { print $2 }')

# target        how it is run ("-": compiled only; "loader": by its own C library)   Debian's package with that
all="
x86_64-unknown-linux-gnu        native              -
x86_64-unknown-linux-musl       native              -
aarch64-unknown-linux-gnu       qemu-aarch64        libc6-arm64-cross
aarch64-unknown-linux-musl      qemu-aarch64        -
i686-unknown-linux-gnu          loader              libc6-i386
armv7-unknown-linux-gnueabihf   qemu-arm            libc6-armhf-cross
s390x-unknown-linux-gnu         qemu-s390x          libc6-s390x-cross
x86_64-unknown-freebsd          -                   -
x86_64-apple-darwin             -                   -
aarch64-apple-darwin            -                   -
x86_64-pc-windows-msvc          -                   -
"
targets=${TARGETS:-$(awk -v host="$host" 'NF && $1 != host { print $1 }' <<<"$all")}

skip() {
    echo "make cross: skipped: $1"
    exit 0
}

# The sources of the standard library of this very toolchain.
sources=$(rustc --print sysroot)/lib/rustlib/src/rust
if [ ! -d "$sources/library" ]; then
    sources=$here/rust-src/usr/src/rustc-$version
    if [ ! -d "$sources/library" ]; then
        SUITES="trixie-backports sid"
        command -v apt-get dpkg-deb >/dev/null || skip "no sources of the standard library: rustup component add rust-src"
        newer "$here" update
        package=$(newer "$here" apt-cache madison rust-src |
            awk -v version="$version+" 'index($3, version) == 1 { print $3; exit }')
        [ -n "$package" ] || skip "Debian has no rust-src of $version, and rustup no rust-src"
        (cd "$here" && newer "$here" apt-get -qq download "rust-src=$package" &&
            dpkg-deb -x rust-src_*.deb rust-src && rm rust-src_*.deb) || skip "rust-src $package could not be fetched"
    fi
fi

# A target's C library, for qemu: the folder that it takes for the root.
root_of() {
    local root=$here/root-$1
    if [ ! -d "$root" ]; then
        (cd "$here" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg-deb -x "$1"_*.deb "$root" &&
            rm "$1"_*.deb) >&2 || return 1
        # Qemu looks for a program's loader below the root, and follows a link of it to the machine's own root.
        find "$root" -type l -lname '/*' -exec bash -c 'ln -sfr "$0$(readlink "$1")" "$1"' "$root" {} ';' || return 1
    fi
    # The packages for cross compilers have it one level down.
    for inner in "$root"/usr/*-linux-gnu*/lib; do
        [ ! -d "$inner" ] || root=$(dirname "$inner")
    done
    echo "$root"
}

# cargo-zigbuild asks the Python that it finds for zig.
export PATH=$BIN:$PATH
export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$sources/library
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 PROPTEST_CASES="${PROPTEST_CASES:-4}"
# Programs that take minutes, and tests of how long something takes (also in instructions: valgrind knows
# neither the other processors nor the names in programs that zig has linked).
long=(--skip ten_thousand_windows --skip a_refusal_at_any_point --skip a_single_refusal --skip streams_are_pinned
    --skip every_cycle_can_be_repeated --skip claims_of_huge_packets_cost_no_more
    --skip a_shrink_that_frees_no_unit_costs_next_to_nothing
    --skip a_block_that_has_to_move_costs_little_more_than_two_calls)
# Programs that take minutes under an emulator. And qemu's user mode does not pass on all options of sockets
# (SO_TIMESTAMPNS, SO_RXQ_OVFL), and says so.
emulated=(--skip every_layout_is_served --skip every_size_in_every_call
    --skip what_the_system_says_about_a_datagram --skip datagrams_that_the_receive_buffer_had_no_room_for)
# Nor does it turn the bytes of what it passes on for a processor of another byte order: segment sizes of datagrams that
# leave together, and the scope of an address.
turned=(--skip an_allocator_at_its_limit_keeps_the_rest --skip a_bad_datagram_among_good_ones
    --skip into_packets_that_other_threads_free --skip long_datagrams --skip joined_on_the_way
    --skip the_scope_of_a_link_local_peer --skip small_datagrams_in_large_slots)
# The Python face, where nothing is linked: of the interpreter only the version has to be known.
python=(env PYO3_CROSS=1 PYO3_CROSS_PYTHON_VERSION=3.11)
# What a target passed with.
state=$( (rustc -V && git ls-files -z -- '*.rs' Cargo.toml Cargo.lock scripts/cross.sh | xargs -0 cat) | sha256sum)
passed=()
compiled=()
failed=()
left_out=()

for target in $targets; do
    read -r _ runner library < <(awk -v target="$target" '$1 == target' <<<"$all")
    [ -n "${runner:-}" ] || { failed+=("$target is not in scripts/cross.sh"); continue; }
    std=()
    [ -d "$(rustc --print target-libdir --target "$target")" ] || std=(-Zbuild-std)
    log=$here/$target.log
    stamp=$here/$target.passed
    if [ "${RESUME:-}" = yes ] && [ "$(head -n 1 "$stamp" 2>/dev/null)" = "$state" ]; then
        what=$(tail -n 1 "$stamp")
        echo "+ $target: passed before with these sources"
        [ "$runner" = - ] && compiled+=("$what") || passed+=("$what")
        continue
    fi
    rm -f "$stamp"
    # What starts a program for musl comes with the toolchain or with zig; a library that was built here has none.
    if [ "${#std[@]}" -gt 0 ] && [[ "$target" == *-musl* ]]; then
        export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS=-Clink-self-contained=no"
    fi
    # What the tests depend on is built once and runs little, but for what decompresses.
    common=(--locked --quiet --target "$target" --target-dir "$here/build" --config 'profile.dev.package."*".opt-level=0'
        "${std[@]}")
    for package in flate2 miniz_oxide crc32fast simd-adler32 adler2 ruzstd twox-hash; do
        common+=(--config "profile.dev.package.$package.opt-level=1")
    done
    if [ "$runner" = - ]; then
        echo "+ $target: compile"
        if "$CARGO" check "${common[@]}" --lib --features "$FEATURES" 2>&1 | tee "$log" &&
            "$CARGO" check "${common[@]}" --lib --no-default-features 2>&1 | tee -a "$log" &&
            "${python[@]}" "$CARGO" check "${common[@]}" --lib --features "$FEATURES,python" 2>&1 | tee -a "$log"; then
            compiled+=("$target")
            printf '%s\n' "$state" "$target" >"$stamp"
        else
            failed+=("$target does not compile")
        fi
        continue
    fi
    left=("${long[@]}")
    [[ "$runner" != qemu-* ]] || left+=("${emulated[@]}")
    [[ "$target" != s390x-* ]] || left+=("${turned[@]}")
    variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUNNER
    if [ "$runner" = loader ]; then
        root=$(root_of "$library") || { left_out+=("$target: $library could not be fetched"); continue; }
        flags="-Clink-arg=-Wl,--dynamic-linker=$root/lib32/ld-linux.so.2 -Clink-arg=-Wl,-rpath,$root/lib32"
        export "${variable%_RUNNER}_RUSTFLAGS=$flags"
    elif [ "$runner" != native ]; then
        command -v "$runner" >/dev/null || { left_out+=("$target: no $runner here, Debian: qemu-user"); continue; }
        if [ "$library" != - ]; then
            root=$(root_of "$library") || { left_out+=("$target: $library could not be fetched"); continue; }
            export "$variable=$runner -L $root"
        else
            export "$variable=$runner"
        fi
    fi
    echo "+ $target: test"
    "$BIN/cargo-zigbuild" test "${common[@]}" --no-fail-fast --lib --tests --features "$FEATURES" -- "${left[@]}" \
        2>&1 | tee "$log"
    if [ "${PIPESTATUS[0]}" -eq 0 ]; then
        what="$target ($(awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$log") tests)"
        passed+=("$what")
        printf '%s\n' "$state" "$what" >"$stamp"
    else
        failed+=("$target (see $log)")
    fi
done

join() { local IFS=,; echo "${*:-none}" | sed 's/,/, /g'; }
summary="passed: $(join "${passed[@]}"); compiled: $(join "${compiled[@]}"); left out: $(join "${left_out[@]}")"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "make cross: FAILED: $(join "${failed[@]}") ($summary)"
    exit 1
fi
echo "make cross: $summary"
