package linktest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// enrolment is the part without a client certificate.
type enrolment struct{ s *Server }

func (e *enrolment) Enroll(_ context.Context, req *linkv1.EnrollRequest) (*linkv1.EnrollResponse, error) {
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[req.Token]
	csr, err := x509.ParseCertificateRequest(req.Csr)
	if t == nil || err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the token is unknown"))
	}
	key := csr.RawSubjectPublicKeyInfo
	if t.answer != nil {
		if !bytes.Equal(key, t.key) || t.enrolment != req.EnrollmentId {
			return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the token was used by another host"))
		}
		return t.answer, nil
	}
	id, serial, err := s.certify(t.server, req.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	s.agents[t.server].Serial = serial
	t.key, t.enrolment, t.answer = key, req.EnrollmentId, &linkv1.EnrollResponse{Identity: id}
	return t.answer, nil
}

func (e *enrolment) Recover(_ context.Context, req *linkv1.RecoverRequest) (*linkv1.RecoverResponse, error) {
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	cert, err := x509.ParseCertificate(req.Certificate)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	server, a := s.agent(cert)
	digest := contract.RecoverDigest(req.Csr)
	switch {
	case a == nil || a.Serial != cert.SerialNumber.String():
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the certificate is not the server's newest"))
	case !ecdsa.VerifyASN1(cert.PublicKey.(*ecdsa.PublicKey), digest[:], req.Signature):
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the proof does not match"))
	case time.Now().Before(cert.NotAfter):
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the certificate has not ended"))
	case a.Recoveries >= 3:
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("an operator must readmit the server"))
	}
	id, serial, err := s.certify(server, req.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	a.Recoveries++
	a.Next = serial
	return &linkv1.RecoverResponse{Identity: id}, nil
}

// agent finds whose certificate it is. Called with mu held.
func (s *Server) agent(cert *x509.Certificate) (string, *Agent) {
	if cert == nil || len(cert.URIs) != 1 {
		return "", nil
	}
	server := strings.TrimPrefix(cert.URIs[0].Path, "/server/")
	return server, s.agents[server]
}

// door is the part with one.
type door struct {
	linkv1connect.UnimplementedLinkServiceHandler // of what a link does not do by itself
	s                                             *Server
}

// enter finds who calls and refuses who may not. Called with mu held.
func (d *door) enter(ctx context.Context, epoch *uint64) (string, *Agent, error) {
	cert, _ := ctx.Value(peerKey{}).(*x509.Certificate)
	server, a := d.s.agent(cert)
	if a == nil {
		return "", nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no certificate"))
	}
	serial := cert.SerialNumber.String()
	switch {
	case a.Next != "" && serial == a.Next:
		a.Serial, a.Next = a.Next, "" // first use: the former is refused from now on
	case serial != a.Serial:
		return "", nil, connect.NewError(connect.CodePermissionDenied, errors.New("the certificate was replaced"))
	}
	if a.Refuse != nil {
		return "", nil, a.Refuse
	}
	if epoch != nil && *epoch != a.Epoch {
		return "", nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the epoch is over"))
	}
	return server, a, nil
}

func (d *door) Hello(ctx context.Context, req *linkv1.HelloRequest) (*linkv1.HelloResponse, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	_, a, err := d.enter(ctx, nil)
	if err != nil {
		return nil, err
	}
	a.Epoch++
	close(a.wake)
	a.wake = make(chan struct{})
	a.Hellos = append(a.Hellos, req)
	a.Facts = req.Facts
	res := &linkv1.HelloResponse{
		Epoch: a.Epoch, HeartbeatInterval: durationpb.New(d.s.Heartbeat), ServerTime: timestamppb.New(d.s.ServerTime()),
		Roots: [][]byte{d.s.root.Raw}, SignerKeys: [][]byte{d.s.Signer.Public().(ed25519.PublicKey)}, Resend: a.Resend,
	}
	a.Resend = nil
	return res, nil
}

// next waits for messages. It gives none when the time is over.
func (d *door) next(ctx context.Context, epoch uint64, wait time.Duration) ([]*linkv1.LinkMessage, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		d.s.mu.Lock()
		_, a, err := d.enter(ctx, &epoch)
		if err != nil {
			d.s.mu.Unlock()
			return nil, err
		}
		if len(a.queue) > 0 {
			out := a.queue
			a.queue = nil
			d.s.mu.Unlock()
			return out, nil
		}
		wake := a.wake
		d.s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, nil
		case <-wake:
		}
	}
}

func (d *door) Watch(ctx context.Context, req *linkv1.WatchRequest, stream *connect.ServerStream[linkv1.WatchResponse]) error {
	d.s.mu.Lock()
	_, a, err := d.enter(ctx, &req.Epoch)
	broken := d.s.streamsBroken
	if err == nil {
		a.Watches++
	}
	d.s.mu.Unlock()
	if err != nil {
		return err
	}
	if broken {
		return connect.NewError(connect.CodeUnavailable, errors.New("the stream broke"))
	}
	for {
		messages, err := d.next(ctx, req.Epoch, time.Second)
		if err != nil {
			return err
		}
		if messages == nil {
			messages = []*linkv1.LinkMessage{{Message: &linkv1.LinkMessage_KeepAlive{KeepAlive: &linkv1.KeepAlive{}}}}
		}
		for _, m := range messages {
			if err := stream.Send(&linkv1.WatchResponse{Message: m}); err != nil {
				return err
			}
		}
	}
}

func (d *door) Poll(ctx context.Context, req *linkv1.PollRequest) (*linkv1.PollResponse, error) {
	d.s.mu.Lock()
	if _, a, err := d.enter(ctx, &req.Epoch); err == nil {
		a.Polls++
	}
	d.s.mu.Unlock()
	messages, err := d.next(ctx, req.Epoch, time.Second)
	if err != nil {
		return nil, err
	}
	return &linkv1.PollResponse{Messages: messages}, nil
}

func (d *door) Report(ctx context.Context, req *linkv1.ReportRequest) (*linkv1.ReportResponse, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	_, a, err := d.enter(ctx, &req.Epoch)
	if err != nil {
		return nil, err
	}
	if a.Invalid != nil && slices.ContainsFunc(req.Events, a.Invalid) {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("an event is invalid"))
	}
	if len(req.Events) == 0 {
		a.Beats++
	}
	if req.Facts != nil {
		a.Facts = req.Facts
	}
	a.Samples += len(req.Samples)
	res := &linkv1.ReportResponse{ServerTime: timestamppb.New(d.s.ServerTime())}
	for _, ev := range req.Events {
		a.all = append(a.all, ev)
		key := attemptKey(ev.TaskId, ev.Attempt)
		if reason := a.refuse[fmt.Sprintf("%s#%d", key, ev.Sequence)]; reason != "" {
			res.Refused = append(res.Refused, &linkv1.RefusedEvent{TaskId: ev.TaskId, Attempt: ev.Attempt, Sequence: ev.Sequence, Reason: reason})
			continue
		}
		taken := a.events[key]
		if n := len(taken); n == 0 || taken[n-1].Sequence < ev.Sequence {
			a.events[key] = append(taken, ev)
		}
	}
	close(a.wake)
	a.wake = make(chan struct{})
	return res, nil
}

func (d *door) Renew(ctx context.Context, req *linkv1.RenewRequest) (*linkv1.RenewResponse, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	server, a, err := d.enter(ctx, &req.Epoch)
	if err != nil {
		return nil, err
	}
	id, serial, err := d.s.certify(server, req.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	a.Next = serial
	return &linkv1.RenewResponse{Identity: id}, nil
}

func (d *door) ReportLogs(ctx context.Context, req *linkv1.ReportLogsRequest) (*linkv1.ReportLogsResponse, error) {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	_, a, err := d.enter(ctx, &req.Epoch)
	if err != nil {
		return nil, err
	}
	if a.Logs == nil {
		a.Logs = map[string][]string{}
	}
	for _, line := range req.Lines {
		a.Logs[req.WatchId] = append(a.Logs[req.WatchId], line.Text)
	}
	return &linkv1.ReportLogsResponse{Wanted: !a.Unwanted[req.WatchId]}, nil
}

func attemptKey(task string, attempt uint32) string { return fmt.Sprintf("%s/%d", task, attempt) }

// Sign fills in what an order leaves out, the next fence above all, and signs it.
func (s *Server) Sign(server string, o *orderv1.Order) *orderv1.SignedOrder {
	s.mu.Lock()
	a := s.agents[server]
	if o.Fence == 0 {
		a.Fence++
		o.Fence = a.Fence
	}
	s.mu.Unlock()
	return Sign(s.Signer, server, s.ServerTime(), o)
}

// Sign fills in what an order leaves out, but for the fence, and signs it.
func Sign(key ed25519.PrivateKey, server string, now time.Time, o *orderv1.Order) *orderv1.SignedOrder {
	o.Schema = contract.OrderSchema
	if o.TaskId == "" {
		o.TaskId = contract.NewTaskID().String()
	}
	if o.ServerId == "" {
		o.ServerId = server
	}
	if o.OrganizationId == "" {
		o.OrganizationId = "00000000-0000-0000-0000-000000000000"
	}
	o.Attempt = max(o.Attempt, 1)
	o.Nonce = make([]byte, 16)
	rand.Read(o.Nonce)
	o.IssueTime = timestamppb.New(now)
	if o.ExpireTime == nil {
		o.ExpireTime = timestamppb.New(now.Add(time.Minute))
	}
	if o.Timeout == nil {
		o.Timeout = durationpb.New(time.Minute)
	}
	if o.Kind == nil {
		o.Kind = &orderv1.Order_Noop{Noop: &orderv1.Noop{Steps: 2}}
	}
	so, err := contract.SignOrder(key, o)
	if err != nil {
		panic(err) // of a test's own making
	}
	return so
}

// Events gives an attempt's events, each once, in order.
func (s *Server) Events(server, task string, attempt uint32) []*linkv1.TaskEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.agents[server].events[attemptKey(task, attempt)])
}

// Arrivals gives all events as they came, repeats included.
func (s *Server) Arrivals(server string) []*linkv1.TaskEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.agents[server].all)
}

// Result gives an attempt's result, nil while there is none.
func (s *Server) Result(server, task string, attempt uint32) *orderv1.Result {
	for _, ev := range s.Events(server, task, attempt) {
		if r := ev.GetResult(); r != nil {
			return r
		}
	}
	return nil
}

// RefuseEvent has one event refused.
func (s *Server) RefuseEvent(server, task string, attempt uint32, sequence uint64, reason string) {
	s.Look(server, func(a *Agent) { a.refuse[fmt.Sprintf("%s#%d", attemptKey(task, attempt), sequence)] = reason })
}
