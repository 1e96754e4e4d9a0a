package backup

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"chom.dev/agent/run"
)

// order is what the helper reads from its input. It holds the only secrets.
type order struct {
	Job     string          `json:"job"`
	Handle  string          `json:"handle"`
	Socket  string          `json:"socket"` // of the gateway
	Token   string          `json:"token"`
	Key     string          `json:"key"`
	Shell   string          `json:"shell"`
	MariaDB string          `json:"mariadb"`
	Timeout time.Duration   `json:"timeout"`
	Work    json.RawMessage `json:"work"`
}

// maxOrder is what a pipe takes before somebody reads from it: the agent waits
// for nobody.
const maxOrder = 60 << 10

// pipe gives the end of a pipe from which the order can be read.
func (o order) pipe() (*os.File, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if len(text) > maxOrder {
		return nil, errLongOrder
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close() // the write has told
	if _, err := w.Write(text); err != nil {
		_ = r.Close() // nothing is in it
		return nil, err
	}
	return r, nil
}

// answer is a line that the helper writes: progress, many times, and at its end
// a result or a problem.
type answer struct {
	Progress  *Progress       `json:"progress,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Problem   string          `json:"problem,omitempty"`
	Permanent bool            `json:"permanent,omitempty"`
}

// maxAnswer is above the tables of the largest database that can be backed up.
const maxAnswer = 8 << 20

// listen reads what a helper says to its end, and gives its last words.
func listen(p Process, tell func(Progress)) (last answer, words string) {
	var both sync.WaitGroup
	both.Go(func() { words = run.Gather(eof{}, p.Stderr(), 0).LastWords() })
	lines := bufio.NewScanner(p.Stdout())
	lines.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	for lines.Scan() {
		var a answer
		if json.Unmarshal(lines.Bytes(), &a) != nil { // it runs among a tenant's processes, and is not taken at its word
			continue
		}
		if a.Progress != nil {
			if tell != nil {
				tell(*a.Progress)
			}
			continue
		}
		last = a
	}
	_, _ = io.Copy(io.Discard, p.Stdout()) // after a line that is too long
	both.Wait()
	return last, words
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
