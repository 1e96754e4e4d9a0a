// Package secrettest has a keyring for tests of what stores secrets.
package secrettest

import (
	"crypto/aes"
	"crypto/cipher"
	"strings"

	"chom.dev/controlplane/secret"
)

// Keys seals with a key that every process of a test has. Make it with New.
type Keys struct{ aead cipher.AEAD }

// New makes a keyring.
func New() *Keys {
	block, err := aes.NewCipher([]byte("a key for tests and nothing else"))
	if err != nil {
		panic(err) // the key has the right size
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &Keys{aead}
}

// Seal encrypts for a place.
func (k *Keys) Seal(p secret.Place, plain []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, plain, data(p)), nil
}

// Open decrypts what was sealed for the same place.
func (k *Keys) Open(p secret.Place, sealed []byte) ([]byte, error) {
	return k.aead.Open(nil, nil, sealed, data(p))
}

func data(p secret.Place) []byte {
	return []byte(strings.Join([]string{p.Organization, p.Table, p.Column, p.Row}, "\x00"))
}
