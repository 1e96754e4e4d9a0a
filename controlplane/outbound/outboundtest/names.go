// Package outboundtest has a real DNS server whose answers tests choose and change.
package outboundtest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Server answers for some names.
type Server struct {
	// Address is where it listens.
	Address string

	mu      sync.Mutex
	answers map[string][]string
	asked   map[string]int
}

// Names serves names until the test ends, and gives a resolver that asks it. Each question for a name takes the next of its
// addresses; the last one stays. All other names do not exist.
func Names(t testing.TB, answers map[string][]string) (*Server, *net.Resolver) {
	t.Helper()
	listener, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Address: listener.LocalAddr().String(), answers: answers, asked: map[string]int{}}
	var loop sync.WaitGroup
	loop.Go(func() { s.serve(listener) })
	t.Cleanup(func() {
		_ = listener.Close() // nothing was buffered
		loop.Wait()
	})
	return s, Resolver(s.Address)
}

// Resolver asks the server at an address; other processes need it.
func Resolver(address string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", address)
	}}
}

// Asked is how often a name was asked for.
func (s *Server) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *Server) serve(listener net.PacketConn) {
	packet := make([]byte, 1500)
	for {
		size, from, err := listener.ReadFrom(packet)
		if err != nil {
			return
		}
		if reply := s.answer(packet[:size]); reply != nil {
			_, _ = listener.WriteTo(reply, from) // a lost answer is asked for again
		}
	}
}

func (s *Server) answer(packet []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(packet) != nil || len(m.Questions) != 1 {
		return nil
	}
	question := m.Questions[0]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
	if address, known := s.next(strings.TrimSuffix(question.Name.String(), "."), question.Type); !known {
		reply.RCode = dnsmessage.RCodeNameError
	} else if address.IsValid() {
		// A time to live of 0: ask again each time.
		resource := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}}
		if address.Is4() {
			resource.Body = &dnsmessage.AResource{A: address.As4()}
		} else {
			resource.Body = &dnsmessage.AAAAResource{AAAA: address.As16()}
		}
		reply.Answers = []dnsmessage.Resource{resource}
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// next is the address that a name has now; none for a question of the other family.
func (s *Server) next(name string, question dnsmessage.Type) (address netip.Addr, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.answers[name]
	if len(all) == 0 {
		return netip.Addr{}, false
	}
	address = netip.MustParseAddr(all[min(s.asked[name], len(all)-1)])
	if address.Is4() != (question == dnsmessage.TypeA) || question != dnsmessage.TypeA && question != dnsmessage.TypeAAAA {
		return netip.Addr{}, true
	}
	s.asked[name]++
	return address, true
}
