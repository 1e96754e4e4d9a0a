package sitelog

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// followJournal takes what a site's PHP said: the last lines, then each new one, until the context ends. The unit is journald's own word;
// a name anybody may take, and PHP's requests have another one than their master. These are two calls, since one that follows and finds
// nothing to begin with misses what comes first, or all of it (systemd 252).
// Merged, it does not go by the boot's id, of which the agent's sandbox sees another one than journald where the host is a container.
func followJournal(ctx context.Context, h contract.Handle, lines int, take func(time.Time, string)) error {
	now := "@" + strconv.FormatInt(time.Now().Unix(), 10)
	if lines > 0 {
		if err := readJournal(ctx, h, take, "--until="+now, "--lines="+strconv.Itoa(lines)); err != nil {
			return err
		}
	}
	return readJournal(ctx, h, take, "--since="+now, "--no-tail", "--follow", "--merge")
}

func readJournal(ctx context.Context, h contract.Handle, take func(time.Time, string), which ...string) error {
	_, err := run.Cmd{
		Path:    "/usr/bin/journalctl",
		Args:    append(which, "--output=json", "--output-fields=MESSAGE", "--all", "--no-pager", "--quiet", "_SYSTEMD_UNIT="+h.PHPUnit()),
		Stdout:  &entries{take: take},
		Timeout: lookFor,
	}.Run(ctx)
	return err
}

// lookFor is longer than anybody looks.
const lookFor = 24 * time.Hour

// maxEntry is what of an entry is looked at; longer ones are passed over.
const maxEntry = 256 << 10

// entries are those of the journal, in JSON, one a line.
type entries struct {
	take func(time.Time, string)
	line []byte // that has no end yet
	long bool   // it is too long
}

func (e *entries) Write(p []byte) (int, error) {
	n := len(p)
	for {
		part, rest, ended := bytes.Cut(p, []byte("\n"))
		if e.long = e.long || len(e.line)+len(part) > maxEntry; !e.long {
			e.line = append(e.line, part...)
		}
		if !ended {
			return n, nil
		}
		if !e.long {
			e.entry(e.line)
		}
		e.line, e.long, p = e.line[:0], false, rest
	}
}

// entry takes one; its lines are lines of the log, for a stack trace is one entry.
func (e *entries) entry(text []byte) {
	var entry struct {
		Message message `json:"MESSAGE"`
		Micros  string  `json:"__REALTIME_TIMESTAMP"`
	}
	if json.Unmarshal(text, &entry) != nil {
		return
	}
	var at time.Time
	if micros, err := strconv.ParseInt(entry.Micros, 10, 64); err == nil {
		at = time.UnixMicro(micros)
	}
	for line := range strings.Lines(string(entry.Message)) {
		if line = strings.TrimSpace(line); line != "" {
			e.take(at, line)
		}
	}
}

// message is a text, or its bytes as numbers where it holds what is no text.
type message string

func (m *message) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		var numbers []byte
		if err := json.Unmarshal(text, &numbers); err != nil {
			return err
		}
		*m = message(numbers)
		return nil
	}
	return json.Unmarshal(text, (*string)(m))
}
