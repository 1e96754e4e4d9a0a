package audit

import (
	"context"
	"net/netip"
)

// Kind is what sort of an actor it was.
type Kind string

// Kinds of actors.
const (
	System       Kind = "system"       // the control plane by itself
	Console      Kind = "console"      // a command of chomd, on its own machine
	Stranger     Kind = "stranger"     // somebody who did not say who they are, or did not prove it
	Person       Kind = "person"       // an account, through a session or a token of its own
	Organization Kind = "organization" // an organization's own token
	Agent        Kind = "agent"        // a server's agent
)

// Actor is who acts. The zero Actor is the control plane by itself.
type Actor struct {
	// Kind is System when it is empty.
	Kind Kind
	// ID is that of the account, of the organization or of the server, by the kind; empty for the others.
	ID string
	// Session and Token are the ids of what a person or an organization proved themselves with: one of both is empty.
	Session, Token string
	// Impersonator is the account of the operator who acts as ID; empty when a person is there themselves.
	Impersonator string
	// Address that the call came from; the zero value where there was no call.
	Address netip.Addr
	// Request is the id of the call, which the log has too; empty where there was no call.
	Request string
}

type actorKey struct{}

// As names the actor on whose behalf everything under ctx is done.
func As(ctx context.Context, actor Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// ActorOf is the actor that As named.
func ActorOf(ctx context.Context) Actor {
	actor, _ := ctx.Value(actorKey{}).(Actor)
	return actor
}

// Account is the id of the person's account; empty where no person acts.
func (a Actor) Account() string {
	if a.Kind == Person {
		return a.ID
	}
	return ""
}

func (a Actor) kind() string {
	if a.Kind == "" {
		return string(System)
	}
	return string(a.Kind)
}

func (a Actor) address() string {
	if !a.Address.IsValid() {
		return ""
	}
	return a.Address.Unmap().WithZone("").String()
}
