package backup

import (
	"bytes"
	"errors"
	"path"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

func TestBrowse(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		var names []string
		token := ""
		for {
			page, next, err := w.Browse(t.Context(), w.ours, w.site, ready.ID, "/public", 2, token)
			must(t, err)
			for _, f := range page {
				names = append(names, path.Base(f.Path))
			}
			if next == "" {
				break
			}
			if token != "" || len(page) != 2 {
				t.Fatalf("a page of %d, and another one to come", len(page))
			}
			token = next
		}
		if strings.Join(names, "") != "abc" {
			t.Errorf("there are %v", names)
		}
		if _, _, err := w.Browse(t.Context(), w.ours, w.site, ready.ID, "/", 2, token); fault.KindOf(err) != fault.KindInvalid {
			t.Errorf("with the token of another directory: %v", err)
		}
		for _, path := range []string{"public", "/public/", "/public/../private", "/public/.", "//public", "/public//a", "-r"} {
			if _, _, err := w.Browse(t.Context(), w.ours, w.site, ready.ID, path, 0, ""); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("browse %q: %v", path, err)
			}
			if err := w.Download(t.Context(), w.ours, w.site, ready.ID, path, new(bytes.Buffer)); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("download %q: %v", path, err)
			}
		}
		if _, _, err := w.Browse(t.Context(), w.ours, w.site, ready.ID, "/nowhere", 0, ""); !errors.Is(err, ErrNoFile) {
			t.Errorf("what is not there: %v", err)
		}
	})
}

func TestDownload(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		const audited = `SELECT COUNT(*) FROM audit_events WHERE action = 'backup.download'`
		for path, want := range map[string]string{
			"":          databaseSnapshot + databaseFile,
			"/public/b": filesSnapshot + "/public/b",
			"/public/a": filesSnapshot + "/public/a", // a directory
		} {
			var out bytes.Buffer
			if err := w.Download(t.Context(), w.ours, w.site, ready.ID, path, &out); err != nil || out.String() != want {
				t.Errorf("%q: %q, %v", path, out.String(), err)
			}
		}
		if n := w.count(t, audited); n != 3 {
			t.Errorf("%d of 3 downloads are in the audit", n)
		}
		for path, want := range map[string]fault.Kind{"/public/c": fault.KindConflict, "/public/d": fault.KindNotFound, "/nowhere/a": fault.KindNotFound} {
			var out bytes.Buffer
			if err := w.Download(t.Context(), w.ours, w.site, ready.ID, path, &out); fault.KindOf(err) != want || out.Len() > 0 {
				t.Errorf("%q: %q, %v", path, out.String(), err)
			}
		}
		if n := w.count(t, audited); n != 3 {
			t.Errorf("%d downloads are in the audit after some that were refused", n)
		}
		running := w.create(t)
		if err := w.Download(t.Context(), w.ours, w.site, running.ID, "", new(bytes.Buffer)); !errors.Is(err, ErrUnreadable) {
			t.Errorf("of one that is not ready: %v", err)
		}
		w.stored.readErr = ErrDamaged
		if err := w.Download(t.Context(), w.ours, w.site, ready.ID, "", new(bytes.Buffer)); !errors.Is(err, ErrLost) {
			t.Errorf("of one whose data is gone: %v", err)
		}
		if err := w.Export(t.Context(), w.ours, w.site, ready.ID, true, new(bytes.Buffer)); !errors.Is(err, ErrLost) {
			t.Errorf("an export of one whose data is gone: %v", err)
		}
		w.exec(t, `UPDATE backups SET manifest = (SELECT manifest FROM backups WHERE manifest IS NOT NULL), sequence = 2 WHERE manifest IS NOT NULL`)
		if err := w.Download(t.Context(), w.ours, w.site, ready.ID, "", new(bytes.Buffer)); !errors.Is(err, ErrForged) {
			t.Errorf("of one whose row was changed: %v", err)
		}
	})
}
