#!/usr/bin/env bash
# Fetches what controlplane/web is built with, as its lock file says; with "build" it builds the dashboard too, which chomd carries.
# What is there already costs nothing.
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
if [ "${1-}" = build ]; then
	sources=$(find src public index.html vite.config.ts tsconfig.json package-lock.json -type f ! -name '*.test.*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
	if [ ! -f dist/index.html ] || [ "$sources" != "$(cat node_modules/.built 2>/dev/null)" ]; then
		npm run -s build -- --logLevel warn
		echo "$sources" >node_modules/.built
	fi
fi
