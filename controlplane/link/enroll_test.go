package link_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

func (w *world) tryEnroll(token, id string, key *ecdsa.PrivateKey) (*linkv1.Identity, error) {
	client, end := w.stranger()
	defer end()
	res, err := client.Enroll(context.Background(), &linkv1.EnrollRequest{Token: token, EnrollmentId: id, Csr: newCSR(w.t, key)})
	return res.GetIdentity(), err
}

func TestEnroll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		t.Run("a token gives an identity that the door knows, and the server is prepared", func(t *testing.T) {
			server, token := w.server("web1")
			h := &host{w: w, key: newKey(t), name: uuid.NewString()}
			got, err := w.tryEnroll(token, uuid.NewString(), h.key)
			if err != nil {
				t.Fatal(err)
			}
			if got.GetServerId() != server.String() || len(got.GetRoots()) != 2 || len(got.GetSignerKeys()) != 1 {
				t.Errorf("got %v", got)
			}
			h.take(got)
			h.dial()
			h.hello()
			o := h.order(h.watch().opened(t).next(t, 5*time.Second))
			if o.GetPrepareServer() == nil {
				t.Errorf("got %v", o)
			}
			s, err := w.fleet.Get(t.Context(), server)
			if err != nil || s.PrepareTaskID != o.GetTaskId() {
				t.Errorf("got %v, %v", s, err)
			}
		})
		t.Run("of fifty hosts that show one token one enrols, and people hear of it", func(t *testing.T) {
			server, token := w.server("web2")
			var mu sync.Mutex
			serials := map[string]bool{}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					got, err := w.tryEnroll(token, uuid.NewString(), newKey(t))
					if err != nil {
						if connect.CodeOf(err) != connect.CodePermissionDenied {
							t.Errorf("got %v", err)
						}
						return
					}
					cert, err := x509.ParseCertificate(got.GetCertificate())
					if err != nil || got.GetServerId() != server.String() {
						t.Errorf("got %v, %v", got, err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					serials[cert.SerialNumber.String()] = true
				})
			}
			wg.Wait()
			if len(serials) != 1 {
				t.Errorf("%d certificates were given", len(serials))
			}
			if n := w.count(`SELECT COUNT(*) FROM audit_events WHERE action = 'server.token_reused'`); n != 49 {
				t.Errorf("%d alarms", n)
			}
			if n := w.count(`SELECT COUNT(*) FROM tasks WHERE server_id = $1`, server); n != 1 {
				t.Errorf("%d tasks prepare it", n)
			}
		})
		t.Run("the same host may ask again after a lost answer", func(t *testing.T) {
			_, token := w.server("web3")
			key, id := newKey(t), uuid.NewString()
			first, err := w.tryEnroll(token, id, key)
			if err != nil {
				t.Fatal(err)
			}
			second, err := w.tryEnroll(token, id, key)
			if err != nil || string(first.GetCertificate()) != string(second.GetCertificate()) {
				t.Errorf("got another answer: %v", err)
			}
		})
		t.Run("what is no token, expired or replaced is refused", func(t *testing.T) {
			server, token := w.server("web4")
			_, expired := w.server("web5")
			w.tx(func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE join_tokens SET expires_at = 1 WHERE server_id = (SELECT id FROM servers WHERE name = 'web5')`)
				return err
			})
			if _, err := w.fleet.CreateToken(t.Context(), server, w.authority.Pin()); err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(token, ".")
			for what, text := range map[string]string{
				"nonsense":     "nonsense",
				"replaced":     token,
				"expired":      expired,
				"wrong secret": strings.Join([]string{parts[0], parts[1], strings.Repeat("A", len(parts[2])), parts[3]}, "."),
				"unknown":      strings.Join([]string{parts[0], "abc", parts[2], parts[3]}, "."),
			} {
				_, err := w.tryEnroll(text, uuid.NewString(), newKey(t))
				if connect.CodeOf(err) != connect.CodePermissionDenied {
					t.Errorf("%s: %v", what, err)
				}
				if err != nil && strings.Contains(err.Error(), parts[2]) {
					t.Errorf("%s: the error shows the secret", what)
				}
			}
		})
		t.Run("a request that is not well formed names its field", func(t *testing.T) {
			client, end := w.stranger()
			defer end()
			for field, req := range map[string]*linkv1.EnrollRequest{
				"csr":           {Token: "x", EnrollmentId: uuid.NewString(), Csr: []byte("x")},
				"enrollment_id": {Token: "x", EnrollmentId: "x", Csr: []byte("x")},
				"token":         {EnrollmentId: uuid.NewString(), Csr: []byte("x")},
			} {
				_, err := client.Enroll(t.Context(), req)
				wantCode(t, err, connect.CodeInvalidArgument)
				if err != nil && !strings.Contains(err.Error(), field) {
					t.Errorf("%v does not name %s", err, field)
				}
			}
		})
	})
}

func TestEnrollLimit(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t), func(c *link.Config) { c.EnrollmentsPerMinute = 0 })
	for i := range 8 { // those who know what they do are not counted
		w.enroll(strings.Repeat("a", i+1))
	}
	for i := range 6 {
		_, err := w.tryEnroll("chom1.guess", uuid.NewString(), newKey(t))
		if i < 5 {
			wantCode(t, err, connect.CodePermissionDenied)
			continue
		}
		wantCode(t, err, connect.CodeResourceExhausted)
		var refused *connect.Error
		if !errors.As(err, &refused) || refused.Meta().Get("Retry-After") == "" {
			t.Errorf("%v does not say when to come back", err)
		}
	}
	_, token := w.server("late")
	_, err := w.tryEnroll(token, uuid.NewString(), newKey(t))
	wantCode(t, err, connect.CodeResourceExhausted)
}

func TestRenew(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		h.hello()
		old := *h
		s := old.watch().opened(t)
		key := newKey(t)
		renew := func() *linkv1.Identity {
			t.Helper()
			res, err := h.client.Renew(t.Context(), &linkv1.RenewRequest{Epoch: h.epoch, Csr: newCSR(t, key)})
			if err != nil {
				t.Fatal(err)
			}
			return res.GetIdentity()
		}
		first := renew()
		if again := renew(); string(again.GetCertificate()) != string(first.GetCertificate()) {
			t.Error("the same key got two certificates")
		}
		if _, err := old.report(); err != nil {
			t.Errorf("the former certificate is refused before the next one was used: %v", err)
		}
		h.key = key
		h.take(first)
		h.dial()
		h.hello()
		if err := s.end(t, 2*time.Second); err == nil { // whichever is noticed first: the epoch or the certificate
			t.Error("the stream ended in order")
		}
		if _, err := h.report(); err != nil {
			t.Errorf("the next certificate: %v", err)
		}
		old.epoch = h.epoch
		_, err := old.report()
		wantCode(t, err, connect.CodePermissionDenied)
		if _, err := h.report(); err != nil {
			t.Errorf("the refusal of the former certificate hurts the current one: %v", err)
		}
	})
}

func TestRecover(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		client, end := w.stranger()
		defer end()
		justEnded := time.Now().Add(-7*24*time.Hour - time.Minute) // the root is an hour old
		expired := func(key *ecdsa.PrivateKey, server string) []byte {
			t.Helper()
			csr, _, err := pki.ParseRequest(newCSR(t, key))
			if err != nil {
				t.Fatal(err)
			}
			c, err := w.authority.IssueAgent(must(contract.ParseServerID(server)), csr, justEnded)
			if err != nil {
				t.Fatal(err)
			}
			return c.DER
		}
		ask := func(certificate []byte, key, signer *ecdsa.PrivateKey) (*linkv1.Identity, error) {
			t.Helper()
			csr := newCSR(t, key)
			digest := contract.RecoverDigest(csr)
			signature, err := ecdsa.SignASN1(rand.Reader, signer, digest[:])
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Recover(t.Context(), &linkv1.RecoverRequest{Certificate: certificate, Csr: csr, Signature: signature})
			return res.GetIdentity(), err
		}
		t.Run("one that has not ended is to be renewed", func(t *testing.T) {
			_, err := ask(h.cert, newKey(t), h.key)
			wantCode(t, err, connect.CodeInvalidArgument)
		})
		t.Run("who does not hold the key is refused", func(t *testing.T) {
			other := newKey(t)
			_, err := ask(expired(h.key, h.id), other, other)
			wantCode(t, err, connect.CodePermissionDenied)
		})
		t.Run("a key that the server is not bound to is refused", func(t *testing.T) {
			other := newKey(t)
			_, err := ask(expired(other, h.id), newKey(t), other)
			wantCode(t, err, connect.CodePermissionDenied)
		})
		t.Run("another authority's certificate is refused", func(t *testing.T) {
			foreign, err := pki.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			csr, _, err := pki.ParseRequest(newCSR(t, h.key))
			if err != nil {
				t.Fatal(err)
			}
			c, err := foreign.IssueAgent(must(contract.ParseServerID(h.id)), csr, justEnded)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ask(c.DER, newKey(t), h.key)
			wantCode(t, err, connect.CodePermissionDenied)
		})
		t.Run("the holder gets a new one, three times, then an operator is needed", func(t *testing.T) {
			for range 3 {
				key := newKey(t)
				got, err := ask(expired(h.key, h.id), key, h.key)
				if err != nil {
					t.Fatal(err)
				}
				h.key = key
				h.take(got)
				h.dial()
				h.hello()
			}
			_, err := ask(expired(h.key, h.id), newKey(t), h.key)
			wantCode(t, err, connect.CodePermissionDenied)
		})
	})
}

func TestEnrollAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		h := w.enroll("web1")
		h.hello()
		s := h.watch().opened(t)
		made := w.noop(h.id)
		o := h.order(s.next(t, time.Second))
		h.mustReport(accepted(o))
		token, err := w.fleet.CreateToken(t.Context(), must(contract.ParseServerID(h.id)), w.authority.Pin())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.tryEnroll(token.Text, uuid.NewString(), newKey(t)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, s.end(t, 2*time.Second), connect.CodePermissionDenied)
		if got := w.task(made.ID); got.State != task.Failed {
			t.Errorf("what the former host ran is %s", got.State)
		}
		_, err = h.tryHello()
		wantCode(t, err, connect.CodePermissionDenied)
	})
}
