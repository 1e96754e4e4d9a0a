package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	"chom.dev/controlplane/outbound"
)

// updates speaks to a name server itself: zone transfers (AXFR) to look, dynamic updates (RFC 2136) to change, both over TCP and
// signed with TSIG. The key must allow both.
type updates struct {
	dialer                         *outbound.Dialer
	server, name, algorithm, value string
}

func openRFC2136(c Credentials, dialer *outbound.Dialer) zones {
	return &updates{dialer, c.value("server"), dns.CanonicalName(c.value("key_name")), dns.Fqdn(c.value("key_algorithm")), c.value("key")}
}

// GetRecords implements libdns.RecordGetter.
func (u *updates) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	conn, err := u.dial(ctx)
	if err != nil {
		return nil, err
	}
	ask := new(dns.Msg)
	ask.SetAxfr(dns.Fqdn(zone))
	u.sign(ask)
	transfer := &dns.Transfer{Conn: conn, TsigSecret: map[string]string{u.name: u.value}, ReadTimeout: callWithin}
	envelopes, err := transfer.In(ask, u.server)
	if err != nil {
		return nil, err
	}
	var all []libdns.Record
	var failed error
	for envelope := range envelopes { // to its end, which the deadline and the bound of the connection make sure of
		if envelope.Error != nil {
			failed = envelope.Error
		}
		for _, rr := range envelope.RR {
			if len(all) > maxRecords || !matters(dns.TypeToString[rr.Header().Rrtype]) {
				continue // Records says that it is too many
			}
			all = append(all, fromZone(rr, zone))
		}
	}
	return all, u.said(failed)
}

// fromZone is a record as the other services give it.
func fromZone(rr dns.RR, zone string) libdns.Record {
	header := rr.Header()
	r := libdns.RR{
		Name: libdns.RelativeName(header.Name, zone), Type: dns.TypeToString[header.Rrtype], TTL: time.Duration(header.Ttl) * time.Second,
		Data: strings.TrimPrefix(rr.String(), header.String()),
	}
	if text, ok := rr.(*dns.TXT); ok {
		r.Data = strings.Join(text.Txt, "")
	}
	return r
}

// AppendRecords implements libdns.RecordAppender.
func (u *updates) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, u.update(ctx, zone, records, (*dns.Msg).Insert)
}

// DeleteRecords implements libdns.RecordDeleter.
func (u *updates) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, u.update(ctx, zone, records, (*dns.Msg).Remove)
}

// update sends one message that adds or removes single records (RFC 2136, sections 2.5.1 and 2.5.4).
func (u *updates) update(ctx context.Context, zone string, records []libdns.Record, how func(*dns.Msg, []dns.RR)) error {
	message := new(dns.Msg)
	message.SetUpdate(dns.Fqdn(zone))
	for _, record := range records {
		rr, err := inZone(record.RR(), zone)
		if err != nil {
			return err
		}
		how(message, []dns.RR{rr})
	}
	u.sign(message)
	conn, err := u.dial(ctx)
	if err != nil {
		return err
	}
	conn.TsigSecret = map[string]string{u.name: u.value}
	if err := conn.WriteMsg(message); err != nil {
		return err
	}
	answer, err := conn.ReadMsg()
	if answer != nil && answer.Rcode != dns.RcodeSuccess {
		return refusedBy(answer.Rcode)
	}
	return u.said(err)
}

// inZone is an address or a text as the wire has it.
func inZone(r libdns.RR, zone string) (dns.RR, error) {
	header := dns.RR_Header{Name: dns.Fqdn(libdns.AbsoluteName(r.Name, zone)), Rrtype: dns.StringToType[r.Type], Class: dns.ClassINET, Ttl: uint32(r.TTL.Seconds())}
	switch r.Type {
	case "TXT":
		return &dns.TXT{Hdr: header, Txt: []string{r.Data}}, nil
	case "A":
		return &dns.A{Hdr: header, A: net.ParseIP(r.Data)}, nil
	case "AAAA":
		return &dns.AAAA{Hdr: header, AAAA: net.ParseIP(r.Data)}, nil
	}
	return nil, fmt.Errorf("write a record of type %s: only addresses and texts are", r.Type)
}

func (u *updates) sign(m *dns.Msg) { m.SetTsig(u.name, u.algorithm, tsigFudge, time.Now().Unix()) }

// tsigFudge is by how many seconds clocks may differ (RFC 8945, section 10).
const tsigFudge = 300

// dial connects for one call. The connection ends with the call's context, and gives no more than it may.
func (u *updates) dial(ctx context.Context) (*dns.Conn, error) {
	conn, err := u.dialer.DialContext(ctx, "tcp", u.server)
	if err != nil {
		return nil, err
	}
	until, _ := ctx.Deadline() // call set one
	if err := conn.SetDeadline(until); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // nothing is lost: each answer was read, or is not wanted any more
	return &dns.Conn{Conn: &bounded{Conn: conn, left: maxAnswer}}, nil
}

// said makes what the library tells of an answer one that can be shown; what the network did stays as it is.
func (u *updates) said(err error) error {
	var answer *dns.Error
	var network net.Error
	switch {
	case err == nil || errors.As(err, &network):
		return err
	case errors.Is(err, dns.ErrAuth):
		return refusedBy(dns.RcodeNotAuth)
	case errors.Is(err, dns.ErrNoSig): // what is not signed is not believed, be it a refusal
		return answered("it answered without a signature: it does not have the zone, or does not know the key")
	case errors.As(err, &answer):
		// The library gives the code of a refused transfer as a number in a text of its own.
		var code int
		if _, numeric := fmt.Sscanf(answer.Error(), "dns: bad xfr rcode: %d", &code); numeric == nil {
			return refusedBy(code)
		}
		return answered("its answer is not right: " + strings.TrimPrefix(answer.Error(), "dns: "))
	}
	return err
}

func refusedBy(code int) error {
	word := dns.RcodeToString[code]
	switch code {
	case dns.RcodeNotAuth, dns.RcodeBadSig, dns.RcodeBadKey:
		word += ": it does not have the zone, or does not know the key"
	case dns.RcodeRefused:
		word += ": the key may not read the zone (AXFR) or update it"
	}
	return answered("it answered " + word)
}

// bounded is a connection that keeps its deadline, whatever a library sets, and gives only so much.
type bounded struct {
	net.Conn
	left int
}

func (b *bounded) SetDeadline(time.Time) error      { return nil }
func (b *bounded) SetReadDeadline(time.Time) error  { return nil }
func (b *bounded) SetWriteDeadline(time.Time) error { return nil }

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, answered("the zone is too large")
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
