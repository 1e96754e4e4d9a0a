#!/bin/bash
# What a person does by hand for one site's backup, and what the site is filled with.
# Numbers that are measured are the last line.
#
#   backup.sh fill HANDLE                     20,000 files of 1 GB, a database of 200 MB
#   backup.sh change HANDLE ROUND WHERE       1 % of both: of the files as many in each directory, of the rows the "newest" or some "everywhere"
#   backup.sh restic HANDLE URL               restic of the files, mariadb-dump piped into restic: seconds, CPU seconds
#   backup.sh restore HANDLE URL              restic restore of the files, restic dump piped into mariadb: seconds
#   backup.sh dump HANDLE                     mariadb-dump to nowhere, which each backup of a database begins with: seconds
#   backup.sh tar HANDLE URL                  tar and dump through zstd to a file, and that to S3: seconds
#   backup.sh cpu HANDLE                      CPU seconds that the one site and the agent have taken so far
#   backup.sh memory HANDLE                   the most that the agent, its helper and restic have together, until it is over: MiB
#   backup.sh over HANDLE                     it is
#   backup.sh await HANDLE                    waits until a backup begins
#   backup.sh last HANDLE                     waits until it ends
#
# AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and RESTIC_PASSWORD are of the bench's own S3.
set -euo pipefail
shell=/srv/chom/sites/$2
as() { setpriv --reuid="s-$1" --regid="s-$1" --clear-groups "${@:2}"; }
now() { date +%s.%N; }
stream() { openssl enc -aes-128-ctr -K "$(printf '%032x' "$1")" -iv 0 -nosalt -in /dev/zero 2>/dev/null || true; }
common="--single-transaction --quick --skip-lock-tables --skip-dump-date --hex-blob --no-tablespaces"
case $1 in
fill)
	for p in zstd curl; do command -v $p >/dev/null || { apt-get -qq update && apt-get -qq -y install $p >/dev/null; }; done
	# Three quarters are as dense as pictures, a quarter is text.
	as "$2" bash -c "
		mkdir -p $shell/public/filling && cd $shell/public/filling
		for d in \$(seq 0 99); do mkdir -p \$d; done
		$(declare -f stream)
		stream 1 | head -c 786432000 | split -b 52429 -a 5 -d - picture
		stream 2 | base64 -w 76 | head -c 262144000 | split -b 52429 -a 5 -d - text
		printf '%s\n' picture* text* | split -n r/100 -a 2 -d - list
		for d in \$(seq 0 99); do xargs -a list\$(printf %02d \$d) mv -t \$d; done; rm list*"
	hashes=$(for i in $(seq 1 75); do printf 'SHA2(seq + %d000000, 512),' "$i"; done)
	mariadb "s$2" -e "
		CREATE TABLE filling (id INT PRIMARY KEY, title VARCHAR(200), content LONGTEXT, changed DATETIME);
		INSERT INTO filling SELECT seq, CONCAT('Title ', seq), CONCAT(${hashes%,}), '2026-01-01' FROM seq_1_to_20000"
	;;
change)
	as "$2" bash -c "cd $shell/public/filling; $(declare -f stream); n=0; for d in \$(seq 0 99); do for f in \$(ls \$d | head -2); do stream $3\$n | head -c 52429 >\$d/\$f; n=\$((n + 1)); done; done"
	rows="id > 20000 - 200"
	[ "$4" = newest ] || rows="id % 100 = $3"
	mariadb "s$2" -e "UPDATE filling SET content = CONCAT('$3', SHA2(id, 512), SUBSTRING(content, 130)), changed = NOW() WHERE $rows"
	;;
restic)
	export RESTIC_REPOSITORY=$3
	init=true
	restic cat config >/dev/null 2>&1 || init="restic init --repository-version=2 -q"
	begin=$(now)
	TIMEFORMAT='%U %S'
	cpu=$({ time { cd "$shell" && $init && restic backup -q --no-cache public private >/dev/null && mariadb-dump $common "s$2" | restic backup -q --no-cache --stdin --stdin-filename=database.sql >/dev/null; }; } 2>&1 | tail -1)
	echo "$(now) $begin $cpu" | awk '{print $1 - $2, $3 + $4}'
	;;
restore)
	export RESTIC_REPOSITORY=$3
	rm -rf /var/tmp/restored && mkdir /var/tmp/restored
	mariadb -e "DROP DATABASE IF EXISTS restored; CREATE DATABASE restored"
	begin=$(now)
	restic restore -q --no-cache --path "$shell/public" --path "$shell/private" --target /var/tmp/restored latest >/dev/null
	restic dump -q --no-cache --path /database.sql latest /database.sql | mariadb restored
	echo "$(now) $begin" | awk '{print $1 - $2}'
	mariadb -e "DROP DATABASE restored" && rm -rf /var/tmp/restored
	;;
dump)
	begin=$(now)
	mariadb-dump $common "s$2" >/dev/null
	echo "$(now) $begin" | awk '{print $1 - $2}'
	;;
tar)
	begin=$(now)
	{ tar -C "$shell" -c public private; mariadb-dump $common "s$2"; } | zstd -q -3 >/var/tmp/backup.tar.zst
	curl -sS --fail --aws-sigv4 aws:amz:us-east-1:s3 -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" -T /var/tmp/backup.tar.zst \
		-K - "${3#s3:}/backup.tar.zst" <<<"user = \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\""
	echo "$(now) $begin" | awk '{print $1 - $2}'
	rm /var/tmp/backup.tar.zst
	;;
cpu)
	cat /sys/fs/cgroup/chom.slice/cpu.stat /sys/fs/cgroup/system.slice/chom-agent.service/cpu.stat | awk '/usage_usec/ {s += $2} END {print s / 1e6}'
	;;
memory)
	most=0
	rm -f /run/bench-over
	until [ -e /run/bench-over ]; do
		have=$(ps -eo rss=,comm=,args= | awk '$2 == "restic" || $2 == "mariadb-dump" || $3 ~ /chom-agent/ {s += $1} END {print int(s / 1024)}')
		[ "$have" -gt "$most" ] && most=$have
		sleep 0.2
	done
	echo "$most"
	;;
over)
	touch /run/bench-over
	;;
await)
	until pgrep -x restic >/dev/null; do sleep 0.05; done
	;;
last)
	while pgrep -x restic >/dev/null; do sleep 0.05; done
	;;
esac
