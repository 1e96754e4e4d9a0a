package selfbackup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func put(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		others := []string{"chomd-20990101T000000Z.age", "chomd-x.age", "notes.txt"}
		put(t, dir, others...)
		var fails bool
		k, err := NewKeeper(dir, 24*time.Hour, 3, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), func(_ context.Context, to io.Writer, _ time.Time) (int64, error) {
			if _, err := io.WriteString(to, "content"); err != nil || fails {
				return 0, errors.Join(err, errors.New("the disk is full"))
			}
			return 7, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ours := func() []string {
			return slices.DeleteFunc(names(t, dir), func(name string) bool { return slices.Contains(others, name) })
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		if got := ours(); len(got) != 1 {
			t.Fatalf("at first: %v", got) // one from the future is no reason to wait until then
		}
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if got := ours(); len(got) != 1 {
			t.Errorf("after 23 hours: %v", got)
		}
		time.Sleep(5 * 24 * time.Hour)
		synctest.Wait()
		got := ours()
		if len(got) != 3 {
			t.Errorf("after six days: %v", got)
		}
		if all := names(t, dir); !slices.Contains(all, "notes.txt") || !slices.Contains(all, "chomd-x.age") {
			t.Errorf("what is not ours is gone: %v", all)
		}
		fails = true
		time.Sleep(24*time.Hour + 11*time.Minute)
		synctest.Wait()
		if again := ours(); !slices.Equal(again, got) {
			t.Errorf("when it fails: %v, before %v", again, got)
		}
		if n := testutil.ToFloat64(k.fails); n < 24*11 || n > 24*12+3 {
			t.Errorf("%v failures in a day", n)
		}
		fails = false
		time.Sleep(tryAgain + time.Second)
		synctest.Wait()
		if again := ours(); len(again) != 3 || slices.Equal(again, got) {
			t.Errorf("when it works again: %v", again)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().UTC().Add(-25 * time.Hour).Format(nameLayout)
	young := time.Now().UTC().Add(-time.Hour).Format(nameLayout)
	put(t, dir, old+unfinished, young+unfinished)
	k, err := NewKeeper(dir, time.Hour, 1, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), func(context.Context, io.Writer, time.Time) (int64, error) { return 0, nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Now(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := names(t, dir); len(all) != 2 || !slices.Contains(all, young+unfinished) {
		t.Errorf("there are %v", all) // who writes the young one may still be at it
	}
}
