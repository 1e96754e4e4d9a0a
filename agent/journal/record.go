package journal

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"chom.dev/proto/contract"
)

// Key names an attempt.
type Key struct {
	Task   contract.TaskID
	Number uint32 // from 1
}

func (k Key) String() string { return fmt.Sprintf("%s/%d", k.Task, k.Number) }

const keyLen = 16 + 4

func (k Key) bytes() []byte {
	return binary.BigEndian.AppendUint32(uuidBytes(k.Task.String()), k.Number)
}

// uuidBytes gives the 16 bytes of a UUID that was parsed before. A zero id
// gives no bytes and is thus never found.
func uuidBytes(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		return nil
	}
	return b
}

// Attempt is one try at a task.
type Attempt struct {
	Task         contract.TaskID
	Number       uint32
	Kind         string
	Organization contract.OrganizationID `json:",omitzero"` // zero for work on the server itself
	Site         contract.SiteID         `json:",omitzero"` // zero for work on the server itself
	Fence        uint64

	Accepted  time.Time     // by the agent's clock
	StepCount uint32        // planned
	Spent     time.Duration // running time up to the last outcome; downtime does not count
	Resumes   int           // how often it was begun anew after a restart
	Canceled  bool          // somebody asked for it to stop

	Ended          time.Time `json:",omitzero"` // zero while it runs
	Result         []byte    // chom.order.v1.Result, once ended
	ResultSequence uint64    // number of the event that told it
	Delivered      bool      // the control plane has that event
}

// Key is the attempt's name.
func (a Attempt) Key() Key { return Key{a.Task, a.Number} }

// Step is what came of a step.
type Step struct {
	Attempt Key `json:"-"`
	Name    string
	State   int32 // chom.task.v1.StepState
	Message string
}

// Site is what belongs, or belonged, on this host. The record of a removed
// site stays: its unix id and its handle must never be given to another.
type Site struct {
	ID           contract.SiteID
	Organization contract.OrganizationID
	Handle       contract.Handle
	UID          uint32
	Fence        uint64 // highest accepted
	Generation   uint64 // of Desired
	Desired      []byte // chom.site.v1.DesiredState, the newest accepted
	Converged    uint64 // generation the host was last brought to
	Gone         bool   // Converged is the generation that removed it
	Observed     []byte // chom.site.v1.ObservedState, the newest
}

// Counters are numbers of the whole host.
type Counters struct {
	NextUID      uint32
	HighestFence uint64
	ServerFence  uint64
	Starts       uint64
	Beats        uint64
}
