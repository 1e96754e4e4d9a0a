#!/bin/bash
# Installs, with apt, the Debian packages that CHOM's own tasks need and this
# machine lacks. Quick and silent when nothing is missing.
#
#   deps.sh            everything
#   deps.sh SET...     only these sets: base, lab, postgres
set -euo pipefail

# Each line: set, Debian package, a file that the package brings. Looking for
# the file instead of asking dpkg lets a machine have it from elsewhere.
readonly needs='
base      ca-certificates    /etc/ssl/certs/ca-certificates.crt
base      curl               /usr/bin/curl
base      git                /usr/bin/git
base      make               /usr/bin/make
lab       debootstrap        /usr/sbin/debootstrap
lab       systemd-container  /usr/bin/systemd-nspawn
lab       nftables           /usr/sbin/nft
lab       iproute2           /usr/sbin/ip
lab       util-linux         /usr/bin/nsenter
lab       xz-utils           /usr/bin/xz
lab       debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
postgres  postgresql         /usr/lib/postgresql/*/bin/initdb
'

wanted=("$@")
[[ $# -gt 0 ]] || wanted=(base lab postgres)
for set in "${wanted[@]}"; do
	case $set in
	base | lab | postgres) ;;
	*)
		echo "deps.sh: unknown set '$set': there are base, lab, postgres" >&2
		exit 2
		;;
	esac
done

find_missing() {
	missing=()
	local set package file
	while read -r set package file; do
		[[ -n $set && " base ${wanted[*]} " == *" $set "* ]] || continue
		compgen -G "$file" >/dev/null || missing+=("$package")
	done <<<"$needs"
}

find_missing
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ $(id -u) -ne 0 ]]; then
	echo "deps.sh: missing: ${missing[*]}" >&2
	echo "deps.sh: run this as root, or install them with: apt-get install ${missing[*]}" >&2
	exit 1
fi

# The tests start their own PostgreSQL servers: none shall run by itself
# because of us. Only written where PostgreSQL was never configured.
if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common ]]; then
	mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi

echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=(apt-get --quiet --yes -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
if ! {
	"${apt[@]}" update &&
		"${apt[@]}" --no-install-recommends -o Dpkg::Options::=--force-confold install "${missing[@]}"
} >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	echo "deps.sh: apt could not install: ${missing[*]}" >&2
	exit 1
fi

# What apt calls installed must be what was looked for, else every run would
# install again.
find_missing
if [[ ${#missing[@]} -gt 0 ]]; then
	echo "deps.sh: apt succeeded, but still not found: ${missing[*]}" >&2
	exit 1
fi
