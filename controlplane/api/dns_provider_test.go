package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	"chom.dev/proto/gen/chom/domain/v1/domainv1connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

// anyZone is a fake of a DNS service that has every zone but one, and no records. The real ones are in packages dns and domain.
type anyZone struct{}

const missingZone = "missing.example.com"

func (anyZone) Records(_ context.Context, zone string) ([]dns.Record, error) {
	if zone == missingZone {
		return nil, errors.New("it has no such zone")
	}
	return nil, nil
}

func (anyZone) Append(context.Context, string, dns.Record) error { return nil }

func (anyZone) Delete(context.Context, string, dns.Record) error { return nil }

func newProviders(d *db.DB, log *slog.Logger) *domain.Providers {
	return domain.NewProviders(d, log, domain.ProvidersConfig{
		Keys: secrettest.New(), Dialer: outbound.New(),
		Open:        func(dns.Credentials) (domain.Service, error) { return anyZone{}, nil },
		NameServers: func(context.Context, string) ([]string, error) { return nil, nil },
	})
}

const canaryToken = "canary-of-dns"

func canaryCredentials() *domainv1.DnsProviderCredentials {
	return &domainv1.DnsProviderCredentials{Service: &domainv1.DnsProviderCredentials_Cloudflare{Cloudflare: &domainv1.CloudflareCredentials{ApiToken: canaryToken}}}
}

func newProvider(t testing.TB, providers *domain.Providers, of tenant) string {
	t.Helper()
	organization, err := contract.ParseOrganizationID(of.organization)
	must(t, err)
	credentials, err := dnsCredentials(canaryCredentials())
	must(t, err)
	made, err := providers.Create(t.Context(), organization, "main", []string{of.name + ".example.com"}, credentials)
	must(t, err)
	return made.ID
}

// asDynamic is a message as the sweeps take it.
func asDynamic(m proto.Message) *dynamicpb.Message {
	text, err := proto.Marshal(m)
	if err != nil {
		panic(err) // it is a constant of the tests
	}
	dynamic := dynamicpb.NewMessage(m.ProtoReflect().Descriptor())
	if err := proto.Unmarshal(text, dynamic); err != nil {
		panic(err)
	}
	return dynamic
}

func TestDnsProviders(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	client := func(token string) domainv1connect.DnsProviderServiceClient {
		return domainv1connect.NewDnsProviderServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(token)))
	}
	owner, viewer := client(w.ours.owner), client(w.ours.viewer)
	made, err := owner.CreateDnsProvider(ctx, &domainv1.CreateDnsProviderRequest{
		OrganizationId: w.ours.organization, Name: "second", Zones: []string{"München.example"}, Credentials: canaryCredentials(),
	})
	must(t, err)
	p := made.GetProvider()
	if p.GetType() != "cloudflare" || len(p.GetZones()) != 1 || p.GetZones()[0] != "xn--mnchen-3ya.example" || p.GetCallTime() == nil || p.GetProblem() != "" {
		t.Errorf("made is %v", p)
	}
	got, err := viewer.GetDnsProvider(ctx, &domainv1.GetDnsProviderRequest{OrganizationId: w.ours.organization, ProviderId: p.GetId()})
	must(t, err)
	listed, err := viewer.ListDnsProviders(ctx, &domainv1.ListDnsProvidersRequest{OrganizationId: w.ours.organization})
	must(t, err)
	records, err := viewer.ListManagedRecords(ctx, &domainv1.ListManagedRecordsRequest{OrganizationId: w.ours.organization, ProviderId: w.ours.provider})
	must(t, err)
	if !proto.Equal(got.GetProvider(), p) || len(listed.GetProviders()) != 2 || !proto.Equal(listed.GetProviders()[1], p) {
		t.Errorf("got %v, listed %v", got, listed)
	}
	// The tenant's claim waits for its record.
	if r := records.GetRecords(); len(r) != 1 || r[0].GetType() != "TXT" || r[0].GetName() != "_chom.ours.example.com" || r[0].GetPurpose() != w.ours.claim ||
		r[0].GetState() != domainv1.RecordState_RECORD_STATE_MAKING || r[0].GetProviderId() != w.ours.provider {
		t.Errorf("the records are %v", r)
	}
	t.Run("a zone that the service does not have is refused", func(t *testing.T) {
		_, err := owner.CreateDnsProvider(ctx, &domainv1.CreateDnsProviderRequest{
			OrganizationId: w.ours.organization, Name: "third", Zones: []string{missingZone}, Credentials: canaryCredentials(),
		})
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), missingZone+": it has no such zone") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("each service's credentials arrive by their names", func(t *testing.T) {
		for _, m := range []*domainv1.DnsProviderCredentials{
			canaryCredentials(),
			{Service: &domainv1.DnsProviderCredentials_Hetzner{Hetzner: &domainv1.HetznerCredentials{ApiToken: canaryToken}}},
			{Service: &domainv1.DnsProviderCredentials_Digitalocean{Digitalocean: &domainv1.DigitalOceanCredentials{ApiToken: canaryToken}}},
			{Service: &domainv1.DnsProviderCredentials_Route53{Route53: &domainv1.Route53Credentials{AccessKeyId: "id", SecretAccessKey: canaryToken}}},
			{Service: &domainv1.DnsProviderCredentials_Ovh{Ovh: &domainv1.OvhCredentials{Endpoint: "ovh-eu", ApplicationKey: "key", ApplicationSecret: canaryToken, ConsumerKey: canaryToken}}},
			{Service: &domainv1.DnsProviderCredentials_Powerdns{Powerdns: &domainv1.PowerDnsCredentials{ServerUrl: "https://dns.example.com", ApiKey: canaryToken}}},
			{Service: &domainv1.DnsProviderCredentials_Rfc2136{Rfc2136: &domainv1.Rfc2136Credentials{Server: "ns.example.com:53", KeyName: "key", KeyAlgorithm: "hmac-sha256", Key: "Y2FuYXJ5"}}},
		} {
			credentials, err := dnsCredentials(m)
			must(t, err)
			text, err := credentials.Encode()
			must(t, err)
			if !strings.Contains(string(text), canaryToken) && !strings.Contains(string(text), "Y2FuYXJ5") {
				t.Errorf("%s lacks its secret", credentials.Type())
			}
		}
	})
	_, err = owner.DeleteDnsProvider(ctx, &domainv1.DeleteDnsProviderRequest{OrganizationId: w.ours.organization, ProviderId: p.GetId()})
	must(t, err)
	t.Run("no secret is anywhere", func(t *testing.T) { // case A16
		audited := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action IN ('dns_provider.create', 'dns_provider.delete') AND object = $1`, p.GetId())
		leaked := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE detail LIKE '%canary%'`)
		if shown := made.String() + got.String() + listed.String() + records.String() + w.log.String(); audited != 2 || leaked != 0 || strings.Contains(shown, "canary") {
			t.Errorf("%d events, %d leaks, %s", audited, leaked, shown)
		}
	})
}
