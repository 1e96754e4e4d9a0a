package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"chom.dev/packaging/lab"
)

// Walk runs controlplane/web/src/NAME.walk.ts, which has a browser, from the tree's root; settings are added to its environment, and
// args to vitest's.
func Walk(ctx context.Context, tree, name string, settings []string, output io.Writer, args ...string) error {
	vitest := exec.CommandContext(ctx, "npx", append([]string{"vitest", "run"}, args...)...)
	vitest.Dir = filepath.Join(tree, "controlplane/web")
	vitest.Env = append(append(os.Environ(), "WALK="+name), settings...)
	vitest.Stdout, vitest.Stderr = output, output
	// All that it starts ends with it.
	vitest.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	vitest.Cancel = func() error { return syscall.Kill(-vitest.Process.Pid, syscall.SIGTERM) }
	vitest.WaitDelay = 10 * time.Second
	if err := vitest.Run(); err != nil {
		return fmt.Errorf("walk %s: %w", name, err)
	}
	return nil
}

// LabWalk is the way of somebody who begins with CHOM, through the dashboard of a rig that is Unclaimed, has Names, and writes its
// mails to a directory.
type LabWalk struct {
	Rig  *Rig
	Host *lab.Host // a fresh one
	// Mails is the rig's --mail-dir.
	Mails string
	// Home is an empty directory for the browser.
	Home string

	// Clicks are how many led from an empty account to a WordPress by HTTPS, Seconds how long that took. They are there after Run.
	Clicks  int
	Seconds float64
}

// Run walks. What the walk cannot do in its browser is done here.
func (w *LabWalk) Run(ctx context.Context, tree string, output io.Writer, args ...string) error {
	if err := trust(ctx, w.Home, w.Rig.CA.Roots); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	beside := &http.Server{Handler: w.beside(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = beside.Serve(l) }()   // ends with Close
	defer func() { _ = beside.Close() }() // nobody comes any more
	return Walk(ctx, tree, "lab", []string{"LAB=http://" + l.Addr().String()}, output, args...)
}

// beside tells the walk where it is, types a line into the host's shell, sets records of the zone, and hears what was counted.
func (w *LabWalk) beside() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(out http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(out).Encode(map[string]string{ // a walk that went away has failed
			"baseUrl": w.Rig.URL(), "setupSecret": w.Rig.SetupSecret, "mails": w.Mails, "address": w.Host.Addr().String(), "home": w.Home,
		})
	})
	do := func(what string, act func(context.Context, []byte) error) {
		mux.HandleFunc("POST /"+what, func(out http.ResponseWriter, req *http.Request) {
			body, err := io.ReadAll(req.Body)
			if err == nil {
				err = act(req.Context(), body)
			}
			if err != nil {
				http.Error(out, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	do("paste", func(ctx context.Context, line []byte) error { return w.Rig.Paste(ctx, w.Host, string(line), nil) })
	do("dns", func(ctx context.Context, body []byte) error {
		var record struct{ Name, Type, Value string }
		if err := json.Unmarshal(body, &record); err != nil {
			return err
		}
		return w.Rig.DNS.Set(ctx, record.Name, record.Type, record.Value)
	})
	do("counted", func(_ context.Context, body []byte) error {
		var counted struct {
			Clicks  int
			Seconds float64
		}
		err := json.Unmarshal(body, &counted)
		w.Clicks, w.Seconds = counted.Clicks, counted.Seconds
		return err
	})
	return mux
}

// trust makes a home in which Chromium takes some roots for good.
func trust(ctx context.Context, home string, roots []byte) error {
	store := filepath.Join(home, ".pki/nssdb")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	certutil := func(input []byte, args ...string) error {
		c := exec.CommandContext(ctx, "certutil", append(args, "-d", "sql:"+store)...)
		c.Stdin = bytes.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("certutil %s: %w: %s", args, err, out)
		}
		return nil
	}
	if err := certutil(nil, "-N", "--empty-password"); err != nil {
		return err
	}
	for n := 0; ; n++ { // it reads one only
		var root *pem.Block
		if root, roots = pem.Decode(roots); root == nil {
			return nil
		}
		if err := certutil(root.Bytes, "-A", "-n", fmt.Sprintf("root %d", n), "-t", "C,,"); err != nil {
			return err
		}
	}
}
