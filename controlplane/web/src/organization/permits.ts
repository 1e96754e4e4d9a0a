// What a role may do, so that pages do not offer the rest. It repeats the control plane's table, which alone decides; a test compares.
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import type { Rights } from "./rights.js";

/** Calls about an organization that not every viewer may make, by the least role that they need. */
export const byRole = {
	[Role.MEMBER]: "WatchLogs CreateSite UpdateSite SuspendSite ResumeSite CheckSite CreateBackup BrowseBackup DrillBackup CancelTask CheckClaim",
	[Role.ADMIN]:
		"UpdateMember RemoveMember CreateInvitation RevokeInvitation CreateOrganizationToken RevokeOrganizationToken DeleteSite RestoreSite " +
		"CreateSiteLogin RestoreBackup DownloadBackup CopyBackup CancelBackup UndoRestore ExportBackup CreateImport UploadImport BeginImport " +
		"CreatePolicy UpdatePolicy DeletePolicy CreateTarget UpdateTarget DeleteTarget CheckTarget CreateClaim ReleaseClaim UploadCertificate " +
		"DeleteUploadedCertificate CreateDnsProvider DeleteDnsProvider CreateWebhook UpdateWebhook DeleteWebhook RotateWebhookSecret TestWebhook " +
		"ReplayDelivery ExportAuditEvents ListAuditEvents GetImport ListInvitations ListOrganizationTokens GetDelivery GetWebhook ListDeliveries ListWebhooks",
	[Role.OWNER]: "UpdateOrganization CloseOrganization ReopenOrganization TransferOwnership",
} as const;

/** Calls that an operator who acts for somebody may not make. */
export const inPerson =
	"CloseOrganization UpdateMember LeaveOrganization TransferOwnership CreateInvitation CreateOrganizationToken DeleteSite CreateSiteLogin " +
	"RestoreBackup CopyBackup CreateTarget UpdateTarget UploadCertificate CreateDnsProvider DeleteDnsProvider CreateWebhook RotateWebhookSecret";

/** Calls about the whole organization: who is bound to some of its sites may not make them. */
export const whole =
	"ListAuditEvents ExportAuditEvents UpdateOrganization CloseOrganization ReopenOrganization ListMembers UpdateMember RemoveMember " +
	"TransferOwnership CreateInvitation ListInvitations RevokeInvitation CreateOrganizationToken ListOrganizationTokens " +
	"RevokeOrganizationToken CreateSite CreatePolicy ListPolicies UpdatePolicy DeletePolicy CreateTarget GetTarget ListTargets UpdateTarget " +
	"DeleteTarget CheckTarget CreateClaim GetClaim ListClaims CheckClaim ReleaseClaim CreateDnsProvider GetDnsProvider ListDnsProviders " +
	"ListManagedRecords DeleteDnsProvider CreateWebhook GetWebhook ListWebhooks UpdateWebhook DeleteWebhook RotateWebhookSecret TestWebhook " +
	"ListDeliveries GetDelivery ReplayDelivery";

const holds = (calls: string, call: string) => calls.split(" ").includes(call);

/** Whether somebody may make a call. What the table does not know is not about roles. */
export function permits(rights: Pick<Rights, "role" | "bound" | "inPerson">, call: string): boolean {
	if (rights.bound && holds(whole, call)) return false;
	if (!rights.inPerson && holds(inPerson, call)) return false;
	const least = ([Role.MEMBER, Role.ADMIN, Role.OWNER] as const).find((role) => holds(byRole[role], call));
	return least === undefined || rights.role >= least;
}
