// Whose backups need somebody. What it takes to ask comes when it is asked for: the first page is drawn without.

import type { Transport } from "@connectrpc/connect";
import { callUnaryMethod } from "@connectrpc/connect-query";
import { Proof, type SiteStatus, Standing } from "../gen/chom/backup/v1/backup_pb.js";
import { BackupService } from "../gen/chom/backup/v1/backup_service_pb.js";

export interface Need {
	what: "backupDamaged" | "backupOverdue" | "backupFailing" | "drillFailed" | "unproven";
	siteId: string;
	siteName: string;
	why: string;
}

const pageSize = 500;

/** How well the sites of an organization are backed up, or those that need somebody. */
export async function statuses(transport: Transport, organizationId: string, attentionOnly: boolean, signal: AbortSignal): Promise<SiteStatus[]> {
	const all: SiteStatus[] = [];
	for (let pageToken = ""; ; ) {
		const request = { organizationId, attentionOnly, pageSize, pageToken };
		const page = await callUnaryMethod(transport, BackupService.method.listBackupStatuses, request, { signal });
		all.push(...page.statuses);
		if (page.nextPageToken === "") return all;
		pageToken = page.nextPageToken;
	}
}

/** What is wrong, the worst of it; undefined where nothing is. */
export function needOf({ siteId, siteName, standing, proof, problem }: SiteStatus): Need | undefined {
	const found = { siteId, siteName, why: problem };
	switch (standing) {
		case Standing.DAMAGED:
			return { what: "backupDamaged", ...found };
		case Standing.OVERDUE:
			return { what: "backupOverdue", ...found };
		case Standing.FAILING:
			return { what: "backupFailing", ...found };
	}
	if (proof === Proof.FAILED) return { what: "drillFailed", ...found };
	return proof === Proof.UNPROVEN ? { what: "unproven", ...found } : undefined;
}

export async function needs(transport: Transport, organizationId: string, signal: AbortSignal): Promise<Need[]> {
	return (await statuses(transport, organizationId, true, signal)).flatMap((status) => needOf(status) ?? []);
}
