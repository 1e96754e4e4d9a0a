package dns

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/libdns/libdns"

	"chom.dev/controlplane/outbound"
)

// digitalOcean speaks to DigitalOcean's API, version 2, where each record has an id.
type digitalOcean struct {
	client *http.Client
	token  string
}

func openDigitalOcean(c Credentials, _ *outbound.Dialer) zones {
	return &digitalOcean{fixedClient(), c.value("api_token")}
}

// numbered is a record with what the service tells it apart by.
type numbered struct {
	rr libdns.RR
	id int64
}

// RR implements libdns.Record.
func (n numbered) RR() libdns.RR { return n.rr }

type digitalOceanRecord struct {
	ID   int64  `json:"id,omitempty"`
	Type string `json:"type"`
	Name string `json:"name"`
	Data string `json:"data"`
	TTL  int64  `json:"ttl"`
}

// GetRecords implements libdns.RecordGetter, page by page.
func (d *digitalOcean) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	var all []libdns.Record
	for page := 1; ; page++ {
		var answer struct {
			Records []digitalOceanRecord `json:"domain_records"`
			Links   struct {
				Pages struct {
					Next string `json:"next"`
				} `json:"pages"`
			} `json:"links"`
		}
		if err := d.ask(ctx, http.MethodGet, zone, fmt.Sprintf("?per_page=200&page=%d", page), nil, &answer); err != nil {
			return nil, err
		}
		for _, r := range answer.Records {
			all = append(all, numbered{libdns.RR{Name: r.Name, Type: r.Type, Data: r.Data, TTL: time.Duration(r.TTL) * time.Second}, r.ID})
		}
		if answer.Links.Pages.Next == "" {
			return all, nil
		}
	}
}

// AppendRecords implements libdns.RecordAppender.
func (d *digitalOcean) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	for _, record := range records {
		rr := record.RR()
		if err := d.ask(ctx, http.MethodPost, zone, "", digitalOceanRecord{Type: rr.Type, Name: rr.Name, Data: rr.Data, TTL: int64(rr.TTL.Seconds())}, nil); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// DeleteRecords implements libdns.RecordDeleter, for records that GetRecords gave.
func (d *digitalOcean) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	for _, record := range records {
		n, ok := record.(numbered)
		if !ok {
			return nil, errors.New("delete a record without an id")
		}
		if err := d.ask(ctx, http.MethodDelete, zone, fmt.Sprintf("/%d", n.id), nil, nil); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func (d *digitalOcean) ask(ctx context.Context, method, zone, rest string, body, into any) error {
	to := "https://api.digitalocean.com/v2/domains/" + url.PathEscape(zone) + "/records" + rest
	return askJSON(ctx, d.client, method, to, http.Header{"Authorization": {"Bearer " + d.token}}, body, into)
}
