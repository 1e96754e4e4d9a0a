// What needs somebody, the worst first. It is a pure answer to what was measured.
import type { Need } from "../backup/needs.js";
import type { Certificate } from "../gen/chom/certificate/v1/certificate_pb.js";
import { type Server, State as ServerState } from "../gen/chom/fleet/v1/server_pb.js";
import { type Site, State as SiteState } from "../gen/chom/site/v1/site_pb.js";

export type Matter =
	| { what: "serverOffline" | "serverQuarantined" | "serverProblem"; server: Server; why: string }
	| { what: "siteFailed" | "siteProblem" | "namesPending"; site: Site; why: string }
	| { what: "certificate"; certificate: Certificate; why: string }
	| Need;

/** A lower one is worse. */
const ranks: Record<Matter["what"], number> = {
	serverOffline: 0,
	serverQuarantined: 0,
	siteFailed: 1,
	backupDamaged: 2,
	backupOverdue: 2,
	drillFailed: 2,
	backupFailing: 3,
	certificate: 3,
	unproven: 4,
	serverProblem: 4,
	siteProblem: 5,
	namesPending: 6,
};

/** Weighs what is known of an organization; backups are those that need somebody. */
export function attention({
	sites,
	servers,
	certificates,
	backups,
}: {
	sites: readonly Site[];
	servers: readonly Server[];
	certificates: readonly Certificate[];
	backups: readonly Need[];
}): Matter[] {
	const matters: Matter[] = [];
	for (const server of servers) {
		const why = server.problem || (server.facts?.findings[0] ?? "");
		if (server.state === ServerState.QUARANTINED) matters.push({ what: "serverQuarantined", server, why });
		else if ((server.state === ServerState.ACTIVE || server.state === ServerState.DRAINING) && !server.online)
			matters.push({ what: "serverOffline", server, why });
		else if (why !== "") matters.push({ what: "serverProblem", server, why });
	}
	for (const site of sites) {
		if (site.state === SiteState.TRASHED || site.state === SiteState.DELETING) continue;
		if (site.state === SiteState.FAILED) matters.push({ what: "siteFailed", site, why: site.problem });
		else if (site.problem !== "") matters.push({ what: "siteProblem", site, why: site.problem });
		else if (site.pendingDomains.length > 0) matters.push({ what: "namesPending", site, why: site.pendingDomains.join(", ") });
	}
	for (const certificate of certificates) {
		if (certificate.alarmTime) matters.push({ what: "certificate", certificate, why: certificate.observed?.problem ?? certificate.outside?.problem ?? "" });
	}
	return [...matters, ...backups].sort((a, b) => ranks[a.what] - ranks[b.what]);
}
