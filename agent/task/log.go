package task

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Log is what a step says while it runs. It may be used from several
// goroutines. People read it in the control plane; it never holds secrets. The
// zero value goes unheard.
type Log struct {
	print    func(line string)
	progress func(Progress)
	note     string
}

// Progress is how far a step is that moves many bytes.
type Progress struct {
	Doing string // a word or two
	Done  uint64 // bytes
	Total uint64 // bytes in all, as far as is known; 0 when it is not
}

// Progress tells how far the step is. It takes no room in the log, and may be
// told as often as one likes: people see the last of each second.
func (l *Log) Progress(p Progress) {
	if l.progress != nil {
		l.progress(p)
	}
}

// Printf sends one line per line of the text. Control characters are
// replaced, lines are cut at 4 KiB, and an attempt that prints more than
// 256 KiB is told so once and then goes unheard.
func (l *Log) Printf(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		if line = Line(line, maxText); line != "" && l.print != nil {
			l.print(line)
		}
	}
}

// Note says what the step found or made, for the message at its end. The last
// one counts. Only Do's own goroutine may call it.
func (l *Log) Note(format string, args ...any) {
	l.note = Line(fmt.Sprintf(format, args...), maxText)
}

const (
	maxText     = 4096      // limit of texts in chom.link.v1
	maxLogBytes = 256 << 10 // of one attempt; 100 attempts of them still fit a journal
)

// Line makes one line of at most limit bytes out of any text: valid UTF-8
// without control, line separating or text direction characters.
func Line(s string, limit int) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r < ' ', r >= 0x7f && r < 0xa0, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return ' '
		case r == utf8.RuneError:
			return '?'
		}
		return r
	}, s))
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
