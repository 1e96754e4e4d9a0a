// Package password keeps passwords as argon2id hashes, and says which are too weak to be kept. It knows no accounts.
//
// A hash is one line in PHC format that holds its own parameters, so that they may change: Verify says when a hash was
// made with others than today's, and whoever has the password at that moment makes it anew.
//
//	$argon2id$v=19$m=47104,t=2,p=1$<salt>$<hash>
//
// Hashing is made to cost memory and time, which a crowd of logins could take from everybody else. A Hasher therefore
// works in few slots, lets few wait, and turns the others away.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"chom.dev/controlplane/fault"
)

// Parameters are what a hash costs.
type Parameters struct {
	// MemoryKiB is filled by each hash.
	MemoryKiB uint32
	// Passes over that memory.
	Passes uint32
}

func (p Parameters) String() string {
	return fmt.Sprintf("m=%d,t=%d,p=%d", p.MemoryKiB, p.Passes, lanes)
}

// Today are the parameters of new hashes: twice the work that OWASP asks for at least. A hash takes 70 ms of one core of
// the machine on which they were chosen (AMD EPYC, 2 cores), and 46 MiB for that time.
var Today = Parameters{MemoryKiB: 46 << 10, Passes: 2}

// The rest of a hash's shape. One lane: a hash must not take more than one core.
const (
	lanes      = 1
	saltLength = 16
	hashLength = 32
)

// Bounds of what is believed of a stored hash: more would let whoever writes to the database exhaust the machine.
const (
	mostMemoryKiB = 1 << 20
	mostPasses    = 16
)

// waitingPerSlot is how many may wait for a slot, and patience for how long: the last one waits about a second, and
// somebody who signs in is still there then.
const (
	waitingPerSlot = 16
	patience       = 3 * time.Second
)

// Hasher makes and checks hashes, a few at a time. It is safe for concurrent use.
type Hasher struct {
	parameters Parameters
	slots      chan struct{}
	waiting    atomic.Int64
	nobody     string
}

// NewHasher makes hashes with the parameters, in half as many slots as there are cores: the other half stays with
// everybody else.
func NewHasher(p Parameters) *Hasher {
	h := &Hasher{parameters: p, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	h.nobody = h.encode(random(saltLength), random(hashLength))
	return h
}

// Hash makes the hash of a password. It says fault.Unavailable when too many others are at it.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := random(saltLength)
	sum, err := h.work(ctx, password, salt, h.parameters)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return h.encode(salt, sum), nil
}

// Verify reports whether the hash is that of the password, and whether it ought to be made anew because its parameters are
// not today's. An empty hash, that of somebody who has no password or does not exist, matches nothing and costs as much.
// It says fault.Unavailable when too many others are at it.
func (h *Hasher) Verify(ctx context.Context, password, encoded string) (matches, outdated bool, err error) {
	known := encoded != ""
	if !known {
		encoded = h.nobody
	}
	made, salt, want, err := parse(encoded)
	if err != nil {
		return false, false, fmt.Errorf("verify password: %w", err)
	}
	sum, err := h.work(ctx, password, salt, made)
	if err != nil {
		return false, false, fmt.Errorf("verify password: %w", err)
	}
	matches = subtle.ConstantTimeCompare(sum, want) == 1 && known
	return matches, made != h.parameters, nil
}

// work waits for a slot and hashes in it.
func (h *Hasher) work(ctx context.Context, password string, salt []byte, p Parameters) ([]byte, error) {
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > int64(cap(h.slots)*(1+waitingPerSlot)) {
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errBusy)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(normal(password)), salt, p.Passes, p.MemoryKiB, lanes, hashLength), nil
}

var errBusy = fault.Unavailable("too many people are signing in at this moment", 2*time.Second, nil)

func (h *Hasher) encode(salt, sum []byte) string {
	text := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$%s$%s$%s", argon2.Version, h.parameters, text(salt), text(sum))
}

// errMalformed never repeats the hash.
var errMalformed = errors.New("the stored hash is not one of ours")

// parse reads what encode wrote, with any parameters within the bounds.
func parse(encoded string) (made Parameters, salt, sum []byte, err error) {
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return Parameters{}, nil, nil, errMalformed
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d", &made.MemoryKiB, &made.Passes); err != nil || made.String() != parts[3] ||
		made.Passes < 1 || made.Passes > mostPasses || made.MemoryKiB > mostMemoryKiB {
		return Parameters{}, nil, nil, errMalformed
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(salt) != saltLength {
		return Parameters{}, nil, nil, errMalformed
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(sum) != hashLength {
		return Parameters{}, nil, nil, errMalformed
	}
	return made, salt, sum, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return b
}
