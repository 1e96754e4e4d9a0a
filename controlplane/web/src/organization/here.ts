// Which organization the reader is in: the one in the address, or else the one that they were in last.
import { useQuery } from "@connectrpc/connect-query";
import { useParams } from "@tanstack/react-router";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";

const kept = "chom-organization";

export const useOrganizations = () => useQuery(OrganizationService.method.listOrganizations, { pageSize: 500 }, { refetchInterval: 30_000 });

/** The organization in the address; only for pages below /o/. */
export const useOrganizationId = () => useParams({ from: "/frame/o/$organization" }).organization;

/** The one to be in; undefined while there is none. */
export function useHere() {
	const { organization } = useParams({ strict: false });
	const { data } = useOrganizations();
	const all = data?.organizations ?? [];
	const named = all.find(({ id }) => id === organization);
	if (named) localStorage.setItem(kept, named.id);
	const last = localStorage.getItem(kept);
	return named ?? all.find(({ id }) => id === last) ?? all[0];
}
