import { useQuery } from "@connectrpc/connect-query";
import { Group, Stack, Text, Title } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { type Attempt, type Delivery, DeliveryState, type Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { WebhookService } from "../gen/chom/webhook/v1/webhook_service_pb.js";
import { Act } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { span } from "../ui/format.js";
import { Dot, Failure, Waiting } from "../ui/parts.js";
import scrolled from "../ui/Scrolled.module.css";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";

const states = {
	[DeliveryState.UNSPECIFIED]: ["idle", "waiting"],
	[DeliveryState.WAITING]: ["busy", "waiting"],
	[DeliveryState.SENDING]: ["busy", "sending"],
	[DeliveryState.SENT]: ["good", "sent"],
	[DeliveryState.DEAD]: ["bad", "dead"],
} as const;

export function DeliveryDot({ of }: { of: DeliveryState }) {
	const { t } = useTranslation();
	const [tone, key] = states[of] ?? states[DeliveryState.UNSPECIFIED];
	return <Dot tone={tone}>{t(`webhooks.delivery.${key}`)}</Dot>;
}

/** Sends a delivery again, or now where it waits for its next try. */
export function Again({ webhook, of }: { webhook: Webhook; of: Delivery }) {
	const { t } = useTranslation();
	if (!webhook.enabled || of.state === DeliveryState.SENDING) return null;
	const word = of.state === DeliveryState.WAITING ? t("webhooks.now") : t("webhooks.again");
	return (
		<Act
			method={WebhookService.method.replayDelivery}
			request={{ organizationId: webhook.organizationId, webhookId: webhook.id, deliveryId: of.id }}
			size="compact-sm"
			aria-label={`${word}: ${of.type}`}
		>
			{word}
		</Act>
	);
}

/** All calls of one delivery, as they happen, and what is sent. */
export function Delivered({ webhook, delivery, onClose }: { webhook: Webhook; delivery: string | undefined; onClose: () => void }) {
	const { t } = useTranslation();
	return (
		<Dialog opened={delivery !== undefined} onClose={onClose} title={t("webhooks.oneDelivery")} size="lg">
			{delivery !== undefined && <Calls webhook={webhook} delivery={delivery} />}
		</Dialog>
	);
}

function Calls({ webhook, delivery: deliveryId }: { webhook: Webhook; delivery: string }) {
	const { t } = useTranslation();
	const { data, error, isPending } = useQuery(
		WebhookService.method.getDelivery,
		{ organizationId: webhook.organizationId, webhookId: webhook.id, deliveryId },
		{ refetchInterval: 1_000 },
	);
	const delivery = data?.delivery;
	if (!delivery) return isPending ? <Waiting /> : <Failure error={error} />;
	return (
		<Stack gap="md">
			<Group gap="sm" justify="space-between">
				<Group gap="sm">
					<code>{delivery.type}</code>
					<DeliveryDot of={delivery.state} />
				</Group>
				<Again webhook={webhook} of={delivery} />
			</Group>
			{delivery.nextTryTime && (
				<Text size="sm">
					{webhook.enabled || delivery.type === "webhook.test" ? (
						<>
							{t("webhooks.nextTry")} <Time of={delivery.nextTryTime} />
						</>
					) : (
						t("webhooks.waitsForResume")
					)}
				</Text>
			)}
			{delivery.attempts.length > 0 && (
				<Sheet
					label={t("webhooks.calls")}
					of={delivery.attempts}
					keyOf={({ startTime }) => `${startTime?.seconds}.${startTime?.nanos}`}
					columns={[
						{ title: t("webhooks.call.when"), cell: ({ startTime }) => <Time of={startTime} exact /> },
						{ title: t("webhooks.call.took"), cell: (attempt) => took(attempt) },
						{ title: t("webhooks.call.status"), cell: ({ status }) => (status === 0 ? t("webhooks.noAnswer") : status) },
						{ title: t("webhooks.call.problem"), cell: ({ problem }) => (problem ? sentence(problem) : "–") },
					]}
				/>
			)}
			<div>
				<Title order={3} size="h5" mb={4}>
					{t("webhooks.payload")}
				</Title>
				{/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls is to be reached by keys */}
				<section className={scrolled.text} tabIndex={0} aria-label={t("webhooks.payload")}>
					{pretty(delivery.payload)}
				</section>
			</div>
		</Stack>
	);
}

const took = ({ duration }: Attempt) => (duration ? span(Number(duration.seconds) * 1000 + duration.nanos / 1e6) : "–");

/** JSON with a line for each field. */
function pretty(text: string): string {
	try {
		return JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		return text;
	}
}
