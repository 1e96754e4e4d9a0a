package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

var logSources = map[string]sitev1.LogSource{
	"access": sitev1.LogSource_LOG_SOURCE_ACCESS,
	"error":  sitev1.LogSource_LOG_SOURCE_ERROR,
	"php":    sitev1.LogSource_LOG_SOURCE_PHP,
}

func (p *program) siteLogs() *cobra.Command {
	var follow bool
	var named []string
	var lines int32
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a site logs: its requests, what nginx found wrong, and what PHP said",
		Long: `Logs prints the last lines of a site's logs, oldest first, and with --follow each new one as it is written.

With --follow -o json each is one line of JSON, with -o yaml one document.

They lie on the site's server and are kept nowhere else, so the server must be connected. They hold the addresses of visitors:
who may only look at an organization is not shown them.`,
		Example: `  chom site logs blog --follow
  chom site logs blog --source error,php --lines 200`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if lines < 1 || lines > 500 {
				return usagef("--lines: must be 1 to 500")
			}
			var sources []sitev1.LogSource
			for _, name := range named {
				source, known := logSources[name]
				if !known {
					return usagef("--source: must be of access, error, php")
				}
				if !slices.Contains(sources, source) {
					sources = append(sources, source)
				}
			}
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			show := logPrinter{p: p, c: c, request: &sitev1.WatchLogsRequest{OrganizationId: organization, SiteId: id, Sources: sources, Lines: lines}}
			if follow {
				return show.follow(ctx)
			}
			return show.last(ctx)
		}),
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with each new line, until Ctrl-C")
	f.StringSliceVar(&named, "source", []string{"access", "error", "php"}, "which logs")
	f.Int32Var(&lines, "lines", 50, "how many of the last lines to begin with, of each log, up to 500")
	return cmd
}

// logPrinter prints what a site logs.
type logPrinter struct {
	p       *program
	c       *client
	request *sitev1.WatchLogsRequest
	newest  []*sitev1.LogLine // what was printed last, to go on behind it where a stream broke
}

// last prints the last lines: all that comes until it is quiet for a moment.
func (l *logPrinter) last(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	quiet := time.AfterFunc(time.Hour, stop)
	defer quiet.Stop()
	answered := false
	var lines []*sitev1.LogLine
	err := l.watch(ctx, func(more []*sitev1.LogLine) error {
		answered = true
		lines = append(lines, more...)
		quiet.Reset(quietAfter)
		return nil
	})
	if answered && ctx.Err() != nil {
		err = nil // it was ours
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(lines, func(a, b *sitev1.LogLine) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
	return l.p.print(list(lines), nil, func() error { return l.print(lines) })
}

// quietAfter leaves the server's journal time to be asked, while a server looks at its other logs four times a second.
const quietAfter = time.Second

// follow prints until ctx ends. A broken stream is taken up again where it was.
func (l *logPrinter) follow(ctx context.Context) error {
	var lost time.Time
	for {
		again := !lost.IsZero() || len(l.newest) > 0
		err := l.watch(ctx, func(lines []*sitev1.LogLine) error {
			lost = time.Time{}
			if again {
				lines = unseen(l.newest, lines)
				again = false
			}
			return l.print(lines)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeInternal || len(l.newest) == 0 && lost.IsZero() {
			return err
		}
		if lost.IsZero() {
			lost = time.Now()
			fmt.Fprintln(l.p.err, plain(connectText(err))+"; trying to come back to it")
		} else if time.Since(lost) > giveUpWatching {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func connectText(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		return e.Message()
	}
	return err.Error()
}

// watch calls take with lines until the stream ends, which is always an error.
func (l *logPrinter) watch(ctx context.Context, take func([]*sitev1.LogLine) error) error {
	stream, err := l.c.Sites.WatchLogs(ctx, l.request)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // the stream is over; there is nobody to tell
	for stream.Receive() {
		if err := take(stream.Msg().GetLines()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return connect.NewError(connect.CodeUnavailable, io.ErrUnexpectedEOF)
}

// unseen are those of the first lines of a new stream that come after the ones that were printed, of each log by itself.
func unseen(printed, lines []*sitev1.LogLine) []*sitev1.LogLine {
	last := map[sitev1.LogSource]*sitev1.LogLine{}
	for _, line := range printed {
		last[line.GetSource()] = line
	}
	behind := map[sitev1.LogSource]int{}
	for i, line := range lines {
		if seen := last[line.GetSource()]; seen != nil && seen.GetText() == line.GetText() && proto.Equal(seen.GetTime(), line.GetTime()) {
			behind[line.GetSource()] = i + 1
		}
	}
	var out []*sitev1.LogLine
	for i, line := range lines {
		if i >= behind[line.GetSource()] {
			out = append(out, line)
		}
	}
	return out
}

func (l *logPrinter) print(lines []*sitev1.LogLine) error {
	for _, line := range lines {
		if err := l.printLine(line); err != nil {
			return err
		}
		l.newest = append(slices.DeleteFunc(l.newest, func(old *sitev1.LogLine) bool { return old.GetSource() == line.GetSource() }), line)
	}
	return nil
}

func (l *logPrinter) printLine(line *sitev1.LogLine) error {
	if n := line.GetLeftOut(); n > 0 {
		fmt.Fprintf(l.p.err, "... %d lines left out: there were too many at once\n", n)
	}
	if l.p.format != "table" {
		return l.p.printOne(line)
	}
	source := strings.TrimPrefix(strings.ToLower(line.GetSource().String()), "log_source_")
	_, err := fmt.Fprintf(l.p.out, "%-6s %s\n", source, plain(line.GetText()))
	return err
}
