import { useMutation, useQuery } from "@connectrpc/connect-query";
import { Button, Select, Stack, Text, TextInput, Title } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { Email } from "../account/parts.js";
import { type Invitation, type Member, Role } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { ActAs } from "../operator/ActAs.js";
import { Cancel, Confirmed, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { Item, List, Mark, Words } from "../ui/List.js";
import { Card, Copy, Failure, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { Reach, RoleChoice, SitesChoice } from "./choices.js";
import { useHere, useOrganizationId } from "./here.js";
import { type Rights, useMembers, useRights } from "./rights.js";
import { bindable, roleKey } from "./roles.js";

/** Who belongs to the organization, and who is invited. */
export function Team() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const rights = useRights(organization);
	const { data, error, isPending, refetch } = useMembers(organization);
	const members = data?.members ?? [];
	const { data: caller } = useCaller();
	const own = members.find(({ accountId }) => accountId === caller?.accountId);
	const admin = rights.may(Role.ADMIN);
	return (
		<Page title={t("team.title")} aside={admin && rights.inPerson && <Invite organization={organization} most={rights.role} />}>
			{isPending && <Waiting />}
			{error && !data && (
				<>
					<Failure error={error} retry={() => void refetch()} />
					{rights.inPerson && (
						<div>
							<Leave organization={organization} />
						</div>
					)}
				</>
			)}
			{members.length > 0 && <Members organization={organization} members={members} rights={rights} />}
			{admin && <Invitations organization={organization} />}
			{own?.role === Role.OWNER && rights.inPerson && <HandOver organization={organization} members={members} own={own} />}
		</Page>
	);
}

function Members({ organization, members, rights }: { organization: string; members: readonly Member[]; rights: Rights }) {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	const admin = rights.may(Role.ADMIN);
	return (
		<List label={t("team.members")}>
			{members.map((member) => {
				const own = member.accountId === caller?.accountId;
				const may = admin && rights.may(member.role);
				return (
					<Item
						key={member.accountId}
						title={member.email}
						more={own && <Mark>{t("team.you")}</Mark>}
						actions={
							(may || (own && rights.inPerson)) && (
								<>
									{caller?.operator && !own && <ActAs organization={organization} member={member} />}
									{may && rights.inPerson && <Change organization={organization} member={member} most={rights.role} />}
									{own && rights.inPerson && <Leave organization={organization} />}
									{may && !own && (
										<Confirmed
											method={OrganizationService.method.removeMember}
											request={{ organizationId: organization, accountId: member.accountId }}
											title={t("team.removeTitle", { email: member.email })}
											explain={t("team.removeText")}
											confirm={t("team.remove")}
											size="compact-sm"
											aria-label={t("team.removeOf", { email: member.email })}
										>
											{t("team.remove")}
										</Confirmed>
									)}
								</>
							)
						}
					>
						<Words
							of={[
								t(roleKey(member.role)),
								<Reach key="reach" all={member.allSites} sites={member.siteIds} organization={organization} />,
								<span key="since">
									{t("team.since")} <Time of={member.createTime} />
								</span>,
							]}
						/>
					</Item>
				);
			})}
		</List>
	);
}

/** Another role, or other sites. */
function Change({ organization, member, most }: { organization: string; member: Member; most: Role }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<>
			<Button variant="default" size="compact-sm" onClick={open} aria-label={t("team.changeOf", { email: member.email })}>
				{t("team.change")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("team.changeOf", { email: member.email })}>
				<ChangeForm organization={organization} member={member} most={most} onDone={close} />
			</Dialog>
		</>
	);
}

function ChangeForm({ organization, member, most, onDone }: { organization: string; member: Member; most: Role; onDone: () => void }) {
	const { t } = useTranslation();
	// What was there when the dialog opened is what the change is for: its etag goes with it.
	const [before] = useState(member);
	const [role, setRole] = useState(before.role);
	const [sites, setSites] = useState<readonly string[] | undefined>(before.allSites ? undefined : before.siteIds);
	const save = useMutation(OrganizationService.method.updateMember, { onSuccess: onDone });
	const bound = bindable(role) ? sites : undefined;
	return (
		<Form
			label={t("save")}
			pending={save.isPending}
			error={save.error}
			onSend={() =>
				save.mutate({
					organizationId: organization,
					accountId: before.accountId,
					role,
					allSites: bound === undefined,
					siteIds: [...(bound ?? [])],
					updateMask: { paths: ["role", "all_sites", "site_ids"] },
					etag: before.etag,
				})
			}
			other={<Cancel onClick={onDone} />}
		>
			<RoleChoice most={most} value={role} onChange={setRole} />
			{bindable(role) && <SitesChoice organization={organization} value={sites} onChange={setSites} />}
		</Form>
	);
}

function Leave({ organization }: { organization: string }) {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const name = useHere()?.name ?? "";
	return (
		<Confirmed
			method={OrganizationService.method.leaveOrganization}
			request={{ organizationId: organization }}
			onDone={() => void navigate({ to: "/" })}
			title={t("team.leaveTitle", { name })}
			explain={t("team.leaveText")}
			typed={name}
			confirm={t("team.leave")}
			size="compact-sm"
		>
			{t("team.leave")}
		</Confirmed>
	);
}

/** Invites somebody by mail, and shows the link once besides. */
function Invite({ organization, most }: { organization: string; most: Role }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<>
			<Button onClick={open}>{t("invite.open")}</Button>
			<Dialog opened={opened} onClose={close} title={t("invite.open")} closeOnClickOutside={false}>
				<InviteForm organization={organization} most={most} onDone={close} />
			</Dialog>
		</>
	);
}

function InviteForm({ organization, most, onDone }: { organization: string; most: Role; onDone: () => void }) {
	const { t } = useTranslation();
	const [email, setEmail] = useState("");
	const [role, setRole] = useState(Role.MEMBER);
	const [sites, setSites] = useState<readonly string[]>();
	const invite = useMutation(OrganizationService.method.createInvitation);
	const bound = bindable(role) ? sites : undefined;
	if (invite.data) {
		return (
			<Stack role="status">
				<Text size="sm">{t("invite.done", { email: invite.data.invitation?.email ?? "" })}</Text>
				<Copy text={invite.data.link} what={t("invite.link")} block />
				<Text size="sm" c="dimmed">
					{t("invite.once")}
				</Text>
				<Button onClick={onDone} data-autofocus>
					{t("close")}
				</Button>
			</Stack>
		);
	}
	return (
		<Form
			label={t("invite.go")}
			pending={invite.isPending}
			error={invite.error}
			disabled={bound?.length === 0}
			onSend={() => invite.mutate({ organizationId: organization, email: email.trim(), role, siteIds: [...(bound ?? [])] })}
			other={<Cancel onClick={onDone} />}
		>
			<Email value={email} onChange={(event) => setEmail(event.currentTarget.value)} autoComplete="off" data-autofocus />
			<RoleChoice most={most} value={role} onChange={setRole} />
			{bindable(role) && <SitesChoice organization={organization} value={sites} onChange={setSites} />}
		</Form>
	);
}

function Invitations({ organization }: { organization: string }) {
	const { t } = useTranslation();
	const { data, error } = useQuery(OrganizationService.method.listInvitations, { organizationId: organization, pageSize: 100 });
	const invitations = data?.invitations ?? [];
	return (
		<Stack gap="xs" component="section" aria-label={t("invite.title")}>
			<Title order={2} size="h4">
				{t("invite.title")}
			</Title>
			<Failure error={error} />
			{!data && !error && <Waiting rows={1} />}
			{data && invitations.length === 0 && (
				<Text size="sm" c="dimmed" maw={640}>
					{t("invite.none")}
				</Text>
			)}
			{invitations.length > 0 && (
				<List label={t("invite.title")}>
					{invitations.map((invitation) => (
						<Open key={invitation.id} of={invitation} />
					))}
				</List>
			)}
		</Stack>
	);
}

/** An invitation that nobody has accepted yet. */
function Open({ of }: { of: Invitation }) {
	const { t } = useTranslation();
	return (
		<Item
			title={of.email}
			actions={
				<Confirmed
					method={OrganizationService.method.revokeInvitation}
					request={{ organizationId: of.organizationId, invitationId: of.id }}
					title={t("invite.revokeTitle", { email: of.email })}
					explain={t("invite.revokeText")}
					confirm={t("invite.revoke")}
					size="compact-sm"
					aria-label={t("invite.revokeOf", { email: of.email })}
				>
					{t("invite.revoke")}
				</Confirmed>
			}
		>
			<Words
				of={[
					t(roleKey(of.role)),
					<Reach key="reach" all={of.allSites} sites={of.siteIds} organization={of.organizationId} />,
					<span key="by">
						{t("invite.by", { email: of.inviterEmail })} <Time of={of.createTime} />
					</span>,
					<span key="ends">
						{t("invite.ends")} <Time of={of.expireTime} />
					</span>,
				]}
			/>
		</Item>
	);
}

/** Makes somebody else the owner, and its reader an admin. */
function HandOver({ organization, members, own }: { organization: string; members: readonly Member[]; own: Member }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	const [to, setTo] = useState<string | null>(null);
	const [text, setText] = useState("");
	const name = useHere()?.name ?? "";
	const hand = useMutation(OrganizationService.method.transferOwnership, { onSuccess: close });
	const others = members.filter(({ accountId }) => accountId !== own.accountId);
	if (others.length === 0) return null;
	const next = others.find(({ accountId }) => accountId === to);
	return (
		<Card title={t("danger.title")} tone="danger">
			<Stack gap="sm" align="flex-start">
				<Text size="sm" maw={620}>
					{t("handOver.text")}
				</Text>
				<Button
					variant="outline"
					color="red"
					onClick={() => {
						setText("");
						setTo(null);
						hand.reset();
						open();
					}}
				>
					{t("handOver.open")}
				</Button>
			</Stack>
			<Dialog opened={opened} onClose={close} title={t("handOver.title", { name })}>
				<Form
					label={t("handOver.go")}
					pending={hand.isPending}
					error={hand.error}
					color="red"
					disabled={!next || text !== name}
					onSend={() => next && hand.mutate({ organizationId: organization, accountId: next.accountId })}
					other={<Cancel onClick={close} />}
				>
					<Text size="sm">{t("handOver.text")}</Text>
					<Select
						label={t("handOver.to")}
						data={others.map(({ accountId, email }) => ({ value: accountId, label: email }))}
						value={to}
						onChange={setTo}
						searchable={others.length > 8}
						data-autofocus
					/>
					<TextInput
						label={t("confirm.type", { name })}
						value={text}
						onChange={(event) => setText(event.currentTarget.value)}
						autoComplete="off"
						spellCheck={false}
					/>
				</Form>
			</Dialog>
		</Card>
	);
}
