package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// barWidth leaves room for the words behind it on a line of 80.
const barWidth = 24

// bar draws how far a step is; nothing where nobody knows how much there is.
func bar(p *taskv1.Progress) string {
	if p.GetTotalBytes() == 0 {
		return ""
	}
	full := int(barWidth * min(float64(p.GetDoneBytes())/float64(p.GetTotalBytes()), 1))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "] "
}

// progressText says how far a step is: "45 %, 4.5 GiB of 10 GiB, 52 MiB/s, files".
func progressText(p *taskv1.Progress, perSecond uint64) string {
	text := cmp.Or(bytesText(p.GetDoneBytes()), "0 B")
	if total := p.GetTotalBytes(); total > 0 {
		text = fmt.Sprintf("%d %%, %s of %s", min(100*p.GetDoneBytes()/total, 100), text, bytesText(total))
	}
	if perSecond > 0 {
		text += ", " + bytesText(perSecond) + "/s"
	}
	return text + ", " + plain(p.GetDoing())
}

// rateOver is how much of the past a rate is of: restic speaks of what it has done in leaps.
const rateOver = 10 * time.Second

// rate is how fast bytes are done, as far as was heard lately.
type rate struct {
	doing string
	heads []head
}

// head is when how many bytes were done.
type head struct {
	at   time.Time
	done uint64
}

func (r *rate) heard(p *taskv1.Progress, now time.Time) {
	last := len(r.heads) - 1
	if p == nil || p.GetDoing() != r.doing || last >= 0 && p.GetDoneBytes() < r.heads[last].done {
		r.doing, r.heads, last = p.GetDoing(), nil, -1 // something else, or begun anew
	}
	if p == nil || last >= 0 && p.GetDoneBytes() == r.heads[last].done {
		return
	}
	r.heads = append(r.heads, head{now, p.GetDoneBytes()})
	for len(r.heads) > 2 && now.Sub(r.heads[0].at) > rateOver {
		r.heads = r.heads[1:]
	}
}

// perSecond is 0 before anything can be said.
func (r *rate) perSecond() uint64 {
	if len(r.heads) < 2 {
		return 0
	}
	first, last := r.heads[0], r.heads[len(r.heads)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0
	}
	return uint64(float64(last.done-first.done) / seconds)
}
