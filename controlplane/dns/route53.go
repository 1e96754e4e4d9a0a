package dns

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libdns/libdns"

	"chom.dev/controlplane/outbound"
)

// amazon speaks to Route 53, by its API of 2013-04-01 (REST with XML, signed by Signature Version 4). It keeps sets of records:
// one is changed by deleting it as it was read and creating it as it is to be, in one batch. The batch fails where somebody
// else has changed the set meanwhile, so that nothing of theirs is lost.
type amazon struct {
	client            *http.Client
	host, region      string
	service           string // as signatures name it
	accessKey, secret string
	mu                sync.Mutex // one change after the other: two at once make one of them fail
}

func openRoute53(c Credentials, _ *outbound.Dialer) zones {
	a := &amazon{client: fixedClient(), service: "route53", accessKey: c.value("access_key_id"), secret: c.value("secret_access_key")}
	// It is one service for all regions of a partition, and signed for one of them.
	switch region := c.value("region"); {
	case strings.HasPrefix(region, "cn-"):
		a.host, a.region = "route53.amazonaws.com.cn", "cn-northwest-1"
	case strings.HasPrefix(region, "us-gov-"):
		a.host, a.region = "route53.us-gov.amazonaws.com", "us-gov-west-1"
	default:
		a.host, a.region = "route53.amazonaws.com", "us-east-1"
	}
	return a
}

// amazonSet is a set of records. What makes it more than a name, a type and values is foreign to us.
type amazonSet struct {
	Name          string        `xml:"Name"`
	Type          string        `xml:"Type"`
	SetIdentifier string        `xml:"SetIdentifier,omitempty"`
	TTL           int64         `xml:"TTL"`
	Values        []amazonValue `xml:"ResourceRecords>ResourceRecord"`
	Alias         *struct {
		Name string `xml:"DNSName"`
	} `xml:"AliasTarget"`
}

type amazonValue struct {
	Value string `xml:"Value"`
}

// name is the set's, of a wildcard as everybody else writes it.
func (s amazonSet) name() string { return strings.ReplaceAll(s.Name, `\052`, "*") }

type amazonChange struct {
	Action string    `xml:"Action"`
	Set    amazonSet `xml:"ResourceRecordSet"`
}

// GetRecords implements libdns.RecordGetter. An alias is a record with the value "alias of NAME".
func (a *amazon) GetRecords(ctx context.Context, zone string) ([]libdns.Record, error) {
	id, err := a.zone(ctx, zone)
	if err != nil {
		return nil, err
	}
	sets, err := a.sets(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []libdns.Record
	for _, set := range sets {
		r := libdns.RR{Name: libdns.RelativeName(set.name(), zone), Type: set.Type, TTL: time.Duration(set.TTL) * time.Second}
		if set.Alias != nil {
			r.Data = "alias of " + set.Alias.Name
			all = append(all, r)
		}
		for _, v := range set.Values {
			r.Data = v.Value
			all = append(all, r)
		}
	}
	return all, nil
}

// AppendRecords implements libdns.RecordAppender.
func (a *amazon) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, a.change(ctx, zone, records, func(values []amazonValue, data string) []amazonValue { return append(values, amazonValue{data}) })
}

// DeleteRecords implements libdns.RecordDeleter.
func (a *amazon) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, a.change(ctx, zone, records, func(values []amazonValue, data string) []amazonValue {
		return slices.DeleteFunc(slices.Clone(values), func(v amazonValue) bool { return v.Value == data })
	})
}

// change changes the sets of some records, each by one value.
func (a *amazon) change(ctx context.Context, zone string, records []libdns.Record, by func(values []amazonValue, data string) []amazonValue) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, err := a.zone(ctx, zone)
	if err != nil {
		return err
	}
	for _, record := range records {
		rr := record.RR()
		name, data := strings.TrimSuffix(libdns.AbsoluteName(rr.Name, zone), ".")+".", rr.Data
		if rr.Type == "TXT" && !strings.HasPrefix(data, `"`) {
			data = `"` + data + `"`
		}
		sets, err := a.sets(ctx, id)
		if err != nil {
			return err
		}
		after := amazonSet{Name: name, Type: rr.Type, TTL: int64(rr.TTL.Seconds())}
		var changes []amazonChange
		for _, set := range sets {
			if !strings.EqualFold(set.name(), name) || set.Type != rr.Type {
				continue
			}
			if set.Alias != nil || set.SetIdentifier != "" {
				return answered(fmt.Sprintf("%s has an alias or a routing policy", name))
			}
			changes = append(changes, amazonChange{"DELETE", set})
			after.TTL, after.Values = set.TTL, slices.Clone(set.Values)
		}
		if after.Values = by(after.Values, data); len(after.Values) > 0 {
			changes = append(changes, amazonChange{"CREATE", after})
		}
		if err := a.send(ctx, id, changes); err != nil {
			return err
		}
	}
	return nil
}

func (a *amazon) send(ctx context.Context, zone string, changes []amazonChange) error {
	if len(changes) == 0 {
		return nil
	}
	body, err := xml.Marshal(struct {
		XMLName xml.Name       `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
		Changes []amazonChange `xml:"ChangeBatch>Changes>Change"`
	}{Changes: changes})
	if err != nil {
		return err
	}
	return a.ask(ctx, http.MethodPost, "/hostedzone/"+zone+"/rrset/", nil, body, nil)
}

// zone finds the id of the public zone with a name.
func (a *amazon) zone(ctx context.Context, name string) (string, error) {
	var answer struct {
		Zones []struct {
			ID      string `xml:"Id"`
			Name    string `xml:"Name"`
			Private bool   `xml:"Config>PrivateZone"`
		} `xml:"HostedZones>HostedZone"`
	}
	if err := a.ask(ctx, http.MethodGet, "/hostedzonesbyname", url.Values{"dnsname": {name}, "maxitems": {"100"}}, nil, &answer); err != nil {
		return "", err
	}
	for _, zone := range answer.Zones {
		if strings.TrimSuffix(zone.Name, ".") == name && !zone.Private {
			return url.PathEscape(strings.TrimPrefix(zone.ID, "/hostedzone/")), nil
		}
	}
	return "", answered("it has no such zone")
}

// sets are all sets of a zone, page by page.
func (a *amazon) sets(ctx context.Context, zone string) ([]amazonSet, error) {
	var all []amazonSet
	for query := (url.Values{"maxitems": {"300"}}); ; {
		var answer struct {
			Sets           []amazonSet `xml:"ResourceRecordSets>ResourceRecordSet"`
			More           bool        `xml:"IsTruncated"`
			NextName       string      `xml:"NextRecordName"`
			NextType       string      `xml:"NextRecordType"`
			NextIdentifier string      `xml:"NextRecordIdentifier"`
		}
		if err := a.ask(ctx, http.MethodGet, "/hostedzone/"+zone+"/rrset", query, nil, &answer); err != nil {
			return nil, err
		}
		all = append(all, answer.Sets...)
		if !answer.More {
			return all, nil
		}
		query.Set("name", answer.NextName)
		query.Set("type", answer.NextType)
		query.Del("identifier")
		if answer.NextIdentifier != "" {
			query.Set("identifier", answer.NextIdentifier)
		}
	}
}

// ask makes one signed call.
func (a *amazon) ask(ctx context.Context, method, path string, query url.Values, body []byte, into any) error {
	to := url.URL{Scheme: "https", Host: a.host, Path: "/2013-04-01" + path, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20")}
	request, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	a.sign(request, body, time.Now())
	answer, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decode := xml.NewDecoder(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode/100 != 2 {
		var refusal struct {
			Message  string   `xml:"Error>Message"`
			Messages []string `xml:"Messages>Message"` // of a batch
		}
		text := ""
		if decode.Decode(&refusal) == nil {
			text = ": " + cmp.Or(refusal.Message, strings.Join(refusal.Messages, "; "))
		}
		return answered(fmt.Sprintf("it answered %d%s", answer.StatusCode, text))
	}
	if into == nil {
		return nil
	}
	return decode.Decode(into)
}

// sign puts the signature of AWS (Version 4) on a request whose path and query are in their canonical form already.
func (a *amazon) sign(r *http.Request, body []byte, now time.Time) {
	at := now.UTC().Format("20060102T150405Z")
	r.Header.Set("X-Amz-Date", at)
	canonical := strings.Join([]string{
		r.Method, r.URL.EscapedPath(), r.URL.RawQuery, "host:" + r.URL.Host, "x-amz-date:" + at, "", "host;x-amz-date", hashed(body),
	}, "\n")
	scope := strings.Join([]string{at[:8], a.region, a.service, "aws4_request"}, "/")
	key := []byte("AWS4" + a.secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = keyed(key, part)
	}
	signature := keyed(key, strings.Join([]string{"AWS4-HMAC-SHA256", at, scope, hashed([]byte(canonical))}, "\n"))
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=host;x-amz-date, Signature=%s", a.accessKey, scope, hex.EncodeToString(signature)))
}

func hashed(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
