package secret

import (
	"context"
	"iter"

	"chom.dev/controlplane/db"
)

// Sealed shows tests what a column holds.
func (c Column) Sealed(ctx context.Context, q db.Querier) iter.Seq2[[][]byte, error] {
	return func(yield func([][]byte, error) bool) {
		for batch, err := range c.cells(ctx, q) {
			var all [][]byte
			for _, one := range batch {
				all = append(all, one.sealed)
			}
			if !yield(all, err) {
				return
			}
		}
	}
}
