#!/usr/bin/env bash
# Unpacks a Python of Debian's newer suites, or of another processor, below target/python, with the C library that it wants,
# and prints the path of its interpreter: scripts/debian_python.sh VERSION [ARCHITECTURE]. So
#
#     make wheels INTERPRETERS="python3.11 $(scripts/debian_python.sh 3.14)"
#
# An interpreter of another processor runs where the system hands its programs to qemu (binfmt_misc).
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
. scripts/debian.sh

version=$1
export ARCH=${2:-} SUITES="bookworm trixie forky sid"
root=$PWD/target/python/$version${ARCH:+-$ARCH}
python=$root/usr/bin/python$version
if ! "$python" -V >/dev/null 2>&1; then
    command -v patchelf >/dev/null || { echo "debian_python: patchelf is missing; Debian: patchelf" >&2; exit 1; }
    here=$root.parts
    rm -rf "$root" "$here"
    mkdir -p "$root" "$here"
    newer "$here" update >&2
    # The oldest suite that has it, with what it depends on there.
    found=$(newer "$here" apt-cache madison "python$version-venv" | awk '{ sub("/.*", "", $6); print $6 }' | tail -n 1)
    [ -n "$found" ] || { echo "debian_python: Debian has no python$version-venv" >&2; exit 1; }
    # Some of our tests are the interpreter's own; not every version has them packed. NumPy wants the library of C++, for
    # which a processor that is not the machine's has none here.
    own=$(SUITES=$found newer "$here" apt-cache pkgnames "libpython$version-testsuite")
    [ -z "$ARCH" ] || own="$own libstdc++6"
    SUITES=$found newer "$here" apt-get -qq --download-only --no-install-recommends install "python$version-venv" $own >&2
    for package in "$here"/apt/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    # Programs of the machine's own keep its C library; this interpreter takes the one beside it.
    loader=$(find "$root" -name "$(basename "$(patchelf --print-interpreter "$python")")" | sort | tail -n 1)
    # Bookworm's C library and the others lie in two folders.
    libraries=$(find "$root" \( -name libc.so.6 -o -name libssl.so.3 \) -exec dirname {} ';' | sort -u | paste -sd:)
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$python"
    # Where it looks for the pip that it gives to new environments.
    sed -i "s|'WHEEL_PKG_DIR': '|&$root|" "$root"/usr/lib/python"$version"/_sysconfigdata*.py
    rm -rf "$here"
fi
"$python" -c 'import ensurepip, ssl, sqlite3, ctypes' >&2
echo "$python"
