import { callUnaryMethod, useQuery, useTransport } from "@connectrpc/connect-query";
import { useQuery as useAnyQuery } from "@tanstack/react-query";
import { every } from "../api.js";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";

const pageSize = 500;

/** All sites of an organization: lists are searched in the browser, where each keystroke is free. */
export function useSites(organizationId: string, { enabled = true } = {}) {
	const transport = useTransport();
	return useAnyQuery<Site[]>({
		queryKey: ["sites", organizationId],
		enabled,
		// A thousand sites are a large answer: the more there are, the less often all are asked for.
		refetchInterval: ({ state }) => (state.data && state.data.length > pageSize ? 4 * every : every),
		queryFn: async ({ signal }) => {
			const all: Site[] = [];
			for (let pageToken = ""; ; ) {
				const page = await callUnaryMethod(transport, SiteService.method.listSites, { organizationId, pageSize, pageToken, showTrashed: true }, { signal });
				all.push(...page.sites);
				if (page.nextPageToken === "") return all;
				pageToken = page.nextPageToken;
			}
		},
	});
}

export const useSite = (organizationId: string, siteId: string) => useQuery(SiteService.method.getSite, { organizationId, siteId });
