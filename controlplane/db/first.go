package db

import (
	"context"
	"sync/atomic"
)

// First is something that is to be written together with the first effect of a
// piece of work, whatever that is and wherever it happens.
type First struct {
	write func(ctx context.Context, tx *Tx) error
	done  atomic.Bool
}

type firstKey struct{}

// WithFirst has every write transaction under ctx begin with write, until one of
// them is committed: then it is done, in the same commit. An error of write ends
// the transaction, and is what InTx gives. The transactions under ctx must follow
// one another. End it when the work is over.
func WithFirst(ctx context.Context, write func(ctx context.Context, tx *Tx) error) (context.Context, *First) {
	f := &First{write: write}
	return context.WithValue(ctx, firstKey{}, f), f
}

// WithoutFirst is for transactions under ctx that do not follow one another, and whose repetition does no harm.
func WithoutFirst(ctx context.Context) context.Context {
	return context.WithValue(ctx, firstKey{}, (*First)(nil))
}

// Done reports whether it was written.
func (f *First) Done() bool { return f.done.Load() }

// End keeps it from being written from now on. It reports whether it was.
func (f *First) End() bool { return f.done.Swap(true) }

func firstOf(ctx context.Context) *First {
	f, _ := ctx.Value(firstKey{}).(*First)
	return f
}

// begin is for every try of a transaction; f may be nil.
func (f *First) begin(ctx context.Context, tx *Tx) error {
	if f == nil || f.done.Load() {
		return nil
	}
	return f.write(ctx, tx)
}

func (f *First) committed() {
	if f != nil {
		f.done.Store(true)
	}
}
