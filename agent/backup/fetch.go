package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
)

const mariadbClient = "/usr/bin/mariadb"

// fetchFor bounds a job for which its caller has set no end.
const fetchFor = 6 * time.Hour

func within(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return max(time.Until(end), time.Second)
	}
	return fetchFor
}

// FetchOrder says what is to be fetched of a backup: files, the database, or both,
// which then come at the same time.
type FetchOrder struct {
	Files string // snapshot; empty for none of them
	Dir   string // the site's staging place, where public and private are, empty, and belong to the site's user

	Database string         // snapshot; empty for none
	Import   mariadb.Import // where its tables go
}

// Fetch writes the files below their place, modes and times as they were, and
// carries out the tables of the dump, as the account of the import and nobody else.
// It gives back the rest of the dump.
func (m *Manager) Fetch(ctx context.Context, site task.Site, o FetchOrder, progress func(Progress)) (Fetched, error) {
	order := fetchOrder{Files: o.Files, Dir: o.Dir, Database: o.Database}
	if o.Database != "" {
		order.Schema, order.Options = o.Import.Schema.String(), o.Import.OptionFile()
	}
	var f Fetched
	err := m.Do(ctx, site, Work{Job: "fetch", Timeout: within(ctx), Order: order}, progress, &f)
	return f, err
}

type fetchOrder struct {
	Files    string `json:"files,omitempty"`
	Dir      string `json:"dir,omitempty"`
	Database string `json:"database,omitempty"`
	Schema   string `json:"schema,omitempty"`
	Options  []byte `json:"options,omitempty"` // for the client; its password is void once the job is over
}

func fetch(ctx context.Context, s *Inside, text json.RawMessage) (any, error) {
	var o fetchOrder
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, err
	}
	switch {
	case o.Files != "" && filepath.Dir(o.Dir) != s.Shell:
		return nil, errors.New("the place for the files is none")
	case o.Database != "" && o.Schema != s.Handle.ScratchDB().String():
		return nil, errors.New("the schema for the database is none")
	}
	// One after the other: both at once took as long, and more memory. The server is
	// what tables wait for, and the files can be looked at meanwhile.
	if o.Files != "" {
		if err := s.WriteFiles(ctx, o.Files, o.Dir); err != nil {
			return nil, fmt.Errorf("files: %w", err)
		}
	}
	if o.Database == "" {
		return &Fetched{}, nil
	}
	var files *tree.Found
	var beside sync.WaitGroup
	if o.Files != "" {
		beside.Go(func() { files, _ = tree.Find(ctx, o.Dir) }) // else whoever wants to know looks himself
	}
	defer beside.Wait()
	// The client is told what a stranger wrote: nothing but SQL, and as an account
	// that reaches the scratch schema alone.
	f, err := s.ReadDatabase(ctx, o.Database, run.Cmd{
		Path: mariadbClient, Secret: string(o.Options), Timeout: s.Timeout,
		Args: []string{"--defaults-file=" + run.SecretFile, "--sandbox", "--batch", "--max-allowed-packet=1G", "--database=" + o.Schema},
	})
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	beside.Wait()
	f.Files = files
	return &f, nil
}

// restoreLabel is that of files on their way back.
const restoreLabel = filesLabel + "restore"

// WriteFiles writes what a snapshot of files holds below a directory.
func (s *Inside) WriteFiles(ctx context.Context, snapshot, dir string) error {
	if !snapshotID.MatchString(snapshot) {
		return errNoSnapshot
	}
	defer s.tellRead("files")()
	if _, err := s.Restic(restoreLabel, "restore", "--no-lock", "--target="+dir, "--", snapshot).Run(ctx); err != nil {
		return resticError(err)
	}
	return nil
}

var errNoSnapshot = errors.New("the snapshot is none")

// Fetched is what was read of a database's snapshot, and seen of files on the way.
type Fetched struct {
	Files   *tree.Found `json:"files,omitempty"` // once they were written; nil where that was not looked at
	SHA256  []byte      `json:"sha256"`          // of the whole dump
	Bytes   uint64      `json:"bytes"`           // of the whole dump
	Objects []byte      `json:"objects"`         // SQL behind the tables: views, triggers and routines
}

// ReadDatabase gives the tables of the dump in a snapshot to a client of a server,
// and the caller the rest.
func (s *Inside) ReadDatabase(ctx context.Context, snapshot string, client run.Cmd) (f Fetched, err error) {
	if !snapshotID.MatchString(snapshot) {
		return f, errNoSnapshot
	}
	r, w, err := os.Pipe()
	if err != nil {
		return f, err
	}
	defer r.Close() // the client has its own
	defer w.Close() // closed below where that counts
	client.Stdin = r
	working, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() {
		_, err := client.Run(working)
		_ = r.Close() // a dump that nobody reads must not wait for ever
		ran <- err
	}()
	split := &splitter{tables: w}
	whole := &measured{to: split, sum: sha256.New(), tell: func(n uint64) { s.Tell(Progress{What: "database", Done: n}) }}
	read := s.Restic("database", "dump", "--no-lock", "--", snapshot, "/"+DatabaseFile)
	out := &watchedWriter{to: whole}
	read.Stdout = out
	_, err = read.Run(ctx)
	if err == nil {
		err = errors.Join(split.end(), w.Close())
	}
	if err != nil {
		if !errors.Is(out.err, syscall.EPIPE) {
			stop() // half a dump is of no use
		}
		if ran := <-ran; errors.Is(out.err, syscall.EPIPE) && ran != nil {
			return f, clientError(ran) // which is why nobody read on
		}
		return f, resticError(err)
	}
	if err := <-ran; err != nil {
		return f, clientError(err)
	}
	return Fetched{SHA256: whole.sum.Sum(nil), Bytes: whole.n, Objects: split.objects.Bytes()}, nil
}

// clientError is what the server said to a dump.
func clientError(err error) error {
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Cause == nil && exit.Stderr != "" {
		return fmt.Errorf("the server does not take the tables: %s", exit.Stderr)
	}
	return err
}

// splitter parts a dump at its mark.
type splitter struct {
	tables  io.Writer
	objects bytes.Buffer
	held    []byte // may be the beginning of the mark
	found   bool
}

const mark = "\n" + contract.ObjectsMark

func (s *splitter) Write(p []byte) (int, error) {
	if s.found {
		return len(p), s.keep(p)
	}
	s.held = append(s.held, p...)
	if i := bytes.Index(s.held, []byte(mark)); i >= 0 {
		s.found = true
		if _, err := s.tables.Write(s.held[:i+1]); err != nil {
			return 0, err
		}
		return len(p), s.keep(s.held[i+len(mark):])
	}
	over := max(len(s.held)-len(mark)+1, 0)
	if _, err := s.tables.Write(s.held[:over]); err != nil {
		return 0, err
	}
	s.held = append(s.held[:0], s.held[over:]...)
	return len(p), nil
}

func (s *splitter) keep(p []byte) error {
	if s.objects.Len()+len(p) > contract.MaxObjects {
		return errObjects
	}
	s.objects.Write(p)
	return nil
}

var errObjects = fmt.Errorf("views, triggers and routines take more than %s", size(contract.MaxObjects))

// end says whether there was a mark.
func (s *splitter) end() error {
	if !s.found {
		return contract.ErrDumpCut
	}
	return nil
}

// tellAfter is how often people hear of what is read.
const tellAfter = time.Second

// tellRead tells how much of files has come from the repository, until it is stopped.
func (s *Inside) tellRead(what string) (stop func()) {
	var told sync.WaitGroup
	end := make(chan struct{})
	told.Go(func() {
		tick := time.NewTicker(tellAfter)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				s.Tell(Progress{What: what, Done: s.read.Load()})
			}
		}
	})
	return func() { close(end); told.Wait() }
}

// counted counts what is read of a body.
type counted struct {
	io.ReadCloser
	s *Inside
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.s.read.Add(uint64(n))
	return n, err
}
