package link

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Hello opens an epoch. In the same transaction the agent's journal decides
// what became of attempts that nothing was heard of; then the sites of which
// the host holds less than is wanted are ordered again.
func (s *Server) Hello(ctx context.Context, req *linkv1.HelloRequest) (*linkv1.HelloResponse, error) {
	c := callerOf(ctx)
	if v := req.GetProtocolVersion(); v < contract.OldestProtocolVersion || v > contract.ProtocolVersion {
		return nil, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("the agent speaks version %d of the link, this control plane %d to %d: update one of them",
			v, contract.OldestProtocolVersion, contract.ProtocolVersion))
	}
	now := time.Now()
	var resend []*linkv1.JournalEntry
	epoch, err := s.fleet.Hello(ctx, c.peer, fleet.Greeting{
		Instance:     req.GetInstanceId(),
		Facts:        fleet.FactsFrom(req.GetFacts()),
		HighestFence: req.GetHighestFence(),
	}, now, func(ctx context.Context, tx *db.Tx, older bool) (err error) {
		resend, err = s.tasks.Reconcile(ctx, tx, c.peer.Server, req.GetJournal(), older, now)
		return err
	})
	if err != nil {
		s.banishDenied(c, err)
		return nil, err
	}
	fail.Point("link.hello")
	c.agent.opened(epoch, now)
	if s.logs != nil {
		s.logs.Lost(c.agent.id)
	}
	if _, err := s.sites.Hold(ctx, c.agent.id, req.GetSites()); err != nil {
		return nil, err // the agent says Hello again
	}
	var issuance *linkv1.Issuance
	if s.certificates != nil {
		issuance = s.certificates.Issuance()
	}
	return &linkv1.HelloResponse{
		Issuance:          issuance,
		Epoch:             epoch,
		HeartbeatInterval: durationpb.New(fleet.HeartbeatInterval),
		ServerTime:        timestamppb.New(time.Now()),
		Roots:             s.authority.Roots(),
		SignerKeys:        s.authority.SignerKeys(),
		Resend:            resend,
	}, nil
}

// Renew gives the agent its next certificate; asked again over the same key, the
// same one.
func (s *Server) Renew(ctx context.Context, req *linkv1.RenewRequest) (*linkv1.RenewResponse, error) {
	c := callerOf(ctx)
	issue, keyHash, err := s.issuer(req.GetCsr())
	if err != nil {
		return nil, err
	}
	certificate, err := s.fleet.Renew(ctx, c.peer, keyHash, time.Now(), issue)
	if err != nil {
		return nil, err
	}
	fail.Point("link.renew")
	return &linkv1.RenewResponse{Identity: s.identity(c.agent.id, certificate)}, nil
}

// banishDenied cuts what the caller holds open where the database refused it.
func (s *Server) banishDenied(c *caller, err error) {
	if fault.KindOf(err) == fault.KindDenied {
		s.banish(c.agent, c.peer.Serial, err)
	}
}
