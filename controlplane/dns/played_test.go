package dns_test

import (
	"context"
	"crypto/sha1" //nolint:gosec // OVH's signature
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/dns"
)

// played is a service's API as its documentation has it, kept in memory: a fake, since none of the five can be had here. It plays
// what is asked of a zone example.com and refuses everything else.
type played struct {
	host string
	// letsIn checks how a call proves who calls.
	letsIn func(r *http.Request, body string) bool
	// answer plays a call; the status is 0 for one that the API does not have.
	answer func(p *played, r *http.Request, body string) (status int, text string)

	mu      sync.Mutex
	records []playedRecord
	next    int
	changes []string // calls that change something: "METHOD PATH BODY"
}

// refusal quotes what it was given, as careless services do.
const refusal = `{"message":"canary-other is not allowed","errors":[{"code":9109,"message":"canary-other is not allowed"}]}`

type playedRecord struct {
	id                int
	name, kind, value string // the name as the service has it
}

func (p *played) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	status, text := http.StatusForbidden, refusal
	if p.letsIn(r, string(body)) {
		if r.Method != http.MethodGet {
			p.changes = append(p.changes, r.Method+" "+r.URL.Path+" "+string(body))
		}
		if status, text = p.answer(p, r, string(body)); status == 0 {
			status, text = http.StatusNotFound, `{"message":"not found","errors":[{"code":7003,"message":"not found"}]}`
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // whoever hung up fails by himself
}

func (p *played) add(name, kind, value string) int {
	p.next++
	p.records = append(p.records, playedRecord{p.next, name, kind, value})
	return p.next
}

func (p *played) remove(gone func(playedRecord) bool) { p.records = slices.DeleteFunc(p.records, gone) }

// on has every call of this process to the service's host come here, until the test ends.
func (p *played) on(t *testing.T) {
	t.Helper()
	server := httptest.NewTLSServer(p)
	t.Cleanup(server.Close)
	ours := server.Client().Transport.(*http.Transport).Clone()
	ours.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		if address != p.host+":443" {
			return nil, fmt.Errorf("%s is called", address)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	ours.TLSClientConfig.ServerName = "example.com" // whom httptest's certificate names
	former := http.DefaultTransport
	http.DefaultTransport = ours
	t.Cleanup(func() { http.DefaultTransport = former })
}

func bearer(r *http.Request, _ string) bool {
	return r.Header.Get("Authorization") == "Bearer canary-token"
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and texts can be written
	}
	return string(text)
}

type object = map[string]any

func cloudflare(p *played, r *http.Request, body string) (int, string) {
	said := func(result any, n int) (int, string) {
		return 200, encode(object{"success": true, "errors": []any{}, "result": result, "result_info": object{"page": 1, "per_page": 100, "count": n, "total_count": n}})
	}
	const root = "/client/v4/zones"
	query := r.URL.Query()
	switch path := strings.TrimPrefix(r.URL.Path, root); {
	case r.Method == http.MethodGet && path == "":
		if query.Get("name") != "example.com" {
			return said([]any{}, 0)
		}
		return said([]any{object{"id": "z1", "name": "example.com"}}, 1)
	case r.Method == http.MethodGet && path == "/z1/dns_records":
		list := []any{}
		for _, have := range p.records {
			if query.Has("name") && (have.name != query.Get("name") || have.kind != query.Get("type") ||
				query.Has("content.exact") && have.value != query.Get("content.exact") || !strings.Contains(have.value, query.Get("content.contains"))) {
				continue
			}
			list = append(list, object{"id": fmt.Sprint(have.id), "name": have.name, "type": have.kind, "content": have.value, "ttl": 60})
		}
		return said(list, len(list))
	case r.Method == http.MethodPost && path == "/z1/dns_records":
		var made struct{ Name, Type, Content string }
		if json.Unmarshal([]byte(body), &made) != nil {
			return 0, ""
		}
		name := "example.com"
		if made.Name != "@" {
			name = made.Name + ".example.com"
		}
		return said(object{"id": fmt.Sprint(p.add(name, made.Type, made.Content)), "name": name, "type": made.Type, "content": made.Content}, 1)
	case r.Method == http.MethodDelete && strings.HasPrefix(path, "/z1/dns_records/"):
		id := strings.TrimPrefix(path, "/z1/dns_records/")
		p.remove(func(have playedRecord) bool { return fmt.Sprint(have.id) == id })
		return said(object{"id": id}, 1)
	}
	return 0, ""
}

func hetzner(p *played, r *http.Request, body string) (int, string) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/zones/")
	switch {
	case r.Method == http.MethodGet && path == "example.com":
		return 200, encode(object{"zone": object{"id": 7, "name": "example.com", "ttl": 3600}})
	case r.Method == http.MethodGet && path == "7/rrsets":
		sets := []any{}
		for _, have := range p.records {
			sets = append(sets, object{"id": have.name + "/" + have.kind, "name": have.name, "type": have.kind, "ttl": 60, "records": []any{object{"value": have.value}}})
		}
		return 200, encode(object{"rrsets": sets, "meta": object{"pagination": object{"page": 1, "per_page": 50, "last_page": 1, "total_entries": len(sets)}}})
	case r.Method == http.MethodPost && strings.HasPrefix(path, "example.com/rrsets/"):
		parts := strings.Split(path, "/") // example.com rrsets NAME TYPE actions ACTION
		var change struct{ Records []struct{ Value string } }
		if len(parts) != 6 || json.Unmarshal([]byte(body), &change) != nil || len(change.Records) != 1 {
			return 0, ""
		}
		switch value := change.Records[0].Value; parts[5] {
		case "add_records":
			p.add(parts[2], parts[3], value)
		case "remove_records":
			p.remove(func(have playedRecord) bool {
				return have.name == parts[2] && have.kind == parts[3] && have.value == value
			})
		default:
			return 0, ""
		}
		return 201, encode(object{"action": object{"id": 1, "status": "success", "command": parts[5], "progress": 100, "resources": []any{}}})
	}
	return 0, ""
}

func digitalOcean(p *played, r *http.Request, body string) (int, string) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/domains/example.com/records")
	shown := func(have playedRecord) object {
		return object{"id": have.id, "name": have.name, "type": have.kind, "data": have.value, "ttl": 60}
	}
	switch {
	case r.Method == http.MethodGet && path == "":
		list := []any{}
		for _, have := range p.records {
			list = append(list, shown(have))
		}
		return 200, encode(object{"domain_records": list, "links": object{}, "meta": object{"total": len(list)}})
	case r.Method == http.MethodPost && path == "":
		var made struct{ Name, Type, Data string }
		if json.Unmarshal([]byte(body), &made) != nil {
			return 0, ""
		}
		p.add(made.Name, made.Type, made.Data)
		return 201, encode(object{"domain_record": shown(p.records[len(p.records)-1])})
	case r.Method == http.MethodDelete:
		p.remove(func(have playedRecord) bool { return path == fmt.Sprint("/", have.id) })
		return 204, ""
	}
	return 0, ""
}

func ovh(p *played, r *http.Request, body string) (int, string) {
	path := strings.TrimPrefix(r.URL.Path, "/1.0")
	const root = "/domain/zone/example.com"
	query := r.URL.Query()
	switch {
	case path == "/auth/time":
		return 200, fmt.Sprint(time.Now().Unix())
	case r.Method == http.MethodGet && path == root+"/record":
		ids := []int{}
		for _, have := range p.records {
			if !query.Has("fieldType") || have.kind == query.Get("fieldType") && have.name == query.Get("subDomain") {
				ids = append(ids, have.id)
			}
		}
		return 200, encode(ids)
	case r.Method == http.MethodPost && path == root+"/record":
		var made struct{ FieldType, SubDomain, Target string }
		if json.Unmarshal([]byte(body), &made) != nil {
			return 0, ""
		}
		return 200, encode(object{"id": p.add(made.SubDomain, made.FieldType, made.Target), "fieldType": made.FieldType, "subDomain": made.SubDomain, "target": made.Target, "ttl": 60})
	case r.Method == http.MethodPost && path == root+"/refresh":
		return 200, "null"
	}
	for _, have := range p.records {
		if path != fmt.Sprint(root, "/record/", have.id) {
			continue
		}
		if r.Method == http.MethodDelete {
			p.remove(func(one playedRecord) bool { return one.id == have.id })
			return 200, "null"
		}
		return 200, encode(object{"id": have.id, "fieldType": have.kind, "subDomain": have.name, "target": have.value, "ttl": 60})
	}
	return 0, ""
}

// ovhSigned checks the signature as the documentation of OVH's API has it.
func ovhSigned(r *http.Request, body string) bool {
	if r.URL.Path == "/1.0/auth/time" {
		return true
	}
	text := strings.Join([]string{"canary-token", "consumer-key", r.Method, "https://eu.api.ovh.com" + r.URL.RequestURI(), body, r.Header.Get("X-Ovh-Timestamp")}, "+")
	return r.Header.Get("X-Ovh-Application") == "application-key" && r.Header.Get("X-Ovh-Consumer") == "consumer-key" &&
		r.Header.Get("X-Ovh-Signature") == fmt.Sprintf("$1$%x", sha1.Sum([]byte(text))) //nolint:gosec // it is theirs
}

// route53 keeps one record per value, and gives them as sets, one set per page.
func route53(p *played, r *http.Request, body string) (int, string) {
	path := strings.TrimPrefix(r.URL.Path, "/2013-04-01")
	switch {
	case r.Method == http.MethodGet && path == "/hostedzonesbyname":
		return 200, `<ListHostedZonesByNameResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HostedZones>` +
			`<HostedZone><Id>/hostedzone/PRIVATE</Id><Name>example.com.</Name><Config><PrivateZone>true</PrivateZone></Config></HostedZone>` +
			`<HostedZone><Id>/hostedzone/Z1</Id><Name>example.com.</Name><Config><PrivateZone>false</PrivateZone></Config></HostedZone>` +
			`</HostedZones></ListHostedZonesByNameResponse>`
	case r.Method == http.MethodGet && path == "/hostedzone/Z1/rrset":
		var keys []string
		sets := map[string]string{}
		for _, have := range p.records {
			key := have.name + " " + have.kind
			if _, known := sets[key]; !known {
				keys = append(keys, key)
			}
			sets[key] += "<ResourceRecord><Value>" + have.value + "</Value></ResourceRecord>"
		}
		from := max(0, slices.Index(keys, r.URL.Query().Get("name")+" "+r.URL.Query().Get("type")))
		text := `<ListResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ResourceRecordSets>`
		more := ""
		if from < len(keys) {
			name, kind, _ := strings.Cut(keys[from], " ")
			values := "<TTL>60</TTL><ResourceRecords>" + sets[keys[from]] + "</ResourceRecords>"
			if name == "alias.example.com." {
				values = "<AliasTarget><HostedZoneId>Z9</HostedZoneId><DNSName>lb.example.net.</DNSName></AliasTarget>"
			}
			text += fmt.Sprintf("<ResourceRecordSet><Name>%s</Name><Type>%s</Type>%s</ResourceRecordSet>", strings.ReplaceAll(name, "*", `\052`), kind, values)
		}
		if from+1 < len(keys) {
			name, kind, _ := strings.Cut(keys[from+1], " ")
			more = fmt.Sprintf("<IsTruncated>true</IsTruncated><NextRecordName>%s</NextRecordName><NextRecordType>%s</NextRecordType>", name, kind)
		}
		return 200, text + "</ResourceRecordSets>" + more + "</ListResourceRecordSetsResponse>"
	case r.Method == http.MethodPost && path == "/hostedzone/Z1/rrset/":
		var batch struct {
			XMLName xml.Name `xml:"https://route53.amazonaws.com/doc/2013-04-01/ ChangeResourceRecordSetsRequest"`
			Changes []struct {
				Action string
				Name   string                   `xml:"ResourceRecordSet>Name"`
				Type   string                   `xml:"ResourceRecordSet>Type"`
				TTL    int                      `xml:"ResourceRecordSet>TTL"`
				Values []struct{ Value string } `xml:"ResourceRecordSet>ResourceRecords>ResourceRecord"`
			} `xml:"ChangeBatch>Changes>Change"`
		}
		if xml.Unmarshal([]byte(body), &batch) != nil || len(batch.Changes) == 0 {
			return 0, ""
		}
		for _, change := range batch.Changes {
			name := strings.ReplaceAll(change.Name, `\052`, "*")
			var have, named []string
			for _, one := range p.records {
				if one.name == name && one.kind == change.Type {
					have = append(have, one.value)
				}
			}
			for _, v := range change.Values {
				named = append(named, v.Value)
			}
			switch {
			case change.Action == "DELETE" && slices.Equal(have, named) && change.TTL == 60:
				p.remove(func(one playedRecord) bool { return one.name == name && one.kind == change.Type })
			case change.Action == "CREATE" && len(have) == 0:
				for _, value := range named {
					p.add(name, change.Type, value)
				}
			default:
				return 400, `<InvalidChangeBatch xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Messages><Message>it is not as it was</Message></Messages></InvalidChangeBatch>`
			}
		}
		return 200, "<ChangeResourceRecordSetsResponse/>"
	}
	return 0, ""
}

// TestPlayedServices drives the five services that cannot be had here against what their documentation says of their API: what
// goes out has the right method, path, proof and body, and changes nothing but our record.
func TestPlayedServices(t *testing.T) {
	token := map[string]string{"api_token": "canary-token"}
	for name, test := range map[string]struct {
		play    *played
		values  map[string]string
		foreign playedRecord // a text beside ours, as the service has it
		changes []string     // substrings of the calls that change something, in order
	}{
		"cloudflare": {
			&played{host: "api.cloudflare.com", letsIn: bearer, answer: cloudflare}, token, playedRecord{0, "_chom.www.example.com", "TXT", `"theirs"`},
			[]string{
				`POST /client/v4/zones/z1/dns_records {"type":"A","name":"@","content":"192.0.2.1","ttl":60`,
				`POST /client/v4/zones/z1/dns_records {"type":"A","name":"*","content":"192.0.2.1","ttl":60`,
				`POST /client/v4/zones/z1/dns_records {"type":"TXT","name":"_chom.www","content":"\"ours\"","ttl":60`,
				`DELETE /client/v4/zones/z1/dns_records/2 `, `DELETE /client/v4/zones/z1/dns_records/3 `, `DELETE /client/v4/zones/z1/dns_records/4 `,
			},
		},
		"hetzner": {
			&played{host: "api.hetzner.cloud", letsIn: bearer, answer: hetzner}, token, playedRecord{0, "_chom.www", "TXT", `"theirs"`},
			[]string{
				`POST /v1/zones/example.com/rrsets/@/A/actions/add_records {"records":[{"value":"192.0.2.1"}],"ttl":60}`,
				`POST /v1/zones/example.com/rrsets/*/A/actions/add_records {"records":[{"value":"192.0.2.1"}],"ttl":60}`,
				`POST /v1/zones/example.com/rrsets/_chom.www/TXT/actions/add_records {"records":[{"value":"\"ours\""}],"ttl":60}`,
				`POST /v1/zones/example.com/rrsets/@/A/actions/remove_records {"records":[{"value":"192.0.2.1"}]}`,
				`POST /v1/zones/example.com/rrsets/*/A/actions/remove_records {"records":[{"value":"192.0.2.1"}]}`,
				`POST /v1/zones/example.com/rrsets/_chom.www/TXT/actions/remove_records {"records":[{"value":"\"ours\""}]}`,
			},
		},
		"digitalocean": {
			&played{host: "api.digitalocean.com", letsIn: bearer, answer: digitalOcean}, token, playedRecord{0, "_chom.www", "TXT", "theirs"},
			[]string{
				`POST /v2/domains/example.com/records {"type":"A","name":"@","data":"192.0.2.1","ttl":60}`, `POST /v2/domains/example.com/records {"type":"A","name":"*","data":"192.0.2.1","ttl":60}`,
				`POST /v2/domains/example.com/records {"type":"TXT","name":"_chom.www","data":"ours","ttl":60}`,
				`DELETE /v2/domains/example.com/records/2 `, `DELETE /v2/domains/example.com/records/3 `, `DELETE /v2/domains/example.com/records/4 `,
			},
		},
		"ovh": {
			&played{host: "eu.api.ovh.com", letsIn: ovhSigned, answer: ovh},
			map[string]string{"endpoint": "ovh-eu", "application_key": "application-key", "application_secret": "canary-token", "consumer_key": "consumer-key"},
			playedRecord{0, "_chom.www", "TXT", `"theirs"`},
			[]string{
				`POST /1.0/domain/zone/example.com/record {"fieldType":"A","subDomain":"","ttl":60,"target":"192.0.2.1"}`, `POST /1.0/domain/zone/example.com/refresh `,
				`POST /1.0/domain/zone/example.com/record {"fieldType":"A","subDomain":"*","ttl":60,"target":"192.0.2.1"}`, `POST /1.0/domain/zone/example.com/refresh `,
				`POST /1.0/domain/zone/example.com/record {"fieldType":"TXT","subDomain":"_chom.www","ttl":60,"target":"ours"}`, `POST /1.0/domain/zone/example.com/refresh `,
				`DELETE /1.0/domain/zone/example.com/record/2 `, `POST /1.0/domain/zone/example.com/refresh `,
				`DELETE /1.0/domain/zone/example.com/record/3 `, `POST /1.0/domain/zone/example.com/refresh `,
				`DELETE /1.0/domain/zone/example.com/record/4 `, `POST /1.0/domain/zone/example.com/refresh `,
			},
		},
		"route53": {
			&played{host: "route53.amazonaws.com", answer: route53, letsIn: func(r *http.Request, body string) bool {
				return dns.Signed(r, body, "AKIDEXAMPLE", "canary-token")
			}},
			map[string]string{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "canary-token", "region": "eu-central-1"},
			playedRecord{0, "_chom.www.example.com.", "TXT", `"theirs"`},
			[]string{
				`<Action>CREATE</Action><ResourceRecordSet><Name>example.com.</Name><Type>A</Type><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>192.0.2.1</Value>`,
				`<Action>CREATE</Action><ResourceRecordSet><Name>*.example.com.</Name><Type>A</Type>`,
				`<Action>DELETE</Action><ResourceRecordSet><Name>_chom.www.example.com.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>&#34;theirs&#34;</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></Change><Change><Action>CREATE</Action><ResourceRecordSet><Name>_chom.www.example.com.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>&#34;theirs&#34;</Value></ResourceRecord><ResourceRecord><Value>&#34;ours&#34;</Value></ResourceRecord></ResourceRecords>`,
				`<Action>DELETE</Action><ResourceRecordSet><Name>example.com.</Name><Type>A</Type>`,
				`<Action>DELETE</Action><ResourceRecordSet><Name>\052.example.com.</Name><Type>A</Type>`,
				`<Change><Action>CREATE</Action><ResourceRecordSet><Name>_chom.www.example.com.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>&#34;theirs&#34;</Value></ResourceRecord></ResourceRecords>`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.play.on(t)
			test.play.add(test.foreign.name, test.foreign.kind, test.foreign.value)
			service := open(t, dns.Type(name), test.values, loopback)
			ctx, zone := t.Context(), "example.com"
			ours := []dns.Record{
				{Name: "example.com", Type: "A", Value: "192.0.2.1", TTL: time.Minute}, {Name: "*.example.com", Type: "A", Value: "192.0.2.1", TTL: time.Minute},
				{Name: "_chom.www.example.com", Type: "TXT", Value: "ours", TTL: time.Minute},
			}
			for _, r := range ours {
				must(t, service.Append(ctx, zone, r))
			}
			have, err := service.Records(ctx, zone)
			must(t, err)
			if len(have) != 4 || !slices.ContainsFunc(have, dns.Record{Name: "_chom.www.example.com", Type: "TXT", Value: "theirs"}.Same) {
				t.Errorf("it has %+v", have)
			}
			for _, r := range ours {
				at := slices.IndexFunc(have, r.Same)
				if at < 0 {
					t.Fatalf("%+v is not among %+v", r, have)
				}
				must(t, service.Delete(ctx, zone, have[at]))
			}
			if left := test.play.records; len(left) != 1 || left[0].name != test.foreign.name || left[0].value != test.foreign.value {
				t.Errorf("there is left %+v", left)
			}
			if len(test.play.changes) != len(test.changes) {
				t.Errorf("it was told %q", test.play.changes)
			}
			for i, want := range test.changes {
				if i < len(test.play.changes) && !strings.Contains(test.play.changes[i], want) {
					t.Errorf("it was told %s, not %s", test.play.changes[i], want)
				}
			}
			t.Run("refuses, and nothing of the credentials is in what is said", func(t *testing.T) { // case A16
				wrong := map[string]string{}
				for name, value := range test.values {
					wrong[name] = strings.ReplaceAll(value, "canary-token", "canary-other")
				}
				refused := open(t, dns.Type(name), wrong, loopback)
				_, err := refused.Records(ctx, zone)
				if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "403") {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestAlias has a set of Route 53 without values in the place of ours: it is seen, and never overwritten.
func TestAlias(t *testing.T) {
	play := &played{host: "route53.amazonaws.com", answer: route53, letsIn: func(*http.Request, string) bool { return true }}
	play.on(t)
	play.add("alias.example.com.", "A", "")
	service := open(t, dns.Route53, map[string]string{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "canary-token"}, loopback)
	have, err := service.Records(t.Context(), "example.com")
	must(t, err)
	if len(have) != 1 || have[0].Value != "alias of lb.example.net." || have[0].Name != "alias.example.com" {
		t.Errorf("it has %+v", have)
	}
	err = service.Append(t.Context(), "example.com", dns.Record{Name: "alias.example.com", Type: "A", Value: "192.0.2.1"})
	if err == nil || len(play.changes) != 0 {
		t.Errorf("it was told %q, %v", play.changes, err)
	}
}
