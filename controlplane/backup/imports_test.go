package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/archive"
	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// carried is a world whose repositories are real: restic's, on a disk.
type carried struct {
	*world
	t     *testing.T
	store string
}

func newCarried(t *testing.T, d *db.DB) *carried {
	t.Helper()
	c := &carried{world: newWorld(t, d), t: t, store: filepath.Join(t.TempDir(), "store")}
	kept, err := store.OpenDisk(c.store)
	must(t, err)
	t.Cleanup(func() { _ = kept.Close() })
	c.config.Repositories, err = NewRepositories(kept, "", c.log)
	must(t, err)
	c.uploads = newUploads(UploadConfig{Dir: t.TempDir(), Quota: 1 << 30, Floor: 1})
	return c
}

// restic is what our site's host runs.
func (c *carried) restic(dir, stdin string, args ...string) {
	c.t.Helper()
	key, err := c.Key(c.t.Context(), c.ours, c.site)
	must(c.t, err)
	cmd := exec.Command("/usr/bin/restic", append([]string{"--no-cache", "--repo=" + filepath.Join(c.store, c.ours.String(), c.site.String())}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, []string{"RESTIC_PASSWORD=" + key}, strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("restic %v: %v\n%s", args, err, out)
	}
}

const importedDump = "-- MariaDB dump\nCREATE TABLE `wp_posts` (`id` int);\nINSERT INTO `wp_posts` VALUES (1),(2),(3);\n-- Dump completed\n" +
	contract.ObjectsMark + "-- none\n-- Dump completed\n"

// hostBackup makes a backup of our site as its host would.
func (c *carried) hostBackup() Backup {
	t := c.t
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"public/index.php": "<?php", "public/a b/ü \n.txt": "x", "private/secret": "s", "public/empty/.keep": "", "public/ro/kept": strings.Repeat("large ", 100_000),
	} {
		must(t, errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640)))
	}
	at := time.Date(2019, 1, 2, 3, 4, 5, 678912345, time.UTC)
	must(t, errors.Join(os.Symlink("index.php", filepath.Join(dir, "public/link")), os.Symlink("../../private", filepath.Join(dir, "public/a b/up")),
		os.Link(filepath.Join(dir, "public/index.php"), filepath.Join(dir, "public/second-name")), os.Chmod(filepath.Join(dir, "private"), 0o700),
		os.Chmod(filepath.Join(dir, "private/secret"), 0o600), os.Chmod(filepath.Join(dir, "public/ro/kept"), 0o444), os.Chtimes(filepath.Join(dir, "private/secret"), at, at),
		os.Chtimes(filepath.Join(dir, "public/ro"), at, at), os.Chmod(filepath.Join(dir, "public/ro"), 0o550)))
	t.Cleanup(func() { _ = archive.Remove(dir) })
	made := c.create(t)
	c.work(t, func(o *orderv1.Order) *orderv1.Result {
		r, err := c.open(t.Context(), c.ours, c.site)
		must(t, err)
		must(t, c.config.Repositories.Init(t.Context(), r))
		c.restic(dir, "", "backup", "--host=chom", "--tag="+made.ID.String(), "--one-file-system", "--", "public", "private")
		c.restic(dir, importedDump, "backup", "--host=chom", "--tag="+made.ID.String(), "--stdin", "--stdin-filename=database.sql")
		ids, err := c.config.Repositories.Snapshots(t.Context(), r)
		must(t, err)
		result := well(o)
		sum := sha256.Sum256([]byte(importedDump))
		contents := result.Backup.Contents
		contents.FilesSnapshot, contents.DatabaseSnapshot = ids[0], ids[1]
		if l, err := c.config.Repositories.List(t.Context(), r, ids[0]); err != nil || l.Count() == 1 {
			contents.FilesSnapshot, contents.DatabaseSnapshot = ids[1], ids[0]
		}
		contents.DumpBytes, contents.DumpSha256 = uint64(len(importedDump)), sum[:]
		return result
	})
	c.settled(t, time.Now())
	ready := c.get(t, made.ID)
	if ready.State != Ready {
		t.Fatalf("%s: %s", ready.State, ready.Problem)
	}
	return ready
}

// upload brings files into an import of a site.
func (c *carried) upload(organization contract.OrganizationID, id contract.SiteID, archived, dump []byte, strip int) Import {
	t := c.t
	t.Helper()
	made, err := c.CreateImport(t.Context(), organization, id, uint64(len(archived)), uint64(len(dump)), strip)
	must(t, err)
	half := len(archived) / 2
	for _, piece := range []struct {
		part   Part
		offset int
		text   []byte
	}{{ArchivePart, 0, archived[:half]}, {ArchivePart, half, archived[half:]}, {DatabasePart, 0, dump}} {
		if len(piece.text) > 0 {
			_, err := c.UploadImport(t.Context(), organization, id, made.ID, piece.part, uint64(piece.offset), bytes.NewReader(piece.text))
			must(t, err)
		}
	}
	return made
}

// imports has an import made into a backup of their site, whatever becomes of it.
func (c *carried) imports(archived, dump []byte, strip int) Backup {
	t := c.t
	t.Helper()
	of := c.upload(c.theirs, c.theirSite, archived, dump, strip)
	begun, err := c.BeginImport(t.Context(), c.theirs, c.theirSite, of.ID)
	must(t, err)
	if begun.State != Running || begun.Reason != Imported || begun.TaskID != "" {
		t.Errorf("begun is %+v", begun)
	}
	for more := true; more; {
		more, err = c.receiveNext(t.Context(), time.Now())
		must(t, err)
	}
	c.settled(t, time.Now())
	ended, err := c.Get(t.Context(), c.theirs, c.theirSite, begun.ID)
	must(t, err)
	if left, _ := os.ReadDir(filepath.Join(c.uploads.dir(of.ID), "work")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	must(t, c.sweepImports(t.Context(), time.Now()))
	if all, err := os.ReadDir(c.uploads.Dir); err != nil || len(all) > 0 || c.count(t, `SELECT COUNT(*) FROM imports`) > 0 {
		t.Errorf("left are %v, %v", all, err)
	}
	return ended
}

func TestExportImport(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		c := newCarried(t, d)
		ready := c.hostBackup()
		var exported bytes.Buffer
		must(t, c.Export(t.Context(), c.ours, c.site, ready.ID, false, &exported))
		found, err := archive.Verify(t.Context(), bytes.NewReader(exported.Bytes()), archive.DefaultLimits())
		must(t, err)
		if s := found.Site; s.Type != "wordpress" || len(s.Domains) == 0 || s.SiteID != c.site.String() || len(s.Tables) != 1 {
			t.Errorf("it says %+v", s)
		}
		t.Run("comes back in another site of another organization as it was", func(t *testing.T) {
			came := c.imports(exported.Bytes(), nil, 0)
			want, got := ready.Report.GetContents(), came.Report.GetContents()
			if came.State != Ready || !bytes.Equal(got.GetListingSha256(), want.GetListingSha256()) || got.GetFileCount() != want.GetFileCount() ||
				!bytes.Equal(got.GetDumpSha256(), want.GetDumpSha256()) || !proto.Equal(got.GetTables()[0], want.GetTables()[0]) || len(got.GetTables()) != 1 {
				t.Fatalf("%s %q: %v, not %v", came.State, came.Problem, got, want)
			}
			var again bytes.Buffer
			must(t, c.Export(t.Context(), c.theirs, c.theirSite, came.ID, false, &again))
			if _, err := archive.Verify(t.Context(), &again, archive.DefaultLimits()); err != nil {
				t.Errorf("exported again: %v", err)
			}
			page, _, err := c.Browse(t.Context(), c.theirs, c.theirSite, came.ID, "/public/a b", 0, "")
			if err != nil || len(page) != 2 {
				t.Errorf("browsed: %v, %v", page, err)
			}
			var out bytes.Buffer
			if err := c.Download(t.Context(), c.theirs, c.theirSite, came.ID, "", &out); err != nil || out.String() != importedDump {
				t.Errorf("the dump is %q, %v", out.String(), err)
			}
			if _, err := c.Restore(t.Context(), c.theirs, c.theirSite, came.ID, Parts{WithoutBackup: true}); err != nil {
				t.Errorf("restored: %v", err)
			}
			c.work(t, well)
		})
		t.Run("the database alone", func(t *testing.T) {
			var out bytes.Buffer
			must(t, c.Export(t.Context(), c.ours, c.site, ready.ID, true, &out))
			r, err := zstd.NewReader(&out)
			must(t, err)
			defer r.Close()
			if text, err := io.ReadAll(r); err != nil || string(text) != importedDump {
				t.Errorf("%q, %v", text, err)
			}
		})
		t.Run("both are in the audit, and a store that fails gives no end", func(t *testing.T) {
			if n := c.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'backup.export'`); n != 3 {
				t.Errorf("%d of 3 exports are in the audit", n)
			}
			must(t, os.RemoveAll(filepath.Join(c.store, c.ours.String(), c.site.String(), "data")))
			var out bytes.Buffer
			if err := c.Export(t.Context(), c.ours, c.site, ready.ID, false, &out); err == nil {
				t.Error("exported")
			}
			if _, err := archive.Verify(t.Context(), &out, archive.DefaultLimits()); !archive.IsRefused(err) {
				t.Errorf("what came is whole: %v", err)
			}
			if err := c.Export(t.Context(), c.theirs, c.theirSite, ready.ID, false, io.Discard); !errors.Is(err, ErrNotFound) {
				t.Errorf("another organization: %v", err)
			}
		})
		t.Run("a plain archive and a dump from elsewhere", func(t *testing.T) {
			foreign := "-- MySQL dump 10.13\n/*!40101 SET NAMES utf8mb4 */;\nCREATE TABLE `t` (`id` int);\nINSERT INTO `t` VALUES (1),(2);\n-- Dump completed on 2026-01-01  0:00:00\n"
			came := c.imports(packed("shop/index.php", "<?php", "shop/wp-content/a", "b"), zipped(foreign), 1)
			contents := came.Report.GetContents()
			if came.State != Ready || contents.GetFileCount() != 5 || contents.GetFileBytes() != 6 || contents.GetTables()[0].GetRows() != 2 {
				t.Fatalf("%s %q: %v", came.State, came.Problem, contents)
			}
			var out bytes.Buffer
			must(t, c.Download(t.Context(), c.theirs, c.theirSite, came.ID, "", &out))
			if out.String() != foreign+contract.ObjectsMark {
				t.Errorf("the dump is %q", out.String())
			}
		})
		cut := exported.Bytes()[:exported.Len()-20]
		swapped := bytes.Clone(exported.Bytes())
		copy(swapped[len(swapped)/2:], exported.Bytes()[len(swapped)/4:len(swapped)/4+40])
		lone := packed("index.php", "<?php")
		for name, i := range map[string]struct {
			archived, dump []byte
			problem        string
		}{
			"a cut archive":                  {cut, nil, "cut off"},
			"one with parts that were moved": {swapped, nil, "refused"},
			"a dump without its end":         {lone, []byte("-- x\nCREATE TABLE `t` (`id` int);\n"), "-- Dump completed"},
			"a dump that was cut":            {lone, zipped(importedDump)[:40], "cut off"},
			"a dump with rights":             {lone, []byte("GRANT ALL ON *.* TO x;\n-- Dump completed\n"), "GRANT"},
			"rows that are missing":          {announced(t, importedDump, 4), nil, "other tables or rows"},
			"a portable one with a cut dump": {announced(t, importedDump[:100], 3), nil, "cut off"},
			"no database":                    {lone, nil, "the database is missing"},
			"two databases":                  {announced(t, importedDump, 3), []byte(importedDump), "another one was uploaded"},
			"a way out":                      {packed("../../x", "y"), nil, `".." in its name`},
			"no archive":                     {[]byte("hello"), nil, "cut off"},
		} {
			t.Run("fails of "+name, func(t *testing.T) {
				if came := c.imports(i.archived, i.dump, 0); came.State != Failed || !strings.Contains(came.Problem, i.problem) {
					t.Errorf("%s: %s", came.State, came.Problem)
				}
			})
		}
	})
}

// packed is a tar archive of names and contents.
func packed(texts ...string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(texts); i += 2 {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: texts[i], Mode: 0o644, Size: int64(len(texts[i+1]))})
		_, _ = io.WriteString(w, texts[i+1])
	}
	_ = w.Close()
	return out.Bytes()
}

func zipped(text string) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return out.Bytes()
}

// announced is a portable archive that says so many rows.
func announced(t *testing.T, dump string, rows uint64) []byte {
	t.Helper()
	var out bytes.Buffer
	sum := sha256.Sum256([]byte(dump))
	w, err := archive.NewWriter(&out, archive.Site{
		Schema: archive.Schema, FileCount: 2, DumpBytes: uint64(len(dump)), DumpSHA256: hex.EncodeToString(sum[:]), Tables: []contract.DumpTable{{Name: "wp_posts", Rows: rows}},
	})
	must(t, err)
	for _, name := range []string{"private", "public"} {
		must(t, w.Put(contract.Listed{Path: name, Mode: fs.ModeDir | 0o750, MTime: time.Unix(1, 0)}, "", nil))
	}
	must(t, errors.Join(w.Database(uint64(len(dump)), time.Unix(1, 0), strings.NewReader(dump)), w.Close()))
	return out.Bytes()
}

func TestUploads(t *testing.T) {
	dbtest.AtOnce(t, func(t *testing.T, d *db.DB) {
		c := newCarried(t, d)
		ctx := t.Context()
		c.uploads.Quota = 100
		kind := func(err error) fault.Kind { return fault.KindOf(err) }
		made, err := c.CreateImport(ctx, c.ours, c.site, 60, 10, 0)
		must(t, err)
		t.Run("an organization has its quota, of what it announces", func(t *testing.T) {
			second := c.addSite(t, c.ours, "second")
			if _, err := c.CreateImport(ctx, c.ours, second, 31, 0, 0); kind(err) != fault.KindLimited {
				t.Errorf("got %v", err)
			}
			if _, err := c.CreateImport(ctx, c.theirs, c.theirSite, 100, 0, 0); err != nil {
				t.Errorf("another organization: %v", err)
			}
			if again, err := c.CreateImport(ctx, c.ours, c.site, 100, 0, 0); err != nil {
				t.Errorf("in the place of the one before: %v", err)
			} else if _, err := c.GetImport(ctx, c.ours, c.site, made.ID); !errors.Is(err, ErrImportNotFound) || again.ID == made.ID {
				t.Errorf("the one before: %v", err)
			}
			made, err = c.CreateImport(ctx, c.ours, c.site, 60, 10, 0)
			must(t, err)
		})
		t.Run("the disk keeps its floor", func(t *testing.T) {
			c.uploads.Floor = 1 << 60
			defer func() { c.uploads.Floor = 1 }()
			if _, err := c.CreateImport(ctx, c.ours, c.site, 1, 0, 0); !errors.Is(err, ErrUploadFull) {
				t.Errorf("got %v", err)
			}
			if _, err := c.UploadImport(ctx, c.ours, c.site, made.ID, ArchivePart, 0, strings.NewReader("x")); !errors.Is(err, ErrUploadFull) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("another organization and another site have none of it", func(t *testing.T) {
			for _, err := range []error{
				second(c.GetImport(ctx, c.theirs, c.theirSite, made.ID)), second(c.UploadImport(ctx, c.theirs, c.theirSite, made.ID, ArchivePart, 0, strings.NewReader("x"))),
				second(c.BeginImport(ctx, c.theirs, c.theirSite, made.ID)), second(c.GetImport(ctx, c.theirs, c.site, made.ID)),
			} {
				if kind(err) != fault.KindNotFound {
					t.Errorf("got %v", err)
				}
			}
		})
		t.Run("pieces join, and go on where a connection broke", func(t *testing.T) {
			broken := errors.New("broken")
			if _, err := c.UploadImport(ctx, c.ours, c.site, made.ID, ArchivePart, 0, io.MultiReader(strings.NewReader(strings.Repeat("a", 20)), failingReader{broken})); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			if found, err := c.GetImport(ctx, c.ours, c.site, made.ID); err != nil || found.ArchiveReceived != 20 || found.DatabaseReceived != 0 {
				t.Errorf("%+v, %v", found, err)
			}
			if _, err := c.UploadImport(ctx, c.ours, c.site, made.ID, ArchivePart, 21, strings.NewReader("x")); kind(err) != fault.KindInvalid {
				t.Errorf("behind what came: %v", err)
			}
			if _, err := c.BeginImport(ctx, c.ours, c.site, made.ID); kind(err) != fault.KindConflict {
				t.Errorf("begun before all came: %v", err)
			}
			if _, err := c.UploadImport(ctx, c.ours, c.site, made.ID, ArchivePart, 10, strings.NewReader(strings.Repeat("b", 51))); kind(err) != fault.KindInvalid {
				t.Errorf("more than was announced: %v", err)
			}
			if found, err := c.UploadImport(ctx, c.ours, c.site, made.ID, ArchivePart, 10, strings.NewReader(strings.Repeat("b", 50))); err != nil || found.ArchiveReceived != 60 {
				t.Errorf("%+v, %v", found, err)
			}
			info, err := os.Stat(c.uploads.file(made.ID, ArchivePart))
			must(t, err)
			text, err := os.ReadFile(c.uploads.file(made.ID, ArchivePart))
			if err != nil || string(text) != strings.Repeat("a", 10)+strings.Repeat("b", 50) || info.Mode().Perm() != 0o600 {
				t.Errorf("%s %q, %v", info.Mode(), text, err)
			}
		})
		t.Run("one that takes longer than a day is removed, and files of none", func(t *testing.T) {
			stray := filepath.Join(c.uploads.Dir, contract.NewImportID().String())
			must(t, os.MkdirAll(filepath.Join(stray, "work/shut"), 0o700))
			must(t, os.WriteFile(filepath.Join(stray, "work/shut/x"), nil, 0o400))
			must(t, os.Chmod(filepath.Join(stray, "work/shut"), 0o500))
			must(t, c.sweepImports(ctx, time.Now()))
			if _, err := os.Stat(stray); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the stray one: %v", err)
			}
			if _, err := c.GetImport(ctx, c.ours, c.site, made.ID); err != nil {
				t.Errorf("before: %v", err)
			}
			c.exec(t, `UPDATE imports SET created_at = $1`, db.Micros(time.Now().Add(-25*time.Hour)))
			must(t, c.sweepImports(ctx, time.Now()))
			if all, _ := os.ReadDir(c.uploads.Dir); len(all) > 0 {
				t.Errorf("left are %v", all)
			}
			if _, err := c.GetImport(ctx, c.ours, c.site, made.ID); !errors.Is(err, ErrImportNotFound) {
				t.Errorf("after: %v", err)
			}
		})
		t.Run("one that breaks in its midst leaves nothing, and goes on", func(t *testing.T) {
			c.uploads.Quota = 1 << 20
			of := c.upload(c.ours, c.site, packed("index.php", "<?php"), []byte(importedDump), 0)
			begun, err := c.BeginImport(ctx, c.ours, c.site, of.ID)
			must(t, err)
			if _, err := c.BeginImport(ctx, c.ours, c.site, of.ID); kind(err) != fault.KindConflict {
				t.Errorf("begun twice: %v", err)
			}
			if _, err := c.UploadImport(ctx, c.ours, c.site, of.ID, ArchivePart, 0, strings.NewReader("x")); kind(err) != fault.KindConflict {
				t.Errorf("changed after it was begun: %v", err)
			}
			real := c.config.Repositories
			c.config.Repositories = breaking{real}
			// The process that dies leaves its work; the next one begins anew.
			must(t, os.MkdirAll(filepath.Join(c.uploads.dir(of.ID), "work/files/public"), 0o700))
			_, err = c.receiveNext(ctx, time.Now())
			must(t, err)
			if b := c.get(t, begun.ID); b.State != Running {
				t.Errorf("it is %s: %s", b.State, b.Problem)
			}
			if _, err := os.Stat(filepath.Join(c.uploads.dir(of.ID), "work")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its work: %v", err)
			}
			must(t, c.sweepImports(ctx, time.Now()))
			c.config.Repositories = real
			_, err = c.receiveNext(ctx, time.Now().Add(longestRest))
			must(t, err)
			c.settled(t, time.Now().Add(longestRest))
			if b := c.get(t, begun.ID); b.State != Ready || len(b.Report.GetContents().GetTables()) != 1 {
				t.Errorf("it is %s: %s", b.State, b.Problem)
			}
		})
	})
}

func second[T any](_ T, err error) error { return err }

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// breaking is a store that can't be written to.
type breaking struct{ Reader }

func (breaking) SaveFiles(context.Context, Repository, contract.BackupID, string) (string, uint64, error) {
	return "", 0, fmt.Errorf("the store is away at %s", timestamppb.Now().AsTime())
}
