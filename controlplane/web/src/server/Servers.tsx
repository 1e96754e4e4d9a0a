import { Progress, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Facts } from "../gen/chom/fleet/v1/server_pb.js";
import { Feed, SparkOf } from "../metric/Sparks.js";
import { bytes } from "../ui/format.js";
import { Empty, Failure, Link, LinkButton, Page, Waiting } from "../ui/parts.js";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";
import { platform, useServers } from "./queries.js";
import { ServerState } from "./ServerState.js";

/** The fleet. */
export function Servers() {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useServers();
	const servers = data?.servers ?? [];
	const ids = servers.map(({ id }) => id).join(" ");
	const add = <LinkButton to="/servers/new">{t("servers.add")}</LinkButton>;
	return (
		<Page title={t("servers.title")} aside={servers.length > 0 && add}>
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{isPending && <Waiting />}
			{data && servers.length === 0 && (
				<Empty title={t("servers.none.title")} action={add}>
					{t("servers.none.text")}
				</Empty>
			)}
			{servers.length > 0 && (
				<>
					<Feed organization={platform} kind="cpu" ids={ids} />
					<Feed organization={platform} kind="memory" ids={ids} />
					<Sheet
						label={t("servers.title")}
						of={servers}
						keyOf={({ id }) => id}
						columns={[
							{
								title: t("servers.column.name"),
								cell: (server) => (
									<>
										<Text fw={600}>
											<Link to="/servers/$server" params={{ server: server.id }}>
												{server.name}
											</Link>
										</Text>
										<Text size="sm" c="dimmed">
											{server.facts?.hostname}
										</Text>
									</>
								),
							},
							{ title: t("servers.column.state"), cell: (server) => <ServerState of={server} /> },
							{ title: t("servers.column.cpu"), cell: ({ id }) => <SparkOf kind="cpu" id={id} /> },
							{ title: t("servers.column.memory"), cell: ({ id }) => <SparkOf kind="memory" id={id} /> },
							{ title: t("servers.column.disk"), cell: ({ facts }) => <Disk facts={facts} /> },
							{ title: t("servers.column.sites"), cell: ({ siteCount }) => siteCount },
							{ title: t("servers.column.seen"), cell: ({ lastSeenTime }) => <Time of={lastSeenTime} none={t("servers.never")} /> },
						]}
					/>
				</>
			)}
		</Page>
	);
}

/** How full the disk of the sites is. */
export function Disk({ facts }: { facts: Facts | undefined }) {
	const { t, i18n } = useTranslation();
	if (!facts || facts.diskBytes === 0n) return "–";
	const used = Number(((facts.diskBytes - facts.diskFreeBytes) * 100n) / facts.diskBytes);
	return (
		<div>
			<Progress value={used} color={used > 90 ? "red" : used > 75 ? "orange" : "cyan"} aria-label={t("servers.column.disk")} size="sm" mb={4} w={140} />
			<Text size="sm" c="dimmed">
				{t("servers.free", { free: bytes(facts.diskFreeBytes, i18n.language), all: bytes(facts.diskBytes, i18n.language) })}
			</Text>
		</div>
	);
}
