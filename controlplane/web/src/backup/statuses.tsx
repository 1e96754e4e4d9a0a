import { useTransport } from "@connectrpc/connect-query";
import { useQuery } from "@tanstack/react-query";
import { memo, useEffect } from "react";
import { useTranslation } from "react-i18next";
import { Proof, type SiteStatus, Standing } from "../gen/chom/backup/v1/backup_pb.js";
import { Dot, type Tone } from "../ui/parts.js";
import { store } from "../ui/store.js";
import { statuses } from "./needs.js";

const standings = {
	[Standing.UNSPECIFIED]: undefined,
	[Standing.WELL]: undefined,
	[Standing.UNWANTED]: undefined,
	[Standing.FAILING]: ["warn", "failing"],
	[Standing.OVERDUE]: ["bad", "overdue"],
	[Standing.DAMAGED]: ["bad", "damaged"],
} as const satisfies Record<Standing, readonly [Tone, string] | undefined>;

const proofs = {
	[Proof.UNSPECIFIED]: ["idle", "none"],
	[Proof.NONE]: ["idle", "none"],
	[Proof.PROVEN]: ["good", "proven"],
	[Proof.UNPROVEN]: ["idle", "unproven"],
	[Proof.FAILED]: ["bad", "failed"],
} as const satisfies Record<Proof, readonly [Tone, string]>;

/** What is to be said first of how a site is backed up. */
const first = ({ standing, proof }: SiteStatus) => standings[standing] ?? proofs[proof] ?? proofs[Proof.UNSPECIFIED];

type Mark = ReturnType<typeof first>;
const marks = store<ReadonlyMap<string, Mark>>(new Map());

/** Asks for the marks of a list, and shows nothing itself. Rows hear of their own mark alone. */
export function BackupFeed({ organization }: { organization: string }) {
	const transport = useTransport();
	const { data } = useQuery({
		queryKey: ["backup statuses", organization],
		refetchInterval: 15_000,
		queryFn: ({ signal }) => statuses(transport, organization, false, signal),
	});
	useEffect(() => {
		if (data) marks.set(new Map(data.map((status) => [status.siteId, first(status)])));
	}, [data]);
	return null;
}

/** How well a site is backed up, in a word. */
export const BackupMark = memo(function BackupMark({ site }: { site: string }) {
	const { t } = useTranslation();
	const mark = marks.usePart((all) => all.get(site));
	return mark ? <Dot tone={mark[0]}>{t(`backup.mark.${mark[1]}`)}</Dot> : "–";
});
