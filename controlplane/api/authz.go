package api

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// rule says who may call a method.
type rule struct {
	who who
	// role is the least that a member of the organization in the request must have, for inOrganization.
	role organization.Role
}

type who uint8

const (
	nobody         who = iota // the zero value: deny
	anybody                   // without a token
	signedIn                  // with any token
	operator                  // who runs the platform
	inOrganization            // a member of the organization that the request names with a role, and any operator
)

func members(least organization.Role) rule { return rule{inOrganization, least} }

// rules is the one place that says who may do what: a row for each method of each service behind the people's door. A method
// without a row cannot be called, and the program does not start (checkRules).
//
// Work on servers themselves belongs to the platform, which the nil UUID stands for where an organization is named: that
// is the operators' alone.
var rules = map[string]rule{
	accountv1connect.AccountServiceCreateFirstOperatorProcedure: {who: anybody}, // the secret is the proof
	accountv1connect.AccountServiceGetCallerProcedure:           {who: signedIn},

	organizationv1connect.OrganizationServiceCreateOrganizationProcedure: {who: operator},
	organizationv1connect.OrganizationServiceGetOrganizationProcedure:    members(organization.Viewer),
	organizationv1connect.OrganizationServiceListOrganizationsProcedure:  {who: signedIn}, // shows what the caller may see

	fleetv1connect.ServerServiceCreateServerProcedure:    {who: operator},
	fleetv1connect.ServerServiceCreateJoinTokenProcedure: {who: operator},
	fleetv1connect.ServerServiceGetServerProcedure:       {who: operator},
	fleetv1connect.ServerServiceListServersProcedure:     {who: operator},
	fleetv1connect.ServerServiceDrainServerProcedure:     {who: operator},
	fleetv1connect.ServerServiceUndrainServerProcedure:   {who: operator},
	fleetv1connect.ServerServiceReadmitServerProcedure:   {who: operator},
	fleetv1connect.ServerServiceRemoveServerProcedure:    {who: operator},
	fleetv1connect.ServerServicePrepareServerProcedure:   {who: operator},
	fleetv1connect.ServerServicePingServerProcedure:      {who: operator},

	sitev1connect.SiteServiceCreateSiteProcedure:      members(organization.Member),
	sitev1connect.SiteServiceGetSiteProcedure:         members(organization.Viewer),
	sitev1connect.SiteServiceListSitesProcedure:       members(organization.Viewer),
	sitev1connect.SiteServiceUpdateSiteProcedure:      members(organization.Member),
	sitev1connect.SiteServiceSuspendSiteProcedure:     members(organization.Member),
	sitev1connect.SiteServiceResumeSiteProcedure:      members(organization.Member),
	sitev1connect.SiteServiceDeleteSiteProcedure:      members(organization.Admin),
	sitev1connect.SiteServiceRestoreSiteProcedure:     members(organization.Admin),
	sitev1connect.SiteServiceCreateSiteLoginProcedure: members(organization.Admin), // makes its bearer the site's administrator

	taskv1connect.TaskServiceGetTaskProcedure:    members(organization.Viewer),
	taskv1connect.TaskServiceListTasksProcedure:  members(organization.Viewer),
	taskv1connect.TaskServiceCancelTaskProcedure: members(organization.Member),
	taskv1connect.TaskServiceWatchTaskProcedure:  members(organization.Viewer),
}

// files hold the services behind the people's door.
var files = []protoreflect.FileDescriptor{
	accountv1.File_chom_account_v1_account_service_proto,
	organizationv1.File_chom_organization_v1_organization_service_proto,
	fleetv1.File_chom_fleet_v1_server_service_proto,
	sitev1.File_chom_site_v1_site_service_proto,
	taskv1.File_chom_task_v1_task_service_proto,
}

// methods are all that people can call, by procedure.
func methods() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	for _, file := range files {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				all["/"+string(service.FullName())+"/"+string(method.Name())] = method
			}
		}
	}
	return all
}

// organizationField names the tenant in a request of a method whose rule is about its members.
const organizationField protoreflect.Name = "organization_id"

// checkRules finds what is wrong with the table: a method without a row, a row without a method, a row about members of an
// organization that the request does not name.
func checkRules(rules map[string]rule, methods map[string]protoreflect.MethodDescriptor) error {
	var wrong []string
	for procedure, method := range methods {
		rule, ok := rules[procedure]
		switch {
		case !ok || rule.who == nobody:
			wrong = append(wrong, procedure+" has no row")
		case rule.who == inOrganization:
			field := method.Input().Fields().ByName(organizationField)
			if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
				wrong = append(wrong, procedure+" is for members, but its request has no "+string(organizationField))
			}
			if !rule.role.AtLeast(organization.Viewer) {
				wrong = append(wrong, procedure+" is for members without a role")
			}
		}
		if method.IsStreamingClient() {
			wrong = append(wrong, procedure+" streams requests, which the door cannot decide on")
		}
	}
	for procedure := range rules {
		if methods[procedure] == nil {
			wrong = append(wrong, procedure+" has a row but does not exist")
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return fmt.Errorf("authorization table: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// decideCaller is the part of the decision that needs no request: it is made before a byte of the body is read.
func decideCaller(rule rule, caller *account.Account) error {
	switch rule.who {
	case anybody:
		return nil
	case signedIn, inOrganization:
		if caller != nil {
			return nil
		}
	case operator:
		if caller != nil && caller.Operator {
			return nil
		}
		if caller != nil {
			return fault.Denied("only operators may do this")
		}
	default:
		return fault.Denied("nobody may do this")
	}
	return fault.Unauthenticated(`a token is needed, as "Authorization: Bearer <token>"`)
}

// organizationOf is the tenant that a request names; platform for the nil UUID.
func organizationOf(request proto.Message) (id contract.OrganizationID, platform bool, err error) {
	message := request.ProtoReflect()
	text := message.Get(message.Descriptor().Fields().ByName(organizationField)).String()
	if text == nilUUID {
		return contract.OrganizationID{}, true, nil
	}
	id, err = contract.ParseOrganizationID(text)
	if err != nil {
		return contract.OrganizationID{}, false, invalid(string(organizationField), err)
	}
	return id, false, nil
}

// nilUUID stands for the platform where an organization is named.
const nilUUID = "00000000-0000-0000-0000-000000000000"

// decideMember is the rest of the decision, once the request is known. A stranger gets the same answer for an organization
// of others as for one that does not exist; so does a member who asks for the platform.
func decideMember(rule rule, caller *account.Account, platform bool, has organization.Role) error {
	switch {
	case caller == nil:
		return fault.Denied("nobody may do this")
	case caller.Operator:
		return nil
	case platform || has == "":
		return organization.ErrNotFound
	case has.AtLeast(rule.role):
		return nil
	}
	return fault.Denied(fmt.Sprintf("this needs the role %s in the organization; yours is %s", rule.role, has))
}
