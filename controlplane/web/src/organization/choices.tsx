// What is asked wherever somebody gets rights: which role, and which sites.
import { MultiSelect, Radio, Stack } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { useSites } from "../site/queries.js";
import { roleNames, rolesUpTo } from "./roles.js";

/** A role, each with a line on what it may do. */
export function RoleChoice({ most, value, onChange }: { most: Role; value: Role; onChange: (role: Role) => void }) {
	const { t } = useTranslation();
	return (
		<Radio.Group label={t("team.role")} value={String(value)} onChange={(text) => onChange(Number(text))}>
			<Stack gap="xs" mt={6}>
				{rolesUpTo(most).map((role) => (
					<Radio key={role} value={String(role)} label={t(`role.${roleNames[role]}`)} description={t(`roleText.${roleNames[role]}`)} />
				))}
			</Stack>
		</Radio.Group>
	);
}

/** All sites, or some of them: undefined stands for all, those of the future too. */
export function SitesChoice({
	organization,
	value,
	onChange,
}: {
	organization: string;
	value: readonly string[] | undefined;
	onChange: (sites: readonly string[] | undefined) => void;
}) {
	const { t } = useTranslation();
	const { data } = useSites(organization);
	return (
		<Stack gap="xs">
			<Radio.Group label={t("reach.title")} value={value ? "some" : "all"} onChange={(which) => onChange(which === "all" ? undefined : [])}>
				<Stack gap="xs" mt={6}>
					<Radio value="all" label={t("reach.all")} description={t("reach.allText")} />
					<Radio value="some" label={t("reach.some")} description={t("reach.someText")} />
				</Stack>
			</Radio.Group>
			{value && (
				<MultiSelect
					aria-label={t("reach.which")}
					placeholder={value.length === 0 ? t("reach.which") : undefined}
					data={(data ?? []).map(({ id, name }) => ({ value: id, label: name }))}
					value={[...value]}
					onChange={onChange}
					searchable
					maxValues={100}
					nothingFoundMessage={t("commands.nothing")}
				/>
			)}
		</Stack>
	);
}

/** How far somebody reaches, in words. */
export function Reach({ all, sites, organization }: { all: boolean; sites: readonly string[]; organization: string }) {
	const { t } = useTranslation();
	const known = useSites(organization, { enabled: !all });
	if (all) return t("reach.all");
	const names = new Map(known.data?.map(({ id, name }) => [id, name]));
	return sites.length === 0 ? t("reach.none") : sites.map((id) => names.get(id) ?? id.slice(-8)).join(", ");
}
