package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Rights say what whoever speaks restic's protocol may do. Everybody may read, and nobody overwrites an object or deletes the
// config.
type Rights uint8

// The rights, from the least to the most.
const (
	ReadOnly   Rights = iota // nothing else
	AppendOnly               // put objects, but a key only before the config, and delete locks, which restic's own work needs
	Full                     // delete objects
)

// Ledger decides which objects are taken, and counts them.
type Ledger interface {
	// Admit is asked before an object is taken. Its fault is the caller's answer: 507; 503 where it is one of the kind Unavailable.
	Admit(ctx context.Context, r Repository, kind Kind, size int64) error
	// Took hears of an object that was taken. One that is put again is taken again.
	Took(ctx context.Context, r Repository, kind Kind, size int64)
}

// open is the Ledger of who counts nothing.
type open struct{}

func (open) Admit(context.Context, Repository, Kind, int64) error { return nil }

func (open) Took(context.Context, Repository, Kind, int64) {}

// Server serves repositories by restic's REST protocol, version 2. Who calls, and for which repository, others have decided.
type Server struct {
	store  Store
	ledger Ledger
	log    *slog.Logger
	pause  time.Duration // how long nothing may come, or go, in the middle of a body
}

// NewServer makes a server. A ledger of nil has it take everything.
func NewServer(s Store, ledger Ledger, log *slog.Logger) *Server {
	if ledger == nil {
		ledger = open{}
	}
	return &Server{store: s, ledger: ledger, log: log, pause: pauseFor}
}

// Repository serves a repository to the host of its site, which may only append.
func (s *Server) Repository(organization contract.OrganizationID, site contract.SiteID) http.Handler {
	return s.Handler(Repository{organization, site}, AppendOnly)
}

// Handler serves one repository, whose paths begin at its own top: /config, /data/<name>.
func (s *Server) Handler(r Repository, rights Rights) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := &call{server: s, repository: r, rights: rights, w: w, r: req, controller: http.NewResponseController(w)}
		if err := c.serve(); err != nil {
			c.refuse(err)
		}
	})
}

const (
	contentType = "application/vnd.x.restic.rest.v2"
	// pauseFor is as long as the connections of a host that changes its network take.
	pauseFor = 60 * time.Second
	// objectFor is how long one object may take in all: 75 kB a second for the largest.
	objectFor = time.Hour
	// deadlines in a pause spare the connection from being told a new one for each piece.
	deadlines = 60
	// pieceOfAnswer is how much of an object is read, and written, at once.
	pieceOfAnswer = 256 << 10
)

// call is one request.
type call struct {
	server     *Server
	repository Repository
	rights     Rights
	w          http.ResponseWriter
	r          *http.Request
	controller *http.ResponseController
	began      bool // the answer
}

// Faults of the protocol.
var (
	errNoSuchPath  = fault.NotFound("path")
	errNoSuchCall  = errors.New("method")
	errNoLength    = errors.New("the length must be said")
	errTooLarge    = errors.New("the object is too large")
	errNotAllowed  = fault.Denied("this repository takes new objects only")
	errNotWritable = fault.Denied("this repository is for reading only")
)

// notAdmitted is what the ledger said.
type notAdmitted struct{ error }

func (n notAdmitted) Unwrap() error { return n.error }

func (c *call) serve() error {
	path := c.r.URL.EscapedPath()
	switch {
	case path == "/":
		return c.create()
	case path == "/config":
		return c.object(ConfigName())
	}
	kindText, name, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	kind := kindOf(kindText)
	if !ok || kind == 0 {
		return errNoSuchPath
	}
	if name == "" {
		return c.list(kind)
	}
	n, err := ParseName(kind, name)
	if err != nil {
		return errNoSuchPath
	}
	return c.object(n)
}

// kindOf knows the kinds that are restic's; 0 is none.
func kindOf(text string) Kind {
	for kind := Keys; kind <= Locks; kind++ {
		if kind.String() == text {
			return kind
		}
	}
	return 0
}

// create is asked for before the first object. There is nothing to do: a repository is its objects.
func (c *call) create() error {
	if c.r.Method != http.MethodPost || c.r.URL.Query().Get("create") != "true" {
		return errNoSuchCall
	}
	if c.rights == ReadOnly {
		return errNotWritable
	}
	return nil
}

func (c *call) object(n Name) error {
	switch c.r.Method {
	case http.MethodHead:
		return c.stat(n)
	case http.MethodGet:
		return c.get(n)
	case http.MethodPost:
		return c.put(n)
	case http.MethodDelete:
		return c.delete(n)
	}
	return errNoSuchCall
}

func (c *call) stat(n Name) error {
	size, err := c.server.store.Stat(c.r.Context(), c.repository, n)
	if err == nil {
		c.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	return err
}

func (c *call) get(n Name) error {
	offset, length, ranged, err := parseRange(c.r.Header.Get("Range"))
	if err != nil {
		return err
	}
	p, err := c.server.store.Get(c.r.Context(), c.repository, n, offset, length)
	if err != nil {
		return err
	}
	defer p.Close()
	header := c.w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Length", strconv.FormatInt(p.Length, 10))
	status := http.StatusOK
	if ranged {
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+p.Length-1, p.Total))
		status = http.StatusPartialContent
	}
	c.w.WriteHeader(status)
	c.began = true
	answer := &rollingWriter{c: c}
	defer answer.rest()
	_, err = io.CopyBuffer(answer, p, make([]byte, min(p.Length+1, pieceOfAnswer)))
	return err
}

// parseRange takes the one form that restic uses: bytes=from-to, or bytes=from-.
func parseRange(text string) (offset, length int64, ranged bool, err error) {
	if text == "" {
		return 0, 0, false, nil
	}
	span, isBytes := strings.CutPrefix(text, "bytes=")
	from, to, isSpan := strings.Cut(span, "-")
	offset, err = strconv.ParseInt(from, 10, 64)
	if !isBytes || !isSpan || err != nil {
		return 0, 0, false, ErrRange
	}
	if to == "" {
		return offset, 0, true, nil
	}
	last, err := strconv.ParseInt(to, 10, 64)
	if err != nil || last < offset {
		return 0, 0, false, ErrRange
	}
	return offset, last - offset + 1, true, nil
}

func (c *call) put(n Name) error {
	if c.rights == ReadOnly {
		return errNotWritable
	}
	size := c.r.ContentLength
	switch {
	case size < 0:
		return errNoLength
	case size > n.kind.largest():
		return errTooLarge
	}
	if n.kind == Keys && c.rights == AppendOnly {
		// Of two that make a repository at the same time the second one leaves no key that does not open its config.
		if _, err := c.server.store.Stat(c.r.Context(), c.repository, ConfigName()); !errors.Is(err, ErrNotFound) {
			return cmp.Or(err, error(errNotAllowed))
		}
	}
	if err := c.server.ledger.Admit(c.r.Context(), c.repository, n.kind, size); err != nil {
		return notAdmitted{err}
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), objectFor)
	defer cancel()
	body := &rollingReader{c: c, ends: time.Now().Add(objectFor)}
	err := c.server.store.Put(ctx, c.repository, n, size, body)
	body.rest(err)
	if err == nil {
		c.server.ledger.Took(context.WithoutCancel(ctx), c.repository, n.kind, size) // it is there, whether or not its sender still is
	}
	return err
}

func (c *call) delete(n Name) error {
	switch {
	case c.rights == ReadOnly:
		return errNotWritable
	case n.kind == Config, c.rights == AppendOnly && n.kind != Locks:
		return errNotAllowed
	}
	return c.server.store.Delete(c.r.Context(), c.repository, n)
}

func (c *call) list(kind Kind) error {
	if c.r.Method != http.MethodGet {
		return errNoSuchCall
	}
	found, err := c.server.store.List(c.r.Context(), c.repository, kind)
	if err != nil {
		return err
	}
	type object struct {
		Name string `json:"name"`
		Size int64  `json:"size"`
	}
	list := make([]object, len(found))
	for i, o := range found {
		list[i] = object{o.Name.text, o.Size}
	}
	// As a whole before any of it is sent: half a list would look like a repository that has lost objects.
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("list %s of %s: %w", kind, c.repository, err)
	}
	c.w.Header().Set("Content-Type", contentType)
	c.w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	c.began = true
	answer := &rollingWriter{c: c}
	defer answer.rest()
	_, err = answer.Write(text)
	return err
}

// refuse answers with an error. Where the answer has begun it is broken off, so that nobody takes it for whole.
func (c *call) refuse(err error) {
	status, words := statusOf(err)
	ctx := c.r.Context()
	f, isFault := fault.Of(err)
	refused := notAdmitted{}
	said := isFault && errors.As(err, &refused) // all is well, and whoever says it logs it
	if !said && status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage && ctx.Err() == nil {
		c.server.log.ErrorContext(ctx, "a repository can't be served", "organization", c.repository.Organization.String(), "site", c.repository.Site.String(),
			"method", c.r.Method, "err", withCause(err))
	}
	if c.began {
		panic(http.ErrAbortHandler)
	}
	header := c.w.Header()
	header.Del("Content-Length")
	if isFault && f.RetryAfter() > 0 {
		header.Set("Retry-After", strconv.Itoa(int(f.RetryAfter().Seconds())))
	}
	http.Error(c.w, words, status)
}

// statusOf turns an error into the protocol's words.
func statusOf(err error) (status int, words string) {
	f, isFault := fault.Of(err)
	refused := notAdmitted{}
	switch {
	case errors.As(err, &refused) && isFault && f.Kind() != fault.KindUnavailable, errors.Is(err, ErrFull):
		return http.StatusInsufficientStorage, f.Error()
	case errors.Is(err, errNoSuchCall):
		return http.StatusMethodNotAllowed, "there is no such call"
	case errors.Is(err, errNoLength):
		return http.StatusLengthRequired, errNoLength.Error()
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge, errTooLarge.Error()
	case errors.Is(err, ErrRange):
		return http.StatusRequestedRangeNotSatisfiable, f.Error()
	case errors.Is(err, ErrCut):
		return http.StatusRequestTimeout, f.Error()
	case !isFault:
		return http.StatusInternalServerError, "internal error"
	}
	switch f.Kind() {
	case fault.KindInvalid:
		return http.StatusBadRequest, f.Error()
	case fault.KindDenied:
		return http.StatusForbidden, f.Error()
	case fault.KindNotFound:
		return http.StatusNotFound, f.Error()
	case fault.KindConflict:
		return http.StatusConflict, f.Error()
	case fault.KindUnavailable:
		return http.StatusServiceUnavailable, f.Error()
	}
	return http.StatusInternalServerError, "internal error"
}

// withCause adds what a fault keeps from the caller, for the log.
func withCause(err error) error {
	if f, ok := fault.Of(err); ok && f.Unwrap() != nil {
		return errors.Join(err, f.Unwrap())
	}
	return err
}

// rollingReader is a body of which something must come every now and then.
type rollingReader struct {
	c    *call
	ends time.Time
	set  time.Time
}

func (b *rollingReader) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(b.set) > b.c.server.pause/deadlines {
		b.set = now
		until := now.Add(b.c.server.pause)
		if until.After(b.ends) {
			until = b.ends
		}
		if err := b.c.controller.SetReadDeadline(until); err != nil {
			return 0, fmt.Errorf("bound the time of a body: %w", err)
		}
	}
	return b.c.r.Body.Read(p)
}

// leftoverFor is for what is still to come of a body that was refused.
const leftoverFor = time.Second

// rest takes the deadline away: what is kept may take its time, and the connection is used again. Of a body that was refused
// the rest may be waited for, but not for long.
func (b *rollingReader) rest(refused error) {
	var until time.Time
	if refused != nil {
		until = time.Now().Add(leftoverFor)
	}
	_ = b.c.controller.SetReadDeadline(until) // the connection is gone, then
}

// rollingWriter is an answer of which something must go every now and then.
type rollingWriter struct {
	c   *call
	set time.Time
}

func (a *rollingWriter) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(a.set) > a.c.server.pause/deadlines {
		a.set = now
		if err := a.c.controller.SetWriteDeadline(now.Add(a.c.server.pause)); err != nil {
			return 0, fmt.Errorf("bound the time of an answer: %w", err)
		}
	}
	return a.c.w.Write(p)
}

// rest takes the deadline away: the connection is used again.
func (a *rollingWriter) rest() { _ = a.c.controller.SetWriteDeadline(time.Time{}) }
