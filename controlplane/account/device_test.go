package account_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

// issued remembers what was asked of the maker of tokens.
type issued struct {
	mu  sync.Mutex
	all []account.Scope
}

func (i *issued) Issue(_ context.Context, tx *db.Tx, id, name string, scope account.Scope, expires time.Time) (string, error) {
	if id == "" || name == "" || time.Until(expires) < 89*24*time.Hour || time.Until(expires) > 90*24*time.Hour {
		return "", errors.New("a token without an owner, a name or an end")
	}
	tx.AfterCommit(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.all = append(i.all, scope)
	})
	return "token of " + id, nil
}

func TestDeviceLogin(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		tokens := &issued{}
		w := accounttest.New(t, d, func(c *account.Config) { c.Tokens = tokens })
		caller := w.Caller(t, w.SignUp(t, anna).Secret)
		terminal := account.Client{Address: "198.51.100.9", UserAgent: "chom/1.0"}
		begin := func() account.DeviceCodes {
			return must[account.DeviceCodes](t)(w.BeginDeviceLogin(ctx, "chom on\nbuild-7", account.Deploy, terminal))
		}
		// later lets a program ask again without waiting.
		later := func() { run(t, d, `UPDATE device_logins SET polled_at = 0`) }

		codes := begin()
		if codes.URL != accounttest.URL+"/device" || codes.Complete != codes.URL+"#"+codes.User || codes.Interval != 5*time.Second {
			t.Errorf("got %+v", codes)
		}
		shown, err := w.GetDeviceLogin(ctx, caller, codes.User)
		if err != nil {
			t.Fatal(err)
		}
		if shown.Name != "chom onbuild-7" || shown.Scope != account.Deploy || shown.From != terminal {
			t.Errorf("shown is %+v", shown)
		}
		if token, err := w.PollDeviceLogin(ctx, codes.Device); err != nil || token != "" {
			t.Errorf("before it is approved: %q, %v", token, err)
		}
		if _, err := w.PollDeviceLogin(ctx, codes.Device); fault.KindOf(err) != fault.KindUnavailable {
			t.Errorf("asked at once: %v", err)
		}
		if err := w.ApproveDeviceLogin(ctx, caller, codes.User); err != nil {
			t.Fatal(err)
		}
		if err := w.DenyDeviceLogin(ctx, caller, codes.User); !errors.Is(err, account.ErrNoDeviceLogin) {
			t.Errorf("answered twice: %v", err)
		}
		later()
		var wg sync.WaitGroup
		won := make(chan string, 8)
		for range 8 {
			wg.Go(func() {
				if token, err := w.PollDeviceLogin(ctx, codes.Device); err == nil && token != "" {
					won <- token
				}
			})
		}
		wg.Wait()
		if len(won) != 1 || <-won != "token of "+caller.ID || len(tokens.all) != 1 || tokens.all[0] != account.Deploy {
			t.Errorf("%d tokens were given, %v made", len(won)+1, tokens.all)
		}
		if _, err := w.PollDeviceLogin(ctx, codes.Device); !errors.Is(err, account.ErrNoDeviceLogin) {
			t.Errorf("afterwards: %v", err)
		}
		if n := count(t, d, `SELECT COUNT(*) FROM audit_events WHERE action = 'account.approve_device_login' AND detail LIKE '%198.51.100.9%'`); n != 1 {
			t.Errorf("%d events", n)
		}

		t.Run("that is denied hears it once", func(t *testing.T) {
			codes := begin()
			if err := w.DenyDeviceLogin(ctx, caller, codes.User); err != nil {
				t.Fatal(err)
			}
			if _, err := w.PollDeviceLogin(ctx, codes.Device); !errors.Is(err, account.ErrDeviceDenied) {
				t.Errorf("got %v", err)
			}
			if _, err := w.PollDeviceLogin(ctx, codes.Device); !errors.Is(err, account.ErrNoDeviceLogin) {
				t.Errorf("afterwards: %v", err)
			}
		})
		t.Run("is over when its person's other sessions end", func(t *testing.T) {
			codes := begin()
			if err := w.ApproveDeviceLogin(ctx, caller, codes.User); err != nil {
				t.Fatal(err)
			}
			if _, err := w.RevokeOtherSessions(ctx, caller); err != nil {
				t.Fatal(err)
			}
			if _, err := w.PollDeviceLogin(ctx, codes.Device); !errors.Is(err, account.ErrNoDeviceLogin) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("is over after 10 minutes, approved or not", func(t *testing.T) {
			waits, approved := begin(), begin()
			if err := w.ApproveDeviceLogin(ctx, caller, approved.User); err != nil {
				t.Fatal(err)
			}
			run(t, d, `UPDATE device_logins SET expires_at = 1`)
			if err := w.ApproveDeviceLogin(ctx, caller, waits.User); !errors.Is(err, account.ErrNoDeviceLogin) {
				t.Errorf("approved late: %v", err)
			}
			if _, err := w.PollDeviceLogin(ctx, approved.Device); !errors.Is(err, account.ErrNoDeviceLogin) {
				t.Errorf("polled late: %v", err)
			}
		})
		t.Run("is not found by a guess, nor by the code for people", func(t *testing.T) {
			codes := begin()
			for _, guess := range []string{"", "BCDF", "bcdf-ghjk", "AEIO-UAEI", "BCDF-GHJ'", strings.ReplaceAll(codes.User, "-", "")} {
				if _, err := w.GetDeviceLogin(ctx, caller, guess); !errors.Is(err, account.ErrNoDeviceLogin) {
					t.Errorf("%q: %v", guess, err)
				}
			}
			for _, guess := range []string{"", codes.User, "chomdevice_" + strings.Repeat("0", 49)} {
				if _, err := w.PollDeviceLogin(ctx, guess); !errors.Is(err, account.ErrNoDeviceLogin) {
					t.Errorf("%q: %v", guess, err)
				}
			}
		})
	})
}
