package telemetry

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/agent/logfile"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

// Lines as nginx writes them in the format chom.
const (
	page     = `198.51.100.7 - - [26/Nov/2026:17:00:01 +0000] "GET /wp-admin/ HTTP/1.1" 200 5120 "https://blog.example.com/" "Mozilla/5.0 (X11)" blog.example.com 0.120`
	missing  = `2001:db8::1 - - [26/Nov/2026:17:00:02 +0000] "GET /?q=\"><script> HTTP/2.0" 404 162 "" "curl/8.14" blog.example.com 0.001`
	broken   = `198.51.100.7 - - [26/Nov/2026:17:00:03 +0000] "POST /xmlrpc.php HTTP/1.1" 502 157 "" "" blog.example.com 30.001`
	ownProbe = `127.0.0.1 - - [26/Nov/2026:17:00:03 +0000] "GET / HTTP/1.1" 200 5120 "" "Go-http-client/1.1" blog.example.com 0.012`
)

func TestParseRequest(t *testing.T) {
	for _, c := range []struct {
		claim, line string
		want        request
		ok          bool
	}{
		{"reads a request", page, request{status: 200, bytes: 5120, seconds: 0.120}, true},
		{"reads quotes of a visitor's for what they are", missing, request{status: 404, bytes: 162, seconds: 0.001}, true},
		{"reads empty words", broken, request{status: 502, bytes: 157, seconds: 30.001}, true},
		{"knows the host's own", ownProbe, request{local: true, status: 200, bytes: 5120, seconds: 0.012}, true},
		{"believes no user's name", `192.0.2.1 - x [1/Jan/2026:0:0:0 +0000] \"GET / HTTP/1.1\" 500 999999 \" [26/Nov/2026:17:00:02 +0000] "GET / HTTP/1.1" 401 12 "" "" a.example 0.5`, request{status: 401, bytes: 12, seconds: 0.5}, true},
		{"believes no browser's name", `192.0.2.1 - - [26/Nov/2026:17:00:02 +0000] "GET / HTTP/1.1" 200 12 "" "\" 500 9 \" \" a 9.9" a.example 0.5`, request{status: 200, bytes: 12, seconds: 0.5}, true},
		{"reads what was no request at all", `192.0.2.1 - - [26/Nov/2026:17:00:02 +0000] "\u0016\u0003\u0001" 400 150 "" "" blog.example.com 0.000`, request{status: 400, bytes: 150}, true},
		{"passes over what is cut off", page[:60], request{}, false},
		{"passes over what has no time", strings.TrimSuffix(page, "0.120") + "NaN", request{}, false},
		{"passes over what has no status", strings.Replace(page, `" 200 5120`, `" 999 5120`, 1), request{}, false},
		{"passes over nothing", "", request{}, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			got, ok := parseRequest([]byte(c.line))
			if ok != c.ok || ok && got != c.want {
				t.Errorf("got %+v, %t", got, ok)
			}
		})
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, line := range []string{page, missing, broken, ownProbe, `\`, `"`, `a "b" 200 1 0`} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if r, ok := parseRequest([]byte(line)); ok && (r.status < 100 || r.status > 599 || !(r.seconds >= 0 && r.seconds <= maxSeconds)) {
			t.Errorf("%q: %+v", line, r)
		}
	})
}

// fixed is a registry with these sites.
type fixed []task.Site

func (f fixed) Sites() ([]task.Site, error) { return f, nil }

// logged is a site with an access log in a folder of its own, and what counts it.
type logged struct {
	*Sites
	t    *testing.T
	dir  string
	site task.Site
}

func newLogged(t *testing.T) *logged {
	t.Helper()
	handle, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	l := &logged{t: t, dir: t.TempDir(), site: task.Site{ID: contract.NewSiteID(), Handle: handle}}
	l.restart()
	l.write(os.O_CREATE, "")
	l.gather()
	return l
}

// restart is another process with the same file.
func (l *logged) restart() {
	l.Sites = NewSites(fixed{l.site}, filepath.Join(l.dir, "traffic.json"), func(contract.Handle) string { return l.path() }, slog.New(slog.NewTextHandler(l.t.Output(), nil)))
	l.cgroups = l.dir
}

func (l *logged) path() string { return filepath.Join(l.dir, "access.log") }

func (l *logged) write(flags int, text string) {
	l.t.Helper()
	file, err := os.OpenFile(l.path(), os.O_WRONLY|os.O_APPEND|flags, 0o640)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *logged) rotate() {
	l.t.Helper()
	if err := os.Rename(l.path(), l.path()+".1"); err != nil {
		l.t.Fatal(err)
	}
	l.write(os.O_CREATE|os.O_EXCL, "")
}

func (l *logged) gather() map[string]float64 {
	l.t.Helper()
	got := map[string]float64{}
	for _, s := range l.Gather(l.t.Context()) {
		if s.SiteId != l.site.ID.String() {
			l.t.Errorf("%s is of %q", s.Series, s.SiteId)
		}
		got[s.Series] = s.Value
	}
	return got
}

// counts fails the test unless these many 2xx were counted.
func (l *logged) counts(want int) {
	l.t.Helper()
	if got := l.gather()[`chom_site_requests_total{status="2xx"}`]; got != float64(want) {
		l.t.Errorf("counted %v, want %d", got, want)
	}
}

func TestSitesCount(t *testing.T) {
	l := newLogged(t)
	l.write(0, strings.Join([]string{page, missing, broken, ownProbe, "garbage", page}, "\n")+"\n")
	got := l.gather()
	for series, want := range map[string]float64{
		`chom_site_requests_total{status="2xx"}`: 2, `chom_site_requests_total{status="3xx"}`: 0, `chom_site_requests_total{status="4xx"}`: 1, `chom_site_requests_total{status="5xx"}`: 1,
		"chom_site_sent_bytes_total": 2*5120 + 162 + 157, "chom_site_request_seconds_count": 4, "chom_site_request_seconds_sum": 30.242,
		`chom_site_request_seconds_bucket{le="0.05"}`: 1, `chom_site_request_seconds_bucket{le="0.25"}`: 3, `chom_site_request_seconds_bucket{le="10"}`: 3, `chom_site_request_seconds_bucket{le="+Inf"}`: 4,
	} {
		if have, ok := got[series]; !ok || have < want-1e-9 || have > want+1e-9 {
			t.Errorf("%s is %v, want %v", series, have, want)
		}
	}
}

func TestSitesGoOnCounting(t *testing.T) {
	line := page + "\n"
	for claim, do := range map[string]func(*logged){
		"where they were":                          func(l *logged) { l.write(0, line); l.counts(2) },
		"after a restart, and what came meanwhile": func(l *logged) { l.write(0, line); l.restart(); l.counts(2) },
		"after a line that was half written":       func(l *logged) { l.write(0, line[:50]); l.counts(1); l.write(0, line[50:]); l.counts(2) },
		"over a rotation, with what was not read":  func(l *logged) { l.write(0, line); l.rotate(); l.write(0, line); l.counts(3) },
		"in a rotated log that nginx still writes to": func(l *logged) {
			l.rotate()
			l.counts(1)
			for range 2 {
				old, err := os.OpenFile(l.path()+".1", os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					_, err = old.WriteString(line)
				}
				if err != nil {
					l.t.Fatal(err)
				}
				_ = old.Close() // what was written is there
				l.restart()
				l.gather()
			}
			l.counts(3)
		},
		"over two rotations, with what is still there": func(l *logged) {
			l.rotate()
			l.write(0, line)
			l.counts(2)
			if err := os.Remove(l.path() + ".1"); err != nil {
				l.t.Fatal(err)
			}
			l.rotate()
			l.write(0, line)
			l.counts(3)
		},
		"in a log that was emptied": func(l *logged) {
			l.write(0, line)
			l.counts(2)
			if err := os.Truncate(l.path(), 0); err != nil {
				l.t.Fatal(err)
			}
			l.write(0, line)
			l.counts(3)
		},
		"while there is no log": func(l *logged) {
			if err := os.Rename(l.path(), l.path()+".1"); err != nil {
				l.t.Fatal(err)
			}
			l.counts(1)
			l.write(os.O_CREATE, line)
			l.counts(2)
		},
		"behind a line that is too long": func(l *logged) {
			l.write(0, strings.Repeat("x", 3*logfile.MaxLine)+"\n"+line)
			l.counts(2)
		},
		"behind a line without end": func(l *logged) {
			l.write(0, strings.Repeat("x", logfile.MaxRead+100))
			l.counts(1)
			l.write(0, "\n"+line)
			l.counts(2)
		},
		"with more than is read at a time": func(l *logged) {
			n := logfile.MaxRead/len(line) + 10
			l.write(0, strings.Repeat(line, n))
			l.gather()
			l.counts(1 + n)
		},
		"anew, when the file is broken": func(l *logged) {
			if err := os.WriteFile(l.file, []byte("{"), 0o600); err != nil {
				l.t.Fatal(err)
			}
			l.restart()
			l.counts(0)
			l.write(0, line)
			l.counts(1)
		},
	} {
		t.Run(claim, func(t *testing.T) {
			l := newLogged(t)
			l.write(0, line)
			l.counts(1)
			do(l)
		})
	}
}

func TestSitesBeginAtTheEndOfALogThatIsThere(t *testing.T) {
	l := newLogged(t)
	l.write(0, strings.Repeat(page+"\n", 5))
	l.site.ID = contract.NewSiteID()
	l.restart()
	l.counts(0)
	l.write(0, page+"\n")
	l.counts(1)
}

// TestSitesAreNotFollowedElsewhere claims that a link in the place of a log is not read.
func TestSitesAreNotFollowedElsewhere(t *testing.T) {
	l := newLogged(t)
	l.rotate()
	if err := os.Remove(l.path()); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(l.dir, "other")
	if err := os.WriteFile(other, []byte(strings.Repeat(page+"\n", 3)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, l.path()); err != nil {
		t.Fatal(err)
	}
	l.counts(0)
}

func TestSitesUsage(t *testing.T) {
	l := newLogged(t)
	if got := l.gather(); got["chom_site_memory_bytes"] != 0 {
		t.Errorf("a site without processes: %v", got)
	}
	slice := filepath.Join(l.dir, "chom.slice", "chom-abcdefgh27.slice")
	if err := os.MkdirAll(slice, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 1\n", "memory.current": "73400320\n"} {
		if err := os.WriteFile(filepath.Join(slice, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.gather(); got["chom_site_memory_bytes"] != 73400320 || got["chom_site_cpu_seconds_total"] != 2.5 {
		t.Errorf("got %v", got)
	}
}

func TestSitesForgetThoseThatAreGone(t *testing.T) {
	l := newLogged(t)
	l.registry = fixed{}
	if got := l.Gather(t.Context()); len(got) != 0 || len(l.Sites.counts) != 0 {
		t.Errorf("got %v, %v", got, l.Sites.counts)
	}
	if text, err := os.ReadFile(l.file); err != nil || string(text) != "{}" {
		t.Errorf("got %s, %v", text, err)
	}
}
