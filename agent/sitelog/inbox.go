package sitelog

import (
	"sync"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	// bytesPerSecond of one look: more than anybody reads. With maxLooks of agent/link it stays below what the control plane takes of an
	// agent in all.
	bytesPerSecond = 40 << 10
	// bytesBurst has room for the last lines of all logs.
	bytesBurst = 256 << 10
	// lineCost is what a short line takes besides its text.
	lineCost = 32
)

// inbox holds lines until they are reported, as many as may be.
type inbox struct {
	mu      sync.Mutex
	lines   []*sitev1.LogLine
	left    int // bytes that may still come in
	filled  time.Time
	leftOut uint32 // since the last line that came in
}

func newInbox(now time.Time) *inbox { return &inbox{left: bytesBurst, filled: now} }

func (in *inbox) add(source sitev1.LogSource, at time.Time, text string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	cost := min(len(text), maxText) + lineCost
	if cost > in.left {
		in.leftOut++
		return
	}
	in.left -= cost
	l := line(source, at, text)
	l.LeftOut, in.leftOut = in.leftOut, 0
	in.lines = append(in.lines, l)
}

// take gives what has come in, at most so many lines.
func (in *inbox) take(most int) []*sitev1.LogLine {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(len(in.lines), most)
	out := in.lines[:n:n]
	in.lines = in.lines[n:]
	return out
}

func (in *inbox) refill(now time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.left = min(in.left+int(now.Sub(in.filled).Seconds()*bytesPerSecond), bytesBurst)
	in.filled = now
}
