package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// fakeAgent is the outside of an agent: it enrols, listens and reports, but does nothing to a host. It keeps no journal, so
// it is of no use for anything but commands that wait for something to be done.
type fakeAgent struct {
	url      string
	instance string
	link     linkv1connect.LinkServiceClient
	prepared bool
	ended    []*linkv1.JournalEntry
}

func facts(prepared bool) *fleetv1.Facts {
	return &fleetv1.Facts{Hostname: "fake", Os: "debian 12", Arch: "amd64", CpuCount: 2, MemoryBytes: 4 << 30, Prepared: prepared}
}

func enroll(ctx context.Context, address, token string) (*fakeAgent, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	a := &fakeAgent{url: "https://" + address, instance: uuid.NewString()}
	// A real agent checks the pin of the token here.
	first := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}} //nolint:gosec // a test against its own child
	made, err := linkv1connect.NewEnrollmentServiceClient(first, a.url).Enroll(ctx, &linkv1.EnrollRequest{
		Token: token, EnrollmentId: uuid.NewString(), Csr: csr, Facts: facts(false),
	})
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	roots := x509.NewCertPool()
	for _, der := range made.GetIdentity().GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		roots.AddCert(root)
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: "link.chom.internal", MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{made.GetIdentity().GetCertificate()}, PrivateKey: key}},
	}}}
	a.link = linkv1connect.NewLinkServiceClient(client, a.url)
	return a, nil
}

// run holds the link and comes back when it breaks, until ctx ends.
func (a *fakeAgent) run(ctx context.Context, behave string) error {
	for {
		err := a.session(ctx, behave)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if code := connect.CodeOf(err); code == connect.CodePermissionDenied || code == connect.CodeInvalidArgument {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (a *fakeAgent) session(ctx context.Context, behave string) error {
	hello, err := a.link.Hello(ctx, &linkv1.HelloRequest{ProtocolVersion: 1, InstanceId: a.instance, Facts: facts(a.prepared), Journal: a.ended})
	if err != nil {
		return err
	}
	stream, err := a.link.Watch(ctx, &linkv1.WatchRequest{Epoch: hello.GetEpoch()})
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if show := stream.Msg().GetMessage().GetShowLogs(); show != nil && behave != "silent" {
			go a.show(ctx, hello.GetEpoch(), show)
		}
		offer := stream.Msg().GetMessage().GetOffer()
		if offer == nil {
			continue
		}
		var order orderv1.Order
		if err := proto.Unmarshal(offer.GetOrder(), &order); err != nil {
			return err
		}
		if behave == "silent" && order.GetPrepareServer() == nil {
			continue // as if the order were lost on the way
		}
		if err := a.do(ctx, hello.GetEpoch(), &order, behave); err != nil {
			return err
		}
	}
	return stream.Err()
}

// show reports two visits and a fault, then a visit after the other until nobody looks.
func (a *fakeAgent) show(ctx context.Context, epoch uint64, wanted *linkv1.ShowLogs) {
	line := func(source sitev1.LogSource, text string) *sitev1.LogLine {
		return &sitev1.LogLine{Source: source, Time: timestamppb.Now(), Text: text}
	}
	lines := []*sitev1.LogLine{
		line(sitev1.LogSource_LOG_SOURCE_ACCESS, "visit 1"), line(sitev1.LogSource_LOG_SOURCE_ACCESS, "visit 2 by \x1b[31mred"),
		line(sitev1.LogSource_LOG_SOURCE_ERROR, "fault 1"),
	}
	for visit := 3; ; visit++ {
		res, err := a.link.ReportLogs(ctx, &linkv1.ReportLogsRequest{Epoch: epoch, WatchId: wanted.GetWatchId(), Lines: lines})
		if err != nil || !res.GetWanted() {
			return
		}
		lines = nil
		if visit > 3 {
			time.Sleep(time.Second)
			lines = append(lines, line(sitev1.LogSource_LOG_SOURCE_ACCESS, fmt.Sprintf("visit %d", visit-1)))
		} else {
			time.Sleep(2 * time.Second)
		}
	}
}

// do reports two steps and a result.
func (a *fakeAgent) do(ctx context.Context, epoch uint64, order *orderv1.Order, behave string) error {
	var sequence uint64
	event := func() *linkv1.TaskEvent {
		sequence++
		return &linkv1.TaskEvent{TaskId: order.GetTaskId(), Attempt: order.GetAttempt(), Fence: order.GetFence(), Sequence: sequence, Time: timestamppb.Now()}
	}
	accepted, started, log, done, ended := event(), event(), event(), event(), event()
	accepted.Event = &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{StepCount: 1}}
	started.Event = &linkv1.TaskEvent_StepStarted{StepStarted: &linkv1.StepStarted{Name: "pretend"}}
	log.Event = &linkv1.TaskEvent_Log{Log: &linkv1.LogText{Text: "pretending"}}
	state, result := taskv1.StepState_STEP_STATE_DONE, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}
	if behave == "badly" && order.GetPrepareServer() == nil {
		state, result = taskv1.StepState_STEP_STATE_FAILED, &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: "the disk is full"}
	} else if d := order.GetConvergeSite().GetDesired(); d != nil {
		result.Observed = &sitev1.ObservedState{SiteId: d.SiteId, Generation: d.Generation, Phase: d.Phase, HttpStatus: 200, PageTitle: d.Settings["title"], ObserveTime: timestamppb.Now()}
	}
	done.Event = &linkv1.TaskEvent_StepEnded{StepEnded: &linkv1.StepEnded{Name: "pretend", State: state, Message: result.GetError()}}
	ended.Event = &linkv1.TaskEvent_Result{Result: result}
	a.prepared = a.prepared || order.GetPrepareServer() != nil
	_, err := a.link.Report(ctx, &linkv1.ReportRequest{
		Epoch: epoch, Facts: facts(a.prepared), Events: []*linkv1.TaskEvent{accepted, started, log, done, ended}, Samples: sizes(result.GetObserved().GetSiteId()),
	})
	return err
}

// sizes are what a site takes of the disk; of no site there are none.
func sizes(site string) []*linkv1.Sample {
	if site == "" {
		return nil
	}
	return []*linkv1.Sample{
		{Series: "chom_site_disk_bytes", Value: 91 << 20, SiteId: site}, {Series: "chom_site_files", Value: 3600, SiteId: site},
		{Series: "chom_site_database_bytes", Value: 6.5 * (1 << 20), SiteId: site}, {Series: "chom_site_size_timestamp_seconds", Value: 1_700_000_000, SiteId: site},
	}
}
