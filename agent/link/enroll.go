package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

const enrolTries = 5 // a person waits; about half a minute in all

// Enroll turns a join token into an identity in the store. Key and enrolment
// id are on disk before the first call: after a lost answer or a crash the
// same token may be used again, on this host alone.
func Enroll(ctx context.Context, store *identity.Store, address string, token identity.Token, facts *fleetv1.Facts, log *slog.Logger) (*identity.Identity, error) {
	e, err := store.Begin()
	if err != nil {
		return nil, err
	}
	csr, err := identity.Request(e.Key)
	if err != nil {
		return nil, err
	}
	var clock clock.Clock // knows nothing yet: the host's time has to do
	conn := open(token.TLS(clock.Time), nil)
	defer conn.close()
	client := linkv1connect.NewEnrollmentServiceClient(conn.http, "https://"+address, options()...)
	for try := 0; ; try++ {
		res, err := enrolOnce(ctx, client, &linkv1.EnrollRequest{
			Token: token.Secret(), EnrollmentId: e.ID, Csr: csr, Facts: bounded(facts),
		})
		if err == nil {
			return store.Enrolled(e, res.GetIdentity())
		}
		if !transient(err) || errors.Is(err, identity.ErrOtherServer) || try+1 == enrolTries {
			return nil, fmt.Errorf("enrol at %s: %w", address, err)
		}
		wait := backoff(try, rand.Float64()) + min(retryAfter(err), maxRetry)
		log.Warn("enrolment is tried again", "err", err, "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

func enrolOnce(ctx context.Context, client linkv1connect.EnrollmentServiceClient, req *linkv1.EnrollRequest) (*linkv1.EnrollResponse, error) {
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	return client.Enroll(ctx, req)
}

// transient reports whether asking again may help.
func transient(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted, connect.CodeAborted:
		return true
	}
	return false
}

// recover asks for a new certificate after the former one ran out.
func (l *Link) recover(ctx context.Context, id *identity.Identity) error {
	key, err := l.cfg.Identity.NextKey()
	if err != nil {
		return localError{err}
	}
	csr, err := identity.Request(key)
	if err != nil {
		return err
	}
	proof, err := identity.ProveRecovery(id.Key, csr)
	if err != nil {
		return err
	}
	conn := open(id.Anonymous(l.cfg.Clock.Time), l.cfg.Dial)
	defer conn.close()
	client := linkv1connect.NewEnrollmentServiceClient(conn.http, "https://"+l.cfg.Address, options()...)
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	res, err := client.Recover(ctx, &linkv1.RecoverRequest{Certificate: id.Certificate.Raw, Csr: csr, Signature: proof})
	if err != nil {
		return err
	}
	l.cfg.Log.Info("the certificate had run out and was replaced")
	return l.cfg.Identity.Renewed(res.GetIdentity())
}
