// The public API of one control plane, with a client for each service.
import { createClient, type Interceptor, type Client as ServiceClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { AccountService } from "./gen/chom/account/v1/account_service_pb.js";
import { DeviceLoginService } from "./gen/chom/account/v1/device_login_service_pb.js";
import { SecondFactorService } from "./gen/chom/account/v1/second_factor_service_pb.js";
import { SessionService } from "./gen/chom/account/v1/session_service_pb.js";
import { AuditService } from "./gen/chom/audit/v1/audit_service_pb.js";
import { BackupService } from "./gen/chom/backup/v1/backup_service_pb.js";
import { ImportService } from "./gen/chom/backup/v1/import_service_pb.js";
import { PolicyService } from "./gen/chom/backup/v1/policy_service_pb.js";
import { TargetService } from "./gen/chom/backup/v1/target_service_pb.js";
import { CertificateService } from "./gen/chom/certificate/v1/certificate_service_pb.js";
import { ClaimService } from "./gen/chom/domain/v1/claim_service_pb.js";
import { DnsProviderService } from "./gen/chom/domain/v1/provider_service_pb.js";
import { ServerService } from "./gen/chom/fleet/v1/server_service_pb.js";
import { MailService } from "./gen/chom/mail/v1/mail_service_pb.js";
import { MetricService } from "./gen/chom/metric/v1/metric_service_pb.js";
import { OrganizationService } from "./gen/chom/organization/v1/organization_service_pb.js";
import { SiteService } from "./gen/chom/site/v1/site_service_pb.js";
import { TaskService } from "./gen/chom/task/v1/task_service_pb.js";
import { TokenService } from "./gen/chom/token/v1/token_service_pb.js";
import { WebhookService } from "./gen/chom/webhook/v1/webhook_service_pb.js";

const services = {
	accounts: AccountService,
	sessions: SessionService,
	secondFactors: SecondFactorService,
	deviceLogins: DeviceLoginService,
	organizations: OrganizationService,
	tokens: TokenService,
	audit: AuditService,
	webhooks: WebhookService,
	claims: ClaimService,
	certificates: CertificateService,
	backups: BackupService,
	backupPolicies: PolicyService,
	backupTargets: TargetService,
	imports: ImportService,
	metrics: MetricService,
	dnsProviders: DnsProviderService,
	mails: MailService,
	servers: ServerService,
	sites: SiteService,
	tasks: TaskService,
} as const;

export type Client = { readonly [Name in keyof typeof services]: ServiceClient<(typeof services)[Name]> };

export interface Options {
	/** URL of the control plane; that of the page when left out. */
	baseUrl?: string;
	/** API token. A page of the control plane itself needs none: its session is in a cookie. */
	token?: string;
	/** Replaces the environment's fetch. */
	fetch?: typeof globalThis.fetch;
}

/** Makes a client. Calls reject with a ConnectError; its code says how they failed. */
export function connect({ baseUrl, token, fetch }: Options = {}): Client {
	const interceptors: Interceptor[] = [];
	if (token !== undefined) {
		interceptors.push((next) => (request) => {
			request.header.set("Authorization", `Bearer ${token}`);
			return next(request);
		});
	}
	const transport = createConnectTransport({
		baseUrl: baseUrl ?? globalThis.location.origin,
		interceptors,
		...(fetch !== undefined && { fetch }),
	});
	const clients = Object.entries(services).map(([name, service]) => [name, createClient(service, transport)]);
	return Object.fromEntries(clients) as Client;
}
