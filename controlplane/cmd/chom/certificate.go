package main

import (
	"context"
	"encoding/hex"
	"os"
	"strings"

	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"github.com/spf13/cobra"
)

func (p *program) certificateCommand() *cobra.Command {
	cmd := group("certificate", "Certificates: what the names of sites are served with by HTTPS", []string{"certificates", "cert"},
		p.certificateList(), p.certificateUpload(), p.certificateUploaded(), p.certificateRemove())
	cmd.Long = `A site's names get certificates by themselves, and new ones before those end. Where that is not wanted, upload one of your
own: it is used for those of the site's names that it is for.`
	return cmd
}

func (p *program) certificateList() *cobra.Command {
	var alarms bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List what the names of all sites are served with, those first that end first",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := pages(func(token string) ([]*certificatev1.Certificate, string, error) {
				page, err := c.Certificates.ListCertificates(ctx, &certificatev1.ListCertificatesRequest{
					OrganizationId: organization, PageSize: largestPage, PageToken: token, AlarmsOnly: alarms,
				})
				return page.GetCertificates(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range all {
				o := one.GetObserved()
				rows = append(rows, []string{o.GetDomain(), one.GetSiteName(), certificateState(one), sourceText(o.GetSource()), at(o.GetNotAfter()), certificateProblem(one)})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "SITE", "STATE", "FROM", "ENDS", "PROBLEM"}, rows)
			})
		}),
	})
	cmd.Flags().BoolVar(&alarms, "alarms", false, "only those that end soon, or are not valid any more")
	return cmd
}

func certificateState(c *certificatev1.Certificate) string {
	switch {
	case c.GetAlarmTime() != nil:
		return "alarm"
	case c.GetObserved().GetValid() && badOutside(c.GetOutside()):
		return "bad outside"
	case c.GetObserved().GetValid():
		return "valid"
	}
	return "none"
}

// badOutside says whether a look from outside met a certificate, and a bad one.
func badOutside(o *sitev1.ObservedCertificate) bool { return len(o.GetSha256()) > 0 && !o.GetValid() }

func sourceText(s sitev1.CertificateSource) string {
	if s == sitev1.CertificateSource_CERTIFICATE_SOURCE_UNSPECIFIED {
		return ""
	}
	return short(s, "CERTIFICATE_SOURCE_")
}

func certificateProblem(c *certificatev1.Certificate) string {
	if problem := c.GetObserved().GetProblem(); problem != "" {
		return problem
	}
	return c.GetOutside().GetProblem()
}

func (p *program) certificateUpload() *cobra.Command {
	var chain, key string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "upload SITE",
		Short: "Give a site a certificate of your own",
		Long: `Upload reads PEM files: the certificates, that of the names first and then each that signed the one before, and its key
without a password. Older ones for the same names are replaced. Nobody renews it: there is a mail 14 days before it ends.`,
		Example:           `  chom certificate upload shop --chain fullchain.pem --key privkey.pem`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if chain == "" || key == "" {
				return usagef("--chain and --key must each name a file")
			}
			chainText, err := os.ReadFile(chain)
			if err != nil {
				return err
			}
			keyText, err := os.ReadFile(key)
			if err != nil {
				return err
			}
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			made, err := c.Certificates.UploadCertificate(ctx, &certificatev1.UploadCertificateRequest{
				OrganizationId: organization, SiteId: id, Chain: string(chainText), Key: string(keyText),
			})
			if err != nil {
				return err
			}
			return p.showUploaded(made.GetCertificate())
		}),
	})
	cmd.Flags().StringVar(&chain, "chain", "", "file with the certificates")
	cmd.Flags().StringVar(&key, "key", "", "file with the key")
	return cmd
}

func (p *program) showUploaded(u *certificatev1.UploadedCertificate) error {
	return p.print(u, []string{u.GetId()}, func() error {
		return printFields(p.out, [][2]string{
			{"id", u.GetId()},
			{"names", strings.Join(u.GetDomains(), " ")},
			{"issuer", u.GetIssuer()},
			{"sha256", hex.EncodeToString(u.GetSha256())},
			{"begins", at(u.GetNotBefore())},
			{"ends", at(u.GetNotAfter())},
			{"uploaded", at(u.GetCreateTime())},
		})
	})
}

func (p *program) certificateUploaded() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "uploaded SITE",
		Short:             "List the certificates that were uploaded for a site, the oldest first",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			all, err := c.Certificates.ListUploadedCertificates(ctx, &certificatev1.ListUploadedCertificatesRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, u := range all.GetCertificates() {
				rows = append(rows, []string{u.GetId(), strings.Join(u.GetDomains(), " "), u.GetIssuer(), at(u.GetNotAfter())})
			}
			return p.print(list(all.GetCertificates()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "NAMES", "ISSUER", "ENDS"}, rows)
			})
		}),
	})
}

func (p *program) certificateRemove() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:     "rm SITE ID",
		Aliases: []string{"remove"},
		Short:   "Remove an uploaded certificate and its key, here and on the site's host",
		Long:    "Its names get certificates from the CA again. chom certificate uploaded SITE shows the ids.",
		Args:    exactly(2),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This removes the certificate "+plain(args[1])+" from the site "+plain(args[0])+" and destroys its key", args[0]); err != nil {
				return err
			}
			removed, err := c.Certificates.DeleteUploadedCertificate(ctx, &certificatev1.DeleteUploadedCertificateRequest{
				OrganizationId: organization, SiteId: id, CertificateId: args[1],
			})
			if err != nil {
				return err
			}
			return p.done(removed, "The certificate %s is removed.", args[1])
		}),
	}), &yes)
}
