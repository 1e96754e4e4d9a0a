package selfbackup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	nameLayout = "chomd-20060102T150405Z.age"
	unfinished = ".part"
	// tryAgain is how soon a backup that failed is made anew.
	tryAgain = 5 * time.Minute
)

var namePattern = regexp.MustCompile(`^chomd-\d{8}T\d{6}Z\.age$`)

// Keeper makes backups into a folder, and removes old ones. Several may share it: they then keep that many together.
type Keeper struct {
	dir   string
	every time.Duration
	keep  int
	make  func(ctx context.Context, to io.Writer, now time.Time) (rows int64, err error)
	log   *slog.Logger
	last  prometheus.Gauge
	fails prometheus.Counter
}

// NewKeeper keeps backups that make writes; the newest keep of them, at least one. Every is the time from one to the next.
func NewKeeper(dir string, every time.Duration, keep int, log *slog.Logger, metrics prometheus.Registerer, make func(ctx context.Context, to io.Writer, now time.Time) (int64, error)) (*Keeper, error) {
	k := &Keeper{
		dir: dir, every: every, keep: max(keep, 1), make: make, log: log,
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chom_own_backup_last_success_timestamp_seconds", Help: "When the newest backup of the control plane itself was made; 0 while there is none.",
		}),
		fails: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chom_own_backup_failures_total", Help: "Backups of the control plane itself that could not be made.",
		}),
	}
	for _, one := range []prometheus.Collector{k.last, k.fails} {
		if err := metrics.Register(one); err != nil {
			return nil, fmt.Errorf("keep backups: %w", err)
		}
	}
	return k, nil
}

// Run makes one whenever the newest is old enough, until ctx ends. One that fails is tried again, and told in the log and in the
// metrics.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		wait := k.wait(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(wait, time.Hour)): // a clock may be set meanwhile
		}
		if wait > time.Hour {
			continue
		}
		path, rows, err := k.Now(ctx)
		if err == nil {
			k.log.InfoContext(ctx, "the control plane is backed up", "file", path, "rows", rows)
			continue
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		k.fails.Inc()
		k.log.ErrorContext(ctx, "the control plane is not backed up", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tryAgain):
		}
	}
}

// wait is the time until the next is due. One from the future was made by a clock that was wrong, and counts for nothing.
func (k *Keeper) wait(now time.Time) time.Duration {
	all, err := k.list()
	if err != nil {
		return 0 // Now says what is wrong
	}
	for _, name := range slices.Backward(all) {
		at, err := time.Parse(nameLayout, name)
		if err != nil || at.After(now) {
			continue
		}
		k.last.Set(float64(at.Unix()))
		return max(at.Add(k.every).Sub(now), 0)
	}
	return 0
}

// list gives the names of all, oldest first.
func (k *Keeper) list() ([]string, error) {
	entries, err := os.ReadDir(k.dir) // sorted by name, which is by time
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && namePattern.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Now makes one, which is on disk when it returns, and removes those that are too many. It gives its path and how many rows are
// in it.
func (k *Keeper) Now(ctx context.Context) (path string, rows int64, err error) {
	now := time.Now().UTC()
	path = filepath.Join(k.dir, now.Format(nameLayout))
	if rows, err = k.write(ctx, path, now); err != nil {
		return "", 0, fmt.Errorf("back up the control plane to %s: %w", path, err)
	}
	k.last.Set(float64(now.Unix()))
	if err := k.prune(path); err != nil {
		k.log.WarnContext(ctx, "old backups of the control plane cannot be removed", "err", err)
	}
	return path, rows, nil
}

func (k *Keeper) write(ctx context.Context, path string, now time.Time) (rows int64, err error) {
	f, err := os.OpenFile(path+unfinished, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	rows, err = k.make(ctx, f, now)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return 0, err
	}
	dir, err := os.Open(k.dir)
	if err != nil {
		return 0, err
	}
	defer dir.Close() //nolint:errcheck // it was synced
	return rows, dir.Sync()
}

// prune removes all but the newest, and what a crash has left unfinished before it.
func (k *Keeper) prune(newest string) error {
	all, err := k.list()
	if err != nil {
		return err
	}
	// What a wrong clock named after a time to come is not newer than the one just made.
	all = slices.DeleteFunc(all, func(name string) bool { return name > filepath.Base(newest) })
	var errs []error
	for _, name := range all[:max(len(all)-k.keep, 0)] {
		errs = append(errs, os.Remove(filepath.Join(k.dir, name)))
	}
	entries, err := os.ReadDir(k.dir)
	errs = append(errs, err)
	for _, e := range entries {
		whole, part := strings.CutSuffix(e.Name(), unfinished)
		if part && namePattern.MatchString(whole) && whole < filepath.Base(newest) && k.abandoned(whole) {
			errs = append(errs, os.Remove(filepath.Join(k.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// abandoned says that nobody writes an unfinished backup any more: one takes minutes.
func (k *Keeper) abandoned(name string) bool {
	at, err := time.Parse(nameLayout, name)
	return err == nil && time.Since(at) > 24*time.Hour
}
