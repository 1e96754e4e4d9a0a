import { Group, List, Text } from "@mantine/core";
import { useNavigate, useParams } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";
import { useTranslation } from "react-i18next";
import { State } from "../gen/chom/fleet/v1/server_pb.js";
import { type JoinToken, ServerService } from "../gen/chom/fleet/v1/server_service_pb.js";
import { serverGraphs } from "../metric/graphs.js";
import { Act, Confirmed } from "../ui/Act.js";
import { bytes } from "../ui/format.js";
import { Card, Facts, Failure, Link, Notice, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { Arrival } from "./AddServer.js";
import { platform, useServer } from "./queries.js";
import { ServerSites } from "./ServerSites.js";
import { ServerState } from "./ServerState.js";
import { Disk } from "./Servers.js";
import { ServerTasks } from "./ServerTasks.js";

const Graphs = lazy(() => import("../metric/Graphs.js").then(({ Graphs }) => ({ default: Graphs })));

/** One server. */
export function ServerPage() {
	const { t, i18n } = useTranslation();
	const { server: serverId } = useParams({ from: "/frame/servers/$server" });
	const navigate = useNavigate();
	const { data, error, isPending, refetch } = useServer(serverId);
	const [token, setToken] = useState<JoinToken>();
	const above = <Link to="/servers">{t("servers.title")}</Link>;
	const server = data?.server;
	if (!server) {
		return (
			<Page title={t("server.title")} above={above}>
				{isPending ? <Waiting /> : <Failure error={error} retry={() => void refetch()} />}
			</Page>
		);
	}
	const request = { serverId };
	const facts = server.facts;
	return (
		<Page
			title={server.name}
			above={above}
			aside={
				<>
					{server.state === State.DRAINING && (
						<Act method={ServerService.method.undrainServer} request={request}>
							{t("server.undrain")}
						</Act>
					)}
					{server.state === State.ACTIVE && (
						<>
							<Act
								method={ServerService.method.pingServer}
								request={{ serverId, steps: 3 }}
								onDone={({ task }) => task && void navigate({ to: "/o/$organization/tasks/$task", params: { organization: platform, task: task.id } })}
							>
								{t("server.ping")}
							</Act>
							<Confirmed
								method={ServerService.method.drainServer}
								request={request}
								title={t("server.drainTitle", { name: server.name })}
								explain={t("server.drainText")}
								confirm={t("server.drain")}
							>
								{t("server.drain")}
							</Confirmed>
						</>
					)}
					{server.state === State.QUARANTINED && (
						<Confirmed
							method={ServerService.method.readmitServer}
							request={request}
							title={t("server.readmitTitle", { name: server.name })}
							explain={t("server.readmitText")}
							confirm={t("server.readmit")}
						>
							{t("server.readmit")}
						</Confirmed>
					)}
				</>
			}
		>
			<Group gap="lg">
				<ServerState of={server} />
				<Text size="sm" c="dimmed">
					{t("server.seen")} <Time of={server.lastSeenTime} none={t("servers.never")} />
				</Text>
			</Group>
			{server.problem && (
				<Notice tone="warn" title={t("server.problem")}>
					{sentence(server.problem)}
				</Notice>
			)}
			{(facts?.findings.length ?? 0) > 0 && (
				<Notice tone="warn" title={t("server.findings")}>
					<List size="sm">
						{facts?.findings.map((finding) => (
							<List.Item key={finding}>{sentence(finding)}</List.Item>
						))}
					</List>
				</Notice>
			)}
			{server.state === State.PENDING &&
				(token ? (
					<Arrival id={server.id} token={token} />
				) : (
					<Card title={t("server.pendingTitle")}>
						<Text size="sm" mb="sm">
							{t("server.pendingText")}
						</Text>
						<Act method={ServerService.method.createJoinToken} request={request} onDone={({ joinToken }) => setToken(joinToken)} variant="filled">
							{t("addServer.another")}
						</Act>
					</Card>
				))}
			{server.state !== State.PENDING && (
				<Suspense fallback={<Waiting rows={2} height={260} />}>
					<Graphs organization={platform} of={server.id} graphs={serverGraphs} first={t("metric.first.server")} />
				</Suspense>
			)}
			{facts && server.state !== State.PENDING && (
				<Card title={t("server.host")}>
					<Facts
						of={[
							[t("server.hostname"), facts.hostname || "–"],
							[t("server.os"), facts.os || "–"],
							[t("server.cpus"), `${facts.cpuCount} · ${facts.arch}`],
							[t("server.memory"), bytes(facts.memoryBytes, i18n.language)],
							[t("servers.column.disk"), <Disk key="disk" facts={facts} />],
							[t("server.agent"), facts.agentVersion || "–"],
							[t("server.services"), facts.prepared ? t("server.answering") : t("server.notAnswering")],
							facts.phpVersion !== "" && ["PHP", facts.phpVersion],
							facts.nginxVersion !== "" && ["nginx", facts.nginxVersion],
							facts.mariadbVersion !== "" && ["MariaDB", facts.mariadbVersion],
							[t("servers.column.sites"), server.siteCount],
							[t("server.addresses"), facts.addresses.join(", ") || "–"],
							[t("server.certificate"), <Time key="certificate" of={server.certificateExpireTime} />],
						]}
					/>
				</Card>
			)}
			{server.state !== State.PENDING && <ServerSites server={server.id} />}
			<ServerTasks server={server.id} />
			{server.state !== State.REMOVED && (
				<Card title={t("danger.title")} tone="danger">
					<Text size="sm" mb="sm">
						{t("server.removeText")}
					</Text>
					<Confirmed
						method={ServerService.method.removeServer}
						request={request}
						onDone={() => void navigate({ to: "/servers" })}
						title={t("server.removeTitle", { name: server.name })}
						explain={t("server.removeText")}
						typed={server.name}
						confirm={t("server.remove")}
						color="red"
						variant="outline"
					>
						{t("server.remove")}
					</Confirmed>
				</Card>
			)}
		</Page>
	);
}
