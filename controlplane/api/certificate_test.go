package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"
	"chom.dev/proto/gen/chom/certificate/v1/certificatev1connect"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/certificate"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

func TestCertificates(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		owner := certificatev1connect.NewCertificateServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(w.ours.owner)))
		upload := &certificatev1.UploadCertificateRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site, Chain: w.chain, Key: w.key}
		made, err := owner.UploadCertificate(ctx, upload)
		must(t, err)
		c := made.GetCertificate()
		if strings.Join(c.GetDomains(), " ") != "new.example.com *.example.com" || c.GetIssuer() != "CN=Test Between" || len(c.GetSha256()) != 32 || c.GetNotAfter().AsTime().Before(time.Now()) {
			t.Errorf("made is %v", c)
		}
		if n := w.count(t, `SELECT generation FROM sites WHERE id = $1`, w.ours.site); n != 2 {
			t.Errorf("the site is in generation %d", n)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE site_id = $1`, w.ours.site); n != 2 {
			t.Errorf("its host has %d orders", n)
		}
		listed, err := owner.ListUploadedCertificates(ctx, &certificatev1.ListUploadedCertificatesRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site})
		must(t, err)
		if len(listed.GetCertificates()) != 1 || !proto.Equal(listed.GetCertificates()[0], c) {
			t.Errorf("listed are %v", listed.GetCertificates())
		}

		ends := time.Now().Add(3 * 24 * time.Hour)
		organization, err := contract.ParseOrganizationID(w.ours.organization)
		must(t, err)
		id, err := contract.ParseSiteID(w.ours.site)
		must(t, err)
		must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
			return certificate.Observe(ctx, tx, organization, id, time.Now(), []*sitev1.ObservedCertificate{{
				Domain: "ours.example.com", Valid: true, Source: sitev1.CertificateSource_CERTIFICATE_SOURCE_UPLOADED, Sha256: c.GetSha256(),
				NotBefore: timestamppb.New(ends.Add(-90 * 24 * time.Hour)), NotAfter: timestamppb.New(ends),
			}})
		}))
		all, err := owner.ListCertificates(ctx, &certificatev1.ListCertificatesRequest{OrganizationId: w.ours.organization})
		must(t, err)
		if one := all.GetCertificates(); len(one) != 1 || one[0].GetSiteName() != "site" || one[0].GetObserved().GetDomain() != "ours.example.com" || one[0].GetObserveTime() == nil || one[0].GetAlarmTime() != nil || one[0].GetOutsideTime() != nil {
			t.Errorf("listed are %v", one)
		}
		alarms, err := owner.ListCertificates(ctx, &certificatev1.ListCertificatesRequest{OrganizationId: w.ours.organization, AlarmsOnly: true})
		must(t, err)
		if len(alarms.GetCertificates()) != 0 { // nobody has decided yet
			t.Errorf("alarms are %v", alarms.GetCertificates())
		}

		t.Run("shows a caller who is bound to other sites nothing", func(t *testing.T) {
			other, _, err := w.sites.Create(ctx, site.Request{Organization: organization, Name: "other", Type: "static", Domains: []string{"other.example.com"}})
			must(t, err)
			w.exec(t, `UPDATE members SET all_sites = FALSE WHERE organization_id = $1 AND account_id = $2`, w.ours.organization, w.ours.account)
			w.exec(t, `INSERT INTO member_sites (organization_id, account_id, site_id) VALUES ($1, $2, $3)`, w.ours.organization, w.ours.account, other.ID.String())
			bound := certificatev1connect.NewCertificateServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(w.ours.viewer)))
			all, err := bound.ListCertificates(ctx, &certificatev1.ListCertificatesRequest{OrganizationId: w.ours.organization})
			if err != nil || len(all.GetCertificates()) != 0 {
				t.Errorf("listed are %v, %v", all, err)
			}
			if _, err := bound.ListUploadedCertificates(ctx, &certificatev1.ListUploadedCertificatesRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site}); connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("listed: %v", err)
			}
		})
		t.Run("shows the key nowhere", func(t *testing.T) {
			secret := strings.Split(w.key, "\n")[1]
			for _, answer := range []proto.Message{made, listed, all} {
				if text, err := protojson.Marshal(answer); err != nil || strings.Contains(string(text), secret) {
					t.Errorf("%T shows it, %v", answer, err)
				}
			}
			if strings.Contains(w.log.String(), secret) {
				t.Error("the log holds it")
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE detail LIKE $1`, "%"+secret+"%"); n != 0 {
				t.Error("the audit trail holds it")
			}
		})
		t.Run("refuses a certificate for other names, and one in the trash", func(t *testing.T) {
			again := proto.Clone(upload).(*certificatev1.UploadCertificateRequest)
			again.Key = strings.Replace(again.GetKey(), "PRIVATE", "PUBLIC", 2)
			if _, err := owner.UploadCertificate(ctx, again); connect.CodeOf(err) != connect.CodeInvalidArgument || namedField(err) != "key" {
				t.Errorf("got %v", err)
			}
			_, _, err := w.sites.Delete(ctx, organization, id)
			must(t, err)
			if _, err := owner.UploadCertificate(ctx, upload); connect.CodeOf(err) != connect.CodeFailedPrecondition {
				t.Errorf("got %v", err)
			}
		})
		_, err = owner.DeleteUploadedCertificate(ctx, &certificatev1.DeleteUploadedCertificateRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site, CertificateId: c.GetId()})
		must(t, err)
		if _, err := owner.DeleteUploadedCertificate(ctx, &certificatev1.DeleteUploadedCertificateRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site, CertificateId: c.GetId()}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("deleted twice: %v", err)
		}
	})
}
