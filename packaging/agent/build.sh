#!/usr/bin/env bash
# Builds the agent's package for the named architectures into dist/. TAGS=failpoint builds the one that tests kill.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${VERSION:?}" "${TAGS:=}"
out=dist${TAGS:+-$TAGS}
for arch in "$@"; do
	dir=$out/$arch
	mkdir -p "$dir"
	export GOARCH=$arch GOOS=linux CGO_ENABLED=0
	build() { go build -trimpath -tags "$TAGS" -ldflags "-s -w -X main.version=$VERSION" -o "$dir/$1" "$2"; }
	build chom-agent ./agent/cmd/chom-agent
	for type in static wordpress; do
		build "chom-plugin-$type" "./plugins/$type"
		# The agent trusts this file, never what a plugin that runs as a tenant says of itself.
		GOARCH= GOOS= go run -trimpath -ldflags "-X main.version=$VERSION" "./plugins/$type" describe >"$dir/chom-plugin-$type.json"
	done
	(cd "$dir" && sha256sum chom-plugin-* >SHA256SUMS)
	CHOM_ARCH=$arch CHOM_VERSION=$VERSION CHOM_DIST=$dir nfpm package --config packaging/agent/nfpm.yaml \
		--packager deb --target "$out/chom-agent_$arch.deb" >/dev/null
	echo "built $out/chom-agent_$arch.deb"
done
