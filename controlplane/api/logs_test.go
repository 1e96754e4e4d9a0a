package api

import (
	"context"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"

	"chom.dev/proto/contract"
)

func TestWatchLogs(t *testing.T) {
	w := sqliteWorld(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	watch := func(text, organization, site string) (*connect.ServerStreamForClient[sitev1.WatchLogsResponse], error) {
		ctx, info := connect.NewClientContext(ctx)
		info.RequestHeader().Set("Authorization", "Bearer "+text)
		return sitev1connect.NewSiteServiceClient(http.DefaultClient, w.url).WatchLogs(ctx, &sitev1.WatchLogsRequest{OrganizationId: organization, SiteId: site})
	}
	refusal := func(text, organization, site string) error {
		stream, err := watch(text, organization, site)
		if err != nil {
			return err
		}
		defer stream.Close()
		if stream.Receive() {
			t.Fatal("it begins")
		}
		return stream.Err()
	}

	// Nobody's server is connected at first.
	if err := refusal(w.ours.member, w.ours.organization, w.ours.site); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a server that is away: %v", err)
	}
	asked := make(chan struct{}, 100)
	w.config.Logs.Connect(func(contract.ServerID) bool { asked <- struct{}{}; return true })
	for name, test := range map[string]struct {
		text, organization, site string
		code                     connect.Code
	}{
		"a viewer":                           {w.ours.viewer, w.ours.organization, w.ours.site, connect.CodePermissionDenied},
		"nobody":                             {"", w.ours.organization, w.ours.site, connect.CodeUnauthenticated},
		"another organization's site":        {w.ours.member, w.theirs.organization, w.theirs.site, connect.CodeNotFound},
		"another organization's site as own": {w.ours.member, w.ours.organization, w.theirs.site, connect.CodeNotFound},
	} {
		if err := refusal(test.text, test.organization, test.site); connect.CodeOf(err) != test.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(asked) > 0 {
		t.Error("a server was asked for somebody who may not look")
	}

	seen := make(chan string, 1)
	go func() {
		stream, err := watch(w.ours.member, w.ours.organization, w.ours.site) // comes back with the first message
		if err == nil && stream.Receive() {
			seen <- stream.Msg().GetLines()[0].GetText()
		}
	}()
	<-asked
	of, err := contract.ParseOrganizationID(w.ours.organization)
	must(t, err)
	id, err := contract.ParseSiteID(w.ours.site)
	must(t, err)
	found, err := w.sites.Get(t.Context(), of, id)
	must(t, err)
	server := found.Server
	show := w.config.Logs.Asked(server)
	if len(show) != 1 || show[0].GetSiteId() != w.ours.site || len(show[0].GetSources()) != 3 {
		t.Fatalf("the server is asked %v", show)
	}
	line := &sitev1.LogLine{Source: sitev1.LogSource_LOG_SOURCE_PHP, Text: "PHP Warning"}
	if !w.config.Logs.Report(server, show[0].GetWatchId(), []*sitev1.LogLine{line}, time.Now()) {
		t.Fatal("it is not wanted")
	}
	if text := <-seen; text != "PHP Warning" {
		t.Errorf("seen: %q", text)
	}
	leave()
	gone, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for w.config.Logs.Report(server, show[0].GetWatchId(), nil, time.Now()) {
		select {
		case <-gone.Done():
			t.Fatal("it is wanted although its caller has left")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
