package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbound/outboundtest"
	"chom.dev/controlplane/outbox"
	"chom.dev/proto/contract"
)

func TestDelivery(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := newReceiver(t)
		w := newWorld(t, d, r.dialer(t))
		w.run(t)
		all, secret := w.create(t, r.url)
		some, _ := w.create(t, r.url+"/some", "site.deleted", "task.failed", "site.deleted")
		if !slices.Equal(some.Events, []Type{SiteDeleted, TaskFailed}) {
			t.Errorf("it wants %v", some.Events)
		}
		err := db.InTx(t.Context(), d, func(tx *db.Tx) error {
			return errors.Join(Publish(t.Context(), tx, Event{Organization: w.ours, Type: SiteCreated, Object: Object{Name: "undone"}}), errUndone)
		})
		if !errors.Is(err, errUndone) {
			t.Fatal(err)
		}
		must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
			return Publish(t.Context(), tx, Event{Organization: contract.NewOrganizationID(), Type: SiteCreated, Object: Object{Name: "another organization's"}})
		}))
		w.publish(t, SiteCreated, "blog")
		got := w.ends(t, all.ID, outbox.Sent)
		if len(got.Attempts) != 1 || got.Tries != 1 || got.Attempts[0].Status != 204 || got.Attempts[0].Problem != "" || got.Attempts[0].Duration <= 0 {
			t.Errorf("the delivery is %+v", got)
		}
		calls := r.got()
		if len(calls) != 1 {
			t.Fatalf("%d calls came", len(calls))
		}
		call := calls[0]
		if err := Verify(secret, call.header.Get("Chom-Signature"), []byte(call.body), call.at); err != nil {
			t.Errorf("%v: %v", err, call.header)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "User-Agent": "CHOM-Webhook", "Chom-Event-Id": got.Event, "Chom-Delivery-Id": got.ID, "Authorization": "", "Accept-Encoding": "",
		} {
			if have := call.header.Get(name); have != want {
				t.Errorf("%s: %q", name, have)
			}
		}
		var said map[string]any
		must(t, json.Unmarshal([]byte(call.body), &said))
		object, _ := said["object"].(map[string]any)
		if said["id"] != got.Event || said["type"] != "site.created" || said["organization_id"] != w.ours.String() || object["kind"] != "site" || object["name"] != "blog" || len(said) != 5 || len(object) != 3 {
			t.Errorf("it says %s", call.body)
		}
		if at, err := time.Parse(time.RFC3339, said["time"].(string)); err != nil || time.Since(at) > time.Minute {
			t.Errorf("it happened at %v", said["time"])
		}
		if got.Body != call.body {
			t.Errorf("shown is %s", got.Body)
		}
		w.publish(t, SiteDeleted, "blog")
		w.ends(t, some.ID, outbox.Sent)
		if n := len(w.deliveries(t, some.ID)); n != 1 {
			t.Errorf("the one that wants some got %d", n)
		}
		t.Run("an event that does not exist is a bug", func(t *testing.T) {
			for _, kind := range []Type{"site.exploded", test, ""} {
				if err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return Publish(t.Context(), tx, Event{Organization: w.ours, Type: kind}) }); err == nil {
					t.Errorf("%q was published", kind)
				}
			}
		})
	})
}

// TestTroubles has a receiver fail in all ways; each event arrives in the end, under the same id.
func TestTroubles(t *testing.T) {
	for name, test := range map[string]struct {
		answer  func(w http.ResponseWriter, r *http.Request)
		problem string
		status  int
	}{
		"a server error":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "it answered 500", 500},
		"a refusal":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "it answered 403", 403},
		"a redirect":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "it answered 302", 302},
		"a cut":           {cut, "the connection broke", 0},
		"silence":         {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer in time", 0},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "the connection broke", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				r := newReceiver(t)
				r.answer = func(n int, w http.ResponseWriter, request *http.Request) {
					if n <= 2 {
						test.answer(w, request)
					}
				}
				w := newWorld(t, d, r.dialer(t))
				w.client = r.dialer(t).Client(300 * time.Millisecond)
				w.run(t)
				hook, _ := w.create(t, r.url)
				w.publish(t, SiteCreated, "blog")
				got := w.ends(t, hook.ID, outbox.Sent)
				if len(got.Attempts) != 3 || got.Attempts[0].Problem != test.problem || got.Attempts[0].Status != test.status || got.Attempts[2].Problem != "" || got.Attempts[2].Status != 200 {
					t.Errorf("the attempts are %+v", got.Attempts)
				}
				calls := r.got()
				if len(calls) != 3 {
					t.Fatalf("%d calls came", len(calls))
				}
				for _, call := range calls[1:] {
					if call.body != calls[0].body || call.header.Get("Chom-Event-Id") != calls[0].header.Get("Chom-Event-Id") {
						t.Errorf("a repetition says %s", call.body)
					}
				}
				if now, err := w.Get(t.Context(), w.ours, hook.ID); err != nil || !now.FailingSince.IsZero() {
					t.Errorf("after a success it is %+v, %v", now, err)
				}
			})
		})
	}
}

func cut(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		conn.Close()
	}
}

// TestInside lets a webhook's name lead into the network of the control plane (case A17).
func TestInside(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		secret := newReceiver(t) // on 127.0.0.1, which is inside here
		names := map[string][]string{
			"loopback.example.com": {"127.0.0.1"}, "metadata.example.com": {"169.254.169.254"}, "private.example.com": {"10.0.0.1"}, "local.example.com": {"fd00::1"},
			// A check when the webhook is made, or before each call, would see an address that may be called.
			"rebound.example.com": {"127.0.0.2", "127.0.0.1"},
		}
		_, resolver := outboundtest.Names(t, names)
		w := newWorld(t, d, outbound.New(outbound.WithResolver(resolver), outbound.WithRoots(secret.roots()), outbound.Allow(netip.MustParsePrefix("127.0.0.2/32"))))
		w.run(t)
		var unknown Delivery
		for _, name := range []string{"unknown.example.com", "loopback.example.com", "metadata.example.com", "private.example.com", "local.example.com", "rebound.example.com"} {
			hook, _ := w.create(t, strings.Replace(secret.url, "hooks.example.com", name, 1))
			tested, err := w.Test(t.Context(), w.ours, hook.ID)
			must(t, err)
			for deadline := time.Now().Add(15 * time.Second); len(tested.Attempts) < 3; time.Sleep(5 * time.Millisecond) {
				if tested, err = w.GetDelivery(t.Context(), w.ours, hook.ID, tested.ID); err != nil || time.Now().After(deadline) {
					t.Fatalf("%s: %+v, %v", name, tested, err)
				}
			}
			last := tested.Attempts[2]
			last.Started = time.Time{}
			if last != (Attempt{Problem: "the name has no public address"}) {
				t.Errorf("%s: what is shown is %+v", name, last)
			}
			if name == "unknown.example.com" {
				unknown = tested
			} else if tested.Problem != unknown.Problem {
				t.Errorf("%s is told from a name that does not exist: %q, %q", name, tested.Problem, unknown.Problem)
			}
			must(t, w.Delete(t.Context(), w.ours, hook.ID))
		}
		if n := len(secret.got()); n != 0 {
			t.Errorf("%d calls came inside", n)
		}
	})
}

func TestSecrets(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := newReceiver(t)
		w := newWorld(t, d, r.dialer(t))
		w.run(t)
		hook, first := w.create(t, r.url)
		if !strings.HasPrefix(first, "chomhook_") || len(first) < 50 {
			t.Errorf("the secret is %q", first)
		}
		signedBy := func(secrets ...string) {
			t.Helper()
			before := len(r.got())
			w.publish(t, SiteUpdated, "blog")
			for deadline := time.Now().Add(10 * time.Second); len(r.got()) == before && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			calls := r.got()
			call := calls[len(calls)-1]
			header := call.header.Get(SignatureHeader)
			if len(calls) == before || strings.Count(header, "v1=") != len(secrets) {
				t.Errorf("%d signatures: %s", strings.Count(header, "v1="), header)
			}
			for _, secret := range secrets {
				if err := Verify(secret, header, []byte(call.body), call.at); err != nil {
					t.Errorf("with one of its secrets: %v", err)
				}
			}
		}
		signedBy(first)
		rotated, second, err := w.RotateSecret(t.Context(), w.ours, hook.ID, false)
		must(t, err)
		if left := time.Until(rotated.FormerUntil); left < 23*time.Hour || left > 24*time.Hour {
			t.Errorf("the former secret lives for %s", left)
		}
		signedBy(second, first)
		w.change(t, `UPDATE webhooks SET former_until = 1`)
		signedBy(second)
		_, third, err := w.RotateSecret(t.Context(), w.ours, hook.ID, false)
		must(t, err)
		signedBy(third, second)
		again, fourth, err := w.RotateSecret(t.Context(), w.ours, hook.ID, true)
		if err != nil || !again.FormerUntil.IsZero() {
			t.Errorf("after a leak: %+v, %v", again, err)
		}
		signedBy(fourth)
		t.Run("are in the database as ciphertext only", func(t *testing.T) { // case B10
			for _, secret := range []string{first, second, third, fourth} {
				if n := w.count(t, `SELECT COUNT(*) FROM webhooks WHERE sealed_secret = $1 OR sealed_former_secret = $1`, []byte(secret)); n != 0 {
					t.Error("a secret is there in clear")
				}
			}
			other, _ := w.create(t, r.url)
			w.change(t, `UPDATE webhooks SET sealed_secret = (SELECT sealed_secret FROM webhooks WHERE id = $1) WHERE id = $2`, hook.ID, other.ID)
			if _, _, err := w.RotateSecret(t.Context(), w.ours, other.ID, false); err == nil {
				t.Error("one that was moved to another webhook opens there")
			}
		})
	})
}

func TestDisable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := newReceiver(t)
		var mu sync.Mutex
		broken := true
		r.answer = func(_ int, w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if broken {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
		w := newWorld(t, d, r.dialer(t))
		w.run(t)
		hook, _ := w.create(t, r.url)
		w.publish(t, SiteCreated, "blog")
		for deadline := time.Now().Add(30 * time.Second); w.count(t, `SELECT COALESCE(MAX(failures), 0) FROM webhook_failures`) <= failuresMax+1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("failures are not counted")
			}
			d.Notify(outbox.Topic, queue)
		}
		if now, err := w.Get(t.Context(), w.ours, hook.ID); err != nil || !now.Enabled || now.FailingSince.IsZero() {
			t.Errorf("a burst of failures: %+v, %v", now, err)
		}
		// The failures began an hour ago.
		w.change(t, `UPDATE webhook_failures SET since = since - $1`, failingFor.Microseconds())
		var now Webhook
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			var err error
			now, err = w.Get(t.Context(), w.ours, hook.ID)
			must(t, err)
			if !now.Enabled {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it is still %+v", now)
			}
		}
		if !strings.Contains(now.Problem, "the last time: it answered 503") {
			t.Errorf("the problem is %q", now.Problem)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM mails WHERE template = 'webhook_failing' AND recipient = 'owner@acme.example' AND organization_id = $1`, w.ours); n != 1 {
			t.Errorf("%d mails", n)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'webhook.disable' AND object = $1`, hook.ID); n != 1 {
			t.Errorf("%d audit events", n)
		}
		before := len(r.got())
		w.publish(t, SiteUpdated, "blog")
		if waiting := w.ends(t, hook.ID, outbox.Waiting); waiting.Tries != 0 {
			t.Errorf("it is %+v", waiting)
		}
		t.Run("a test is sent all the same, and changes nothing", func(t *testing.T) {
			tested, err := w.Test(t.Context(), w.ours, hook.ID)
			must(t, err)
			for deadline := time.Now().Add(10 * time.Second); len(tested.Attempts) == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				tested, err = w.GetDelivery(t.Context(), w.ours, hook.ID, tested.ID)
				must(t, err)
			}
			if len(tested.Attempts) == 0 || tested.Attempts[0].Status != 503 || w.count(t, `SELECT COUNT(*) FROM webhook_failures WHERE failures > $1`, failuresMax+50) != 0 {
				t.Errorf("it is %+v", tested)
			}
		})
		for _, call := range r.got()[before:] {
			if !strings.Contains(call.body, "webhook.test") {
				t.Errorf("it was told %s", call.body)
			}
		}
		if _, err := w.Replay(t.Context(), w.ours, hook.ID, w.deliveries(t, hook.ID)[1].ID); !errors.Is(err, ErrDisabled) {
			t.Errorf("replay: %v", err)
		}
		mu.Lock()
		broken = false
		mu.Unlock()
		yes := true
		if now, err := w.Update(t.Context(), w.ours, hook.ID, Change{Enabled: &yes}); err != nil || !now.Enabled || now.Problem != "" || !now.FailingSince.IsZero() {
			t.Errorf("enabled it is %+v, %v", now, err)
		}
		for deadline := time.Now().Add(10 * time.Second); w.count(t, `SELECT COUNT(*) FROM outbox WHERE queue = 'webhook' AND state <> 'sent'`) > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("still waiting: %+v", w.deliveries(t, hook.ID))
			}
		}
	})
}

// TestTypes holds the list for receivers against the one that is sent.
func TestTypes(t *testing.T) {
	text, err := os.ReadFile("../../proto/chom/webhook/v1/webhook.proto")
	must(t, err)
	if !slices.IsSorted(Types) {
		t.Error("they are not sorted")
	}
	for _, kind := range append(slices.Clone(Types), test) {
		if !regexp.MustCompile(`[ ;] ?` + regexp.QuoteMeta(string(kind)) + `[,;.]`).Match(text) {
			t.Errorf("webhook.proto does not list %s", kind)
		}
	}
}

func TestCap(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, outbound.New())
		var all sync.WaitGroup
		var mu sync.Mutex
		outcomes := map[string]int{}
		for range 10 {
			all.Go(func() {
				for range 5 {
					var err error
					for { // who loses against others asks again, as callers do
						if _, _, err = w.Create(t.Context(), Wanted{Organization: w.ours, URL: "https://example.com/"}); fault.KindOf(err) != fault.KindUnavailable {
							break
						}
					}
					mu.Lock()
					outcomes[fmt.Sprint(err)]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if n := w.count(t, `SELECT COUNT(*) FROM webhooks`); n != Max || outcomes["<nil>"] != Max || outcomes["create webhook: "+ErrTooMany.Error()] != 50-Max {
			t.Errorf("%d webhooks, %v", n, outcomes)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'webhook.create'`); n != Max {
			t.Errorf("%d audit events", n)
		}
		if _, _, err := w.Create(t.Context(), Wanted{Organization: contract.NewOrganizationID(), URL: "https://example.com/"}); fault.KindOf(err) != fault.KindNotFound {
			t.Errorf("for no organization: %v", err)
		}
	})
}

func TestChanges(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := newReceiver(t)
		w := newWorld(t, d, r.dialer(t))
		stop := w.run(t)
		hook, _ := w.create(t, r.url)
		w.publish(t, SiteCreated, "blog")
		first := w.ends(t, hook.ID, outbox.Sent)

		t.Run("replay sends the same event again", func(t *testing.T) {
			if again, err := w.Replay(t.Context(), w.ours, hook.ID, first.ID); err != nil || again.State != outbox.Waiting {
				t.Fatalf("got %+v, %v", again, err)
			}
			got := w.ends(t, hook.ID, outbox.Sent)
			calls := r.got()
			if len(calls) != 2 || calls[0].body != calls[1].body || len(got.Attempts) != 2 || len(w.deliveries(t, hook.ID)) != 1 {
				t.Errorf("%d calls, %+v", len(calls), got)
			}
		})
		t.Run("update changes what it names", func(t *testing.T) {
			description, events, no := "To the <b>chat</b>", []string{"task.failed"}, false
			changed, err := w.Update(t.Context(), w.ours, hook.ID, Change{Description: &description, Events: &events, Enabled: &no})
			if err != nil || changed.Description != description || changed.URL != r.url || !slices.Equal(changed.Events, []Type{TaskFailed}) || changed.Enabled {
				t.Errorf("got %+v, %v", changed, err)
			}
			for field, wrong := range map[string]Change{
				"url": {URL: new("https://127.0.0.1/")}, "description": {Description: new("a\r\nb")}, "events": {Events: &[]string{"x.y"}},
			} {
				_, err := w.Update(t.Context(), w.ours, hook.ID, wrong)
				if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != field {
					t.Errorf("%s: %v", field, err)
				}
			}
			if kept, err := w.Get(t.Context(), w.ours, hook.ID); err != nil || kept.URL != changed.URL || kept.UpdatedAt != changed.UpdatedAt {
				t.Errorf("a change that was refused left %+v, %v", kept, err)
			}
		})
		t.Run("delete ends what waits, and nothing of it is shown any more", func(t *testing.T) {
			yes := true
			_, err := w.Update(t.Context(), w.ours, hook.ID, Change{Enabled: &yes})
			must(t, err)
			stop()
			w.publish(t, TaskFailed, "converge_site")
			must(t, w.Delete(t.Context(), w.ours, hook.ID))
			w.run(t)
			for deadline := time.Now().Add(10 * time.Second); w.count(t, `SELECT COUNT(*) FROM outbox WHERE state = 'dead' AND error = 'the webhook was removed'`) != 1; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it still waits")
				}
			}
			if n := len(r.got()); n != 2 {
				t.Errorf("%d calls came", n)
			}
			if _, _, err := w.ListDeliveries(t.Context(), w.ours, hook.ID, 0, "", Filter{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("its deliveries: %v", err)
			}
			if _, err := w.GetDelivery(t.Context(), w.ours, hook.ID, first.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("one of them: %v", err)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM webhooks`); n != 0 {
				t.Error("its secret is still there")
			}
		})
		for action, want := range map[string]int{"webhook.create": 1, "webhook.replay": 1, "webhook.update": 2, "webhook.delete": 1} {
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = $1 AND organization_id = $2`, action, w.ours); n != want {
				t.Errorf("%d of %s", n, action)
			}
		}
	})
}

// TestForeign has an organization ask for what is another's: it does not exist for it.
func TestForeign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		r := newReceiver(t)
		w := newWorld(t, d, r.dialer(t))
		w.run(t)
		hook, _ := w.create(t, r.url)
		w.publish(t, SiteCreated, "blog")
		delivery := w.ends(t, hook.ID, outbox.Sent)
		other := w.organization(t, "other")
		theirs, _, err := w.Create(t.Context(), Wanted{Organization: other, URL: r.url})
		must(t, err)
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"get":              func() error { _, err := w.Get(ctx, other, hook.ID); return err },
			"update":           func() error { _, err := w.Update(ctx, other, hook.ID, Change{Enabled: new(false)}); return err },
			"rotate":           func() error { _, _, err := w.RotateSecret(ctx, other, hook.ID, true); return err },
			"delete":           func() error { return w.Delete(ctx, other, hook.ID) },
			"test":             func() error { _, err := w.Test(ctx, other, hook.ID); return err },
			"list deliveries":  func() error { _, _, err := w.ListDeliveries(ctx, other, hook.ID, 0, "", Filter{}); return err },
			"get delivery":     func() error { _, err := w.GetDelivery(ctx, other, hook.ID, delivery.ID); return err },
			"replay":           func() error { _, err := w.Replay(ctx, other, hook.ID, delivery.ID); return err },
			"get by theirs":    func() error { _, err := w.GetDelivery(ctx, other, theirs.ID, delivery.ID); return err },
			"replay by theirs": func() error { _, err := w.Replay(ctx, other, theirs.ID, delivery.ID); return err },
		} {
			if err := call(); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("%s: %v", name, err)
			}
		}
		if all, err := w.List(ctx, other); err != nil || len(all) != 1 || all[0].ID != theirs.ID {
			t.Errorf("listed %+v, %v", all, err)
		}
		if now, err := w.Get(ctx, w.ours, hook.ID); err != nil || !now.Enabled || now.UpdatedAt != hook.UpdatedAt || len(r.got()) != 1 {
			t.Errorf("it is %+v, %v", now, err)
		}
	})
}

func TestList(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, outbound.New())
		hook, _ := w.create(t, "https://example.com/")
		for n := range 5 {
			w.publish(t, SiteUpdated, fmt.Sprint("site", n))
		}
		first, next, err := w.ListDeliveries(t.Context(), w.ours, hook.ID, 3, "", Filter{})
		must(t, err)
		rest, end, err := w.ListDeliveries(t.Context(), w.ours, hook.ID, 3, next, Filter{})
		must(t, err)
		if len(first) != 3 || len(rest) != 2 || end != "" || first[0].ID < rest[1].ID {
			t.Errorf("%d and %d are listed", len(first), len(rest))
		}
		w.change(t, `UPDATE outbox SET state = 'dead' WHERE id = $1`, rest[0].ID)
		if dead, _, err := w.ListDeliveries(t.Context(), w.ours, hook.ID, 0, "", Filter{State: outbox.Dead}); err != nil || len(dead) != 1 || dead[0].ID != rest[0].ID {
			t.Errorf("the dead are %+v, %v", dead, err)
		}
		other, _ := w.create(t, "https://example.com/")
		if _, _, err := w.ListDeliveries(t.Context(), w.ours, other.ID, 3, next, Filter{}); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("with the token of another list: %v", err)
		}
	})
}

func TestHopeless(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for name, test := range map[string]struct {
		failures int
		since    time.Duration
		want     bool
	}{
		"many, for long":     {failuresMax, failingFor, true},
		"many, in a moment":  {10 * failuresMax, failingFor - time.Second, false},
		"few, for very long": {failuresMax - 1, 100 * failingFor, false},
	} {
		if got := hopeless(test.failures, now.Add(-test.since), now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
