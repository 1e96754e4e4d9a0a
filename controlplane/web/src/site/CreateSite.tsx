import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { Button, Collapse, Group, SegmentedControl, Select, Stack, TagsInput, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useMutation } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { ClaimService } from "../gen/chom/domain/v1/claim_service_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { useServers } from "../server/queries.js";
import { Form } from "../ui/Act.js";
import { freshId } from "../ui/id.js";
import { NameInput } from "../ui/NameInput.js";
import { Card, Link, Page } from "../ui/parts.js";
import { isDomain, tagRule } from "../ui/rules.js";
import { claimOf } from "./claim.js";

/** Three fields make a site; the rest has a default and can be opened. */
export function CreateSite() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const navigate = useNavigate();
	const { data: caller } = useCaller();
	const [opened, { toggle }] = useDisclosure();
	// One id for all tries to send this form: whatever the network does, it makes one site.
	const [requestId] = useState(freshId);
	const [name, setName] = useState("");
	const [type, setType] = useState("wordpress");
	const [domain, setDomain] = useState("");
	const [more, setMore] = useState<string[]>([]);
	const [title, setTitle] = useState("");
	const [admin, setAdmin] = useState("");
	const [tags, setTags] = useState<string[]>([]);
	const [server, setServer] = useState<string | null>(null);
	const transport = useTransport();
	const create = useMutation({
		mutationFn: async () => {
			const settings: Record<string, string> =
				type === "wordpress" ? { title: title || name, admin_email: admin || (caller?.email ?? "") } : title ? { title } : {};
			const wanted = { organizationId: organization, name, type, domains: [domain, ...more], settings, tags, serverId: server ?? "", requestId };
			const { site } = await callUnaryMethod(transport, SiteService.method.createSite, wanted);
			// Its page then says at once which records prove that they are the organization's; that is done there, too, should this fail.
			await Promise.allSettled(
				(site?.pendingDomains ?? []).map((name) => callUnaryMethod(transport, ClaimService.method.createClaim, claimOf(organization, name))),
			);
			return site;
		},
		onSuccess: (site) => site && void navigate({ to: "/o/$organization/sites/$site", params: { organization, site: site.id } }),
	});
	const wrongDomains = more.filter((name) => !isDomain(name));
	const wrongTags = tags.filter((tag) => !tagRule.test(tag));
	return (
		<Page
			title={t("createSite.title")}
			above={
				<Link to="/o/$organization/sites" params={{ organization }}>
					{t("sites.title")}
				</Link>
			}
		>
			<Card>
				<Form
					label={t("createSite.go")}
					pending={create.isPending}
					error={create.error}
					onSend={() => create.mutate()}
					other={
						<Button variant="subtle" onClick={toggle} aria-expanded={opened} aria-controls="more">
							{opened ? t("createSite.less") : t("createSite.more")}
						</Button>
					}
				>
					<Stack gap="md" maw={520}>
						<NameInput label={t("createSite.name")} description={t("createSite.nameText")} value={name} onName={setName} />
						<div>
							<Text size="sm" fw={500} mb={4} id="type">
								{t("createSite.type")}
							</Text>
							<SegmentedControl
								aria-labelledby="type"
								value={type}
								onChange={setType}
								data={[
									{ value: "wordpress", label: "WordPress" },
									{ value: "static", label: t("createSite.static") },
								]}
							/>
						</div>
						<TextInput
							label={t("createSite.domain")}
							description={t("createSite.domainText")}
							placeholder="www.example.com"
							value={domain}
							onChange={(event) => setDomain(event.currentTarget.value.trim().toLowerCase())}
							error={domain.endsWith(".") || (domain.length > 3 && !isDomain(domain) && domain.includes(".")) ? t("rule.domain") : undefined}
							maxLength={253}
							required
							withAsterisk={false}
							spellCheck={false}
							autoCapitalize="none"
						/>
						<Collapse expanded={opened} id="more">
							<Stack gap="md">
								<TagsInput
									label={t("createSite.moreNames")}
									description={t("createSite.moreNamesText")}
									value={more}
									onChange={(names) => setMore(names.map((name) => name.trim().toLowerCase()))}
									error={wrongDomains.length > 0 ? t("rule.domain") : undefined}
								/>
								<TextInput
									label={t("createSite.siteTitle")}
									description={t("createSite.siteTitleText")}
									value={title}
									onChange={(event) => setTitle(event.currentTarget.value)}
									maxLength={200}
								/>
								{type === "wordpress" && (
									<TextInput
										label={t("createSite.admin")}
										description={t("createSite.adminText", { email: caller?.email ?? "" })}
										type="email"
										value={admin}
										onChange={(event) => setAdmin(event.currentTarget.value)}
									/>
								)}
								<TagsInput
									label={t("createSite.tags")}
									description={t("createSite.tagsText")}
									value={tags}
									onChange={setTags}
									maxTags={20}
									error={wrongTags.length > 0 ? t("rule.tag") : undefined}
								/>
								{caller?.operator && <Place value={server} onChange={setServer} />}
							</Stack>
						</Collapse>
					</Stack>
				</Form>
			</Card>
			<Group>
				<Text size="sm" c="dimmed" maw={600}>
					{t("createSite.after")}
				</Text>
			</Group>
		</Page>
	);
}

function Place({ value, onChange }: { value: string | null; onChange: (server: string | null) => void }) {
	const { t } = useTranslation();
	const { data } = useServers();
	return (
		<Select
			label={t("createSite.server")}
			description={t("createSite.serverText")}
			placeholder={t("createSite.place")}
			data={(data?.servers ?? []).map(({ id, name }) => ({ value: id, label: name }))}
			value={value}
			onChange={onChange}
			clearable
			searchable
		/>
	);
}
