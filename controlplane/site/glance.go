package site

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"chom.dev/proto/contract"
)

// A name that its organization does not hold yet is not looked at: nobody asks others by HTTP for whoever wants it so. But whoever
// sets the records of its claim sets its address as well, and has to know what is in the way. A glance asks the DNS alone, and is
// remembered by this process for a moment.

const (
	glanceFor    = time.Minute
	glanceWithin = 5 * time.Second
	glancesMax   = 1000 // that are remembered
	glancesAhead = 64   // that wait: those who see the name ask again
)

// glances are what the DNS had for names that are not held.
type glances struct {
	sync.Mutex
	of     map[contract.Domain]glance
	wanted chan contract.Domain
}

type glance struct {
	addresses []netip.Addr
	at        time.Time
}

// seen gives the addresses that the DNS had for a name, and has it asked again when that is a while ago.
func (g *glances) seen(name contract.Domain, now time.Time) []netip.Addr {
	g.Lock()
	last, known := g.of[name]
	g.Unlock()
	if !known || now.Sub(last.at) >= glanceFor {
		select {
		case g.wanted <- name:
		default: // many are before it
		}
	}
	return last.addresses
}

func (g *glances) keep(name contract.Domain, addresses []netip.Addr, now time.Time) {
	g.Lock()
	defer g.Unlock()
	if len(g.of) >= glancesMax {
		clear(g.of)
	}
	g.of[name] = glance{addresses, now}
}

// due says whether a name is to be asked for: several may have wanted it at once.
func (g *glances) due(name contract.Domain, now time.Time) bool {
	g.Lock()
	defer g.Unlock()
	return now.Sub(g.of[name].at) >= glanceFor
}

// glanceAt asks the DNS for the addresses of a name. Where it does not answer there are none.
func (s *Sites) glanceAt(ctx context.Context, name contract.Domain) {
	if s.config.Resolver == nil {
		return
	}
	within, cancel := context.WithTimeout(ctx, glanceWithin)
	defer cancel()
	addresses, err := s.config.Resolver.Addresses(within, name)
	if err != nil {
		addresses = nil
	}
	if ctx.Err() == nil {
		s.glances.keep(name, addresses, time.Now())
	}
}

// watchGlances asks for the names that people see, until ctx ends.
func (s *Sites) watchGlances(ctx context.Context) error {
	var parts sync.WaitGroup
	for range looksOfOne {
		parts.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case name := <-s.glances.wanted:
					if s.glances.due(name, time.Now()) {
						s.glanceAt(ctx, name)
					}
				}
			}
		})
	}
	parts.Wait()
	return nil
}

// instead is how to lead a name to the server of which the DNS alone is known: what is there already stays, and what leads elsewhere
// is to be taken away. What is behind Cloudflare's proxy cannot be seen.
func (f facts) instead() []Record {
	var wrong4, wrong6 []answer
	for _, address := range f.addresses {
		switch {
		case slices.Contains(f.servers, address) || proxied(address):
		case address.Is4():
			wrong4 = append(wrong4, answer{address: address})
		default:
			wrong6 = append(wrong6, answer{address: address})
		}
	}
	return slices.DeleteFunc(append(f.toSet("A", wrong4), f.toSet("AAAA", wrong6)...), func(r Record) bool {
		return !r.Remove && slices.ContainsFunc(f.addresses, func(a netip.Addr) bool { return a.String() == r.Value })
	})
}
