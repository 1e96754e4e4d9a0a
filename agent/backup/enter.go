package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
)

const (
	restic      = "/usr/bin/restic"
	mariadbDump = "/usr/bin/mariadb-dump"
)

var errLongOrder = errors.New("the job's order is too long")

// Job is what the helper can be told to do: it reads its order and gives what is
// to be decoded into Do's result.
type Job func(context.Context, *Inside, json.RawMessage) (any, error)

// Inside is the world of a job: the site's user, offline.
type Inside struct {
	Handle  contract.Handle
	Shell   string        // the site's, that holds public and private
	MariaDB string        // socket of the host's server
	Timeout time.Duration // of all that is run

	key, token, socket string
	base               string // of the proxy
	mu                 sync.Mutex
	out                io.Writer
	saved              map[string][]string // snapshots, by the path that they came by
	read               atomic.Uint64       // bytes of files that have come from the repository
}

// Enter is the helper's main function. It reads its order, does the job, and says
// on its output what came of it. An error means that it could not even say so.
func Enter(ctx context.Context, in io.Reader, out io.Writer, jobs map[string]Job) error {
	var o order
	if err := json.NewDecoder(io.LimitReader(in, maxOrder)).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	job, known := jobs[o.Job]
	if !known {
		return fmt.Errorf("there is no job %q", o.Job)
	}
	handle, err := contract.ParseHandle(o.Handle)
	if err != nil {
		return err
	}
	s := &Inside{
		Handle: handle, Shell: o.Shell, MariaDB: o.MariaDB, Timeout: o.Timeout,
		key: o.Key, token: o.Token, socket: o.Socket, out: out, saved: map[string][]string{},
	}
	stop, err := s.serve()
	if err != nil {
		return err
	}
	defer stop()
	result, err := job(ctx, s, o.Work)
	if err != nil {
		return s.write(answer{Problem: task.Line(err.Error(), 4096), Permanent: task.IsPermanent(err)})
	}
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return s.write(answer{Result: text})
}

func (s *Inside) write(a answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.out.Write(append(text, '\n'))
	return err
}

// Tell says how far the job is; now and then is enough.
func (s *Inside) Tell(p Progress) {
	_ = s.write(answer{Progress: &p}) // nobody may listen any more
}

// serve is the proxy: restic of Debian 12 knows no unix sockets.
func (s *Inside) serve() (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.base = "http://" + l.Addr().String()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.socket)
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8, // more than restic's at once
	}
	directories := &ahead{fetch: s.from(transport)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			_, object := cutLabel(r.In.URL.Path)
			r.Out.URL = &url.URL{Scheme: "http", Host: "repository", Path: object, RawQuery: r.In.URL.RawQuery}
			r.Out.Host = "repository"
			r.Out.Header.Set(tokenHeader, s.token)
		},
		Transport:  transport,
		BufferPool: &buffers{},
		ModifyResponse: func(r *http.Response) error {
			label, _ := r.Request.Context().Value(labelKey{}).(string)
			if r.Request.Method == http.MethodPost && r.StatusCode < 300 && path.Dir(r.Request.URL.Path) == "/snapshots" {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.saved[label] = append(s.saved[label], path.Base(r.Request.URL.Path))
			}
			if r.StatusCode == http.StatusPartialContent {
				directories.note(r.Request.URL.Path, r.Header.Get("Content-Range"))
			}
			if label == restoreLabel {
				r.Body = counted{r.Body, s}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			label, object := cutLabel(r.URL.Path)
			if strings.HasPrefix(label, filesLabel) && directories.serve(w, r, object) {
				return
			}
			proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), labelKey{}, label)))
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l) // ends with stop, and only says so
	}()
	return func() {
		_ = server.Close() // the job is over
		<-ended
	}, nil
}

type labelKey struct{}

// pieceOfBody is how much of a body is copied at once.
const pieceOfBody = 256 << 10

// buffers are those that bodies are copied with: httputil.BufferPool. The zero value is ready for use.
type buffers struct{ free sync.Pool }

func (b *buffers) Get() []byte {
	if buffer, ok := b.free.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, pieceOfBody)
}

func (b *buffers) Put(buffer []byte) { b.free.Put(&buffer) }

// cutLabel splits "/label/object".
func cutLabel(p string) (label, object string) {
	label, object, _ = strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return label, "/" + object
}

// Restic is a run of restic with the site's repository, in the site's shell. The
// label is any word, and tells apart what several runs have made: see Saved. The
// key goes over a descriptor.
func (s *Inside) Restic(label string, args ...string) run.Cmd {
	return run.Cmd{
		Path:   restic,
		Args:   append([]string{"--repo=rest:" + s.base + "/" + label + "/", "--password-file=" + run.SecretFile, "--no-cache", "--json"}, args...),
		Env:    environment(),
		Secret: s.key + "\n", Dir: s.Shell, Timeout: s.Timeout,
	}
}

// Saved are the ids of the snapshots that came into the repository by a label.
func (s *Inside) Saved(label string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.saved[label])
}

// Dump is a run of mariadb-dump with the site's schema. Further arguments are
// names, and never taken for options.
func (s *Inside) Dump(options, names []string) run.Cmd {
	args := slices.Concat([]string{"--no-defaults", "--socket=" + s.MariaDB, "--user=" + s.Handle.UnixUser().String()}, options,
		[]string{"--", s.Handle.DBName().String()}, names)
	return run.Cmd{Path: mariadbDump, Args: args, Timeout: s.Timeout}
}

// jobs of this package.
var own = map[string]Job{"backup": backup, "fetch": fetch}

// Jobs are those of this package and more, for Enter.
func Jobs(more map[string]Job) map[string]Job {
	all := maps.Clone(own)
	maps.Copy(all, more)
	return all
}

// resticError says in words what restic means.
func resticError(err error) error {
	var exit *run.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if strings.Contains(exit.Stderr, "wrong password or no key found") {
		return task.Permanent(errors.New("the repository does not open with the site's key"))
	}
	if slices.ContainsFunc(ofDamage, func(words string) bool { return strings.Contains(exit.Stderr, words) }) {
		return task.Permanent(fmt.Errorf("the repository is damaged: %w", err))
	}
	return err
}

// ofDamage are restic's words for what is not as it was written. It has read it
// twice by then: to read it once more helps nobody.
var ofDamage = []string{"ciphertext verification failed", "invalid data returned"}

// lineWriter calls a function with each line that is written to it.
type lineWriter struct {
	line func([]byte)
	buf  []byte
}

// maxLine is what is kept of a line without an end.
const maxLine = 64 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.keep(p[:i])
		w.line(w.buf)
		w.buf, p = w.buf[:0], p[i+1:]
	}
	w.keep(p)
	return n, nil
}

func (w *lineWriter) keep(p []byte) {
	w.buf = append(w.buf, p[:min(len(p), maxLine-min(len(w.buf), maxLine))]...)
}
