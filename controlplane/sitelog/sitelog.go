// Package sitelog passes the logs of sites on, from the servers that hold them to those who look at them right now. Nothing of it is
// kept: what nobody looks at stays on its server.
//
//	Watch -> the server is told (ShowLogs) -> it reports, every 2 s at least -> Watch sends
//
// A look belongs to one site on one server, and what another server says of it counts for nothing. It ends when its caller leaves, or
// when the server is away or begins anew: the caller comes back then, and is told the last lines again.
package sitelog

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	// maxOfServer is how many looks an agent takes.
	maxOfServer = 20
	// maxOfOrganization is how many of them are one organization's, which shares the server with others.
	maxOfOrganization = 5
	// awayAfter is how long a server may say nothing: agents report every 2 s, and have 10 s of an unsteady line.
	awayAfter = 10 * time.Second
	// askAgain is when the server is told of a look once more that it has not answered.
	askAgain = time.Second
	// quietFor shows callers, and proxies on the way to them, that the stream lives.
	quietFor = 15 * time.Second
	// maxKept is what waits for a caller who reads slowly; the oldest lines give way.
	maxKept = 1000
	// maxSent keeps a message well below a megabyte.
	maxSent = 200

	defaultLines = 50
)

// What Watch says where there is nothing to see.
var (
	ErrAway = fault.Unavailable("the site's server is not connected, and its logs are there", 2*time.Second, nil)
	// ErrSilent is also for agents that are older than this.
	ErrSilent = fault.Unavailable("the site's server is connected, but does not show its logs; its agent may be too old for it", 10*time.Second, nil)
	ErrMany   = fault.Limited("too many people look at logs on this server", 10*time.Second)
)

// Wanted is what somebody looks at.
type Wanted struct {
	Organization contract.OrganizationID
	Site         contract.SiteID
	Server       contract.ServerID // that holds the site
	Sources      []sitev1.LogSource
	Lines        int // to begin with, of each source; 0 is 50
}

// Hub holds the looks of this process.
type Hub struct {
	mu    sync.Mutex
	looks map[string]*look
	ask   func(contract.ServerID) bool
}

// look is one, while it lasts.
type look struct {
	Wanted
	id    string
	begun time.Time
	news  chan struct{} // holds a token when there is something to send
	lost  chan struct{} // closed when its server has begun anew

	// Guarded by the hub's mu.
	heard   time.Time // zero before the server has answered
	lines   []*sitev1.LogLine
	leftOut uint32 // before the first of lines
}

// New makes a hub without looks. Nobody is connected before Connect.
func New() *Hub {
	return &Hub{looks: map[string]*look{}, ask: func(contract.ServerID) bool { return false }}
}

// Connect says how servers are told that there is something to Ask for; ask says whether the server is here.
func (h *Hub) Connect(ask func(contract.ServerID) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ask = ask
}

// Watch calls send with new lines, and now and then with none, until the context ends, send fails, or the server is away.
func (h *Hub) Watch(ctx context.Context, w Wanted, send func([]*sitev1.LogLine) error) error {
	l, err := h.open(w)
	if err != nil {
		return err
	}
	defer h.end(l)
	if !h.tell(w.Server) {
		return ErrAway
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	sent := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.lost:
			return ErrAway
		case <-l.news:
			for more := true; more; {
				var lines []*sitev1.LogLine
				if lines, more = h.take(l); len(lines) > 0 || sent.IsZero() {
					if err := send(lines); err != nil {
						return err
					}
					sent = time.Now()
				}
			}
		case now := <-tick.C:
			if err := h.still(l, now); err != nil {
				return err
			}
			if !sent.IsZero() && now.Sub(sent) >= quietFor {
				if err := send(nil); err != nil {
					return err
				}
				sent = now
			}
		}
	}
}

// Asked gives what a server is to be told: the looks that it has not answered yet.
func (h *Hub) Asked(server contract.ServerID) []*linkv1.ShowLogs {
	h.mu.Lock()
	defer h.mu.Unlock()
	var asked []*linkv1.ShowLogs
	for _, l := range h.looks {
		if l.Server == server && l.heard.IsZero() {
			asked = append(asked, &linkv1.ShowLogs{WatchId: l.id, SiteId: l.Site.String(), Sources: l.Sources, Lines: uint32(l.Lines)})
		}
	}
	return asked
}

// Report takes in what a server says of a look, and tells whether it is wanted. A look of another server's is none.
func (h *Hub) Report(server contract.ServerID, id string, lines []*sitev1.LogLine, now time.Time) (wanted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.looks[id]
	if l == nil || l.Server != server {
		return false
	}
	first := l.heard.IsZero()
	l.heard = now
	for _, line := range lines {
		if l.asksFor(line.GetSource()) {
			l.lines = append(l.lines, line)
		}
	}
	for len(l.lines) > maxKept {
		l.leftOut += 1 + l.lines[0].GetLeftOut()
		l.lines = l.lines[1:]
	}
	if first || len(lines) > 0 {
		select {
		case l.news <- struct{}{}:
		default: // there is a token already
		}
	}
	return true
}

// Lost ends the looks that a server has answered: it begins anew and knows nothing of them.
func (h *Hub) Lost(server contract.ServerID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, l := range h.looks {
		if l.Server == server && !l.heard.IsZero() {
			close(l.lost)
			delete(h.looks, id)
		}
	}
}

func (l *look) asksFor(source sitev1.LogSource) bool {
	for _, one := range l.Sources {
		if one == source {
			return true
		}
	}
	return false
}

func (h *Hub) open(w Wanted) (*look, error) {
	if len(w.Sources) == 0 {
		w.Sources = []sitev1.LogSource{sitev1.LogSource_LOG_SOURCE_ACCESS, sitev1.LogSource_LOG_SOURCE_ERROR, sitev1.LogSource_LOG_SOURCE_PHP}
	}
	if w.Lines == 0 {
		w.Lines = defaultLines
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ofServer, ofOrganization := 0, 0
	for _, l := range h.looks {
		if l.Server == w.Server {
			ofServer++
			if l.Organization == w.Organization {
				ofOrganization++
			}
		}
	}
	if ofServer >= maxOfServer || ofOrganization >= maxOfOrganization {
		return nil, ErrMany
	}
	l := &look{Wanted: w, id: uuid.NewString(), begun: time.Now(), news: make(chan struct{}, 1), lost: make(chan struct{})}
	h.looks[l.id] = l
	return l, nil
}

func (h *Hub) end(l *look) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.looks, l.id)
}

// tell has the server ask what there is, and says whether it is here.
func (h *Hub) tell(server contract.ServerID) bool {
	h.mu.Lock()
	ask := h.ask
	h.mu.Unlock()
	return ask(server)
}

// take gives the next lines, and whether there are more.
func (h *Hub) take(l *look) (lines []*sitev1.LogLine, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(l.lines), maxSent)
	lines, l.lines = l.lines[:n:n], l.lines[n:]
	if n > 0 {
		lines[0].LeftOut += l.leftOut
		l.leftOut = 0
	}
	return lines, len(l.lines) > 0
}

// still says whether the server is there, and reminds it of a look that it has not answered.
func (h *Hub) still(l *look, now time.Time) error {
	h.mu.Lock()
	heard := l.heard
	h.mu.Unlock()
	switch {
	case heard.IsZero() && now.Sub(l.begun) >= awayAfter:
		return ErrSilent
	case !heard.IsZero() && now.Sub(heard) >= awayAfter:
		return ErrAway
	case heard.IsZero() && !h.tell(l.Server):
		return ErrAway
	}
	return nil
}
