package nginx

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chom.dev/proto/contract"
)

// Kind is how a site's pages come about.
type Kind int

// The kinds of sites.
const (
	Static Kind = iota + 1 // files, nothing is executed
	PHP                    // files, and the site's own php-fpm behind a front controller /index.php
)

// Site is everything that a site's server blocks depend on. Paths follow from
// the handle.
type Site struct {
	Handle    contract.Handle
	Domains   []contract.Domain // at least one; the first is the site's main name
	Redirects []contract.Domain // those of Domains that send visitors on to the first
	Kind      Kind
	Suspended bool              // every request is answered with 503, from nginx itself
	Restoring bool              // the same, in other words: what it was is about to come back
	BodyLimit contract.ByteSize // largest upload; zero is 64 MiB

	// Certificates of those of Domains that have one: these are served by HTTPS.
	Certificates map[contract.Domain]Certificate
	HSTS         time.Duration // how long browsers are told to come by HTTPS only; 0 tells them nothing
	KeepHTTP     bool          // HTTP is not sent on to HTTPS
}

// Certificate is what one name is served with.
type Certificate struct {
	Path    string // PEM file with key and chain, root's
	OCSP    bool   // it names a responder, whose answers are stapled (RFC 6066)
	Trusted bool   // browsers of visitors trust it; else nobody is sent on to HTTPS, or held to it
}

// Socket is where a site's php-fpm listens.
func Socket(h contract.Handle) string { return "/run/chom-php/" + h.String() + "/php.sock" }

// logsDir holds the logs of all sites.
const logsDir = "/var/log/chom/sites"

// AccessLog is where a site's requests are logged, in the format chom.
func AccessLog(h contract.Handle) string { return paths{logs: logsDir}.logDir(h) + "/access.log" }

// ErrorLog is where nginx says what it finds wrong with a site.
func ErrorLog(h contract.Handle) string { return paths{logs: logsDir}.logDir(h) + "/error.log" }

// logDir holds a site's access.log and error.log: root's, so that a tenant
// can't put links in their place.
func (p paths) logDir(h contract.Handle) string { return p.logs + "/" + h.String() }

// denied are file names whose content is never meant for a browser: copies
// that editors and administrators leave, dumps, logs, keys, configuration, all
// of these packed as often as one likes (dump.sql.tar.gz), and script types
// that php-fpm isn't asked to run and nginx would hand out as text.
const denied = `(?:~|#|\.(?:bak|backup|old|orig|save|sw[op]|sql|sqlite3?|dump|log|ini|env|inc|conf|cnf|ya?ml|lock|sh|pem|key|p12|pfx|phps|phar|phtml|pht|php[0-9]+)(?:\.(?:gz|bz2|xz|zst|zip|tar|tgz))*)$`

// noScripts are directories that applications let visitors upload into.
const noScripts = `^/(?:wp-content/(?:uploads|upgrade|cache|backups?)|uploads|files)/.*\.php(?:/|$)`

// serverBlock is a site's part of nginx's configuration. Names that are answered
// alike share a block; by HTTPS each has its own, since it has its own certificate:
//
//	                       HTTP                     HTTPS
//	redirect               301 to the first name    301 to the first name
//	trusted certificate    301 to HTTPS             the site
//	none, or KeepHTTP      the site                 the site, if it has a certificate
func (p paths) serverBlock(s Site) ([]Directive, error) {
	if s.Handle.IsZero() || len(s.Domains) == 0 || s.Kind != Static && s.Kind != PHP || s.Domains[0].IsWildcard() || slices.Contains(s.Redirects, s.Domains[0]) {
		return nil, fmt.Errorf("site %s: handle, domains and kind are needed, and a main name that is no wildcard and no redirect", s.Handle)
	}
	var open, moved, onward []contract.Domain
	for _, domain := range s.Domains {
		switch {
		case domain.IsZero():
			return nil, fmt.Errorf("site %s: empty domain", s.Handle)
		case slices.Contains(s.Redirects, domain):
			onward = append(onward, domain)
		case s.redirected(domain):
			moved = append(moved, domain)
		default:
			open = append(open, domain)
		}
	}
	var blocks []Directive
	for _, part := range []struct {
		names  []contract.Domain
		answer []Directive
	}{
		{open, p.pages(s)},
		{moved, sendTo("https://$host")},
		{onward, sendTo(s.home())},
	} {
		if len(part.names) > 0 {
			blocks = append(blocks, p.block(s, p.addresses, part.names, append(p.challenge(s.Handle), part.answer...)))
		}
	}
	for _, domain := range s.Domains {
		c, ok := s.Certificates[domain]
		if !ok {
			continue
		}
		answer := p.pages(s)
		if slices.Contains(s.Redirects, domain) {
			answer = sendTo(s.home())
		}
		inside := append(s.tls(domain, c), p.challenge(s.Handle)...) // a CDN may come to us by HTTPS only
		blocks = append(blocks, p.block(s, p.secure, []contract.Domain{domain}, append(inside, answer...)))
	}
	return blocks, nil
}

// redirected says whether visitors of a name are sent from HTTP to HTTPS.
func (s Site) redirected(name contract.Domain) bool {
	return !s.KeepHTTP && s.Certificates[name].Trusted
}

// home is where redirects lead, without a path.
func (s Site) home() string {
	if s.redirected(s.Domains[0]) {
		return "https://" + s.Domains[0].String()
	}
	return "http://" + s.Domains[0].String()
}

func sendTo(base string) []Directive {
	return []Directive{block("location", []string{"/"}, d("return", "301", base+"$request_uri"))}
}

// block is a server block with what all of them have.
func (p paths) block(s Site, addresses []string, names []contract.Domain, inside []Directive) Directive {
	var server []Directive
	for _, address := range addresses {
		server = append(server, d("listen", address)) // that one speaks TLS and HTTP/2 is said once, by the base
	}
	named := d("server_name")
	for _, name := range names {
		named.Args = append(named.Args, name.String())
	}
	logs := p.logDir(s.Handle)
	server = append(server, named,
		d("server_tokens", "off"),
		d("access_log", logs+"/access.log", "chom"),
		d("error_log", logs+"/error.log", "warn"),
	)
	return block("server", nil, append(server, inside...)...)
}

// challengePath is where a CA asks (RFC 8555, section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// challenge answers a CA from a place of root's, whatever the site's tree holds,
// and tells who asks from outside that the name leads here.
func (p paths) challenge(h contract.Handle) []Directive {
	return []Directive{
		block("location", []string{"=", challengePath + contract.ProbeFile},
			d("default_type", "text/plain"), d("return", "200", h.String())),
		block("location", []string{"^~", challengePath},
			d("default_type", "text/plain"),
			d("alias", p.challenges+"/"+h.String()+"/"),
			d("disable_symlinks", "on"),
		),
	}
}

// tls is how a name is served by HTTPS: TLS 1.2 with forward secrecy, and 1.3.
func (s Site) tls(name contract.Domain, c Certificate) []Directive {
	shaken := "^" + strings.ReplaceAll(name.Base().String(), ".", `\.`) + "$"
	if name.IsWildcard() {
		shaken = `^[^.]+\.` + shaken[1:]
	}
	inside := append(protocols(),
		d("ssl_certificate", c.Path),
		d("ssl_certificate_key", c.Path),
		// Who shook hands for another name gets no page of this one: it may be another tenant's. Clients may spell it in capitals.
		block("if", []string{"($ssl_server_name", "!~*", shaken + ")"}, d("return", "421")),
	)
	if c.OCSP {
		inside = append(inside, d("ssl_stapling", "on"))
	}
	if c.Trusted && s.HSTS > 0 {
		inside = append(inside, d("add_header", "Strict-Transport-Security", "max-age="+strconv.Itoa(int(s.HSTS.Seconds())), "always"))
	}
	return inside
}

// protocols are in every block: those of the default server count for the
// handshake, those of the name for the rest. Suites are Mozilla's intermediate ones.
func protocols() []Directive {
	return []Directive{
		d("ssl_protocols", "TLSv1.2", "TLSv1.3"),
		d("ssl_ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"),
		d("ssl_prefer_server_ciphers", "off"),
		d("ssl_session_cache", "shared:chom:10m"),
		d("ssl_session_tickets", "off"), // nginx would never change their key
	}
}

// pages are the site itself.
func (p paths) pages(s Site) []Directive {
	switch {
	case s.Restoring:
		return closed("60", "Be right back", "This site is being restored", "Please try again in a minute.")
	case s.Suspended:
		return closed("3600", "Suspended", "This site is suspended", "Please contact its owner.")
	}
	limit := s.BodyLimit.String()
	if s.BodyLimit.IsZero() {
		limit = "64M" // what a theme or a phone's video needs
	}
	inside := []Directive{
		d("root", p.trees+"/"+s.Handle.String()+"/public"),
		d("index", index(s.Kind)...),
		d("client_max_body_size", limit),
		// A link counts only if it belongs to the owner of what it points at.
		d("disable_symlinks", "if_not_owner", "from=$document_root"),
		d("add_header", "X-Content-Type-Options", "nosniff", "always"),
		// Regular expressions are tried in this order; the first match wins.
		notFound("~", `/\.(?!well-known(?:/|$))`),
		notFound("~*", denied),
	}
	switch s.Kind {
	case PHP:
		inside = append(inside,
			notFound("~*", noScripts),
			php(s.Handle),
			notFound("~*", `\.php(?:/|$)`), // X.PHP and x.php/y are neither run nor shown
			block("location", []string{"/"}, d("try_files", "$uri", "$uri/", "/index.php$is_args$args")),
		)
	case Static:
		inside = append(inside,
			notFound("~*", `\.php(?:/|$)`),
			block("location", []string{"/"}, d("try_files", "$uri", "$uri/", "=404")),
		)
	}
	return append(inside, d("include", p.snippets(s.Handle)+"/*.conf"))
}

func index(k Kind) []string {
	if k == PHP {
		return []string{"index.php", "index.html"}
	}
	return []string{"index.html", "index.htm"}
}

func notFound(how, pattern string) Directive {
	return block("location", []string{how, pattern}, d("return", "404"))
}

// php hands exactly the existing files named *.php to the site's own master.
func php(h contract.Handle) Directive {
	inside := []Directive{
		d("try_files", "$uri", "=404"),
		d("fastcgi_pass", "unix:"+Socket(h)),
		d("fastcgi_read_timeout", "120s"), // a little more than php-fpm's own limit, so that its error is the one seen
		d("fastcgi_buffer_size", "32k"),   // long cookies and headers of plugins
		d("fastcgi_buffers", "16", "16k"),
	}
	for _, p := range [][]string{
		{"SCRIPT_FILENAME", "$document_root$fastcgi_script_name"},
		{"SCRIPT_NAME", "$fastcgi_script_name"},
		{"DOCUMENT_ROOT", "$document_root"},
		{"DOCUMENT_URI", "$document_uri"},
		{"QUERY_STRING", "$query_string"},
		{"REQUEST_METHOD", "$request_method"},
		{"REQUEST_URI", "$request_uri"},
		{"REQUEST_SCHEME", "$scheme"},
		{"CONTENT_TYPE", "$content_type"},
		{"CONTENT_LENGTH", "$content_length"},
		{"HTTPS", "$https", "if_not_empty"},
		{"HTTP_HOST", "$host"}, // the name that chose this server, not whatever the client wrote
		{"HTTP_PROXY", ""},     // a request header must not become a proxy setting
		{"SERVER_PROTOCOL", "$server_protocol"},
		{"SERVER_SOFTWARE", "nginx"},
		{"SERVER_NAME", "$host"},
		{"SERVER_ADDR", "$server_addr"},
		{"SERVER_PORT", "$server_port"},
		{"REMOTE_ADDR", "$remote_addr"},
		{"REMOTE_PORT", "$remote_port"},
		{"REMOTE_USER", "$remote_user"},
		{"GATEWAY_INTERFACE", "CGI/1.1"},
		{"REDIRECT_STATUS", "200"},
	} {
		inside = append(inside, d("fastcgi_param", p...))
	}
	return block("location", []string{"~", `\.php$`}, inside...)
}

// closed answers everything from nginx itself: nothing of the site is
// touched, and search engines are told that it is temporary.
func closed(retryAfter, title, heading, text string) []Directive {
	return []Directive{
		block("location", []string{"/"}, d("return", "503")),
		d("error_page", "503", "@suspended"),
		block("location", []string{"@suspended"},
			d("default_type", "text/html"),
			d("add_header", "Retry-After", retryAfter, "always"),
			d("add_header", "Cache-Control", "no-store", "always"),
			d("return", "503", `<!doctype html><html lang="en"><meta charset="utf-8"><title>`+title+`</title><h1>`+heading+`</h1><p>`+text+`</p></html>`),
		),
	}
}
