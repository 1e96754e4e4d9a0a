import { useQuery } from "@connectrpc/connect-query";
import { Stack, Text } from "@mantine/core";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { WebhookService } from "../gen/chom/webhook/v1/webhook_service_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { Act, Confirmed, Permitted } from "../ui/Act.js";
import { Card, Facts, Failure, Link, Notice, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { Deliveries } from "./Deliveries.js";
import { Delivered } from "./Delivery.js";
import { hostOf } from "./events.js";
import { ChangeWebhook, RotateSecret } from "./WebhookForm.js";
import { WebhookState } from "./WebhookState.js";

/** One webhook, and what it was told. */
export function WebhookPage() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const { webhook: webhookId } = useParams({ from: "/frame/o/$organization/webhooks/$webhook" });
	const { data, error, isPending, refetch } = useQuery(WebhookService.method.getWebhook, { organizationId: organization, webhookId });
	const [shown, setShown] = useState<string>();
	const webhook = data?.webhook;
	const above = (
		<Link to="/o/$organization/webhooks" params={{ organization }}>
			{t("webhooks.title")}
		</Link>
	);
	if (!webhook) {
		return (
			<Page title={t("webhooks.one")} above={above}>
				{isPending ? <Waiting /> : <Failure error={error} retry={() => void refetch()} />}
			</Page>
		);
	}
	const request = { organizationId: organization, webhookId };
	return (
		<Page
			title={hostOf(webhook.url)}
			above={above}
			aside={
				<>
					<Act method={WebhookService.method.testWebhook} request={request} onDone={({ delivery }) => setShown(delivery?.id)}>
						{t("webhooks.test")}
					</Act>
					<ChangeWebhook of={webhook} />
					<RotateSecret of={webhook} />
					<Switch of={webhook} />
				</>
			}
		>
			{webhook.problem && (
				<Notice tone="warn" title={t("webhooks.disabled")}>
					<Text size="sm">{sentence(webhook.problem)}</Text>
					<Text size="sm">{t("webhooks.disabledText")}</Text>
				</Notice>
			)}
			<Card>
				<Facts
					of={[
						[t("webhooks.state.title"), <WebhookState key="state" of={webhook} />],
						[t("webhooks.url"), <code key="url">{webhook.url}</code>],
						webhook.description !== "" && [t("webhooks.description"), webhook.description],
						[t("webhooks.events"), webhook.events.length === 0 ? t("webhooks.allEvents") : webhook.events.join(", ")],
						webhook.formerSecretExpireTime && [t("webhooks.former"), <Time key="former" of={webhook.formerSecretExpireTime} />],
						[t("site.created"), <Time key="created" of={webhook.createTime} />],
					]}
				/>
			</Card>
			<Deliveries webhook={webhook} onShow={setShown} />
			<Card title={t("webhooks.genuine")}>
				<Stack gap="xs">
					<Text size="sm" maw={680}>
						{t("webhooks.genuineText")}
					</Text>
					<code>{"Chom-Signature: t=1764078180,v1=5257a869…"}</code>
					<Text size="sm" maw={680}>
						{t("webhooks.genuineRule")}
					</Text>
				</Stack>
			</Card>
			<Permitted method={WebhookService.method.deleteWebhook}>
				<Card title={t("danger.title")} tone="danger">
					<Stack gap="sm" align="flex-start">
						<Text size="sm" maw={620}>
							{t("webhooks.deleteText")}
						</Text>
						<Delete of={webhook} />
					</Stack>
				</Card>
			</Permitted>
			<Delivered webhook={webhook} delivery={shown} onClose={() => setShown(undefined)} />
		</Page>
	);
}

function Switch({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	const request = { organizationId: of.organizationId, webhookId: of.id, updateMask: { paths: ["enabled"] }, enabled: !of.enabled };
	if (!of.enabled) {
		return (
			<Act method={WebhookService.method.updateWebhook} request={request} variant="filled">
				{t("webhooks.resume")}
			</Act>
		);
	}
	return (
		<Confirmed
			method={WebhookService.method.updateWebhook}
			request={request}
			title={t("webhooks.stopTitle")}
			explain={t("webhooks.stopText")}
			confirm={t("webhooks.stop")}
		>
			{t("webhooks.stop")}
		</Confirmed>
	);
}

function Delete({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	const navigate = useNavigate();
	return (
		<Confirmed
			method={WebhookService.method.deleteWebhook}
			request={{ organizationId: of.organizationId, webhookId: of.id }}
			onDone={() => void navigate({ to: "/o/$organization/webhooks", params: { organization: of.organizationId } })}
			title={t("webhooks.deleteTitle", { name: hostOf(of.url) })}
			explain={t("webhooks.deleteText")}
			typed={hostOf(of.url)}
			confirm={t("webhooks.delete")}
			color="red"
			variant="outline"
		>
			{t("webhooks.delete")}
		</Confirmed>
	);
}
