package link_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/sitelog"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestLogs(t *testing.T) {
	dbtest.Each(t, logs)
}

func logs(t *testing.T, d *db.DB) {
	hub := sitelog.New()
	w := newWorld(t, d, func(c *link.Config) { c.Logs = hub })
	h, other := w.enroll("web1"), w.enroll("web2")
	h.hello()
	other.hello()
	server, err := contract.ParseServerID(h.id)
	if err != nil {
		t.Fatal(err)
	}
	access := sitev1.LogSource_LOG_SOURCE_ACCESS
	look := func() (lines chan string, ended chan error) {
		lines, ended = make(chan string, 100), make(chan error, 1)
		wanted := sitelog.Wanted{Organization: contract.NewOrganizationID(), Site: contract.NewSiteID(), Server: server, Sources: []sitev1.LogSource{access}, Lines: 7}
		go func() {
			ended <- hub.Watch(t.Context(), wanted, func(some []*sitev1.LogLine) error {
				for _, line := range some {
					lines <- line.GetText()
				}
				return nil
			})
		}()
		return lines, ended
	}
	report := func(h *host, id string, texts ...string) (bool, error) {
		req := &linkv1.ReportLogsRequest{Epoch: h.epoch, WatchId: id}
		for _, text := range texts {
			req.Lines = append(req.Lines, &sitev1.LogLine{Source: access, Time: timestamppb.Now(), Text: text})
		}
		res, err := h.client.ReportLogs(context.Background(), req)
		return res.GetWanted(), err
	}

	s := h.watch().opened(t)
	others := other.watch().opened(t)
	lines, ended := look()
	show := s.next(t, time.Second).GetShowLogs()
	if show.GetLines() != 7 || show.GetWatchId() == "" {
		t.Fatalf("the server is told %v", show)
	}
	if wanted, err := report(other, show.GetWatchId(), "forged"); err != nil || wanted {
		t.Errorf("another server's word: %t %v", wanted, err)
	}
	if wanted, err := report(h, show.GetWatchId(), "a visit\x1b[31m"); err != nil || !wanted {
		t.Fatalf("the server's word: %t %v", wanted, err)
	}
	select {
	case line := <-lines:
		if line != "a visit\uFFFD[31m" {
			t.Errorf("seen: %q", line)
		}
	case <-time.After(time.Second):
		t.Error("nothing is seen within a second")
	}
	if _, err := report(h, "no uuid"); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	if _, err := report(h, show.GetWatchId(), make([]string, 201)...); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Error(err)
	}
	select {
	case m := <-others.messages:
		t.Errorf("the other server is told %v", m)
	default:
	}

	// An agent that begins anew knows of nothing; who looks comes back and is told anew.
	h.hello()
	select {
	case err := <-ended:
		if !errors.Is(err, sitelog.ErrAway) {
			t.Error(err)
		}
	case <-time.After(time.Second):
		t.Error("it goes on although the server has begun anew")
	}
	if wanted, err := report(h, show.GetWatchId(), "late"); err != nil || wanted {
		t.Errorf("a look that is over: %t %v", wanted, err)
	}
	s = h.watch().opened(t)
	look()
	if again := s.next(t, time.Second).GetShowLogs(); again == nil || again.GetWatchId() == show.GetWatchId() {
		t.Errorf("the server is told %v", again)
	}
}
