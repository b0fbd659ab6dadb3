#!/usr/bin/env bash
# Installs a wheel or a source distribution into a clean environment, and runs the Python tests there, away from the
# repository: scripts/test_installed.sh INTERPRETER FILE.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

interpreter=$1
file=$(realpath "$2")
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT

echo "+ the tests with $(basename "$file") on $("$interpreter" -V)"
"$interpreter" -m venv "$away/venv"
python=$away/venv/bin/python
"$python" -m pip --quiet --disable-pip-version-check install --upgrade 'pip>=25.1'
if [[ "$file" == *.tar.gz ]]; then
    # Built once, and installed twice.
    "$python" -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir "$away/wheel" "$file"
    file=$(realpath "$away"/wheel/*.whl)
fi
# First by itself: what it needs, it must bring.
"$python" -m pip --quiet --disable-pip-version-check install "$file"
(cd "$away" && "$python" -W error -c "import pktalloc; pktalloc.Allocator().allocate(1400)")
"$python" -m pip --quiet --disable-pip-version-check install "$file[cli]"
cp -r tests docs src README.md SECURITY.md CONTRIBUTING.md Makefile pyproject.toml Cargo.toml "$away"
cd "$away"
"$python" -m pip --quiet --disable-pip-version-check install --group test
"$python" -m pytest --quiet
