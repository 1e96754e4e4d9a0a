package api

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/proto/contract"
)

// TestSiteNames is about what people see of a site's names.
func TestSiteNames(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		me := w.as(w.operator)
		about := w.ours
		updated, err := me.sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: about.organization, SiteId: about.site, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains", "redirect_domains", "https"}},
			Domains: []string{"Bücher.example.com", "www.ours.example.com", "*.ours.example.com"}, RedirectDomains: []string{"www.ours.example.com"},
			Https: &sitev1.HttpsOptions{HstsMaxAgeSeconds: 3600, KeepHttp: true},
		})
		must(t, err)
		for i, want := range []struct {
			name string
			role sitev1.NameRole
		}{
			{"xn--bcher-kva.example.com", sitev1.NameRole_NAME_ROLE_PRIMARY},
			{"www.ours.example.com", sitev1.NameRole_NAME_ROLE_REDIRECT},
			{"*.ours.example.com", sitev1.NameRole_NAME_ROLE_ALIAS},
		} {
			if got := updated.GetSite().GetNames()[i]; got.GetName() != want.name || got.GetRole() != want.role || got.GetState() != sitev1.NameState_NAME_STATE_PENDING {
				t.Errorf("shown as %v", got)
			}
		}
		server, err := contract.ParseServerID(updated.GetSite().GetServerId())
		must(t, err)
		must(t, w.sites.Observe(ctx, server, []*sitev1.ObservedState{{
			SiteId: about.site, Generation: updated.GetSite().GetGeneration(), Phase: sitev1.Phase_PHASE_ACTIVE, HttpStatus: 200,
			Certificates: []*sitev1.ObservedCertificate{{
				Domain: "xn--bcher-kva.example.com", Valid: true, Source: sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME, Issuer: "<b>a CA</b>",
				NotAfter: timestamppb.New(time.Now().Add(time.Hour)), Failures: 2, Problem: "the CA does not answer",
			}},
		}}))
		got, err := me.sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: about.organization, SiteId: about.site})
		must(t, err)
		first := got.GetSite().GetNames()[0]
		if first.GetState() != sitev1.NameState_NAME_STATE_EXPIRING || first.GetProblem() != "the CA does not answer" || first.GetCertificate().GetIssuer() != "<b>a CA</b>" {
			t.Errorf("shown as %v", first)
		}
		if h := got.GetSite().GetHttps(); got.GetSite().GetUrl() != "https://xn--bcher-kva.example.com/" || h.GetHstsMaxAgeSeconds() != 3600 || !h.GetKeepHttp() || len(got.GetSite().GetRedirectDomains()) != 1 {
			t.Errorf("shown as %v", got.GetSite())
		}
		checked, err := me.sites.CheckSite(ctx, &sitev1.CheckSiteRequest{OrganizationId: about.organization, SiteId: about.site})
		must(t, err)
		if names := checked.GetSite().GetNames(); len(names) != len(got.GetSite().GetNames()) || names[1].GetProblem() == "" || names[1].GetCheckTime() == nil {
			t.Errorf("checked: %v", names)
		}
		listed, err := me.sites.ListSites(ctx, &sitev1.ListSitesRequest{OrganizationId: about.organization})
		must(t, err)
		for _, one := range listed.GetSites() {
			if len(one.GetNames()) != 0 || len(one.GetObserved().GetCertificates()) != 0 {
				t.Errorf("listed as %v", one)
			}
		}
	})
}
