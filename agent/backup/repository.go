package backup

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/restic/chunker"
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // what restic seals with
	"golang.org/x/crypto/scrypt"

	"chom.dev/agent/task"
)

// Make makes a site's repository, in the format of restic 0.14. Done again it makes
// the same one: who was killed between its two objects has left nothing that is in
// the way.
func (m *Manager) Make(ctx context.Context, site task.Site) error {
	key, err := m.key(ctx, site)
	if err != nil {
		return err
	}
	first, err := beginning(key)
	if err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	name := sha256.Sum256(first.key)
	for _, object := range []struct {
		path    string
		content []byte
	}{
		{"/keys/" + hex.EncodeToString(name[:]), first.key},
		{"/config", first.config}, // of which Exists asks
	} {
		if err := m.put(ctx, site, object.path, object.content); err != nil {
			return fmt.Errorf("make the repository: %w", err)
		}
	}
	return nil
}

func (m *Manager) put(ctx context.Context, site task.Site, path string, content []byte) error {
	in, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	in.Header.Set("Content-Type", "application/octet-stream")
	res, err := m.ask(ctx, site, http.MethodPost, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close() // read as far as it is of interest
	if res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("the control plane says: %s", spoken(res))
	if full(res.StatusCode) {
		return task.Permanent(err)
	}
	return err
}

// founded is what a repository begins with.
type founded struct{ key, config []byte }

const (
	saltBytes  = 64
	nonceBytes = 16
)

// beginning gives the first objects of the repository that a site's key opens: its
// only key file, which holds the master key that all else is sealed with, and its
// config. All that is random in them where restic makes them is derived from the
// site's key here, which is random itself, 256 bits that no other repository has.
//
// For the same reason scrypt gets the least that it takes. It is there to make it
// dear to try the passwords that people think of; of 2^256 nobody tries any, and
// restic would pay for it each time that it runs, with half a second of a processor
// and 60 MB.
func beginning(key string) (founded, error) {
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
		return founded{}, err
	}
	text, err := json.Marshal(map[string]any{
		"encrypt": masterKey[:32], "mac": map[string][]byte{"k": masterKey[32:48], "r": masterKey[48:]},
	})
	if err != nil {
		return founded{}, err
	}
	var f founded
	if f.key, err = json.Marshal(map[string]any{
		"kdf": "scrypt", "N": n, "r": r, "p": p, "salt": salt, "data": sealer(user).seal(derived("key nonce", nonceBytes), text),
	}); err != nil {
		return founded{}, err
	}
	// By it files are parted where their content says so: one that others knew would
	// tell them of known files from the sizes of their parts.
	polynomial, err := chunker.DerivePolynomial(bytes.NewReader(derived("polynomial", 255*sha256.Size)))
	if err != nil {
		return founded{}, err
	}
	if text, err = json.Marshal(map[string]any{
		"version": 2, "id": hex.EncodeToString(derived("id", 32)), "chunker_polynomial": polynomial,
	}); err != nil {
		return founded{}, err
	}
	f.config = masterKey.seal(derived("config nonce", nonceBytes), text)
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
