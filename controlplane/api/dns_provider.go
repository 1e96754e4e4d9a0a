package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"

	"chom.dev/controlplane/dns"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
)

type dnsProviderService struct{ providers *domain.Providers }

func (s *dnsProviderService) CreateDnsProvider(ctx context.Context, r *domainv1.CreateDnsProviderRequest) (*domainv1.CreateDnsProviderResponse, error) { //nolint:revive // the name of the call
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	credentials, err := dnsCredentials(r.GetCredentials())
	if err != nil {
		return nil, err
	}
	made, err := s.providers.Create(ctx, organization, r.GetName(), r.GetZones(), credentials)
	if err != nil {
		return nil, err
	}
	return &domainv1.CreateDnsProviderResponse{Provider: dnsProviderMessage(made)}, nil
}

// dnsCredentials are the credentials of the one service that a message names, by the names of its fields.
func dnsCredentials(m *domainv1.DnsProviderCredentials) (dns.Credentials, error) {
	whole := m.ProtoReflect()
	service := whole.WhichOneof(whole.Descriptor().Oneofs().ByName("service"))
	if service == nil {
		return dns.Credentials{}, fault.Invalid("credentials", "must name a service")
	}
	values := map[string]string{}
	of := whole.Get(service).Message()
	for i := range service.Message().Fields().Len() {
		field := service.Message().Fields().Get(i)
		values[string(field.Name())] = of.Get(field).String()
	}
	return dns.NewCredentials(dns.Type(service.Name()), values)
}

func (s *dnsProviderService) GetDnsProvider(ctx context.Context, r *domainv1.GetDnsProviderRequest) (*domainv1.GetDnsProviderResponse, error) { //nolint:revive // the name of the call
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, err := s.providers.GetProvider(ctx, organization, r.GetProviderId())
	if err != nil {
		return nil, err
	}
	return &domainv1.GetDnsProviderResponse{Provider: dnsProviderMessage(found)}, nil
}

func (s *dnsProviderService) ListDnsProviders(ctx context.Context, r *domainv1.ListDnsProvidersRequest) (*domainv1.ListDnsProvidersResponse, error) { //nolint:revive // the name of the call
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.providers.ListProviders(ctx, organization, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &domainv1.ListDnsProvidersResponse{NextPageToken: next}
	for _, one := range found {
		answer.Providers = append(answer.Providers, dnsProviderMessage(one))
	}
	return answer, nil
}

func (s *dnsProviderService) ListManagedRecords(ctx context.Context, r *domainv1.ListManagedRecordsRequest) (*domainv1.ListManagedRecordsResponse, error) {
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.providers.ListRecords(ctx, organization, r.GetProviderId(), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &domainv1.ListManagedRecordsResponse{NextPageToken: next}
	for _, one := range found {
		answer.Records = append(answer.Records, &domainv1.ManagedRecord{
			Id: one.ID, ProviderId: one.Provider, Name: one.Name, Type: one.Type, Value: one.Value, State: recordStates[one.State],
			Purpose: one.Purpose, Problem: one.Problem,
		})
	}
	return answer, nil
}

func (s *dnsProviderService) DeleteDnsProvider(ctx context.Context, r *domainv1.DeleteDnsProviderRequest) (*domainv1.DeleteDnsProviderResponse, error) { //nolint:revive // the name of the call
	organization, err := tenantOf(r)
	if err != nil {
		return nil, err
	}
	if err := s.providers.DeleteProvider(ctx, organization, r.GetProviderId()); err != nil {
		return nil, err
	}
	return &domainv1.DeleteDnsProviderResponse{}, nil
}

var recordStates = map[domain.RecordState]domainv1.RecordState{
	domain.Making:   domainv1.RecordState_RECORD_STATE_MAKING,
	domain.Made:     domainv1.RecordState_RECORD_STATE_MADE,
	domain.Removing: domainv1.RecordState_RECORD_STATE_REMOVING,
	domain.InTheWay: domainv1.RecordState_RECORD_STATE_IN_THE_WAY,
}

func dnsProviderMessage(p domain.Provider) *domainv1.DnsProvider {
	m := &domainv1.DnsProvider{
		Id: p.ID, OrganizationId: p.Organization.String(), Name: p.Name, Type: string(p.Type), Zones: p.Zones, Problem: p.Problem,
		CreateTime: timestamppb.New(p.CreatedAt),
	}
	if !p.CalledAt.IsZero() {
		m.CallTime = timestamppb.New(p.CalledAt)
	}
	return m
}
