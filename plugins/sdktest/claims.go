package sdktest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"chom.dev/plugins/sdk"
)

func describes(b *bench) error {
	_, user := b.suite.NewSite(b.t)
	return b.visit(user, func(c Conn) error {
		first, err := c.Describe(b.ctx) // refuses an invalid one
		if err != nil {
			return fmt.Errorf("describe: %w", err)
		}
		second, err := c.Describe(b.ctx)
		if err != nil {
			return fmt.Errorf("describe again: %w", err)
		}
		if !reflect.DeepEqual(first, second) {
			return fmt.Errorf("two descriptions differ:\n%+v\n%+v", first, second)
		}
		return nil
	})
}

func checksFresh(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	before, err := snapshot(site.Tree, nil)
	if err != nil {
		return err
	}
	state, err := b.check(site, user)
	if err != nil {
		return err
	}
	if state.Installed {
		return fmt.Errorf("a fresh site is said to be installed: %+v", state)
	}
	return unchanged(site, before)
}

func refusesUninstalled(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	return b.visit(user, func(c Conn) error {
		if _, err := c.Update(b.ctx, site); !errors.Is(err, sdk.ErrNotInstalled) {
			return fmt.Errorf("update before install: want %w, got %w", sdk.ErrNotInstalled, orNone(err))
		}
		if err := c.ArmLogin(b.ctx, site, newLogin(time.Minute)); !errors.Is(err, sdk.ErrNotInstalled) && !errors.Is(err, sdk.ErrUnsupported) {
			return fmt.Errorf("arm a login before install: want %w, got %w", sdk.ErrNotInstalled, orNone(err))
		}
		return nil
	})
}

func installs(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	var done float64
	var state sdk.State
	err := b.visit(user, func(c Conn) (err error) {
		state, err = c.Install(b.ctx, site, func(p sdk.Progress) {
			if p.Fraction < done {
				b.t.Logf("progress went back from %v to %v at %q", done, p.Fraction, p.Step)
			}
			done = p.Fraction
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if !state.Installed {
		return fmt.Errorf("install succeeded but the site is not installed: %+v", state)
	}
	measured, err := b.check(site, user)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(state, measured) {
		return fmt.Errorf("install returned %+v, check finds %+v", state, measured)
	}
	return nil
}

func installsTwice(b *bench) error {
	site, user, first, err := b.installed()
	if err != nil {
		return err
	}
	before, err := snapshot(site.Tree, nil)
	if err != nil {
		return err
	}
	second, err := b.install(site, user)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(first, second) {
		return fmt.Errorf("first %+v, then %+v", first, second)
	}
	return unchanged(site, before)
}

// survivesCancel leaves an installation soon after its start. What is still
// being done a moment later would be done by nobody's order.
func survivesCancel(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	const settle, watch = 300 * time.Millisecond, time.Second
	err := b.visit(user, func(c Conn) error {
		ctx, cancel := context.WithCancel(b.ctx)
		timer := time.AfterFunc(time.Second, cancel) // for one that tells of no progress
		defer timer.Stop()
		_, _ = c.Install(ctx, site, func(sdk.Progress) { cancel() }) // may have been faster than the cancel
		time.Sleep(settle)
		before, err := snapshot(site.Tree, nil)
		if err != nil {
			return err
		}
		time.Sleep(watch)
		if err := unchanged(site, before); err != nil {
			return fmt.Errorf("goes on after its caller left: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = b.install(site, user)
	return err
}

func sparesFiles(b *bench) error {
	site, user := b.suite.NewSite(b.t)
	theirs := filepath.Join(site.Tree, "public", "index.html")
	content := []byte("<title>mine</title>")
	if err := os.WriteFile(theirs, content, 0o640); err != nil {
		return err
	}
	if err := os.Chown(theirs, user.UID, user.GID); err != nil {
		return err
	}
	err := b.visit(user, func(c Conn) error {
		// A type may refuse a tree with someone's files; it may not touch them.
		if _, err := c.Install(b.ctx, site, nil); err != nil {
			b.t.Logf("install beside the customer's file: %v", err)
			return nil
		}
		if _, err := c.Update(b.ctx, site); err != nil {
			return fmt.Errorf("update: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	now, err := os.ReadFile(theirs)
	if err != nil {
		return fmt.Errorf("the customer's file is gone: %w", err)
	}
	if string(now) != string(content) {
		return fmt.Errorf("the customer's index.html was changed to %.200q", now)
	}
	return nil
}

func makesSafeFiles(b *bench) error {
	site, user, _, err := b.installed()
	if err != nil {
		return err
	}
	return unsafeFile(site.Tree, user)
}

func updatesTwice(b *bench) error {
	site, user, _, err := b.installed()
	if err != nil {
		return err
	}
	return b.visit(user, func(c Conn) error {
		first, err := c.Update(b.ctx, site)
		if err != nil {
			return fmt.Errorf("update: %w", err)
		}
		if !first.Installed {
			return fmt.Errorf("after an update the site is not installed: %+v", first)
		}
		before, err := snapshot(site.Tree, nil)
		if err != nil {
			return err
		}
		second, err := c.Update(b.ctx, site)
		if err != nil {
			return fmt.Errorf("update again: %w", err)
		}
		if !reflect.DeepEqual(first, second) {
			return fmt.Errorf("first %+v, then %+v", first, second)
		}
		return unchanged(site, before)
	})
}

func armsLogins(b *bench) error {
	site, user, _, err := b.installed()
	if err != nil {
		return err
	}
	return b.visit(user, func(c Conn) error {
		d, err := c.Describe(b.ctx)
		if err != nil {
			return err
		}
		err = c.ArmLogin(b.ctx, site, newLogin(50*time.Second))
		if !d.OffersLogin {
			if !errors.Is(err, sdk.ErrUnsupported) {
				return fmt.Errorf("arm a login of a type without it: want %w, got %w", sdk.ErrUnsupported, orNone(err))
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("arm a login: %w", err)
		}
		for _, life := range []time.Duration{-time.Second, time.Hour} {
			var field *sdk.FieldError
			if err := c.ArmLogin(b.ctx, site, newLogin(life)); !errors.As(err, &field) {
				return fmt.Errorf("arm a login that lives %s: want an error that names the field, got %w", life, orNone(err))
			}
		}
		return nil
	})
}

// newLogin is a login with a token of its own.
func newLogin(life time.Duration) sdk.Login {
	return sdk.Login{TokenSHA256: sha256.Sum256([]byte(rand.Text())), Expires: time.Now().Add(life)}
}

func unchanged(site sdk.Site, before map[string]string) error {
	after, err := snapshot(site.Tree, nil)
	if err != nil {
		return err
	}
	return differences(before, after)
}

// orNone makes a missing error readable.
func orNone(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}
