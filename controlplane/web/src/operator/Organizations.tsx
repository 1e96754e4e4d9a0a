import { useMutation } from "@connectrpc/connect-query";
import { Button, Group, NumberInput, Radio, Stack, Switch, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Email } from "../account/parts.js";
import { type Organization, State } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { Used } from "../organization/Settings.js";
import { Cancel, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { SearchIcon } from "../ui/icons.js";
import { Item, List, Words } from "../ui/List.js";
import { NameInput } from "../ui/NameInput.js";
import { Dot, Empty, Failure, Link, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { useAllOrganizations } from "./queries.js";

/** More of them nobody reads: a word finds the rest. */
const shownAtMost = 100;

/** All tenants of the platform. */
export function Organizations() {
	const { t } = useTranslation();
	const [closed, setClosed] = useState(false);
	const [text, setText] = useState("");
	const { data, error, isPending, refetch } = useAllOrganizations(closed);
	const word = text.trim().toLowerCase();
	const found = (data ?? []).filter(({ id, name, ownerEmail }) => name.includes(word) || ownerEmail.includes(word) || id === word);
	return (
		<Page title={t("operator.organizations")} aside={<Create />}>
			<Group gap="sm" role="search">
				<TextInput
					aria-label={t("operator.search")}
					placeholder={t("operator.search")}
					leftSection={<SearchIcon size={16} />}
					value={text}
					onChange={(event) => setText(event.currentTarget.value)}
					type="search"
					flex="1 1 14rem"
				/>
				<Switch label={t("operator.closed")} checked={closed} onChange={(event) => setClosed(event.currentTarget.checked)} />
				<Text size="sm" c="dimmed" role="status">
					{t("sites.count", { count: found.length, total: data?.length ?? 0 })}
				</Text>
			</Group>
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{isPending && <Waiting rows={4} height={64} />}
			{data && found.length === 0 && <Empty title={t("operator.none")}>{t("operator.noneText")}</Empty>}
			{found.length > 0 && (
				<List label={t("operator.organizations")}>
					{found.slice(0, shownAtMost).map((organization) => (
						<Row key={organization.id} of={organization} />
					))}
				</List>
			)}
			{found.length > shownAtMost && (
				<Text size="sm" c="dimmed">
					{t("operator.moreThan", { count: found.length - shownAtMost })}
				</Text>
			)}
		</Page>
	);
}

const states = {
	[State.UNSPECIFIED]: ["idle", "closed"],
	[State.ACTIVE]: ["good", "active"],
	[State.CLOSING]: ["warn", "closing"],
	[State.CLOSED]: ["idle", "closed"],
} as const;

function Row({ of }: { of: Organization }) {
	const { t } = useTranslation();
	const [tone, key] = states[of.state];
	return (
		<Item
			title={
				of.state === State.CLOSED ? (
					of.name
				) : (
					<Link to="/o/$organization" params={{ organization: of.id }}>
						{of.name}
					</Link>
				)
			}
			more={
				<Text size="sm" span>
					<Dot tone={tone}>{t(`operator.state.${key}`)}</Dot>
				</Text>
			}
			actions={
				of.state !== State.CLOSED && (
					<>
						<Text size="sm" component="div">
							<Link to="/o/$organization/team" params={{ organization: of.id }}>
								{t("team.title")}
							</Link>
						</Text>
						<Quota of={of} />
					</>
				)
			}
		>
			<Words
				of={[
					of.ownerEmail,
					<span key="since">
						{t("operator.since")} <Time of={of.createTime} />
					</span>,
					of.closeTime && (
						<span key="closes">
							{t("operator.closes")} <Time of={of.closeTime} exact />
						</span>
					),
				]}
			/>
			<div>
				{t("settings.backups")}: <Used of={of} />
			</div>
		</Item>
	);
}

/** Makes an organization for somebody. */
function Create() {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	const [name, setName] = useState("");
	const [ownerEmail, setOwnerEmail] = useState("");
	const create = useMutation(OrganizationService.method.createOrganization, {
		onSuccess: () => {
			close();
			setName("");
			setOwnerEmail("");
		},
	});
	return (
		<>
			<Button onClick={open}>{t("organization.create")}</Button>
			<Dialog opened={opened} onClose={close} title={t("organization.create")}>
				<Form
					label={t("organization.create")}
					pending={create.isPending}
					error={create.error}
					onSend={() => create.mutate({ name, ownerEmail: ownerEmail.trim() })}
					other={<Cancel onClick={close} />}
				>
					<NameInput label={t("organization.name")} value={name} onName={setName} />
					<Email
						label={t("operator.owner")}
						description={t("operator.ownerText")}
						value={ownerEmail}
						onChange={(event) => setOwnerEmail(event.currentTarget.value)}
						autoComplete="off"
					/>
				</Form>
			</Dialog>
		</>
	);
}

const gigabyte = 1_000_000_000;

/** How much it may use. */
function Quota({ of }: { of: Organization }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<>
			<Button variant="default" size="compact-sm" onClick={open} aria-label={t("operator.quotaOf", { name: of.name })}>
				{t("operator.quota")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("operator.quotaOf", { name: of.name })}>
				<QuotaForm of={of} onDone={close} />
			</Dialog>
		</>
	);
}

function QuotaForm({ of, onDone }: { of: Organization; onDone: () => void }) {
	const { t } = useTranslation();
	const now = Number(of.quota?.backupBytes ?? 0n);
	const [kind, setKind] = useState<"platform" | "none" | "own">(now === 0 ? "none" : "own");
	const [size, setSize] = useState<number | string>(now === 0 ? 100 : now / gigabyte);
	const set = useMutation(OrganizationService.method.setQuota, { onSuccess: onDone });
	const quota = kind === "platform" ? undefined : { backupBytes: kind === "none" ? 0n : BigInt(Math.round(Number(size) * gigabyte)) };
	return (
		<Form
			label={t("save")}
			pending={set.isPending}
			error={set.error}
			disabled={kind === "own" && !(Number(size) > 0)}
			onSend={() => set.mutate({ organizationId: of.id, ...(quota && { quota }) })}
			other={<Cancel onClick={onDone} />}
		>
			<Radio.Group label={t("settings.backups")} description={t("operator.quotaText")} value={kind} onChange={(value) => setKind(value as typeof kind)}>
				<Stack gap="xs" mt={6}>
					<Radio value="platform" label={t("operator.quotaPlatform")} />
					<Radio value="none" label={t("operator.quotaNone")} />
					<Radio value="own" label={t("operator.quotaOwn")} />
				</Stack>
			</Radio.Group>
			{kind === "own" && (
				<NumberInput
					label={t("operator.gigabytes")}
					value={size}
					onChange={setSize}
					min={0.1}
					max={1_125_899}
					suffix=" GB"
					thousandSeparator=" "
					hideControls
				/>
			)}
		</Form>
	);
}
