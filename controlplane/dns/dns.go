// Package dns speaks to those who run people's DNS: seven services, each in its own way, behind three calls. What is in a zone,
// append a record, delete a record. It never replaces a set of records: what others made stays as it is.
//
// It keeps nothing and decides nothing: package domain knows which records there are to be, and which are our own.
//
// Three services are spoken to by libraries of libdns. Four are spoken to here:
//   - PowerDNS and RFC 2136 have addresses that people chose, which only package outbound may call, and answers of which a bound must
//     be read: their libraries take neither a dialer nor a limit;
//   - Route 53 keeps sets of records, of which aliases have no values. The library shows no alias and so overwrites it, takes
//     "\052" for another name than "*", and ends the program when the files of AWS in its home are not as it likes;
//   - DigitalOcean's library brings a transport of its own that no test can lead elsewhere, and tries in vain for 15 seconds.
//
// Errors of a Service are in words that may be shown to the organization whose service it is: they hold no credentials, and of
// addresses that people chose no more than package outbound allows.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/libdns/libdns"

	"chom.dev/controlplane/outbound"
)

// Type is which service it is.
type Type string

// The services.
const (
	Cloudflare   Type = "cloudflare"
	Hetzner      Type = "hetzner"
	DigitalOcean Type = "digitalocean"
	Route53      Type = "route53"
	OVH          Type = "ovh"
	PowerDNS     Type = "powerdns"
	RFC2136      Type = "rfc2136"
)

// Record is a record of a zone.
type Record struct {
	Name  string // fully qualified, in lower case, without the dot at its end; "*." begins a wildcard
	Type  string // "A", "TXT"
	Value string // an address as netip writes it, a text without quotes, anything else as the service has it
	TTL   time.Duration

	found libdns.Record // as the service gave it, with what it tells records apart by
}

// Same says whether two are the same record, whatever their TTL.
func (r Record) Same(other Record) bool {
	return r.Name == other.Name && r.Type == other.Type && r.Value == other.Value
}

// callWithin bounds a call of a service, with all of its parts and repetitions.
const callWithin = 30 * time.Second

// zones are what a library of libdns offers.
type zones interface {
	libdns.RecordGetter
	libdns.RecordAppender
	libdns.RecordDeleter
}

// Service runs zones. It is safe for concurrent use.
type Service struct {
	zones       zones
	credentials Credentials
}

// Open prepares to speak to a service. Addresses that people chose are reached through the dialer.
func Open(c Credentials, dialer *outbound.Dialer) (*Service, error) {
	open, known := services[c.Type()]
	if !known {
		return nil, fmt.Errorf("open DNS service: %q is none", c.Type())
	}
	return &Service{open.zones(c, dialer), c}, nil
}

// maxRecords is how many records of a zone are taken in: who runs it chooses what it answers.
const maxRecords = 50_000

const tooLarge = answered("the zone has more than 50000 records")

// matters says whether records of a type can be ours, or be in the way of ours.
func matters(kind string) bool {
	return slices.Contains([]string{"A", "AAAA", "TXT", "CNAME", "ALIAS", "ANAME"}, strings.ToUpper(kind))
}

// Records are all records of a zone that hold addresses or texts, or are aliases. A zone that has too many of them is an error.
func (s *Service) Records(ctx context.Context, zone string) ([]Record, error) {
	var all []Record
	err := s.call(ctx, func(ctx context.Context) error {
		found, err := s.zones.GetRecords(ctx, zone)
		for _, one := range found {
			if !matters(one.RR().Type) {
				continue
			}
			if len(all) == maxRecords {
				return tooLarge
			}
			all = append(all, recordOf(one, zone))
		}
		return err
	})
	return all, err
}

// Append adds a record beside those that are there.
func (s *Service) Append(ctx context.Context, zone string, r Record) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := s.zones.AppendRecords(ctx, zone, []libdns.Record{r.libdns(zone)})
		return err
	})
}

// Delete removes a record that Records gave, and no other.
func (s *Service) Delete(ctx context.Context, zone string, r Record) error {
	if r.found == nil || r.Value == "" {
		return errors.New("a record must be looked up before it is deleted") // libraries take an empty value for all values
	}
	return s.call(ctx, func(ctx context.Context) error {
		_, err := s.zones.DeleteRecords(ctx, zone, []libdns.Record{r.found})
		return err
	})
}

// call bounds a call, and makes its error one that can be shown. A library that panics on an answer which it did not expect
// must not take the control plane with it.
func (s *Service) call(ctx context.Context, do func(context.Context) error) (err error) {
	bounded, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	defer func() {
		if broken := recover(); broken != nil {
			err = errors.New("it gave an answer that is not understood")
		}
	}()
	err = do(bounded)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errors.New(s.explain(err))
}

// explain says in words that can be shown why a call failed.
func (s *Service) explain(err error) string {
	var said answered
	var way *url.Error
	switch {
	case errors.As(err, &said):
		return s.clean(said.Error())
	case errors.As(err, &way), services[s.credentials.Type()].chosen, errors.Is(err, context.DeadlineExceeded):
		return "it cannot be reached: " + outbound.Explain(err)
	}
	return s.clean(err.Error())
}

// answered is what a service said itself.
type answered string

func (a answered) Error() string { return string(a) }

// maxText bounds what is shown of a service's words.
const maxText = 300

// clean makes a service's text one line without credentials.
func (s *Service) clean(text string) string {
	text = s.credentials.hide(text)
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxText {
		text = string(runes[:maxText]) + "…"
	}
	return text
}

// recordOf gives a record of a library its one form.
func recordOf(found libdns.Record, zone string) Record {
	rr := found.RR()
	r := Record{Type: strings.ToUpper(rr.Type), Value: rr.Data, TTL: rr.TTL, found: found}
	r.Name = strings.ToLower(strings.TrimSuffix(libdns.AbsoluteName(rr.Name, zone), "."))
	switch r.Type {
	case "A", "AAAA":
		if address, err := netip.ParseAddr(r.Value); err == nil {
			r.Value = address.String()
		}
	case "TXT":
		r.Value = unquote(r.Value)
	}
	return r
}

// unquote joins the strings of a text that a service gives as a zone file has them.
func unquote(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	return strings.ReplaceAll(text[1:len(text)-1], `" "`, "")
}

// libdns is the record as the libraries take it.
func (r Record) libdns(zone string) libdns.Record {
	name := "@"
	if r.Name != zone {
		name = strings.TrimSuffix(r.Name, "."+zone)
	}
	if address, err := netip.ParseAddr(r.Value); err == nil && r.Type != "TXT" {
		return libdns.Address{Name: name, TTL: r.TTL, IP: address}
	}
	return libdns.TXT{Name: name, TTL: r.TTL, Text: r.Value}
}
