package api

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

type organizationService struct{ organizations *organization.Organizations }

// errOwnerNamed is for who makes an organization for others.
var errOwnerNamed = fault.Denied("only operators may make an organization for somebody else: leave owner_email empty")

func (s *organizationService) CreateOrganization(ctx context.Context, r *organizationv1.CreateOrganizationRequest) (*organizationv1.CreateOrganizationResponse, error) {
	caller := callerOf(ctx)
	var made organization.Organization
	var err error
	switch {
	case r.GetOwnerEmail() == "":
		made, err = s.organizations.Found(ctx, caller, r.GetName())
	case caller.Operator:
		made, err = s.organizations.Create(ctx, r.GetName(), r.GetOwnerEmail())
	default:
		err = errOwnerNamed
	}
	if err != nil {
		return nil, err
	}
	return &organizationv1.CreateOrganizationResponse{Organization: organizationMessage(made)}, nil
}

func (s *organizationService) GetOrganization(ctx context.Context, r *organizationv1.GetOrganizationRequest) (*organizationv1.GetOrganizationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	found, err := s.organizations.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	caller := callerOf(ctx)
	member, err := s.organizations.MembershipOf(ctx, id, caller.ID)
	if err != nil {
		return nil, err
	}
	return &organizationv1.GetOrganizationResponse{Organization: organizationFor(&caller, found, member)}, nil
}

func (s *organizationService) ListOrganizations(ctx context.Context, r *organizationv1.ListOrganizationsRequest) (*organizationv1.ListOrganizationsResponse, error) {
	caller := callerOf(ctx)
	found, next, err := s.organizations.List(ctx, caller, r.GetPageSize(), r.GetPageToken(), r.GetShowClosed())
	if err != nil {
		return nil, err
	}
	members, err := s.organizations.MembershipsOf(ctx, caller.ID)
	if err != nil {
		return nil, err
	}
	answer := &organizationv1.ListOrganizationsResponse{NextPageToken: next}
	for _, one := range found {
		answer.Organizations = append(answer.Organizations, organizationFor(&caller, one, members[one.ID]))
	}
	return answer, nil
}

func (s *organizationService) UpdateOrganization(ctx context.Context, r *organizationv1.UpdateOrganizationRequest) (*organizationv1.UpdateOrganizationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := checkMask(r.GetUpdateMask().GetPaths(), "name", "require_second_factor"); err != nil {
		return nil, err
	}
	change := organization.Change{ETag: r.GetEtag()}
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "name":
			name := r.GetName()
			change.Name = &name
		case "require_second_factor":
			required := r.GetRequireSecondFactor()
			change.RequireSecondFactor = &required
		}
	}
	changed, err := s.organizations.Update(ctx, callerOf(ctx), id, change)
	if err != nil {
		return nil, err
	}
	return &organizationv1.UpdateOrganizationResponse{Organization: organizationMessage(changed)}, nil
}

func (s *organizationService) CloseOrganization(ctx context.Context, r *organizationv1.CloseOrganizationRequest) (*organizationv1.CloseOrganizationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	closing, err := s.organizations.Close(ctx, callerOf(ctx), id, r.GetName())
	if err != nil {
		return nil, err
	}
	return &organizationv1.CloseOrganizationResponse{Organization: organizationMessage(closing)}, nil
}

func (s *organizationService) ReopenOrganization(ctx context.Context, r *organizationv1.ReopenOrganizationRequest) (*organizationv1.ReopenOrganizationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	open, err := s.organizations.Reopen(ctx, callerOf(ctx), id)
	if err != nil {
		return nil, err
	}
	return &organizationv1.ReopenOrganizationResponse{Organization: organizationMessage(open)}, nil
}

func (s *organizationService) SetQuota(ctx context.Context, r *organizationv1.SetQuotaRequest) (*organizationv1.SetQuotaResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	var quota *organization.Quota
	if r.GetQuota() != nil {
		quota = &organization.Quota{BackupBytes: r.GetQuota().GetBackupBytes()}
	}
	changed, err := s.organizations.SetQuota(ctx, callerOf(ctx), id, quota)
	if err != nil {
		return nil, err
	}
	return &organizationv1.SetQuotaResponse{Organization: organizationMessage(changed)}, nil
}

func (s *organizationService) ListMembers(ctx context.Context, r *organizationv1.ListMembersRequest) (*organizationv1.ListMembersResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.organizations.Members(ctx, id, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &organizationv1.ListMembersResponse{Members: each(found, memberMessage), NextPageToken: next}, nil
}

func (s *organizationService) UpdateMember(ctx context.Context, r *organizationv1.UpdateMemberRequest) (*organizationv1.UpdateMemberResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := checkMask(r.GetUpdateMask().GetPaths(), "role", "all_sites", "site_ids"); err != nil {
		return nil, err
	}
	change := organization.MemberChange{ETag: r.GetEtag()}
	for _, path := range r.GetUpdateMask().GetPaths() {
		switch path {
		case "role":
			if change.Role = roles[r.GetRole()]; change.Role == "" {
				return nil, fault.Invalid("role", "must be viewer, member, admin or owner")
			}
		case "all_sites", "site_ids":
			change.Bounds = true
		}
	}
	if change.Bounds && !r.GetAllSites() {
		change.Sites = append([]string{}, r.GetSiteIds()...)
	} else if change.Bounds && len(r.GetSiteIds()) > 0 {
		return nil, fault.Invalid("site_ids", "must be empty with all_sites")
	}
	changed, err := s.organizations.UpdateMember(ctx, callerOf(ctx), id, r.GetAccountId(), change)
	if err != nil {
		return nil, err
	}
	return &organizationv1.UpdateMemberResponse{Member: memberMessage(changed)}, nil
}

func (s *organizationService) RemoveMember(ctx context.Context, r *organizationv1.RemoveMemberRequest) (*organizationv1.RemoveMemberResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := s.organizations.RemoveMember(ctx, callerOf(ctx), id, r.GetAccountId()); err != nil {
		return nil, err
	}
	return &organizationv1.RemoveMemberResponse{}, nil
}

func (s *organizationService) LeaveOrganization(ctx context.Context, r *organizationv1.LeaveOrganizationRequest) (*organizationv1.LeaveOrganizationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := s.organizations.Leave(ctx, callerOf(ctx), id); err != nil {
		return nil, err
	}
	return &organizationv1.LeaveOrganizationResponse{}, nil
}

func (s *organizationService) TransferOwnership(ctx context.Context, r *organizationv1.TransferOwnershipRequest) (*organizationv1.TransferOwnershipResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	owner, err := s.organizations.Transfer(ctx, callerOf(ctx), id, r.GetAccountId())
	if err != nil {
		return nil, err
	}
	return &organizationv1.TransferOwnershipResponse{Member: memberMessage(owner)}, nil
}

func (s *organizationService) CreateInvitation(ctx context.Context, r *organizationv1.CreateInvitationRequest) (*organizationv1.CreateInvitationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	offer := organization.Offer{Email: r.GetEmail(), Role: roles[r.GetRole()], Sites: bounds(r.GetSiteIds())}
	made, link, err := s.organizations.Invite(ctx, callerOf(ctx), id, offer)
	if err != nil {
		return nil, err
	}
	return &organizationv1.CreateInvitationResponse{Invitation: invitationMessage(made), Link: link}, nil
}

func (s *organizationService) ListInvitations(ctx context.Context, r *organizationv1.ListInvitationsRequest) (*organizationv1.ListInvitationsResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.organizations.Invitations(ctx, id, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &organizationv1.ListInvitationsResponse{Invitations: each(found, invitationMessage), NextPageToken: next}, nil
}

func (s *organizationService) RevokeInvitation(ctx context.Context, r *organizationv1.RevokeInvitationRequest) (*organizationv1.RevokeInvitationResponse, error) {
	id, err := organizationID(r)
	if err != nil {
		return nil, err
	}
	if err := s.organizations.RevokeInvitation(ctx, callerOf(ctx), id, r.GetInvitationId()); err != nil {
		return nil, err
	}
	return &organizationv1.RevokeInvitationResponse{}, nil
}

func (s *organizationService) GetInvitation(ctx context.Context, r *organizationv1.GetInvitationRequest) (*organizationv1.GetInvitationResponse, error) {
	found, name, err := s.organizations.Invitation(ctx, r.GetToken())
	if err != nil {
		return nil, err
	}
	return &organizationv1.GetInvitationResponse{Invitation: invitationMessage(found), OrganizationName: name}, nil
}

func (s *organizationService) AcceptInvitation(ctx context.Context, r *organizationv1.AcceptInvitationRequest) (*organizationv1.AcceptInvitationResponse, error) {
	joined, member, err := s.organizations.Accept(ctx, callerOf(ctx), r.GetToken())
	if err != nil {
		return nil, err
	}
	return &organizationv1.AcceptInvitationResponse{Organization: organizationMessage(joined), Member: memberMessage(member)}, nil
}

// organizationID parses the id that every request about an organization has.
func organizationID(r interface{ GetOrganizationId() string }) (contract.OrganizationID, error) {
	id, err := contract.ParseOrganizationID(r.GetOrganizationId())
	if err != nil {
		return id, invalid("organization_id", err)
	}
	return id, nil
}

// checkMask refuses an update mask that names what cannot be changed, nothing, or a thing twice.
func checkMask(paths []string, parts ...string) error {
	for i, path := range paths {
		if !slices.Contains(parts, path) || slices.Contains(paths[:i], path) {
			paths = nil
			break
		}
	}
	if len(paths) == 0 {
		return fault.Invalid("update_mask", "must name each of these at most once, and at least one: "+strings.Join(parts, ", "))
	}
	return nil
}

// bounds are the sites that a request names: none means all.
func bounds(sites []string) []string {
	if len(sites) == 0 {
		return nil
	}
	return sites
}

// each turns what a noun lists into what a list answers.
func each[T, M any](all []T, message func(T) M) []M {
	messages := make([]M, len(all))
	for i, one := range all {
		messages[i] = message(one)
	}
	return messages
}

func organizationMessage(o organization.Organization) *organizationv1.Organization {
	m := &organizationv1.Organization{
		Id:                  o.ID.String(),
		Name:                o.Name,
		OwnerEmail:          o.OwnerEmail,
		CreateTime:          timestamppb.New(o.CreatedAt),
		State:               organizationStates[o.State],
		RequireSecondFactor: o.RequireSecondFactor,
		Etag:                o.ETag(),
		Quota:               quotaMessage(o.Quota),
		BackupBytes:         o.BackupBytes,
	}
	if !o.CloseAt.IsZero() {
		m.CloseTime = timestamppb.New(o.CloseAt)
	}
	return m
}

// organizationFor is an organization with what a caller may do in it, by the rules of the door.
func organizationFor(caller *account.Caller, o organization.Organization, member organization.Membership) *organizationv1.Organization {
	role := roleIn(caller, o.ID.String(), member)
	if caller.Operator {
		role, member = organization.Owner, organization.Membership{}
	}
	sites := reach(caller, member)
	m := organizationMessage(o)
	m.Access = &organizationv1.Access{Role: roleMessages[role], AllSites: sites == nil, SiteIds: sites}
	return m
}

func quotaMessage(q organization.Quota) *organizationv1.Quota {
	return &organizationv1.Quota{BackupBytes: q.BackupBytes}
}

func memberMessage(p organization.Person) *organizationv1.Member {
	return &organizationv1.Member{
		AccountId:  p.Account,
		Email:      p.Email,
		Role:       roleMessages[p.Role],
		AllSites:   p.Sites == nil,
		SiteIds:    p.Sites,
		CreateTime: timestamppb.New(p.Since),
		Etag:       p.ETag(),
	}
}

func invitationMessage(i organization.Invitation) *organizationv1.Invitation {
	return &organizationv1.Invitation{
		Id:             i.ID,
		OrganizationId: i.Organization.String(),
		Email:          i.Email,
		Role:           roleMessages[i.Role],
		AllSites:       i.Sites == nil,
		SiteIds:        i.Sites,
		InviterEmail:   i.InviterEmail,
		CreateTime:     timestamppb.New(i.CreatedAt),
		ExpireTime:     timestamppb.New(i.ExpiresAt),
	}
}

var organizationStates = map[organization.State]organizationv1.State{
	organization.Active:  organizationv1.State_STATE_ACTIVE,
	organization.Closing: organizationv1.State_STATE_CLOSING,
	organization.Closed:  organizationv1.State_STATE_CLOSED,
}

var roleMessages = map[organization.Role]organizationv1.Role{
	organization.Owner:  organizationv1.Role_ROLE_OWNER,
	organization.Admin:  organizationv1.Role_ROLE_ADMIN,
	organization.Member: organizationv1.Role_ROLE_MEMBER,
	organization.Viewer: organizationv1.Role_ROLE_VIEWER,
}

var roles = map[organizationv1.Role]organization.Role{
	organizationv1.Role_ROLE_OWNER:  organization.Owner,
	organizationv1.Role_ROLE_ADMIN:  organization.Admin,
	organizationv1.Role_ROLE_MEMBER: organization.Member,
	organizationv1.Role_ROLE_VIEWER: organization.Viewer,
}
