package secret_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
)

func TestSeal(t *testing.T) {
	keys := secrettest.New()
	place := secret.Place{Organization: uuid.NewString(), Table: "accounts", Column: "totp", Row: uuid.NewString()}
	seal := func(plain []byte) []byte {
		t.Helper()
		sealed, err := keys.Seal(place, plain)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	t.Run("opens in its place", func(t *testing.T) {
		for _, plain := range [][]byte{{}, []byte("x"), []byte(canary), bytes.Repeat([]byte{0}, 64<<10)} {
			sealed := seal(plain)
			if opened, err := keys.Open(place, sealed); err != nil || !bytes.Equal(opened, plain) {
				t.Errorf("got %d bytes of %d, %v", len(opened), len(plain), err)
			}
			if len(plain) > 8 && bytes.Contains(sealed, plain) {
				t.Error("it is not sealed")
			}
		}
	})
	t.Run("never seals two values alike", func(t *testing.T) {
		one, other := seal([]byte(canary)), seal([]byte(canary))
		if bytes.Equal(one[5:17], other[5:17]) || bytes.Equal(one[65:], other[65:]) {
			t.Error("a nonce or a data key comes back")
		}
	})
	t.Run("does not open elsewhere", func(t *testing.T) {
		sealed := seal([]byte(canary))
		elsewhere := map[string]secret.Place{"in shifted borders": {place.Organization + "a", "ccounts", place.Column, place.Row}}
		for name, change := range map[string]func(*secret.Place){
			"in another organization": func(p *secret.Place) { p.Organization = uuid.NewString() },
			"in another table":        func(p *secret.Place) { p.Table = "tokens" },
			"in another column":       func(p *secret.Place) { p.Column = "seed" },
			"in another row":          func(p *secret.Place) { p.Row = uuid.NewString() },
			"in no place":             func(p *secret.Place) { *p = secret.Place{} },
		} {
			other := place
			change(&other)
			elsewhere[name] = other
		}
		for name, other := range elsewhere {
			if opened, err := keys.Open(other, sealed); !errors.Is(err, secret.ErrTampered) || opened != nil {
				t.Errorf("%s: %q, %v", name, opened, err)
			}
		}
	})
	t.Run("does not open when a bit is another one", func(t *testing.T) {
		sealed := seal([]byte(canary))
		for bit := range len(sealed) * 8 {
			changed := bytes.Clone(sealed)
			changed[bit/8] ^= 1 << (bit % 8)
			opened, err := keys.Open(place, changed)
			if !errors.Is(err, secret.ErrTampered) && !errors.Is(err, secret.ErrVersion) || opened != nil || strings.Contains(err.Error(), canary) {
				t.Fatalf("bit %d: %q, %v", bit, opened, err)
			}
		}
	})
	t.Run("does not open in parts, nor what never was sealed", func(t *testing.T) {
		sealed, other := seal([]byte(canary)), seal([]byte(canary))
		broken := [][]byte{nil, {}, {1}, append(bytes.Clone(sealed), 0), append(bytes.Clone(sealed[:65]), other[65:]...)}
		for length := range sealed {
			broken = append(broken, sealed[:length])
		}
		for range 1000 {
			random := make([]byte, rand.N(200))
			for i := range random {
				random[i] = byte(rand.N(256))
			}
			broken = append(broken, random)
		}
		for _, bytes := range broken {
			if opened, err := keys.Open(place, bytes); err == nil {
				t.Fatalf("%d bytes gave %q", len(bytes), opened)
			}
		}
	})
	t.Run("does not open with another keyring", func(t *testing.T) {
		if _, err := secrettest.Other().Open(place, seal([]byte(canary))); !errors.Is(err, secret.ErrTampered) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("refuses what is too large", func(t *testing.T) {
		if _, err := keys.Seal(place, make([]byte, 64<<10+1)); err == nil {
			t.Error("got nil")
		}
	})
}

func FuzzOpen(f *testing.F) {
	keys := secrettest.New()
	place := secret.Place{Organization: secret.Platform, Table: "t", Column: "c", Row: "r"}
	sealed, err := keys.Seal(place, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := keys.Open(place, b); err == nil && !bytes.Equal(b, sealed) {
			t.Errorf("%x opens", b)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	keys := secrettest.New()
	place := secret.Place{Organization: secret.Platform, Table: "t", Column: "c", Row: "r"}
	sealed, err := keys.Seal(place, make([]byte, 64))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("seal", func(b *testing.B) {
		for b.Loop() {
			if _, err := keys.Seal(place, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := keys.Open(place, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
