package link_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// shelf stands for the nouns that certificates come from; it notes what was asked for.
type shelf struct {
	platform *pki.Platform
	asked    []string
	within   time.Duration // that the last call had
	refuses  error         // what Reported says
}

func (s *shelf) Issuance() *linkv1.Issuance {
	return &linkv1.Issuance{Issuers: []*linkv1.Issuer{{Name: "test", DirectoryUrl: "https://ca.example/dir"}}, PlatformRoots: s.platform.Roots()}
}

func (s *shelf) Preview(csr []byte, name contract.Domain, now time.Time) (chain, key []byte, err error) {
	request, _, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, nil, err
	}
	s.asked = append(s.asked, "preview "+name.String())
	chain, err = s.platform.Issue(request, name, now)
	return chain, nil, err
}

func (s *shelf) notes(ctx context.Context) {
	deadline, _ := ctx.Deadline()
	s.within = time.Until(deadline)
}

func (s *shelf) Uploaded(ctx context.Context, o contract.OrganizationID, site contract.SiteID, id string) (chain, key []byte, err error) {
	s.notes(ctx)
	s.asked = append(s.asked, "uploaded "+o.String()+" "+site.String()+" "+id)
	return []byte("chain"), []byte("key"), nil
}

func (s *shelf) PresentChallenge(ctx context.Context, o contract.OrganizationID, name contract.Domain, value string) error {
	s.notes(ctx)
	s.asked = append(s.asked, "present "+o.String()+" "+name.String()+" "+value)
	return nil
}

func (s *shelf) RemoveChallenge(ctx context.Context, o contract.OrganizationID, name contract.Domain, value string) error {
	s.notes(ctx)
	s.asked = append(s.asked, "remove "+o.String()+" "+name.String()+" "+value)
	return nil
}

func (s *shelf) Key(_ context.Context, o contract.OrganizationID, site contract.SiteID) (string, error) {
	s.asked = append(s.asked, "key "+o.String()+" "+site.String())
	return strings.Repeat("k", 43), nil
}

func (s *shelf) Reported(_ context.Context, o contract.OrganizationID, site contract.SiteID, r *linkv1.ReportBackupRequest) error {
	s.asked = append(s.asked, "backup "+o.String()+" "+site.String()+" "+r.GetError())
	return s.refuses
}

func TestCertificates(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		given := &shelf{platform: must(pki.OpenPlatform(t.TempDir(), "preview.example", time.Now()))}
		w := newWorld(t, d, func(c *link.Config) { c.Certificates, c.Repositories = given, given })
		w.sites = site.New(w.d, w.tasks, w.log(), site.Config{AnyName: true, PreviewDomain: "preview.example"})
		mine, other := w.enroll("mine"), w.enroll("other")
		for _, h := range []*host{mine, other} {
			if res := h.hello(); res.GetIssuance().GetIssuers()[0].GetName() != "test" {
				t.Errorf("Hello says %v", res.GetIssuance())
			}
		}
		owner, err := organization.New(w.d, organization.Config{}).Create(t.Context(), "acme", "acme@example.com")
		if err != nil {
			t.Fatal(err)
		}
		made, _, err := w.sites.Create(t.Context(), site.Request{
			Organization: owner.ID, Name: "shop", Type: "static", Domains: []string{"shop.example.com"}, Server: must(contract.ParseServerID(mine.id)),
		})
		if err != nil {
			t.Fatal(err)
		}
		const upload, value = "6f1f5e5e-7f5e-4f55-8a44-3d9d8a6f3b11", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		calls := map[string]func(h *host, site, name string) error{
			"preview": func(h *host, site, name string) error {
				_, err := h.client.IssuePlatformCertificate(t.Context(), &linkv1.IssuePlatformCertificateRequest{Epoch: h.epoch, SiteId: site, Domain: name, Csr: newCSR(t, newKey(t))})
				return err
			},
			"uploaded": func(h *host, site, _ string) error {
				_, err := h.client.FetchCertificate(t.Context(), &linkv1.FetchCertificateRequest{Epoch: h.epoch, SiteId: site, CertificateId: upload})
				return err
			},
			"key": func(h *host, site, _ string) error {
				_, err := h.client.FetchRepositoryKey(t.Context(), &linkv1.FetchRepositoryKeyRequest{Epoch: h.epoch, SiteId: site})
				return err
			},
			"backup": func(h *host, site, _ string) error {
				_, err := h.client.ReportBackup(t.Context(), backupReport(h, site))
				return err
			},
			"present": func(h *host, site, name string) error {
				_, err := h.client.PresentChallenge(t.Context(), &linkv1.PresentChallengeRequest{Epoch: h.epoch, SiteId: site, Domain: name, Value: value})
				return err
			},
			"remove": func(h *host, site, name string) error {
				_, err := h.client.RemoveChallenge(t.Context(), &linkv1.RemoveChallengeRequest{Epoch: h.epoch, SiteId: site, Domain: name, Value: value})
				return err
			},
		}
		names := map[string]string{"preview": made.Handle.String() + ".preview.example", "present": "shop.example.com", "remove": "shop.example.com"}
		for what, call := range calls {
			t.Run(what+" is for the host that holds the site", func(t *testing.T) {
				given.asked, given.within = nil, 0
				if err := call(mine, made.ID.String(), names[what]); err != nil {
					t.Fatal(err)
				}
				if len(given.asked) != 1 || !strings.HasPrefix(given.asked[0], what) {
					t.Errorf("asked for %v", given.asked)
				}
				// A slow DNS provider gets 140 s; nobody else is waited for as long.
				if patient := what == "present" || what == "remove"; patient != (given.within > 140*time.Second) {
					t.Errorf("it had %s", given.within)
				}
			})
			t.Run("E04: "+what+" is for no other host, nor for a site that is nowhere", func(t *testing.T) {
				given.asked = nil
				wantCode(t, call(other, made.ID.String(), names[what]), connect.CodeNotFound)
				wantCode(t, call(mine, contract.NewSiteID().String(), names[what]), connect.CodeNotFound)
				if len(given.asked) > 0 {
					t.Errorf("asked for %v", given.asked)
				}
			})
		}
		t.Run("H01: names that the site does not have are neither certified nor proved", func(t *testing.T) {
			given.asked = nil
			for _, name := range []string{"bank.example", "example.com", "www.shop.example.com", "aaaaaaaaaa.preview.example"} {
				for what := range names {
					wantCode(t, calls[what](mine, made.ID.String(), name), connect.CodeNotFound)
				}
			}
			wantCode(t, calls["preview"](mine, made.ID.String(), "shop.example.com"), connect.CodeNotFound)
			wantCode(t, calls["present"](mine, made.ID.String(), names["preview"]), connect.CodeNotFound)
			if len(given.asked) > 0 {
				t.Errorf("asked for %v", given.asked)
			}
		})
		t.Run("what a report meets is said so that the agent knows whether to come again", func(t *testing.T) {
			defer func() { given.refuses = nil }()
			for want, err := range map[connect.Code]error{
				connect.CodeAborted:           fault.Conflict("a backup is under way"),
				connect.CodeInvalidArgument:   fault.Invalid("due_time", "must be past"),
				connect.CodeNotFound:          fault.NotFound("site"),
				connect.CodeResourceExhausted: fault.Limited("too many", time.Minute),
				connect.CodeInternal:          errors.New("the database broke"),
			} {
				given.refuses = err
				wantCode(t, calls["backup"](mine, made.ID.String(), ""), want)
			}
			given.refuses = nil
			r := backupReport(mine, made.ID.String())
			r.Epoch--
			_, err := mine.client.ReportBackup(t.Context(), r)
			wantCode(t, err, connect.CodeFailedPrecondition)
		})
		t.Run("a report of a database with as many tables as one may have is taken", func(t *testing.T) {
			r := backupReport(mine, made.ID.String())
			r.Error, r.Report = "", &backupv1.Report{
				BackupId: r.BackupId, StartTime: timestamppb.Now(), EndTime: timestamppb.Now(), Contents: &backupv1.Contents{FilesSnapshot: strings.Repeat("f", 64)},
			}
			for i := range 10000 {
				r.Report.Contents.Tables = append(r.Report.Contents.Tables, &backupv1.Table{Name: fmt.Sprintf("%064d", i), Rows: 1 << 35})
			}
			if _, err := mine.client.ReportBackup(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
		t.Run("a site in the trash proves nothing any more", func(t *testing.T) {
			if _, _, err := w.sites.Delete(t.Context(), owner.ID, made.ID); err != nil {
				t.Fatal(err)
			}
			wantCode(t, calls["present"](mine, made.ID.String(), "shop.example.com"), connect.CodeNotFound)
		})
	})
}

func backupReport(h *host, site string) *linkv1.ReportBackupRequest {
	return &linkv1.ReportBackupRequest{
		Epoch: h.epoch, SiteId: site, BackupId: contract.NewBackupID().String(), DueTime: timestamppb.Now(), Generation: 1, Error: "the disk is full",
	}
}
