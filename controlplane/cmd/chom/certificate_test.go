package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestCertificateState(t *testing.T) {
	good, bad := &sitev1.ObservedCertificate{Valid: true, Sha256: []byte("a")}, &sitev1.ObservedCertificate{Sha256: []byte("b"), Problem: "wrong"}
	unmet := &sitev1.ObservedCertificate{Problem: "no answer in time"}
	for want, all := range map[string][]*certificatev1.Certificate{
		"alarm":       {{Observed: good, Outside: bad, AlarmTime: timestamppb.Now()}},
		"bad outside": {{Observed: good, Outside: bad}},
		"valid":       {{Observed: good}, {Observed: good, Outside: good}, {Observed: good, Outside: unmet}},
		"none":        {{Observed: bad}, {Observed: bad, Outside: bad}},
	} {
		for _, c := range all {
			if got := certificateState(c); got != want {
				t.Errorf("%v is %q, want %q", c, got, want)
			}
		}
	}
}

// TestNamesOutside claims that what was met outside is printed with a name, when it is bad, and once.
func TestNamesOutside(t *testing.T) {
	bad := &sitev1.ObservedCertificate{Sha256: []byte("b"), Problem: "from outside: wrong"}
	when := timestamppb.New(time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC))
	for want, name := range map[string]*sitev1.SiteName{
		"":                    {Outside: &sitev1.ObservedCertificate{Valid: true, Sha256: []byte("a")}, OutsideTime: when},
		"from outside: wrong": {Problem: "from outside: wrong", Outside: bad, OutsideTime: when},
		"from outside: wrong, as it was met at " + at(when):                 {Outside: bad, OutsideTime: when},
		"the CA is down; from outside: wrong, as it was met at " + at(when): {Problem: "the CA is down", Outside: bad, OutsideTime: when},
	} {
		name.Name = "example.com"
		var out strings.Builder
		if err := printNames(&out, []*sitev1.SiteName{name}); err != nil {
			t.Fatal(err)
		}
		_, got, _ := strings.Cut(out.String(), "\nexample.com: ")
		if strings.TrimSpace(got) != want {
			t.Errorf("printed was %q, want %q", got, want)
		}
	}
}
