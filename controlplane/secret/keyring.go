package secret

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Source is where the keys lie, outside the database: a File or a keycommand.Command.
type Source interface {
	// Read gives the keys' text: a line for each version, as in a File.
	Read(ctx context.Context) ([]byte, error)
	// Changed reports whether Read could give another text than the last time. It is asked before each Seal.
	Changed() bool
}

// Keyring holds the keys in memory and follows its source. It is safe for concurrent use.
type Keyring struct {
	source Source
	log    *slog.Logger

	mu     sync.Mutex
	keys   []Key // the oldest first; the last may be pending
	readAt time.Time
	bad    bool // it could not be read the last time
}

// Load reads the keys. It refuses a source that others can read or change, and keys that are not random.
func Load(ctx context.Context, source Source, log *slog.Logger) (*Keyring, error) {
	k := &Keyring{source: source, log: log}
	if err := k.read(ctx); err != nil {
		return nil, fmt.Errorf("load the keys of secrets: %w", err)
	}
	return k, nil
}

func (k *Keyring) read(ctx context.Context) error {
	text, err := k.source.Read(ctx)
	if err != nil {
		return err
	}
	defer clear(text)
	keys, err := parseKeys(text)
	if err != nil {
		return err
	}
	k.keys, k.readAt, k.bad = keys, time.Now(), false
	return nil
}

const (
	// readFor bounds a source that hangs.
	readFor = 10 * time.Second
	// readAgain keeps values that name keys which never were, and a source that is broken, from having it read each time.
	readAgain = time.Second
)

// follow reads the source again if it changed.
func (k *Keyring) follow() {
	if k.source.Changed() && (!k.bad || time.Since(k.readAt) >= readAgain) {
		k.reload()
	}
}

// reload reads the source again. What is wrong with it then is logged: the keys that are there go on to work.
func (k *Keyring) reload() {
	ctx, cancel := context.WithTimeout(context.Background(), readFor)
	defer cancel()
	if err := k.read(ctx); err != nil {
		k.readAt, k.bad = time.Now(), true
		k.log.Error("the keys of secrets cannot be read again; those in memory stay in use", "err", err)
	}
}

// newest is the key that seals. Right after a rotation the keys are those of the source: no value is sealed with a key that
// another process has just replaced.
func (k *Keyring) newest() Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow()
	return newestOf(k.keys)
}

// newestOf is the last key that is not pending; parseKeys sees to it that there is one.
func newestOf(keys []Key) Key {
	last := len(keys) - 1
	if keys[last].Pending {
		last--
	}
	return keys[last]
}

// find gives a key by its version. One that is not there may have been made a moment ago.
func (k *Keyring) find(version uint32) (Key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.have(version); ok {
		return key, true
	}
	if k.follow(); time.Since(k.readAt) >= readAgain {
		k.reload()
	}
	return k.have(version)
}

func (k *Keyring) have(version uint32) (Key, bool) {
	for _, key := range k.keys {
		if key.Version == version {
			return key, true
		}
	}
	return Key{}, false
}

// Keys are the versions that are there now, the oldest first.
func (k *Keyring) Keys() []Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow()
	return append([]Key(nil), k.keys...)
}
