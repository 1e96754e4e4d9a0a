package secret

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Key is one version.
type Key struct {
	// Version is 1 for the first, and grows.
	Version uint32
	// Made is when it was made; of a key that was pending first, when it became the newest.
	Made time.Time
	// Pending says that it opens but does not seal yet: it was made, and is not the newest for all.
	Pending bool

	secret [keySize]byte
}

func newKey(version uint32, now time.Time) Key {
	k := Key{Version: version, Made: now.UTC().Truncate(time.Second)}
	rand.Read(k.secret[:]) // never fails: crypto/rand ends the program instead
	return k
}

// mark is what the database knows of a key. Nothing follows from it for the key.
func (k *Key) mark() []byte {
	m := hmac.New(sha256.New, k.secret[:])
	m.Write([]byte("chom secret key mark"))
	return m.Sum(nil)[:16]
}

// preface is for the person who finds the file.
const preface = `# The keys with which chomd seals secrets in its database. Without them these secrets are lost: keep a copy of this
# file, apart from the copies of the database. chomd secrets rotate adds a key; nobody else writes here.
# version, when it was made, 32 random bytes in base64
`

// formatKeys writes the text that parseKeys reads.
func formatKeys(keys []Key) []byte {
	var text bytes.Buffer
	text.WriteString(preface)
	for _, k := range keys {
		fmt.Fprintf(&text, "%d %s %s", k.Version, k.Made.Format(time.RFC3339), base64.StdEncoding.EncodeToString(k.secret[:]))
		if k.Pending {
			text.WriteString(" pending")
		}
		text.WriteByte('\n')
	}
	return text.Bytes()
}

// parseKeys reads keys, the oldest first. It refuses what cannot be a list of good keys, and never repeats any of it.
func parseKeys(text []byte) ([]Key, error) {
	var keys []Key
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		for _, before := range keys {
			switch {
			case before.Version >= k.Version:
				return nil, fmt.Errorf("line %d: versions must grow from line to line", i+1)
			case before.secret == k.secret:
				return nil, fmt.Errorf("line %d: the same key as version %d", i+1, before.Version)
			case before.Pending:
				return nil, fmt.Errorf("line %d: only the last key can be pending", i+1)
			}
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 || len(keys) == 1 && keys[0].Pending {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

func parseKey(line string) (Key, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 || len(fields) > 4 || len(fields) == 4 && fields[3] != "pending" {
		return Key{}, errors.New("must be a version, a time, and 32 random bytes in base64")
	}
	version, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || version == 0 {
		return Key{}, errors.New("the version must be a number above 0")
	}
	made, err := time.Parse(time.RFC3339, fields[1])
	if err != nil {
		return Key{}, errors.New("the time must be in the form of RFC 3339")
	}
	bytes, err := base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil || len(bytes) != keySize {
		return Key{}, errors.New("the key must be 32 bytes in base64")
	}
	k := Key{Version: uint32(version), Made: made, Pending: len(fields) == 4}
	copy(k.secret[:], bytes)
	if reason := weakness(k.secret); reason != "" {
		return Key{}, fmt.Errorf("the key is not random: %s", reason)
	}
	return k, nil
}

// samples are what people put where a key belongs.
var samples = []string{"", "password", "secret", "changeme", "change-me", "test", "example", "default", "key", "chom", "chomd", "admin", "1234", "12345678"}

// weakness says why 32 bytes are no key that somebody drew at random; empty for one that may be. A random key is refused
// once in more than a billion.
func weakness(key [keySize]byte) string {
	distinct, steps, printable := map[byte]bool{}, map[byte]bool{}, true
	for i, b := range key {
		distinct[b] = true
		printable = printable && b >= ' ' && b <= '~'
		if i > 0 {
			steps[b-key[i-1]] = true
		}
	}
	switch {
	case len(distinct) < 20: // 30 are usual
		return "too few different bytes"
	case len(steps) < 16: // 30 are usual, too
		return "its bytes follow a rule"
	case printable:
		return "it is a text"
	}
	for _, sample := range samples {
		if key == sha256.Sum256([]byte(sample)) {
			return "it is the hash of a common word"
		}
	}
	return ""
}
