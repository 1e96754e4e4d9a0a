package bearer_test

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"chom.dev/controlplane/bearer"
)

var scanner = regexp.MustCompile(`^chom[a-z]+_[0-9A-Za-z]{49}$`)

func TestNew(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		text, hash := bearer.New("chompat_")
		if !scanner.MatchString(text) {
			t.Fatalf("a scanner does not find %q", text)
		}
		if seen[text] {
			t.Fatalf("%q came twice", text)
		}
		seen[text] = true
		if sum := sha256.Sum256([]byte(text)); !bytes.Equal(hash, sum[:]) {
			t.Fatalf("the hash is %x, want %x", hash, sum)
		}
		if again, ok := bearer.Hash("chompat_", text); !ok || !bytes.Equal(again, hash) {
			t.Fatalf("is not found again: %x, %t", again, ok)
		}
	}
}

func TestHash(t *testing.T) {
	// Written down once: what was handed out must stay valid.
	const text = "chompat_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	known := text + "2mArzd"
	if _, ok := bearer.Hash("chompat_", known); !ok {
		t.Errorf("%s is refused", known)
	}
	for name, wrong := range map[string]string{
		"nothing":             "",
		"a prefix":            "chompat_",
		"another kind":        strings.Replace(known, "chompat_", "chomorg_", 1),
		"one digit changed":   strings.Replace(known, "_0", "_1", 1),
		"two digits swapped":  strings.Replace(known, "01", "10", 1),
		"a changed checksum":  known[:len(known)-1] + "e",
		"more behind":         known + "A",
		"less":                known[:len(known)-1],
		"NUL":                 strings.Replace(known, "0", "\x00", 1),
		"a space before":      " " + known,
		"another letter case": "chompat_" + strings.ToLower(known[8:]),
	} {
		if _, ok := bearer.Hash("chompat_", wrong); ok {
			t.Errorf("%s is taken: %q", name, wrong)
		}
	}
}
