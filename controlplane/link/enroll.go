package link

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Enroll turns a join token into an identity. The server is prepared next.
func (s *Server) Enroll(ctx context.Context, req *linkv1.EnrollRequest) (*linkv1.EnrollResponse, error) {
	c := callerOf(ctx)
	issue, keyHash, err := s.issuer(req.GetCsr())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	done, err := s.fleet.Enroll(ctx, fleet.Enrollment{
		Token:   req.GetToken(),
		ID:      req.GetEnrollmentId(),
		KeyHash: keyHash,
		Facts:   fleet.FactsFrom(req.GetFacts()),
	}, now, issue, func(ctx context.Context, tx *db.Tx, server contract.ServerID) error {
		return s.tasks.Replaced(ctx, tx, server.String(), now)
	})
	if errors.Is(err, fleet.ErrTokenUsed) {
		// The host that the token was for, or the one that stole it: somebody must look.
		s.log.Error("a join token that one host has used was shown by another", "address", c.addr.String())
		if err := s.alarm(ctx, c); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	s.strangers.succeeded(c.addr)
	if !done.Replayed {
		s.log.Info("a server has enrolled", "server", done.Server, "address", c.addr.String())
	}
	fail.Point("link.enroll")
	return &linkv1.EnrollResponse{Identity: s.identity(done.Server, done.Certificate)}, nil
}

func (s *Server) alarm(ctx context.Context, c *caller) error {
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "server.token_reused", Object: c.addr.String(), Refused: true,
			Detail: "a join token that one host has used was shown by another, from this address",
		})
	})
	if err != nil {
		return fmt.Errorf("record the reuse of a join token: %w", err)
	}
	return nil
}

// Recover gives a host whose certificate ran out while it was off a new one. It
// proves that it holds the key of the one that ran out.
func (s *Server) Recover(ctx context.Context, req *linkv1.RecoverRequest) (*linkv1.RecoverResponse, error) {
	now := time.Now()
	issue, keyHash, err := s.issuer(req.GetCsr())
	if err != nil {
		return nil, err
	}
	expired, peer, err := s.authority.VerifyExpired(req.GetCertificate(), now)
	if _, isFault := fault.Of(err); err != nil && !isFault {
		return nil, errForeignCertificate
	}
	if err != nil {
		return nil, err
	}
	key, ok := expired.PublicKey.(*ecdsa.PublicKey)
	digest := contract.RecoverDigest(req.GetCsr())
	if !ok || !ecdsa.VerifyASN1(key, digest[:], req.GetSignature()) {
		return nil, errNotHolder
	}
	server, err := contract.ParseServerID(peer.Server)
	if err != nil {
		return nil, errForeignCertificate
	}
	certificate, err := s.fleet.Recover(ctx, peer, keyHash, now, issue)
	if err != nil {
		return nil, err
	}
	s.strangers.succeeded(callerOf(ctx).addr)
	s.log.Info("a server whose certificate had ended got a new one", "server", server)
	fail.Point("link.recover")
	return &linkv1.RecoverResponse{Identity: s.identity(server, certificate)}, nil
}

var (
	errForeignCertificate = fault.Denied("the certificate is not one of this control plane's agents")
	errNotHolder          = fault.Denied("the signature is not by the key of the certificate")
)

// issuer checks a request for a certificate, and gives the way to grant it.
func (s *Server) issuer(csr []byte) (fleet.Issue, []byte, error) {
	parsed, keyHash, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, nil, err
	}
	return func(server contract.ServerID) (pki.Certificate, error) {
		return s.authority.IssueAgent(server, parsed, time.Now())
	}, keyHash, nil
}

// identity is what an agent keeps.
func (s *Server) identity(server contract.ServerID, certificate []byte) *linkv1.Identity {
	return &linkv1.Identity{
		ServerId:    server.String(),
		Certificate: certificate,
		Roots:       s.authority.Roots(),
		SignerKeys:  s.authority.SignerKeys(),
	}
}
