package metrics

import (
	"context"
	"sync"
	"time"

	"chom.dev/controlplane/fault"
)

const (
	// atOnce is how many questions are answered at a time: each may take a core and tens of megabytes.
	atOnce = 4
	// atOnceOfOne is how many of one organization: it leaves room for others.
	atOnceOfOne = 2
)

// slots hold questions back, so that a page with many pictures waits for itself and not for others.
type slots struct {
	all chan struct{}

	mu   sync.Mutex
	each map[string]*queue
}

type queue struct {
	tokens chan struct{}
	users  int // who holds a token or waits for one
}

func newSlots() *slots {
	return &slots{all: make(chan struct{}, atOnce), each: map[string]*queue{}}
}

var errBusy = fault.Limited("too many questions about metrics at a time", 2*time.Second)

// take waits for a slot, until ctx ends. It is given back by done.
func (s *slots) take(ctx context.Context, organization string) (done func(), err error) {
	q := s.enter(organization)
	select {
	case q.tokens <- struct{}{}:
	case <-ctx.Done():
		s.leave(organization, q)
		return nil, errBusy
	}
	select {
	case s.all <- struct{}{}:
	case <-ctx.Done():
		<-q.tokens
		s.leave(organization, q)
		return nil, errBusy
	}
	return func() {
		<-s.all
		<-q.tokens
		s.leave(organization, q)
	}, nil
}

func (s *slots) enter(organization string) *queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.each[organization]
	if q == nil {
		q = &queue{tokens: make(chan struct{}, atOnceOfOne)}
		s.each[organization] = q
	}
	q.users++
	return q
}

func (s *slots) leave(organization string, q *queue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(s.each, organization)
	}
}
