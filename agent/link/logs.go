package link

import (
	"context"
	"sync"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// maxLooks is how many may look at logs at once; the control plane asks for no more.
const maxLooks = 20

// Logs are those of the host's sites.
type Logs interface {
	// Show reports a site's logs until they are not wanted any more, a report fails, or the context ends.
	Show(ctx context.Context, wanted *linkv1.ShowLogs, report func(context.Context, []*sitev1.LogLine) (wanted bool, err error)) error
}

// show has logs shown. What is asked for beyond all bounds is passed over.
func (s *session) show(m *linkv1.ShowLogs) {
	if s.cfg.Logs == nil {
		return
	}
	select {
	case s.shows <- m:
	default:
	}
}

// showLogs shows what is asked for, each look by itself, and ends them all with the session: whoever still looks after that asks anew.
func (s *session) showLogs(ctx context.Context) error {
	var (
		shown sync.WaitGroup
		mu    sync.Mutex
		looks = map[string]bool{}
		turn  = make(chan struct{}, 1) // one call at a time: the control plane takes few of an agent
	)
	defer shown.Wait()
	begin := func(id string) bool {
		mu.Lock()
		defer mu.Unlock()
		if looks[id] || len(looks) >= maxLooks {
			return false
		}
		looks[id] = true
		return true
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-s.shows:
			if !begin(m.GetWatchId()) {
				continue
			}
			shown.Go(func() {
				err := s.cfg.Logs.Show(ctx, m, func(ctx context.Context, lines []*sitev1.LogLine) (bool, error) {
					select {
					case turn <- struct{}{}:
						defer func() { <-turn }()
					case <-ctx.Done():
						return false, ctx.Err()
					}
					return s.reportLogs(ctx, m.GetWatchId(), lines)
				})
				if err != nil && ctx.Err() == nil {
					s.cfg.Log.Warn("a site's logs are not shown any more", "site", m.GetSiteId(), "err", err)
				}
				mu.Lock()
				defer mu.Unlock()
				delete(looks, m.GetWatchId())
			})
		}
	}
}

func (s *session) reportLogs(ctx context.Context, watch string, lines []*sitev1.LogLine) (wanted bool, err error) {
	ctx, stop := context.WithTimeout(ctx, callFor)
	defer stop()
	res, err := s.client.ReportLogs(ctx, &linkv1.ReportLogsRequest{Epoch: s.epoch, WatchId: watch, Lines: lines})
	if err != nil {
		return false, err
	}
	return res.GetWanted(), nil
}
