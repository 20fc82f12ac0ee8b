# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Fetching Debian packages into a directory, for scripts that set
#   apt   the directory
#   arch  an architecture other than this machine's, or nothing
# Nothing is installed, and this machine's own package lists stay as they are.

: "${apt:=}"

# The system's own apt knows the mirror.
write_sources() {
    local suite=$1 uri release origin entry key seen=
    # shellcheck disable=SC2016
    while IFS='|' read -r uri release origin entry; do
        case $release in
        *-security) release=$suite-security ;;
        *[-/]*) continue ;;
        *) release=$suite ;;
        esac
        [ "$origin" = Debian ] || [ -z "$origin" ] || continue
        case $seen in *"|$release|"*) continue ;; esac
        seen="$seen|$release|"
        key=$(sed -nE 's/^Signed-By: *(\/[^ ]+).*/\1/p; s/^deb .*signed-by=(\/[^] ]+).*/\1/p' \
            "${entry%:*}" | head -n 1)
        # A keyring of one release does not know the next one.
        [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
            key=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb ${key:+[signed-by=$key] }$uri $release main"
    done < <(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(SOURCESENTRY)' \
        'Created-By: Packages' 'Component: main')
}

private_apt() {
    local tool=$1
    shift
    "$tool" -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$apt/state" -o Dir::State::Lists="$apt/lists" \
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Acquire::Languages=none ${arch:+-o APT::Architecture="$arch" -o APT::Architectures="$arch"} "$@"
}

# The packages' lists of a suite, in an empty $apt.
update_lists() {
    rm -rf -- "$apt"
    mkdir -p "$apt/state" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
    : >"$apt/status"
    write_sources "$1" >"$apt/sources.list"
    if [ ! -s "$apt/sources.list" ]; then
        say "no Debian mirror in this system's apt sources"
        return 1
    fi
    private_apt apt-get update
}

depends() {
    private_apt apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: //p'
}

# download_and_unpack DIRECTORY PACKAGE...
download_and_unpack() {
    local into=$1 package
    shift
    (cd "$apt/debs" && private_apt apt-get -o APT::Sandbox::User=root download "$@") || return 1
    for package in "$apt"/debs/*.deb; do
        dpkg -x "$package" "$into" || return 1
    done
}

# unpack_system DIRECTORY PACKAGE...: also what the packages depend on, and the essential packages.
# No maintainer script runs, so the packages may be of another architecture.
unpack_system() {
    local into=$1 package
    shift
    private_apt apt-get -o APT::Sandbox::User=root install -y --download-only --no-install-recommends \
        '?essential' "$@" || return 1
    for package in "$apt"/cache/archives/*.deb; do
        dpkg -x "$package" "$into" || return 1
    done
}
