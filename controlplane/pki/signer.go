package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"chom.dev/controlplane/keyfile"
)

// signers are the key that signs orders and, from a rotation until ForgetFormer, the one before.
type signers struct {
	current, former ed25519.PrivateKey
}

// Signer is the key that signs orders.
func (a *Authority) Signer() ed25519.PrivateKey {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.signers.current
}

// SignerKeys gives the public keys whose orders agents must accept: the
// present signer's alone, since nothing by a former one is sent any more.
func (a *Authority) SignerKeys() [][]byte {
	return [][]byte{a.Signer().Public().(ed25519.PublicKey)}
}

// RotateSigner makes a new key that signs orders. The one before stays in the
// file, for FormerSigner, until ForgetFormer.
func (a *Authority) RotateSigner() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("rotate signer: %w", err)
	}
	former := a.signers.former // still there: nothing has started since, so nothing was sealed by the one after it
	if former == nil {
		former = a.signers.current
	}
	return a.replaceSigners(signers{current: key, former: former})
}

// FormerSigner is the key before the last rotation, which what waits was sealed
// by; nil when nobody has rotated it, and after ForgetFormer.
func (a *Authority) FormerSigner() ed25519.PrivateKey {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.signers.former
}

// ForgetFormer deletes the key before the last rotation, if there is one.
func (a *Authority) ForgetFormer() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.signers.former == nil {
		return nil
	}
	return a.replaceSigners(signers{current: a.signers.current})
}

func (a *Authority) replaceSigners(s signers) error {
	if err := s.save(filepath.Join(a.dir, signerFile)); err != nil {
		return fmt.Errorf("write %s: %w", signerFile, err)
	}
	a.signers = s
	return nil
}

func (a *Authority) loadSigners() error {
	path := filepath.Join(a.dir, signerFile)
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		return a.replaceSigners(signers{current: key})
	}
	if err != nil {
		return err
	}
	if a.signers, err = parseSigners(text); err != nil {
		return fmt.Errorf("%s: %w", signerFile, err)
	}
	return nil
}

// save writes both keys into one file, so that no crash leaves a mixture.
func (s signers) save(path string) error {
	var text []byte
	for role, key := range map[string]ed25519.PrivateKey{"current": s.current, "former": s.former} {
		if key == nil {
			continue
		}
		block, err := keyBlock(key, role)
		if err != nil {
			return err
		}
		text = append(text, pem.EncodeToMemory(block)...)
	}
	return keyfile.Write(path, text)
}

func parseSigners(text []byte) (signers, error) {
	have := map[string]ed25519.PrivateKey{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		role := block.Headers[roleHeader]
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return signers{}, fmt.Errorf("the %s signer is not a private key", role) // the error could hold parts of it
		}
		signer, ok := key.(ed25519.PrivateKey)
		if !ok {
			return signers{}, fmt.Errorf("the %s signer is not an Ed25519 key", role)
		}
		have[role] = signer
	}
	if have["current"] == nil || len(bytes.TrimSpace(text)) > 0 {
		return signers{}, errors.New("the current signer is missing, or something else is there")
	}
	return signers{current: have["current"], former: have["former"]}, nil
}
