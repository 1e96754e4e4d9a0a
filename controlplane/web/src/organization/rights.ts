// What the reader may do in an organization. Pages offer that and nothing else; the control plane decides it anew with each call.
import { Code } from "@connectrpc/connect";
import { useQuery } from "@connectrpc/connect-query";
import { useCaller } from "../account/caller.js";
import { isCode } from "../api.js";
import type { Member, Role } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { roleOf } from "./roles.js";

/** All members; an organization has no more than one page of them. */
export const useMembers = (organizationId: string, { enabled = true, seldom = false } = {}) =>
	useQuery(OrganizationService.method.listMembers, { organizationId, pageSize: 500 }, { enabled, ...(seldom && { refetchInterval: 30_000 }) });

export interface Rights {
	/** What they may do; unspecified while that is not known. */
	role: Role;
	/** They may do what this role may. */
	may: (role: Role) => boolean;
	/** They are there themselves, and do not act for somebody else. */
	inPerson: boolean;
	/** Their own membership; operators may have none. */
	member: Member | undefined;
}

export function useRights(organizationId: string): Rights {
	const { data: caller } = useCaller();
	const { data, error } = useMembers(organizationId, { enabled: caller !== undefined && organizationId !== "", seldom: true });
	const member = data?.members.find(({ accountId }) => accountId === caller?.accountId);
	const role = roleOf(caller?.operator ?? false, member, isCode(error, Code.PermissionDenied));
	return { role, may: (least) => role >= least, inPerson: caller !== undefined && caller.impersonatorId === "", member };
}
