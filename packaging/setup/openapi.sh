#!/usr/bin/env bash
# Prints the OpenAPI document of the REST API: the protos with their comments, as buf reads them, and the authorization table.
set -euo pipefail
cd "$(dirname "$0")/../.."
image=$(mktemp)
trap 'rm -f "$image"' EXIT
buf build --path proto/chom -o "$image#format=binpb"
go run ./controlplane/openapi/generate <"$image"
