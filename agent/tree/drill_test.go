package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"chom.dev/proto/contract"
)

func TestDrillPlace(t *testing.T) {
	s := open(t)
	h := contract.NewHandle()
	if err := s.Ensure(h, tenant); err != nil {
		t.Fatal(err)
	}
	shell := filepath.Join(s.dir, h.String())
	for range 2 {
		if err := s.EnsureDrill(h, tenant); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"/drill": "0:23456 drwx--x---", "/drill/public": "23456:23456 drwxr-x---", "/drill/private": "23456:23456 drwx------", "/drill/database": "23456:23456 drwx------",
	} {
		if got := look(t, shell+path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if err := asTenant(t, func() error { return os.Symlink("/etc", shell+"/drill/x") }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("the tenant puts something into it: %v", err)
	}
	if err := asTenant(t, func() error {
		return errors.Join(os.WriteFile(shell+"/drill/database/f", nil, 0o600), os.WriteFile(shell+"/public/live", nil, 0o600))
	}); err != nil {
		t.Fatal(err)
	}
	if there, err := s.Drilled(h); !there || err != nil {
		t.Errorf("there: %v, %v", there, err)
	}
	for range 2 {
		if err := s.RemoveDrill(t.Context(), &asUser{t: t}, "/agent", h); err != nil {
			t.Fatal(err)
		}
	}
	if there, err := s.Drilled(h); there || err != nil {
		t.Errorf("removed: %v, %v", there, err)
	}
	if _, err := os.Lstat(shell + "/public/live"); err != nil {
		t.Errorf("the site lost a file: %v", err)
	}
	if err := errors.Join(s.EnsureDrill(h, tenant), s.Remove(t.Context(), &asUser{t: t}, "/agent", h)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(shell); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with the site it is not removed: %v", err)
	}
}
