package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"reflect"
	"slices"
	"sync"

	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

// Table is one of a dump.
type Table = contract.DumpTable

var (
	// common are the options of each part. What is read is one transaction's; a
	// comment with the time would make two dumps of the same differ.
	common = []string{
		"--single-transaction", "--quick", "--skip-lock-tables", "--skip-dump-date", "--hex-blob", "--no-tablespaces",
		"--max-allowed-packet=1G", // the client's own limit is below the server's
	}
	tablesPart   = []string{"--skip-triggers"}
	routinesPart = []string{"--no-data", "--no-create-info", "--triggers", "--routines"}
	viewsPart    = []string{"--no-data", "--skip-triggers"}
)

// dump writes a site's schema: the tables, the mark, triggers and routines, and
// the views. It fails unless each part was written to its end, and the tables are
// those that the server had before and has after it; whoever reads it must not see
// an end before.
func dump(ctx context.Context, s *Inside, to io.Writer, begun chan struct{}) (*Dumped, error) {
	begin := sync.OnceFunc(func() { close(begun) })
	before, err := names(ctx, s)
	if err != nil {
		return nil, err
	}
	out := &measured{to: to, sum: sha256.New(), tell: func(n uint64) { s.Tell(Progress{What: "database", Done: n}) }}
	tables := &contract.DumpScanner{Begin: begin}
	if err := part(ctx, s, tablesPart, ignored(s, before.Views), nil, io.MultiWriter(tables, out)); err != nil {
		return nil, err
	}
	begin() // of an empty one, too
	if err := tables.End(); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(out, contract.ObjectsMark); err != nil {
		return nil, err
	}
	behind := out.n
	if err := whole(out, func(to io.Writer) error {
		return part(ctx, s, routinesPart, ignored(s, before.Views), nil, to)
	}); err != nil {
		return nil, err
	}
	if len(before.Views) > 0 {
		if err := whole(out, func(to io.Writer) error { return part(ctx, s, viewsPart, nil, before.Views, to) }); err != nil {
			return nil, err
		}
	}
	if out.n-behind > contract.MaxObjects {
		return nil, task.Permanent(errObjects)
	}
	after, err := names(ctx, s)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(before, after) {
		return nil, errors.New("tables, views, triggers or routines were made or removed while they were read")
	}
	if err := same(before.Tables, tables.Tables()); err != nil {
		return nil, err
	}
	return &Dumped{SHA256: out.sum.Sum(nil), Bytes: out.n, Tables: tables.Tables()}, nil
}

func names(ctx context.Context, s *Inside) (mariadb.Names, error) {
	return mariadb.NamesIn(ctx, s.MariaDB, s.Handle.UnixUser(), s.Handle.DBName())
}

// ignored leaves views out.
func ignored(s *Inside, views []string) []string {
	var out []string
	for _, v := range views {
		out = append(out, "--ignore-table="+s.Handle.DBName().String()+"."+v)
	}
	return out
}

func part(ctx context.Context, s *Inside, options, more, names []string, to io.Writer) error {
	cmd := s.Dump(slices.Concat(common, options, more), names)
	to = &watchedWriter{to: to}
	cmd.Stdout = to
	_, err := cmd.Run(ctx)
	if failed := to.(*watchedWriter).err; failed != nil { // of which mariadb-dump knows only that nobody listens
		return failed
	}
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Cause == nil && exit.Stderr != "" {
		return errors.New(exit.Stderr)
	}
	return err
}

// watchedWriter remembers why writing failed.
type watchedWriter struct {
	to  io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil && w.err == nil {
		w.err = err
	}
	return n, err
}

// whole lets a part through that ends as one does.
func whole(out io.Writer, write func(io.Writer) error) error {
	t := &ending{to: out}
	if err := write(t); err != nil {
		return err
	}
	if string(t.last) != contract.DumpCompleted {
		return contract.ErrDumpCut
	}
	return nil
}

// same compares the tables of the server with those of the dump, however both
// are sorted.
func same(server []string, dumped []Table) error {
	names := make([]string, len(dumped))
	for i, t := range dumped {
		names[i] = t.Name
	}
	server = slices.Clone(server)
	slices.Sort(server)
	slices.Sort(names)
	if !slices.Equal(server, names) {
		return fmt.Errorf("the dump has %d tables, and the server %d that are not the same", len(names), len(server))
	}
	return nil
}

// ending keeps the last bytes that were written.
type ending struct {
	to   io.Writer
	last []byte
}

func (e *ending) Write(p []byte) (int, error) {
	n, err := e.to.Write(p)
	e.last = append(e.last, p[max(0, n-len(contract.DumpCompleted)):n]...)
	if over := len(e.last) - len(contract.DumpCompleted); over > 0 {
		e.last = append(e.last[:0], e.last[over:]...)
	}
	return n, err
}

// measured counts and hashes what passes.
type measured struct {
	to   io.Writer
	sum  hash.Hash
	n    uint64
	tell func(uint64)
	told uint64
}

// tellEvery is how many bytes of a dump pass between two words of it.
const tellEvery = 16 << 20

func (m *measured) Write(p []byte) (int, error) {
	n, err := m.to.Write(p)
	m.n += uint64(n)
	_, _ = m.sum.Write(p[:n]) // never fails
	if m.n-m.told >= tellEvery {
		m.told = m.n
		m.tell(m.n)
	}
	return n, err
}
