#!/bin/sh
# Installs the CHOM agent on this server and enrols it, or upgrades it where it is enrolled already.
#
# This file is the same for everybody: nothing is ever filled in. What differs comes as arguments, which it checks,
# and the join token comes on standard input, so that it stands in no argument list and in no environment:
#
#   printf '%s\n' TOKEN | sudo sh install.sh --url URL --agents HOST:PORT --packages SHA256
#
#   --url       where the control plane serves this script and the packages, for example https://chom.example.com
#   --agents    address that the agent dials, for example chom.example.com:8443
#   --packages  SHA-256 of the list of package checksums (URL/packages/SHA256SUMS); it pins every byte that is installed
#
# Exit codes: 0 done, 1 failed (the last lines say why and what to do), 2 wrong arguments.

set -eu
umask 077
LC_ALL=C
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH

readonly CONFIG=/etc/chom-agent/config.yaml
readonly IDENTITY=/var/lib/chom-agent/identity/current.pem
readonly MIN_FREE_KIB=1572864   # 1.5 GiB: the agent, nginx, PHP, MariaDB and a first site
readonly MAX_CLOCK_SKEW=1800    # s; certificates are made valid from one hour ago
readonly CONNECT_SECONDS=30

say() { printf 'chom: %s\n' "$*"; }

# fail WHAT NEXT: both in plain words.
fail() {
	printf 'chom: error: %s\n' "$1" >&2
	[ -z "${2:-}" ] || printf 'chom: next:  %s\n' "$2" >&2
	exit 1
}

usage() {
	printf 'chom: error: %s\n' "$1" >&2
	printf 'usage: printf "%%s\\n" TOKEN | sh install.sh --url URL --agents HOST:PORT --packages SHA256\n' >&2
	exit 2
}

# matches TEXT PATTERN: the whole text, which must be one line, is of the extended regular expression.
matches() {
	[ "$(printf '%s\n' "$1" | wc -l)" -eq 1 ] && printf '%s\n' "$1" | grep -Eq "^($2)\$"
}

main() {
	read_arguments "$@"
	read_token
	check_host
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	check_clock
	fetch_package
	if enrolled; then
		upgrade
	else
		enrol
	fi
}

read_arguments() {
	url='' agents='' packages=''
	while [ $# -gt 0 ]; do
		[ $# -ge 2 ] || usage "$(printf '%s' "$1" | tr -cd 'a-z-') needs a value"
		case $1 in
		--url) url=$2 ;;
		--agents) agents=$2 ;;
		--packages) packages=$2 ;;
		*) usage "there is no argument $(printf '%s' "$1" | tr -cd 'a-z0-9-')" ;;
		esac
		shift 2
	done
	host='[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\]'
	matches "$url" "https?://($host)(:[0-9]{1,5})?" || usage '--url must be http(s)://HOST or http(s)://HOST:PORT'
	matches "$agents" "($host):[0-9]{1,5}" || usage '--agents must be HOST:PORT'
	matches "$packages" '[0-9a-f]{64}' || usage '--packages must be 64 hexadecimal digits'
}

read_token() {
	if [ -t 0 ]; then
		printf 'Join token: ' >&2
	fi
	token=''
	IFS= read -r token || [ -n "$token" ] || usage 'no join token on standard input'
	matches "$token" 'chom1\.[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{20,128}\.[A-Za-z0-9_-]{43,64}' ||
		usage 'what came on standard input is not a join token (chom1....)'
}

check_host() {
	[ "$(id -u)" -eq 0 ] || fail 'this must run as root' 'paste the line as root, or as a user who may sudo'
	[ -d /run/systemd/system ] || fail 'systemd does not run here' 'use a virtual server or a system container, not an application container'
	[ -r /etc/os-release ] || fail 'this is not Debian 12 or 13' 'reinstall the server with one of them'
	# shellcheck disable=SC1091  # a file of the system's
	system=$(. /etc/os-release && printf '%s %s' "${ID:-unknown}" "${VERSION_ID:-unknown}")
	case $system in
	'debian 12' | 'debian 13') ;;
	*) fail "this is $system; CHOM runs on Debian 12 and 13" 'reinstall the server with one of them' ;;
	esac
	arch=$(dpkg --print-architecture)
	case $arch in
	amd64 | arm64) ;;
	*) fail "the processor architecture $arch is not supported" 'use a server with amd64 or arm64' ;;
	esac
	command -v curl >/dev/null || fail 'curl is missing' 'apt-get install curl'
	for dir in /var /srv; do
		free=$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')
		[ "$free" -ge "$MIN_FREE_KIB" ] ||
			fail "only $((free / 1024)) MiB are free in $dir; $((MIN_FREE_KIB / 1024)) MiB are needed" 'free some space or take a larger disk'
	done
}

# Certificates are about time: a clock that is far off would make every later error look like another one.
check_clock() {
	get "$url/install.sh" "$work/ignored" -D "$work/headers"
	theirs=$(sed -n 's/^[Dd]ate: *//p' "$work/headers" | tr -d '\r' | tail -n 1)
	matches "$theirs" '[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9:]{8} GMT' || return 0
	skew=$(($(date +%s) - $(date -d "$theirs" +%s)))
	[ "${skew#-}" -le "$MAX_CLOCK_SKEW" ] ||
		fail "this server's clock is ${skew#-} s away from the control plane's" 'timedatectl set-ntp true, wait a minute, paste the line again'
}

get() {
	source=$1 target=$2
	shift 2
	curl --fail --silent --show-error --location --proto '=http,https' --max-redirs 3 --connect-timeout 10 --max-time 300 \
		--max-filesize 268435456 "$@" --output "$target" -- "$source" ||
		fail "$source could not be fetched" "see that this server reaches $url (curl -I $url/healthz)"
}

# The pasted line pins the list of checksums, the list pins the package: what lies between needs no trust.
fetch_package() {
	say "fetching the agent for $system, $arch"
	get "$url/packages/SHA256SUMS" "$work/SHA256SUMS"
	[ "$(checksum "$work/SHA256SUMS")" = "$packages" ] ||
		fail 'the list of packages is not the one that this line was made for' 'make a new line with: chom server add (or: chom server token NAME); if it happens again, somebody may be changing the traffic'
	deb=chom-agent_$arch.deb
	want=$(awk -v name="$deb" '$2 == name { print $1 }' "$work/SHA256SUMS")
	matches "$want" '[0-9a-f]{64}' || fail "the control plane has no package for $arch" 'put one into its packages directory and make a new line'
	get "$url/packages/$deb" "$work/$deb"
	[ "$(checksum "$work/$deb")" = "$want" ] ||
		fail 'the package does not have the checksum that this line pins' 'nothing was installed; paste the line again, and if it happens again, somebody may be changing the traffic'
}

checksum() { sha256sum "$1" | cut -d ' ' -f 1; }

enrolled() {
	[ -x /usr/bin/chom-agent ] && [ -s "$CONFIG" ] && [ -s "$IDENTITY" ]
}

install_package() {
	chmod 755 "$work"
	chmod 644 "$work/$deb"
	# Its dependencies are part of every Debian system: the package lists are only fetched where one is missing.
	DEBIAN_FRONTEND=noninteractive dpkg --install "$work/$deb" >"$work/dpkg.log" 2>&1 || {
		say 'fetching what the package needs from Debian'
		{
			apt-get -qq update &&
				DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends --fix-broken install
		} >"$work/apt.log" 2>&1 || {
			tail -n 15 "$work/dpkg.log" "$work/apt.log" >&2
			fail 'the package could not be installed' 'repair what apt says above (apt-get -f install), then paste the line again'
		}
	}
	installed=$(dpkg-query --show --showformat='${Version}' chom-agent)
}

upgrade() {
	before=$(dpkg-query --show --showformat='${Version}' chom-agent 2>/dev/null || printf 'none')
	install_package
	systemctl enable --quiet chom-agent.service
	systemctl start chom-agent.service
	say "this server is enrolled already: its agent went from $before to $installed, and the join token was not used"
	say 'to enrol it as another server: chom-agent reset-identity, then paste the line again'
	wait_connected
}

enrol() {
	install_package
	say "installed chom-agent $installed"
	mkdir -p /etc/chom-agent
	chmod 755 /etc/chom-agent
	printf 'server: %s\n' "$agents" >"$work/config.yaml"
	chmod 644 "$work/config.yaml"
	mv "$work/config.yaml" "$CONFIG"
	printf '%s\n' "$token" >"$work/token"
	if ! chom-agent enroll --token-file "$work/token"; then
		fail 'the control plane did not enrol this server' 'the reason stands above; a token works once and for 30 minutes: make a new line with: chom server token NAME'
	fi
	rm -f "$work/token"
	say 'enrolled; starting the agent'
	systemctl enable --quiet chom-agent.service
	systemctl restart chom-agent.service
	wait_connected
	say 'next: CHOM installs nginx, PHP and MariaDB here by itself; watch it with: chom server wait NAME'
}

wait_connected() {
	i=0
	until chom-agent status >"$work/status" 2>&1; do
		i=$((i + 1))
		if [ "$i" -ge "$CONNECT_SECONDS" ]; then
			cat "$work/status" >&2
			fail "the agent did not connect to the control plane within $CONNECT_SECONDS s; it goes on trying" 'journalctl -u chom-agent says why; see that this server reaches the address after --agents'
		fi
		sleep 1
	done
	say 'connected'
}

# Nothing runs before the last line is here: half a script does nothing.
main "$@"
