package swarm

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// visitEvery is how often somebody visits each site of a simulated host.
const visitEvery = 300 * time.Millisecond

// logs are those of sites that nobody has installed: visits as nginx would log them, one of them by somebody who means harm.
type logs struct{}

// Show reports a visit after the other, and now and then what it went wrong with.
func (logs) Show(ctx context.Context, wanted *linkv1.ShowLogs, report func(context.Context, []*sitev1.LogLine) (bool, error)) error {
	sources := map[sitev1.LogSource]bool{}
	for _, source := range wanted.GetSources() {
		sources[source] = true
	}
	visit := 0
	next := func(at time.Time) (lines []*sitev1.LogLine) {
		for _, line := range visitLines(visit, at) {
			if sources[line.GetSource()] {
				lines = append(lines, line)
			}
		}
		visit++
		return lines
	}
	var lines []*sitev1.LogLine
	began := time.Now()
	for i := range int(wanted.GetLines()) {
		lines = append(lines, next(began.Add(time.Duration(i-int(wanted.GetLines()))*visitEvery))...)
	}
	tick := time.NewTicker(visitEvery)
	defer tick.Stop()
	for {
		few := min(len(lines), 200)
		still, err := report(ctx, lines[:few])
		if err != nil || !still {
			return err
		}
		if lines = lines[few:]; len(lines) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			lines = next(now)
		}
	}
}

var pages = []string{"/", "/about/", "/wp-content/themes/twentytwentyfive/style.css", "/feed/", "/contact/", "/nowhere"}

var visitors = []string{
	"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15",
	`\"><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}`,
	"Googlebot/2.1 (+http://www.google.com/bot.html)",
}

// visitLines is what one visit leaves in the logs.
func visitLines(n int, at time.Time) []*sitev1.LogLine {
	line := func(source sitev1.LogSource, text string) *sitev1.LogLine {
		return &sitev1.LogLine{Source: source, Time: timestamppb.New(at), Text: text}
	}
	page, status := pages[n%len(pages)], 200
	var lines []*sitev1.LogLine
	if page == "/nowhere" {
		status = 404
		lines = append(lines, line(sitev1.LogSource_LOG_SOURCE_ERROR,
			at.Format("2006/01/02 15:04:05")+fmt.Sprintf(` [error] 711#711: *%d open() "/srv/nowhere" failed (2: No such file or directory), client: 198.51.100.%d`, n, n%250+1)))
	}
	if n%8 == 5 {
		lines = append(lines, line(sitev1.LogSource_LOG_SOURCE_PHP, fmt.Sprintf("PHP Warning:  Undefined variable $visit in /wp-content/themes/twentytwentyfive/functions.php on line %d", n%90+10)))
	}
	return append(lines, line(sitev1.LogSource_LOG_SOURCE_ACCESS, fmt.Sprintf(`198.51.100.%d - - [%s] "GET %s?visit=%d HTTP/1.1" %d %d "" "%s" blog.example.com 0.0%d`,
		n%250+1, at.Format("02/Jan/2006:15:04:05 -0700"), page, n, status, 1200+n%700, visitors[n%len(visitors)], n%90+10)))
}
