package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

type serverService struct {
	db       *db.DB
	fleet    *fleet.Fleet
	sites    *site.Sites
	tasks    *task.Tasks
	packages *install.Packages
	address  install.Address
	pin      string // hexadecimal SHA-256 of the CA's public key
}

func (s *serverService) CreateServer(ctx context.Context, r *fleetv1.CreateServerRequest) (*fleetv1.CreateServerResponse, error) {
	tenancy := fleet.Shared
	if r.GetTenancy() == fleetv1.Tenancy_TENANCY_DEDICATED {
		tenancy = fleet.Dedicated
	}
	var organization contract.OrganizationID
	if r.GetOrganizationId() != "" {
		var err error
		if organization, err = contract.ParseOrganizationID(r.GetOrganizationId()); err != nil {
			return nil, invalid("organization_id", err)
		}
	}
	made, token, err := s.fleet.Create(ctx, r.GetName(), tenancy, organization, s.pin)
	if err != nil {
		return nil, err
	}
	shown, err := s.joinToken(token)
	if err != nil {
		return nil, err
	}
	return &fleetv1.CreateServerResponse{Server: serverMessage(made), JoinToken: shown}, nil
}

func (s *serverService) CreateJoinToken(ctx context.Context, r *fleetv1.CreateJoinTokenRequest) (*fleetv1.CreateJoinTokenResponse, error) {
	id, err := serverID(r)
	if err != nil {
		return nil, err
	}
	token, err := s.fleet.CreateToken(ctx, id, s.pin)
	if err != nil {
		return nil, err
	}
	shown, err := s.joinToken(token)
	if err != nil {
		return nil, err
	}
	return &fleetv1.CreateJoinTokenResponse{JoinToken: shown}, nil
}

// joinToken adds the line to paste; none where there are no packages that it could install.
func (s *serverService) joinToken(t fleet.JoinToken) (*fleetv1.JoinToken, error) {
	shown := &fleetv1.JoinToken{Token: t.Text, ExpireTime: timestamppb.New(t.ExpiresAt)}
	_, sum, err := s.packages.Manifest()
	if errors.Is(err, install.ErrNoPackages) {
		return shown, nil
	}
	if err != nil {
		return nil, err
	}
	if shown.InstallCommand, err = install.Line(s.address, t.Text, sum); err != nil {
		return nil, fmt.Errorf("make the line to paste: %w", err)
	}
	return shown, nil
}

func serverID(r interface{ GetServerId() string }) (contract.ServerID, error) {
	id, err := contract.ParseServerID(r.GetServerId())
	if err != nil {
		return id, invalid("server_id", err)
	}
	return id, nil
}

func (s *serverService) GetServer(ctx context.Context, r *fleetv1.GetServerRequest) (*fleetv1.GetServerResponse, error) {
	found, err := s.one(ctx, r, s.fleet.Get)
	if err != nil {
		return nil, err
	}
	return &fleetv1.GetServerResponse{Server: found}, nil
}

func (s *serverService) ListServers(ctx context.Context, r *fleetv1.ListServersRequest) (*fleetv1.ListServersResponse, error) {
	var states []fleet.State
	for state, message := range serverStates {
		if slices.Contains(r.GetStates(), message) {
			states = append(states, state)
		}
	}
	found, next, err := s.fleet.List(ctx, r.GetPageSize(), r.GetPageToken(), states...)
	if err != nil {
		return nil, err
	}
	answer := &fleetv1.ListServersResponse{NextPageToken: next}
	for _, one := range found {
		answer.Servers = append(answer.Servers, serverMessage(one))
	}
	return answer, nil
}

func (s *serverService) ListServerSites(ctx context.Context, r *fleetv1.ListServerSitesRequest) (*fleetv1.ListServerSitesResponse, error) {
	server, err := contract.ParseServerID(r.GetServerId())
	if err != nil {
		return nil, invalid("server_id", err)
	}
	if _, err := s.fleet.Get(ctx, server); err != nil {
		return nil, err
	}
	found, next, err := s.sites.HeldBy(ctx, server, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &fleetv1.ListServerSitesResponse{NextPageToken: next}
	for _, one := range found {
		answer.Sites = append(answer.Sites, &fleetv1.ServerSite{
			SiteId: one.ID.String(), Name: one.Name, OrganizationId: one.Organization.String(), OrganizationName: one.OrganizationName,
			Type: one.Wanted.Type.String(), Domain: one.Wanted.Domains[0].String(), State: siteStates[one.State],
		})
	}
	return answer, nil
}

func (s *serverService) ListServerTasks(ctx context.Context, r *fleetv1.ListServerTasksRequest) (*fleetv1.ListServerTasksResponse, error) {
	server, err := serverID(r)
	if err != nil {
		return nil, err
	}
	if _, err := s.fleet.Get(ctx, server); err != nil {
		return nil, err
	}
	found, next, err := s.tasks.AskedOf(ctx, server, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &fleetv1.ListServerTasksResponse{NextPageToken: next}
	for _, one := range found {
		answer.Tasks = append(answer.Tasks, &fleetv1.ServerTask{Task: one.Proto(), OrganizationName: one.OrganizationName, SiteName: one.SiteName})
	}
	return answer, nil
}

func (s *serverService) DrainServer(ctx context.Context, r *fleetv1.DrainServerRequest) (*fleetv1.DrainServerResponse, error) {
	found, err := s.one(ctx, r, s.fleet.Drain)
	if err != nil {
		return nil, err
	}
	return &fleetv1.DrainServerResponse{Server: found}, nil
}

func (s *serverService) UndrainServer(ctx context.Context, r *fleetv1.UndrainServerRequest) (*fleetv1.UndrainServerResponse, error) {
	found, err := s.one(ctx, r, s.fleet.Undrain)
	if err != nil {
		return nil, err
	}
	return &fleetv1.UndrainServerResponse{Server: found}, nil
}

func (s *serverService) ReadmitServer(ctx context.Context, r *fleetv1.ReadmitServerRequest) (*fleetv1.ReadmitServerResponse, error) {
	found, err := s.one(ctx, r, s.fleet.Readmit)
	if err != nil {
		return nil, err
	}
	return &fleetv1.ReadmitServerResponse{Server: found}, nil
}

func (s *serverService) RemoveServer(ctx context.Context, r *fleetv1.RemoveServerRequest) (*fleetv1.RemoveServerResponse, error) {
	found, err := s.one(ctx, r, func(ctx context.Context, id contract.ServerID) (fleet.Server, error) {
		return s.fleet.Remove(ctx, id, func(ctx context.Context, tx *db.Tx, server contract.ServerID) error {
			return s.tasks.Removed(ctx, tx, server.String(), time.Now())
		})
	})
	if err != nil {
		return nil, err
	}
	return &fleetv1.RemoveServerResponse{Server: found}, nil
}

// one is what calls about one server have in common: an id in, the server out.
func (s *serverService) one(ctx context.Context, r interface{ GetServerId() string },
	do func(context.Context, contract.ServerID) (fleet.Server, error),
) (*fleetv1.Server, error) {
	id, err := serverID(r)
	if err != nil {
		return nil, err
	}
	found, err := do(ctx, id)
	if err != nil {
		return nil, err
	}
	return serverMessage(found), nil
}

func (s *serverService) PrepareServer(ctx context.Context, r *fleetv1.PrepareServerRequest) (*fleetv1.PrepareServerResponse, error) {
	id, err := serverID(r)
	if err != nil {
		return nil, err
	}
	ordered, err := s.fleet.Prepare(ctx, id)
	if err != nil {
		return nil, err
	}
	return &fleetv1.PrepareServerResponse{Task: ordered.Proto()}, nil
}

func (s *serverService) PingServer(ctx context.Context, r *fleetv1.PingServerRequest) (*fleetv1.PingServerResponse, error) {
	id, err := serverID(r)
	if err != nil {
		return nil, err
	}
	wanted := task.New{
		Server:     id.String(),
		Kind:       task.Noop,
		Parameters: &orderv1.Noop{Steps: r.GetSteps(), StepDuration: r.GetStepDuration()},
		CreatedBy:  audit.ActorOf(ctx).Account(),
	}
	if r.GetTimeout() != nil {
		wanted.Timeout = r.GetTimeout().AsDuration()
		wanted.Deadline = time.Now().Add(wanted.Timeout)
	}
	var ordered task.Task
	err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
		ordered, err = task.Enqueue(ctx, tx, wanted)
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: audit.Platform, Action: "server.ping", Object: id.String()})
	}, db.ReadCommitted()) // Enqueue locks the server's row before it decides anything
	if err != nil {
		return nil, fmt.Errorf("ping server %s: %w", id, err)
	}
	return &fleetv1.PingServerResponse{Task: ordered.Proto()}, nil
}

func serverMessage(s fleet.Server) *fleetv1.Server {
	m := &fleetv1.Server{
		Id:            s.ID.String(),
		Name:          s.Name,
		Tenancy:       tenancies[s.Tenancy],
		State:         serverStates[s.State],
		Online:        s.Online,
		SiteCount:     uint32(s.Sites),
		CreateTime:    timestamppb.New(s.CreatedAt),
		Problem:       s.Problem,
		PrepareTaskId: s.PrepareTaskID,
	}
	if !s.Organization.IsZero() {
		m.OrganizationId = s.Organization.String()
	}
	if !s.LastSeenAt.IsZero() {
		m.LastSeenTime = timestamppb.New(s.LastSeenAt)
	}
	if !s.CertificateExpiresAt.IsZero() {
		m.CertificateExpireTime = timestamppb.New(s.CertificateExpiresAt)
	}
	if s.Facts != nil {
		m.Facts = s.Facts.Message()
		m.Facts.Prepared = s.Prepared
	}
	return m
}

var tenancies = map[fleet.Tenancy]fleetv1.Tenancy{
	fleet.Shared:    fleetv1.Tenancy_TENANCY_SHARED,
	fleet.Dedicated: fleetv1.Tenancy_TENANCY_DEDICATED,
}

var serverStates = map[fleet.State]fleetv1.State{
	fleet.Pending:     fleetv1.State_STATE_PENDING,
	fleet.Active:      fleetv1.State_STATE_ACTIVE,
	fleet.Draining:    fleetv1.State_STATE_DRAINING,
	fleet.Quarantined: fleetv1.State_STATE_QUARANTINED,
	fleet.Removed:     fleetv1.State_STATE_REMOVED,
}
