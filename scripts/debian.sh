# To be read by other scripts: packages of Debian, also of newer suites and of other processors than the machine's, fetched
# with lists of their own and unpacked below a folder. Nothing is installed.
#
# shellcheck shell=bash

# newer STATE COMMAND …: an apt-get or apt-cache command on SUITES (and ARCH, empty for the machine's; with SOURCES=yes on
# their source packages), which keeps its lists below the folder STATE.
newer() {
    local state=$1/apt uri suite
    shift
    uri=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$')
    mkdir -p "$state"/{lists,cache/archives}/partial
    for suite in $SUITES; do
        echo "deb${SOURCES:+-src} [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
    done >"$state/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$state/lists" -o "Dir::State::status=/dev/null" -o "Dir::Cache=$state/cache"
        -o Acquire::Languages=none -o APT::Sandbox::User=root)
    [ -z "${ARCH:-}" ] || options+=(-o "APT::Architecture=$ARCH" -o "APT::Architectures=$ARCH")
    [ "$1" != update ] || { apt-get -qq "${options[@]}" update; return; }
    "$1" "${options[@]}" "${@:2}"
}
