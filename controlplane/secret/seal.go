package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

// Place is where a sealed value lies. It must be the same when it is opened.
type Place struct {
	// Organization that owns the row; Platform for what belongs to people or to the platform.
	Organization string
	Table        string
	Column       string
	// Row is the id of the row: no other row of the table and the organization has the same.
	Row string
}

// Platform stands for no organization.
const Platform = "00000000-0000-0000-0000-000000000000"

func (p Place) String() string {
	return fmt.Sprintf("%s.%s of row %s of organization %s", p.Table, p.Column, p.Row, p.Organization)
}

const (
	format     = 1
	headerSize = 1 + 4
	overhead   = 12 + 16 // nonce and tag
	keySize    = 32
	wrapped    = overhead + keySize
	// maxPlain is far above any key, token or password.
	maxPlain = 64 << 10
)

// Errors of Open. None holds anything of the value.
var (
	ErrVersion  = errors.New("sealed with a key that is not there")
	ErrTampered = errors.New("not sealed with this key in this place, or changed since")
)

// Seal encrypts a value for a place with the newest key. Sealing the same twice gives different bytes. It refuses more than
// 64 KiB.
func (k *Keyring) Seal(p Place, plain []byte) ([]byte, error) {
	if len(plain) > maxPlain {
		return nil, fmt.Errorf("seal %s: %d bytes are too many", p, len(plain))
	}
	key := k.newest()
	dataKey := make([]byte, keySize)
	rand.Read(dataKey) // never fails: crypto/rand ends the program instead
	defer clear(dataKey)
	sealed := make([]byte, headerSize, headerSize+wrapped+overhead+len(plain))
	sealed[0] = format
	binary.BigEndian.PutUint32(sealed[1:], key.Version)
	sealed = gcm(key.secret[:]).Seal(sealed, nil, dataKey, p.bind("data key", key.Version))
	return gcm(dataKey).Seal(sealed, nil, plain, p.bind("value", key.Version)), nil
}

// Open decrypts what Seal made for the same place. It says ErrVersion where the keyring lacks the key, and ErrTampered for
// whatever else is wrong.
func (k *Keyring) Open(p Place, sealed []byte) ([]byte, error) {
	version, err := VersionOf(sealed)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	key, ok := k.find(version)
	if !ok {
		return nil, fmt.Errorf("open %s: %w: version %d", p, ErrVersion, version)
	}
	sealed = sealed[headerSize:]
	dataKey, err := gcm(key.secret[:]).Open(nil, nil, sealed[:wrapped], p.bind("data key", version))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, ErrTampered)
	}
	defer clear(dataKey)
	plain, err := gcm(dataKey).Open([]byte{}, nil, sealed[wrapped:], p.bind("value", version))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, ErrTampered)
	}
	return plain, nil
}

// VersionOf is the version of the key that sealed a value. Nothing vouches for it before Open.
func VersionOf(sealed []byte) (uint32, error) {
	if len(sealed) < headerSize+wrapped+overhead || sealed[0] != format {
		return 0, ErrTampered
	}
	return binary.BigEndian.Uint32(sealed[1:]), nil
}

// bind is the associated data: what is sealed where, with the borders between.
func (p Place) bind(what string, version uint32) []byte {
	var data []byte
	for _, part := range []string{"chom secret", what, p.Organization, p.Table, p.Column, p.Row} {
		data = binary.BigEndian.AppendUint64(data, uint64(len(part)))
		data = append(data, part...)
	}
	return binary.BigEndian.AppendUint32(data, version)
}

// gcm draws a random nonce for each Seal and puts it in front. The key has 32 bytes, always: it cannot fail.
func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}
