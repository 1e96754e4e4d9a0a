// Package journal is the agent's memory that outlives its process: which
// orders were accepted, what came of every step, what is still to be told, and
// which sites belong on this host. It is one bbolt file:
//
//	journal.db
//	├── meta
//	│   ├── version          layout of this file, see layout
//	│   └── server           the server whose orders are in here; missing until it is first opened
//	├── counters
//	│   ├── next-uid         unix id for the next new site, never lowered
//	│   ├── highest-fence    of any accepted order
//	│   ├── server-fence     highest of orders for the server itself; those of sites are in their records
//	│   ├── starts           how often an agent opened the file
//	│   └── beats            writes made to prove that writing works
//	├── attempts             TASK ATTEMPT                 -> Attempt, as JSON
//	├── orders               TASK ATTEMPT                 -> chom.order.v1.SignedOrder
//	├── sequences            TASK ATTEMPT                 -> number of its newest event
//	├── steps                TASK ATTEMPT step-name       -> Step, as JSON
//	├── events               position, in order of time   -> chom.link.v1.TaskEvent, until it was delivered
//	└── sites                SITE                         -> Site, as JSON; never deleted
//
// TASK and SITE are the 16 bytes of the UUID, ATTEMPT 4 bytes, numbers 8
// bytes, all big endian. Before each value stands the CRC-32C of its key and
// itself: bbolt protects its own pages against torn writes, not against a
// disk that forgets.
//
// Every Write is one bbolt transaction, or shares one with others that came at
// the same time, and has been synced when it returns. An error of the disk
// other than "full" ends the journal: what the kernel holds can't be trusted
// after a failed sync, so the process must start anew and read what is there.
//
// It decides nothing: whether an order may be accepted is for package task.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// maxFile bounds the file: what 2,000 attempts with all their output take, many
// times over. A journal must not be what fills a host's disk.
const maxFile = 256 << 20

// layout is the version of the drawing above. A file with a higher one was
// written by a newer agent.
const layout = 1

// FirstUID and LastUID bound the unix ids of sites: above what distributions
// and systemd's dynamic users take, below the ranges of containers.
const (
	FirstUID = 200000
	LastUID  = 524287
)

var (
	bucketMeta      = []byte("meta")
	bucketCounters  = []byte("counters")
	bucketAttempts  = []byte("attempts")
	bucketOrders    = []byte("orders")
	bucketSequences = []byte("sequences")
	bucketSteps     = []byte("steps")
	bucketEvents    = []byte("events")
	bucketSites     = []byte("sites")

	buckets = [][]byte{
		bucketMeta, bucketCounters, bucketAttempts, bucketOrders, bucketSequences, bucketSteps, bucketEvents, bucketSites,
	}

	keyVersion      = []byte("version")
	keyServer       = []byte("server")
	keyNextUID      = []byte("next-uid")
	keyHighestFence = []byte("highest-fence")
	keyServerFence  = []byte("server-fence")
	keyStarts       = []byte("starts")
	keyBeats        = []byte("beats")
)

var (
	// ErrCorrupt says that the file isn't what was written to it. Nothing may
	// be done from it: the order of things, and which unix ids were used, are
	// unknown.
	ErrCorrupt = errors.New("journal is damaged")
	// ErrNewer says that a newer agent wrote the file.
	ErrNewer = errors.New("journal was written by a newer agent")
	// ErrForeign says that the file belongs to another server's identity.
	ErrForeign = errors.New("journal belongs to another server")
	// ErrInUse says that another process has the file open.
	ErrInUse = errors.New("journal is in use by another process")
	// ErrBroken says that an earlier write failed in a way after which the
	// file must be opened anew.
	ErrBroken = errors.New("journal is broken until it is opened again")
	// ErrClosed says that the journal was closed.
	ErrClosed = errors.New("journal is closed")
)

// Journal is an open file. Safe for concurrent use.
type Journal struct {
	db  *bolt.DB
	log *slog.Logger

	mu        sync.Mutex
	notify    func()    // told when events were added
	queue     []*Ticket // waits for the next transaction
	writing   bool      // a goroutine works on the queue
	idle      *sync.Cond
	closed    bool
	broken    error         // first error after which nothing may be written
	brokenC   chan struct{} // closed then
	delivered uint64        // events up to this position need not be read again
	noted     uint64        // the file knows of delivered up to here
	noting    *time.Timer   // until the rest is noted; nil when nothing waits
}

// Open opens or makes the journal of a server and checks all of it. The
// directory must exist.
func Open(path, server string, log *slog.Logger) (*Journal, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, FirstUID); err != nil {
			return nil, fmt.Errorf("create journal %s: %w", path, err)
		}
	}
	db, err := open(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	j := &Journal{db: db, log: log, notify: func() {}, brokenC: make(chan struct{})}
	j.idle = sync.NewCond(&j.mu)
	if err := check(db, server); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), db.Close())
	}
	if err := j.Write(Entry{claim: server, add: [][]byte{keyStarts}}); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), db.Close())
	}
	return j, nil
}

// create makes a complete file aside and renames it, so that a crash never
// leaves half a file that a later start must take for a damaged one.
func create(path string, nextUID uint64) error {
	aside := path + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := open(aside, maxFile)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := put(tx.Bucket(bucketCounters), keyNextUID, number(nextUID)); err != nil {
			return err
		}
		return put(tx.Bucket(bucketMeta), keyVersion, number(layout))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func open(path string, limit int) (_ *bolt.DB, err error) {
	defer guard(&err)()
	opts := *bolt.DefaultOptions
	opts.MaxSize = limit
	opts.Timeout = time.Second // a lock that is held longer belongs to a live process
	opts.NoStatistics = true
	opts.FreelistType = bolt.FreelistMapType
	db, err := bolt.Open(path, 0o600, &opts)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return db, err
}

// guard turns the panics and memory faults with which bbolt meets damaged
// pages into ErrCorrupt. Call what it returns in the same goroutine.
func guard(err *error) func() {
	former := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(former)
		if p := recover(); p != nil {
			*err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
	}
}

// check reads every page and every value: better a clear end now than a wrong
// decision later.
func check(db *bolt.DB, server string) (err error) {
	defer guard(&err)()
	return db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return fmt.Errorf("%w: it has no version", ErrCorrupt)
		}
		version, err := getNumber(meta, keyVersion)
		switch {
		case err != nil:
			return err
		case version > layout:
			return fmt.Errorf("%w: it has layout %d, this agent knows %d", ErrNewer, version, layout)
		case version != layout:
			return fmt.Errorf("%w: layout %d is unknown", ErrCorrupt, version)
		}
		if owner, err := get(meta, keyServer); err != nil {
			return err
		} else if owner != nil && string(owner) != server {
			return fmt.Errorf("%w: %s", ErrForeign, owner)
		}
		for _, name := range buckets {
			b := tx.Bucket(name)
			if b == nil {
				return fmt.Errorf("%w: bucket %s is missing", ErrCorrupt, name)
			}
			if err := b.ForEach(func(k, v []byte) error {
				_, err := open1(name, k, v)
				return err
			}); err != nil {
				return err
			}
		}
		var first error
		for err := range tx.Check() { // to the end, or its goroutine outlives the transaction
			if first == nil {
				first = fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
		}
		return first
	})
}

// Close waits for writes under way and closes the file. What comes later fails.
func (j *Journal) Close() error {
	j.note()
	j.mu.Lock()
	j.closed = true
	for j.writing {
		j.idle.Wait()
	}
	j.mu.Unlock()
	if err := j.db.Close(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// Abandon closes the file as a killed process would: writes that wait for a
// transaction are lost.
func (j *Journal) Abandon() {
	j.mu.Lock()
	j.closed = true
	lost := j.queue
	j.queue = nil
	for j.writing {
		j.idle.Wait()
	}
	j.mu.Unlock()
	for _, t := range lost {
		t.end(ErrClosed)
	}
	if err := j.db.Close(); err != nil {
		j.log.Warn("abandoned journal did not close", "err", err)
	}
}

// Retire puts the journal aside and an empty one in its place, for a host that
// becomes another server. The unix ids go on counting: files of the former
// sites may still be there. It gives the path of the former journal, "" when
// there was none.
func Retire(path string) (aside string, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	db, err := open(path, maxFile)
	if err != nil {
		return "", fmt.Errorf("retire journal %s: %w", path, err)
	}
	c, err := (&Journal{db: db}).Counters()
	if err = errors.Join(err, db.Close()); err != nil {
		return "", fmt.Errorf("retire journal %s: %w", path, err)
	}
	aside = path + ".until-" + time.Now().UTC().Format("20060102T150405.000")
	if err := os.Link(path, aside); err != nil {
		return "", fmt.Errorf("retire journal: %w", err)
	}
	if err := create(path, uint64(c.NextUID)); err != nil {
		return "", fmt.Errorf("retire journal: %w", err)
	}
	return aside, nil
}

// Broken is closed when the journal must be opened anew.
func (j *Journal) Broken() <-chan struct{} { return j.brokenC }

// Notify sets what is called after events were added. It must not block.
func (j *Journal) Notify(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notify = f
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
