package nginx

import (
	"fmt"

	"chom.dev/proto/contract"
)

// Kind is how a site's pages come about.
type Kind int

// The kinds of sites.
const (
	Static Kind = iota + 1 // files, nothing is executed
	PHP                    // files, and the site's own php-fpm behind a front controller /index.php
)

// Site is everything that a site's server block depends on. Paths follow from
// the handle.
type Site struct {
	Handle    contract.Handle
	Domains   []contract.Domain // at least one; the first is the site's main name
	Kind      Kind
	Suspended bool              // every request is answered with 503, from nginx itself
	BodyLimit contract.ByteSize // largest upload; zero is 64 MiB
}

// Socket is where a site's php-fpm listens.
func Socket(h contract.Handle) string { return "/run/chom-php/" + h.String() + "/php.sock" }

// LogDir holds a site's access.log and error.log: root's, so that a tenant
// can't put links in their place.
func (p paths) logDir(h contract.Handle) string { return p.logs + "/" + h.String() }

// denied are file names whose content is never meant for a browser: copies
// that editors and administrators leave, dumps, logs, keys, configuration, all
// of these packed as often as one likes (dump.sql.tar.gz), and script types
// that php-fpm isn't asked to run and nginx would hand out as text.
const denied = `(?:~|#|\.(?:bak|backup|old|orig|save|sw[op]|sql|sqlite3?|dump|log|ini|env|inc|conf|cnf|ya?ml|lock|sh|pem|key|p12|pfx|phps|phar|phtml|pht|php[0-9]+)(?:\.(?:gz|bz2|xz|zst|zip|tar|tgz))*)$`

// noScripts are directories that applications let visitors upload into.
const noScripts = `^/(?:wp-content/(?:uploads|upgrade|cache|backups?)|uploads|files)/.*\.php(?:/|$)`

// Every listening address a server block needs.
func (p paths) listen() []Directive {
	var out []Directive
	for _, addr := range p.addresses {
		out = append(out, d("listen", addr))
	}
	return out
}

// serverBlock is a site's part of nginx's configuration.
func (p paths) serverBlock(s Site) ([]Directive, error) {
	if s.Handle.IsZero() || len(s.Domains) == 0 || s.Kind != Static && s.Kind != PHP {
		return nil, fmt.Errorf("site %s: handle, domains and kind are needed", s.Handle)
	}
	server := p.listen()
	names := d("server_name")
	for _, domain := range s.Domains {
		if domain.IsZero() {
			return nil, fmt.Errorf("site %s: empty domain", s.Handle)
		}
		names.Args = append(names.Args, domain.String())
	}
	logs := p.logDir(s.Handle)
	server = append(server, names,
		d("server_tokens", "off"),
		d("access_log", logs+"/access.log", "chom"),
		d("error_log", logs+"/error.log", "warn"),
	)
	if s.Suspended {
		return []Directive{block("server", nil, append(server, suspended()...)...)}, nil
	}
	limit := s.BodyLimit.String()
	if s.BodyLimit.IsZero() {
		limit = "64M" // what a theme or a phone's video needs
	}
	server = append(server,
		d("root", p.trees+"/"+s.Handle.String()+"/public"),
		d("index", index(s.Kind)...),
		d("client_max_body_size", limit),
		// A link counts only if it belongs to the owner of what it points at.
		d("disable_symlinks", "if_not_owner", "from=$document_root"),
		d("add_header", "X-Content-Type-Options", "nosniff", "always"),
		// Regular expressions are tried in this order; the first match wins.
		notFound("~", `/\.(?!well-known(?:/|$))`),
		notFound("~*", denied),
	)
	switch s.Kind {
	case PHP:
		server = append(server,
			notFound("~*", noScripts),
			php(s.Handle),
			notFound("~*", `\.php(?:/|$)`), // X.PHP and x.php/y are neither run nor shown
			block("location", []string{"/"}, d("try_files", "$uri", "$uri/", "/index.php$is_args$args")),
		)
	case Static:
		server = append(server,
			notFound("~*", `\.php(?:/|$)`),
			block("location", []string{"/"}, d("try_files", "$uri", "$uri/", "=404")),
		)
	}
	server = append(server, d("include", p.snippets(s.Handle)+"/*.conf"))
	return []Directive{block("server", nil, server...)}, nil
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

// suspended answers everything from nginx itself: nothing of the site is
// touched, and search engines are told that it is temporary.
func suspended() []Directive {
	return []Directive{
		block("location", []string{"/"}, d("return", "503")),
		d("error_page", "503", "@suspended"),
		block("location", []string{"@suspended"},
			d("default_type", "text/html"),
			d("add_header", "Retry-After", "3600", "always"),
			d("add_header", "Cache-Control", "no-store", "always"),
			d("return", "503", `<!doctype html><html lang="en"><meta charset="utf-8"><title>Suspended</title><h1>This site is suspended</h1><p>Please contact its owner.</p></html>`),
		),
	}
}
