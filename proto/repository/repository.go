// Package repository is what a site's repository of backups begins with, in the format of
// restic 0.14. A site's host and the control plane make it, and both make the same.
// It is not the repository itself: all that comes after is restic's.
package repository

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/restic/chunker"
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // what restic seals with
	"golang.org/x/crypto/scrypt"
)

// Beginning is the first two objects of a repository: its only key file, which holds the
// master key that all else is sealed with, and its config. With the config it is there.
type Beginning struct{ Key, Config []byte }

// KeyName is the key file's name.
func (b Beginning) KeyName() string {
	sum := sha256.Sum256(b.Key)
	return hex.EncodeToString(sum[:])
}

const (
	saltBytes  = 64
	nonceBytes = 16
)

// Begin gives the first objects of the repository that a site's key opens. All that is
// random in them where restic makes them is derived from the site's key here, which is
// random itself, 256 bits that no other repository has.
//
// For the same reason scrypt gets the least that it takes. It is there to make it
// dear to try the passwords that people think of; of 2^256 nobody tries any, and
// restic would pay for it each time that it runs, with half a second of a processor
// and 60 MB.
func Begin(key string) (Beginning, error) {
	derived := func(what string, n int) []byte {
		b, err := hkdf.Key(sha256.New, []byte(key), nil, "chom repository "+what, n)
		if err != nil {
			panic(err) // more was asked for than it gives
		}
		return b
	}
	masterKey := sealer(derived("master key", 64))
	const n, r, p = 2, 1, 1
	salt := derived("salt", saltBytes)
	user, err := scrypt.Key([]byte(key), salt, n, r, p, len(masterKey))
	if err != nil {
		return Beginning{}, err
	}
	text, err := json.Marshal(map[string]any{
		"encrypt": masterKey[:32], "mac": map[string][]byte{"k": masterKey[32:48], "r": masterKey[48:]},
	})
	if err != nil {
		return Beginning{}, err
	}
	var f Beginning
	if f.Key, err = json.Marshal(map[string]any{
		"kdf": "scrypt", "N": n, "r": r, "p": p, "salt": salt, "data": sealer(user).seal(derived("key nonce", nonceBytes), text),
	}); err != nil {
		return Beginning{}, err
	}
	// By it files are parted where their content says so: one that others knew would
	// tell them of known files from the sizes of their parts.
	polynomial, err := chunker.DerivePolynomial(bytes.NewReader(derived("polynomial", 255*sha256.Size)))
	if err != nil {
		return Beginning{}, err
	}
	if text, err = json.Marshal(map[string]any{
		"version": 2, "id": hex.EncodeToString(derived("id", 32)), "chunker_polynomial": polynomial,
	}); err != nil {
		return Beginning{}, err
	}
	f.Config = masterKey.seal(derived("config nonce", nonceBytes), text)
	return f, nil
}

// sealer seals as restic does, by AES-256 in counter mode and Poly1305-AES: the key
// of the one, and k and r of the other.
type sealer []byte

// seal gives nonce, ciphertext and mac. No two texts of a key may have the same nonce.
func (s sealer) seal(nonce, text []byte) []byte {
	encrypt, err := aes.NewCipher(s[:32])
	if err != nil {
		panic(err) // no other length
	}
	authenticate, err := aes.NewCipher(s[32:48])
	if err != nil {
		panic(err)
	}
	out := append(bytes.Clone(nonce), text...)
	ciphertext := out[len(nonce):]
	cipher.NewCTR(encrypt, nonce).XORKeyStream(ciphertext, ciphertext)
	var once [32]byte
	copy(once[:16], s[48:])
	authenticate.Encrypt(once[16:], nonce)
	var mac [16]byte
	poly1305.Sum(&mac, ciphertext, &once)
	return append(out, mac[:]...)
}
