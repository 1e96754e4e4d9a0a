package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"connectrpc.com/connect"

	"chom.dev/packaging/rig"
)

// TestLogs looks at a site's logs while somebody visits it: what happens on the host is seen within a second.
func TestLogs(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		s := create(t, h, "wordpress")
		plant(t, h, s, public(s)+"/say.php", `<?php error_log("said ".$_GET["word"]."\nand more"); echo "heard";`)
		lines := look(t, s)
		domain := s.GetDomains()[0]

		for n := range 3 {
			word := strings.Repeat("x", n+1) + "-" + s.GetHandle()
			asked := time.Now()
			if page, err := visit(t, h, domain, "/say.php?word="+word); err != nil || page.Body != "heard" {
				t.Fatalf("%v %q", err, page.Body)
			}
			for _, want := range []struct {
				source sitev1.LogSource
				text   string
			}{
				{sitev1.LogSource_LOG_SOURCE_ACCESS, `"GET /say.php?word=` + word + ` HTTP/1.1" 200`},
				{sitev1.LogSource_LOG_SOURCE_PHP, "said " + word},
			} {
				lines.await(t, want.source, want.text, asked)
			}
		}
		if page, err := rig.Visit(timeout(t, 10*time.Second), h.Host, domain, "/wp-content/uploads/none.php"); err != nil || page.Status != 404 {
			t.Errorf("%v %d", err, page.Status)
		}

		// nginx's words, and a log that is rotated meanwhile.
		sh(t, h, "logrotate --force /etc/logrotate.d/chom-sites")
		asked := time.Now()
		if _, err := visit(t, h, domain, "/say.php?word=rotated"); err != nil {
			t.Fatal(err)
		}
		lines.await(t, sitev1.LogSource_LOG_SOURCE_ACCESS, "word=rotated", asked)

		// A tenant who logs under another site's name is not heard there.
		neighbour := create(t, h, "static")
		as(t, h, neighbour, "logger --tag php-"+s.GetHandle()+" forged-by-a-neighbour")
		asked = time.Now()
		if _, err := visit(t, h, domain, "/say.php?word=last"); err != nil {
			t.Fatal(err)
		}
		lines.await(t, sitev1.LogSource_LOG_SOURCE_PHP, "said last", asked)
		for _, line := range lines.seen {
			if strings.Contains(line.GetText(), "forged-by-a-neighbour") {
				t.Errorf("a neighbour's word is in the log: %s", line.GetText())
			}
		}
		lines.leave()

		// Once nobody looks, nothing on the host does.
		sh(t, h, "for i in $(seq 50); do pgrep -f '[_]SYSTEMD_UNIT=chom-php-"+s.GetHandle()+"' >/dev/null || exit 0; sleep 0.1; done; exit 1")
		purge(t, h, neighbour)
		purge(t, h, s)
	})
}

// logLines are those that a look brings.
type logLines struct {
	came  chan *sitev1.LogLine
	seen  []*sitev1.LogLine
	ended chan error
	leave context.CancelFunc
}

// look begins to look at a site's logs, and waits for the server's first word.
func look(t *testing.T, s *sitev1.Site) *logLines {
	t.Helper()
	ctx, leave := context.WithCancel(timeout(t, 5*time.Minute))
	l := &logLines{came: make(chan *sitev1.LogLine, 10_000), ended: make(chan error, 1), leave: leave}
	stream, err := world.rig.Sites.WatchLogs(ctx, &sitev1.WatchLogsRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{})
	go func() {
		for first := true; stream.Receive(); first = false {
			if first {
				close(began)
			}
			for _, line := range stream.Msg().GetLines() {
				l.came <- line
			}
		}
		l.ended <- stream.Err()
	}()
	select {
	case <-began:
	case err := <-l.ended:
		t.Fatal(err)
	case <-time.After(5 * time.Second):
		t.Fatal("the server does not answer")
	}
	return l
}

// await waits for a line that is there within a second of its cause.
func (l *logLines) await(t *testing.T, source sitev1.LogSource, text string, since time.Time) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		for i, line := range l.seen {
			if line.GetSource() == source && strings.Contains(line.GetText(), text) {
				l.seen = append(l.seen[:i:i], l.seen[i+1:]...)
				took := time.Since(since)
				t.Logf("%s %q was seen after %s", source, text, took.Round(time.Millisecond))
				if took > time.Second {
					t.Errorf("%q took %s", text, took)
				}
				return
			}
		}
		select {
		case line := <-l.came:
			l.seen = append(l.seen, line)
		case err := <-l.ended:
			t.Fatalf("the look ended (%s): %v", connect.CodeOf(err), err)
		case <-late:
			t.Fatalf("%q did not come; what came: %v", text, l.seen)
		}
	}
}
