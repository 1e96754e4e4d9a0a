# What both kinds of bare sites have in common; read by static.sh and
# wordpress.sh. It is what a careful administrator would type: the same user,
# tree, slice, walled-in units and nginx file that CHOM makes, the archive's checksum
# compared, what was written on the disk; without asking first what is there
# already, without checks of what came of it, without a way back.

verb=$1 name=$2 domain=${3-} title=${4-}
user=b-$name
tree=/srv/bench/$name
slice=bench-$name.slice

# own runs something as the site's user: what it makes is for him, and for nginx
# as a member of his group.
own() { (
	umask 027
	runuser -u "$user" -- "$@"
) }

lap() { # what: shows how long it took since the last one
	local now=${EPOCHREALTIME/./}
	printf '%s %d, ' "$1" $(((now - last) / 1000))
	last=$now
}
last=${EPOCHREALTIME/./}

make_user() {
	useradd --no-create-home --home-dir "$tree" --shell /usr/sbin/nologin --user-group "$user"
	usermod --append --groups "$user" www-data
	lap user
}

make_slice() {
	cat >"/etc/systemd/system/$slice" <<-END
		[Slice]
		CPUQuota=100%
		MemoryHigh=460M
		MemoryMax=512M
		MemorySwapMax=0
		TasksMax=256
	END
	lap slice
}

# wall prints what keeps a service of the site to itself.
wall() {
	cat <<-END
		User=$user
		Group=$user
		Slice=$slice
		UMask=0027
		NoNewPrivileges=yes
		CapabilityBoundingSet=
		RestrictSUIDSGID=yes
		RestrictNamespaces=yes
		RestrictRealtime=yes
		RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
		LockPersonality=yes
		SystemCallArchitectures=native
		PrivateTmp=yes
		PrivateDevices=yes
		PrivateIPC=yes
		ProtectSystem=strict
		ProtectHome=yes
		ProtectProc=invisible
		ProtectClock=yes
		ProtectControlGroups=yes
		ProtectHostname=yes
		ProtectKernelLogs=yes
		ProtectKernelModules=yes
		ProtectKernelTunables=yes
		KeyringMode=private
		TemporaryFileSystem=/srv/bench:ro
		BindPaths=$tree
		InaccessiblePaths=-/var/lib/mysql
	END
}

make_tree() {
	install -d -m 0755 /srv/bench /var/log/bench
	install -d -m 0750 "/var/log/bench/$name"
	install -d -m 0710 -o root -g "$user" "$tree"
	install -d -m 0750 -o "$user" -g "$user" "$tree/public"
	install -d -m 0700 -o "$user" -g "$user" "$tree/private"
	lap tree
}

serve() { # how: the location blocks of nginx
	cat >"/etc/nginx/conf.d/bench-$name.conf" <<-END
		server {
		    listen 80;
		    listen [::]:80;
		    server_name $domain;
		    server_tokens off;
		    access_log /var/log/bench/$name/access.log;
		    error_log /var/log/bench/$name/error.log warn;
		    root $tree/public;
		    index index.php index.html;
		    $1
		}
	END
	nginx -t -q
	lap 'nginx -t'
	systemctl reload nginx
	lap reload
	until curl --silent --fail --header "Host: $domain" http://127.0.0.1/ | grep -F "$title</title>" >/dev/null; do sleep 0.01; done
	lap page
}

unserve() {
	rm -f "/etc/nginx/conf.d/bench-$name.conf"
	systemctl reload nginx
}

remove_user() {
	rm -f "/etc/systemd/system/$slice"
	gpasswd --delete www-data "$user" >/dev/null
	userdel "$user"
	rm -rf -- "$tree" "/var/log/bench/$name"
}
