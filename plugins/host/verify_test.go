package host_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/proto/contract"
)

func TestVerify(t *testing.T) {
	rewrite := func(name string, change func(string) string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(change(string(content))), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	binary := host.BinaryPrefix + "honest"
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, dir string)
		reason string
	}{
		"a changed program":          {rewrite(binary, func(s string) string { return s + "\x00" }), "SHA-256"},
		"a program others may write": {func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, binary), 0o775) }, "written by others"},
		"a program that is not root's": {func(t *testing.T, dir string) {
			if err := os.Chown(filepath.Join(dir, binary), 1000, 0); err != nil {
				t.Fatal(err)
			}
		}, "belong to root"},
		"a link in place of the program": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, binary)
			if err := os.Rename(path, path+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path+".real", path); err != nil {
				t.Fatal(err)
			}
		}, "symbolic links"},
		"a folder others may write":    {func(t *testing.T, dir string) { chmod(t, dir, 0o777) }, "written by others"},
		"a list others may write":      {func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, host.SumsFile), 0o666) }, "written by others"},
		"a program that is not listed": {rewrite(host.SumsFile, func(string) string { return "" }), "no plugin"},
		"a list with a line too odd":   {rewrite(host.SumsFile, func(s string) string { return s + "abc  ../x\n" }), "not a checksum"},
		"a list that says two things": {rewrite(host.SumsFile, func(s string) string {
			return s + strings.Repeat("0", 64) + "  " + binary + "\n"
		}), "twice"},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			h, siteType, starter, dir := installFakeIn(t, "honest")
			c.spoil(t, dir)
			s, err := h.Open(t.Context(), siteUser(), siteType)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.reason) {
				t.Errorf("err = %v, want it to say %q", err, c.reason)
			}
			if starter.LastPID() != 0 {
				t.Error("something was started")
			}
		})
	}
	t.Run("notices that a verified program was changed, in place, replaced, or by the list", func(t *testing.T) {
		flip := func(s string) string { return s[:len(s)-1] + string(s[len(s)-1]^1) }
		for name, spoil := range map[string]func(t *testing.T, dir string){
			"in place": rewrite(binary, flip),
			"replaced": func(t *testing.T, dir string) {
				path := filepath.Join(dir, binary)
				old, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path+".new", []byte(flip(string(content))), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(os.Chtimes(path+".new", old.ModTime(), old.ModTime()), os.Rename(path+".new", path)); err != nil {
					t.Fatal(err)
				}
			},
			"by the list": rewrite(host.SumsFile, func(s string) string {
				var lines []string
				for line := range strings.Lines(s) {
					if strings.HasSuffix(line, "  "+binary+"\n") {
						line = strings.Repeat("0", 64) + "  " + binary + "\n"
					}
					lines = append(lines, line)
				}
				return strings.Join(lines, "")
			}),
		} {
			h, siteType, _, dir := installFakeIn(t, "honest")
			user := siteUser()
			time.Sleep(1100 * time.Millisecond) // until its last change counts as long ago
			for range 2 {
				s, err := h.Open(t.Context(), user, siteType)
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
			spoil(t, dir)
			if s, err := h.Open(t.Context(), user, siteType); err == nil || !strings.Contains(err.Error(), "SHA-256") {
				t.Errorf("%s: opened %v, %v", name, s != nil, err)
			}
		}
	})
	t.Run("refuses a changed description", func(t *testing.T) {
		h, siteType, _, dir := installFakeIn(t, "honest")
		if _, err := h.Describe(siteType); err != nil {
			t.Fatal(err)
		}
		rewrite(binary+host.DescriptionSuffix, func(s string) string { return strings.Replace(s, "public", "private", 1) })(t, dir)
		if d, err := h.Describe(siteType); err == nil {
			t.Errorf("accepted %+v", d)
		}
	})
	t.Run("knows which types there are", func(t *testing.T) {
		h, siteType, _, _ := installFakeIn(t, "honest")
		types, err := h.Types()
		if err != nil || len(types) != 1 || types[0] != siteType {
			t.Errorf("types %v, %v", types, err)
		}
		other, err := contract.ParseSiteType("other")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Describe(other); !errors.Is(err, host.ErrUnknownType) {
			t.Errorf("err = %v", err)
		}
	})
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
