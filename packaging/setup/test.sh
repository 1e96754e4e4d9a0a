#!/usr/bin/env bash
# Runs every test there is and closes with one line of counts. CHOM_PROVE=1 runs the long forms.
set -euo pipefail
cd "$(dirname "$0")/../.."
packaging/setup/deps.sh test
packaging/setup/tools.sh
packaging/setup/check.sh
VERSION=0.1.0 packaging/agent/build.sh amd64 arm64
VERSION=0.1.0 TAGS=failpoint packaging/agent/build.sh amd64
mkdir -p bin-failpoint && go build -trimpath -tags failpoint -o bin-failpoint/ ./controlplane/cmd/... ./agent/cmd/...

# The tests of the WordPress plugin and those of whole sites install the same release.
CHOM_WORDPRESS_ARCHIVE=$(go run ./packaging/lab/cmd/chom-lab wordpress | cut -d ' ' -f 1)
export CHOM_WORDPRESS_ARCHIVE

# What the walks of a browser saw, for people to look at.
SCREENSHOTS=$PWD/controlplane/web/screenshots
export SCREENSHOTS
rm -rf "$SCREENSHOTS" && mkdir "$SCREENSHOTS"

logs=$(mktemp -d)
beside=()
trap 'rm -rf "$logs"; [ ${#beside[@]} -eq 0 ] || kill "${beside[@]}" 2>/dev/null || true' EXIT
failed=

# What a busy machine's timing broke gets a second try; it is told in the end, and more than a few are a failure.
go_tests() {
	local log=$1 niceness=$2 packages=$3
	shift 3
	nice -n "$niceness" gotestsum --format pkgname-and-test-fails --jsonfile "$logs/$log" \
		--rerun-fails=1 --rerun-fails-max-failures=6 --packages="$packages" -- -count=1 "$@"
}

# The walks of a browser. The tests of a file stand on each other, so a second try is one of the whole file.
web_tests() (
	cd controlplane/web
	export CHOMD=$PWD/../../bin-failpoint/chomd SWARM=$PWD/../../bin-failpoint/chom-swarm
	vitest() { npx vitest run --reporter=default --reporter=json --outputFile="$logs/web.$1" "${@:2}"; }
	vitest 1 && return
	mapfile -t again < <(node -p "JSON.parse(fs.readFileSync('$logs/web.1')).testResults.filter((file) => file.status === 'failed').map((file) => file.name).join('\n')")
	[ ${#again[@]} -le 2 ] && vitest 2 "${again[@]}"
)

# Tests on hosts wait for them most of the time, and have the processors before the units when they do not. The long ones end to end are
# two halves, each on hosts of its own. Of the units the longest begins first.
units=45m hosts=60m
[ "${CHOM_PROVE:-}" != 1 ] || units=6h hosts=6h
half='^(TestHostFaults|TestHostile|TestBackup|TestBackupKilled|TestPackagesOnHost)$'
go_tests e2e.1 0 ./packaging/e2e -timeout "$hosts" -run "$half" &
beside=($!)
go_tests e2e.2 0 ./packaging/e2e -timeout "$hosts" -skip "$half" &
beside+=($!)
go_tests hosts 0 "$(go list ./packaging/... | grep -v /e2e$)" -timeout "$hosts" -p 1 &
beside+=($!)
go_tests units 10 "$(go list ./controlplane/backup) $(go list ./proto/... ./plugins/... ./agent/... ./controlplane/... | grep -v /controlplane/backup$)" \
	-timeout "$units" || failed=--failed
web_tests || failed=--failed
for job in "${beside[@]}"; do wait "$job" || failed=--failed; done
beside=()

web=()
for report in "$logs"/web.*; do web+=(--web "$report"); done
go build -o "$logs/counts" ./packaging/setup/counts
"$logs/counts" $failed "${web[@]}" "$logs/e2e.1" "$logs/e2e.2" "$logs/hosts" "$logs/units"
