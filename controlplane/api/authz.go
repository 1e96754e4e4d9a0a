package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	auditv1 "chom.dev/proto/gen/chom/audit/v1"
	"chom.dev/proto/gen/chom/audit/v1/auditv1connect"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	"chom.dev/proto/gen/chom/backup/v1/backupv1connect"
	certificatev1 "chom.dev/proto/gen/chom/certificate/v1"
	"chom.dev/proto/gen/chom/certificate/v1/certificatev1connect"
	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	"chom.dev/proto/gen/chom/domain/v1/domainv1connect"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	mailv1 "chom.dev/proto/gen/chom/mail/v1"
	"chom.dev/proto/gen/chom/mail/v1/mailv1connect"
	metricv1 "chom.dev/proto/gen/chom/metric/v1"
	"chom.dev/proto/gen/chom/metric/v1/metricv1connect"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"
	webhookv1 "chom.dev/proto/gen/chom/webhook/v1"
	"chom.dev/proto/gen/chom/webhook/v1/webhookv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/limit"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// rule says who may call a method. The zero rule lets nobody.
type rule struct {
	who who
	// role is the least that a member of the organization in the request must have, for inOrganization.
	role organization.Role
	// scope is the least that an API token must have. Sessions have all.
	scope account.Scope
	// sites says how callers are held to the sites that they are bound to.
	sites sites
	// fresh asks a session for a proof of the last minutes that its person still sits there (step-up): for what destroys and
	// for what shows secrets.
	fresh bool
	// bounded says of a method that is not about one organization that its handler keeps to the bounds of the caller. All others
	// of these refuse who is bound to an organization or to sites, and thus operators who act for somebody.
	bounded bool
	// class is how often it may be called: a class of package limit. Empty stands for Auth where anybody may call, for
	// Operator where an operator does, and else for API.
	class string
	// secret says that the answer shows something that is shown once: it is kept nowhere, not even for a repeat of the call.
	secret bool
	// session refuses tokens: for what changes how a person signs in.
	session bool
	// inPerson refuses organizations' own tokens and operators who act for somebody else: for what only a person can do.
	inPerson bool
}

type who uint8

const (
	nobody         who = iota // the zero value: deny
	anybody                   // without a proof
	signedIn                  // with any session or token of a person
	operator                  // who runs the platform
	inOrganization            // a member of the organization that the request names with a role, its own tokens, and any operator
)

// sites is how a method treats a caller who is bound to some sites of the organization: a member with grants, or a token.
type sites uint8

const (
	allSites  sites = iota // it is about more than sites: bound callers are refused
	ofSite                 // it is about the site in the request's site_id, which the door compares
	asReached              // its handler shows and touches only what reachOf names
)

// The columns of the table, in the order in which they are read: who, and then what a token needs, which sites, whether the
// session must be fresh, and how often.
func members(least organization.Role, scope account.Scope, sites sites) rule {
	return rule{who: inOrganization, role: least, scope: scope, sites: sites}
}

func person(scope account.Scope) rule    { return rule{who: signedIn, scope: scope} }
func operators(scope account.Scope) rule { return rule{who: operator, scope: scope} }
func everybody() rule                    { return rule{who: anybody} }

// withSession asks for a session besides: no token will do.
func (r rule) withSession() rule {
	r.session = true
	return r
}

// justProved asks for a fresh session besides.
func (r rule) justProved() rule {
	r.fresh = true
	return r
}

// seldom holds calls to the class Sensitive: for what destroys, shows secrets, sends mail or asks many others.
func (r rule) seldom() rule {
	r.class = limit.Sensitive
	return r
}

// often holds calls to the class API although anybody may call: for what nobody can guess, and what takes several calls.
func (r rule) often() rule {
	r.class = limit.API
	return r
}

// withinBounds lets bound callers in.
func (r rule) withinBounds() rule {
	r.bounded = true
	return r
}

// themselves asks for the person besides: no organization's token, nobody who acts for them.
func (r rule) themselves() rule {
	r.inPerson = true
	return r
}

// showsSecret keeps the answer from being kept.
func (r rule) showsSecret() rule {
	r.secret = true
	return r
}

// rules is the one place that says who may do what: a row for each method of each service behind the people's door. A method
// without a row cannot be called, and the program does not start (checkRules).
//
// Work on servers themselves belongs to the platform, which the nil UUID stands for where an organization is named: that
// is the operators' alone.
var rules = map[string]rule{
	accountv1connect.AccountServiceCreateFirstOperatorProcedure:  everybody().showsSecret(), // the secret is the proof
	accountv1connect.AccountServiceGetCallerProcedure:            person(account.Read).withinBounds(),
	accountv1connect.AccountServiceSignUpProcedure:               everybody(),
	accountv1connect.AccountServiceVerifyEmailProcedure:          everybody(), // here and below: the mailed secret is the proof
	accountv1connect.AccountServiceRequestPasswordResetProcedure: everybody(),
	accountv1connect.AccountServiceResetPasswordProcedure:        everybody(),
	accountv1connect.AccountServiceChangePasswordProcedure:       person(account.Manage).withSession().justProved(),
	accountv1connect.AccountServiceRequestEmailChangeProcedure:   person(account.Manage).withSession().justProved(),
	accountv1connect.AccountServiceConfirmEmailChangeProcedure:   everybody(),

	accountv1connect.SessionServiceLoginProcedure:               everybody(),
	accountv1connect.SessionServiceLoginWithCodeProcedure:       everybody(), // the login's token and the code are the proof
	accountv1connect.SessionServiceBeginPasskeyLoginProcedure:   everybody().often(),
	accountv1connect.SessionServiceLoginWithPasskeyProcedure:    everybody().often(), // the passkey is the proof
	accountv1connect.SessionServiceLogoutProcedure:              person(account.Read),
	accountv1connect.SessionServiceListSessionsProcedure:        person(account.Read),
	accountv1connect.SessionServiceRevokeSessionProcedure:       person(account.Manage),
	accountv1connect.SessionServiceRevokeOtherSessionsProcedure: person(account.Manage),
	accountv1connect.SessionServiceStepUpProcedure:              person(account.Manage).withSession(),
	accountv1connect.SessionServiceBeginPasskeyStepUpProcedure:  person(account.Manage).withSession().showsSecret(),
	accountv1connect.SessionServiceStepUpWithPasskeyProcedure:   person(account.Manage).withSession(),

	accountv1connect.SecondFactorServiceBeginTotpProcedure:           person(account.Manage).withSession().justProved().showsSecret(),
	accountv1connect.SecondFactorServiceConfirmTotpProcedure:         person(account.Manage).withSession().showsSecret(), // what BeginTotp made is the proof
	accountv1connect.SecondFactorServiceDeleteTotpProcedure:          person(account.Manage).withSession().justProved(),
	accountv1connect.SecondFactorServiceCreateRecoveryCodesProcedure: person(account.Manage).withSession().justProved().showsSecret(),
	accountv1connect.SecondFactorServiceBeginPasskeyProcedure:        person(account.Manage).withSession().justProved().showsSecret(),
	accountv1connect.SecondFactorServiceCreatePasskeyProcedure:       person(account.Manage).withSession().showsSecret(), // what BeginPasskey made is the proof
	accountv1connect.SecondFactorServiceListPasskeysProcedure:        person(account.Read),
	accountv1connect.SecondFactorServiceUpdatePasskeyProcedure:       person(account.Manage).withSession(),
	accountv1connect.SecondFactorServiceDeletePasskeyProcedure:       person(account.Manage).withSession().justProved(),

	accountv1connect.DeviceLoginServiceBeginDeviceLoginProcedure:   everybody(),
	accountv1connect.DeviceLoginServicePollDeviceLoginProcedure:    everybody().often(), // the device code is the proof
	accountv1connect.DeviceLoginServiceGetDeviceLoginProcedure:     person(account.Manage).withSession(),
	accountv1connect.DeviceLoginServiceApproveDeviceLoginProcedure: person(account.Manage).withSession().justProved(), // makes a token
	accountv1connect.DeviceLoginServiceDenyDeviceLoginProcedure:    person(account.Manage).withSession(),

	auditv1connect.AuditServiceListAuditEventsProcedure:   members(organization.Admin, account.Read, allSites),
	auditv1connect.AuditServiceExportAuditEventsProcedure: members(organization.Admin, account.Read, allSites),
	auditv1connect.AuditServiceListMyAuditEventsProcedure: person(account.Read), // shows what is the caller's own

	organizationv1connect.OrganizationServiceCreateOrganizationProcedure: person(account.Manage),
	organizationv1connect.OrganizationServiceGetOrganizationProcedure:    members(organization.Viewer, account.Read, asReached),
	organizationv1connect.OrganizationServiceListOrganizationsProcedure:  person(account.Read).withinBounds(), // shows what the caller may see
	organizationv1connect.OrganizationServiceUpdateOrganizationProcedure: members(organization.Owner, account.Manage, allSites),
	organizationv1connect.OrganizationServiceCloseOrganizationProcedure:  members(organization.Owner, account.Manage, allSites).justProved().seldom(),
	organizationv1connect.OrganizationServiceReopenOrganizationProcedure: members(organization.Owner, account.Manage, allSites),

	organizationv1connect.OrganizationServiceSetQuotaProcedure: operators(account.Manage),

	organizationv1connect.OrganizationServiceListMembersProcedure:       members(organization.Viewer, account.Read, allSites),
	organizationv1connect.OrganizationServiceUpdateMemberProcedure:      members(organization.Admin, account.Manage, allSites).justProved(), // hands out rights
	organizationv1connect.OrganizationServiceRemoveMemberProcedure:      members(organization.Admin, account.Manage, allSites),
	organizationv1connect.OrganizationServiceLeaveOrganizationProcedure: members(organization.Viewer, account.Manage, asReached).themselves(),
	organizationv1connect.OrganizationServiceTransferOwnershipProcedure: members(organization.Owner, account.Manage, allSites).justProved().seldom().themselves(),

	organizationv1connect.OrganizationServiceCreateInvitationProcedure: members(organization.Admin, account.Manage, allSites).justProved().themselves().showsSecret(),
	organizationv1connect.OrganizationServiceListInvitationsProcedure:  members(organization.Admin, account.Read, allSites),
	organizationv1connect.OrganizationServiceRevokeInvitationProcedure: members(organization.Admin, account.Manage, allSites),
	organizationv1connect.OrganizationServiceGetInvitationProcedure:    everybody(), // its token is the proof
	organizationv1connect.OrganizationServiceAcceptInvitationProcedure: person(account.Manage),

	tokenv1connect.TokenServiceCreateTokenProcedure:             person(account.Manage).justProved().seldom().showsSecret(),
	tokenv1connect.TokenServiceListTokensProcedure:              person(account.Read),
	tokenv1connect.TokenServiceRevokeTokenProcedure:             person(account.Manage),
	tokenv1connect.TokenServiceCreateOrganizationTokenProcedure: members(organization.Admin, account.Manage, allSites).justProved().seldom().themselves().showsSecret(),
	tokenv1connect.TokenServiceListOrganizationTokensProcedure:  members(organization.Admin, account.Read, allSites),
	tokenv1connect.TokenServiceRevokeOrganizationTokenProcedure: members(organization.Admin, account.Manage, allSites),
	tokenv1connect.TokenServiceStartImpersonationProcedure:      operators(account.Manage).justProved().seldom().showsSecret(),
	tokenv1connect.TokenServiceEndImpersonationProcedure:        operators(account.Manage),

	fleetv1connect.ServerServiceCreateServerProcedure:    operators(account.Manage).showsSecret(),
	fleetv1connect.ServerServiceCreateJoinTokenProcedure: operators(account.Manage).showsSecret(),
	fleetv1connect.ServerServiceGetServerProcedure:       operators(account.Read),
	fleetv1connect.ServerServiceListServersProcedure:     operators(account.Read),
	fleetv1connect.ServerServiceListServerSitesProcedure: operators(account.Read),
	fleetv1connect.ServerServiceListServerTasksProcedure: operators(account.Read),
	fleetv1connect.ServerServiceDrainServerProcedure:     operators(account.Manage),
	fleetv1connect.ServerServiceUndrainServerProcedure:   operators(account.Manage),
	fleetv1connect.ServerServiceReadmitServerProcedure:   operators(account.Manage).justProved().seldom(),
	fleetv1connect.ServerServiceRemoveServerProcedure:    operators(account.Manage).justProved().seldom(),
	fleetv1connect.ServerServicePrepareServerProcedure:   operators(account.Manage),
	fleetv1connect.ServerServicePingServerProcedure:      operators(account.Deploy),

	sitev1connect.SiteServiceCreateSiteProcedure:      members(organization.Member, account.Deploy, allSites),
	sitev1connect.SiteServiceGetSiteProcedure:         members(organization.Viewer, account.Read, ofSite),
	sitev1connect.SiteServiceListSitesProcedure:       members(organization.Viewer, account.Read, asReached),
	sitev1connect.SiteServiceUpdateSiteProcedure:      members(organization.Member, account.Deploy, ofSite),
	sitev1connect.SiteServiceSuspendSiteProcedure:     members(organization.Member, account.Deploy, ofSite),
	sitev1connect.SiteServiceResumeSiteProcedure:      members(organization.Member, account.Deploy, ofSite),
	sitev1connect.SiteServiceDeleteSiteProcedure:      members(organization.Admin, account.Manage, ofSite).justProved().seldom(),
	sitev1connect.SiteServiceRestoreSiteProcedure:     members(organization.Admin, account.Manage, ofSite),
	sitev1connect.SiteServiceCheckSiteProcedure:       members(organization.Member, account.Deploy, ofSite),                                    // an organization checks one site at a time
	sitev1connect.SiteServiceCreateSiteLoginProcedure: members(organization.Admin, account.Manage, ofSite).justProved().seldom().showsSecret(), // makes its bearer the site's administrator

	sitev1connect.SiteServiceWatchLogsProcedure:      members(organization.Member, account.Read, ofSite), // addresses of visitors
	sitev1connect.SiteServiceListSiteEventsProcedure: members(organization.Viewer, account.Read, ofSite),

	metricv1connect.MetricServiceQueryProcedure:      members(organization.Viewer, account.Read, asReached),
	metricv1connect.MetricServiceQueryRangeProcedure: members(organization.Viewer, account.Read, asReached),
	metricv1connect.MetricServiceSparklinesProcedure: members(organization.Viewer, account.Read, asReached),

	backupv1connect.BackupServiceCreateBackupProcedure:   members(organization.Member, account.Deploy, ofSite), // a site has one under way at a time
	backupv1connect.BackupServiceGetBackupProcedure:      members(organization.Viewer, account.Read, ofSite),
	backupv1connect.BackupServiceListBackupsProcedure:    members(organization.Viewer, account.Read, ofSite),
	backupv1connect.BackupServiceRestoreBackupProcedure:  members(organization.Admin, account.Manage, ofSite).justProved().seldom(), // replaces what the site is
	backupv1connect.BackupServiceBrowseBackupProcedure:   members(organization.Member, account.Deploy, ofSite),
	backupv1connect.BackupServiceDownloadBackupProcedure: members(organization.Admin, account.Manage, ofSite), // all that a site has, its passwords among it
	backupv1connect.BackupServiceListRestoresProcedure:   members(organization.Viewer, account.Read, ofSite),
	backupv1connect.BackupServiceCopyBackupProcedure:     members(organization.Admin, account.Manage, ofSite).justProved().seldom(), // all that a site has, to where a restore may follow; its handler asks for the other site
	backupv1connect.BackupServiceCancelBackupProcedure:   members(organization.Admin, account.Manage, ofSite),
	backupv1connect.BackupServiceUndoRestoreProcedure:    members(organization.Admin, account.Manage, ofSite).seldom(), // whoever just restored the wrong one must not look for a second factor

	backupv1connect.BackupServiceGetBackupStatusProcedure:    members(organization.Viewer, account.Read, ofSite),
	backupv1connect.BackupServiceListBackupStatusesProcedure: members(organization.Viewer, account.Read, asReached),
	backupv1connect.BackupServiceDrillBackupProcedure:        members(organization.Member, account.Deploy, ofSite), // a site has one under way at a time
	backupv1connect.BackupServiceListDrillsProcedure:         members(organization.Viewer, account.Read, ofSite),

	backupv1connect.BackupServiceExportBackupProcedure: members(organization.Admin, account.Manage, ofSite), // as DownloadBackup
	backupv1connect.ImportServiceCreateImportProcedure: members(organization.Admin, account.Manage, ofSite), // fills a disk of the platform's
	backupv1connect.ImportServiceGetImportProcedure:    members(organization.Admin, account.Read, ofSite),
	backupv1connect.ImportServiceUploadImportProcedure: members(organization.Admin, account.Manage, ofSite),
	backupv1connect.ImportServiceBeginImportProcedure:  members(organization.Admin, account.Manage, ofSite),

	backupv1connect.PolicyServiceCreatePolicyProcedure: members(organization.Admin, account.Manage, allSites),
	backupv1connect.PolicyServiceListPoliciesProcedure: members(organization.Viewer, account.Read, allSites),
	backupv1connect.PolicyServiceUpdatePolicyProcedure: members(organization.Admin, account.Manage, allSites),
	backupv1connect.PolicyServiceDeletePolicyProcedure: members(organization.Admin, account.Manage, allSites),

	backupv1connect.TargetServiceCreateTargetProcedure: members(organization.Admin, account.Manage, allSites).justProved().seldom().showsSecret(), // its request holds a secret
	backupv1connect.TargetServiceGetTargetProcedure:    members(organization.Viewer, account.Read, allSites),
	backupv1connect.TargetServiceListTargetsProcedure:  members(organization.Viewer, account.Read, allSites),
	backupv1connect.TargetServiceUpdateTargetProcedure: members(organization.Admin, account.Manage, allSites).justProved().seldom().showsSecret(), // the same
	backupv1connect.TargetServiceDeleteTargetProcedure: members(organization.Admin, account.Manage, allSites),
	backupv1connect.TargetServiceCheckTargetProcedure:  members(organization.Admin, account.Manage, allSites).seldom(), // it calls somebody else

	taskv1connect.TaskServiceGetTaskProcedure:    members(organization.Viewer, account.Read, asReached),
	taskv1connect.TaskServiceListTasksProcedure:  members(organization.Viewer, account.Read, asReached),
	taskv1connect.TaskServiceCancelTaskProcedure: members(organization.Member, account.Deploy, asReached),
	taskv1connect.TaskServiceWatchTaskProcedure:  members(organization.Viewer, account.Read, asReached),

	domainv1connect.ClaimServiceCreateClaimProcedure:  members(organization.Admin, account.Manage, allSites),
	domainv1connect.ClaimServiceAttestClaimProcedure:  operators(account.Manage), // an operator's word in the place of a proof
	domainv1connect.ClaimServiceGetClaimProcedure:     members(organization.Viewer, account.Read, allSites),
	domainv1connect.ClaimServiceListClaimsProcedure:   members(organization.Viewer, account.Read, allSites),
	domainv1connect.ClaimServiceCheckClaimProcedure:   members(organization.Member, account.Deploy, allSites),
	domainv1connect.ClaimServiceReleaseClaimProcedure: members(organization.Admin, account.Manage, allSites),

	certificatev1connect.CertificateServiceListCertificatesProcedure:          members(organization.Viewer, account.Read, asReached),
	certificatev1connect.CertificateServiceUploadCertificateProcedure:         members(organization.Admin, account.Manage, ofSite).justProved().seldom(), // what visitors trust
	certificatev1connect.CertificateServiceListUploadedCertificatesProcedure:  members(organization.Viewer, account.Read, ofSite),
	certificatev1connect.CertificateServiceDeleteUploadedCertificateProcedure: members(organization.Admin, account.Manage, ofSite),
	domainv1connect.DnsProviderServiceCreateDnsProviderProcedure:              members(organization.Admin, account.Manage, allSites).justProved().showsSecret(), // its request holds a secret
	domainv1connect.DnsProviderServiceGetDnsProviderProcedure:                 members(organization.Viewer, account.Read, allSites),
	domainv1connect.DnsProviderServiceListDnsProvidersProcedure:               members(organization.Viewer, account.Read, allSites),
	domainv1connect.DnsProviderServiceListManagedRecordsProcedure:             members(organization.Viewer, account.Read, allSites),
	domainv1connect.DnsProviderServiceDeleteDnsProviderProcedure:              members(organization.Admin, account.Manage, allSites).justProved(), // sites' records are nobody's any more

	// A URL may hold a secret between an organization and its receiver, so that not all members see it.
	webhookv1connect.WebhookServiceCreateWebhookProcedure:       members(organization.Admin, account.Manage, allSites).justProved().showsSecret(), // shows a secret
	webhookv1connect.WebhookServiceGetWebhookProcedure:          members(organization.Admin, account.Read, allSites),
	webhookv1connect.WebhookServiceListWebhooksProcedure:        members(organization.Admin, account.Read, allSites),
	webhookv1connect.WebhookServiceUpdateWebhookProcedure:       members(organization.Admin, account.Manage, allSites),
	webhookv1connect.WebhookServiceDeleteWebhookProcedure:       members(organization.Admin, account.Manage, allSites),
	webhookv1connect.WebhookServiceRotateWebhookSecretProcedure: members(organization.Admin, account.Manage, allSites).justProved().seldom().showsSecret(), // shows a secret
	webhookv1connect.WebhookServiceTestWebhookProcedure:         members(organization.Admin, account.Manage, allSites),
	webhookv1connect.WebhookServiceListDeliveriesProcedure:      members(organization.Admin, account.Read, allSites),
	webhookv1connect.WebhookServiceGetDeliveryProcedure:         members(organization.Admin, account.Read, allSites),
	webhookv1connect.WebhookServiceReplayDeliveryProcedure:      members(organization.Admin, account.Manage, allSites),

	mailv1connect.MailServiceGetMailQueueProcedure: operators(account.Read),
	mailv1connect.MailServiceListMailsProcedure:    operators(account.Read),
	mailv1connect.MailServiceGetMailProcedure:      operators(account.Read),
	mailv1connect.MailServiceRetryMailProcedure:    operators(account.Manage),
	mailv1connect.MailServiceTestMailProcedure:     operators(account.Manage).seldom(),
}

// files hold the services behind the people's door.
var files = []protoreflect.FileDescriptor{
	accountv1.File_chom_account_v1_account_service_proto,
	auditv1.File_chom_audit_v1_audit_service_proto,
	accountv1.File_chom_account_v1_session_service_proto,
	accountv1.File_chom_account_v1_second_factor_service_proto,
	accountv1.File_chom_account_v1_device_login_service_proto,
	organizationv1.File_chom_organization_v1_organization_service_proto,
	fleetv1.File_chom_fleet_v1_server_service_proto,
	domainv1.File_chom_domain_v1_claim_service_proto,
	backupv1.File_chom_backup_v1_backup_service_proto,
	backupv1.File_chom_backup_v1_import_service_proto,
	backupv1.File_chom_backup_v1_policy_service_proto,
	backupv1.File_chom_backup_v1_target_service_proto,
	certificatev1.File_chom_certificate_v1_certificate_service_proto,
	domainv1.File_chom_domain_v1_provider_service_proto,
	sitev1.File_chom_site_v1_site_service_proto,
	metricv1.File_chom_metric_v1_metric_service_proto,
	taskv1.File_chom_task_v1_task_service_proto,
	tokenv1.File_chom_token_v1_token_service_proto,
	webhookv1.File_chom_webhook_v1_webhook_service_proto,
	mailv1.File_chom_mail_v1_mail_service_proto,
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

// siteField names the site in a request that is about one.
const siteField protoreflect.Name = "site_id"

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
			if rule.sites == ofSite && method.Input().Fields().ByName(siteField) == nil {
				wrong = append(wrong, procedure+" is about a site, but its request has no "+string(siteField))
			}
		}
		if ok && rule.who != anybody && rule.scope == account.NoScope {
			wrong = append(wrong, procedure+" asks tokens for no scope")
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
func decideCaller(rule rule, caller *account.Caller, now time.Time) error {
	switch {
	case rule.who == nobody:
		return fault.Denied("nobody may do this")
	case rule.who == anybody:
		return nil
	case caller == nil:
		return fault.Unauthenticated(`sign in, or send a token as "Authorization: Bearer <token>"`)
	case rule.who == operator && !caller.Operator:
		return fault.Denied("only operators may do this")
	case (rule.who == signedIn || rule.inPerson) && caller.ID == "":
		return fault.Denied("an organization's token may not do this: it is for people")
	case rule.who != inOrganization && !rule.bounded && (caller.Organization != "" || caller.Sites != nil):
		return fault.Denied("this token is bound to one organization or to some sites")
	case caller.Scope < rule.scope:
		return fault.Denied(fmt.Sprintf("this needs a token with the scope %s; yours has %s", rule.scope, caller.Scope))
	case rule.session && caller.Session == "":
		return errNoSession
	case caller.Impersonator != "" && (rule.fresh || rule.inPerson):
		return errActing
	case rule.fresh && !caller.Fresh(now):
		return errStale
	}
	return nil
}

// errNoSession is what a token hears where it will not do.
var errNoSession = fault.Denied("only a person who is signed in with a browser may do this: a token will not do")

// errActing keeps an operator who acts for a member from what only the person can do, and from what destroys, shows secrets or
// hands out rights.
var errActing = fault.Denied("an operator who acts for somebody else may not do this")

// errStale asks a session for a new proof.
var errStale = fault.Stale("confirm that it is you: prove your second factor or your password again, then repeat this")

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

// siteOf is the site that a request names; empty where it names none.
func siteOf(request proto.Message) string {
	message := request.ProtoReflect()
	field := message.Descriptor().Fields().ByName(siteField)
	if field == nil {
		return ""
	}
	return message.Get(field).String()
}

// decideMember is the rest of the decision, once the request is known. A stranger gets the same answer for an organization
// of others as for one that does not exist; so does a member who asks for the platform, or for a site that he is not granted.
func decideMember(rule rule, caller *account.Caller, id string, platform bool, member organization.Membership, site string) error {
	has := roleIn(caller, id, member)
	switch {
	case caller.Organization != "" && caller.Organization != id:
		return organization.ErrNotFound
	case caller.Operator:
		return decideSite(rule, caller, organization.Membership{}, site)
	case platform || has == "":
		return organization.ErrNotFound
	case member.NeedsSecondFactor && !caller.SecondFactor:
		return fault.Denied("this organization asks for a second factor: add one to your account, then sign in with it")
	case !has.AtLeast(rule.role):
		return fault.Denied(fmt.Sprintf("this needs the role %s in the organization; yours is %s", rule.role, has))
	}
	return decideSite(rule, caller, member, site)
}

// roleIn is what a caller who is no operator has in an organization: as a member, or as a token of its own.
func roleIn(caller *account.Caller, id string, member organization.Membership) organization.Role {
	if caller.Role != "" && caller.Organization == id {
		return organization.Role(caller.Role)
	}
	return member.Role
}

// reach is where both bounds meet: that of the proof and that of the member.
func reach(caller *account.Caller, member organization.Membership) []string {
	switch {
	case caller.Sites == nil:
		return member.Sites
	case member.Sites == nil:
		return caller.Sites
	}
	both := []string{}
	for _, site := range caller.Sites {
		if member.Reaches(site) {
			both = append(both, site)
		}
	}
	return both
}

// errNoSite is what a site that the caller does not reach looks like: like none.
var errNoSite = fault.NotFound("site")

func decideSite(rule rule, caller *account.Caller, member organization.Membership, site string) error {
	bound := caller.Sites != nil || member.Sites != nil
	switch {
	case !bound || rule.sites == asReached:
		return nil
	case rule.sites == ofSite && caller.Reaches(site) && member.Reaches(site):
		return nil
	case rule.sites == ofSite:
		return errNoSite
	}
	return fault.Denied("this is about the whole organization; you are bound to some of its sites")
}
