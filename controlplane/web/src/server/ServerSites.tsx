import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Button, Stack } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { ServerService } from "../gen/chom/fleet/v1/server_service_pb.js";
import { SiteState } from "../site/SiteState.js";
import { Card, Failure, Link, Waiting } from "../ui/parts.js";
import { Sheet } from "../ui/Sheet.js";

/** The sites that a server holds, whosever they are. */
export function ServerSites({ server }: { server: string }) {
	const { t } = useTranslation();
	const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery(
		ServerService.method.listServerSites,
		{ serverId: server, pageSize: 50, pageToken: "" },
		{ pageParamKey: "pageToken", getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined },
	);
	const sites = data?.pages.flatMap((page) => page.sites) ?? [];
	return (
		<Card title={t("sites.title")}>
			{isPending && <Waiting />}
			<Failure error={error} retry={() => void refetch()} />
			{data && sites.length === 0 && t("server.noSites")}
			{sites.length > 0 && (
				<Stack gap="sm" align="flex-start">
					<Sheet
						label={t("sites.title")}
						of={sites}
						keyOf={({ siteId }) => siteId}
						columns={[
							{
								title: t("sites.column.name"),
								cell: ({ siteId, name, organizationId }) => (
									<Link to="/o/$organization/sites/$site" params={{ organization: organizationId, site: siteId }}>
										{name}
									</Link>
								),
							},
							{ title: t("server.owner"), cell: ({ organizationName }) => organizationName },
							{ title: t("sites.column.state"), cell: ({ state }) => <SiteState of={state} /> },
							{ title: t("site.type"), cell: ({ type }) => type, wide: true },
							{ title: t("createSite.domain"), cell: ({ domain }) => domain },
						]}
					/>
					{hasNextPage && (
						<Button variant="default" size="compact-sm" loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
							{t("server.moreSites")}
						</Button>
					)}
				</Stack>
			)}
		</Card>
	);
}
