package task

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

const (
	// textMax is the limit of a line and of an error in the proto.
	textMax = 4096
	// linesMax and bytesMax bound what one task may print in all its attempts.
	linesMax = 2000
	bytesMax = 1 << 20
)

// line adds a log line, up to the task's limits.
func (c *change) line(e *linkv1.TaskEvent, text string) {
	t := c.t
	if t.logSequence >= linesMax || t.logBytes >= bytesMax {
		return
	}
	text = Text(text, textMax)
	t.logSequence++
	t.logBytes += int64(len(text))
	if t.logSequence == linesMax || t.logBytes >= bytesMax {
		text = "the task prints more than is kept; the rest is left out"
	}
	c.lines = append(c.lines, LogLine{Sequence: uint64(t.logSequence), Time: agentTime(e.GetTime(), c.now), Text: text})
}

// Text makes what a host said fit to be stored and shown: valid UTF-8 of at
// most limit bytes, without control, format and direction characters, which
// turn into spaces. It stays hostile in every other way: escape it where it is
// shown.
func Text(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			s = s[:len(s)-1]
		}
	}
	return strings.TrimRight(s, " ")
}

// agentTime is a time by an agent's clock; nonsense gives ours.
func agentTime(ts *timestamppb.Timestamp, now time.Time) time.Time {
	if ts.CheckValid() != nil || ts.GetSeconds() <= 0 {
		return now
	}
	return ts.AsTime()
}
