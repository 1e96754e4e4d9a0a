package run

import (
	"bytes"
	"cmp"
	"io"
	"strings"
	"sync"
)

const (
	defaultMaxOutput = 1 << 20 // nothing that we parse is larger
	stderrTail       = 4 << 10 // enough for the last words of a program, small enough for a report
	stderrLines      = 8       // lines of it that go into an error text
)

// Result is what a program left behind.
type Result struct {
	Stdout    []byte
	Stderr    []byte // its last 4 KiB
	Truncated bool   // stdout was longer than MaxOutput
}

// LastWords are the last lines of stderr, as one line for an error's text.
func (r Result) LastWords() string { return lastLines(r.Stderr, stderrLines) }

// Gather reads what a program writes, both streams to their ends, and keeps of
// stdout the given number of bytes; 0 is 1 MiB.
func Gather(stdout, stderr io.Reader, most int) Result {
	out := newOutput(most)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(&out.head, stdout) }) // what can't be read was not said
	both.Go(func() { _, _ = io.Copy(&out.tail, stderr) })
	both.Wait()
	return out.result()
}

// output keeps as much of a program's two streams as a Result holds.
type output struct {
	head
	tail
}

func newOutput(most int) *output {
	return &output{head{limit: cmp.Or(most, defaultMaxOutput)}, tail{limit: stderrTail}}
}

func (o *output) result() Result {
	return Result{Stdout: o.head.Bytes(), Stderr: o.tail.Bytes(), Truncated: o.dropped}
}

// head keeps the first bytes and drops the rest, so that a noisy program is
// neither blocked nor able to fill our memory.
type head struct {
	buf     bytes.Buffer // not embedded: its ReadFrom would bypass the limit
	limit   int
	dropped bool
}

func (h *head) Write(p []byte) (int, error) {
	n := len(p)
	if room := h.limit - h.buf.Len(); n > room {
		p, h.dropped = p[:max(room, 0)], true
	}
	h.buf.Write(p) // never fails
	return n, nil
}

func (h *head) Bytes() []byte { return h.buf.Bytes() }

// tail keeps the last bytes: that is where programs say why they failed.
type tail struct {
	buf   []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.limit {
		p = p[len(p)-t.limit:]
	}
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return n, nil
}

func (t *tail) Bytes() []byte { return t.buf }

// lastLines gives the last n lines that hold anything, as one line without
// control characters: it ends up in logs and on terminals.
func lastLines(b []byte, n int) string {
	var lines []string
	for l := range strings.Lines(strings.ToValidUTF8(string(b), "\uFFFD")) {
		l = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
				return ' '
			}
			return r
		}, l))
		if l != "" {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
