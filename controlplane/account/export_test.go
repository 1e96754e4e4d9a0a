package account

import (
	"context"
	"time"
)

// WriteUsed does at once what Run does every half minute.
func (a *Accounts) WriteUsed(ctx context.Context) error { return a.writeUsed(ctx) }

// Sweep does at once what Run does every hour.
func (a *Accounts) Sweep(ctx context.Context, now time.Time) error { return a.sweep(ctx, now) }
