import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { Group, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { ClaimService } from "../gen/chom/domain/v1/claim_service_pb.js";
import { NameRole, NameState, type Site, type SiteName } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { Act, Confirmed, Form, Permitted } from "../ui/Act.js";
import { Card, Copy } from "../ui/parts.js";
import { isDomain } from "../ui/rules.js";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { claimOf } from "./claim.js";
import { NameStateOf } from "./SiteState.js";

/** What to do next for the names that are not there yet; nothing where all are, or will be by themselves. */
export function NextStep({ site }: { site: Site }) {
	return site.names
		.filter(({ role, records }) => role !== NameRole.PREVIEW && records.length > 0)
		.map((name) => <Name key={name.name} site={site} name={name} />);
}

/** The names that a site answers to: how far each is, and what to do next. */
export function Names({ site }: { site: Site }) {
	const { t } = useTranslation();
	return (
		<Stack gap="md">
			<Group justify="flex-end">
				<Act method={SiteService.method.checkSite} request={{ organizationId: site.organizationId, siteId: site.id }}>
					{t("name.check")}
				</Act>
			</Group>
			{site.names.map((name) => (
				<Name key={name.name} site={site} name={name} />
			))}
			<Permitted method={SiteService.method.updateSite}>
				<Add site={site} />
			</Permitted>
		</Stack>
	);
}

const roles = {
	[NameRole.UNSPECIFIED]: "alias",
	[NameRole.PRIMARY]: "primary",
	[NameRole.ALIAS]: "alias",
	[NameRole.REDIRECT]: "redirect",
	[NameRole.PREVIEW]: "preview",
} as const;

function Name({ site, name }: { site: Site; name: SiteName }) {
	const { t } = useTranslation();
	const own = name.role !== NameRole.PREVIEW;
	return (
		<Card
			title={name.name}
			aside={
				own &&
				site.domains.length > 1 && (
					<Confirmed
						method={SiteService.method.updateSite}
						request={{
							organizationId: site.organizationId,
							siteId: site.id,
							updateMask: { paths: ["domains", "redirect_domains"] },
							domains: site.domains.filter((other) => other !== name.name),
							redirectDomains: site.redirectDomains.filter((other) => other !== name.name),
							etag: site.etag,
						}}
						title={t("name.removeTitle", { name: name.name })}
						explain={t("name.removeText")}
						confirm={t("name.remove")}
						size="compact-sm"
					>
						{t("name.remove")}
					</Confirmed>
				)
			}
		>
			<Stack gap="sm">
				<Group gap="lg">
					<NameStateOf of={name.state} />
					<Text size="sm" c="dimmed">
						{t(`name.role.${roles[name.role] ?? "alias"}`)}
					</Text>
					{name.certificate?.notAfter && (
						<Text size="sm" c="dimmed">
							{t("name.until")} <Time of={name.certificate.notAfter} /> · {name.certificate.issuer}
						</Text>
					)}
				</Group>
				{name.problem && <Text size="sm">{sentence(name.problem)}</Text>}
				{name.records.length > 0 && (
					<>
						<Text size="sm" fw={600}>
							{name.records.some((record) => record.remove) ? t("name.fix") : t("name.set")}
						</Text>
						<Sheet
							label={t("name.records", { name: name.name })}
							of={name.records}
							keyOf={({ type, name, value }) => `${type} ${name} ${value}`}
							columns={[
								{ title: t("name.what"), cell: ({ remove }) => (remove ? t("name.takeAway") : t("name.add")) },
								{ title: t("name.type"), cell: ({ type }) => type },
								{ title: t("name.name"), cell: (record) => <Copy text={record.name} what={t("name.name")} /> },
								{ title: t("name.value"), cell: (record) => <Copy text={record.value} what={t("name.value")} /> },
							]}
						/>
					</>
				)}
				{name.state === NameState.UNCLAIMED && name.records.length === 0 && (
					<Act method={ClaimService.method.createClaim} request={claimOf(site.organizationId, name.name)}>
						{t("name.claim")}
					</Act>
				)}
				{name.checkTime && name.state !== NameState.SECURE && (
					<Text size="sm" c="dimmed">
						{t("name.checked")} <Time of={name.checkTime} />
						{name.nextCheckTime && (
							<>
								{" · "}
								{t("name.next")} <Time of={name.nextCheckTime} />
							</>
						)}
					</Text>
				)}
			</Stack>
		</Card>
	);
}

function Add({ site }: { site: Site }) {
	const { t } = useTranslation();
	const [name, setName] = useState("");
	const transport = useTransport();
	const add = useMutation({
		mutationFn: async () => {
			const answer = await callUnaryMethod(transport, SiteService.method.updateSite, {
				organizationId: site.organizationId,
				siteId: site.id,
				updateMask: { paths: ["domains", "redirect_domains"] },
				domains: [...site.domains, name],
				redirectDomains: site.redirectDomains,
				etag: site.etag,
			});
			if (answer.site?.pendingDomains.includes(name))
				await Promise.allSettled([callUnaryMethod(transport, ClaimService.method.createClaim, claimOf(site.organizationId, name))]);
		},
		onSuccess: () => setName(""),
	});
	return (
		<Card title={t("name.addTitle")}>
			<Form label={t("name.add")} pending={add.isPending} error={add.error} onSend={() => add.mutate()}>
				<TextInput
					label={t("name.name")}
					description={t("name.addText")}
					value={name}
					onChange={(event) => setName(event.currentTarget.value.trim().toLowerCase())}
					error={name.includes(".") && !isDomain(name) && name.length > 3 ? t("rule.domain") : undefined}
					maxLength={253}
					required
					withAsterisk={false}
					spellCheck={false}
					maw={420}
				/>
			</Form>
		</Card>
	);
}
