#!/usr/bin/env bash
# Builds the command line's package for the named architectures into dist/, or into the folder that OUT names.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${VERSION:?}" "${OUT:=dist}"
# What it says of itself is the same for all architectures, so that the one that runs here writes it.
about=$OUT/about
rm -rf "$about" && mkdir -p "$about"
go build -trimpath -ldflags "-X main.version=$VERSION" -o "$about/chom" ./controlplane/cmd/chom
for shell in bash zsh fish; do
	"$about/chom" completion "$shell" >"$about/completion.$shell"
done
"$about/chom" gen-man "$about/man"
gzip -9n "$about"/man/*.1
for arch in "$@"; do
	dir=$OUT/$arch
	mkdir -p "$dir"
	GOARCH=$arch GOOS=linux CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o "$dir/chom" ./controlplane/cmd/chom
	CHOM_ARCH=$arch CHOM_VERSION=$VERSION CHOM_DIST=$dir CHOM_ABOUT=$about nfpm package --config packaging/cli/nfpm.yaml \
		--packager deb --target "$OUT/chom_$arch.deb" >/dev/null
	echo "built $OUT/chom_$arch.deb"
done
