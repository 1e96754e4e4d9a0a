package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// copies is a world over a real store with a READY backup of our site, and another site of ours that never had one.
type copies struct {
	*world
	store  *store.Disk
	dir    string
	host   *host
	source Backup
	to     contract.SiteID
}

func newCopies(t *testing.T, d *db.DB) *copies {
	t.Helper()
	c := &copies{world: newWorld(t, d), dir: filepath.Join(t.TempDir(), "backups")}
	c.store = openDisk(t, c.dir)
	c.host = c.over(t, c.store)
	c.to = c.addSite(t, c.ours, "shop2")
	c.work(t, well)
	c.source = c.makeBackups(t, c.host, c.store, 1)[0]
	return c
}

// begin has the source copied, up to what the control plane does then.
func (c *copies) begin(t *testing.T) Backup {
	t.Helper()
	made, err := c.Copy(t.Context(), c.ours, c.site, c.source.ID, c.to)
	must(t, err)
	return made
}

// brought does all that is due.
func (c *copies) brought(t *testing.T, now time.Time) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = c.receiveNext(t.Context(), now)
		must(t, err)
	}
	if present := time.Now(); now.Before(present) {
		now = present
	}
	c.settled(t, now)
}

func (c *copies) at(t *testing.T, id contract.BackupID) Backup {
	t.Helper()
	found, err := c.Get(t.Context(), c.ours, c.to, id)
	must(t, err)
	return found
}

// signed is the manifest of a backup, as whoever restores it reads it.
func (c *copies) signed(t *testing.T, b Backup) *backupv1.Manifest {
	t.Helper()
	_, m, err := c.verified(b)
	must(t, err)
	return m
}

func TestCopy(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		c := newCopies(t, d)
		made := c.begin(t)
		if made.State != Running || made.Reason != Copied || made.Site != c.to || made.Source != c.source.ID || made.SourceSite != c.site || made.TaskID != "" {
			t.Fatalf("made %+v", made)
		}
		t.Run("the other site has it under way as its one backup", func(t *testing.T) {
			if _, err := c.Create(t.Context(), c.ours, c.to); !errors.Is(err, ErrUnderWay) {
				t.Errorf("a backup: %v", err)
			}
			if _, err := c.Copy(t.Context(), c.ours, c.site, c.source.ID, c.to); !errors.Is(err, ErrUnderWay) {
				t.Errorf("a second copy: %v", err)
			}
			if err := c.Reported(t.Context(), c.ours, c.to, scheduled()); !errors.Is(err, ErrUnderWay) {
				t.Errorf("what its schedule made: %v", err)
			}
			if _, err := c.Restore(t.Context(), c.ours, c.to, made.ID, Parts{}); !errors.Is(err, ErrNotReady) {
				t.Errorf("a restore: %v", err)
			}
		})
		t.Run("what its host alone does goes on beside it", func(t *testing.T) {
			must(t, db.InTx(t.Context(), c.db, func(tx *db.Tx) error { return free(t.Context(), tx, c.ours, c.to, false) }))
		})
		t.Run("what it is copied from stays until then", func(t *testing.T) {
			k := kept{Organization: c.ours, Site: c.site}
			if err := c.holdRepository(t.Context(), k); !errors.Is(err, ErrUnderWay) {
				t.Errorf("its repository is held: %v", err)
			}
			must(t, db.InTx(t.Context(), c.db, func(tx *db.Tx) error {
				all, _, err := c.agedOf(t.Context(), tx, k, time.Now())
				if err == nil && (len(all) != 1 || !all[0].Needed) {
					t.Errorf("it may expire: %+v", all)
				}
				return err
			}))
		})
		if more, err := c.checkNext(t.Context(), time.Now()); more || err != nil {
			t.Fatalf("it is checked before it is there: %v, %v", more, err)
		}
		c.brought(t, time.Now())
		first := c.at(t, made.ID)
		if first.State != Ready || first.Sequence != 1 {
			t.Fatalf("it is %s, %d: %s", first.State, first.Sequence, first.Problem)
		}
		t.Run("it holds what the source does, by the other site's own chain", func(t *testing.T) {
			source, m := c.signed(t, c.source), c.signed(t, first)
			if m.GetSiteId() != c.to.String() || m.GetSourceSiteId() != c.site.String() || m.GetBackupId() != first.ID.String() || len(m.GetPreviousSha256()) != 0 {
				t.Errorf("manifest %v", m)
			}
			if !proto.Equal(m.GetStartTime(), source.GetStartTime()) || !proto.Equal(m.GetDesired(), source.GetDesired()) {
				t.Errorf("it shows %v, not %v", m, source)
			}
			have, want := proto.CloneOf(m.GetContents()), proto.CloneOf(source.GetContents())
			if have.FilesSnapshot == want.FilesSnapshot || have.DatabaseSnapshot == want.DatabaseSnapshot {
				t.Error("the snapshots have the names that they have in the other repository: this test shows nothing")
			}
			have.FilesSnapshot, have.DatabaseSnapshot = want.FilesSnapshot, want.DatabaseSnapshot
			if !proto.Equal(have, want) {
				t.Errorf("contents %v, not %v", have, want)
			}
			for _, path := range []string{"", "/public/page"} {
				var ours, theirs bytes.Buffer
				must(t, c.Download(t.Context(), c.ours, c.site, c.source.ID, path, &ours))
				must(t, c.Download(t.Context(), c.ours, c.to, first.ID, path, &theirs))
				if ours.Len() == 0 || !bytes.Equal(ours.Bytes(), theirs.Bytes()) {
					t.Errorf("%q: %d bytes, and %d other ones", path, ours.Len(), theirs.Len())
				}
			}
		})
		t.Run("a second one follows the first in the chain, and adds nothing", func(t *testing.T) {
			second := c.begin(t)
			c.brought(t, time.Now())
			second = c.at(t, second.ID)
			sum := sha256.Sum256(manifestBytes(t, first))
			if m := c.signed(t, second); second.Sequence != 2 || !bytes.Equal(m.GetPreviousSha256(), sum[:]) {
				t.Errorf("manifest %v", m)
			}
			all, err := c.store.List(t.Context(), store.Repository{Organization: c.ours, Site: c.to}, store.Snapshots)
			must(t, err)
			if len(all) != 2 || second.Report.GetContents().GetFilesSnapshot() != first.Report.GetContents().GetFilesSnapshot() {
				t.Errorf("%d snapshots", len(all))
			}
		})
		t.Run("it is no backup of the site itself", func(t *testing.T) {
			is, problem, err := standingOf(t.Context(), c.db.Reader(), c.ours, c.to)
			must(t, err)
			if !is.good.IsZero() || !is.failing.IsZero() || problem != "" {
				t.Errorf("it stands for one: %+v %q", is, problem)
			}
			if _, err := c.Drill(t.Context(), c.ours, c.to, first.ID); !errors.Is(err, ErrNotOwn) {
				t.Errorf("a drill: %v", err)
			}
		})
		t.Run("what the other site's schedule made meanwhile is admitted after it", func(t *testing.T) {
			must(t, c.Reported(t.Context(), c.ours, c.to, scheduled()))
		})
		t.Run("the other site restores it", func(t *testing.T) {
			c.exec(t, `UPDATE backups SET state = 'failed', check_at = NULL WHERE state = 'checking'`)
			r, err := c.Restore(t.Context(), c.ours, c.to, first.ID, Parts{WithoutBackup: true})
			must(t, err)
			o := c.work(t, well)[0].GetRestoreSite()
			m := &backupv1.Manifest{}
			must(t, proto.Unmarshal(o.GetManifest().GetManifest(), m))
			if o.GetRestoreId() != r.ID.String() || m.GetSiteId() != c.to.String() {
				t.Errorf("the order %v", o)
			}
		})
	})
}

func manifestBytes(t *testing.T, b Backup) []byte {
	t.Helper()
	signed := &backupv1.SignedManifest{}
	must(t, proto.Unmarshal(b.manifest, signed))
	return signed.GetManifest()
}

func TestCopyRefused(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		to := w.addSite(t, w.ours, "shop2")
		static, _, err := w.sites.Create(t.Context(), site.Request{Organization: w.ours, Name: "plain", Type: "static", Domains: []string{"plain.example.com"}})
		must(t, err)
		trashed := w.addSite(t, w.ours, "shop3")
		w.work(t, well)
		if _, _, err := w.sites.Delete(t.Context(), w.ours, trashed); err != nil {
			t.Fatal(err)
		}
		w.work(t, well)
		for what, try := range map[string]struct {
			organization contract.OrganizationID
			from, to     contract.SiteID
			backup       contract.BackupID
			want         fault.Kind
		}{
			"to a site of another organization":   {w.ours, w.site, w.theirSite, ready.ID, fault.KindNotFound},
			"from a site of another organization": {w.theirs, w.site, w.theirSite, ready.ID, fault.KindNotFound},
			"as another organization's":           {w.theirs, w.site, to, ready.ID, fault.KindNotFound},
			"a backup that is not there":          {w.ours, w.site, to, contract.NewBackupID(), fault.KindNotFound},
			"a backup of the other site":          {w.ours, to, w.site, ready.ID, fault.KindNotFound},
			"to a site of another type":           {w.ours, w.site, static.ID, ready.ID, fault.KindConflict},
			"to a site in the trash":              {w.ours, w.site, trashed, ready.ID, fault.KindConflict},
			"to its own site":                     {w.ours, w.site, w.site, ready.ID, fault.KindInvalid},
		} {
			if _, err := w.Copy(t.Context(), try.organization, try.from, try.backup, try.to); fault.KindOf(err) != try.want {
				t.Errorf("%s: %v", what, err)
			}
		}
		running := w.create(t)
		if _, err := w.Copy(t.Context(), w.ours, w.site, running.ID, to); !errors.Is(err, ErrNotCopyable) {
			t.Errorf("one that is not ready: %v", err)
		}
		w.exec(t, `UPDATE backups SET sequence = 7 WHERE id = $1`, ready.ID)
		if _, err := w.Copy(t.Context(), w.ours, w.site, ready.ID, to); !errors.Is(err, ErrForged) {
			t.Errorf("one whose row was changed: %v", err)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM backups WHERE reason = 'copied'`); n != 0 {
			t.Errorf("%d copies", n)
		}
	})
}

// interrupted is a Reader whose copies are followed by something else, once.
type interrupted struct {
	Reader
	then func() error
}

func (i *interrupted) Copy(ctx context.Context, from, to Repository, snapshots ...string) ([]string, error) {
	then := i.then
	i.then = nil
	if then == nil {
		return i.Reader.Copy(ctx, from, to, snapshots...)
	}
	if _, err := i.Reader.Copy(ctx, from, to, snapshots[0]); err != nil {
		return nil, err
	}
	if err := errors.Join(then(), ctx.Err()); err != nil {
		return nil, err
	}
	return i.Reader.Copy(ctx, from, to, snapshots...)
}

func TestCopyInterrupted(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		c := newCopies(t, d)
		broken := &interrupted{Reader: c.config.Repositories}
		c.config.Repositories = broken
		t.Run("the process ends in its middle, and another one goes on", func(t *testing.T) {
			made := c.begin(t)
			ctx, end := context.WithCancel(t.Context())
			broken.then = func() error { end(); return nil }
			if _, err := c.receiveNext(ctx, time.Now()); err == nil {
				t.Fatal("it was not broken off")
			}
			if b := c.at(t, made.ID); b.State != Running || b.Report != nil {
				t.Fatalf("it is %+v", b)
			}
			c.brought(t, time.Now())
			if b := c.at(t, made.ID); b.State != Ready || b.Sequence != 1 {
				t.Fatalf("it is %s, %d: %s", b.State, b.Sequence, b.Problem)
			}
		})
		t.Run("the process dies, and another one goes on once nobody has heard of it for a while", func(t *testing.T) {
			made := c.begin(t)
			gone, err := c.claim(t.Context(), time.Now(), true)
			must(t, err)
			if more, err := c.receiveNext(t.Context(), time.Now()); more || err != nil {
				t.Fatalf("two bring the same: %v, %v", more, err)
			}
			later := time.Now().Add(claimFor + time.Second)
			c.brought(t, later)
			if b := c.at(t, made.ID); b.State != Ready {
				t.Fatalf("it is %s: %s", b.State, b.Problem)
			}
			if err := c.receive(t.Context(), *gone); !errors.Is(err, errLost) {
				t.Errorf("the one that was taken for dead: %v", err)
			}
		})
		t.Run("the store is away, and it is tried again", func(t *testing.T) {
			made := c.begin(t)
			broken.then = func() error { return errors.New("the store is away") }
			c.brought(t, time.Now())
			if b := c.at(t, made.ID); b.State != Running || b.tries != 1 {
				t.Fatalf("it is %+v", b)
			}
			c.brought(t, time.Now().Add(longestRest))
			if b := c.at(t, made.ID); b.State != Ready {
				t.Fatalf("it is %s: %s", b.State, b.Problem)
			}
		})
		t.Run("it is cancelled, and nothing of it counts", func(t *testing.T) {
			made := c.begin(t)
			broken.then = func() error {
				ended, err := c.Cancel(t.Context(), c.ours, c.to, made.ID)
				if ended.State != Failed {
					t.Errorf("cancelled it is %s", ended.State)
				}
				return err
			}
			c.brought(t, time.Now())
			if b := c.at(t, made.ID); b.State != Failed || b.Problem != "it was cancelled" || b.manifest != nil {
				t.Errorf("it is %+v", b)
			}
			if _, err := c.Cancel(t.Context(), c.ours, c.to, made.ID); !errors.Is(err, ErrNotCancelled) {
				t.Errorf("again: %v", err)
			}
			of := c.create(t)
			if _, err := c.Cancel(t.Context(), c.ours, c.site, of.ID); !errors.Is(err, ErrNotCancelled) {
				t.Errorf("one that a host makes: %v", err)
			}
		})
	})
}

func TestCopyDamaged(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		c := newCopies(t, d)
		fresh := c.addSite(t, c.ours, "shop3") // whose repository has nothing of it
		c.work(t, well)
		refused := func(t *testing.T, why string) {
			t.Helper()
			made := c.begin(t)
			c.brought(t, time.Now())
			if b := c.at(t, made.ID); b.State != Failed || !strings.Contains(b.Problem, why) || b.Sequence != 0 {
				t.Errorf("it is %s, %d: %q", b.State, b.Sequence, b.Problem)
			}
		}
		t.Run("what is not what was signed", func(t *testing.T) {
			whole := c.source.manifest
			defer c.exec(t, `UPDATE backups SET manifest = $2 WHERE id = $1`, c.source.ID, whole)
			for _, spoil := range []func(*backupv1.Contents){
				func(of *backupv1.Contents) { of.DumpSha256[0] ^= 1 },
				func(of *backupv1.Contents) { of.ListingSha256[0] ^= 1 },
				func(of *backupv1.Contents) { of.FilesSnapshot = of.DatabaseSnapshot },
			} {
				m := c.signed(t, c.source)
				spoil(m.Contents)
				again, err := contract.SignManifest(c.signer, m)
				must(t, err)
				text, err := proto.Marshal(again)
				must(t, err)
				c.exec(t, `UPDATE backups SET manifest = $2 WHERE id = $1`, c.source.ID, text)
				refused(t, "not what was signed")
			}
		})
		t.Run("data that is gone", func(t *testing.T) {
			packs, err := filepath.Glob(filepath.Join(c.dir, c.ours.String(), c.site.String(), "data", "*", "*"))
			must(t, err)
			for _, pack := range packs {
				must(t, os.Remove(pack))
			}
			c.to = fresh
			refused(t, "damaged")
		})
	})
}
