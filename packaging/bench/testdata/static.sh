#!/bin/bash
# A static site by hand: static.sh create NAME DOMAIN TITLE, static.sh remove NAME.
set -euo pipefail
cd "$(dirname "$0")"
. ./site.sh

create() {
	make_user
	make_slice
	make_tree
	printf '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>%s</title></head><body><h1>%s</h1></body></html>\n' \
		"$title" "$title" | own tee "$tree/public/index.html" >/dev/null
	sync "$tree/public/index.html" "$tree/public"
	lap page-file
	serve "location / { try_files \$uri \$uri/ =404; }"
}

remove() {
	unserve
	remove_user
}

"$verb"
