// Package task is what the agent does when an order arrives. It verifies the
// order, writes it down, does it step by step, writes down what came of each
// step, and leaves the telling to the link. It knows nothing of how a kind is
// carried out: that is a Handler, one per kind, registered in cmd/chom-agent.
//
//	            not acceptable
//	SignedOrder ---------------> REFUSED (in the journal, unless nobody trustworthy signed it)
//	     |
//	     | verified, fence and registry agree
//	     v
//	ACCEPTED (journal, fsync) -> waits for its site's turn and a slot
//	     |                               |
//	     | killed, restarted:            v
//	     +--- probes decide ---> step 1 .. step n, each outcome into the journal (fsync)
//	                                     |
//	                                     v
//	              SUCCEEDED | FAILED | CANCELED | TIMED_OUT (journal, fsync), then reported
//
// The promise: an attempt starts at most once, a step runs at least once, its
// effect happens once, because every step can probe whether it is done.
package task

import (
	"crypto/ed25519"
	"errors"
	"time"

	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Kind is what an order asks for. The set is closed, as in chom.order.v1.Order.
type Kind string

const (
	// Noop walks through journal and link.
	Noop Kind = "noop"
	// PrepareServer installs what sites need.
	PrepareServer Kind = "prepare-server"
	// ConvergeSite brings one site to a generation.
	ConvergeSite Kind = "converge-site"
	// SiteLogin arms a one-use login.
	SiteLogin Kind = "site-login"
	// BackupSite makes a backup of a site.
	BackupSite Kind = "backup-site"
	// RestoreSite puts a backup back into its site.
	RestoreSite Kind = "restore-site"
	// UndoRestore gives a site back what a restore replaced.
	UndoRestore Kind = "undo-restore"
	// DrillSite restores a backup to a scratch place and looks at it there.
	DrillSite Kind = "drill-site"
)

// Order is a verified order: signed by a key that we trust, meant for this
// server, newer than what its site has seen, and in agreement with the
// registry of sites.
type Order struct {
	Task         contract.TaskID
	Attempt      uint32
	Fence        uint64
	Kind         Kind
	Organization contract.OrganizationID // zero for work on the server itself
	Site         Site                    // zero for work on the server itself
	Timeout      time.Duration           // of running time, from the start of the first step

	// Signers are the keys that are trusted now, for what an order carries that
	// is signed by itself.
	Signers []ed25519.PublicKey

	// Message is the order as signed, for the parameters of its kind.
	Message *orderv1.Order
}

// Site is what the agent's own registry holds of a site. The control plane
// can't change id, organization, handle or uid of a site that is once in it.
type Site struct {
	ID           contract.SiteID
	Organization contract.OrganizationID
	Handle       contract.Handle
	UID          uint32 // unix user and group id, from 200000 up, never used for another site

	// Desired is the newest state that was accepted, that of the order at hand
	// included. Nil for a site known by its login order alone: never, since
	// those are refused.
	Desired *sitev1.DesiredState
	// Converged is the generation that the host was last brought to; 0 before
	// the first.
	Converged uint64
	// Observed is what was last measured; nil before the first time.
	Observed *sitev1.ObservedState
}

// permanent marks an error that no retry can heal.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks err as one that trying again can't heal: the attempt ends
// at once, and the control plane rests for hours before it asks again. Any other
// error is retried within the attempt.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent reports whether err, or an error it wraps, was marked by Permanent.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}
