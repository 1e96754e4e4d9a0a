// Roles, without a question to anybody.
import { type Member, Role } from "../gen/chom/organization/v1/organization_pb.js";

/** Operators may do what owners may. Who is bound to some sites sees no members, not even themselves: at most they are a member. */
export function roleOf(operator: boolean, member: Pick<Member, "role"> | undefined, bound: boolean): Role {
	if (operator) return Role.OWNER;
	return member?.role ?? (bound ? Role.MEMBER : Role.UNSPECIFIED);
}

/** Roles by their names, the least one first. */
export const roleNames = {
	[Role.VIEWER]: "viewer",
	[Role.MEMBER]: "member",
	[Role.ADMIN]: "admin",
	[Role.OWNER]: "owner",
} as const;

export const roleKey = (role: Role) => `role.${role === Role.UNSPECIFIED ? "viewer" : roleNames[role]}` as const;

/** Whom somebody with this role may make of others. */
export const rolesUpTo = (most: Role) => ([Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER] as const).filter((role) => role <= most);

/** These alone can be held to some sites. */
export const bindable = (role: Role) => role === Role.VIEWER || role === Role.MEMBER;
