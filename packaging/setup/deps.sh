#!/bin/bash
# Installs, with apt, the Debian packages that CHOM's own tasks need and this
# machine lacks. Quick and silent when nothing is missing. No server that it
# installs runs, now or after a reboot: tests start their own.
#
#   deps.sh            everything
#   deps.sh lab        what a lab host needs, as make demo and make bench do
#   deps.sh test       what make test needs: that, and the servers under test
set -euo pipefail

# Each line: set, Debian package, a file that the package brings. Looking for
# the file instead of asking dpkg lets a machine have it from elsewhere.
readonly needs='
lab   ca-certificates         /etc/ssl/certs/ca-certificates.crt
lab   curl                    /usr/bin/curl
lab   git                     /usr/bin/git
lab   make                    /usr/bin/make
lab   debootstrap             /usr/sbin/debootstrap
lab   systemd-container       /usr/bin/systemd-nspawn
lab   nftables                /usr/sbin/nft
lab   iproute2                /usr/sbin/ip
lab   util-linux              /usr/bin/nsenter
lab   xz-utils                /usr/bin/xz
lab   debian-archive-keyring  /usr/share/keyrings/debian-archive-keyring.gpg
test  postgresql              /usr/lib/postgresql/*/bin/initdb
test  redis-server            /usr/bin/redis-server
test  nginx                   /usr/sbin/nginx
test  knot                    /usr/sbin/knotd
test  knot-dnsutils           /usr/bin/knsupdate
test  pdns-server             /usr/sbin/pdns_server
test  pdns-backend-sqlite3    /usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql
test  mariadb-server          /usr/sbin/mariadbd
test  mariadb-client          /usr/bin/mariadb
test  restic                  /usr/bin/restic
test  openssh-server          /usr/sbin/sshd
test  openssl                 /usr/bin/openssl
test  chromium                /usr/bin/chromium
test  libnss3-tools           /usr/bin/certutil
test  php-cli                 /usr/bin/php
test  php-mysql               /usr/lib/php/20*/mysqli.so
test  php-xml                 /usr/lib/php/20*/dom.so
test  php-mbstring            /usr/lib/php/20*/mbstring.so
test  php-curl                /usr/lib/php/20*/curl.so
test  php-gd                  /usr/lib/php/20*/gd.so
test  php-zip                 /usr/lib/php/20*/zip.so
test  php-intl                /usr/lib/php/20*/intl.so
'

case ${1-test}:$# in
lab:1) sets=' lab ' ;;
test:[01]) sets=' lab test ' ;;
*)
	echo "deps.sh: unknown set '$*': there are lab and test" >&2
	exit 2
	;;
esac

find_missing() {
	missing=()
	local set package file
	while read -r set package file; do
		[[ -n $set && $sets == *" $set "* ]] || continue
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

lacks() { [[ " ${missing[*]} " == *" $1 "* ]]; }

# PostgreSQL starts what it calls its main cluster, unless told not to before
# it is installed. Only written where it was never configured.
if lacks postgresql && [[ ! -e /etc/postgresql-common ]]; then
	mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi

log=$(mktemp)
policy=
cleanup() {
	rm -f "$log"
	[[ -z $policy ]] || rm -f "$policy"
}
trap cleanup EXIT
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
	policy=/usr/sbin/policy-rc.d
	printf '#!/bin/sh\nexit 101\n' >$policy # 101: no service may start
	chmod 0755 $policy
fi

echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get --quiet --yes -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
if ! {
	"${apt[@]}" update &&
		"${apt[@]}" --no-install-recommends -o Dpkg::Options::=--force-confold install "${missing[@]}"
} >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	echo "deps.sh: apt could not install: ${missing[*]}" >&2
	exit 1
fi
if [[ -d /run/systemd/system ]]; then
	! lacks knot || systemctl --quiet disable knot.service
	! lacks pdns-server || systemctl --quiet disable pdns.service
	! lacks redis-server || systemctl --quiet disable redis-server.service
	! lacks openssh-server || systemctl --quiet disable ssh.service
	! lacks nginx || systemctl --quiet disable nginx.service
	! lacks mariadb-server || systemctl --quiet disable mariadb.service
fi

# What apt calls installed must be what was looked for, else every run would
# install again.
find_missing
if [[ ${#missing[@]} -gt 0 ]]; then
	echo "deps.sh: apt succeeded, but still not found: ${missing[*]}" >&2
	exit 1
fi
