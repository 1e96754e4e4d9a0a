// Package link is the agents' door: its own listener, TLS 1.3 with client
// certificates, over which agents enrol, hold Watch or repeat Poll, and Report.
// From the certificate alone it knows who speaks. It decides nothing about
// tasks or servers: packages task and fleet do.
package link

import (
	"context"
	"time"

	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Tasks is what the door needs of package task.
type Tasks interface {
	// Offer marks what may go to the server now as offered, in one transaction,
	// and gives the signed orders and the attempts to stop. Orders that get lost
	// on the way are offered again once their 30 s are over.
	Offer(ctx context.Context, server contract.ServerID) ([]*orderv1.SignedOrder, []*linkv1.Cancel, error)
	// Waiting gives the servers for which Offer would find something, by one query.
	Waiting(ctx context.Context) ([]contract.ServerID, error)
	// Report applies events in one transaction and renews the leases of what
	// runs. Repeats are ignored, foreign and late ones refused.
	Report(ctx context.Context, server contract.ServerID, running []*linkv1.JournalEntry, events []*linkv1.TaskEvent) ([]*linkv1.RefusedEvent, error)
	// Reconcile compares the agent's journal with the rows and gives the attempts
	// whose Result must come again.
	Reconcile(ctx context.Context, server contract.ServerID, journal []*linkv1.JournalEntry, highestFence uint64) ([]*linkv1.JournalEntry, error)
}

// Fleet is what the door needs of package fleet.
type Fleet interface {
	// Enroll turns a join token into a server's certificate in DER. The same key
	// gets the same answer again.
	Enroll(ctx context.Context, token, enrollment string, csr []byte, facts *fleetv1.Facts) (contract.ServerID, []byte, error)
	// Recover gives the holder of an expired certificate a new one.
	Recover(ctx context.Context, certificate, csr, signature []byte) (contract.ServerID, []byte, error)
	// Renew gives the peer its next certificate, the same one to the same key.
	Renew(ctx context.Context, peer pki.Peer, csr []byte) ([]byte, error)
	// Hello opens a new epoch and notices clones.
	Hello(ctx context.Context, peer pki.Peer, instance string, facts *fleetv1.Facts) (epoch uint64, err error)
	// Check is made for every call: the server is wanted, the certificate is its
	// current or next one (which it then promotes) and the epoch is its newest.
	Check(ctx context.Context, peer pki.Peer, epoch uint64) error
	// Beat notes that these servers were heard of, in one statement.
	Beat(ctx context.Context, servers []contract.ServerID, at time.Time) error
	// Facts and Samples take in what an agent says of its host.
	Facts(ctx context.Context, server contract.ServerID, facts *fleetv1.Facts) error
	Samples(ctx context.Context, server contract.ServerID, samples []*linkv1.Sample) error
	// Changed gives the servers whose identity, state or epoch changed since a
	// moment of the database's own clock, and the moment to ask from next time.
	Changed(ctx context.Context, since time.Time) ([]contract.ServerID, time.Time, error)
}

// Sites is what the door needs of package site.
type Sites interface {
	// Hold compares what the host holds with what is wanted of it.
	Hold(ctx context.Context, server contract.ServerID, holdings []*sitev1.ObservedState) ([]contract.SiteID, error)
	// Observe takes in what the agent measured.
	Observe(ctx context.Context, server contract.ServerID, seen []*sitev1.ObservedState) error
}
