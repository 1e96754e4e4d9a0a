package nginx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

// server is a real nginx with its configuration in a temporary directory, and
// the little of an init system that Manager needs.
type server struct {
	t       testing.TB
	dir     string
	mu      sync.Mutex
	signals int
	drop    bool
}

func (s *server) pid() int {
	b, err := os.ReadFile(s.dir + "/pid")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

func (s *server) State(context.Context, string) (systemd.State, error) {
	st := systemd.State{Active: "inactive"}
	if pid := s.pid(); pid != 0 && syscall.Kill(pid, 0) == nil {
		st.Active = "active"
	}
	return st, nil
}

func (s *server) Start(ctx context.Context, _ string) error {
	_, err := run.Cmd{Path: "/usr/sbin/nginx", Args: []string{"-c", s.dir + "/etc/nginx.conf"}}.Run(ctx)
	return err
}

func (s *server) Restart(ctx context.Context, unit string) error {
	s.stop()
	return s.Start(ctx, unit)
}

func (s *server) Signal(_ context.Context, _ string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signals++
	return syscall.Kill(s.pid(), sig)
}

func (s *server) DropIn(context.Context, string, systemd.Unit) (bool, error) {
	was := s.drop
	s.drop = true
	return !was, nil
}

func (s *server) stop() {
	if pid := s.pid(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may be dead already
		for range 200 {
			if syscall.Kill(pid, 0) != nil || s.pid() == 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		s.t.Errorf("nginx %d did not stop", pid)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func setup(t testing.TB) (*Manager, *server) {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/nginx"); err != nil {
		t.Fatalf("these claims are about nginx: install nginx-light: %v", err)
	}
	address, secure := freeAddress(t), freeAddress(t)
	dir := t.TempDir()
	write(t, dir+"/etc/nginx.conf", fmt.Sprintf(`user root;
worker_processes 2;
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 64; }
http {
	include /etc/nginx/mime.types; # relative ones would need a copy
	default_type application/octet-stream;
	access_log off;
	include %[1]s/etc/conf.d/*.conf;
	include %[1]s/etc/sites-enabled/*;
}
`, dir))
	s := &server{t: t, dir: dir}
	t.Cleanup(s.stop)
	return &Manager{
		paths: paths{etc: dir + "/etc", logs: dir + "/logs", trees: dir + "/sites", pid: dir + "/pid", rotate: dir + "/logrotate", addresses: []string{address}, secure: []string{secure}, challenges: dir + "/challenges"},
		host:  s, log: slog.New(slog.NewTextHandler(t.Output(), nil)), get: client(address, secure),
		test: func(ctx context.Context, config string) ([]byte, error) {
			res, err := run.Cmd{Path: "/usr/sbin/nginx", Args: []string{"-t", "-c", config}}.Run(ctx)
			return res.Stderr, err
		},
	}, s
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// fresh makes a site with a page that says its first name.
func fresh(t testing.TB, m *Manager, kind Kind, names ...string) Site {
	t.Helper()
	s := site(t, kind, names...)
	s.Handle = contract.NewHandle()
	write(t, m.trees+"/"+s.Handle.String()+"/public/index.html", names[0])
	return s
}

// answer is what a browser would get: the page, or the status, or nothing.
func answer(t *testing.T, m *Manager, host, path string) string {
	t.Helper()
	status, body, err := m.get(t.Context(), host, path)
	switch {
	case err != nil:
		return "nothing"
	case status != http.StatusOK:
		return strconv.Itoa(status)
	}
	return string(body)
}

func expect(t *testing.T, m *Manager, host, path, want string) {
	t.Helper()
	if got := answer(t, m, host, path); got != want {
		t.Errorf("%s%s answers %.200q, want %q", host, path, got, want)
	}
}

func base(t *testing.T, m *Manager) {
	t.Helper()
	if _, err := m.EnsureBase(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func apply(t *testing.T, m *Manager, s Site) Report {
	t.Helper()
	r, err := m.Apply(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLife(t *testing.T) {
	m, srv := setup(t)
	if err := errors.Join(os.MkdirAll(m.etc+"/sites-available", 0o755), os.MkdirAll(m.etc+"/sites-enabled", 0o755),
		os.Symlink(m.etc+"/sites-available/default", m.etc+"/sites-enabled/default")); err != nil {
		t.Fatal(err)
	}
	write(t, m.etc+"/sites-available/default", "server { listen "+m.addresses[0]+" default_server; return 200 example; }")
	t.Run("the base refuses unknown names and tells its generation to this host", func(t *testing.T) {
		base(t, m)
		expect(t, m, "unknown.example", "/", "nothing")
		expect(t, m, "127.0.0.1", "/", "nothing")
		if n := must(m.onDisk()); answer(t, m, generationHost, "/") != strconv.FormatInt(n, 10) || n == 0 {
			t.Errorf("generation %d, served %s", n, answer(t, m, generationHost, "/"))
		}
	})
	t.Run("the base once more changes and loads nothing", func(t *testing.T) {
		before := srv.signals
		if r, err := m.EnsureBase(t.Context()); err != nil || r.Changed || srv.signals != before {
			t.Errorf("report %+v, %v, %d signals", r, err, srv.signals-before)
		}
	})
	a, b := fresh(t, m, Static, "a.example", "www.a.example"), fresh(t, m, Static, "b.example")
	t.Run("a site is served under its names when Apply returns", func(t *testing.T) {
		if r := apply(t, m, a); !r.Changed {
			t.Errorf("report %+v", r)
		}
		apply(t, m, b)
		expect(t, m, "a.example", "/", "a.example")
		expect(t, m, "www.a.example", "/", "a.example")
		expect(t, m, "b.example", "/", "b.example")
		expect(t, m, "unknown.example", "/", "nothing")
		if ok, err := m.Serves(t.Context(), a); !ok || err != nil {
			t.Errorf("Serves = %v, %v", ok, err)
		}
	})
	t.Run("the same site once more loads nothing", func(t *testing.T) {
		before := srv.signals
		if r := apply(t, m, a); r.Changed || srv.signals != before {
			t.Errorf("report %+v, %d signals", r, srv.signals-before)
		}
	})
	t.Run("a name that another site has is refused, and stays his", func(t *testing.T) {
		thief := fresh(t, m, Static, "new.example", "b.example")
		var rejected *RejectedError
		if _, err := m.Apply(t.Context(), thief, nil); !errors.As(err, &rejected) || !strings.Contains(err.Error(), "b.example") {
			t.Errorf("got %v", err)
		}
		expect(t, m, "b.example", "/", "b.example")
		expect(t, m, "new.example", "/", "nothing")
	})
	t.Run("a suspended site answers 503 from nginx itself", func(t *testing.T) {
		a.Suspended = true
		apply(t, m, a)
		expect(t, m, "a.example", "/", "503")
		expect(t, m, "a.example", "/anything/index.php", "503")
		if _, body, err := m.get(t.Context(), "a.example", "/"); err != nil || !strings.Contains(string(body), "suspended") {
			t.Errorf("page %q, %v", body, err)
		}
		a.Suspended = false
		apply(t, m, a)
		expect(t, m, "a.example", "/", "a.example")
	})
	t.Run("one that is being restored answers 503 in other words, suspended or not", func(t *testing.T) {
		for _, suspended := range []bool{false, true} {
			a.Restoring, a.Suspended = true, suspended
			apply(t, m, a)
			expect(t, m, "a.example", "/anything/index.php", "503")
			if _, body, err := m.get(t.Context(), "a.example", "/"); err != nil || !strings.Contains(string(body), "being restored") {
				t.Errorf("page %q, %v", body, err)
			}
		}
		a.Restoring, a.Suspended = false, false
		apply(t, m, a)
		expect(t, m, "a.example", "/", "a.example")
	})
	t.Run("a failed probe brings the last good version back", func(t *testing.T) {
		changed := a
		changed.Domains = a.Domains[:1]
		_, err := m.Apply(t.Context(), changed, func(context.Context) error {
			expect(t, m, "www.a.example", "/", "nothing") // the probe meets the new version
			return errors.New("probe says no")
		})
		if err == nil || !strings.Contains(err.Error(), "probe says no") {
			t.Errorf("got %v", err)
		}
		expect(t, m, "www.a.example", "/", "a.example")
	})
	t.Run("a failed probe of a new site leaves no site", func(t *testing.T) {
		c := fresh(t, m, Static, "c.example")
		if _, err := m.Apply(t.Context(), c, func(context.Context) error { return errors.New("no") }); err == nil {
			t.Error("passed")
		}
		expect(t, m, "c.example", "/", "nothing")
		if hs := must(m.Sites()); len(hs) != 2 {
			t.Errorf("sites %v", hs)
		}
	})
	t.Run("a removed site is refused, its neighbour stays, and twice is fine", func(t *testing.T) {
		for range 2 {
			if err := m.Remove(t.Context(), a.Handle); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, m, "a.example", "/", "nothing")
		expect(t, m, "b.example", "/", "b.example")
		if err := m.RemoveLogs(a.Handle); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(m.etc + "/chom/*/" + a.Handle.String() + "*"); len(left) != 0 {
			t.Errorf("left %v", left)
		}
		if _, err := os.Stat(m.logDir(a.Handle)); err == nil {
			t.Error("logs are left")
		}
	})
	t.Run("a stopped server is started", func(t *testing.T) {
		srv.stop()
		c := fresh(t, m, Static, "c.example")
		apply(t, m, c)
		expect(t, m, "c.example", "/", "c.example")
	})
}

func TestForeignBreakage(t *testing.T) {
	m, _ := setup(t)
	base(t, m)
	good, ours := fresh(t, m, Static, "good.example"), fresh(t, m, Static, "ours.example")
	apply(t, m, good)
	t.Run("a neighbour's broken file is set aside alone", func(t *testing.T) {
		bad := contract.NewHandle()
		write(t, m.site(bad), "server { listen "+m.addresses[0]+"; server_name bad.example; no_such_directive on; }")
		r := apply(t, m, ours)
		if len(r.SetAside) != 1 || r.SetAside[0].Handle != bad || r.SetAside[0].Restored || !strings.Contains(r.SetAside[0].Reason, "no_such_directive") {
			t.Errorf("report %+v", r)
		}
		expect(t, m, "ours.example", "/", "ours.example")
		expect(t, m, "good.example", "/", "good.example")
		if _, err := os.Stat(m.broken() + "/" + bad.String() + ".conf"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a neighbour that was good before is served as before", func(t *testing.T) {
		write(t, m.site(good.Handle), "server {")
		ours.Domains = append(ours.Domains, must(contract.ParseDomain("more.example")))
		r := apply(t, m, ours)
		if len(r.SetAside) != 1 || !r.SetAside[0].Restored {
			t.Errorf("report %+v", r)
		}
		expect(t, m, "good.example", "/", "good.example")
		expect(t, m, "more.example", "/", "ours.example")
	})
	t.Run("a neighbour whose fault nginx doesn't locate is found all the same", func(t *testing.T) {
		bad := contract.NewHandle()
		write(t, m.site(bad), "server { listen "+m.addresses[0]+"; server_name bad.example; error_log /nonexistent/dir/x.log; }")
		ours.Domains = ours.Domains[:1]
		r := apply(t, m, ours)
		if len(r.SetAside) != 1 || r.SetAside[0].Handle != bad {
			t.Errorf("report %+v", r)
		}
		expect(t, m, "more.example", "/", "nothing")
	})
	t.Run("our own broken snippet is our fault: nothing live is touched", func(t *testing.T) {
		write(t, m.snippets(ours.Handle)+"/x.conf", "no_such_directive on;")
		changed := ours
		changed.Domains = append(changed.Domains, must(contract.ParseDomain("other.example")))
		var rejected *RejectedError
		if r, err := m.Apply(t.Context(), changed, nil); !errors.As(err, &rejected) || r.Changed || len(r.SetAside) != 0 {
			t.Errorf("report %+v, %v", r, err)
		}
		expect(t, m, "ours.example", "/", "ours.example")
		expect(t, m, "other.example", "/", "nothing")
		write(t, m.snippets(ours.Handle)+"/x.conf", "location = /snippet { return 200 snippet; }")
		apply(t, m, changed)
		expect(t, m, "other.example", "/snippet", "snippet")
	})
	t.Run("a configuration broken outside of the sites blames no site", func(t *testing.T) {
		write(t, m.etc+"/conf.d/admin.conf", "no_such_directive on;")
		another := fresh(t, m, Static, "another.example")
		if r, err := m.Apply(t.Context(), another, nil); !errors.Is(err, ErrBase) || len(r.SetAside) != 0 || !strings.Contains(err.Error(), "admin.conf") {
			t.Errorf("report %+v, %v", r, err)
		}
		expect(t, m, "ours.example", "/", "ours.example")
		if err := os.Remove(m.etc + "/conf.d/admin.conf"); err != nil {
			t.Fatal(err)
		}
		apply(t, m, another)
	})
	t.Run("the base repairs what broke while nobody changed anything", func(t *testing.T) {
		write(t, m.site(good.Handle), "}")
		r, err := m.EnsureBase(t.Context())
		if err != nil || len(r.SetAside) != 1 || !r.SetAside[0].Restored {
			t.Errorf("report %+v, %v", r, err)
		}
		expect(t, m, "good.example", "/", "good.example")
	})
}

// TestInterruption plays a kill at each point between two effects: the files
// are left as they were at that moment, and a new Manager takes over.
func TestInterruption(t *testing.T) {
	m, _ := setup(t)
	base(t, m)
	a := fresh(t, m, Static, "a.example")
	text := must(render(must(m.serverBlock(a))))
	for i, c := range []struct {
		after string
		left  func()
	}{
		{"the candidate was written", func() { write(t, m.trial(a.Handle), "half a confi"); write(t, m.candidate(), "half") }},
		{"the generation was counted up", func() {
			if err := m.bump(); err != nil {
				t.Fatal(err)
			}
		}},
		{"the site was swapped in", func() {
			if err := m.bump(); err != nil {
				t.Fatal(err)
			}
			write(t, m.site(a.Handle), string(text))
		}},
		{"a file was written aside", func() { write(t, m.sites()+"/."+a.Handle.String()+".conf.new", "server {") }},
		{"the generation file was damaged", func() { write(t, m.generation(), "") }},
	} {
		t.Run("Apply finishes after "+c.after, func(t *testing.T) {
			if err := m.Remove(t.Context(), a.Handle); err != nil {
				t.Fatal(err)
			}
			c.left()
			if out, err := m.test(t.Context(), m.etc+"/nginx.conf"); err != nil {
				t.Errorf("what is left would not start: %s", out)
			}
			apply(t, m, a)
			expect(t, m, "a.example", "/", "a.example")
		})
		t.Run("the base finishes after "+c.after, func(t *testing.T) {
			if err := m.Remove(t.Context(), a.Handle); err != nil {
				t.Fatal(err)
			}
			c.left()
			base(t, m)
			if got, want := answer(t, m, generationHost, "/"), strconv.FormatInt(must(m.onDisk()), 10); got != want {
				t.Errorf("case %d: serves %s, disk holds %s", i, got, want)
			}
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	m, srv := setup(t)
	base(t, m)
	before := srv.signals
	var wg sync.WaitGroup
	const n = 12
	for i := range n {
		s := fresh(t, m, Static, fmt.Sprintf("s%d.example", i))
		wg.Go(func() {
			if _, err := m.Apply(t.Context(), s, func(ctx context.Context) error {
				status, body, err := m.get(ctx, s.Domains[0].String(), "/")
				if err != nil || status != 200 || string(body) != s.Domains[0].String() {
					return fmt.Errorf("status %d, %q, %w", status, body, err)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := srv.signals - before; got >= n {
		t.Errorf("%d sites took %d reloads; none was shared", n, got)
	}
}

// TestServing is case F08 with a real server: source text and other people's
// files are never an answer. php-fpm is not there, so 502 means "would be run".
func TestServing(t *testing.T) {
	m, _ := setup(t)
	base(t, m)
	static, php := fresh(t, m, Static, "static.example"), fresh(t, m, PHP, "php.example")
	secret := m.trees + "/secret.txt"
	write(t, secret, "another tenant's")
	if err := os.Chown(secret, 12345, 12345); err != nil {
		t.Fatalf("needs root: %v", err)
	}
	for _, s := range []Site{static, php} {
		public := m.trees + "/" + s.Handle.String() + "/public/"
		for _, f := range []string{
			"page.html", "a.jpg", "x.php", "X.PHP", "x.phtml", "x.php5", "x.phar", "x.inc", ".env", ".git/config", ".user.ini", ".htaccess", "wp-config.php", "wp-config.php~",
			"wp-config.php.bak", ".wp-config.php.swp", "dump.sql", "dump.sql.gz", "dump.sql.tar.gz", "debug.log", "wp-content/debug.log", "my.ini", "sub/.secret/x.html",
			"wp-content/uploads/evil.php", "wp-content/uploads/2024/evil.PHP", "wp-content/uploads/photo.jpg", "uploads/evil.php", "files/evil.php",
			".well-known/security.txt", ".well-known/evil.php", ".well-known/.git/config", "dir/index.html", "key.pem", "#x#",
		} {
			write(t, public+f, "CONTENT")
		}
		for link, to := range map[string]string{"link-secret.txt": secret, "link-dir": m.trees, "link-passwd": "/etc/passwd"} {
			if err := os.Symlink(to, public+link); err != nil {
				t.Fatal(err)
			}
			if err := os.Lchown(public+link, 777, 777); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("page.html", public+"link-own.html"); err != nil {
			t.Fatal(err)
		}
		apply(t, m, s)
	}
	for _, c := range []struct{ path, static, php string }{
		{"/", "static.example", "php.example"}, // index.html, since there is no index.php
		{"/page.html", "CONTENT", "CONTENT"},
		{"/dir/", "CONTENT", "CONTENT"},
		{"/link-own.html", "CONTENT", "CONTENT"},
		{"/wp-content/uploads/photo.jpg", "CONTENT", "CONTENT"},
		{"/.well-known/security.txt", "CONTENT", "CONTENT"},
		{"/x.php", "404", "502"},
		{"/wp-config.php", "404", "502"},
		{"/missing.php", "404", "404"},
		{"/missing", "404", "404"}, // index.php is missing too
		{"/X.PHP", "404", "404"},
		{"/x.phtml", "404", "404"},
		{"/x.php5", "404", "404"},
		{"/x.phar", "404", "404"},
		{"/x.inc", "404", "404"},
		{"/x.php/", "404", "404"},
		{"/x.php/y", "404", "404"},
		{"/a.jpg/x.php", "404", "404"},
		{"/x.php%00.jpg", "400", "400"},
		{"/x.php%20", "404", "404"},
		{"/x.php.", "404", "404"},
		{"/%78.php", "404", "502"},
		{"/.env", "404", "404"},
		{"/%2eenv", "404", "404"},
		{"/.git/config", "404", "404"},
		{"/.user.ini", "404", "404"},
		{"/.htaccess", "404", "404"},
		{"/wp-config.php~", "404", "404"},
		{"/wp-config.php.bak", "404", "404"},
		{"/.wp-config.php.swp", "404", "404"},
		{"/dump.sql", "404", "404"},
		{"/dump.sql.gz", "404", "404"},
		{"/dump.sql.tar.gz", "404", "404"},
		{"/DUMP.SQL", "404", "404"},
		{"/debug.log", "404", "404"},
		{"/wp-content/debug.log", "404", "404"},
		{"/my.ini", "404", "404"},
		{"/key.pem", "404", "404"},
		{"/%23x%23", "404", "404"},
		{"/sub/.secret/x.html", "404", "404"},
		{"/wp-content/uploads/evil.php", "404", "404"},
		{"/wp-content/uploads/2024/evil.PHP", "404", "404"},
		{"/uploads/evil.php", "404", "404"},
		{"/files/evil.php", "404", "404"},
		{"/.well-known/evil.php", "404", "502"},
		{"/.well-known/.git/config", "404", "404"},
		{"/link-secret.txt", "404", "404"},
		{"/link-dir/secret.txt", "404", "404"},
		{"/link-passwd", "404", "404"},
		{"/static../secret.txt", "404", "404"},
		{"/../../secret.txt", "400", "400"},
		{"/..%2f..%2fsecret.txt", "400", "400"},
		{"/dir", "301", "301"},
	} {
		for _, k := range []struct{ host, want string }{{"static.example", c.static}, {"php.example", c.php}} {
			got := answer(t, m, k.host, c.path)
			if k.want == "404" && got == "403" {
				continue // both are a refusal
			}
			if got != k.want {
				t.Errorf("%s%s answers %.80q, want %q", k.host, c.path, got, k.want)
			}
		}
	}
}

// BenchmarkApply tells what a new site costs on a host that has a thousand.
func BenchmarkApply(b *testing.B) {
	m, _ := setup(b)
	if _, err := m.EnsureBase(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		s := fresh(b, m, PHP, fmt.Sprintf("s%d.example", i))
		if err := m.ensureLogs(s.Handle); err != nil {
			b.Fatal(err)
		}
		write(b, m.site(s.Handle), string(must(render(must(m.serverBlock(s))))))
	}
	i := 0
	for b.Loop() {
		if _, err := m.Apply(b.Context(), fresh(b, m, PHP, fmt.Sprintf("new%d.example", i)), nil); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
