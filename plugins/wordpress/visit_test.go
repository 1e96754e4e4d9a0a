package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// browser visits a site through PHP's own web server, which runs as the site's
// user on a loopback port with several workers.
type browser struct {
	t      *testing.T
	base   string
	domain string
	client *http.Client
}

func (i installed) browse(t *testing.T) *browser {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	server := exec.Command(i.site.PHP, "-S", address, "-t", i.site.PublicPath())
	server.Env = []string{"PATH=/usr/bin:/bin", "PHP_CLI_SERVER_WORKERS=8"}
	server.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: uint32(i.user.UID), Gid: uint32(i.user.GID)},
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-server.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = server.Wait() // killed: always an error
	})
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{
		t:      t,
		base:   "http://" + address,
		domain: i.site.Domain.String(),
		client: &http.Client{
			Timeout: 30 * time.Second,
			Jar:     jar,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
	for range 100 {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return b
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("php -S does not listen")
	return nil
}

type answer struct {
	status   int
	location string
	cookies  []*http.Cookie
	body     string
}

func (b *browser) get(path string) answer {
	b.t.Helper()
	a, err := b.request(http.MethodGet, path)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *browser) request(method, path string) (answer, error) {
	r, err := http.NewRequest(method, b.base+path, nil)
	if err != nil {
		return answer{}, err
	}
	r.Host = b.domain
	response, err := b.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Header.Get("Location"), response.Cookies(), string(body)}, nil
}

// title is what stands between the first title tags of the page.
func (a answer) title() string {
	_, rest, _ := strings.Cut(a.body, "<title>")
	title, _, _ := strings.Cut(rest, "</title>")
	return title
}

func (a answer) loggedIn() bool {
	for _, c := range a.cookies {
		if strings.HasPrefix(c.Name, "wordpress_logged_in_") && c.Value != "" {
			return true
		}
	}
	return false
}

func (a answer) String() string {
	return fmt.Sprintf("status %d, location %q, logged in %v, body %.300q", a.status, a.location, a.loggedIn(), a.body)
}
