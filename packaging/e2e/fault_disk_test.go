package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/rig"
)

func pingSlowly(ctx context.Context, w *shared, h *host, steps uint32, each time.Duration) (*taskv1.Task, error) {
	res, err := w.rig.Servers.PingServer(ctx, &fleetv1.PingServerRequest{ServerId: h.server.GetId(), Steps: steps, StepDuration: durationpb.New(each)})
	return res.GetTask(), err
}

// limited gives a directory of the host a disk of its own that is full but for
// some bytes, lets act work there, and brings the content back to where it was.
func limited(t *testing.T, h *host, dir string, free int64, act func(grow func())) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	used, err := strconv.ParseInt(sh(t, h, "du --summarize --block-size=1 "+dir+" | cut -f1"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	const room = 64 << 20
	if err := h.LimitDir(ctx, dir, used+room); err != nil { // for the copy itself
		t.Fatal(err)
	}
	defer func() {
		sh(t, h, strings.ReplaceAll(`set -e
systemctl stop chom-agent
rm -rf /var/tmp/kept && mkdir -m 0700 /var/tmp/kept && cp --archive DIR/. /var/tmp/kept/
umount DIR
find DIR -mindepth 1 -delete
cp --archive /var/tmp/kept/. DIR/
rm -rf /var/tmp/kept
systemctl try-restart 'chom-php-*' # which hold what was there before
systemctl start chom-agent`, "DIR", dir))
	}()
	if err := h.LimitDir(ctx, dir, used+free); err != nil {
		t.Fatal(err)
	}
	// tmpfs counts otherwise than the disk below: fill what is left.
	sh(t, h, strings.ReplaceAll("dd if=/dev/zero of=DIR/filler bs=4096 2>/dev/null; true", "DIR", dir))
	act(func() {
		sh(t, h, "rm -f "+dir+"/filler")
		if err := h.LimitDir(ctx, dir, used+room); err != nil {
			t.Fatal(err)
		}
	})
	sh(t, h, "rm -f "+dir+"/filler")
}

// fillDisks is I05: whatever is full, a change fails with a word about it, what
// is served stays, the agent goes on reporting, and space heals it.
func fillDisks(t *testing.T, w *shared, h *host, waste *rubbish) {
	waste.empty(t) // a removal that fails is tried again only a minute later
	s, _ := w.create(t, h, "static")
	t.Run("configuration of nginx", func(t *testing.T) {
		before := sh(t, h, "nginx -T 2>/dev/null | sha256sum")
		limited(t, h, "/etc/nginx/chom", 0, func(grow func()) {
			defer insiders(t, h, s).unharmed(t)
			_, task, err := w.order(timeout(t, time.Minute), updateSite, s)
			if err != nil {
				t.Fatal(err)
			}
			full(t, w.ended(t, task, time.Minute))
			if now := sh(t, h, "nginx -T 2>/dev/null | sha256sum"); now != before {
				t.Error("the configuration has changed")
			}
			shows(t, h, s, http.StatusOK, "")
			w.ping(t, h, 10*time.Second)
			if got := w.get(t, s); got.GetState() != sitev1.State_STATE_FAILED || !strings.Contains(got.GetProblem(), "space") {
				t.Errorf("the site is shown as %s: %q", got.GetState(), got.GetProblem())
			}
			grow()
			s, _ = w.change(t, updateSite, w.get(t, s))
			s = w.settled(t, h, s, converges)
		})
	})
	t.Run("sites", func(t *testing.T) {
		waste.empty(t) // what leaves the trash meanwhile would make room
		var healed *sitev1.Site
		limited(t, h, "/srv/chom/sites", 0, func(grow func()) {
			defer insiders(t, h, s).unharmed(t)
			res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "static"))
			if err != nil {
				t.Fatal(err)
			}
			full(t, w.ended(t, res.GetTask(), time.Minute))
			if _, err := rig.Visit(t.Context(), h.Host, res.GetSite().GetDomains()[0], "/"); err == nil {
				t.Error("a half made site answers")
			}
			w.ping(t, h, 10*time.Second)
			grow()
			healed, _ = w.change(t, updateSite, w.get(t, res.GetSite()))
			healed = w.settled(t, h, healed, converges)
		})
		waste.bin(t, healed)
	})
	t.Run("journal", func(t *testing.T) {
		sh(t, h, "systemctl stop chom-agent")
		limited(t, h, "/var/lib/chom-agent", 0, func(grow func()) {
			defer insiders(t, h, s).unharmed(t)
			sh(t, h, "systemctl start chom-agent")
			// bbolt first uses up the pages that are free within its file.
			var refused *taskv1.Task
			deadline := time.Now().Add(time.Minute)
			for refused == nil && time.Now().Before(deadline) {
				task, err := pingSlowly(timeout(t, backWithin), w, h, 100, 0)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				if _, err := w.rig.Wait(ctx, task, nil); err != nil {
					refused = task
				}
				cancel()
			}
			if refused == nil {
				t.Fatal("the journal never got full")
			}
			res, err := w.rig.Servers.GetServer(t.Context(), &fleetv1.GetServerRequest{ServerId: h.server.GetId()})
			if err != nil || !res.GetServer().GetOnline() {
				t.Errorf("with a full journal the server is %v, %v", res.GetServer(), err)
			}
			got, err := w.rig.Tasks.GetTask(t.Context(), &taskv1.GetTaskRequest{OrganizationId: refused.GetOrganizationId(), TaskId: refused.GetId()})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("with a full journal a task is %s: %q", got.GetTask().GetState(), got.GetTask().GetError())
			grow()
			w.done(t, refused, converges)
			w.ping(t, h, 10*time.Second)
		})
		w.ping(t, h, backWithin)
	})
	waste.bin(t, w.settled(t, h, s, converges))
}

// full wants a task to have failed for want of space, and to say so.
func full(t *testing.T, task *taskv1.Task) {
	t.Helper()
	if task.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(task.GetError(), "no space left") {
		t.Errorf("with a full disk the task ended %s: %q", task.GetState(), task.GetError())
	}
	t.Logf("full disk: %q", task.GetError())
}

// stopDatabase is I12.
func stopDatabase(t *testing.T, w *shared, h *host, waste *rubbish) {
	waste.empty(t) // a removal that fails is tried again only a minute later
	start := func() { sh(t, h, "systemctl start mariadb") }
	defer start()
	t.Run("for a moment", func(t *testing.T) {
		sh(t, h, "systemctl stop mariadb")
		res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "wordpress"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		start()
		// The step waits for a database that is on its way; where that takes longer, the site is ordered again by itself.
		if task := w.ended(t, res.GetTask(), 2*time.Minute); task.GetState() == taskv1.State_STATE_SUCCEEDED {
			once(t, task)
		}
		waste.bin(t, w.settled(t, h, res.GetSite(), 3*time.Minute))
	})
	t.Run("for longer", func(t *testing.T) {
		sh(t, h, "systemctl stop mariadb")
		res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "wordpress"))
		if err != nil {
			t.Fatal(err)
		}
		task := w.ended(t, res.GetTask(), 2*time.Minute)
		if task.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(task.GetError(), "database") {
			t.Errorf("without a database the task ended %s: %q", task.GetState(), task.GetError())
		}
		t.Logf("no database: %q", task.GetError())
		if _, err := rig.Visit(t.Context(), h.Host, res.GetSite().GetDomains()[0], "/"); err == nil {
			t.Error("a half made site answers")
		}
		start()
		waste.bin(t, res.GetSite())
	})
}

// spoilMirror is I13. No visitor may see anything of a site whose application
// did not arrive.
func spoilMirror(t *testing.T, w *shared, h *host, waste *rubbish) {
	defer w.rig.SpoilMirror(nil)
	var s *sitev1.Site
	for _, bad := range []struct {
		name, says string
		spoil      func(honest http.Handler) http.Handler
	}{
		{"not there", "404", func(http.Handler) http.Handler { return http.NotFoundHandler() }},
		{"other bytes", "checksum", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "not WordPress") })
		}},
		{"cut", "EOF", func(honest http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				honest.ServeHTTP(&cutWriter{ResponseWriter: rw, left: 1 << 20}, r)
			})
		}},
	} {
		w.rig.SpoilMirror(func(honest http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if ip, _, _ := net.SplitHostPort(r.RemoteAddr); ip == h.Addr().String() { // the other release's host has its own troubles
					honest = bad.spoil(honest)
				}
				honest.ServeHTTP(rw, r)
			})
		})
		forgetArchives(t, h)
		var task *taskv1.Task
		if s == nil {
			res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "wordpress"))
			if err != nil {
				t.Fatal(err)
			}
			s, task = res.GetSite(), res.GetTask()
		} else {
			var err error
			if s, task, err = w.order(timeout(t, time.Minute), updateSite, s); err != nil {
				t.Fatal(err)
			}
		}
		task = w.ended(t, task, 2*time.Minute)
		if task.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(task.GetError(), bad.says) {
			t.Errorf("with an archive that is %s the task ended %s: %q", bad.name, task.GetState(), task.GetError())
		}
		t.Logf("archive %s: %q", bad.name, task.GetError())
		if page, err := rig.Visit(t.Context(), h.Host, s.GetDomains()[0], "/"); err == nil {
			t.Errorf("a site without its application answers %d %q", page.Status, page.Title)
		}
		if left := sh(t, h, "find /var/cache/chom-agent/archives -type f"); left != "" {
			t.Errorf("an archive that is %s was kept: %s", bad.name, left)
		}
	}
	w.rig.SpoilMirror(nil)
	s, _ = w.change(t, updateSite, s)
	waste.bin(t, w.settled(t, h, s, converges))
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if c.left < len(b) {
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

// stopNginx is I14: nginx is stopped, then somebody else sits on its port.
func stopNginx(t *testing.T, w *shared, h *host, waste *rubbish) {
	waste.empty(t) // a removal that fails is tried again only a minute later
	s, _ := w.create(t, h, "static")
	t.Run("stopped", func(t *testing.T) {
		sh(t, h, "systemctl stop nginx")
		_, task, err := w.order(timeout(t, time.Minute), updateSite, s)
		if err != nil {
			t.Fatal(err)
		}
		task = w.ended(t, task, time.Minute)
		t.Logf("nginx stopped: %s %q", task.GetState(), task.GetError())
		if task.GetState() == taskv1.State_STATE_FAILED && !strings.Contains(task.GetError(), "nginx") {
			t.Errorf("the error does not say why: %q", task.GetError())
		}
		sh(t, h, "systemctl start nginx")
		s, _ = w.change(t, updateSite, w.get(t, s))
		s = w.settled(t, h, s, converges)
	})
	t.Run("port taken", func(t *testing.T) {
		sh(t, h, "systemctl stop nginx && systemd-run --quiet --unit=squatter systemd-socket-activate --accept --inetd --listen=80 /bin/cat")
		defer sh(t, h, "until systemctl start nginx; do sleep 0.2; done") // it may meet a start that fails already
		defer sh(t, h, "systemctl stop squatter")
		_, task, err := w.order(timeout(t, time.Minute), updateSite, s)
		if err != nil {
			t.Fatal(err)
		}
		task = w.ended(t, task, 2*time.Minute)
		if task.GetState() != taskv1.State_STATE_FAILED || !strings.Contains(task.GetError(), "nginx") {
			t.Errorf("with a foreign server on port 80 the task ended %s: %q", task.GetState(), task.GetError())
		}
		t.Logf("port taken: %q", task.GetError())
		w.ping(t, h, 10*time.Second)
	})
	s, _ = w.change(t, updateSite, w.get(t, s))
	waste.bin(t, w.settled(t, h, s, converges))
}
