#!/bin/bash
# What certbot does for one name on a host of its own: the same order of the same
# CA, by HTTP-01, until nginx serves it.
#
#   certbot.sh prepare              install it
#   certbot.sh site NAME            a server block that answers by HTTP, before the clock runs
#   certbot.sh secure NAME CA       order, serve
set -euo pipefail
case $1 in
prepare)
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq -y --no-install-recommends install certbot >/dev/null
	systemctl disable --quiet --now certbot.timer
	rm -f /etc/nginx/sites-enabled/default
	systemctl restart nginx
	;;
site)
	mkdir -p "/var/www/$2"
	echo "$2" >"/var/www/$2/index.html"
	printf 'server { listen 80; server_name %s; root /var/www/%s; }\n' "$2" "$2" >"/etc/nginx/conf.d/$2.conf"
	nginx -q -t && systemctl reload nginx
	;;
secure)
	REQUESTS_CA_BUNDLE=/opt/bench/roots.pem certbot certonly --quiet --non-interactive --agree-tos --email ops@bench.example \
		--server "$3" --webroot --webroot-path "/var/www/$2" --domain "$2"
	printf 'server { listen 443 ssl; server_name %s; root /var/www/%s; ssl_certificate /etc/letsencrypt/live/%s/fullchain.pem; ssl_certificate_key /etc/letsencrypt/live/%s/privkey.pem; }\n' \
		"$2" "$2" "$2" "$2" >>"/etc/nginx/conf.d/$2.conf"
	nginx -q -t && systemctl reload nginx
	;;
esac
