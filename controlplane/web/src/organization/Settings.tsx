import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Progress, Stack, Switch, Text } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { type Organization, Role, State } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { Act, Confirmed, Form } from "../ui/Act.js";
import { bytes } from "../ui/format.js";
import { NameInput } from "../ui/NameInput.js";
import { Card, Facts, Failure, Notice, Page, Waiting } from "../ui/parts.js";
import { nameRule } from "../ui/rules.js";
import { Time } from "../ui/Time.js";
import { useOrganizationId } from "./here.js";
import { useRights } from "./rights.js";

/** What the organization is, what it may use, and how it ends. */
export function OrganizationSettings() {
	const { t, i18n } = useTranslation();
	const organizationId = useOrganizationId();
	const rights = useRights(organizationId);
	const { data, error, isPending, refetch } = useQuery(OrganizationService.method.getOrganization, { organizationId });
	const organization = data?.organization;
	if (!organization) {
		return <Page title={t("settings.title")}>{isPending ? <Waiting /> : <Failure error={error} retry={() => void refetch()} />}</Page>;
	}
	const owner = rights.may(Role.OWNER);
	return (
		<Page title={t("settings.title")}>
			{organization.state === State.CLOSING && (
				<Notice tone="warn" title={t("settings.closing")}>
					<Stack gap="xs" align="flex-start">
						<Text size="sm">
							{t("settings.closingText")} <Time of={organization.closeTime} exact />
						</Text>
						{owner && (
							<Act method={OrganizationService.method.reopenOrganization} request={{ organizationId }} size="compact-sm">
								{t("settings.reopen")}
							</Act>
						)}
					</Stack>
				</Notice>
			)}
			<Card title={t("settings.about")}>
				<Facts
					of={[
						[t("organization.name"), organization.name],
						[t("settings.owner"), organization.ownerEmail],
						[t("site.created"), <Time key="created" of={organization.createTime} />],
						[t("settings.id"), <code key="id">{organization.id}</code>],
					]}
				/>
			</Card>
			<Card title={t("settings.quota")}>
				<Text size="sm" mb={6}>
					{t("settings.backups")}
				</Text>
				<Used of={organization} />
				<Text size="sm" c="dimmed" mt="sm" maw={620}>
					{t("settings.quotaText", { used: bytes(organization.backupBytes, i18n.language) })}
				</Text>
			</Card>
			{owner && <Rename key={`name ${organization.etag}`} organization={organization} />}
			{owner && <SecondFactor organization={organization} />}
			{owner && rights.inPerson && organization.state === State.ACTIVE && (
				<Card title={t("danger.title")} tone="danger">
					<Stack gap="sm" align="flex-start">
						<Text size="sm" maw={620}>
							{t("settings.closeText")}
						</Text>
						<Confirmed
							method={OrganizationService.method.closeOrganization}
							request={{ organizationId, name: organization.name }}
							title={t("settings.closeTitle", { name: organization.name })}
							explain={t("settings.closeText")}
							typed={organization.name}
							confirm={t("settings.close")}
							color="red"
							variant="outline"
						>
							{t("settings.close")}
						</Confirmed>
					</Stack>
				</Card>
			)}
		</Page>
	);
}

/** How much of its quota it uses. */
export function Used({ of }: { of: Organization }) {
	const { t, i18n } = useTranslation();
	const used = bytes(of.backupBytes, i18n.language);
	const limit = of.quota?.backupBytes ?? 0n;
	if (limit === 0n) return t("settings.unlimited", { used });
	const share = Number((of.backupBytes * 100n) / limit);
	return (
		<div>
			<Progress
				value={Math.min(share, 100)}
				color={share >= 100 ? "red" : share > 80 ? "orange" : "cyan"}
				aria-label={t("settings.backups")}
				size="sm"
				mb={4}
				maw={320}
			/>
			<Text size="sm">{t("settings.used", { used, limit: bytes(limit, i18n.language), share })}</Text>
		</div>
	);
}

function Rename({ organization }: { organization: Organization }) {
	const { t } = useTranslation();
	const [name, setName] = useState(organization.name);
	const save = useMutation(OrganizationService.method.updateOrganization);
	return (
		<Card title={t("settings.rename")}>
			<Form
				label={t("save")}
				pending={save.isPending}
				error={save.error}
				disabled={name === organization.name || !nameRule.test(name)}
				onSend={() => save.mutate({ organizationId: organization.id, name, updateMask: { paths: ["name"] }, etag: organization.etag })}
			>
				<NameInput label={t("organization.name")} description={t("settings.renameText")} value={name} onName={setName} maw={420} autoFocus={false} />
			</Form>
		</Card>
	);
}

/** Whether members need a second factor. Who demands it must have one. */
function SecondFactor({ organization }: { organization: Organization }) {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	const save = useMutation(OrganizationService.method.updateOrganization);
	const demanded = save.isPending ? save.variables.requireSecondFactor : organization.requireSecondFactor;
	return (
		<Card title={t("factors.title")}>
			<Switch
				label={t("settings.demand")}
				description={caller?.secondFactor ? t("settings.demandText") : t("settings.demandFirst")}
				checked={demanded ?? false}
				disabled={save.isPending || (!caller?.secondFactor && !organization.requireSecondFactor)}
				onChange={(event) =>
					save.mutate({
						organizationId: organization.id,
						requireSecondFactor: event.currentTarget.checked,
						updateMask: { paths: ["require_second_factor"] },
						etag: organization.etag,
					})
				}
			/>
			<Failure error={save.error} />
		</Card>
	);
}
