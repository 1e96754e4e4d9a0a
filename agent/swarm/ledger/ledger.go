// Package ledger is what simulated agents really did, written down by those
// who saw it (the fake hosts, and the engine's own turns), and the proof that
// it was right. The journal and the control plane's rows can agree with each
// other and still be wrong; the ledger is kept by neither.
package ledger

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// What happened.
const (
	Born     = "born"     // a process of the agent began
	Killed   = "killed"   // it ended, without warning
	Accepted = "accepted" // an attempt is in the journal
	Started  = "started"  // its first step is about to run, for the first time
	Resumed  = "resumed"  // the same, in a later process
	Effect   = "effect"   // the host was changed
	Step     = "step"     // a step's outcome is in the journal
	Result   = "result"   // the attempt's outcome is in the journal
)

// Entry is one line.
type Entry struct {
	N       uint64    `json:"n"` // counts from 1 over the whole ledger
	Time    time.Time `json:"time"`
	Agent   string    `json:"agent"` // the server that it is
	Life    int       `json:"life"`  // which of its processes, from 1
	What    string    `json:"what"`
	Task    string    `json:"task,omitempty"`
	Attempt uint32    `json:"attempt,omitempty"`
	Fence   uint64    `json:"fence,omitempty"`
	Site    string    `json:"site,omitempty"`    // empty for work on the server itself
	Name    string    `json:"name,omitempty"`    // of the step
	Outcome string    `json:"outcome,omitempty"` // of the step or the attempt
	Steps   int       `json:"steps,omitempty"`   // with accepted: effects that the task will have
}

// Writer appends to a ledger. Safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	n    uint64
	file *os.File
	out  *bufio.Writer
}

// Create begins a ledger. The file must not exist: a ledger is never continued
// nor overwritten.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create ledger: %w", err)
	}
	return &Writer{file: f, out: bufio.NewWriter(f)}, nil
}

// Append writes an entry under the next number.
func (w *Writer) Append(e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	e.N, e.Time = w.n, time.Now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // an Entry can always be written as JSON
	}
	_, _ = w.out.Write(append(line, '\n')) // its error stays, and Close gives it
}

// Close writes out what is left.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return w.file.Close()
}
