#!/usr/bin/env bash
# Builds a Python for musl, from Debian's sources and with zig, below target/python, and prints the path of its interpreter:
# scripts/musl_python.sh VERSION. Alpine's wheels can then be tested where there is no Alpine:
#
#     make wheels MUSL_INTERPRETERS="$(scripts/musl_python.sh 3.11)"
#
# It has zlib, libffi and OpenSSL built in, and takes the C library that Debian has of musl. Of the modules of the standard
# library those are missing that want another library (sqlite3, curses, readline, …).
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
. scripts/debian.sh

version=$1
BIN=${BIN:-$PWD/.venv/bin}
arch=$(uname -m)
root=$PWD/target/python/$version-musl
if ! "$root/bin/python3" -c 'import ssl, zlib, ctypes' 2>/dev/null; then
    here=$root.parts
    rm -rf "$root" "$here"
    mkdir -p "$root/lib" "$here"
    log=$here/log
    exec 3>&1 >"$log" 2>&1
    trap '[ $? -eq 0 ] || { tail -n 20 "$log"; echo "musl_python: failed; the whole of it is in $log"; } >&3' EXIT
    # Python's build adds the machine's own headers and libraries, which are glibc's.
    cat >"$here/cc" <<END
#!/bin/sh
for word; do
    shift
    case \$word in -[IL]/usr/*) ;; *) set -- "\$@" "\$word" ;; esac
done
exec "$BIN/python" -m ziglang cc -target $arch-linux-musl -dynamic -Wno-date-time "\$@"
END
    for tool in ar ranlib; do
        printf '#!/bin/sh\nexec "%s/python" -m ziglang %s "$@"\n' "$BIN" "$tool" >"$here/$tool"
    done
    chmod +x "$here"/{cc,ar,ranlib}
    export CC=$here/cc AR=$here/ar RANLIB=$here/ranlib CFLAGS="-O1 -fPIC"
    jobs=$(nproc)

    # The loader of musl is its C library as well. Zig's headers are of 1.2.5, so it must not be older.
    SUITES=trixie newer "$here/lib" update
    (cd "$here" && SUITES=trixie newer "$here/lib" apt-get -qq download musl && dpkg-deb -x musl_*.deb musl)
    loader=$root/lib/ld-musl-$arch.so.1
    cp "$(find "$here/musl" -name libc.so -o -name "ld-musl-$arch.so.1" -type f | head -n 1)" "$loader"

    export SOURCES=yes SUITES="bookworm trixie forky sid"
    newer "$here/sources" update
    # source PACKAGE: the oldest that a suite has, unpacked in a folder of that name
    source_of() {
        local oldest
        oldest=$(newer "$here/sources" apt-cache madison "$1" | awk 'NR == 1 { print $3 }')
        [ -n "$oldest" ] || { echo "Debian has no source of $1"; exit 1; }
        mkdir -p "$here/$1"
        (cd "$here/$1" && newer "$here/sources" apt-get -qq source --tar-only "$1=$oldest" &&
            tar -xf ./*.orig.tar.[bgx]z* --strip-components 1)
    }
    for package in zlib libffi openssl "python$version"; do
        source_of "$package"
    done

    (cd "$here/zlib" && ./configure --static --prefix="$here/usr" && make -j "$jobs" libz.a && make install)
    (cd "$here/libffi" && ./configure --build="$arch-linux-gnu" --host="$arch-linux-musl" --disable-shared --disable-docs --disable-exec-static-tramp \
        --prefix="$here/usr" && make -j "$jobs" && make install)
    (cd "$here/openssl" && ./Configure "linux-$arch" no-asm no-shared no-tests no-module --prefix="$here/usr" \
        --libdir=lib && make -j "$jobs" build_libs && make install_dev)
    # What tests of this interpreter build programs with.
    mkdir -p "$root/bin"
    cat >"$root/bin/cc" <<END
#!/bin/sh
exec "$BIN/python" -m ziglang cc -target $arch-linux-musl -dynamic -Wl,--dynamic-linker=$loader "\$@"
END
    chmod +x "$root/bin/cc"
    # From 3.13 on musl is known by what its stdarg.h defines, which zig does not use.
    export CPP="$CC -E -D__DEFINED_va_list"
    # Programs name the loader below the root, so that the machine can run them: this is no cross build.
    (cd "$here/python$version" && CPPFLAGS="-I$here/usr/include" LDFLAGS="-L$here/usr/lib -Wl,--dynamic-linker=$loader" \
        PKG_CONFIG_LIBDIR=$here/usr/lib/pkgconfig ./configure --build="$arch-alpine-linux-musl" --config-cache \
        --with-openssl="$here/usr" --with-ensurepip=no --prefix="$root" && make -j "$jobs" &&
        # What it compiles to byte code, three times, takes longer than the rest: below the top it is left out.
        make install COMPILEALL_OPTS=-l)
    exec >&3 2>&1
    rm -rf "$here"
fi
"$root/bin/python3" -c 'import ensurepip, ssl, zlib, ctypes' >&2
echo "$root/bin/python3"
