#!/bin/sh
# Installs the musl wheel for this interpreter from dist, and runs the tests: the release workflow calls it on Alpine.
set -eu
cp -r "$(dirname "$0")/.." /tmp/pktalloc
cd /tmp/pktalloc
tag=cp$(python -c 'import sys; print("%d%d" % sys.version_info[:2])')
python -m pip install --quiet --upgrade 'pip>=25.1'
for wheel in dist/pktalloc-*-"$tag-$tag"-musllinux*_"$(uname -m)".whl; do
    python -m pip install --quiet "$wheel[cli]"
done
python -m pip install --quiet --group test
python -W error -c "import pktalloc; pktalloc.Allocator().allocate(1400)"
python -m pytest --quiet
