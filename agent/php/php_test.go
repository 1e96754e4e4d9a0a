package php

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/proto/contract"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func pool() Pool {
	return Pool{Handle: must(contract.ParseHandle("abcdefgh27")), Version: must(contract.ParsePHPVersion("8.2"))}
}

func TestPool(t *testing.T) {
	t.Run("is as reviewed", func(t *testing.T) {
		golden(t, "testdata/pool.conf", string(must(pool().render("chom-0123456789ab"))))
	})
	t.Run("has its own limits", func(t *testing.T) {
		p := pool()
		p.Workers, p.Memory, p.Upload = 12, must(contract.ParseByteSize("128M")), must(contract.ParseByteSize("8M"))
		text := string(must(p.render("x")))
		for _, want := range []string{"pm.max_children = 12\n", "[memory_limit] = 134217728\n", "[upload_max_filesize] = 8388608\n", "[post_max_size] = 9437184\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is missing in %s", want, text)
			}
		}
	})
	t.Run("never lets a root master or worker output through", func(t *testing.T) {
		text := string(must(pool().render("x")))
		for _, bad := range []string{"\nuser", "\ngroup", "catch_workers_output = yes", "listen.owner", "0666"} {
			if strings.Contains(text, bad) {
				t.Errorf("holds %q", bad)
			}
		}
	})
	t.Run("refuses a mark that could be anything else", func(t *testing.T) {
		for _, mark := range []string{"", "a b", "a\nuser = root", "${HOME}", `"x"`, "a;b", "a#b", "a=b"} {
			if text, err := pool().render(mark); err == nil {
				t.Errorf("%q gave %s", mark, text)
			}
		}
	})
	t.Run("refuses to be incomplete", func(t *testing.T) {
		for _, p := range []Pool{{}, {Handle: pool().Handle}, {Version: pool().Version}, {Handle: pool().Handle, Version: pool().Version, Workers: -1}} {
			if _, err := p.render("x"); err == nil {
				t.Errorf("%+v passed", p)
			}
		}
	})
}

func TestUnit(t *testing.T) {
	m := &Manager{dir: ConfigDir}
	release := Installed{pool().Version, "/usr/sbin/php-fpm8.2", "/usr/bin/php8.2"}
	t.Run("is as reviewed", func(t *testing.T) {
		u := m.unit(pool(), release)
		var b strings.Builder
		for _, s := range u.Sections {
			b.WriteString("[" + s.Name + "]\n")
			for _, p := range s.Settings {
				b.WriteString(p.Key + "=" + p.Value + "\n")
			}
		}
		golden(t, "testdata/unit", b.String())
	})
	t.Run("every difference changes the fingerprint", func(t *testing.T) {
		seen := map[string]bool{}
		for _, change := range []func(p *Pool, r *Installed){
			func(*Pool, *Installed) {},
			func(p *Pool, _ *Installed) { p.Workers = 9 },
			func(p *Pool, _ *Installed) { p.Version = must(contract.ParsePHPVersion("8.4")) },
			func(_ *Pool, r *Installed) { r.FPM = "/usr/sbin/php-fpm8.4" },
		} {
			p, r := pool(), release
			change(&p, &r)
			_, text, mark, err := m.describe(p, r)
			if err != nil || seen[mark] || !bytes.Contains(text, []byte("ping.response = "+mark+"\n")) {
				t.Errorf("mark %q, seen %v, %v", mark, seen[mark], err)
			}
			seen[mark] = true
		}
	})
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	for _, f := range []string{"usr/sbin/php-fpm8.4", "usr/bin/php8.4", "usr/sbin/php-fpm8.10", "usr/bin/php8.10", "usr/sbin/php-fpm8.2", "usr/bin/php8.2", "usr/sbin/php-fpm8.3", "usr/sbin/php-fpm8.4.bak"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, i := range must(find(root)) {
		got = append(got, i.Version.String())
	}
	if s := strings.Join(got, " "); s != "8.2 8.4 8.10" {
		t.Errorf("found %s", s)
	}
}

func TestAsk(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "php.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan string, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			if n == 0 { // a client that looked and left
				_ = c.Close()
				continue
			}
			if !bytes.Contains(buf[:n], []byte("SCRIPT_NAME/chom-ping")) {
				t.Errorf("asked %q", buf[:n])
			}
			_, _ = c.Write([]byte(<-answers)) // the client may have left
			_ = c.Close()
		}
	}()
	rec := func(kind byte, s string) string {
		var b bytes.Buffer
		record(&b, kind, []byte(s))
		return b.String()
	}
	end := rec(endRequest, "\x00\x00\x00\x00\x00\x00\x00\x00")
	header := "Content-type: text/plain\r\n\r\n"
	for _, c := range []struct {
		claim, answer, want string
		fails               bool
	}{
		{"reads an answer", rec(stdout, header+"pong") + end, "pong", false},
		{"reads one in pieces with noise between", rec(stdout, header+"po") + rec(stderr, "x") + rec(stdout, "ng") + rec(stdout, "") + end, "pong", false},
		{"refuses a failure", rec(stdout, "Status: 404 Not Found\r\n\r\nx") + end, "", true},
		{"refuses half an answer", rec(stdout, header+"pong"), "", true},
		{"refuses an endless answer", strings.Repeat(rec(stdout, "x"), maxRecords+1), "", true},
		{"refuses another protocol", "HTTP/1.1 200 OK\r\n\r\npong", "", true},
		{"refuses no header", rec(stdout, "pong") + end, "", true},
		{"refuses nothing", "", "", true},
	} {
		t.Run(c.claim, func(t *testing.T) {
			answers <- c.answer
			got, err := ask(context.Background(), socket, os.Getuid(), map[string]string{"SCRIPT_NAME": pingPath})
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("refuses someone else's service, and links to one", func(t *testing.T) {
		if _, err := dial(t.Context(), socket, os.Getuid()+1); err == nil || !strings.Contains(err.Error(), "listens") {
			t.Errorf("got %v", err)
		}
		link := socket + ".link"
		if err := os.Symlink(socket, link); err != nil {
			t.Fatal(err)
		}
		if _, err := dial(t.Context(), link, os.Getuid()); err == nil {
			t.Error("followed a link")
		}
		file := socket + ".file"
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := dial(t.Context(), file, os.Getuid()); err == nil {
			t.Error("connected to a file")
		}
	})
}

func TestVisit(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "php.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked, held := make(chan string, 2), make(chan struct{})
	defer close(held)
	go func() {
		for answered := false; ; answered = true {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			asked <- string(buf[:n])
			if answered {
				<-held // a page without an end
				return
			}
			var b bytes.Buffer
			record(&b, stdout, []byte("Content-type: text/html\r\n\r\nhome"))
			record(&b, endRequest, make([]byte, 8))
			_, _ = c.Write(b.Bytes())
		}
	}()
	env := PageParams("/srv/public", "index.php", "shop.example", "test", &url.URL{Scheme: "https", Host: "shop.example", Path: "/"})
	if err := visit(t.Context(), l.Addr().String(), os.Getuid(), env); err != nil {
		t.Error(err)
	}
	got := <-asked
	for _, want := range []string{"SCRIPT_FILENAME/srv/public/index.php", "HTTP_HOSTshop.example", "HTTPSon", "REQUEST_URI/", "REQUEST_METHODGET"} {
		if !strings.Contains(got, want) {
			t.Errorf("asked %q, without %s", got, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- visit(ctx, l.Addr().String(), os.Getuid(), env) }()
	<-asked
	stop()
	if err := <-ended; err == nil {
		t.Error("a visit without an answer went well")
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", file, got)
	}
}
