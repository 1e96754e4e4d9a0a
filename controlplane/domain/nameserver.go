package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"chom.dev/proto/contract"
)

// NameServer answers what certificate authorities ask the DNS too: addresses, and who may issue. Unlike *net.Resolver it knows
// nothing of this machine's own names, and says which records it did not get. It is safe for concurrent use.
type NameServer struct{ address string }

// NewNameServer asks the recursive name server at an address, HOST:PORT; the first one of this machine for an empty one.
func NewNameServer(address string) *NameServer { return &NameServer{address} }

// Errors of a NameServer; all others say that there was no answer.
var (
	// ErrNoName says that the DNS does not have the name, for records of no type.
	ErrNoName = errors.New("there is no such name")
	errAnswer = errors.New("the name server does not know")
)

// CAA is a record that says who may issue certificates for a name and those below it (RFC 8659).
type CAA struct {
	Critical bool
	Tag      string // in lower case
	Value    string
}

const (
	askTimeout = 3 * time.Second
	askTries   = 2
	// askSize is what fits into a packet on every path (DNS flag day 2020); longer answers come by TCP.
	askSize = 1232
)

// Addresses are those of a name, IPv4 before IPv6; none for a name that has other records only. Of a wildcard they are those
// that names below it have. Aliases are followed.
func (s *NameServer) Addresses(ctx context.Context, name contract.Domain) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := s.ask(ctx, name.String(), kind)
		if err != nil {
			return nil, err
		}
		for _, r := range answer {
			var ip net.IP
			switch r := r.(type) {
			case *dns.A:
				ip = r.A
			case *dns.AAAA:
				ip = r.AAAA
			}
			if address, ok := netip.AddrFromSlice(ip); ok {
				all = append(all, address.Unmap())
			}
		}
	}
	return all, nil
}

// CAA finds the records that count for a name: its own, or those of the nearest name above it that has some, and which that is.
// It is empty where nothing restricts who may issue.
func (s *NameServer) CAA(ctx context.Context, name contract.Domain) (at string, records []CAA, err error) {
	for at = name.Base().String(); ; {
		answer, err := s.ask(ctx, at, dns.TypeCAA)
		if err != nil && !errors.Is(err, ErrNoName) {
			return "", nil, err
		}
		for _, r := range answer {
			if caa, ok := r.(*dns.CAA); ok {
				records = append(records, CAA{Critical: caa.Flag&128 != 0, Tag: strings.ToLower(caa.Tag), Value: caa.Value})
			}
		}
		if len(records) > 0 {
			return at, records, nil
		}
		_, parent, found := strings.Cut(at, ".")
		if !found {
			return "", nil, nil
		}
		at = parent
	}
}

// ask gives the answer's records of all types: an alias comes with what it leads to.
func (s *NameServer) ask(ctx context.Context, name string, kind uint16) ([]dns.RR, error) {
	server := s.address
	if server == "" {
		machine, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(machine.Servers) == 0 {
			return nil, fmt.Errorf("find this machine's name server: %w", cmp.Or(err, errors.New("there is none")))
		}
		server = net.JoinHostPort(machine.Servers[0], machine.Port)
	}
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	question.SetEdns0(askSize, false)
	var failed error
	for range askTries {
		answer, err := s.exchange(ctx, question, server)
		if failed = err; err != nil {
			continue
		}
		switch answer.Rcode {
		case dns.RcodeSuccess:
			return answer.Answer, nil
		case dns.RcodeNameError:
			return nil, ErrNoName
		}
		failed = fmt.Errorf("%w: %s", errAnswer, dns.RcodeToString[answer.Rcode])
	}
	return nil, fmt.Errorf("ask for %s of %s: %w", dns.TypeToString[kind], name, failed)
}

func (s *NameServer) exchange(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	client := &dns.Client{Timeout: askTimeout, UDPSize: askSize}
	answer, _, err := client.ExchangeContext(ctx, question, server)
	if err != nil || !answer.Truncated {
		return answer, err
	}
	client.Net = "tcp"
	answer, _, err = client.ExchangeContext(ctx, question, server)
	return answer, err
}
