import { Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { State, Tenancy } from "../gen/chom/fleet/v1/server_pb.js";
import { ServerService } from "../gen/chom/fleet/v1/server_service_pb.js";
import { useServers } from "../server/queries.js";
import { ServerState } from "../server/ServerState.js";
import { Disk } from "../server/Servers.js";
import { Act, Confirmed } from "../ui/Act.js";
import { Item, List, Mark, Words } from "../ui/List.js";
import { Empty, Failure, Link, LinkButton, Page, Waiting } from "../ui/parts.js";
import { useAllOrganizations } from "./queries.js";

/** Where sites are, and where new ones go. */
export function Placement() {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useServers();
	const organizations = useAllOrganizations(true);
	const servers = data?.servers ?? [];
	const nameOf = (id: string) => organizations.data?.find((one) => one.id === id)?.name ?? id;
	return (
		<Page title={t("placement.title")}>
			<Text c="dimmed" maw={680}>
				{t("placement.text")}
			</Text>
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{isPending && <Waiting />}
			{data && servers.length === 0 && (
				<Empty title={t("servers.none.title")} action={<LinkButton to="/servers/new">{t("servers.add")}</LinkButton>}>
					{t("servers.none.text")}
				</Empty>
			)}
			{servers.length > 0 && (
				<List label={t("placement.title")}>
					{servers.map((server) => (
						<Item
							key={server.id}
							title={
								<Link to="/servers/$server" params={{ server: server.id }}>
									{server.name}
								</Link>
							}
							more={server.state === State.DRAINING && <Mark>{t("placement.draining")}</Mark>}
							actions={
								<>
									{server.state === State.DRAINING && (
										<Act
											method={ServerService.method.undrainServer}
											request={{ serverId: server.id }}
											size="compact-sm"
											aria-label={`${t("server.undrain")}: ${server.name}`}
										>
											{t("server.undrain")}
										</Act>
									)}
									{server.state === State.ACTIVE && (
										<Confirmed
											method={ServerService.method.drainServer}
											request={{ serverId: server.id }}
											title={t("server.drainTitle", { name: server.name })}
											explain={t("server.drainText")}
											confirm={t("server.drain")}
											size="compact-sm"
											aria-label={`${t("server.drain")}: ${server.name}`}
										>
											{t("server.drain")}
										</Confirmed>
									)}
								</>
							}
						>
							<Words
								of={[
									<ServerState key="state" of={server} />,
									t("placement.sites", { count: server.siteCount }),
									server.tenancy === Tenancy.DEDICATED ? t("placement.dedicated", { name: nameOf(server.organizationId) }) : t("placement.shared"),
								]}
							/>
							<Disk facts={server.facts} />
						</Item>
					))}
				</List>
			)}
		</Page>
	);
}
