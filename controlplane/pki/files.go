package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"chom.dev/controlplane/keyfile"
)

const (
	rootsFile  = "roots.pem"
	signerFile = "signer.pem"
	// roleHeader tells the generations of roots.pem apart.
	roleHeader = "Role"
)

func (a *Authority) loadRoots() error {
	path := filepath.Join(a.dir, rootsFile)
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		now := time.Now()
		var r roots
		if r.current, err = newRoot(now); err != nil {
			return err
		}
		if r.next, err = newRoot(now); err != nil {
			return err
		}
		if err := r.save(path); err != nil {
			return err
		}
		a.roots = r
		return nil
	}
	if err != nil {
		return err
	}
	a.roots, err = parseRoots(text)
	if err != nil {
		return fmt.Errorf("%s: %w", rootsFile, err)
	}
	return nil
}

// save writes all generations into one file, so that no crash leaves a mixture.
func (r roots) save(path string) error {
	var text []byte
	for role, one := range map[string]*root{"previous": r.previous, "current": r.current, "next": r.next} {
		if one == nil {
			continue
		}
		headers := map[string]string{roleHeader: role}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: headers, Bytes: one.cert.Raw})...)
		if one.key != nil {
			block, err := keyBlock(one.key, role)
			if err != nil {
				return err
			}
			text = append(text, pem.EncodeToMemory(block)...)
		}
	}
	return keyfile.Write(path, text)
}

func keyBlock(key any, role string) (*pem.Block, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	if role != "" {
		b.Headers = map[string]string{roleHeader: role}
	}
	return b, nil
}

func parseRoots(text []byte) (roots, error) {
	have := map[string]*root{}
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		role := block.Headers[roleHeader]
		one := have[role]
		if one == nil {
			one = &root{}
			have[role] = one
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return roots{}, fmt.Errorf("certificate of the %s root: %w", role, err)
			}
			one.cert = cert
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			ec, ok := key.(*ecdsa.PrivateKey)
			if err != nil || !ok {
				return roots{}, fmt.Errorf("key of the %s root: not an ECDSA key", role)
			}
			one.key = ec
		}
	}
	r := roots{previous: have["previous"], current: have["current"], next: have["next"]}
	for role, one := range map[string]*root{"current": r.current, "next": r.next} {
		if one == nil || one.cert == nil || one.key == nil {
			return roots{}, fmt.Errorf("the %s root or its key is missing", role)
		}
		if !one.key.PublicKey.Equal(one.cert.PublicKey) {
			return roots{}, fmt.Errorf("the %s root and its key don't belong together", role)
		}
	}
	if r.previous != nil && r.previous.cert == nil {
		return roots{}, errors.New("the previous root is missing")
	}
	return r, nil
}
