package certificate

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mholt/acmez/v3/acme"
)

func TestChallenges(t *testing.T) {
	w := newWorld(t, nil)
	s := w.have(1, byHTTP("a.example.com"), "a.example.com")
	t.Run("an answer can be read by nginx, whatever the umask, and goes", func(t *testing.T) {
		old := syscall.Umask(0o077)
		defer syscall.Umask(old)
		must(t, w.challenges.put(s.Handle, "token_-1", "answer"))
		path := filepath.Join(w.cfg.ChallengeDir, s.Handle.String(), "token_-1")
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
			t.Errorf("file: %v, %v", st.Mode(), err)
		}
		for _, dir := range []string{w.cfg.ChallengeDir, filepath.Dir(path)} {
			if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("%s: %v, %v", dir, st.Mode(), err)
			}
		}
		must(t, w.challenges.remove(s.Handle, "token_-1"))
		if _, err := os.Stat(path); err == nil {
			t.Error("it is left")
		}
	})
	t.Run("a CA's token is not a path", func(t *testing.T) {
		for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/x", "a\x00b", "a b", strings.Repeat("x", 256)} {
			if err := w.challenges.put(s.Handle, name, "answer"); err == nil || !strings.Contains(err.Error(), "token") {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
	t.Run("a CA that asks for another name gets no answer", func(t *testing.T) {
		c := acme.Challenge{Token: "token", KeyAuthorization: "token.x", Identifier: acme.Identifier{Type: "dns", Value: "b.example.com"}}
		if err := (solver{w.Manager, wants(s)[0]}).Present(t.Context(), c); err == nil {
			t.Error("answered")
		}
		if _, err := os.Stat(filepath.Join(w.cfg.ChallengeDir, s.Handle.String(), "token")); err == nil {
			t.Error("an answer is there")
		}
	})
	t.Run("what a killed agent left goes at the start", func(t *testing.T) {
		must(t, w.challenges.put(s.Handle, "left", "answer"))
		must(t, w.challenges.clear())
		if left, err := filepath.Glob(w.cfg.ChallengeDir + "/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}
