package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
)

// snapshotID is restic's name of a snapshot: the hash of what it holds.
var snapshotID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ContentsOrder is the order of the job "backup".
type ContentsOrder struct {
	Backup   string `json:"backup"`   // its id, as a tag of the snapshots
	Database bool   `json:"database"` // the site has one
}

// Contents is what it makes.
type Contents struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Files    Snapshot  `json:"files"`
	Links    Links     `json:"links"`
	Database *Dumped   `json:"database,omitempty"`
}

// Links is what the site's links were like when its files were read.
type Links struct {
	SHA256 []byte   `json:"sha256,omitempty"` // nil where they changed meanwhile
	Unkept []string `json:"unkept,omitempty"` // paths of the first that a restore may make others of
	Count  uint64   `json:"count,omitempty"`  // of all of these
}

// Snapshot is one that is in the repository.
type Snapshot struct {
	ID    string `json:"id"`
	Added uint64 `json:"added"` // bytes that came into the repository
}

// Dumped is the snapshot of a dump.
type Dumped struct {
	Snapshot
	SHA256 []byte  `json:"sha256"`
	Bytes  uint64  `json:"bytes"`
	Tables []Table `json:"tables"`
}

// DatabaseFile is the name of the dump in its snapshot.
const DatabaseFile = "database.sql"

// host is the name of all hosts: restic compares with the newest snapshot of the
// same name, also of a site that came from another host.
const host = "chom"

// backup makes the two snapshots. The dump's transaction begins first: the moment
// that it shows is that of the backup, and files are read from then on.
func backup(ctx context.Context, s *Inside, text json.RawMessage) (any, error) {
	var o ContentsOrder
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	c := &Contents{Start: time.Now().UTC()}
	begun := make(chan struct{})
	both, ctx := errgroup.WithContext(ctx)
	if o.Database {
		both.Go(func() (err error) {
			if c.Database, err = database(ctx, s, o.Backup, begun); err != nil {
				return fmt.Errorf("database: %w", err)
			}
			return nil
		})
	} else {
		close(begun)
	}
	both.Go(func() (err error) {
		select {
		case <-begun:
		case <-ctx.Done():
			return ctx.Err()
		}
		before, err := tree.Links(ctx, s.Shell)
		if err != nil {
			return err
		}
		if c.Files, err = files(ctx, s, o.Backup); err != nil {
			return fmt.Errorf("files: %w", err)
		}
		after, err := tree.Links(ctx, s.Shell)
		if err != nil {
			return err
		}
		c.Links = linksOf(before, after)
		return nil
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	c.End = time.Now().UTC()
	return c, nil
}

// unkeptShown is how many of the links that may not come back are named.
const unkeptShown = 20

// linksOf is what can be said of links that were looked at twice.
func linksOf(before, after *contract.Links) Links {
	var l Links
	if sum := before.SHA256(); bytes.Equal(sum, after.SHA256()) {
		l.SHA256 = sum
	}
	unkept := after.Unkept()
	l.Count = uint64(len(unkept))
	for _, path := range unkept[:min(len(unkept), unkeptShown)] {
		l.Unkept = append(l.Unkept, task.Line(path, 200))
	}
	return l
}

// readings is how often files are read until each of them stood still once: those
// that are replaced while restic looks at them are not in its snapshot.
const readings = 3

// filesLabel begins the labels of the runs of restic that do, and of those that write files back: both read directories, one after
// the other.
const filesLabel = "files-"

// files reads what the site has. A file that is gone when its turn comes was
// deleted meanwhile, which is no failure; one that can't be read is.
func files(ctx context.Context, s *Inside, backup string) (Snapshot, error) {
	for try := 1; ; try++ {
		w, err := reading(ctx, s, backup, fmt.Sprintf("%s%d", filesLabel, try))
		switch {
		case err != nil:
			return Snapshot{}, err
		case len(w.unreadable) > 0:
			return Snapshot{}, fmt.Errorf("what the site's user cannot read is in no backup: %s", firstOf(w.unreadable))
		case len(w.moving) > 0 && try == readings:
			return Snapshot{}, fmt.Errorf("these files were changed whenever they were read: %s", firstOf(w.moving))
		case len(w.moving) == 0:
			return w.snapshot(s.Saved(fmt.Sprintf("%s%d", filesLabel, try)))
		}
	}
}

// reading is one run of restic over the files.
func reading(ctx context.Context, s *Inside, backup, label string) (*watched, error) {
	w := &watched{shell: s.Shell}
	cmd := s.Restic(label, "backup", "--host="+host, "--tag="+backup, "--one-file-system", "--", "public", "private")
	cmd.Stdout = &lineWriter{line: func(b []byte) {
		if p, ok := w.read(b); ok {
			p.What = "files"
			s.Tell(p)
		}
	}}
	cmd.Stderr = &lineWriter{line: func(b []byte) { w.read(b) }}
	_, err := cmd.Run(ctx)
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Code == incomplete && len(w.unreadable)+len(w.moving)+w.vanished > 0 {
		return w, nil // it has said why
	}
	return w, resticError(err)
}

// incomplete is how restic ends when it could not read all of it.
const incomplete = 3

// watched is what restic has said of a backup.
type watched struct {
	shell      string
	mu         sync.Mutex // it has two outputs
	short      string     // id of the snapshot; newer releases give all of it
	added      uint64
	unreadable []string // names
	moving     []string // of what was there and was missed all the same
	vanished   int
}

// read takes a line, and gives progress if that is what it was.
func (w *watched) read(line []byte) (p Progress, ok bool) {
	var m struct {
		Type     string          `json:"message_type"`
		Done     uint64          `json:"bytes_done"`
		Total    uint64          `json:"total_bytes"`
		Elapsed  uint64          `json:"seconds_elapsed"`
		Added    uint64          `json:"data_added"`
		Packed   *uint64         `json:"data_added_packed"` // of newer releases
		Snapshot string          `json:"snapshot_id"`
		Error    json.RawMessage `json:"error"`
		Item     string          `json:"item"`
	}
	if json.Unmarshal(line, &m) != nil {
		return Progress{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Type {
	case "status":
		return Progress{Done: m.Done, Total: m.Total}, m.Elapsed > 0
	case "summary":
		w.short, w.added = m.Snapshot, m.Added
		if m.Packed != nil {
			w.added = *m.Packed
		}
	case "error":
		name := strings.TrimPrefix(m.Item, w.shell+"/")
		list := w.judge(name, m.Error)
		if list == nil {
			w.vanished++
		} else if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	return Progress{}, false
}

// judge finds why restic has not got a file: nil means that it is gone. restic says
// it of some errors alone, so that most have to be looked at.
func (w *watched) judge(name string, text json.RawMessage) *[]string {
	var e struct {
		Number  syscall.Errno `json:"Err"`     // of restic 0.14
		Message string        `json:"message"` // of newer releases
	}
	if json.Unmarshal(text, &e) == nil && (e.Number == syscall.ENOENT || strings.HasSuffix(e.Message, syscall.ENOENT.Error())) {
		return nil
	}
	// The site's user looks at his own files: what they are is his affair.
	f, err := os.OpenFile(filepath.Join(w.shell, name), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &w.unreadable
	case err == nil:
		_ = f.Close() // read-only
	}
	return &w.moving
}

// firstOf names the first few.
func firstOf(names []string) string {
	const shown = 5
	quoted := slices.Clone(names[:min(len(names), shown)])
	for i, name := range quoted {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	text := strings.Join(quoted, ", ")
	if n := len(names) - shown; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// snapshot gives the one that restic made, of which it may have told the beginning
// of its name alone.
func (w *watched) snapshot(saved []string) (Snapshot, error) {
	if len(saved) != 1 || !snapshotID.MatchString(saved[0]) || w.short == "" || !strings.HasPrefix(saved[0], w.short) {
		return Snapshot{}, fmt.Errorf("restic speaks of snapshot %q, and made %d", w.short, len(saved))
	}
	return Snapshot{ID: saved[0], Added: w.added}, nil
}

// database makes a snapshot of the dump while it is read. restic is let to its end
// only once the dump is known to be whole; begun is closed when its transaction has
// begun.
func database(ctx context.Context, s *Inside, backup string, begun chan struct{}) (*Dumped, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close() // restic has its own
	defer w.Close() // closed below where that counts
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var said watched
	cmd := s.Restic("database", "backup", "--host="+host, "--tag="+backup, "--stdin", "--stdin-filename="+DatabaseFile)
	cmd.Stdin = r
	cmd.Stdout = &lineWriter{line: func(b []byte) { said.read(b) }}
	ran := make(chan error, 1)
	go func() {
		_, err := cmd.Run(reading)
		_ = r.Close() // a dump that nobody reads must not wait for ever
		ran <- err
	}()
	d, err := dump(ctx, s, w, begun)
	if err != nil {
		stop() // before it sees an end
		if ran := <-ran; errors.Is(err, syscall.EPIPE) && !errors.Is(ran, context.Canceled) {
			return nil, resticError(ran) // which is why nobody read on
		}
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := <-ran; err != nil {
		return nil, resticError(err)
	}
	d.Snapshot, err = said.snapshot(s.Saved("database"))
	return d, err
}

func (c *Contents) String() string {
	text := size(c.Files.Added) + " of files are new"
	if c.Database != nil {
		text += fmt.Sprintf(", and %s of a database with %d tables", size(c.Database.Added), len(c.Database.Tables))
	}
	if c.Links.Count > 0 {
		text += fmt.Sprintf("; %d links have targets that are not UTF-8, and may come back as other ones: %s", c.Links.Count, firstOf(c.Links.Unkept))
	}
	return text
}
