// Package restic runs the restic program for the control plane itself: it checks a site's repository, reads what is in it, and
// removes what is no longer to be kept. It decides none of that. Hosts make the backups; they run the program by themselves.
//
// Of all packages of the control plane only this one and secret/keycommand execute anything. The program's path comes from a
// fixed list or the configuration. What a repository holds was written by its host, which is not trusted: the program reads it
// without a shell, with an empty environment, with bounds for time, memory and output, and ends with all that it started.
//
//	program --HTTP--> 127.0.0.1:port/<unguessable>/ --rights of the call--> store
//
// The repository's place (whose path is its only protection on this machine) and its key come by inherited descriptors: neither
// is in the arguments, the environment, or a file.
package restic

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
	"chom.dev/proto/repository"
)

// places are where Debian and people put the program.
var places = []string{"/usr/bin/restic", "/usr/local/bin/restic"}

const (
	// checkFor is for the largest repositories, whose data is read too.
	checkFor = 6 * time.Hour
	// readFor is for a list or a dump.
	readFor = 2 * time.Hour
	// unlockFor is for a few small objects.
	unlockFor = 2 * time.Minute
	// maxMemory keeps a hostile repository from taking the control plane's. The index of ten million blobs takes 1 GB.
	maxMemory = 2 << 30
	// maxWords is as much as is kept of what the program prints.
	maxWords = 16 << 10
	// maxIDs is how many snapshots are forgotten at once: arguments have a limit.
	maxIDs = 500
)

var (
	// ErrDamaged says that something in a repository is missing, or not what was written: Check finds all of it, others what they need.
	ErrDamaged = errors.New("the repository is damaged")
	// ErrNoSnapshot says that a snapshot is not there.
	ErrNoSnapshot = errors.New("the repository has no such snapshot")
	// ErrLocked says that somebody else works with the repository.
	ErrLocked = errors.New("somebody works with the repository")
)

// Program runs restic over a store. It is safe for concurrent use.
type Program struct {
	path   string
	store  store.Store
	server *store.Server
}

// New finds the program: the configured path, or where there is none the usual places.
func New(configured string, s store.Store, log *slog.Logger) (*Program, error) {
	path, err := find(configured)
	if err != nil {
		return nil, fmt.Errorf("find restic: %w", err)
	}
	return &Program{path: path, store: s, server: store.NewServer(s, nil, log)}, nil
}

func find(configured string) (string, error) {
	if configured != "" {
		return configured, usable(configured)
	}
	for _, path := range places {
		err := usable(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("it is not installed: none of %s is there", strings.Join(places, ", "))
}

// usable refuses a program that others can change.
func usable(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s must be an absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s can be changed by others (mode %s)", path, info.Mode())
	}
	return nil
}

// Check reads whether all that the snapshots name is there, and with a subset also whether it is what was written: "1/50" of
// the data, "5%", "200M", empty for none. What is wrong is ErrDamaged with the program's words; any other error says nothing
// of the repository.
func (p *Program) Check(ctx context.Context, r store.Repository, key secret.Secret, subset string) error {
	args := []string{"check", "--no-lock"}
	if subset != "" {
		if strings.Trim(subset, "0123456789./%KMGT") != "" {
			return fmt.Errorf("check the repository %s: %q is no subset", r, subset)
		}
		args = append(args, "--read-data-subset="+subset)
	}
	return p.run(ctx, run{what: "check", repository: r, key: key, rights: store.ReadOnly, within: checkFor, args: args, failed: ErrDamaged, tellAll: true})
}

// List gives what is in a snapshot of a site's files, in the program's order: all of it, or where a directory is named that and what
// is right in it. It ends at each's first error.
func (p *Program) List(ctx context.Context, r store.Repository, key secret.Secret, snapshot, dir string, each func(contract.Listed) error) error {
	if err := isID(snapshot); err != nil {
		return err
	}
	args := []string{"ls", "--json", "--no-lock", snapshot}
	if dir != "" {
		if !isPath(dir) {
			return fmt.Errorf("%q is no path in a snapshot", dir)
		}
		args = append(args, dir)
	}
	var heard counted
	err := p.run(ctx, run{
		what: "list", repository: r, key: key, rights: store.ReadOnly, within: readFor, args: args,
		read: func(out io.Reader) error { return contract.ReadListed(io.TeeReader(out, &heard), each) },
	})
	if err == nil && heard == 0 {
		// Some releases only warn of it, and succeed.
		return fmt.Errorf("list the repository %s: %w", r, ErrNoSnapshot)
	}
	return err
}

// counted is how many bytes were written to it.
type counted int64

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}

// Snapshot is one of a repository.
type Snapshot struct {
	ID    string
	Time  time.Time
	Paths []string
	Tags  []string
	// Tree is a hash over all that is in it, names, modes and times included: the same in each repository.
	Tree string
}

// Snapshots gives those that there are.
func (p *Program) Snapshots(ctx context.Context, r store.Repository, key secret.Secret) ([]Snapshot, error) {
	var found []Snapshot
	err := p.run(ctx, run{
		what: "list the snapshots of", repository: r, key: key, rights: store.ReadOnly, within: readFor, args: []string{"snapshots", "--json", "--no-lock"},
		read: func(out io.Reader) error { return json.NewDecoder(out).Decode(&found) },
	})
	return found, err
}

// isPath keeps options, and what the program would read as another path, from the arguments.
func isPath(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsRune(path, 0) && filepath.Clean(path) == path
}

// Dump writes one file of a snapshot, a directory as a tar archive. Where it fails, what was written is not the whole.
func (p *Program) Dump(ctx context.Context, r store.Repository, key secret.Secret, snapshot, path string, w io.Writer) error {
	if err := isID(snapshot); err != nil {
		return err
	}
	if !isPath(path) {
		return fmt.Errorf("%q is no path in a snapshot", path)
	}
	return p.run(ctx, run{
		what: "read a file of", repository: r, key: key, rights: store.ReadOnly, within: readFor, args: []string{"dump", "--no-lock", snapshot, path},
		read: func(out io.Reader) error {
			_, err := io.Copy(w, out)
			return err
		},
	})
}

// Init makes a repository, the same one that its host makes. Done again it changes nothing.
func (p *Program) Init(ctx context.Context, r store.Repository, key secret.Secret) error {
	first, err := repository.Begin(string(key.Reveal()))
	if err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	name, err := store.ParseName(store.Keys, first.KeyName())
	if err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	put := func(name store.Name, content []byte) error {
		return p.store.Put(ctx, r, name, int64(len(content)), bytes.NewReader(content))
	}
	if err := put(name, first.Key); err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	if err := put(store.ConfigName(), first.Config); err != nil { // with it the repository is there
		return fmt.Errorf("make the repository: %w", err)
	}
	return nil
}

// Copy brings snapshots from a repository into another one, where they get other ids. What is there already is not copied again, so
// that it can be interrupted, and called again. What is wrong is ErrDamaged with the program's words: of the former, if not of both.
func (p *Program) Copy(ctx context.Context, from store.Repository, fromKey secret.Secret, to store.Repository, key secret.Secret, snapshots ...string) error {
	for _, id := range snapshots {
		if err := isID(id); err != nil {
			return err
		}
	}
	return p.run(ctx, run{
		what: "copy to", repository: to, key: key, rights: store.AppendOnly, within: checkFor,
		from: &source{from, fromKey}, args: append([]string{"copy"}, snapshots...), failed: ErrDamaged,
	})
}

// Forget removes those of some snapshots that are there. Their data stays until Prune. It can be interrupted, and called again. It
// says ErrLocked while somebody else works with the repository.
func (p *Program) Forget(ctx context.Context, r store.Repository, key secret.Secret, snapshots ...string) error {
	for _, id := range snapshots {
		if err := isID(id); err != nil {
			return err
		}
	}
	there, err := p.Snapshots(ctx, r, key)
	if err != nil {
		return err
	}
	snapshots = slices.DeleteFunc(slices.Clone(snapshots), func(id string) bool {
		return !slices.ContainsFunc(there, func(s Snapshot) bool { return s.ID == id })
	})
	for some := range slices.Chunk(snapshots, maxIDs) {
		if err := p.run(ctx, run{what: "forget snapshots of", repository: r, key: key, rights: store.Full, within: checkFor, args: append([]string{"forget"}, some...)}); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes all data that no snapshot needs. It can be interrupted, and called again. It says ErrLocked while somebody else works
// with the repository.
func (p *Program) Prune(ctx context.Context, r store.Repository, key secret.Secret) error {
	return p.run(ctx, run{what: "prune", repository: r, key: key, rights: store.Full, within: checkFor, args: []string{"prune"}})
}

// deadAfter is from when on a lock is one of somebody who died: restic renews its locks every five minutes, and a host makes no backup
// that takes so long. It is by the host's clock, which may be wrong.
const deadAfter = 24 * time.Hour

// Unlock removes locks of those who died: those for one alone, which only the control plane makes, and those that nobody has renewed
// for a day. The caller has made sure that nobody of the control plane works with the repository.
func (p *Program) Unlock(ctx context.Context, r store.Repository, key secret.Secret, now time.Time) error {
	locks, err := p.store.List(ctx, r, store.Locks)
	if err != nil {
		return fmt.Errorf("unlock the repository %s: %w", r, err)
	}
	for _, l := range locks {
		var lock struct {
			Time      time.Time
			Exclusive bool
		}
		err := p.run(ctx, run{
			what: "read a lock of", repository: r, key: key, rights: store.ReadOnly, within: unlockFor, args: []string{"cat", "lock", l.Name.Text(), "--no-lock"},
			read: func(out io.Reader) error { return json.NewDecoder(io.LimitReader(out, maxWords)).Decode(&lock) },
		})
		if err != nil {
			if _, gone := p.store.Stat(ctx, r, l.Name); errors.Is(gone, store.ErrNotFound) {
				continue // it was renewed, which is a lock of another name
			}
			return err
		}
		if !lock.Exclusive && now.Sub(lock.Time) < deadAfter {
			continue
		}
		if err := p.store.Delete(ctx, r, l.Name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("unlock the repository %s: %w", r, err)
		}
	}
	return nil
}

// isID keeps what is no id, and above all no option, from the arguments.
func isID(id string) error {
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is no snapshot's id", id)
	}
	return nil
}

// run is one run of the program.
type run struct {
	what       string // for errors
	repository store.Repository
	key        secret.Secret
	rights     store.Rights
	within     time.Duration
	args       []string
	read       func(io.Reader) error // of what it prints; nil for nobody
	failed     error                 // what exit status 1 means
	tellAll    bool                  // of all that is damaged, instead of ending where data is missing
	from       *source               // of what is copied; nil for nothing
	dir        string                // where it runs; empty is /
	stdin      io.Reader             // nil for nothing
}

// source is a repository that is copied from. The program takes a lock there.
type source struct {
	repository store.Repository
	key        secret.Secret
}

func (p *Program) run(ctx context.Context, r run) error {
	if r.repository.Organization == (contract.OrganizationID{}) || r.repository.Site == (contract.SiteID{}) {
		return fmt.Errorf("%s a repository that has no owner or no site", r.what)
	}
	ctx, cancel := context.WithTimeout(ctx, r.within)
	defer cancel()
	running, end := context.WithCancel(ctx)
	defer end()
	if err := p.through(ctx, running, r, end); err != nil {
		return fmt.Errorf("%s the repository %s: %w", r.what, r.repository, err)
	}
	return nil
}

// through opens the ways to the repositories, runs the program, and closes them.
func (p *Program) through(ctx, running context.Context, r run, end func()) error {
	failed := &broken{end: end, tellAll: r.tellAll}
	to, err := p.open(r.repository, r.rights, failed)
	if err != nil {
		return err
	}
	defer to.close()
	if r.from == nil {
		return p.execute(ctx, running, r, to, nil)
	}
	from, err := p.open(r.from.repository, store.AppendOnly, failed)
	if err != nil {
		return err
	}
	defer from.close()
	return p.execute(ctx, running, r, to, from)
}

// door is where the program finds the repository.
type door struct {
	url    string
	server *http.Server
	failed *broken // the store, not the repository
}

// open lets whoever knows its path reach the repository, for as long as the program runs.
func (p *Program) open(r store.Repository, rights store.Rights, failed *broken) (*door, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	path := "/" + rand.Text() + rand.Text()
	d := &door{url: "rest:http://" + l.Addr().String() + path + "/", failed: failed}
	repository := http.StripPrefix(path, p.server.Handler(r, rights))
	d.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			got := req.URL.Path[:min(len(req.URL.Path), len(path))]
			if subtle.ConstantTimeCompare([]byte(got), []byte(path)) != 1 {
				http.Error(w, "not found", http.StatusNotFound)
				return
			}
			data := req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path[len(path):], "/data/")
			repository.ServeHTTP(&watched{w, d.failed, data}, req)
		}),
	}
	go func() { _ = d.server.Serve(l) }() // until close, which ends it
	return d, nil
}

func (d *door) close() { _ = d.server.Close() }

// execute runs the program until running ends, which ctx's end brings about, and the store's failures. From is nil where nothing is
// copied.
func (p *Program) execute(ctx, running context.Context, r run, d, from *door) error {
	args := []string{"--no-cache", "--password-file", "/dev/fd/3", "--repository-file", "/dev/fd/4"}
	handedOver := [][]byte{r.key.Reveal(), []byte(d.url)}
	if from != nil {
		r.args = slices.Insert(slices.Clone(r.args), 1, "--from-password-file", "/dev/fd/5", "--from-repository-file", "/dev/fd/6")
		handedOver = append(handedOver, r.from.key.Reveal(), []byte(from.url))
	}
	cmd := exec.CommandContext(running, p.path, append(args, r.args...)...)
	cmd.Env = []string{} // nil would be ours
	cmd.Dir, cmd.Stdin = cmp.Or(r.dir, "/"), r.stdin
	words := &tail{}
	cmd.Stderr = words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	for _, text := range handedOver {
		f, err := handed(text)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if r.read == nil {
		cmd.Stdout = words
		if err := p.start(cmd); err != nil {
			return err
		}
		return explain(ctx, r, d, from, words, cmd.Wait())
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.start(cmd); err != nil {
		return err
	}
	read := r.read(out)
	if read != nil {
		_ = cmd.Cancel() // nobody reads the rest; that it has ended is fine
	} else if _, err := io.Copy(io.Discard, out); err != nil {
		read = err
	}
	ended := cmd.Wait()
	if read != nil && running.Err() == nil {
		if ended != nil && words.said() {
			return errors.Join(read, explain(ctx, r, d, from, words, ended)) // who broke it off first is not known
		}
		return read
	}
	return explain(ctx, r, d, from, words, ended)
}

// start starts the program with less memory than it might want.
func (p *Program) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.path, err)
	}
	limit := &unix.Rlimit{Cur: maxMemory, Max: maxMemory}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		_ = cmd.Cancel() // it may have ended
		return errors.Join(fmt.Errorf("bound the memory of %s: %w", p.path, err), cmd.Wait())
	}
	return nil
}

// handed is a descriptor from which a short text is read, once.
func handed(text []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text) // far less than what a pipe holds
	if err := errors.Join(err, w.Close()); err != nil {
		_ = r.Close() // there is one error already
		return nil, err
	}
	return r, nil
}

// explain says in words how the program ended.
func explain(ctx context.Context, r run, d, from *door, words *tail, err error) error {
	text := strings.ReplaceAll(words.String(), d.url, "the repository")
	if from != nil {
		text = strings.ReplaceAll(text, from.url, "the repository that is copied from")
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("restic did not end in time: %w", ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case d.failed.lost.Load():
		return fmt.Errorf("%w: data is not there, or ends early: %s", ErrDamaged, text)
	case d.failed.status() != 0:
		return fmt.Errorf("the store of backups failed meanwhile (%d): %s", d.failed.status(), text)
	}
	switch {
	case strings.Contains(text, "wrong password or no key found"):
		return errors.New("the key does not open it")
	case strings.Contains(text, "Is there a repository at the following location"), strings.Contains(text, "repository does not exist"):
		return errors.New("there is no repository")
	case strings.Contains(text, "no matching ID"), strings.Contains(text, "no snapshot found"):
		return ErrNoSnapshot
	case strings.Contains(text, "already locked"):
		return fmt.Errorf("%w: %s", ErrLocked, text)
	}
	var exit *exec.ExitError
	if r.failed != nil && errors.As(err, &exit) && exit.Exited() && exit.ExitCode() == 1 {
		return fmt.Errorf("%w: %s", r.failed, text)
	}
	return fmt.Errorf("restic failed (%w): %s", err, text)
}

// tail keeps the end of what is printed.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - maxWords; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) said() bool { return len(bytes.TrimSpace(t.text)) > 0 }

// String gives the words in one line, without what a terminal would obey.
func (t *tail) String() string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(t.text), "?"))
	return strings.Join(strings.Fields(text), " ")
}
