import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { useQuery } from "@tanstack/react-query";
import type { Organization } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";

/** All organizations that there are: the list is searched in the browser. */
export function useAllOrganizations(showClosed: boolean) {
	const transport = useTransport();
	return useQuery<Organization[]>({
		queryKey: ["organizations", showClosed],
		refetchInterval: 15_000,
		queryFn: async ({ signal }) => {
			const all: Organization[] = [];
			for (let pageToken = ""; ; ) {
				const page = await callUnaryMethod(transport, OrganizationService.method.listOrganizations, { pageSize: 500, pageToken, showClosed }, { signal });
				all.push(...page.organizations);
				if (page.nextPageToken === "") return all;
				pageToken = page.nextPageToken;
			}
		},
	});
}
