package journal

import (
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	keepFor   = 7 * 24 * time.Hour // as long as Hello names ended attempts
	keepCount = 2000               // as many as fit into a Hello
)

// pruning deletes attempts that have ended and of whose end the control plane
// knows. What a pruned order's late twin meets is the fence.
type pruning struct {
	now time.Time // zero: no clock is to be trusted, go by count alone
}

// Prune deletes ended and delivered attempts beyond the newest 2,000, and
// those older than 7 days. Now is the control plane's time, or zero when that
// isn't known: a clock that jumped must not delete anything.
func (j *Journal) Prune(now time.Time) error {
	due := false
	err := j.view(func(tx *bolt.Tx) error {
		list, err := (&pruning{now}).list(tx)
		due = len(list) > 0
		return err
	})
	if err != nil || !due {
		return err
	}
	return j.Write(Entry{prune: &pruning{now}})
}

// list names what may go.
func (p *pruning) list(tx *bolt.Tx) ([]Key, error) {
	all, err := attempts(tx)
	if err != nil {
		return nil, err
	}
	var out []Key
	for i, a := range all {
		old := !p.now.IsZero() && p.now.Sub(a.Ended) > keepFor
		if !a.Ended.IsZero() && a.Delivered && (i >= keepCount || old) {
			out = append(out, a.Key())
		}
	}
	return out, nil
}

func (p *pruning) run(tx *bolt.Tx) error {
	keys, err := p.list(tx)
	if err != nil {
		return err
	}
	for _, key := range keys {
		k := key.bytes()
		for _, name := range [][]byte{bucketAttempts, bucketOrders, bucketSequences} {
			if err := tx.Bucket(name).Delete(k); err != nil {
				return err
			}
		}
		steps := tx.Bucket(bucketSteps)
		var names [][]byte
		c := steps.Cursor()
		for s, _ := c.Seek(k); len(s) > keyLen && string(s[:keyLen]) == string(k); s, _ = c.Next() {
			names = append(names, slices.Clone(s))
		}
		for _, s := range names {
			if err := steps.Delete(s); err != nil {
				return err
			}
		}
	}
	return nil
}
