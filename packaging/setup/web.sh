#!/usr/bin/env bash
# Fetches what controlplane/web is built with, as its lock file says. What is there already costs nothing.
set -euo pipefail
cd "$(dirname "$0")/../../controlplane/web"
if ! command -v npm >/dev/null; then
	echo "web.sh: npm is not on the PATH" >&2
	exit 1
fi
if ! cmp -s package-lock.json node_modules/.fetched; then
	npm ci --no-audit --no-fund --loglevel=error
	cp package-lock.json node_modules/.fetched
fi
