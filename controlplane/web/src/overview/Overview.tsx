import { useQuery, useTransport } from "@connectrpc/connect-query";
import { Paper, SimpleGrid, Text } from "@mantine/core";
import { useQuery as useAnyQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { CertificateService } from "../gen/chom/certificate/v1/certificate_service_pb.js";
import { State as SiteState } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { State as TaskState } from "../gen/chom/task/v1/task_pb.js";
import { TaskService } from "../gen/chom/task/v1/task_service_pb.js";
import { useHere, useOrganizationId } from "../organization/here.js";
import { useServers } from "../server/queries.js";
import { trashed } from "../site/filter.js";
import { useSites } from "../site/queries.js";
import { kindKey } from "../task/TaskState.js";
import { Permitted } from "../ui/Act.js";
import { Card, Dot, Empty, Failure, Link, LinkButton, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { attention, type Matter } from "./attention.js";
import classes from "./Overview.module.css";

/** What needs somebody first, what is under way, and how much there is. */
export function Overview() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const here = useHere();
	const { data: caller } = useCaller();
	const operator = caller?.operator ?? false;
	const sites = useSites(organization);
	const servers = useServers({ enabled: operator });
	const certificates = useQuery(CertificateService.method.listCertificates, { organizationId: organization, alarmsOnly: true, pageSize: 100 });
	const transport = useTransport();
	const backups = useAnyQuery({
		queryKey: ["backup needs", organization],
		refetchInterval: 15_000,
		queryFn: async ({ signal }) => (await import("../backup/needs.js")).needs(transport, organization, signal),
	});
	const running = useQuery(TaskService.method.listTasks, {
		organizationId: organization,
		states: [TaskState.QUEUED, TaskState.OFFERED, TaskState.RUNNING, TaskState.UNKNOWN],
		pageSize: 50,
	});
	const error = sites.error ?? servers.error ?? certificates.error ?? backups.error ?? running.error;
	const known = sites.data && certificates.data && backups.data && running.data && (servers.data || !operator);
	if (!known) {
		return (
			<Page title={here?.name ?? t("overview.title")}>
				{error ? <Failure error={error} retry={() => void sites.refetch()} /> : <Waiting rows={4} height={72} />}
			</Page>
		);
	}
	const fleet = servers.data?.servers ?? [];
	const matters = attention({ sites: sites.data, servers: fleet, certificates: certificates.data.certificates, backups: backups.data });
	const serving = sites.data.filter((site) => !trashed(site));
	const nameOf = new Map(sites.data.map(({ id, name }) => [id, name]));
	if (serving.length === 0 && (!operator || fleet.length === 0))
		return <Begin organization={organization} operator={operator} name={here?.name ?? t("overview.title")} />;
	return (
		<Page title={here?.name ?? t("overview.title")}>
			<SimpleGrid cols={{ base: 2, sm: operator ? 4 : 3 }}>
				<Figure label={t("overview.sites")} value={serving.length} />
				<Figure label={t("overview.serving")} value={serving.filter(({ state }) => state === SiteState.ACTIVE || state === SiteState.UPDATING).length} />
				{operator && <Figure label={t("overview.online")} value={`${fleet.filter(({ online }) => online).length} / ${fleet.length}`} />}
				<Figure label={t("overview.tasks")} value={running.data.tasks.length} />
			</SimpleGrid>
			<Card title={t("overview.attention")}>
				{matters.length === 0 ? (
					<Dot tone="good">{t("overview.well")}</Dot>
				) : (
					<ul className={classes.matters}>
						{matters.slice(0, 50).map((matter) => (
							<MatterRow key={keyOf(matter)} matter={matter} organization={organization} />
						))}
					</ul>
				)}
			</Card>
			{running.data.tasks.length > 0 && (
				<Card title={t("overview.running")}>
					<ul className={classes.matters}>
						{running.data.tasks.slice(0, 10).map((task) => (
							<li key={task.id} className={classes.matter}>
								<Dot tone="busy">
									<Link to="/o/$organization/tasks/$task" params={{ organization, task: task.id }}>
										{t(kindKey(task.kind))} {nameOf.get(task.siteId)}
									</Link>
								</Dot>
								<Text size="sm" c="dimmed">
									<Time of={task.createTime} />
								</Text>
							</li>
						))}
					</ul>
				</Card>
			)}
		</Page>
	);
}

function Figure({ label, value }: { label: string; value: ReactNode }) {
	return (
		<Paper withBorder p="md" radius="md">
			<Text size="sm" c="dimmed">
				{label}
			</Text>
			<div className={classes.figure}>{value}</div>
		</Paper>
	);
}

function keyOf(matter: Matter): string {
	if ("server" in matter) return `${matter.what} ${matter.server.id}`;
	if ("certificate" in matter)
		return `${matter.what} ${matter.certificate.siteId} ${matter.certificate.observed?.domain ?? matter.certificate.outside?.domain}`;
	return `${matter.what} ${"siteId" in matter ? matter.siteId : matter.site.id}`;
}

const grave: ReadonlySet<Matter["what"]> = new Set(["siteFailed", "serverOffline", "serverQuarantined", "drillFailed", "backupOverdue", "backupDamaged"]);

function MatterRow({ matter, organization }: { matter: Matter; organization: string }) {
	const { t } = useTranslation();
	const bad = grave.has(matter.what);
	return (
		<li className={classes.matter}>
			<div>
				<Dot tone={bad ? "bad" : "warn"}>
					{"server" in matter ? (
						<Link to="/servers/$server" params={{ server: matter.server.id }}>
							{t(`matter.${matter.what}`, { name: matter.server.name })}
						</Link>
					) : "certificate" in matter ? (
						<Link to="/o/$organization/sites/$site" params={{ organization, site: matter.certificate.siteId }} search={{ tab: "names" } as never}>
							{t("matter.certificate", { name: matter.certificate.observed?.domain ?? matter.certificate.siteName })}
						</Link>
					) : "siteId" in matter ? (
						<Link to="/o/$organization/sites/$site" params={{ organization, site: matter.siteId }} search={{ tab: "backups" } as never}>
							{t(`matter.${matter.what}`, { name: matter.siteName })}
						</Link>
					) : (
						<Link
							to="/o/$organization/sites/$site"
							params={{ organization, site: matter.site.id }}
							search={{ tab: matter.what === "namesPending" ? "names" : "state" } as never}
						>
							{t(`matter.${matter.what}`, { name: matter.site.name })}
						</Link>
					)}
				</Dot>
			</div>
			{"server" in matter && matter.what === "serverOffline" ? (
				<Text size="sm" c="dimmed">
					<Time of={matter.server.lastSeenTime} />
				</Text>
			) : (
				<span />
			)}
			{matter.why && <div className={classes.why}>{matter.what === "namesPending" ? matter.why : sentence(matter.why)}</div>}
		</li>
	);
}

/** The first steps, for whom nothing is there yet. */
function Begin({ organization, operator, name }: { organization: string; operator: boolean; name: string }) {
	const { t } = useTranslation();
	return (
		<Page title={name}>
			{operator ? (
				<Empty title={t("servers.none.title")} action={<LinkButton to="/servers/new">{t("servers.add")}</LinkButton>}>
					{t("servers.none.text")}
				</Empty>
			) : (
				<Empty
					title={t("sites.none.title")}
					action={
						<Permitted method={SiteService.method.createSite}>
							<LinkButton to="/o/$organization/sites/new" params={{ organization }}>
								{t("sites.create")}
							</LinkButton>
						</Permitted>
					}
				>
					{t("sites.none.text")}
				</Empty>
			)}
		</Page>
	);
}
