// Package secrettest gives tests keyrings that need no file.
package secrettest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"

	"chom.dev/controlplane/secret"
)

// New makes a keyring with a key that every process of a test has.
func New() *secret.Keyring { return keyring(sha256.Sum256([]byte("the key of all tests"))) }

// Other makes a keyring with a key of its own.
func Other() *secret.Keyring {
	var key [32]byte
	rand.Read(key[:]) // never fails: crypto/rand ends the program instead
	return keyring(key)
}

func keyring(key [32]byte) *secret.Keyring {
	text := fmt.Sprintf("1 2026-01-01T00:00:00Z %s\n", base64.StdEncoding.EncodeToString(key[:]))
	k, err := secret.Load(context.Background(), source(text), slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err) // the text is as it must be
	}
	return k
}

// source is text in memory.
type source string

func (s source) Read(context.Context) ([]byte, error) { return []byte(s), nil }

func (s source) Changed() bool { return false }
