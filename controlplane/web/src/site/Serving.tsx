import type { MessageInitShape } from "@bufbuild/protobuf";
import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Checkbox, NumberInput, Select, SimpleGrid } from "@mantine/core";
import { type ReactNode, useContext, useState } from "react";
import { useTranslation } from "react-i18next";
import { PolicyService } from "../gen/chom/backup/v1/policy_service_pb.js";
import type { LimitsSchema } from "../gen/chom/site/v1/desired_pb.js";
import type { HttpsOptionsSchema, Site } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { Form, Permit } from "../ui/Act.js";
import { Card } from "../ui/parts.js";

type Change = { limits: MessageInitShape<typeof LimitsSchema> } | { https: MessageInitShape<typeof HttpsOptionsSchema> } | { backupPolicyId: string };

/** Changes one part of what is wanted of a site, unless somebody else has changed it since it was shown. */
function useChange(site: Site, path: "limits" | "https" | "backup_policy_id") {
	const save = useMutation(SiteService.method.updateSite);
	const known = { organizationId: site.organizationId, siteId: site.id, etag: site.etag };
	return { pending: save.isPending, error: save.error, change: (part: Change) => save.mutate({ ...known, updateMask: { paths: [path] }, ...part }) };
}

function Part({
	title,
	save,
	same,
	onSend,
	children,
}: {
	title: string;
	save: ReturnType<typeof useChange>;
	same: boolean;
	onSend: () => void;
	children: ReactNode;
}) {
	const { t } = useTranslation();
	return (
		<Card title={title}>
			<Form label={t("save")} pending={save.pending} error={save.error} disabled={same} onSend={onSend}>
				{children}
			</Form>
		</Card>
	);
}

const mebibyte = 1024 * 1024;

/** What each field means where it is 0, as the API has it. */
const usual = { cpuPercent: 100, memory: 512, tasks: 256, phpWorkers: 5 };
const most = { cpuPercent: 6400, memory: 1_048_576, tasks: 32_768, phpWorkers: 1024 };
type Limit = keyof typeof usual;

/** What a site may use of its server. */
export function SiteLimits({ site }: { site: Site }) {
	const { t } = useTranslation();
	const save = useChange(site, "limits");
	const has: Record<Limit, number> = {
		cpuPercent: site.limits?.cpuPercent ?? 0,
		memory: Number(site.limits?.memoryBytes ?? 0n) / mebibyte,
		tasks: site.limits?.tasks ?? 0,
		phpWorkers: site.limits?.phpWorkers ?? 0,
	};
	const [wanted, setWanted] = useState(has);
	const fields = (Object.keys(usual) as Limit[]).filter((limit) => limit !== "phpWorkers" || site.type !== "static");
	return (
		<Part
			title={t("limits.title")}
			save={save}
			same={fields.every((limit) => wanted[limit] === has[limit])}
			onSend={() =>
				save.change({
					limits: {
						cpuPercent: wanted.cpuPercent,
						memoryBytes: BigInt(Math.round(wanted.memory * mebibyte)),
						tasks: wanted.tasks,
						phpWorkers: wanted.phpWorkers,
					},
				})
			}
		>
			<SimpleGrid cols={{ base: 1, xs: 2 }} maw={520}>
				{fields.map((limit) => (
					<NumberInput
						key={limit}
						label={t(`limits.${limit}`)}
						description={t("limits.usual", { value: usual[limit] })}
						placeholder={String(usual[limit])}
						value={wanted[limit] || ""}
						onChange={(value) => setWanted({ ...wanted, [limit]: Number(value) || 0 })}
						min={0}
						max={most[limit]}
						allowDecimal={false}
						allowNegative={false}
						hideControls
					/>
				))}
			</SimpleGrid>
		</Part>
	);
}

const day = 86_400;
const spans = { never: 0, day, month: 30 * day, year: 365 * day, twoYears: 730 * day };
type Span = keyof typeof spans;

/** How a site is served by HTTPS. */
export function SiteHttps({ site }: { site: Site }) {
	const { t } = useTranslation();
	const save = useChange(site, "https");
	const has = { keepHttp: site.https?.keepHttp ?? false, hstsMaxAgeSeconds: site.https?.hstsMaxAgeSeconds ?? 0 };
	const [wanted, setWanted] = useState(has);
	const choices: { value: string; label: string }[] = (Object.keys(spans) as Span[]).map((span) => ({
		value: String(spans[span]),
		label: t(`https.span.${span}`),
	}));
	const value = String(wanted.hstsMaxAgeSeconds);
	// Somebody may have chosen another one by the API.
	if (!choices.some((choice) => choice.value === value)) choices.push({ value, label: t("https.seconds", { count: wanted.hstsMaxAgeSeconds }) });
	return (
		<Part
			title={t("https.title")}
			save={save}
			same={wanted.keepHttp === has.keepHttp && wanted.hstsMaxAgeSeconds === has.hstsMaxAgeSeconds}
			onSend={() => save.change({ https: wanted })}
		>
			<Checkbox
				label={t("https.keepHttp")}
				description={t("https.keepHttpText")}
				checked={wanted.keepHttp}
				onChange={(event) => setWanted({ ...wanted, keepHttp: event.currentTarget.checked })}
			/>
			<Select
				label={t("https.hsts")}
				description={t("https.hstsText")}
				data={choices}
				value={value}
				onChange={(seconds) => setWanted({ ...wanted, hstsMaxAgeSeconds: Number(seconds ?? 0) })}
				allowDeselect={false}
				maw={520}
			/>
		</Part>
	);
}

/** The backup policy that a site goes by. */
export function SitePolicy({ site }: { site: Site }) {
	const { t } = useTranslation();
	const save = useChange(site, "backup_policy_id");
	const known = useContext(Permit)(PolicyService.method.listPolicies);
	const { data } = useQuery(PolicyService.method.listPolicies, { organizationId: site.organizationId }, { enabled: known });
	const [wanted, setWanted] = useState(site.backupPolicyId);
	const policies = data?.policies.filter(({ id }) => id !== "") ?? []; // the platform's own has no id, and is what tags choose where they choose none
	if (!known || (policies.length === 0 && site.backupPolicyId === "")) return null;
	return (
		<Part title={t("policy.title")} save={save} same={wanted === site.backupPolicyId} onSend={() => save.change({ backupPolicyId: wanted })}>
			<Select
				label={t("policy.label")}
				description={t("policy.text")}
				data={[{ value: "", label: t("policy.byTags") }, ...policies.map(({ id, name }) => ({ value: id, label: name }))]}
				value={wanted}
				onChange={(id) => setWanted(id ?? "")}
				allowDeselect={false}
				maw={520}
			/>
		</Part>
	);
}
