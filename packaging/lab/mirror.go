package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirror is where Debian's packages come from.
type mirror struct {
	Archive  string // of the release itself and its updates
	Security string
}

// aptSource is one line of a machine's apt sources.
type aptSource struct {
	uri, suite string
	components []string
}

// machineMirror takes the mirror that this machine itself uses: it is near, and
// on a closed network the only one. Machines without Debian sources get
// Debian's own.
func machineMirror(etcApt string) (mirror, error) {
	var all []aptSource
	lists, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*"))
	if err != nil {
		return mirror{}, err
	}
	for _, path := range append([]string{filepath.Join(etcApt, "sources.list")}, lists...) {
		parse := parseOneLine
		switch filepath.Ext(path) {
		case ".list":
		case ".sources":
			parse = parseDeb822
		default:
			continue // apt ignores it too
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return mirror{}, err
		}
		all = append(all, parse(string(raw))...)
	}
	return chooseMirror(all), nil
}

// chooseMirror picks Debian's own archives out of all sources: other vendors
// have suites of the same names, but not the component main in a path that ends
// in debian or debian-security.
func chooseMirror(sources []aptSource) mirror {
	m := mirror{Archive: "http://deb.debian.org/debian"}
	for _, s := range sources {
		if s.holds("/debian") {
			m.Archive = s.uri
			break
		}
	}
	m.Security = m.Archive + "-security" // how Debian's own and its full mirrors are laid out
	for _, s := range sources {
		if s.holds("/debian-security") {
			m.Security = s.uri
			break
		}
	}
	return m
}

func (s aptSource) holds(path string) bool {
	return strings.HasSuffix(s.uri, path) && strings.HasPrefix(s.uri, "http") && slices.Contains(s.components, "main")
}

// parseOneLine reads "deb [options] uri suite component...".
func parseOneLine(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if kind != "deb" {
			continue
		}
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 2 {
			sources = append(sources, aptSource{strings.TrimSuffix(f[0], "/"), f[1], f[2:]})
		}
	}
	return sources
}

// parseDeb822 reads stanzas of "Types:", "URIs:", "Suites:", "Components:".
func parseDeb822(text string) []aptSource {
	var sources []aptSource
	fields, last := map[string][]string{}, ""
	flush := func() {
		if slices.Contains(fields["types"], "deb") && !slices.Contains(fields["enabled"], "no") {
			for _, uri := range fields["uris"] {
				for _, suite := range fields["suites"] {
					sources = append(sources, aptSource{strings.TrimSuffix(uri, "/"), suite, fields["components"]})
				}
			}
		}
		fields, last = map[string][]string{}, ""
	}
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
			fields[last] = append(fields[last], strings.Fields(line)...)
		default:
			key, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(key)
			fields[last] = append(fields[last], strings.Fields(value)...)
		}
	}
	flush()
	return sources
}

// guestSources is a guest's /etc/apt/sources.list.d/debian.sources.
func (m mirror) guestSources(r Release) string {
	return fmt.Sprintf(`Types: deb
URIs: %s
Suites: %[2]s %[2]s-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: %[3]s
Suites: %[2]s-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`, m.Archive, r, m.Security)
}
