package main

import (
	"context"
	"crypto/sha256"
	"fmt"

	certs "chom.dev/controlplane/certificate"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Sites ask for certificates that were uploaded and measured, and certificates ask for sites: neither package knows the other,
// they meet here.

// uploadedFor are the certificates that were uploaded for a site, as sites take them.
func uploadedFor(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) ([]site.Upload, error) {
	all, err := certs.Uploaded(ctx, tx, organization, id)
	if err != nil {
		return nil, err
	}
	var uploads []site.Upload
	for _, u := range all {
		made := site.Upload{ID: u.ID, Names: u.Domains}
		if copy(made.SHA256[:], u.SHA256) != sha256.Size {
			return nil, fmt.Errorf("uploaded certificate %s has no fingerprint", u.ID)
		}
		uploads = append(uploads, made)
	}
	return uploads, nil
}

// measuredOutside is what was measured from outside of a site's certificates, as sites take it.
func measuredOutside(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) ([]site.OutsideCertificate, error) {
	all, err := certs.OfSite(ctx, q, organization, id)
	if err != nil {
		return nil, err
	}
	var seen []site.OutsideCertificate
	for _, c := range all {
		if c.Outside != nil {
			seen = append(seen, site.OutsideCertificate{Certificate: site.CertificateFrom(c.Outside), At: c.OutsideAt})
		}
	}
	return seen, nil
}
