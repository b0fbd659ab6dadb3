#!/usr/bin/env bash
# Says whether VERSION is what this commit releases: Cargo.toml has it, the change log has a dated section for it and an
# empty [Unreleased], there are release notes, both packages say where the source is, and the README's links lead somewhere
# from the registries. Without VERSION it looks at the links alone. The release workflow calls it, with the tag's version
# where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-}
wrong=()

sed -n '/^\[package\]/,/^\[/p' Cargo.toml | grep -q '^repository = "https://' ||
    wrong+=("Cargo.toml has no repository = \"https://…\"")
for link in Source Issues Changelog; do
    sed -n '/^\[project\.urls\]/,/^\[/p' pyproject.toml | grep -q "^$link = \"https://" ||
        wrong+=("pyproject.toml has no $link = \"https://…\" under [project.urls]")
done
! grep -qE '\]\((docs/|[A-Z]+\.md)' README.md ||
    wrong+=("README.md has links to files, which lead nowhere on the package registries")

if [ -n "$version" ]; then
    crate=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
    [ "$crate" = "$version" ] || wrong+=("Cargo.toml says $crate, not $version")
    grep -qE "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
        wrong+=("CHANGELOG.md has no section '## [$version] - YYYY-MM-DD'")
    unreleased=$(awk '/^## /{ inside = /^## \[Unreleased\]/; next } inside && NF' CHANGELOG.md)
    [ -z "$unreleased" ] || wrong+=("CHANGELOG.md has entries left under [Unreleased]")
    grep -qE "^## ${version//./\\.}( |$)" docs/release-notes.md ||
        wrong+=("docs/release-notes.md has no section '## $version'")
fi

if [ "${#wrong[@]}" -gt 0 ]; then
    printf 'check_version: %s\n' "${wrong[@]}" >&2
    exit 1
fi
echo "check_version: the links are there${version:+, and $version is ready to be released}"
