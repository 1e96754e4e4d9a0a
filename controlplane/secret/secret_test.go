package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"chom.dev/controlplane/secret"
)

const canary = "CANARY-b7f1e0"

// TestSecret is a part of case A16: however a secret is printed, nothing of it is seen.
func TestSecret(t *testing.T) {
	s := secret.New([]byte(canary))
	type hidden struct {
		public int
		secret secret.Secret
		many   []secret.Secret
		named  map[string]*secret.Secret
	}
	inside := hidden{1, s, []secret.Secret{s}, map[string]*secret.Secret{"x": &s}}
	var printed []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t", "%w", "%T", "%10.3s"} {
		for _, value := range []any{s, &s, inside, &inside, []any{s}, map[string]secret.Secret{"x": s}, errors.New(fmt.Sprint("failed with ", s))} {
			printed = append(printed, fmt.Sprintf(verb, value))
		}
	}
	for _, value := range []any{s, &s, map[string]any{"x": s}, struct{ S secret.Secret }{s}} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		printed = append(printed, string(text))
	}
	for _, handler := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) }, func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var log bytes.Buffer
		slog.New(handler(&log)).Info("logged", "secret", s, "in", inside, "group", slog.GroupValue(slog.Any("s", &s)))
		printed = append(printed, log.String())
	}
	for _, text := range printed {
		// In hexadecimal, or as a list of numbers, it would be there, too.
		for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]"), "Q0FOQVJZ"} {
			if strings.Contains(text, form) {
				t.Errorf("it is seen: %s", text)
			}
		}
	}
	if fmt.Sprint(s) != "***" {
		t.Errorf("it prints as %v", s)
	}
	if !bytes.Equal(s.Reveal(), []byte(canary)) || secret.Secret.Reveal(secret.Secret{}) != nil {
		t.Error("it is not what was put in")
	}
}
