// What the reader may do in an organization, as the control plane says. Pages offer that and nothing else; it decides anew with each call.
import { useQuery } from "@connectrpc/connect-query";
import { useCaller } from "../account/caller.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";

/** All members; an organization has no more than one page of them. */
export const useMembers = (organizationId: string, { enabled = true, seldom = false } = {}) =>
	useQuery(OrganizationService.method.listMembers, { organizationId, pageSize: 500 }, { enabled, ...(seldom && { refetchInterval: 30_000 }) });

export interface Rights {
	/** What they may do; unspecified while that is not known. */
	role: Role;
	/** They may do what this role may. */
	may: (role: Role) => boolean;
	/** They reach only some sites, and nothing that is about the whole organization. */
	bound: boolean;
	/** They are there themselves, and do not act for somebody else. */
	inPerson: boolean;
}

export function useRights(organizationId: string): Rights {
	const { data: caller } = useCaller();
	// Operators may do what owners may, also for the platform, which is no organization.
	const operator = caller?.operator ?? false;
	const enabled = caller !== undefined && !operator && organizationId !== "";
	const { data } = useQuery(OrganizationService.method.getOrganization, { organizationId }, { enabled, refetchInterval: 10_000 });
	const access = data?.organization?.access;
	const role = operator ? Role.OWNER : (access?.role ?? Role.UNSPECIFIED);
	return {
		role,
		may: (least) => role >= least,
		bound: access !== undefined && !access.allSites,
		inPerson: caller !== undefined && caller.impersonatorId === "",
	};
}
