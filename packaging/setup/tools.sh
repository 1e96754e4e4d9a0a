#!/bin/bash
# Builds the Go tools that CHOM's own tasks use, each at its pinned version and
# from its own module, into a cache outside the tree. A tool that is there in
# that version costs nothing.
#
#   tools.sh           all of them
#   tools.sh NAME...   only these
#
# They go to $CHOM_CACHE/bin; CHOM_CACHE is /var/cache/chom for root, else
# $XDG_CACHE_HOME/chom (~/.cache/chom), unless it is set.
set -euo pipefail

readonly pinned='
buf                   github.com/bufbuild/buf/cmd/buf                          v1.75.0
protoc-gen-go         google.golang.org/protobuf/cmd/protoc-gen-go             v1.36.12
protoc-gen-connect-go connectrpc.com/connect/cmd/protoc-gen-connect-go         v1.21.1
protoc-gen-go-grpc    google.golang.org/grpc/cmd/protoc-gen-go-grpc            v1.6.2
nfpm                  github.com/goreleaser/nfpm/v2/cmd/nfpm                   v2.43.0
golangci-lint         github.com/golangci/golangci-lint/v2/cmd/golangci-lint   v2.15.0
gotestsum             gotest.tools/gotestsum                                   v1.13.0
pebble                github.com/letsencrypt/pebble/v2/cmd/pebble              v2.10.1
versitygw             github.com/versity/versitygw/cmd/versitygw               v1.8.0
'

if [[ $(id -u) -eq 0 ]]; then
	bin=${CHOM_CACHE:-/var/cache/chom}/bin
else
	bin=${CHOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chom}/bin
fi

# present NAME PACKAGE VERSION: is the cached binary this one? It says so itself.
present() {
	[[ -x $bin/$1 ]] || return 1
	local package='' version=''
	while read -r key first second _; do
		case $key in
		path) package=$first ;;
		mod) version=$second ;;
		esac
	done < <(go version -m "$bin/$1")
	[[ $package == "$2" && $version == "$3" ]]
}

build() {
	echo "building $1 $3" >&2
	local tmp
	tmp=$(mktemp -d "$bin/.build-XXXXXX")
	# Never a toolchain other than the one that builds CHOM: a linter made by an
	# older Go refuses newer code.
	if ! (cd / && CGO_ENABLED=0 GOFLAGS= GOWORK=off GOTOOLCHAIN=local GOBIN=$tmp go install "$2@$3") >&2; then
		rm -rf "$tmp"
		echo "tools.sh: $1 could not be built" >&2
		exit 1
	fi
	mv "$tmp/$1" "$bin/$1"
	rmdir "$tmp"
}

if ! command -v go >/dev/null; then
	echo "tools.sh: go is not on the PATH" >&2
	exit 1
fi
mkdir -p "$bin"
exec 9>"$bin/.lock"
flock 9 # two makes must not build the same thing at once

names=("$@")
[[ $# -gt 0 ]] || mapfile -t names < <(awk 'NF { print $1 }' <<<"$pinned")
for name in "${names[@]}"; do
	read -r package version < <(awk -v name="$name" '$1 == name { print $2, $3 }' <<<"$pinned") || {
		echo "tools.sh: unknown tool '$name'" >&2
		exit 2
	}
	present "$name" "$package" "$version" || build "$name" "$package" "$version"
done
