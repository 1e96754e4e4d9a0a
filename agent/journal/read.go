package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"
)

// View is what has been written, as one transaction sees it.
type View struct{ tx *bolt.Tx }

// view reads what has been written, and takes damage for what it is.
func (j *Journal) view(f func(*bolt.Tx) error) (err error) {
	defer guard(&err)()
	err = j.db.View(f)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Attempt finds an attempt.
func (j *Journal) Attempt(key Key) (a Attempt, found bool, err error) {
	err = j.view(func(tx *bolt.Tx) error {
		a, found, err = View{tx}.Attempt(key)
		return err
	})
	return a, found, err
}

// Attempt finds an attempt.
func (v View) Attempt(key Key) (a Attempt, found bool, err error) {
	found, err = getJSON(v.tx.Bucket(bucketAttempts), key.bytes(), &a)
	return a, found, err
}

// Attempts gives all attempts, the newest first.
func (j *Journal) Attempts() ([]Attempt, error) {
	var out []Attempt
	err := j.view(func(tx *bolt.Tx) (err error) {
		out, err = attempts(tx)
		return err
	})
	return out, err
}

func attempts(tx *bolt.Tx) ([]Attempt, error) {
	var out []Attempt
	err := tx.Bucket(bucketAttempts).ForEach(func(k, v []byte) error {
		text, err := open1(bucketAttempts, k, v)
		if err != nil {
			return err
		}
		var a Attempt
		if err := json.Unmarshal(text, &a); err != nil {
			return fmt.Errorf("%w: attempt: %w", ErrCorrupt, err)
		}
		out = append(out, a)
		return nil
	})
	// By fence, not by time: clocks jump, fences don't. Attempts that were
	// refused have theirs too.
	slices.SortStableFunc(out, func(a, b Attempt) int {
		switch {
		case a.Fence > b.Fence:
			return -1
		case a.Fence < b.Fence:
			return 1
		}
		return 0
	})
	return out, err
}

// Order gives the order of an accepted attempt, nil when there is none.
func (j *Journal) Order(key Key) (*orderv1.SignedOrder, error) {
	var order *orderv1.SignedOrder
	err := j.view(func(tx *bolt.Tx) error {
		text, err := get(tx.Bucket(bucketOrders), key.bytes())
		if err != nil || text == nil {
			return err
		}
		order = new(orderv1.SignedOrder)
		if err := proto.Unmarshal(text, order); err != nil {
			return fmt.Errorf("%w: order: %w", ErrCorrupt, err)
		}
		return nil
	})
	return order, err
}

// Sequence gives the number of an attempt's newest event, 0 when it has none.
func (j *Journal) Sequence(key Key) (n uint64, err error) {
	err = j.view(func(tx *bolt.Tx) error {
		n, err = getNumber(tx.Bucket(bucketSequences), key.bytes())
		return err
	})
	return n, err
}

// Steps gives what came of an attempt's steps, by name.
func (j *Journal) Steps(key Key) (map[string]Step, error) {
	out := make(map[string]Step)
	prefix := key.bytes()
	err := j.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketSteps).Cursor()
		for k, v := c.Seek(prefix); len(k) > keyLen && string(k[:keyLen]) == string(prefix); k, v = c.Next() {
			text, err := open1(bucketSteps, k, v)
			if err != nil {
				return err
			}
			s := Step{Attempt: key}
			if err := json.Unmarshal(text, &s); err != nil {
				return fmt.Errorf("%w: step: %w", ErrCorrupt, err)
			}
			out[s.Name] = s
		}
		return nil
	})
	return out, err
}

// Site finds a site.
func (j *Journal) Site(id contract.SiteID) (s Site, found bool, err error) {
	err = j.view(func(tx *bolt.Tx) error {
		s, found, err = View{tx}.Site(id)
		return err
	})
	return s, found, err
}

// Site finds a site.
func (v View) Site(id contract.SiteID) (s Site, found bool, err error) {
	found, err = getJSON(v.tx.Bucket(bucketSites), uuidBytes(id.String()), &s)
	return s, found, err
}

// Sites gives all sites, removed ones included.
func (j *Journal) Sites() (all []Site, err error) {
	err = j.view(func(tx *bolt.Tx) error {
		all, err = View{tx}.Sites()
		return err
	})
	return all, err
}

// Sites gives all sites, removed ones included.
func (v View) Sites() ([]Site, error) {
	var out []Site
	err := v.tx.Bucket(bucketSites).ForEach(func(k, value []byte) error {
		text, err := open1(bucketSites, k, value)
		if err != nil {
			return err
		}
		var s Site
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("%w: site: %w", ErrCorrupt, err)
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// Counters gives the host's numbers.
func (j *Journal) Counters() (c Counters, err error) {
	err = j.view(func(tx *bolt.Tx) error {
		c, err = View{tx}.Counters()
		return err
	})
	return c, err
}

// Counters gives the host's numbers.
func (v View) Counters() (c Counters, err error) {
	b := v.tx.Bucket(bucketCounters)
	next, err := getNumber(b, keyNextUID)
	if err != nil {
		return c, err
	}
	c.NextUID = uint32(next)
	for _, f := range []struct {
		key []byte
		to  *uint64
	}{{keyHighestFence, &c.HighestFence}, {keyServerFence, &c.ServerFence}, {keyStarts, &c.Starts}, {keyBeats, &c.Beats}} {
		if *f.to, err = getNumber(b, f.key); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Beat proves that writing works, by writing.
func (j *Journal) Beat() error { return j.Write(Entry{add: [][]byte{keyBeats}}) }
