// What a webhook is asked for, when it is made and when it is changed, and its secret, which is shown once.
import { useMutation } from "@connectrpc/connect-query";
import { Button, Checkbox, MultiSelect, Radio, Stack, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { WebhookService } from "../gen/chom/webhook/v1/webhook_service_pb.js";
import { Cancel, Form, Permitted } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { Secret } from "../ui/Secret.js";
import { eventKey, events } from "./events.js";

interface Wanted {
	url: string;
	description: string;
	/** Undefined stands for all events, those of the future too. */
	events: readonly string[] | undefined;
}

const urlRule = /^https:\/\/[^\s"'<>\\^`{|}#@]{1,492}$/;

/** Makes a webhook. Nothing but its own buttons closes the dialog: the secret is shown once. */
export function CreateWebhook({ organization }: { organization: string }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<Permitted method={WebhookService.method.createWebhook}>
			<Button onClick={open}>{t("webhooks.create")}</Button>
			<Dialog opened={opened} onClose={close} title={t("webhooks.create")} firm>
				<Create organization={organization} onClose={close} />
			</Dialog>
		</Permitted>
	);
}

function Create({ organization, onClose }: { organization: string; onClose: () => void }) {
	const { t } = useTranslation();
	const [wanted, setWanted] = useState<Wanted>({ url: "https://", description: "", events: undefined });
	const create = useMutation(WebhookService.method.createWebhook);
	if (create.data) return <Shown text={create.data.secret} onKept={onClose} />;
	return (
		<Form
			label={t("webhooks.create")}
			pending={create.isPending}
			error={create.error}
			disabled={wanted.events?.length === 0}
			onSend={() => create.mutate({ organizationId: organization, url: wanted.url, description: wanted.description, events: [...(wanted.events ?? [])] })}
			other={<Cancel onClick={onClose} />}
		>
			<Fields value={wanted} onChange={setWanted} />
		</Form>
	);
}

/** Changes what is called, and about what. */
export function ChangeWebhook({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<Permitted method={WebhookService.method.updateWebhook}>
			<Button variant="default" onClick={open}>
				{t("webhooks.change")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("webhooks.changeTitle")}>
				<Change of={of} onClose={close} />
			</Dialog>
		</Permitted>
	);
}

function Change({ of, onClose }: { of: Webhook; onClose: () => void }) {
	const { t } = useTranslation();
	const [wanted, setWanted] = useState<Wanted>({ url: of.url, description: of.description, events: of.events.length > 0 ? of.events : undefined });
	const update = useMutation(WebhookService.method.updateWebhook, { onSuccess: onClose });
	// What is not changed is not sent: another URL begins anew.
	const paths = [
		wanted.url !== of.url && "url",
		wanted.description !== of.description && "description",
		(wanted.events ?? []).join() !== of.events.join() && "events",
	].filter((path) => path !== false);
	return (
		<Form
			label={t("save")}
			pending={update.isPending}
			error={update.error}
			disabled={paths.length === 0 || wanted.events?.length === 0}
			onSend={() =>
				update.mutate({
					organizationId: of.organizationId,
					webhookId: of.id,
					updateMask: { paths },
					url: wanted.url,
					description: wanted.description,
					events: [...(wanted.events ?? [])],
				})
			}
			other={<Cancel onClick={onClose} />}
		>
			<Fields value={wanted} onChange={setWanted} />
		</Form>
	);
}

function Fields({ value, onChange }: { value: Wanted; onChange: (wanted: Wanted) => void }) {
	const { t } = useTranslation();
	const wrong = value.url !== "https://" && !"https://".startsWith(value.url) && !urlRule.test(value.url);
	return (
		<>
			<TextInput
				label={t("webhooks.url")}
				description={t("webhooks.urlText")}
				value={value.url}
				onChange={(event) => onChange({ ...value, url: event.currentTarget.value.trim() })}
				error={wrong ? t("webhooks.urlRule") : undefined}
				type="url"
				maxLength={500}
				autoComplete="off"
				spellCheck={false}
				required
				withAsterisk={false}
				data-autofocus
			/>
			<TextInput
				label={t("webhooks.description")}
				description={t("webhooks.descriptionText")}
				value={value.description}
				onChange={(event) => onChange({ ...value, description: event.currentTarget.value })}
				maxLength={200}
				autoComplete="off"
			/>
			<Stack gap="xs">
				<Radio.Group
					label={t("webhooks.events")}
					value={value.events ? "some" : "all"}
					onChange={(which) => onChange({ ...value, events: which === "all" ? undefined : [] })}
				>
					<Stack gap="xs" mt={6}>
						<Radio value="all" label={t("webhooks.allEvents")} description={t("webhooks.allEventsText")} />
						<Radio value="some" label={t("webhooks.someEvents")} />
					</Stack>
				</Radio.Group>
				{value.events && (
					<MultiSelect
						aria-label={t("webhooks.whichEvents")}
						placeholder={value.events.length === 0 ? t("webhooks.whichEvents") : undefined}
						data={[...new Set([...events, ...value.events])]}
						value={[...value.events]}
						onChange={(chosen) => onChange({ ...value, events: chosen.sort() })}
						renderOption={({ option }) => <Option event={option.value} />}
						searchable
						hidePickedOptions
						nothingFoundMessage={t("commands.nothing")}
					/>
				)}
			</Stack>
		</>
	);
}

function Option({ event }: { event: string }) {
	const { t } = useTranslation();
	const key = eventKey(event);
	return (
		<div>
			<Text size="sm">{event}</Text>
			{key && (
				<Text size="xs" c="dimmed">
					{t(key)}
				</Text>
			)}
		</div>
	);
}

/** Gives a webhook a new secret, and shows it once. */
export function RotateSecret({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<Permitted method={WebhookService.method.rotateWebhookSecret}>
			<Button variant="default" onClick={open}>
				{t("webhooks.rotate")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("webhooks.rotate")} firm>
				<Rotate of={of} onClose={close} />
			</Dialog>
		</Permitted>
	);
}

function Rotate({ of, onClose }: { of: Webhook; onClose: () => void }) {
	const { t } = useTranslation();
	const [leaked, setLeaked] = useState(false);
	const rotate = useMutation(WebhookService.method.rotateWebhookSecret);
	if (rotate.data) return <Shown text={rotate.data.secret} onKept={onClose} />;
	return (
		<Form
			label={t("webhooks.rotateGo")}
			pending={rotate.isPending}
			error={rotate.error}
			onSend={() => rotate.mutate({ organizationId: of.organizationId, webhookId: of.id, leaked })}
			other={<Cancel onClick={onClose} />}
		>
			<Text size="sm">{t("webhooks.rotateText")}</Text>
			<Checkbox
				label={t("webhooks.leaked")}
				description={t("webhooks.leakedText")}
				checked={leaked}
				onChange={(event) => setLeaked(event.currentTarget.checked)}
			/>
		</Form>
	);
}

function Shown({ text, onKept }: { text: string; onKept: () => void }) {
	const { t } = useTranslation();
	return (
		<Secret title={t("webhooks.once")} warning={t("webhooks.onceText")} what={t("webhooks.secret")} text={text} kept={t("webhooks.kept")} onKept={onKept} />
	);
}
