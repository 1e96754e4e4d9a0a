package pki

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"chom.dev/controlplane/keyfile"
)

const sealFile = "seal.key"

// sealKeySize is that of a key for HMAC-SHA256, in bytes.
const sealKeySize = 32

// loadSealKey reads the key, and makes it where there is none.
func (a *Authority) loadSealKey() error {
	path := filepath.Join(a.dir, sealFile)
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.sealKey = make([]byte, sealKeySize)
		rand.Read(a.sealKey) // never fails: crypto/rand ends the program instead
		return keyfile.Write(path, []byte(hex.EncodeToString(a.sealKey)+"\n"))
	}
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != sealKeySize {
		return fmt.Errorf("%s: must hold %d hexadecimal digits", sealFile, 2*sealKeySize) // the error could hold parts of it
	}
	a.sealKey = key
	return nil
}
