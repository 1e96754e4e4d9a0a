package repository

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// TestBegin holds the beginning that sites' repositories have: who makes another one of the same key
// does not find what is there.
func TestBegin(t *testing.T) {
	b, err := Begin(strings.Repeat("k", 43))
	if err != nil {
		t.Fatal(err)
	}
	config := sha256.Sum256(b.Config)
	if key, config := b.KeyName(), hex.EncodeToString(config[:]); key != "f9341c9e488517dc3653d2916703969fca94edf18f1ce32f578fefa03811a338" || config != "8d33de3ef11ce069f89d37a77c9675fc8d1aa11bdef7cb49b782ff4ae32f76e4" {
		t.Errorf("the key file is %s, the config %s", key, config)
	}
}
