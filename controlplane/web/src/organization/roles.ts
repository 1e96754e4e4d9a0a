// Roles, without a question to anybody.
import { Role } from "../gen/chom/organization/v1/organization_pb.js";

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
