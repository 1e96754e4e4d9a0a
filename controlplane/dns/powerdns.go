package dns

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libdns/libdns"

	"chom.dev/controlplane/outbound"
)

// powerDNS speaks to the API of a PowerDNS of somebody's own. It can only replace whole sets of records (EXTEND and PRUNE came
// with version 5): a set is read, changed by one record and written back, one change after the other.
type powerDNS struct {
	client *http.Client
	root   string // https://HOST/api/v1/servers/ID
	key    string

	mu sync.Mutex // held from reading a set until it is written
}

func openPowerDNS(c Credentials, dialer *outbound.Dialer) zones {
	return &powerDNS{
		client: dialer.Client(callWithin), key: c.value("api_key"),
		root: strings.TrimRight(c.value("server_url"), "/") + "/api/v1/servers/" + url.PathEscape(cmp.Or(c.value("server_id"), "localhost")),
	}
}

// rrset is a set of records as PowerDNS has it: all of one name and type.
type rrset struct {
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	TTL        int       `json:"ttl"`
	ChangeType string    `json:"changetype,omitempty"`
	Records    dataOfSet `json:"records"`
}

type powerDNSData struct {
	Content  string `json:"content"`
	Disabled bool   `json:"disabled"`
}

// rrsets are those of a zone that matter. They are taken in one by one: what a server answers may be anything.
type rrsets []rrset

// UnmarshalJSON implements json.Unmarshaler.
func (all *rrsets) UnmarshalJSON(text []byte) error {
	records := 0
	return each(text, func(set rrset) error {
		if !matters(set.Type) {
			return nil
		}
		if records += len(set.Records) + 1; len(*all) == maxRecords || records > 2*maxRecords {
			return tooLarge
		}
		*all = append(*all, set)
		return nil
	})
}

// dataOfSet is likewise what is in one set.
type dataOfSet []powerDNSData

// UnmarshalJSON implements json.Unmarshaler.
func (all *dataOfSet) UnmarshalJSON(text []byte) error {
	return each(text, func(one powerDNSData) error {
		if len(*all) == maxRecords {
			return tooLarge
		}
		*all = append(*all, one)
		return nil
	})
}

// each reads an array of JSON, one element after the other.
func each[T any](text []byte, do func(T) error) error {
	decode := json.NewDecoder(bytes.NewReader(text))
	if first, err := decode.Token(); err != nil || first != json.Delim('[') {
		return err // null is none
	}
	for decode.More() {
		var one T
		if err := decode.Decode(&one); err != nil {
			return err
		}
		if err := do(one); err != nil {
			return err
		}
	}
	return nil
}

// GetRecords implements libdns.RecordGetter. Disabled records are among them: they are somebody's.
func (p *powerDNS) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	sets, err := p.sets(ctx, zone)
	if err != nil {
		return nil, err
	}
	var all []libdns.Record
	for _, set := range sets {
		for _, r := range set.Records {
			all = append(all, libdns.RR{Name: libdns.RelativeName(set.Name, zone), Type: set.Type, TTL: time.Duration(set.TTL) * time.Second, Data: r.Content})
		}
	}
	return all, nil
}

// AppendRecords implements libdns.RecordAppender.
func (p *powerDNS) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.change(ctx, zone, records, func(set *rrset, data string) {
		set.Records = append(set.Records, powerDNSData{Content: data})
	})
}

// DeleteRecords implements libdns.RecordDeleter.
func (p *powerDNS) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.change(ctx, zone, records, func(set *rrset, data string) {
		set.Records = slices.DeleteFunc(set.Records, func(r powerDNSData) bool { return r.Content == data })
	})
}

// change writes the sets of some records back, each changed by one record.
func (p *powerDNS) change(ctx context.Context, zone string, records []libdns.Record, by func(set *rrset, data string)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, record := range records {
		rr := record.RR()
		name, data := strings.TrimSuffix(libdns.AbsoluteName(rr.Name, zone), ".")+".", rr.Data
		if rr.Type == "TXT" && !strings.HasPrefix(data, `"`) {
			data = `"` + data + `"`
		}
		sets, err := p.sets(ctx, zone)
		if err != nil {
			return err
		}
		set := rrset{Name: name, Type: rr.Type, TTL: int(rr.TTL.Seconds())}
		for _, have := range sets {
			if strings.EqualFold(have.Name, name) && have.Type == rr.Type {
				set = have
			}
		}
		by(&set, data)
		set.ChangeType = "REPLACE" // of none: the set is gone
		if err := p.ask(ctx, http.MethodPatch, zone, map[string][]rrset{"rrsets": {set}}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (p *powerDNS) sets(ctx context.Context, zone string) ([]rrset, error) {
	var answer struct {
		Sets rrsets `json:"rrsets"`
	}
	return answer.Sets, p.ask(ctx, http.MethodGet, zone, nil, &answer)
}

// ask makes one call about a zone.
func (p *powerDNS) ask(ctx context.Context, method, zone string, body, into any) error {
	return askJSON(ctx, p.client, method, p.root+"/zones/"+url.PathEscape(zone+"."), http.Header{"X-Api-Key": {p.key}}, body, into)
}
