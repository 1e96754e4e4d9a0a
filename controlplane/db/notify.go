package db

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// wake is a hint that something of a topic changed.
type wake struct{ topic, payload string }

// wakes carries hints to everyone who listens: in this process by a call, to
// other processes by PostgreSQL's NOTIFY, which is sent after the commit, on a
// connection of its own and many at a time, since inside the transaction it
// would serialize all commits.
//
// A process that is alone spares itself that. It learns of others as they come:
// whoever begins to listen says so, and is answered.
type wakes struct {
	log    *slog.Logger
	self   string // tells our own notifications from those of others
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
	config *pgx.ConnConfig // nil: no other process exists
	start  sync.Once       // the first Listen starts listening

	mu        sync.Mutex
	listeners []*listener
	listening time.Time       // since when other processes are heard; zero while they are not
	others    map[string]bool // those that were ever heard
	pending   []wake
	greet     bool          // it is to be said that this process listens
	more      chan struct{} // holds a token when there is something to send
}

type listener struct{ fn func(topic, payload string) }

const (
	channel = "chom"
	// notifyMax is how many hints may wait while the server is away. What is
	// dropped costs a delay: every listener also sweeps.
	notifyMax = 10_000
	// notifyPause gathers hints; it is the price of a hint to another process.
	notifyPause = 2 * time.Millisecond
	// notifyChunk keeps a message under PostgreSQL's limit of 8,000 bytes.
	notifyChunk = 60
	// reconnectMax bounds the pause between two tries to reach the server.
	reconnectMax = 5 * time.Second
	// answerWithin is how long others may take to answer a greeting; who is slower
	// misses hints until then.
	answerWithin = time.Second
)

func newWakes(config *pgx.ConnConfig, log *slog.Logger) *wakes {
	var id [8]byte
	rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	w := &wakes{
		log: log, self: hex.EncodeToString(id[:]), config: config,
		others: map[string]bool{}, more: make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	if config != nil {
		w.loops.Go(w.sendLoop)
	}
	return w
}

func (w *wakes) close() {
	w.cancel()
	w.loops.Wait()
}

// Notify wakes those who Listen, in all processes. Inside a transaction use
// Tx.Notify.
func (d *DB) Notify(topic, payload string) { d.wakes.send([]wake{{topic, payload}}) }

// Listen calls fn for every hint until ctx ends, and returns its error. A hint
// may come twice, late or never: whoever needs to act also looks by himself
// every few seconds. A hint with an empty topic says that some were lost, as
// after a reconnect. Fn is called from the goroutine of whoever commits and must
// return at once.
func (d *DB) Listen(ctx context.Context, fn func(topic, payload string)) error {
	w := d.wakes
	l := &listener{fn}
	w.mu.Lock()
	w.listeners = append(slices.Clone(w.listeners), l)
	w.mu.Unlock()
	if w.config != nil {
		w.start.Do(func() { w.loops.Go(w.receiveLoop) })
	}
	select {
	case <-ctx.Done():
	case <-w.ctx.Done():
	}
	w.mu.Lock()
	w.listeners = slices.DeleteFunc(slices.Clone(w.listeners), func(have *listener) bool { return have == l })
	w.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return errClosed
}

// send calls the listeners of this process and leaves the hints to sendLoop.
func (w *wakes) send(hints []wake) {
	if len(hints) == 0 {
		return
	}
	w.mu.Lock()
	listeners := w.listeners
	if !w.alone(time.Now()) {
		w.queue(hints...)
	}
	w.mu.Unlock()
	for _, h := range hints {
		for _, l := range listeners {
			l.fn(h.topic, h.payload)
		}
	}
}

// alone says whether there is no other process. Called with mu held.
func (w *wakes) alone(now time.Time) bool {
	return w.config == nil || len(w.others) == 0 && !w.listening.IsZero() && now.Sub(w.listening) > answerWithin
}

// queue leaves hints to sendLoop. Called with mu held.
func (w *wakes) queue(hints ...wake) {
	w.pending = append(w.pending, hints[:min(len(hints), max(0, notifyMax-len(w.pending)))]...)
	select {
	case w.more <- struct{}{}:
	default: // there is a token already
	}
}

func (w *wakes) deliver(h wake) {
	w.mu.Lock()
	listeners := w.listeners
	w.mu.Unlock()
	for _, l := range listeners {
		l.fn(h.topic, h.payload)
	}
}

// message is what travels in a notification. Without hints it is a greeting.
type message struct {
	From  string      `json:"f"`
	Hints [][2]string `json:"h"`
}

// sendLoop gathers hints and sends them, each once per gathering.
func (w *wakes) sendLoop() {
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	for tries := 0; ; {
		select {
		case <-w.ctx.Done():
			return
		case <-w.more:
		}
		if !pause(w.ctx, notifyPause) {
			return
		}
		w.mu.Lock()
		hints, greet := w.pending, w.greet
		w.pending, w.greet = nil, false
		w.mu.Unlock()
		err := w.notify(&conn, hints, greet)
		if err == nil {
			tries = 0
			continue
		}
		if w.ctx.Err() != nil {
			return
		}
		closeConn(conn)
		conn = nil
		if greet {
			w.mu.Lock()
			w.greet = true
			w.queue()
			w.mu.Unlock()
		}
		if tries++; tries == 1 {
			w.log.Warn("wake-ups to other processes are not sent", "err", err)
		}
		if !pause(w.ctx, min(time.Duration(tries)*100*time.Millisecond, reconnectMax)) {
			return
		}
	}
}

func (w *wakes) notify(conn **pgx.Conn, hints []wake, greet bool) error {
	if *conn == nil {
		c, err := pgx.ConnectConfig(w.ctx, w.config)
		if err != nil {
			return err
		}
		*conn = c
	}
	seen := make(map[wake]bool, len(hints))
	var unique [][2]string
	for _, h := range hints {
		if !seen[h] {
			seen[h] = true
			unique = append(unique, [2]string{h.topic, h.payload})
		}
	}
	chunks := slices.Collect(slices.Chunk(unique, notifyChunk))
	if greet {
		chunks = append(chunks, nil)
	}
	var texts []string
	for _, chunk := range chunks {
		b, err := json.Marshal(message{w.self, chunk})
		if err != nil {
			return err
		}
		texts = append(texts, string(b))
	}
	_, err := (*conn).Exec(w.ctx, "SELECT pg_notify($1, m) FROM unnest($2::text[]) m", channel, texts)
	return err
}

// receiveLoop hears the other processes.
func (w *wakes) receiveLoop() {
	for tries := 0; w.ctx.Err() == nil; tries++ {
		began := time.Now()
		err := w.receive()
		if w.ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			tries = 0
		}
		if tries == 0 {
			w.log.Warn("wake-ups of other processes are not heard", "err", err)
		}
		if !pause(w.ctx, min(time.Duration(tries+1)*100*time.Millisecond, reconnectMax)) {
			return
		}
	}
}

func (w *wakes) receive() error {
	conn, err := pgx.ConnectConfig(w.ctx, w.config)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err := conn.Exec(w.ctx, "LISTEN "+channel); err != nil {
		return err
	}
	w.listen(time.Now())
	defer w.listen(time.Time{})
	w.deliver(wake{}) // whatever was sent before is lost
	for {
		n, err := conn.WaitForNotification(w.ctx)
		if err != nil {
			return err
		}
		var m message
		if err := json.Unmarshal([]byte(n.Payload), &m); err != nil || m.From == w.self {
			continue // somebody else's text, or our own
		}
		w.meet(m.From, len(m.Hints) == 0)
		for _, h := range m.Hints {
			w.deliver(wake{h[0], h[1]})
		}
	}
}

// listen notes since when others are heard, and greets them.
func (w *wakes) listen(since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listening = since
	w.greet = !since.IsZero()
	w.queue()
}

// meet notes that there is another process. One that greets may have been told
// nothing until now: it is to look for itself.
func (w *wakes) meet(process string, greets bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.others[process] = true
	if greets {
		w.queue(wake{})
	}
}

func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// The server notices a closed socket; there is nothing to save.
	_ = conn.Close(ctx)
}

// pause waits and says whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
