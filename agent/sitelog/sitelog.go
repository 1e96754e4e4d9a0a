// Package sitelog shows the logs of the host's sites while somebody looks at them: the last lines first, then each new one. It reads
// what root and the journal have written, never a tenant's files, and keeps nothing.
//
// What nginx writes is looked at four times a second; what PHP says comes from the journal as it is said. Visitors decide how much
// there is of both, so a look has so many bytes a second, and what is more is left out, and counted.
package sitelog

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/logfile"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	lookEvery = 250 * time.Millisecond
	// askEvery is how long it may be quiet before it is asked whether anybody still looks.
	askEvery  = 2 * time.Second
	maxReport = 200  // limits of chom.link.v1.ReportLogsRequest
	maxText   = 4096 //
	maxLines  = 500  // of chom.site.v1.WatchLogsRequest
)

// Registry is what Logs need of the task engine.
type Registry interface {
	Sites() ([]task.Site, error)
}

// Config is what Logs need.
type Config struct {
	Registry Registry
	Access   func(contract.Handle) string // where nginx logs a site's requests
	Error    func(contract.Handle) string // and what it finds wrong
	Log      *slog.Logger
}

// Logs are those of all sites. Make them with New.
type Logs struct {
	cfg     Config
	journal func(ctx context.Context, h contract.Handle, lines int, take func(time.Time, string)) error
}

// New shows the logs of a registry's sites.
func New(cfg Config) *Logs { return &Logs{cfg: cfg, journal: followJournal} }

// report hands lines to whoever looks, none to ask whether anybody does.
type report = func(ctx context.Context, lines []*sitev1.LogLine) (wanted bool, err error)

// Show reports a site's logs until they are not wanted any more, a report fails, or the context ends.
func (l *Logs) Show(ctx context.Context, wanted *linkv1.ShowLogs, report report) error {
	site, err := l.site(wanted.GetSiteId())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	in := newInbox(time.Now())
	lines := min(int(wanted.GetLines()), maxLines)
	var files []*file
	for _, source := range wanted.GetSources() {
		switch source {
		case sitev1.LogSource_LOG_SOURCE_ACCESS:
			files = append(files, &file{path: l.cfg.Access(site.Handle), source: source, lines: lines, at: accessTime})
		case sitev1.LogSource_LOG_SOURCE_ERROR:
			files = append(files, &file{path: l.cfg.Error(site.Handle), source: source, lines: lines, at: errorTime})
		case sitev1.LogSource_LOG_SOURCE_PHP:
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				err := l.journal(ctx, site.Handle, lines, func(at time.Time, text string) { in.add(source, at, text) })
				if err != nil && ctx.Err() == nil {
					l.cfg.Log.Warn("what PHP says can't be followed", "site", site.ID, "err", err)
				}
			}()
			defer func() { stop(); <-ended }()
		case sitev1.LogSource_LOG_SOURCE_UNSPECIFIED: // nobody asks for that
		}
	}
	return follow(ctx, files, in, report)
}

func (l *Logs) site(id string) (task.Site, error) {
	sites, err := l.cfg.Registry.Sites()
	if err != nil {
		return task.Site{}, err
	}
	for _, site := range sites {
		if site.ID.String() == id {
			return site, nil
		}
	}
	return task.Site{}, fmt.Errorf("site %s is not on this host", id)
}

// follow looks again and again. What is there at the beginning is told at once, even if it is nothing.
func follow(ctx context.Context, files []*file, in *inbox, report report) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var told time.Time
	for {
		for _, f := range files {
			if err := f.read(in); err != nil {
				return err
			}
		}
		for {
			lines := in.take(maxReport)
			if len(lines) == 0 && time.Since(told) < askEvery {
				break
			}
			wanted, err := report(ctx, lines)
			if err != nil || !wanted {
				return err
			}
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			in.refill(time.Now())
		}
	}
}

// file is a log of nginx's that is followed.
type file struct {
	path   string
	source sitev1.LogSource
	lines  int // to begin with
	at     func(line []byte) time.Time

	mark logfile.Bookmark
}

func (f *file) read(in *inbox) error {
	take := func(line []byte) { in.add(f.source, f.at(line), string(line)) }
	if f.mark.Now.Inode != 0 {
		return f.mark.Read(f.path, take)
	}
	last, mark, err := logfile.Tail(f.path, f.lines)
	if err != nil {
		return err
	}
	for _, line := range last {
		take(line)
	}
	f.mark, f.lines = mark, maxLines // a log that was not there yet is new as a whole
	return nil
}

// line makes a line as it is reported.
func line(source sitev1.LogSource, at time.Time, text string) *sitev1.LogLine {
	if at.IsZero() {
		at = time.Now()
	}
	return &sitev1.LogLine{Source: source, Time: timestamppb.New(at), Text: task.Line(text, maxText)}
}
