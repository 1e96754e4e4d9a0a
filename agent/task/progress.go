package task

import (
	"slices"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

const (
	progressEvery = time.Second // people look on; more often is work for nothing
	maxProgress   = 100         // limit of chom.link.v1.ReportRequest.progress
	maxDoing      = 64          // limits of chom.task.v1.Progress
	maxMoved      = 1 << 50
)

// pace is how far an attempt is, as far as it is still to be told. It is in memory
// alone: what a crash takes of it is said anew in a moment.
type pace struct {
	news *linkv1.TaskProgress // nil once it was told
	next time.Time            // when more may be told
}

// progress notes how far a step is. Of what comes within a second the last is told.
func (e *Engine) progress(a *attempt, step string, p Progress) {
	if p.Doing = Line(p.Doing, maxDoing); p.Doing == "" {
		return
	}
	p.Done, p.Total = min(p.Done, maxMoved), min(p.Total, maxMoved)
	if p.Total < p.Done {
		p.Total = 0 // whoever said so did not know
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.live[a.key] != a {
		return
	}
	of := e.paces[a.key]
	if of == nil {
		of = new(pace)
		e.paces[a.key] = of
	}
	first := of.news == nil
	of.news = &linkv1.TaskProgress{
		TaskId: a.key.Task.String(), Attempt: a.key.Number, Step: step,
		Progress: &taskv1.Progress{DoneBytes: p.Done, TotalBytes: p.Total, Doing: p.Doing},
	}
	if first {
		e.ringAt(of.next)
	}
}

// due is what may be told now. Called with mu held.
func (e *Engine) due(now time.Time) (all []*linkv1.TaskProgress) {
	for _, of := range e.paces {
		if of.news != nil && !now.Before(of.next) && len(all) < maxProgress {
			all = append(all, of.news)
		}
	}
	return all
}

// told has the next be told in a second. Called with mu held.
func (e *Engine) told(all []*linkv1.TaskProgress, now time.Time) {
	for key, of := range e.paces {
		i := slices.IndexFunc(all, func(p *linkv1.TaskProgress) bool { return p.TaskId == key.Task.String() && p.Attempt == key.Number })
		if i < 0 {
			continue
		}
		of.next = now.Add(progressEvery)
		if of.news == all[i] {
			of.news = nil
		} else {
			e.ringAt(of.next)
		}
	}
}

// ringAt wakes the link then.
func (e *Engine) ringAt(at time.Time) {
	if wait := time.Until(at); wait > 0 {
		time.AfterFunc(wait, e.ring)
		return
	}
	e.ring()
}
