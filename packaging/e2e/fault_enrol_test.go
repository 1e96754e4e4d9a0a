package e2e

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// enrolment walks a third host through everything that can go wrong between a
// join token and a server that is taken out again.
func enrolment(t *testing.T, w *shared) {
	ctx := timeout(t, 10*time.Minute)
	h := &host{Host: boot(t, w, "spare")}
	created, err := w.rig.Servers.CreateServer(ctx, &fleetv1.CreateServerRequest{Name: "spare"})
	if err != nil {
		t.Fatal(err)
	}
	h.server = created.GetServer()
	token, line := created.GetJoinToken().GetToken(), created.GetJoinToken().GetInstallCommand()

	t.Run("a line with another control plane's pin enrols nothing", func(t *testing.T) {
		parts := strings.Split(token, ".")
		pin := parts[len(parts)-1]
		swapped := []byte(pin)
		swapped[0] = map[bool]byte{true: '1', false: '0'}[pin[0] == '0']
		wrong := strings.ReplaceAll(line, token, strings.TrimSuffix(token, pin)+string(swapped))
		err := w.rig.Paste(ctx, h.Host, wrong, nil)
		if err == nil {
			t.Fatal("it was enrolled")
		}
		t.Logf("%v", err)
		if got := w.server(t, h); got.GetState() != fleetv1.State_STATE_PENDING {
			t.Errorf("the server is %s", got.GetState())
		}
	})
	t.Run("the right line enrols after it", func(t *testing.T) {
		if err := w.rig.Paste(ctx, h.Host, line, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := w.rig.Prepared(ctx, h.server.GetId(), nil); err != nil {
			t.Fatal(err)
		}
		w.ping(t, h, backWithin)
	})
	identity := "sha256sum /var/lib/chom-agent/identity/current.pem"
	t.Run("the same line once more changes nothing", func(t *testing.T) {
		before := sh(t, h, identity)
		var said bytes.Buffer
		if err := w.rig.Paste(ctx, h.Host, line, &said); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said.String(), "enrolled already") || sh(t, h, identity) != before {
			t.Errorf("it says %q", said.String())
		}
		w.ping(t, h, backWithin)
	})
	t.Run("a used token enrols nobody", func(t *testing.T) {
		sh(t, h, "systemctl stop chom-agent && chom-agent reset-identity --yes")
		err := w.rig.Paste(ctx, h.Host, line, nil)
		if err == nil {
			t.Fatal("it was enrolled")
		}
		t.Logf("%v", err)
		if left := sh(t, h, "ls /var/lib/chom-agent/identity/current.pem 2>/dev/null || true"); left != "" {
			t.Errorf("the host has an identity: %s", left)
		}
	})
	t.Run("a new line enrols the host anew", func(t *testing.T) {
		again, err := w.rig.Servers.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{ServerId: h.server.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.rig.Paste(ctx, h.Host, again.GetJoinToken().GetInstallCommand(), nil); err != nil {
			t.Fatal(err)
		}
		w.ping(t, h, backWithin)
	})
	t.Run("what failed is tried again by itself", func(t *testing.T) { healAlone(t, w, h) })
	t.Run("a clone silences both until an operator decides", func(t *testing.T) { clone(t, w, h) })
	t.Run("a server that is taken out is cut at once", func(t *testing.T) {
		if _, err := w.rig.Servers.RemoveServer(ctx, &fleetv1.RemoveServerRequest{ServerId: h.server.GetId()}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for connected(t, h) {
			if time.Since(began) > 5*time.Second {
				t.Fatal("its agent is still connected after 5 s")
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("cut after %s", time.Since(began).Round(10*time.Millisecond))
		for time.Since(began) < 2*time.Second && strings.Contains(sh(t, h, "chom-agent status 2>&1 || true"), " connected for ") {
			time.Sleep(50 * time.Millisecond) // the agent has yet to see that it is cut
		}
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			if status := sh(t, h, "chom-agent status 2>&1 || true"); strings.Contains(status, " connected") && !strings.Contains(status, "not connected") {
				t.Fatalf("its agent is back:\n%s", status)
			}
		}
	})
}

// healAlone breaks a host so that neither its preparation nor a change of a site
// succeeds, repairs it, and lets nobody do anything (N3).
func healAlone(t *testing.T, w *shared, h *host) {
	ctx := timeout(t, 10*time.Minute)
	w.takesSites(t, h, converges)
	s, _ := w.create(t, h, "static")
	sh(t, h, "systemctl stop nginx && systemd-run --quiet --unit=squatter systemd-socket-activate --accept --inetd --listen=80 /bin/cat")
	prepare, err := w.rig.Servers.PrepareServer(ctx, &fleetv1.PrepareServerRequest{ServerId: h.server.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	s, change, err := w.order(ctx, updateSite, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range []*taskv1.Task{prepare.GetTask(), change} {
		if task = w.ended(t, task, 3*time.Minute); task.GetState() != taskv1.State_STATE_FAILED {
			t.Fatalf("on a broken host a task ended %s: %s", task.GetState(), task.GetError())
		}
	}
	failed := time.Now()
	const again = "it is tried again at "
	if problem := w.server(t, h).GetProblem(); !strings.Contains(problem, again) {
		t.Errorf("people see of the server: %q", problem)
	}
	s = w.get(t, s)
	if s.GetState() != sitev1.State_STATE_FAILED || !strings.Contains(s.GetProblem(), again) {
		t.Errorf("people see of the site: %s %q", s.GetState(), s.GetProblem())
	}
	t.Logf("people see %q", s.GetProblem())
	sh(t, h, "systemctl stop squatter; until systemctl start nginx; do sleep 0.2; done")
	healed := w.settled(t, h, s, 5*time.Minute)
	for w.server(t, h).GetProblem() != "" {
		if time.Since(failed) > 6*time.Minute {
			t.Fatalf("the server is not prepared again: %q", w.server(t, h).GetProblem())
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("both were as wanted again %s after they had failed", time.Since(failed).Round(time.Second))
	if healed.GetGeneration() != s.GetGeneration() {
		t.Errorf("generation %d became %d", s.GetGeneration(), healed.GetGeneration())
	}
	gone, _ := w.change(t, trashSite, healed)
	w.vanished(t, h, gone, 3*time.Minute)
}

// clone starts a copy of a host's agent on another host.
func clone(t *testing.T, w *shared, h *host) {
	ctx := timeout(t, 5*time.Minute)
	twin := &host{Host: boot(t, w, "twin"), server: h.server}
	const deb = "/root/chom-agent.deb"
	if err := twin.Push(w.rig.Packages+"/chom-agent_amd64.deb", deb, 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, h, "systemctl stop chom-agent")
	var disk bytes.Buffer
	for _, c := range []struct {
		h *host
		c lab.Command
	}{
		{twin, lab.Command{Argv: []string{"dpkg", "--install", deb}}},
		{h, lab.Command{Argv: []string{"tar", "--create", "--directory=/", "var/lib/chom-agent", "etc/chom-agent"}, Stdout: &disk}},
		{twin, lab.Command{Argv: []string{"tar", "--extract", "--directory=/"}, Stdin: &disk}},
		{h, lab.Command{Argv: []string{"systemctl", "start", "chom-agent"}}},
		{twin, lab.Command{Argv: []string{"systemctl", "start", "chom-agent"}}},
	} {
		res, err := c.h.Run(ctx, c.c)
		if err != nil || res.Code != 0 {
			t.Fatalf("%s: %v, %s", c.c.Argv, err, res.Stderr)
		}
	}
	began := time.Now()
	for w.server(t, h).GetState() != fleetv1.State_STATE_QUARANTINED {
		if time.Since(began) > converges {
			t.Fatalf("two hosts with one identity, and the server is %v", w.server(t, h))
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("quarantined after %s: %q", time.Since(began).Round(10*time.Millisecond), w.server(t, h).GetProblem())
	if p := w.server(t, h).GetProblem(); !strings.Contains(p, "two hosts") {
		t.Errorf("the problem is %q", p)
	}
	for connected(t, h) || connected(t, twin) {
		if time.Since(began) > converges {
			t.Fatal("an agent in quarantine stays connected")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if res, err := w.rig.Servers.PingServer(ctx, &fleetv1.PingServerRequest{ServerId: h.server.GetId()}); err == nil {
		waiting, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if task, err := w.rig.Wait(waiting, res.GetTask(), nil); err == nil && task.GetState() == taskv1.State_STATE_SUCCEEDED {
			t.Error("an agent in quarantine does work")
		}
	}
	if err := twin.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.rig.Servers.ReadmitServer(ctx, &fleetv1.ReadmitServerRequest{ServerId: h.server.GetId()}); err != nil {
		t.Fatal(err)
	}
	sh(t, h, "systemctl restart chom-agent") // it would come by itself, after two minutes at the latest
	w.ping(t, h, backWithin)
}

func boot(t *testing.T, w *shared, name string) *lab.Host {
	t.Helper()
	ctx := timeout(t, 5*time.Minute)
	base, err := lab.EnsureBase(ctx, lab.Bookworm, lab.Stack, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h, err := w.rig.Lab.Boot(ctx, lab.Config{Name: name, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (w *shared) server(t *testing.T, h *host) *fleetv1.Server {
	t.Helper()
	res, err := w.rig.Servers.GetServer(timeout(t, backWithin), &fleetv1.GetServerRequest{ServerId: h.server.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetServer()
}

// connected tells whether the host has a connection to the agents' door.
func connected(t *testing.T, h *host) bool {
	t.Helper()
	return sh(t, h, fmt.Sprintf("ss --no-header --tcp --numeric state established dport = :%d", rig.AgentsPort)) != ""
}
