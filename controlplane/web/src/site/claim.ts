/** What an organization claims to hold a name: of a wildcard it is the name below which all are. */
export const claimOf = (organizationId: string, name: string) => ({ organizationId, name: name.replace(/^\*\./, "") });
