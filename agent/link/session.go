package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chom.dev/agent/identity"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
)

const (
	defaultHeartbeat = 15 * time.Second
	shortestBeat     = time.Second
	longestBeat      = 30 * time.Second // leases last 90 s
)

// session is one epoch.
type session struct {
	*Link
	conn      *connection
	bulk      *connection // for repositories; dials when it is first used
	client    linkv1connect.LinkServiceClient
	id        *identity.Identity
	epoch     uint64
	heartbeat time.Duration
	samples   chan []*linkv1.Sample
	shows     chan *linkv1.ShowLogs
}

// session connects, says Hello, and stays until something ends it, which is
// always an error.
func (l *Link) session(ctx context.Context) error {
	id, isNext, err := l.choose()
	if err != nil {
		return localError{err}
	}
	l.set(State{Phase: Connecting})
	l.progress(dialFor + callFor + slack)
	s := &session{Link: l, id: id, samples: make(chan []*linkv1.Sample, 1), shows: make(chan *linkv1.ShowLogs, maxLooks)}
	s.conn = open(id.TLS(l.cfg.Clock.Time), l.cfg.Dial)
	defer s.conn.close()
	s.bulk = open(id.TLS(l.cfg.Clock.Time), l.cfg.Dial).letGoAfter(bulkIdle)
	defer s.bulk.close()
	s.client = linkv1connect.NewLinkServiceClient(s.conn.http, "https://"+l.cfg.Address, options()...)

	res, err := s.hello(ctx)
	if err != nil {
		return l.notConnected(ctx, s, isNext, err)
	}
	if err := l.settle(isNext); err != nil {
		return localError{err}
	}
	l.failures = min(l.failures, maxShort)
	s.believe(res)
	l.cfg.Tasks.Resend(res.Resend)
	l.cfg.Log.Info("link is up", "epoch", s.epoch)
	l.set(State{Phase: Connected, LastContact: time.Now()})
	l.connected(s)
	defer l.connected(nil)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.receive(ctx) })
	g.Go(func() error { return s.report(ctx) })
	g.Go(func() error { return s.renew(ctx) })
	if l.cfg.Logs != nil {
		g.Go(func() error { return s.showLogs(ctx) })
	}
	if l.cfg.Samples != nil {
		g.Go(func() error { return s.measure(ctx) })
	}
	g.Go(func() error {
		// A call that is stuck in a dead connection must not hold the others.
		<-ctx.Done()
		s.conn.close()
		s.bulk.close()
		return nil
	})
	if err := g.Wait(); !stale(err) {
		return err
	}
	return errStale
}

// choose gives the identity to connect as: the next one, if there is one and
// it was not just refused.
func (l *Link) choose() (id *identity.Identity, isNext bool, err error) {
	if !l.avoidNext {
		next, err := l.cfg.Identity.Next()
		if err != nil {
			l.cfg.Log.Error("next identity is unreadable and given up", "err", err)
			if err := l.cfg.Identity.DropNext(); err != nil {
				return nil, false, err
			}
		}
		if next != nil {
			return next, true, nil
		}
	}
	id, err = l.cfg.Identity.Current()
	return id, false, err
}

// settle keeps of the two identities the one that worked.
func (l *Link) settle(isNext bool) error {
	if isNext {
		return l.cfg.Identity.Promote()
	}
	if l.avoidNext {
		l.avoidNext = false
		return l.cfg.Identity.DropNext()
	}
	return nil
}

// notConnected finds what a failed Hello asks for.
func (l *Link) notConnected(ctx context.Context, s *session, isNext bool, err error) error {
	// The host's clock alone is not believed: the certificate is only taken
	// for expired when the control plane is there and won't talk. It says why
	// by a TLS alert, which gets lost when the connection breaks first.
	expired := identity.Expired(l.cfg.Clock.Time(), s.id.Certificate) && s.conn.wasMet()
	if !refused(err) && !expired {
		return err
	}
	if isNext {
		l.avoidNext = true
		return errTryOther
	}
	l.avoidNext = false
	if !expired {
		return err
	}
	again := l.recover(ctx, s.id)
	switch {
	case again == nil:
		return errRenewed
	case connect.CodeOf(again) == connect.CodeInvalidArgument:
		return err // it has not ended, by the only clock that counts
	}
	return fmt.Errorf("the certificate ran out on %s, and no new one was given: %w", s.id.Certificate.NotAfter.Format(time.DateOnly), again)
}

// hello opens the epoch.
func (s *session) hello(ctx context.Context) (*linkv1.HelloResponse, error) {
	h, err := s.cfg.Tasks.Holdings()
	if err != nil {
		return nil, localError{err}
	}
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	res, err := s.client.Hello(ctx, &linkv1.HelloRequest{
		ProtocolVersion: contract.ProtocolVersion,
		InstanceId:      s.instance,
		Facts:           bounded(s.cfg.Facts(ctx)),
		Journal:         h.Journal,
		Sites:           h.Sites,
		HighestFence:    h.HighestFence,
	})
	if err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	s.epoch = res.Epoch
	s.heartbeat = defaultHeartbeat
	if d := res.HeartbeatInterval.AsDuration(); d > 0 {
		s.heartbeat = min(max(d, shortestBeat), longestBeat)
	}
	if t := res.ServerTime; t.IsValid() && t.Seconds > 0 {
		s.cfg.Clock.Set(t.AsTime())
		if skew := s.cfg.Clock.Skew(); skew.Abs() > time.Minute {
			s.cfg.Log.Warn("this host's clock differs from the control plane's, which is used instead", "ahead", skew.Round(time.Second))
		}
	}
	return res, nil
}

// believe takes over whom to trust. An answer that makes no sense changes
// nothing: what is trusted now has just worked.
func (s *session) believe(res *linkv1.HelloResponse) {
	t, err := identity.ParseTrust(res.Roots, res.SignerKeys)
	if err == nil {
		err = s.cfg.Identity.Believe(t)
	}
	if err != nil {
		s.cfg.Log.Error("new roots and signers were not taken over", "err", err)
		t = s.id.Trust
	}
	s.cfg.Tasks.SetSigners(t.Signers)
	if s.cfg.Issuance != nil && res.Issuance != nil {
		if err := s.cfg.Issuance(res.Issuance); err != nil {
			s.cfg.Log.Error("where certificates come from was not taken over", "err", err)
		}
	}
}

// renew asks for the next certificate when it is time, and ends the session
// once it is on disk.
func (s *session) renew(ctx context.Context) error {
	cert := s.id.Certificate
	due := identity.DueAt(cert, identity.Jitter(cert))
	failures := 0
	for {
		wait := max(due.Sub(s.cfg.Clock.Time()), 0)
		if failures > 0 {
			// There are days left, and the control plane has trouble enough.
			left := cert.NotAfter.Sub(s.cfg.Clock.Time())
			wait = max(min(backoff(failures+4, 1), left/4), time.Second)
		}
		if !sleep(ctx, min(wait, 10*time.Minute)) {
			return ctx.Err()
		}
		if !identity.Due(s.cfg.Clock.Time(), cert, identity.Jitter(cert)) {
			continue
		}
		err := s.askRenewal(ctx)
		var local localError
		switch {
		case err == nil:
			s.cfg.Log.Info("certificate was renewed")
			return errRenewed
		case ctx.Err() != nil:
			return ctx.Err()
		case stale(err), errors.As(err, &local):
			return err
		}
		failures++
		s.cfg.Log.Warn("certificate was not renewed; it is tried again", "err", err, "expires", cert.NotAfter)
	}
}

func (s *session) askRenewal(ctx context.Context) error {
	key, err := s.cfg.Identity.NextKey()
	if err != nil {
		return localError{err}
	}
	csr, err := identity.Request(key)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	res, err := s.client.Renew(ctx, &linkv1.RenewRequest{Epoch: s.epoch, Csr: csr})
	if err != nil {
		return err
	}
	return s.cfg.Identity.Renewed(res.GetIdentity())
}
