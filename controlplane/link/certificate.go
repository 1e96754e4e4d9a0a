package link

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Certificates is what hosts get from the control plane for the names of the sites that they hold.
type Certificates interface {
	// Issuance says where certificates come from.
	Issuance() *linkv1.Issuance
	// Preview gives a preview name its chain, and the key where the certificate is the operator's own for all of them.
	Preview(csr []byte, name contract.Domain, now time.Time) (chain, key []byte, err error)
	// Uploaded opens a certificate that an organization uploaded for a site.
	Uploaded(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, id string) (chain, key []byte, err error)
	// PresentChallenge sets the TXT record that proves a name to a CA; RemoveChallenge removes it.
	PresentChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error
	RemoveChallenge(ctx context.Context, organization contract.OrganizationID, name contract.Domain, value string) error
}

// errNoSuchName is for a name that the site has not, or that its organization holds no more: both look the same.
var errNoSuchName = fault.NotFound("name of the site")

// IssuePlatformCertificate gives a site's preview name its certificate.
func (s *Server) IssuePlatformCertificate(ctx context.Context, req *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	held, err := s.held(ctx, req.GetSiteId())
	if err != nil {
		return nil, err
	}
	if req.GetDomain() == "" || held.Preview() != req.GetDomain() {
		return nil, errNoSuchName
	}
	name, err := contract.ParseDomain(req.GetDomain())
	if err != nil {
		return nil, fault.Invalid("domain", contract.RuleOf(err))
	}
	if _, _, err := pki.ParseRequest(req.GetCsr()); err != nil {
		return nil, err
	}
	chain, key, err := s.certificates.Preview(req.GetCsr(), name, time.Now())
	if err != nil {
		return nil, err
	}
	return &linkv1.IssuePlatformCertificateResponse{Chain: chain, Key: key}, nil
}

// FetchCertificate gives an uploaded certificate to the host of its site, and to no other.
func (s *Server) FetchCertificate(ctx context.Context, req *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	held, err := s.held(ctx, req.GetSiteId())
	if err != nil {
		return nil, err
	}
	chain, key, err := s.certificates.Uploaded(ctx, held.Organization, held.ID, req.GetCertificateId())
	if err != nil {
		return nil, err
	}
	return &linkv1.FetchCertificateResponse{Chain: chain, Key: key}, nil
}

// PresentChallenge sets the record of a DNS-01 challenge.
func (s *Server) PresentChallenge(ctx context.Context, req *linkv1.PresentChallengeRequest) (*linkv1.PresentChallengeResponse, error) {
	held, name, err := s.challenged(ctx, req.GetSiteId(), req.GetDomain())
	if err != nil {
		return nil, err
	}
	if err := s.certificates.PresentChallenge(ctx, held.Organization, name, req.GetValue()); err != nil {
		return nil, err
	}
	return &linkv1.PresentChallengeResponse{}, nil
}

// RemoveChallenge takes it away.
func (s *Server) RemoveChallenge(ctx context.Context, req *linkv1.RemoveChallengeRequest) (*linkv1.RemoveChallengeResponse, error) {
	held, name, err := s.challenged(ctx, req.GetSiteId(), req.GetDomain())
	if err != nil {
		return nil, err
	}
	if err := s.certificates.RemoveChallenge(ctx, held.Organization, name, req.GetValue()); err != nil {
		return nil, err
	}
	return &linkv1.RemoveChallengeResponse{}, nil
}

// held finds a site on the caller's server. One elsewhere does not exist for it.
func (s *Server) held(ctx context.Context, id string) (*site.Site, error) {
	parsed, err := contract.ParseSiteID(id)
	if err != nil {
		return nil, fault.Invalid("site_id", contract.RuleOf(err))
	}
	return s.sites.OnServer(ctx, callerOf(ctx).agent.id, parsed)
}

// challenged finds the site and the name of a challenge: the site has it, or a wildcard right below it, and its organization
// holds it now.
func (s *Server) challenged(ctx context.Context, id, text string) (*site.Site, contract.Domain, error) {
	name, err := contract.ParseDomain(text)
	if err != nil {
		return nil, name, fault.Invalid("domain", contract.RuleOf(err))
	}
	held, err := s.held(ctx, id)
	if err != nil {
		return nil, name, err
	}
	may, err := s.sites.MayProve(ctx, held, name)
	if err != nil {
		return nil, name, fmt.Errorf("look who holds %s: %w", name, err)
	}
	if !may {
		return nil, name, errNoSuchName
	}
	return held, name, nil
}
