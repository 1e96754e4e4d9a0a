import { useMutation } from "@connectrpc/connect-query";
import { Button, Radio, Select, Stack, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { type ReactNode, useState } from "react";
import { useTranslation } from "react-i18next";
import { Scope } from "../gen/chom/account/v1/account_pb.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { TokenService } from "../gen/chom/token/v1/token_service_pb.js";
import { RoleChoice, SitesChoice } from "../organization/choices.js";
import { useOrganizations } from "../organization/here.js";
import { Cancel, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { tokenNameRule } from "../ui/rules.js";
import { Secret } from "../ui/Secret.js";
import { lifetimes, scopes, seconds } from "./scope.js";

/** What all tokens are asked for. */
interface Wanted {
	name: string;
	scope: Scope;
	days: number;
	sites: readonly string[] | undefined;
}

const modest: Wanted = { name: "", scope: Scope.READ, days: 90, sites: undefined };

/** Makes a token of the reader. */
export function CreateToken() {
	return <Opened>{(close) => <Personal onClose={close} />}</Opened>;
}

/** Makes a token of an organization. */
export function CreateOrganizationToken({ organization, most }: { organization: string; most: Role }) {
	return <Opened>{(close) => <OfOrganization organization={organization} most={most} onClose={close} />}</Opened>;
}

/** A dialog that nothing but its own buttons closes: what it shows is shown once. */
function Opened({ children }: { children: (close: () => void) => ReactNode }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<>
			<Button onClick={open}>{t("tokens.create")}</Button>
			<Dialog opened={opened} onClose={close} title={t("tokens.create")} firm>
				{children(close)}
			</Dialog>
		</>
	);
}

function Personal({ onClose }: { onClose: () => void }) {
	const { t } = useTranslation();
	const [wanted, setWanted] = useState(modest);
	const [organization, setOrganization] = useState<string | null>(null);
	const organizations = useOrganizations();
	const create = useMutation(TokenService.method.createToken);
	if (create.data) return <Shown text={create.data.secret} onKept={onClose} />;
	return (
		<Form
			label={t("tokens.create")}
			pending={create.isPending}
			error={create.error}
			disabled={wanted.sites?.length === 0}
			onSend={() =>
				create.mutate({
					name: wanted.name,
					scope: wanted.scope,
					organizationId: organization ?? "",
					siteIds: [...(wanted.sites ?? [])],
					lifetime: seconds(wanted.days),
				})
			}
			other={<Cancel onClick={onClose} />}
		>
			<Fields value={wanted} onChange={setWanted} />
			<Select
				label={t("tokens.where")}
				placeholder={t("tokens.everywhere")}
				data={(organizations.data?.organizations ?? []).map(({ id, name }) => ({ value: id, label: name }))}
				value={organization}
				onChange={(id) => {
					setOrganization(id);
					setWanted((now) => ({ ...now, sites: undefined }));
				}}
				clearable
				searchable
			/>
			{organization && <SitesChoice organization={organization} value={wanted.sites} onChange={(sites) => setWanted((now) => ({ ...now, sites }))} />}
		</Form>
	);
}

function OfOrganization({ organization, most, onClose }: { organization: string; most: Role; onClose: () => void }) {
	const { t } = useTranslation();
	const [wanted, setWanted] = useState(modest);
	const [role, setRole] = useState(Role.MEMBER);
	const create = useMutation(TokenService.method.createOrganizationToken);
	if (create.data) return <Shown text={create.data.secret} onKept={onClose} />;
	return (
		<Form
			label={t("tokens.create")}
			pending={create.isPending}
			error={create.error}
			disabled={wanted.sites?.length === 0}
			onSend={() =>
				create.mutate({
					organizationId: organization,
					name: wanted.name,
					role,
					scope: wanted.scope,
					siteIds: [...(wanted.sites ?? [])],
					lifetime: seconds(wanted.days),
				})
			}
			other={<Cancel onClick={onClose} />}
		>
			<Fields value={wanted} onChange={setWanted} />
			<RoleChoice most={Math.min(most, Role.ADMIN)} value={role} onChange={setRole} />
			<SitesChoice organization={organization} value={wanted.sites} onChange={(sites) => setWanted((now) => ({ ...now, sites }))} />
		</Form>
	);
}

function Fields({ value, onChange }: { value: Wanted; onChange: (wanted: Wanted) => void }) {
	const { t } = useTranslation();
	return (
		<>
			<TextInput
				label={t("tokens.name")}
				description={t("tokens.nameText")}
				value={value.name}
				onChange={(event) => onChange({ ...value, name: event.currentTarget.value })}
				error={value.name !== "" && !tokenNameRule.test(value.name) ? t("rule.token") : undefined}
				pattern={tokenNameRule.source}
				maxLength={63}
				autoComplete="off"
				required
				withAsterisk={false}
				data-autofocus
			/>
			<Radio.Group label={t("scope.title")} value={String(value.scope)} onChange={(text) => onChange({ ...value, scope: Number(text) })}>
				<Stack gap="xs" mt={6}>
					{([Scope.READ, Scope.DEPLOY, Scope.MANAGE] as const).map((scope) => (
						<Radio key={scope} value={String(scope)} label={t(`scope.${scopes[scope]}`)} description={t(`scope.${scopes[scope]}Text`)} />
					))}
				</Stack>
			</Radio.Group>
			<Select
				label={t("tokens.lifetime")}
				data={lifetimes.map((days) => ({ value: String(days), label: t("tokens.days", { count: days }) }))}
				value={String(value.days)}
				onChange={(days) => days && onChange({ ...value, days: Number(days) })}
				allowDeselect={false}
			/>
		</>
	);
}

/** Shows a token, this once. */
function Shown({ text, onKept }: { text: string; onKept: () => void }) {
	const { t } = useTranslation();
	return (
		<Secret title={t("tokens.once")} warning={t("tokens.onceText")} what={t("tokens.secret")} text={text} kept={t("tokens.kept")} onKept={onKept}>
			<Text size="sm" c="dimmed">
				{t("tokens.use")} <code>Authorization: Bearer …</code>
			</Text>
		</Secret>
	);
}
