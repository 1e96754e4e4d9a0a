#!/bin/bash
# A WordPress site by hand: wordpress.sh create NAME DOMAIN TITLE, wordpress.sh remove NAME.
set -euo pipefail
cd "$(dirname "$0")"
. ./site.sh

pool=/etc/bench/php/$name.conf
socket=/run/bench-$name/php.sock
php=bench-php-$name.service
cron=bench-cron-$name

make_database() {
	mariadb <<-END
		CREATE DATABASE \`$name\` CHARACTER SET utf8mb4;
		CREATE USER \`$user\`@localhost IDENTIFIED VIA unix_socket;
		GRANT ALL ON \`$name\`.* TO \`$user\`@localhost;
	END
	lap database
}

make_units() {
	mkdir -p /etc/bench/php
	cat >"$pool" <<-END
		[global]
		error_log = syslog
		daemonize = no
		[$name]
		listen = $socket
		listen.mode = 0660
		pm = ondemand
		pm.max_children = 5
		php_admin_value[memory_limit] = 256M
	END
	cat >"/etc/systemd/system/$php" <<-END
		[Service]
		Type=notify
		$(wall)
		RuntimeDirectory=bench-$name
		RuntimeDirectoryMode=0750
		ExecStart=$(compgen -G '/usr/sbin/php-fpm[0-9]*') --nodaemonize --fpm-config $pool
		[Install]
		WantedBy=multi-user.target
	END
	cat >"/etc/systemd/system/$cron.service" <<-END
		[Service]
		Type=oneshot
		$(wall)
		ExecStart=/usr/bin/php -f $tree/public/wp-cron.php
	END
	cat >"/etc/systemd/system/$cron.timer" <<-END
		[Timer]
		OnCalendar=minutely
		RandomizedDelaySec=55
		[Install]
		WantedBy=timers.target
	END
	systemctl --quiet enable "$php" "$cron.timer" # loads them, too
	lap units
	systemctl start "$php"
	lap php-fpm
}

unpack() {
	sha256sum --check --quiet wordpress.tar.gz.sha256
	lap checksum
	own tar -xzf wordpress.tar.gz --strip-components=1 -C "$tree/public"
	lap unpack
}

install_wordpress() {
	own php install.php "$tree/public" "$name" "$user" "$domain" "$title"
	lap install
	sync --file-system "$tree"
	lap sync
}

create() {
	make_user
	make_slice
	make_database
	make_tree
	make_units
	unpack
	install_wordpress
	systemctl start "$cron.timer"
	lap cron
	serve "location / { try_files \$uri \$uri/ /index.php\$is_args\$args; }
		    location ~ \\.php\$ { include fastcgi.conf; fastcgi_pass unix:$socket; }"
}

remove() {
	unserve
	systemctl --quiet disable --now "$cron.timer" "$php"
	rm -f "/etc/systemd/system/$cron."* "/etc/systemd/system/$php" "$pool"
	mariadb -e "DROP DATABASE \`$name\`; DROP USER \`$user\`@localhost"
	remove_user
}

"$verb"
