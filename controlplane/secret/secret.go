// Package secret keeps what must be read again but must not be read by whoever holds the database: TOTP seeds, SSH keys,
// credentials of providers. It seals values with keys that lie outside the database, binds each to its place, and replaces
// the keys while everything runs. What is only ever compared, such as a token, is hashed instead and does not come here.
//
// # A sealed value
//
//	format 1 | version | data key, sealed by the key of that version | value, sealed by the data key
//	1 byte     4 bytes   12 + 32 + 16 bytes                            12 + n + 16 bytes
//
// Each value has a data key of its own. Both are sealed with AES-256-GCM, with a random nonce and, as associated data, the
// place (organization, table, column, row) and the version: moved to another place, a value does not open. A key may seal
// four billion values before random nonces are a concern.
//
// # The keys
//
// A key has a version, 1 for the first. The newest seals; all that are there open. They come from a file or from a command
// (Source). The database knows a mark of each version, so that a process with other keys is refused instead of sealing what
// nobody else can open.
//
//	rotate:  pending in the file -> its mark in the database -> newest in the file -> every value sealed anew, in batches
//
// Each arrow can be the last thing before a crash; rotate then goes on from there. See Rotate and Prune.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a value that prints as ***, however it is printed: by fmt, as JSON, in a log, inside of another value. The zero
// Secret is empty.
type Secret struct {
	// Of a function, fmt shows an address even where it cannot call Format; what a pointer leads to, it may show.
	reveal func() []byte
}

// New makes a secret of a value, which it copies.
func New(value []byte) Secret {
	value = append([]byte{}, value...)
	return Secret{func() []byte { return value }}
}

// Reveal gives the value itself, for the one call that needs it.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

const stars = "***"

// Format is for fmt: stars, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, stars) // fmt has nowhere to put an error
}

// String gives stars.
func (Secret) String() string { return stars }

// MarshalText gives stars, in JSON and elsewhere.
func (Secret) MarshalText() ([]byte, error) { return []byte(stars), nil }

// LogValue gives stars.
func (Secret) LogValue() slog.Value { return slog.StringValue(stars) }
