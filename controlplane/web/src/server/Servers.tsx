import { Progress, Table, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Facts } from "../gen/chom/fleet/v1/server_pb.js";
import { bytes } from "../ui/format.js";
import { Empty, Failure, Link, LinkButton, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { useServers } from "./queries.js";
import { ServerState } from "./ServerState.js";

/** The fleet. */
export function Servers() {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useServers();
	const servers = data?.servers ?? [];
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
				<Table.ScrollContainer minWidth={640}>
					<Table highlightOnHover verticalSpacing="sm" withTableBorder bg="var(--chom-raised)">
						<Table.Thead>
							<Table.Tr>
								<Table.Th>{t("servers.column.name")}</Table.Th>
								<Table.Th>{t("servers.column.state")}</Table.Th>
								<Table.Th>{t("servers.column.sites")}</Table.Th>
								<Table.Th>{t("servers.column.disk")}</Table.Th>
								<Table.Th>{t("servers.column.seen")}</Table.Th>
							</Table.Tr>
						</Table.Thead>
						<Table.Tbody>
							{servers.map((server) => (
								<Table.Tr key={server.id}>
									<Table.Td>
										<Text fw={600}>
											<Link to="/servers/$server" params={{ server: server.id }}>
												{server.name}
											</Link>
										</Text>
										<Text size="sm" c="dimmed">
											{server.facts?.hostname}
										</Text>
									</Table.Td>
									<Table.Td>
										<ServerState of={server} />
									</Table.Td>
									<Table.Td>{server.siteCount}</Table.Td>
									<Table.Td>
										<Disk facts={server.facts} />
									</Table.Td>
									<Table.Td>
										<Time of={server.lastSeenTime} none={t("servers.never")} />
									</Table.Td>
								</Table.Tr>
							))}
						</Table.Tbody>
					</Table>
				</Table.ScrollContainer>
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
