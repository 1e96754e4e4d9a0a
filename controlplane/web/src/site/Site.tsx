import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Anchor, Group, Stack, Tabs, Text } from "@mantine/core";
import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useContext } from "react";
import { useTranslation } from "react-i18next";
import { type Site, State } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { tabs } from "../router.js";
import { TaskTable } from "../task/TaskTable.js";
import { TaskWatch } from "../task/TaskWatch.js";
import { Act, Confirmed, Permit, Permitted } from "../ui/Act.js";
import { bytes } from "../ui/format.js";
import { Card, Facts, Failure, Link, Notice, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { AdminLogin } from "./AdminLogin.js";
import { Names, NextStep } from "./Names.js";
import { useSite } from "./queries.js";
import { Settings } from "./Settings.js";
import { SiteState } from "./SiteState.js";
import { type Size, useSize } from "./size.js";
import { Timeline } from "./Timeline.js";

const SiteGraphs = lazy(() => import("./SiteGraphs.js").then(({ SiteGraphs }) => ({ default: SiteGraphs })));
const Backups = lazy(() => import("../backup/Backups.js").then(({ Backups }) => ({ default: Backups })));
const Logs = lazy(() => import("./Logs.js").then(({ Logs }) => ({ default: Logs })));

/** One site: what was measured of it, and all that can be done with it. */
export function SitePage() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const { site: siteId } = useParams({ from: "/frame/o/$organization/sites/$site" });
	const { tab = "state" } = useSearch({ from: "/frame/o/$organization/sites/$site" });
	const navigate = useNavigate({ from: "/o/$organization/sites/$site" });
	const { data, error, isPending, refetch } = useSite(organization, siteId);
	const above = (
		<Link to="/o/$organization/sites" params={{ organization }}>
			{t("sites.title")}
		</Link>
	);
	const permit = useContext(Permit);
	const needs: { [tab: string]: Parameters<typeof permit>[0] } = { settings: SiteService.method.updateSite, logs: SiteService.method.watchLogs };
	const offered = (name: string) => needs[name] === undefined || permit(needs[name]);
	const site = data?.site;
	if (!site) {
		return (
			<Page title={t("site.title")} above={above}>
				{isPending ? <Waiting /> : <Failure error={error} retry={() => void refetch()} />}
			</Page>
		);
	}
	return (
		<Page title={site.name} above={above} aside={<Doing site={site} />}>
			<Group gap="lg">
				<SiteState of={site.state} />
				{site.state === State.ACTIVE && site.url && (
					<Anchor href={site.url} target="_blank" rel="noreferrer noopener">
						{site.url}
					</Anchor>
				)}
			</Group>
			{site.problem && (
				<Notice tone="warn" title={t("site.problem")}>
					{sentence(site.problem)}
				</Notice>
			)}
			<Tabs
				value={tab}
				onChange={(next) =>
					void navigate({ search: next === "state" ? {} : { tab: tabs.find((name) => name === next) ?? "state" }, replace: true, resetScroll: false })
				}
				keepMounted={false}
			>
				<Tabs.List mb="lg">
					{tabs.filter(offered).map((name) => (
						<Tabs.Tab key={name} value={name}>
							{t(`site.tab.${name}`)}
						</Tabs.Tab>
					))}
				</Tabs.List>
				<Tabs.Panel value="state">
					<Measured site={site} />
				</Tabs.Panel>
				<Tabs.Panel value="graphs">
					<Suspense fallback={<Waiting rows={2} height={260} />}>
						<SiteGraphs site={site} />
					</Suspense>
				</Tabs.Panel>
				<Tabs.Panel value="names">
					<Names site={site} />
				</Tabs.Panel>
				<Tabs.Panel value="backups">
					<Suspense fallback={<Waiting />}>
						<Backups site={site} />
					</Suspense>
				</Tabs.Panel>
				<Tabs.Panel value="logs">
					<Suspense fallback={<Waiting />}>
						<Logs site={site} />
					</Suspense>
				</Tabs.Panel>
				<Tabs.Panel value="tasks">
					<TaskTable organization={organization} site={site.id} />
				</Tabs.Panel>
				<Tabs.Panel value="settings">
					<Settings site={site} />
				</Tabs.Panel>
			</Tabs>
		</Page>
	);
}

const busy = (state: State) => state === State.CREATING || state === State.UPDATING || state === State.DELETING;

function Measured({ site }: { site: Site }) {
	const { t } = useTranslation();
	const { size, known } = useSize(site);
	const seen = site.observed;
	return (
		<Stack gap="md">
			{busy(site.state) && site.lastTaskId !== "" && (
				<Card title={t("site.underWay")}>
					<TaskWatch organization={site.organizationId} task={site.lastTaskId} />
				</Card>
			)}
			<NextStep site={site} />
			<Card title={t("site.measured")}>
				{seen ? (
					<Facts
						of={[
							[t("site.answer"), seen.httpStatus === 0 ? t("site.noAnswer") : `HTTP ${seen.httpStatus}`],
							[t("site.pageTitle"), seen.pageTitle || "–"],
							seen.appVersion !== "" && [t("site.version"), seen.appVersion],
							seen.phpVersion !== "" && ["PHP", seen.phpVersion],
							[t("site.seen"), <Time key="seen" of={seen.observeTime} />],
							known && [t("site.disk"), size ? <Disk key="disk" size={size} /> : t("site.diskUnknown")],
						]}
					/>
				) : (
					t("site.unseen")
				)}
			</Card>
			<Card title={t("site.about")}>
				<Facts
					of={[
						[t("site.type"), site.type],
						[t("site.created"), <Time key="created" of={site.createTime} />],
						[t("site.changed"), <Time key="changed" of={site.updateTime} />],
						[t("site.tags"), site.tags.join(", ") || "–"],
						[t("site.user"), <code key="user">{`s-${site.handle}`}</code>],
						[t("site.directory"), <code key="directory">{`/srv/chom/sites/${site.handle}/public`}</code>],
						site.type !== "static" && [t("site.database"), <code key="database">{`s${site.handle}`}</code>],
					]}
				/>
			</Card>
			<Timeline site={site} />
		</Stack>
	);
}

/** What it takes of the disk. */
function Disk({ size: { files, database, at } }: { size: Size }) {
	const { t, i18n } = useTranslation();
	const words = (count: number) => bytes(BigInt(Math.round(count)), i18n.language).replaceAll(" ", "\u00a0");
	const parts = [t("site.diskFiles", { size: words(files) }), database !== undefined && t("site.diskDatabase", { size: words(database) })];
	return (
		<>
			{parts.filter(Boolean).join(" · ")}
			<Text size="sm" c="dimmed">
				{t("site.diskMeasured")} <Time of={timestampFromMs(at * 1000)} />
			</Text>
		</>
	);
}

/** What is done with a site most. */
function Doing({ site }: { site: Site }) {
	const { t } = useTranslation();
	const request = { organizationId: site.organizationId, siteId: site.id };
	if (site.state === State.TRASHED) {
		return (
			<Act method={SiteService.method.restoreSite} request={request} variant="filled">
				{t("site.restore")}
			</Act>
		);
	}
	return (
		<>
			{site.type === "wordpress" && site.state === State.ACTIVE && (
				<Permitted method={SiteService.method.createSiteLogin}>
					<AdminLogin site={site} />
				</Permitted>
			)}
			{site.state === State.SUSPENDED ? (
				<Act method={SiteService.method.resumeSite} request={request}>
					{t("site.resume")}
				</Act>
			) : (
				site.state !== State.DELETING && (
					<Confirmed
						method={SiteService.method.suspendSite}
						request={request}
						title={t("site.suspendTitle", { name: site.name })}
						explain={t("site.suspendText")}
						confirm={t("site.suspend")}
					>
						{t("site.suspend")}
					</Confirmed>
				)
			)}
		</>
	);
}
