package nginx

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/fail"
)

// change carries out a change of files between two new generation numbers.
// Called with files held.
//
// The number before: if we die in the middle, what is served is older than
// what is on disk, and whoever comes next loads it. The number after: a reload
// of someone else's that reads the files in the middle serves the number
// before, so it doesn't count for us. nginx reads the number first and the
// sites after it, so it never serves a number without the files that belong to
// it.
func (m *Manager) change(files func() error) error {
	if err := m.bump(); err != nil {
		return err
	}
	fail.Point("nginx.before-change")
	if err := files(); err != nil {
		return err
	}
	fail.Point("nginx.after-change")
	return m.bump()
}

// bump writes the next generation number. Called with files held.
func (m *Manager) bump() error {
	old, err := m.onDisk()
	if err != nil {
		return err
	}
	// Time, so that a number is never used twice even if the file was lost;
	// never backwards, whatever the clock does.
	text, err := render(m.generationBlock(max(time.Now().UnixMicro(), old+1)))
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(m.generation(), text, 0o644, 0)
	return err
}

// onDisk is the generation that nginx serves after its next reload, 0 when
// there is none yet.
func (m *Manager) onDisk() (int64, error) {
	text, err := os.ReadFile(m.generation())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read nginx generation: %w", err)
	}
	tree, err := parse(text)
	if err == nil && len(tree) == 1 {
		for _, d := range tree[0].Block {
			if d.Name == "return" && len(d.Args) == 2 {
				if n, err := strconv.ParseInt(d.Args[1], 10, 64); err == nil {
					return n, nil
				}
			}
		}
	}
	return 0, nil // damaged: the next bump writes it anew
}

// served asks nginx which generation it serves.
func (m *Manager) served(ctx context.Context) (int64, error) {
	status, body, err := m.get(ctx, generationHost, "/")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(body)), 10, 64)
	if status != http.StatusOK || err != nil {
		return 0, fmt.Errorf("nginx gave no generation (status %d)", status)
	}
	return n, nil
}

// Ready says why nginx does not answer with what EnsureBase has made; nil when
// it does. A change that is not served yet makes no difference here.
func (m *Manager) Ready(ctx context.Context) error {
	_, err := m.served(ctx)
	return err
}

// load makes nginx serve what is on disk, at least as it was when load was
// called, and waits until it does. Callers who come while a reload is under
// way share the next one.
func (m *Manager) load(ctx context.Context) error {
	want, err := m.onDisk()
	if err != nil {
		return err
	}
	m.loading.Lock()
	defer m.loading.Unlock()
	if n, err := m.served(ctx); err == nil && n >= want {
		return nil // whoever held the lock before us loaded ours too
	}
	return m.reload(ctx)
}

// reload starts nginx or makes it read its files. Called with loading held.
func (m *Manager) reload(ctx context.Context) error {
	want, err := m.onDisk()
	if err != nil {
		return err
	}
	st, err := m.host.State(ctx, service)
	if err != nil {
		return err
	}
	old := m.workers()
	if st.Active == "active" || st.Active == "reloading" { // logrotate reloads too, perhaps before our files were there
		err = m.host.Signal(ctx, service, syscall.SIGHUP)
	} else {
		err = m.host.Start(ctx, service)
	}
	if err != nil {
		return err
	}
	fail.Point("nginx.signaled")
	ctx, cancel := context.WithTimeout(ctx, loadWithin)
	defer cancel()
	return m.await(ctx, want, old)
}

// await waits until the wanted generation is served by everyone who accepts
// connections. New workers start to accept a while (100 ms by nginx's own
// clock, more on a busy host) before the old ones let go; a request in between
// may meet either.
func (m *Manager) await(ctx context.Context, want int64, old []int) error {
	for {
		n, err := m.served(ctx)
		if err == nil && n >= want && !slices.ContainsFunc(old, accepting) {
			if n, err = m.served(ctx); err == nil && n >= want {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nginx did not take over the new configuration: %w", errors.Join(ctx.Err(), err))
		case <-time.After(5 * time.Millisecond): // nginx itself needs 100 ms; this adds nothing to it
		}
	}
}

// workers lists the processes that accept connections now, as far as this
// process may see them.
func (m *Manager) workers() []int {
	b, err := os.ReadFile(m.pid)
	if err != nil {
		return nil
	}
	master := strings.TrimSpace(string(b))
	b, err = os.ReadFile("/proc/" + master + "/task/" + master + "/children")
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && accepting(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// accepting reads a worker's title, which it changes just before it closes its
// listening sockets.
func accepting(pid int) bool {
	title, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && bytes.HasPrefix(title, []byte("nginx: worker process")) && !bytes.Contains(title, []byte("shutting down"))
}

const maxBody = 1 << 20 // a page that a probe looks at

// client asks the web server at two fixed addresses, whatever the host is called:
// by HTTP, and by HTTPS where it sends there. Which certificate is shown is not
// looked at: this is about pages.
// Every request has its own connection: it must meet a worker that accepts now.
func client(plain, secure string) func(ctx context.Context, host, path string) (int, []byte, error) {
	to := func(address string) func(ctx context.Context, _, _ string) (net.Conn, error) {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	c := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       to(plain),
			DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				conn, err := to(secure)(ctx, network, address)
				if err != nil {
					return nil, err
				}
				shaken := tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true}) //nolint:gosec // it is this host's own nginx
				if err := shaken.HandshakeContext(ctx); err != nil {
					return nil, errors.Join(err, conn.Close())
				}
				return shaken, nil
			},
			Proxy: nil,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second, // a first page of a cold application
	}
	ask := func(ctx context.Context, url string) (status int, location string, body []byte, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, "", nil, err
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", nil, err
		}
		defer resp.Body.Close() // read-only
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
		return resp.StatusCode, resp.Header.Get("Location"), body, err
	}
	return func(ctx context.Context, host, path string) (int, []byte, error) {
		status, location, body, err := ask(ctx, "http://"+host+path)
		if secure := "https://" + host + path; err == nil && status == http.StatusMovedPermanently && location == secure {
			status, _, body, err = ask(ctx, secure)
		}
		return status, body, err
	}
}
