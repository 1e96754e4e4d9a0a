package nginx

import (
	"strconv"

	"chom.dev/proto/contract"
)

// paths is where things are; tests put them elsewhere.
type paths struct {
	etc       string   // /etc/nginx
	logs      string   // /var/log/chom/sites
	trees     string   // run.SitesDir
	pid       string   // file with the master's process id
	rotate    string   // logrotate's file of ours
	addresses []string // what servers listen on for HTTP
	secure    []string // and for HTTPS

	challenges string // where a site's answers to CAs lie, below its handle
}

func (p paths) chom() string                  { return p.etc + "/chom" }
func (p paths) sites() string                 { return p.etc + "/chom/sites" }
func (p paths) good() string                  { return p.etc + "/chom/good" }
func (p paths) broken() string                { return p.etc + "/chom/broken" }
func (p paths) generation() string            { return p.etc + "/chom/generation.conf" }
func (p paths) main() string                  { return p.etc + "/conf.d/chom.conf" }
func (p paths) candidate() string             { return p.etc + "/.chom-candidate.conf" }
func (p paths) site(h contract.Handle) string { return p.sites() + "/" + h.String() + ".conf" }
func (p paths) keep(h contract.Handle) string { return p.good() + "/" + h.String() + ".conf" }
func (p paths) trial(h contract.Handle) string {
	return p.chom() + "/candidate/" + h.String() + ".conf"
}
func (p paths) snippets(h contract.Handle) string { return p.chom() + "/snippets/" + h.String() }

// generationHost is a name that no client can own (RFC 6761): the server
// behind it tells this host, and nobody else, which generation it serves.
const generationHost = "generation.chom.invalid"

// base is the part of chom.conf that doesn't depend on the sites.
func (p paths) base() []Directive {
	refuse := []Directive{}
	for _, addr := range p.addresses {
		refuse = append(refuse, d("listen", addr, "default_server"))
	}
	refuse = append(refuse,
		d("server_name", "_"),
		d("server_tokens", "off"),
		d("access_log", "off"),
		d("return", "444"), // no answer at all: an unknown name gets no neighbour's page and learns nothing
	)
	var unknown []Directive
	for _, addr := range p.secure {
		unknown = append(unknown, d("listen", addr, "ssl", "http2", "default_server"))
	}
	unknown = append(unknown, d("server_name", "_"), d("server_tokens", "off"), d("access_log", "off"))
	unknown = append(append(unknown, protocols()...),
		d("ssl_reject_handshake", "on"), // nobody's certificate is shown for an unknown name
		d("return", "444"),              // and who shook hands for a known one is told nothing of others
	)
	return []Directive{
		// Names of up to 253 characters, for thousands of sites.
		d("server_names_hash_bucket_size", "512"),
		d("server_names_hash_max_size", "65536"),
		d("log_format", "chom", "escape=json",
			`$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $host $request_time`),
		block("server", nil, refuse...),
		block("server", nil, unknown...),
	}
}

func (p paths) generationBlock(n int64) []Directive {
	var server []Directive
	for _, addr := range p.addresses {
		server = append(server, d("listen", addr))
	}
	server = append(server,
		d("server_name", generationHost),
		d("server_tokens", "off"),
		d("access_log", "off"),
		block("if", []string{"($remote_addr", "!~", `^(?:127\.|::1$))`}, d("return", "444")),
		d("default_type", "text/plain"),
		d("return", "200", strconv.FormatInt(n, 10)),
	)
	return []Directive{block("server", nil, server...)}
}
