#!/bin/sh
# Installs a wheel or a source distribution into a clean environment, and runs the Python tests there, away from the
# repository: scripts/test_installed.sh INTERPRETER FILE. For any shell, so that Alpine and Windows can run it as well.
set -eu
cd "$(dirname "$0")/.."
exec </dev/null

interpreter=$1
file=$(realpath "$2")
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT

echo "+ the tests with $(basename "$file") on $("$interpreter" -V)"
"$interpreter" -m venv "$away/venv"
python=$away/venv/bin/python
[ -e "$python" ] || python=$away/venv/Scripts/python.exe
pip() {
    "$python" -m pip --quiet --disable-pip-version-check "$@"
}
pip install --upgrade 'pip>=25.1'
case $file in
    *.tar.gz)
        # Built once, and installed twice.
        pip wheel --no-deps --wheel-dir "$away/wheel" "$file"
        file=$(realpath "$away"/wheel/*.whl)
        ;;
esac
# First by itself: what it needs, it must bring.
pip install "$file"
(cd "$away" && "$python" -W error -c "import pktalloc; pktalloc.Allocator().allocate(1400)")
pip install "$file[cli]"
# What the tests read: all but the package itself, which must be the installed one.
cp -r tests docs src scripts examples README.md SECURITY.md CONTRIBUTING.md Makefile pyproject.toml Cargo.toml "$away"
cd "$away"
pip install --group test
"$python" -m pytest --quiet
