package link

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Backups are where hosts put the backups of the sites that they hold.
type Backups interface {
	// Repository serves restic's REST protocol for a site's repository, below its top. It bounds sizes and times by itself.
	Repository(organization contract.OrganizationID, site contract.SiteID) http.Handler
}

const (
	// backupsMax is for requests to repositories: restic makes five at once by default. They don't count among the calls, and
	// calls don't count among them, so that neither keeps the other from its turn.
	backupsMax = 8
	// backupsPerSecond is above what reading a repository of small files takes; who asks more is slowed down.
	backupsPerSecond = 250
	backupsBurst     = 500
)

// errNoSession is for a request without an epoch.
var errNoSession = fault.Invalid(contract.EpochHeader, "must be the epoch that Hello gave")

func isBackup(path string) bool { return strings.HasPrefix(path, contract.RepositoryPath) }

// backup is the way of a request to a repository. Its refusals are HTTP's: what a call says with FAILED_PRECONDITION (say
// Hello again) is 412 here.
func (s *Server) backup(w http.ResponseWriter, r *http.Request, c *caller) {
	began := time.Now()
	answer := &noted{ResponseWriter: w}
	var err error
	defer func() {
		caught := recover()
		broken := caught == http.ErrAbortHandler //nolint:errorlint // it is compared so in net/http too
		switch {
		case broken:
			err = fault.Unavailable("the answer was broken off", 0, nil)
		case caught != nil:
			err = fmt.Errorf("panic: %v\n%s", caught, debug.Stack())
		case err == nil:
			err = answer.fault()
		}
		shown := s.finish(r.Context(), c, contract.RepositoryPath, began, err)
		switch {
		case broken, caught != nil && answer.status != 0:
			panic(http.ErrAbortHandler) // so that nobody takes half an answer for whole
		case shown != nil && answer.status == 0:
			refuseBackup(w, shown)
		}
	}()
	leave, err := c.agent.enterBackup(r.Context())
	if err != nil {
		return
	}
	defer leave()
	held, path, err := s.repositoryOf(r, c)
	if err != nil {
		return
	}
	below := r.Clone(r.Context())
	below.URL.Path, below.URL.RawPath = path, ""
	s.backups.Repository(held.Organization, held.ID).ServeHTTP(answer, below)
}

// repositoryOf finds the site that a request is about, if its sender may have it, and the path in its repository.
func (s *Server) repositoryOf(r *http.Request, c *caller) (*site.Site, string, error) {
	ctx, cancel := context.WithTimeout(r.Context(), callFor)
	defer cancel()
	epoch, err := strconv.ParseUint(r.Header.Get(contract.EpochHeader), 10, 64)
	if err != nil || len(r.Header.Values(contract.EpochHeader)) != 1 {
		return nil, "", errNoSession
	}
	if err := s.wanted(ctx, c, epoch); err != nil {
		return nil, "", err
	}
	// What has to be escaped is no path of ours.
	path := strings.TrimPrefix(r.URL.Path, contract.RepositoryPath)
	text, below, ok := strings.Cut(path, "/")
	id, err := contract.ParseSiteID(text)
	if !ok || err != nil || r.URL.EscapedPath() != r.URL.Path || strings.Contains(path, "%") {
		return nil, "", fault.NotFound("repository")
	}
	held, err := s.sites.OnServer(ctx, c.agent.id, id)
	return held, "/" + below, err
}

// enterBackup lets a request in, once fewer than backupsMax others of the agent are under way.
func (a *agent) enterBackup(ctx context.Context) (leave func(), err error) {
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case a.backups <- struct{}{}:
	case <-wait.C:
		return nil, tooMuch("too many requests for backups at once", time.Second)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	leave = func() { <-a.backups }
	if err := a.backupCalls.Wait(ctx); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// statuses is the only place where a code of the link becomes one of HTTP.
var statuses = map[connect.Code]int{
	connect.CodeInvalidArgument:    http.StatusBadRequest,
	connect.CodeUnauthenticated:    http.StatusUnauthorized,
	connect.CodePermissionDenied:   http.StatusForbidden,
	connect.CodeNotFound:           http.StatusNotFound,
	connect.CodeFailedPrecondition: http.StatusPreconditionFailed,
	connect.CodeResourceExhausted:  http.StatusTooManyRequests,
	connect.CodeUnavailable:        http.StatusServiceUnavailable,
	connect.CodeDeadlineExceeded:   http.StatusServiceUnavailable,
}

func refuseBackup(w http.ResponseWriter, shown *connect.Error) {
	if after := shown.Meta().Get("Retry-After"); after != "" {
		w.Header().Set("Retry-After", after)
	}
	http.Error(w, shown.Message(), orElse(statuses[shown.Code()], http.StatusInternalServerError))
}

// noted notes how a repository answered.
type noted struct {
	http.ResponseWriter
	status int
}

func (n *noted) WriteHeader(status int) {
	if n.status == 0 {
		n.status = status
	}
	n.ResponseWriter.WriteHeader(status)
}

func (n *noted) Write(p []byte) (int, error) {
	if n.status == 0 {
		n.status = http.StatusOK
	}
	return n.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// fault is how the call counts and is logged. The repository has answered already, and logged what is not the agent's doing.
func (n *noted) fault() error {
	words := http.StatusText(n.status)
	switch {
	case n.status < http.StatusBadRequest:
		return nil
	case n.status == http.StatusNotFound:
		return fault.NotFound("object")
	case n.status == http.StatusForbidden:
		return fault.Denied(words)
	case n.status == http.StatusConflict:
		return fault.Conflict(words)
	case n.status == http.StatusInsufficientStorage:
		return connect.NewError(connect.CodeResourceExhausted, errors.New(words))
	case n.status >= http.StatusInternalServerError:
		return fault.Unavailable(words, 0, nil)
	}
	return fault.Invalid("request", words)
}
