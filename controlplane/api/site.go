package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/controlplane/site"
	"chom.dev/controlplane/sitelog"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

type siteService struct {
	sites *site.Sites
	logs  *sitelog.Hub
}

// siteIDs parses the two ids that every request about a site has.
func siteIDs(r interface {
	GetOrganizationId() string
	GetSiteId() string
}) (contract.OrganizationID, contract.SiteID, error) {
	organization, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return organization, contract.SiteID{}, invalid("organization_id", err)
	}
	id, err := contract.ParseSiteID(r.GetSiteId())
	if err != nil {
		return organization, id, invalid("site_id", err)
	}
	return organization, id, nil
}

func (s *siteService) CreateSite(ctx context.Context, r *sitev1.CreateSiteRequest) (*sitev1.CreateSiteResponse, error) {
	organization, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return nil, invalid("organization_id", err)
	}
	wanted := site.Request{
		Organization: organization,
		Name:         r.GetName(),
		Type:         r.GetType(),
		Domains:      r.GetDomains(),
		Settings:     r.GetSettings(),
		Limits:       limitsOf(r.GetLimits()),
		Redirects:    r.GetRedirectDomains(),
		HTTPS:        httpsOf(r.GetHttps()),
		Tags:         r.GetTags(),
		RequestID:    r.GetRequestId(),
	}
	if wanted.Policy, err = policyOf(r); err != nil {
		return nil, err
	}
	if r.GetServerId() != "" {
		if wanted.Server, err = contract.ParseServerID(r.GetServerId()); err != nil {
			return nil, invalid("server_id", err)
		}
	}
	made, ordered, err := s.sites.Create(ctx, wanted)
	if err != nil {
		return nil, err
	}
	shown, err := s.message(ctx, made)
	if err != nil {
		return nil, err
	}
	return &sitev1.CreateSiteResponse{Site: shown, Task: ordered.Proto()}, nil
}

func (s *siteService) GetSite(ctx context.Context, r *sitev1.GetSiteRequest) (*sitev1.GetSiteResponse, error) {
	organization, id, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.sites.Get(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	shown, err := s.message(ctx, found)
	if err != nil {
		return nil, err
	}
	return &sitev1.GetSiteResponse{Site: shown}, nil
}

func (s *siteService) ListSites(ctx context.Context, r *sitev1.ListSitesRequest) (*sitev1.ListSitesResponse, error) {
	organization, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return nil, invalid("organization_id", err)
	}
	filter := site.Filter{Trashed: r.GetShowTrashed(), NameContains: r.GetNameContains(), Type: r.GetType(), Server: r.GetServerId(), Tags: r.GetTags(), Only: reachOf(ctx)}
	for state := site.StateCreating; state <= site.StateFailed; state++ {
		if slices.Contains(r.GetStates(), siteStates[state]) {
			filter.States = append(filter.States, state)
		}
	}
	found, next, err := s.sites.List(ctx, organization, r.GetPageSize(), r.GetPageToken(), filter)
	if err != nil {
		return nil, err
	}
	answer := &sitev1.ListSitesResponse{NextPageToken: next}
	for _, one := range found {
		answer.Sites = append(answer.Sites, siteMessage(one))
	}
	return answer, nil
}

func (s *siteService) UpdateSite(ctx context.Context, r *sitev1.UpdateSiteRequest) (*sitev1.UpdateSiteResponse, error) {
	if err := site.CheckMask(r.GetUpdateMask().GetPaths()); err != nil {
		return nil, err
	}
	change := site.Change{ETag: r.GetEtag()}
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "domains":
			change.Domains = append([]string{}, r.GetDomains()...) // an empty list is a value, and refused as one
		case "redirect_domains":
			change.Redirects = append([]string{}, r.GetRedirectDomains()...) // an empty list takes them all away
		case "https":
			https := httpsOf(r.GetHttps())
			change.HTTPS = &https
		case "settings":
			change.Settings = map[string]string{}
			for name, value := range r.GetSettings() {
				change.Settings[name] = value
			}
		case "limits":
			limits := limitsOf(r.GetLimits())
			change.Limits = &limits
		case "tags":
			tags := r.GetTags()
			change.Tags = &tags
		case "backup_policy_id":
			policy, err := policyOf(r)
			if err != nil {
				return nil, err
			}
			change.Policy = &policy
		}
	}
	changed, task, err := s.change(ctx, r, func(organization contract.OrganizationID, id contract.SiteID) (*site.Site, task.Task, error) {
		return s.sites.Update(ctx, organization, id, change)
	})
	if err != nil {
		return nil, err
	}
	return &sitev1.UpdateSiteResponse{Site: changed, Task: task}, nil
}

func (s *siteService) SuspendSite(ctx context.Context, r *sitev1.SuspendSiteRequest) (*sitev1.SuspendSiteResponse, error) {
	changed, task, err := s.change(ctx, r, func(organization contract.OrganizationID, id contract.SiteID) (*site.Site, task.Task, error) {
		return s.sites.Suspend(ctx, organization, id)
	})
	if err != nil {
		return nil, err
	}
	return &sitev1.SuspendSiteResponse{Site: changed, Task: task}, nil
}

func (s *siteService) ResumeSite(ctx context.Context, r *sitev1.ResumeSiteRequest) (*sitev1.ResumeSiteResponse, error) {
	changed, task, err := s.change(ctx, r, func(organization contract.OrganizationID, id contract.SiteID) (*site.Site, task.Task, error) {
		return s.sites.Resume(ctx, organization, id)
	})
	if err != nil {
		return nil, err
	}
	return &sitev1.ResumeSiteResponse{Site: changed, Task: task}, nil
}

func (s *siteService) DeleteSite(ctx context.Context, r *sitev1.DeleteSiteRequest) (*sitev1.DeleteSiteResponse, error) {
	changed, task, err := s.change(ctx, r, func(organization contract.OrganizationID, id contract.SiteID) (*site.Site, task.Task, error) {
		return s.sites.Delete(ctx, organization, id)
	})
	if err != nil {
		return nil, err
	}
	return &sitev1.DeleteSiteResponse{Site: changed, Task: task}, nil
}

func (s *siteService) RestoreSite(ctx context.Context, r *sitev1.RestoreSiteRequest) (*sitev1.RestoreSiteResponse, error) {
	changed, task, err := s.change(ctx, r, func(organization contract.OrganizationID, id contract.SiteID) (*site.Site, task.Task, error) {
		return s.sites.Restore(ctx, organization, id)
	})
	if err != nil {
		return nil, err
	}
	return &sitev1.RestoreSiteResponse{Site: changed, Task: task}, nil
}

func (s *siteService) CheckSite(ctx context.Context, r *sitev1.CheckSiteRequest) (*sitev1.CheckSiteResponse, error) {
	organization, id, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	checked, err := s.sites.Check(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	shown, err := s.message(ctx, checked)
	if err != nil {
		return nil, err
	}
	return &sitev1.CheckSiteResponse{Site: shown}, nil
}

func (s *siteService) CreateSiteLogin(ctx context.Context, r *sitev1.CreateSiteLoginRequest) (*sitev1.CreateSiteLoginResponse, error) {
	organization, id, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	login, err := s.sites.CreateLogin(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	return &sitev1.CreateSiteLoginResponse{Url: login.URL, ExpireTime: timestamppb.New(login.ExpiresAt)}, nil
}

// change is what every change of a site has in common: two ids in, the site and its task out.
func (s *siteService) change(ctx context.Context, r interface {
	GetOrganizationId() string
	GetSiteId() string
}, do func(contract.OrganizationID, contract.SiteID) (*site.Site, task.Task, error),
) (*sitev1.Site, *taskv1.Task, error) {
	organization, id, err := siteIDs(r)
	if err != nil {
		return nil, nil, err
	}
	changed, ordered, err := do(organization, id)
	if err != nil {
		return nil, nil, err
	}
	shown, err := s.message(ctx, changed)
	if err != nil {
		return nil, nil, err
	}
	if ordered.ID == "" { // its host has nothing to learn
		return shown, nil, nil
	}
	return shown, ordered.Proto(), nil
}

// policyOf is the backup policy that a request chooses for a site; the zero value lets its tags choose.
func policyOf(r interface{ GetBackupPolicyId() string }) (id contract.PolicyID, err error) {
	if r.GetBackupPolicyId() == "" {
		return id, nil
	}
	if id, err = contract.ParsePolicyID(r.GetBackupPolicyId()); err != nil {
		return id, invalid("backup_policy_id", err)
	}
	return id, nil
}

// message is a site with its names, each with how far it is.
func (s *siteService) message(ctx context.Context, one *site.Site) (*sitev1.Site, error) {
	names, err := s.sites.Names(ctx, one)
	if err != nil {
		return nil, err
	}
	m := siteMessage(one)
	for _, n := range names {
		m.Names = append(m.Names, nameMessage(n))
	}
	if one.Observed != nil {
		for i := range one.Observed.Certificates {
			m.Observed.Certificates = append(m.Observed.Certificates, one.Observed.Certificates[i].Message())
		}
	}
	return m, nil
}

func nameMessage(n site.Name) *sitev1.SiteName {
	m := &sitev1.SiteName{Name: n.Name.String(), Role: nameRoles[n.Role], State: nameStates[n.State], Problem: n.Problem}
	for _, r := range n.Records {
		m.Records = append(m.Records, &domainv1.DnsRecord{Name: r.Name, Type: r.Type, Value: r.Value, Remove: r.Remove})
	}
	if !n.LookedAt.IsZero() {
		m.CheckTime = timestamppb.New(n.LookedAt)
	}
	if !n.NextLookAt.IsZero() {
		m.NextCheckTime = timestamppb.New(n.NextLookAt)
	}
	if n.Certificate != nil {
		m.Certificate = n.Certificate.Message()
	}
	if n.Outside != nil {
		m.Outside, m.OutsideTime = n.Outside.Message(), timestamppb.New(n.Outside.At)
	}
	return m
}

func httpsOf(h *sitev1.HttpsOptions) site.HTTPS {
	return site.HTTPS{HSTS: h.GetHstsMaxAgeSeconds(), KeepHTTP: h.GetKeepHttp()}
}

func limitsOf(l *sitev1.Limits) site.Limits {
	return site.Limits{
		CPUPercent:  l.GetCpuPercent(),
		MemoryBytes: l.GetMemoryBytes(),
		Tasks:       l.GetTasks(),
		PHPWorkers:  l.GetPhpWorkers(),
	}
}

// siteMessage is a site without its names and certificates, as lists show it.
func siteMessage(s *site.Site) *sitev1.Site {
	m := &sitev1.Site{
		Id:             s.ID.String(),
		OrganizationId: s.Organization.String(),
		ServerId:       s.Server.String(),
		Name:           s.Name,
		Type:           s.Wanted.Type.String(),
		Settings:       s.Wanted.Settings,
		Limits: &sitev1.Limits{
			CpuPercent:  s.Wanted.Limits.CPUPercent,
			MemoryBytes: s.Wanted.Limits.MemoryBytes,
			Tasks:       s.Wanted.Limits.Tasks,
			PhpWorkers:  s.Wanted.Limits.PHPWorkers,
		},
		State:          siteStates[s.State],
		Problem:        s.Problem,
		Generation:     s.Wanted.Generation,
		Url:            s.URL(time.Now()),
		CreateTime:     timestamppb.New(s.CreatedAt),
		UpdateTime:     timestamppb.New(s.UpdatedAt),
		LastTaskId:     s.LastTask,
		Handle:         s.Handle.String(),
		Etag:           s.ETag(),
		Https:          &sitev1.HttpsOptions{HstsMaxAgeSeconds: s.Wanted.HTTPS.HSTS, KeepHttp: s.Wanted.HTTPS.KeepHTTP},
		Tags:           s.Tags,
		BackupPolicyId: s.Policy.String(),
	}
	for _, domain := range s.Wanted.Domains {
		m.Domains = append(m.Domains, domain.String())
	}
	for _, domain := range s.Wanted.Redirects {
		m.RedirectDomains = append(m.RedirectDomains, domain.String())
	}
	for _, domain := range s.Pending() {
		m.PendingDomains = append(m.PendingDomains, domain.String())
	}
	m.PreviewDomain = s.Preview()
	if s.Observed != nil {
		m.Observed = s.Observed.Message(s.ID)
	}
	if !s.TrashedAt.IsZero() {
		m.DeleteTime = timestamppb.New(s.TrashedAt)
	}
	if !s.PurgeAt.IsZero() {
		m.PurgeTime = timestamppb.New(s.PurgeAt)
	}
	return m
}

var siteStates = map[site.State]sitev1.State{
	site.StateCreating:  sitev1.State_STATE_CREATING,
	site.StateActive:    sitev1.State_STATE_ACTIVE,
	site.StateUpdating:  sitev1.State_STATE_UPDATING,
	site.StateSuspended: sitev1.State_STATE_SUSPENDED,
	site.StateTrashed:   sitev1.State_STATE_TRASHED,
	site.StateDeleting:  sitev1.State_STATE_DELETING,
	site.StateFailed:    sitev1.State_STATE_FAILED,
}

var nameRoles = map[site.Role]sitev1.NameRole{
	site.Primary:  sitev1.NameRole_NAME_ROLE_PRIMARY,
	site.Alias:    sitev1.NameRole_NAME_ROLE_ALIAS,
	site.Redirect: sitev1.NameRole_NAME_ROLE_REDIRECT,
	site.Preview:  sitev1.NameRole_NAME_ROLE_PREVIEW,
}

var nameStates = map[site.NameState]sitev1.NameState{
	site.NameUnclaimed: sitev1.NameState_NAME_STATE_UNCLAIMED,
	site.NamePending:   sitev1.NameState_NAME_STATE_PENDING,
	site.NameIssuing:   sitev1.NameState_NAME_STATE_ISSUING,
	site.NameSecure:    sitev1.NameState_NAME_STATE_SECURE,
	site.NameExpiring:  sitev1.NameState_NAME_STATE_EXPIRING,
	site.NameExpired:   sitev1.NameState_NAME_STATE_EXPIRED,
}
