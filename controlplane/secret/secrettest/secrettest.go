// Package secrettest gives tests a keyring.
package secrettest

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/controlplane/secret"
)

// Keyring has a key of its own, in a file of the test's directory.
func Keyring(t testing.TB) *secret.Keyring {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key) // never fails
	path := filepath.Join(t.TempDir(), "secrets.key")
	line := fmt.Sprintf("1 %s %s\n", time.Now().UTC().Format(time.RFC3339), base64.StdEncoding.EncodeToString(key))
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatalf("secrettest: %v", err)
	}
	k, err := secret.Load(t.Context(), secret.NewFile(path), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("secrettest: %v", err)
	}
	return k
}
