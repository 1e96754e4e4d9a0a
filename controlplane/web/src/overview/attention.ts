// What needs somebody, the worst first. It is a pure answer to what was measured.
import type { Certificate } from "../gen/chom/certificate/v1/certificate_pb.js";
import { type Server, State as ServerState } from "../gen/chom/fleet/v1/server_pb.js";
import { type Site, State as SiteState } from "../gen/chom/site/v1/site_pb.js";
import { Kind, type Task, State as TaskState } from "../gen/chom/task/v1/task_pb.js";

export type Matter =
	| { what: "serverOffline" | "serverQuarantined" | "serverProblem"; server: Server; why: string }
	| { what: "siteFailed" | "siteProblem" | "namesPending"; site: Site; why: string }
	| { what: "certificate"; certificate: Certificate; why: string }
	| { what: "backupFailed" | "drillFailed"; task: Task; site: Site; why: string };

/** A lower one is worse. */
const ranks: Record<Matter["what"], number> = {
	serverOffline: 0,
	serverQuarantined: 0,
	siteFailed: 1,
	drillFailed: 2,
	backupFailed: 2,
	certificate: 3,
	serverProblem: 4,
	siteProblem: 5,
	namesPending: 6,
};

/** Weighs what is known of an organization; backups are its newest tasks that make or try backups, newest first. */
export function attention({
	sites,
	servers,
	certificates,
	backups,
}: {
	sites: readonly Site[];
	servers: readonly Server[];
	certificates: readonly Certificate[];
	backups: readonly Task[];
}): Matter[] {
	const matters: Matter[] = [];
	for (const server of servers) {
		const why = server.problem || (server.facts?.findings[0] ?? "");
		if (server.state === ServerState.QUARANTINED) matters.push({ what: "serverQuarantined", server, why });
		else if ((server.state === ServerState.ACTIVE || server.state === ServerState.DRAINING) && !server.online)
			matters.push({ what: "serverOffline", server, why });
		else if (why !== "") matters.push({ what: "serverProblem", server, why });
	}
	const byId = new Map(sites.map((site) => [site.id, site]));
	for (const site of sites) {
		if (site.state === SiteState.TRASHED || site.state === SiteState.DELETING) continue;
		if (site.state === SiteState.FAILED) matters.push({ what: "siteFailed", site, why: site.problem });
		else if (site.problem !== "") matters.push({ what: "siteProblem", site, why: site.problem });
		else if (site.pendingDomains.length > 0) matters.push({ what: "namesPending", site, why: site.pendingDomains.join(", ") });
	}
	for (const certificate of certificates) {
		if (certificate.alarmTime) matters.push({ what: "certificate", certificate, why: certificate.observed?.problem ?? certificate.outside?.problem ?? "" });
	}
	const seen = new Set<string>();
	for (const task of backups) {
		const key = `${task.siteId} ${task.kind}`;
		if (seen.has(key) || !over(task)) continue; // only the newest one of each that has ended tells how it is now
		seen.add(key);
		const site = byId.get(task.siteId);
		if (!site || (task.state !== TaskState.FAILED && task.state !== TaskState.TIMED_OUT)) continue;
		matters.push({ what: task.kind === Kind.DRILL_SITE ? "drillFailed" : "backupFailed", task, site, why: task.error });
	}
	return matters.sort((a, b) => ranks[a.what] - ranks[b.what]);
}

const over = ({ state }: Task) => state === TaskState.SUCCEEDED || state === TaskState.FAILED || state === TaskState.TIMED_OUT;
