package site

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/proto/contract"
)

// TestDesired writes and reads what the sites table holds.
func TestDesired(t *testing.T) {
	parse := func(texts ...string) []contract.Domain {
		parsed, err := names(texts)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	kind, err := contract.ParseSiteType("static")
	if err != nil {
		t.Fatal(err)
	}
	site := Site{
		Wanted: Wanted{
			Type: kind, Generation: 3, Phase: Active, Domains: parse("example.com", "www.example.com", "*.example.com"), Redirects: parse("www.example.com"),
			HTTPS: HTTPS{HSTS: 3600, KeepHTTP: true}, Settings: map[string]string{"title": "x"},
		},
		certificates: certificates{
			acme:     []acmeName{{parse("example.com")[0], HTTP01}, {parse("*.example.com")[0], DNS01}},
			platform: parse("x.preview.example.net"),
			uploaded: []Upload{{ID: "u", SHA256: [32]byte{1}, Names: parse("www.example.com")}},
		},
	}
	read := func(d *sitev1.DesiredState) (Wanted, certificates) {
		t.Helper()
		text, err := proto.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		w, c, err := parseDesired(text)
		if err != nil {
			t.Fatal(err)
		}
		return w, c
	}
	if w, c := read(site.desired()); !reflect.DeepEqual(w, site.Wanted) || !reflect.DeepEqual(c, site.certificates) {
		t.Errorf("read %+v, %+v", w, c)
	}
	old := site.desired()
	old.Https, old.RedirectDomains = nil, nil // as before there was HTTPS
	if w, c := read(old); w.HTTPS != (HTTPS{}) || w.Redirects != nil || !reflect.DeepEqual(c, certificates{}) {
		t.Errorf("read %+v, %+v", w, c)
	}
	for served, redirects := range map[string]int{"example.com www.example.com": 1, "www.example.com x.preview.example.net": 0, "example.com": 0} {
		site.Served = parse(strings.Fields(served)...)
		if got := site.order().GetDesired(); len(got.GetRedirectDomains()) != redirects || len(got.GetDomains()) != len(site.Served) {
			t.Errorf("of %s: ordered %v, redirects %v", served, got.GetDomains(), got.GetRedirectDomains())
		}
	}
}
