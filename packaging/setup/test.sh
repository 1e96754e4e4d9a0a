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

log=$(mktemp)
trap 'rm -f "$log" "$log.web"' EXIT
failed=0
units=$(go list ./proto/... ./plugins/... ./agent/... ./controlplane/...)
hosts=$(go list ./packaging/...)
# What a busy machine's timing broke gets a second try; it is listed as flaky, and more than a few are a failure.
run() {
	local packages=$1
	shift
	gotestsum --format pkgname-and-test-fails --jsonfile "$log.part" --rerun-fails=1 --rerun-fails-max-failures=6 \
		--rerun-fails-report "$log.flaky" --packages="$packages" -- -count=1 "$@" || failed=1
	cat "$log.part" >>"$log"
	if [ -s "$log.flaky" ]; then
		echo "needed a second try:" && cat "$log.flaky"
	fi
	rm -f "$log.part" "$log.flaky"
}
within=45m
[ "${CHOM_PROVE:-}" != 1 ] || within=6h
run "$units" -timeout "$within"
(cd controlplane/web && CHOMD=$PWD/../../bin-failpoint/chomd SWARM=$PWD/../../bin-failpoint/chom-swarm npx vitest run --reporter=default --reporter=json --outputFile="$log.web") || failed=1
within=60m
[ "${CHOM_PROVE:-}" != 1 ] || within=4h
run "$hosts" -timeout "$within" -p 1

# For people to look at: whatever became of it, the counts come last.
echo "the slowest tests:"
gotestsum tool slowest --jsonfile "$log" --threshold 20s --num 40 || true

# What vitest counted.
web() { node -p "JSON.parse(require('fs').readFileSync('$log.web')).$1"; }
passes=$(grep -cE '"Action":"pass".*"Test":' "$log" || true)
passes=$((passes + $(web numPassedTests)))
fails=0
[ "$failed" -eq 0 ] || fails=$(grep -cE '"Action":"(fail|build-fail)"' "$log" || true)
fails=$((fails + $(web numFailedTests)))
skips=$(grep -cE '"Action":"skip".*"Test":' "$log" || true)
skips=$((skips + $(web numPendingTests)))
if [ "$skips" -gt 0 ]; then
	echo "tests were skipped: a missing server must fail, not skip" >&2
	failed=1
fi
if [ "$failed" -ne 0 ] && [ "$fails" -eq 0 ]; then
	fails=1
fi
echo "$passes passed, $fails failed"
exit "$failed"
