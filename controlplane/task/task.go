// Package task is the control plane's orders to agents, from the moment
// somebody asks for something until it ended: the queue, what was offered and
// signed, what the agent said, and what is shown of it. It does not speak to
// agents (package link does) and knows nothing of what a task means: the noun
// that asked hears of its end in the transaction that ends it.
//
// The life of a task:
//
//	            +----------------- never accepted, or refused: the next attempt -----------------+
//	            v                                                                               |
//	Enqueue -> QUEUED --offer, signed, attempt+1--> OFFERED --accepted--> RUNNING               |
//	            |                                     |  30 s               |  lease 90 s       |
//	            |                                     +------> UNKNOWN <----+                   |
//	            |                                                 |  the agent's journal, in Hello
//	            |                                                 +--> RUNNING, an end, or -----+
//	            |
//	            +--> CANCELED (asked for, or superseded)      any of them --> SUCCEEDED | FAILED | CANCELED | TIMED_OUT
//
// An end is for ever. A task belongs to one server: when nothing is heard of an
// attempt it is UNKNOWN, never given to another host, and only the journal of
// its own agent says what became of it:
//
//	the journal says        task was accepted before      task was only offered
//	still runs              RUNNING                       RUNNING
//	has ended               RUNNING, its result is asked for again (both)
//	nothing                 FAILED: the journal was lost  QUEUED: it was never accepted
//
// Per site one task at a time, in the order of Enqueue; per server a few at
// once. Every task has a deadline and ends by then: QUEUED, OFFERED and UNKNOWN
// ones as TIMED_OUT at once, a RUNNING one is asked to stop and has 30 s more.
// What the agent says of a task after its end changes nothing of it; after a
// TIMED_OUT it is kept as a log line, and the noun hears of it (OnLateEnd).
//
// Write access to the database can't command an agent: what a task asks for is
// sealed when it is enqueued, by a key from outside the database, and checked
// before it is signed. A row that was made or changed otherwise FAILS.
//
// A CONVERGE_SITE task holds everything that is wanted of a site. One that
// still waits when a newer generation is asked for can thus only do harm: it
// would bring the host to a state that nobody wants any more, in full, before
// the next one starts. Enqueue ends it as CANCELED, "superseded by generation
// N". The noun is not called for it: it is the one that asked.
package task

import (
	"database/sql"
	"time"

	"chom.dev/controlplane/db"
)

// Platform stands for an organization where work is done on a server itself.
const Platform = "00000000-0000-0000-0000-000000000000"

// Kind is what a task does. The set is closed.
type Kind string

// The kinds.
const (
	Noop          Kind = "noop"
	PrepareServer Kind = "prepare_server"
	ConvergeSite  Kind = "converge_site"
	SiteLogin     Kind = "site_login"
	BackupSite    Kind = "backup_site"
	RestoreSite   Kind = "restore_site"
	UndoRestore   Kind = "undo_restore"
	DrillSite     Kind = "drill_site"
)

// aboutSite says whether a task of the kind is about one site.
func (k Kind) aboutSite() bool {
	switch k {
	case ConvergeSite, SiteLogin, BackupSite, RestoreSite, UndoRestore, DrillSite:
		return true
	}
	return false
}

// State is where a task is in its life.
type State string

// The states; see the drawing in the package comment.
const (
	Queued    State = "queued"
	Offered   State = "offered"
	Running   State = "running"
	Unknown   State = "unknown"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Canceled  State = "canceled"
	TimedOut  State = "timed_out"
)

// Ended says whether nothing can happen to the task any more.
func (s State) Ended() bool {
	switch s {
	case Succeeded, Failed, Canceled, TimedOut:
		return true
	}
	return false
}

// Task is an order to one agent, and what became of it.
type Task struct {
	ID           string
	Organization string // Platform for work on the server itself
	Server       string
	Site         string // empty for work on the server itself
	Kind         Kind
	Generation   uint64 // that a CONVERGE_SITE brings its site to
	State        State
	Attempt      uint32   // 0 before the first offer
	Steps        []Step   // of the newest attempt; read by Get and Watch only
	Progress     Progress // of the last of Steps; read by Get and Watch only
	StepCount    uint32   // 0 when the agent did not say
	Error        string   // why it did not succeed, in words for the caller
	CreatedBy    string   // account
	Created      time.Time
	Started      time.Time // when the newest attempt was accepted; zero before
	Ended        time.Time // zero before
	Deadline     time.Time

	CancelRequested time.Time // zero when nobody asked

	sequence      int64 // order of creation on its server
	fence         int64 // of the newest offer; 0 when not known
	eventSequence int64 // highest event taken of the newest attempt
	logSequence   int64 // log lines so far, of all attempts
	logBytes      int64
	notBefore     time.Time // a refused one rests until then
	lease         time.Time // of an OFFERED or RUNNING one; when it was lost of an UNKNOWN one
	timeout       time.Duration
	version       int64 // grows with every change
}

// StepState is the life of a step.
type StepState string

// The states of a step.
const (
	StepRunning     StepState = "running"
	StepDone        StepState = "done"
	StepAlreadyDone StepState = "already_done"
	StepFailed      StepState = "failed"
)

// Step is the smallest resumable part of an attempt. Its times are the agent's.
type Step struct {
	Name    string
	State   StepState
	Attempt uint32
	Started time.Time
	Ended   time.Time // zero while it runs
	Message string
}

// LogLine is one line that a task printed on its host.
type LogLine struct {
	Sequence uint64 // counts from 1 in one task
	Time     time.Time
	Text     string
}

// columns are those of a Task, in the order of scan. The parameters are not
// among them: they may be large, and only an offer needs them.
const columns = `id, organization_id, server_id, site_id, kind, generation, state, attempt, step_count, error,
	created_by, created_at, started_at, ended_at, deadline_at, cancel_requested_at,
	sequence, fence, event_sequence, log_sequence, log_bytes, not_before, lease_expires_at, timeout_us, version`

// scan reads columns, and more that a query has after them.
func scan(row interface{ Scan(dest ...any) error }, more ...any) (Task, error) {
	var t Task
	var created, deadline, notBefore, timeout int64
	var started, ended, cancel, lease sql.NullInt64
	dest := append([]any{
		&t.ID, &t.Organization, &t.Server, &t.Site, &t.Kind, &t.Generation, &t.State, &t.Attempt, &t.StepCount, &t.Error,
		&t.CreatedBy, &created, &started, &ended, &deadline, &cancel,
		&t.sequence, &t.fence, &t.eventSequence, &t.logSequence, &t.logBytes, &notBefore, &lease, &timeout, &t.version,
	}, more...)
	if err := row.Scan(dest...); err != nil {
		return Task{}, err
	}
	t.Created, t.Deadline, t.notBefore = db.Time(created), db.Time(deadline), db.Time(notBefore)
	t.Started, t.Ended = db.NullTime(started), db.NullTime(ended)
	t.CancelRequested, t.lease = db.NullTime(cancel), db.NullTime(lease)
	t.timeout = time.Duration(timeout) * time.Microsecond
	return t, nil
}
