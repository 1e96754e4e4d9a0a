#!/usr/bin/env bash
# What must hold of the sources before anything runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
modules="proto plugins agent controlplane packaging packaging/servers"

echo "== generated code is what the protos say"
buf format -d --exit-code
buf lint
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
buf generate -o "$fresh"
diff -r "$fresh/proto/gen" proto/gen
packaging/setup/web.sh build
(cd controlplane/web && buf generate -o "$fresh" && diff -r "$fresh/src/gen" src/gen && npm run -s check)
packaging/setup/openapi.sh | diff - controlplane/api/openapi.json

echo "== the protos break no one"
if git rev-parse -q --verify origin/main >/dev/null && git cat-file -e origin/main:buf.yaml 2>/dev/null; then
	buf breaking --against '.git#ref=origin/main'
fi

echo "== every module builds alone, and its go.mod is tidy"
for m in $modules; do
	(cd "$m" && GOWORK=off go mod tidy -diff && GOWORK=off go build ./...)
done
GOARCH=arm64 go build ./agent/... ./plugins/... ./controlplane/cmd/chom
go build -tags failpoint ./agent/... ./controlplane/...

echo "== vet and lint"
for m in $modules; do
	(cd "$m" && golangci-lint run --allow-parallel-runners ./...)
done
