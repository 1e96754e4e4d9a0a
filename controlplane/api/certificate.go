package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"

	"chom.dev/controlplane/certificate"
)

type certificateService struct{ certificates *certificate.Certificates }

func (s *certificateService) ListCertificates(ctx context.Context, r *certificatev1.ListCertificatesRequest) (*certificatev1.ListCertificatesResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.certificates.List(ctx, organization, r.GetPageSize(), r.GetPageToken(),
		certificate.Filter{Alarms: r.GetAlarmsOnly(), Only: reachOf(ctx)})
	if err != nil {
		return nil, err
	}
	answer := &certificatev1.ListCertificatesResponse{NextPageToken: next}
	for _, one := range found {
		answer.Certificates = append(answer.Certificates, certificateMessage(one))
	}
	return answer, nil
}

func (s *certificateService) UploadCertificate(ctx context.Context, r *certificatev1.UploadCertificateRequest) (*certificatev1.UploadCertificateResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	made, err := s.certificates.Upload(ctx, organization, site, r.GetChain(), r.GetKey())
	if err != nil {
		return nil, err
	}
	return &certificatev1.UploadCertificateResponse{Certificate: uploadMessage(made)}, nil
}

func (s *certificateService) ListUploadedCertificates(ctx context.Context, r *certificatev1.ListUploadedCertificatesRequest) (*certificatev1.ListUploadedCertificatesResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.certificates.ListUploaded(ctx, organization, site)
	if err != nil {
		return nil, err
	}
	answer := &certificatev1.ListUploadedCertificatesResponse{}
	for _, one := range found {
		answer.Certificates = append(answer.Certificates, uploadMessage(one))
	}
	return answer, nil
}

func (s *certificateService) DeleteUploadedCertificate(ctx context.Context, r *certificatev1.DeleteUploadedCertificateRequest) (*certificatev1.DeleteUploadedCertificateResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	if err := s.certificates.Delete(ctx, organization, site, r.GetCertificateId()); err != nil {
		return nil, err
	}
	return &certificatev1.DeleteUploadedCertificateResponse{}, nil
}

func certificateMessage(c certificate.Certificate) *certificatev1.Certificate {
	m := &certificatev1.Certificate{
		OrganizationId: c.Organization.String(), SiteId: c.Site.String(), SiteName: c.SiteName,
		Observed: c.Observed, ObserveTime: timestamppb.New(c.ObservedAt), Outside: c.Outside,
	}
	if !c.OutsideAt.IsZero() {
		m.OutsideTime = timestamppb.New(c.OutsideAt)
	}
	if !c.AlarmAt.IsZero() {
		m.AlarmTime = timestamppb.New(c.AlarmAt)
	}
	return m
}

func uploadMessage(u certificate.Upload) *certificatev1.UploadedCertificate {
	m := &certificatev1.UploadedCertificate{
		Id: u.ID, OrganizationId: u.Organization.String(), SiteId: u.Site.String(), Issuer: u.Issuer, Sha256: u.SHA256,
		NotBefore: timestamppb.New(u.NotBefore), NotAfter: timestamppb.New(u.NotAfter), CreateTime: timestamppb.New(u.CreatedAt),
	}
	for _, name := range u.Domains {
		m.Domains = append(m.Domains, name.String())
	}
	return m
}
