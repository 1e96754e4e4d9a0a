package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	rootsFile  = "roots.pem"
	signerFile = "signer.pem"
	// roleHeader tells the generations of roots.pem apart.
	roleHeader = "Role"
	// maxFile is far above what three certificates and three keys take.
	maxFile = 64 << 10
)

func (a *Authority) loadRoots() error {
	path := filepath.Join(a.dir, rootsFile)
	text, err := readPrivate(path)
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
	return writePrivate(path, text)
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

// readPrivate reads a file that belongs to this user and that nobody else may
// read or write.
func readPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others (mode %04o): run chmod 600 and, if it was copied or backed up so, replace its keys", path, fi.Mode().Perm())
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to another user", path)
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("%s is too large", path)
	}
	b := make([]byte, fi.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// writePrivate replaces a file as a whole; after it returns the content
// survives a power loss.
func writePrivate(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
