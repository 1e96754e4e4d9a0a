package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

func TestEnroll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()

		t.Run("makes a host the server, and orders its preparation", func(t *testing.T) {
			w := newWorld(t, d)
			s, token := w.create(t, "plain")
			e, err := w.enroll(ctx, token, "e1", "key")
			if err != nil {
				t.Fatal(err)
			}
			got := w.get(t, s.ID)
			if e.Server != s.ID || e.Replayed || got.State != Active || !got.Online || got.Facts.Hostname != "h" || got.PrepareTaskID == "" ||
				!got.CertificateExpiresAt.Equal(w.now.Add(7*24*time.Hour)) {
				t.Errorf("got %+v of %+v", got, e)
			}
		})
		t.Run("gives the same key the same answer, also after the token's time", func(t *testing.T) {
			w := newWorld(t, d)
			_, token := w.create(t, "replay")
			first, err := w.enroll(ctx, token, "e1", "key")
			if err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(2 * time.Hour)
			second, err := w.enroll(ctx, token, "e1", "key")
			if err != nil || !bytes.Equal(first.Certificate, second.Certificate) || !second.Replayed || w.issued.Load() != 1 {
				t.Errorf("got %+v, %v after %+v", second, err, first)
			}
		})
		t.Run("refuses the token to any other key and enrolment", func(t *testing.T) {
			w := newWorld(t, d)
			_, token := w.create(t, "other")
			if _, err := w.enroll(ctx, token, "e1", "key"); err != nil {
				t.Fatal(err)
			}
			for _, other := range [][2]string{{"e1", "another"}, {"e2", "key"}, {"e2", "another"}} {
				if _, err := w.enroll(ctx, token, other[0], other[1]); !errors.Is(err, ErrTokenUsed) {
					t.Errorf("%v: got %v", other, err)
				}
			}
			if n := w.issued.Load(); n != 1 {
				t.Errorf("%d certificates", n)
			}
		})
		t.Run("refuses a token after its 30 minutes", func(t *testing.T) {
			w := newWorld(t, d)
			s, token := w.create(t, "late")
			w.now = w.now.Add(tokenLife + time.Second)
			if _, err := w.enroll(ctx, token, "e1", "key"); !errors.Is(err, ErrTokenExpired) {
				t.Errorf("got %v", err)
			}
			if got := w.get(t, s.ID); got.State != Pending || w.issued.Load() != 0 {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("refuses a token once there is a newer one, used or not", func(t *testing.T) {
			w := newWorld(t, d)
			s, token := w.create(t, "newer")
			newer, err := w.CreateToken(ctx, s.ID, pin)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.enroll(ctx, token, "e1", "key"); !errors.Is(err, ErrTokenReplaced) {
				t.Errorf("got %v", err)
			}
			if _, err := w.enroll(ctx, newer, "e1", "key"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.CreateToken(ctx, s.ID, pin); err != nil {
				t.Fatal(err)
			}
			if _, err := w.enroll(ctx, newer, "e1", "key"); !errors.Is(err, ErrTokenReplaced) {
				t.Errorf("replay: got %v", err)
			}
		})
		t.Run("refuses the token of a server that was removed or quarantined", func(t *testing.T) {
			w := newWorld(t, d)
			s, token := w.create(t, "gone")
			if _, err := w.Remove(ctx, s.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := w.enroll(ctx, token, "e1", "key"); !errors.Is(err, ErrTokenReplaced) || w.issued.Load() != 0 {
				t.Errorf("got %v, %d certificates", err, w.issued.Load())
			}
			if _, err := w.CreateToken(ctx, s.ID, pin); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("a new token: %v", err)
			}
			id, _ := w.host(t, "caught", "key")
			unused, err := w.CreateToken(ctx, id, pin)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Quarantine(ctx, id, "seen twice"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.enroll(ctx, unused, "e2", "other"); !errors.Is(err, ErrTokenReplaced) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("refuses the answer again once the host has another key", func(t *testing.T) {
			w := newWorld(t, d)
			_, token := w.create(t, "rekeyed")
			e, err := w.enroll(ctx, token, "e1", "k1")
			if err != nil {
				t.Fatal(err)
			}
			who := pki.Peer{Server: e.Server.String(), Serial: serialOf(e.Certificate)}
			der, err := w.Renew(ctx, who, keyHash("k2"), w.now, w.issue(w.now))
			if err != nil {
				t.Fatal(err)
			}
			if again, err := w.enroll(ctx, token, "e1", "k1"); err != nil || !again.Replayed {
				t.Errorf("before the first use of the next key: %v", err)
			}
			who.Serial = serialOf(der)
			w.mustHello(t, who, "i1")
			if _, err := w.enroll(ctx, token, "e1", "k1"); !errors.Is(err, ErrTokenReplaced) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("says nothing to who does not know the secret", func(t *testing.T) {
			w := newWorld(t, d)
			_, token := w.create(t, "guess")
			id, secret, err := parseToken(token.Text)
			if err != nil {
				t.Fatal(err)
			}
			wrong := strings.Repeat("A", len(secret))
			for name, text := range map[string]string{
				"wrong secret":  "chom1." + id + "." + wrong + "." + pin,
				"unknown id":    "chom1.0123456789abcdef." + secret + "." + pin,
				"other version": "chom2." + id + "." + secret + "." + pin,
				"empty":         "",
				"shell":         "chom1." + id + ".$(id)aaaaaaaaaaaaaaaaaaaa." + pin,
				"line break":    token.Text + "\n",
				"huge":          "chom1." + id + "." + strings.Repeat("a", 1<<16) + "." + pin,
			} {
				if _, err := w.enroll(ctx, JoinToken{Text: text}, "e1", "key"); !errors.Is(err, ErrToken) || strings.Contains(err.Error(), secret) {
					t.Errorf("%s: got %v", name, err)
				}
			}
			if _, err := w.enroll(ctx, token, "e1", "key"); err != nil {
				t.Errorf("the guesses used it up: %v", err)
			}
		})
		t.Run("leaves the token unused when anything fails", func(t *testing.T) {
			w := newWorld(t, d)
			_, token := w.create(t, "fails")
			e := Enrollment{Token: token.Text, ID: "e1", KeyHash: keyHash("key")}
			broken := errors.New("broken")
			_, err := w.Enroll(ctx, e, w.now, w.issue(w.now), func(context.Context, *db.Tx, contract.ServerID) error { return broken })
			if !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			if _, err := w.enroll(ctx, token, "e2", "another"); err != nil {
				t.Error(err)
			}
		})
		t.Run("gives a new host the place of the old one", func(t *testing.T) {
			w := newWorld(t, d)
			id, old := w.host(t, "moved", "key")
			epoch := w.mustHello(t, old, "i1")
			if _, err := w.Drain(ctx, id); err != nil {
				t.Fatal(err)
			}
			token, err := w.CreateToken(ctx, id, pin)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Check(ctx, old, epoch); err != nil {
				t.Errorf("the token alone cut the old host off: %v", err)
			}
			e, err := w.enroll(ctx, token, "e2", "new key")
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Check(ctx, old, epoch); !errors.Is(err, ErrRevoked) {
				t.Errorf("the old host: %v", err)
			}
			if got := w.get(t, id); e.Server != id || got.State != Draining || got.Epoch <= epoch {
				t.Errorf("got %+v after epoch %d", got, epoch)
			}
		})
		t.Run("lets a quarantined server begin anew", func(t *testing.T) {
			w := newWorld(t, d)
			id, _ := w.host(t, "anew", "key")
			if err := w.Quarantine(ctx, id, "seen twice"); err != nil {
				t.Fatal(err)
			}
			token, err := w.CreateToken(ctx, id, pin)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.enroll(ctx, token, "e2", "new key"); err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, id); got.State != Active || got.Problem != "" {
				t.Errorf("got %+v", got)
			}
		})
	})
}

// E01: whoever is first has the token; 49 others get nothing.
func TestEnrollInParallel(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		for _, same := range []bool{false, true} {
			t.Run(fmt.Sprintf("same key %t", same), func(t *testing.T) {
				w := newWorld(t, d)
				s, token := w.create(t, fmt.Sprintf("race-%t", same))
				var group sync.WaitGroup
				answers, refusals := make(chan string, 50), make(chan error, 50)
				start := make(chan struct{})
				for i := range 50 {
					id, key := "e", "key"
					if !same {
						id, key = fmt.Sprint("e", i), fmt.Sprint("key", i)
					}
					group.Go(func() {
						<-start
						if e, err := w.enroll(ctx, token, id, key); err != nil {
							refusals <- err
						} else {
							answers <- string(e.Certificate)
						}
					})
				}
				close(start)
				group.Wait()
				close(answers)
				close(refusals)
				certificates := map[string]int{}
				for a := range answers {
					certificates[a]++
				}
				if len(certificates) != 1 {
					t.Errorf("got %v", certificates)
				}
				for err := range refusals {
					if same || !errors.Is(err, ErrTokenUsed) {
						t.Errorf("refused with %v", err)
					}
				}
				for certificate, n := range certificates {
					if want := map[bool]int{true: 50, false: 1}[same]; n != want {
						t.Errorf("%d got it, want %d", n, want)
					}
					var serial string
					if err := d.Reader().QueryRow(ctx, `SELECT serial FROM servers WHERE id = $1`, s.ID).Scan(&serial); err != nil || serial != serialOf([]byte(certificate)) {
						t.Errorf("the server's serial is %q, %v", serial, err)
					}
				}
			})
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("chom1.a." + strings.Repeat("b", 20) + "." + pin)
	f.Add("chom1..." + pin)
	f.Fuzz(func(t *testing.T, text string) {
		id, secret, err := parseToken(text)
		if err != nil {
			return
		}
		if strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || len(secret) < 20 || strings.ContainsAny(text, "'\"$`\\;&|<> \n\x00") {
			t.Errorf("%q was taken as %q, %q", text, id, secret)
		}
	})
}
