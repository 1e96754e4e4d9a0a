// Package store keeps the objects of sites' backup repositories, on a disk or in an S3 bucket, and serves them by restic's REST
// protocol, with rights. It knows nothing of what is in an object: all of that is restic's, and sealed with a key that is not
// here. Who may reach which repository others have decided before they call.
//
// A repository is <organization id>/<site id>/ and has restic's own layout, and besides the control plane's manifests:
//
//	config  keys/<hash>  data/<2 digits>/<hash>  index/<hash>  snapshots/<hash>  locks/<hash>  manifests/<10 digits>
//
// # What holds of every store
//
// An object is there whole, under the hash of its content, or it is not there: a body that is cut, stalls, or has another hash
// than its name leaves nothing. An object is never overwritten; putting the same content again is well. When Put returns, the
// object survives a loss of power.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"chom.dev/controlplane/fault"
)

// Store keeps repositories. An object that is not there is ErrNotFound; a store that does not answer is a fault of the kind
// Unavailable.
type Store interface {
	// Put keeps an object of so many bytes. It says ErrContent where the name is not the content's hash, ErrSize where the body
	// ends early or goes on, ErrCut where it can't be read, and ErrDiffers where another object has the name.
	Put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) error
	// Get reads length bytes of an object from an offset on, all the rest for a length of 0. What goes beyond the end is left
	// out; an offset beyond it is ErrRange.
	Get(ctx context.Context, r Repository, n Name, offset, length int64) (*Part, error)
	// Stat is how large an object is.
	Stat(ctx context.Context, r Repository, n Name) (int64, error)
	// List gives all objects of a kind, by name; none for a repository that is not there.
	List(ctx context.Context, r Repository, kind Kind) ([]Object, error)
	// Delete removes an object. One that is not there is ErrNotFound.
	Delete(ctx context.Context, r Repository, n Name) error
	// Remove removes a repository with all that is in it. One that is not there is well.
	Remove(ctx context.Context, r Repository) error
	// Usage is how many bytes the repository's objects have. It looks at each of them.
	Usage(ctx context.Context, r Repository) (int64, error)
}

// Object is one of a list.
type Object struct {
	Name Name
	Size int64
}

// Part is what Get reads. It must be closed.
type Part struct {
	io.ReadCloser
	Length int64 // of what is read
	Total  int64 // of the object
}

// Faults of every store.
var (
	ErrNotFound = fault.NotFound("object")
	ErrDiffers  = fault.Conflict("there is another object with this name")
	ErrContent  = fault.Invalid("name", "must be the SHA-256 of the content")
	ErrSize     = fault.Invalid("content", "must be as long as the request says")
	ErrCut      = fault.Invalid("content", "must come as a whole, and without a pause")
	ErrRange    = fault.Invalid("range", "must begin within the object")
	ErrFull     = fault.Unavailable("the store of backups is full", time.Minute, nil)
)

func checkPut(r Repository, n Name, size int64) error {
	if size <= 0 || size > n.kind.largest() {
		return fault.Invalid("content", fmt.Sprintf("must have from 1 to %d bytes", n.kind.largest()))
	}
	return check(r, n)
}

func check(r Repository, n Name) error { return errors.Join(r.check(), n.check()) }

// part cuts a range to what there is.
func part(offset, length, total int64) (int64, error) {
	if offset < 0 || length < 0 || offset >= total {
		return 0, ErrRange
	}
	if length == 0 || length > total-offset {
		length = total - offset
	}
	return length, nil
}

// verified passes a body on, and its last bytes only once all of it is what it is said to be: whoever reads it can't get to the
// end of a wrong one. It may be read on while result is asked: a transport does not wait for its own reader.
type verified struct {
	mu   sync.Mutex
	from io.Reader
	left int64
	hash hash.Hash
	want string // empty: whatever it is
	err  error
}

func newVerified(n Name, size int64, from io.Reader) *verified {
	v := &verified{from: from, left: size, hash: sha256.New()}
	if n.kind.hashed() {
		v.want = n.text
	}
	return v
}

func (v *verified) Read(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	n, err := v.from.Read(p[:min(int64(len(p)), v.left)])
	v.hash.Write(p[:n])
	v.left -= int64(n)
	if v.left > 0 {
		v.err = wrong(err)
		return n, v.err
	}
	if v.err = v.settle(err); v.err != nil {
		return 0, v.err
	}
	v.err = io.EOF
	return n, nil
}

// settle decides about a body of which all is read.
func (v *verified) settle(err error) error {
	var more [1]byte
	for err == nil {
		var n int
		if n, err = v.from.Read(more[:]); n > 0 {
			return ErrSize
		}
	}
	if !errors.Is(err, io.EOF) {
		return wrong(err)
	}
	if v.want != "" && hex.EncodeToString(v.hash.Sum(nil)) != v.want {
		return ErrContent
	}
	return nil
}

// wrong says what is wrong with a body whose reader says so in the middle of it.
func wrong(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ErrSize
	default:
		return errors.Join(ErrCut, err)
	}
}

// result is nil once all was read and is well; else why it is not.
func (v *verified) result() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case errors.Is(v.err, io.EOF):
		return nil
	case v.err == nil:
		return ErrSize // nobody read to the end
	default:
		return v.err
	}
}

// failed is what was wrong with the body, nil while nothing was.
func (v *verified) failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(v.err, io.EOF) {
		return nil
	}
	return v.err
}

// sameAs says whether the body, of which all was read, is what a reader gives.
func (v *verified) sameAs(kept io.Reader) (bool, error) {
	other := sha256.New()
	if _, err := io.Copy(other, kept); err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return bytes.Equal(other.Sum(nil), v.hash.Sum(nil)), nil
}
