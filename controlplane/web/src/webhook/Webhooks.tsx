import { useQuery } from "@connectrpc/connect-query";
import { useTranslation } from "react-i18next";
import type { Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { WebhookService } from "../gen/chom/webhook/v1/webhook_service_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { Item, List, Words } from "../ui/List.js";
import { Empty, Failure, Link, Page, Waiting } from "../ui/parts.js";
import { sentence } from "../ui/words.js";
import { hostOf } from "./events.js";
import { CreateWebhook } from "./WebhookForm.js";
import { WebhookState } from "./WebhookState.js";

/** What is called when something happens to the organization. */
export function Webhooks() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const { data, error, isPending, refetch } = useQuery(WebhookService.method.listWebhooks, { organizationId: organization });
	const webhooks = data?.webhooks ?? [];
	return (
		<Page title={t("webhooks.title")} aside={data && <CreateWebhook organization={organization} />}>
			{isPending && <Waiting />}
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{data && webhooks.length === 0 && <Empty title={t("webhooks.none")}>{t("webhooks.noneText")}</Empty>}
			{webhooks.length > 0 && (
				<List label={t("webhooks.title")}>
					{webhooks.map((webhook) => (
						<Row key={webhook.id} of={webhook} />
					))}
				</List>
			)}
		</Page>
	);
}

function Row({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	return (
		<Item
			title={
				<Link to="/o/$organization/webhooks/$webhook" params={{ organization: of.organizationId, webhook: of.id }}>
					{hostOf(of.url)}
				</Link>
			}
			more={of.description}
		>
			<Words
				of={[<WebhookState key="state" of={of} />, of.events.length === 0 ? t("webhooks.allEvents") : t("webhooks.eventCount", { count: of.events.length })]}
			/>
			{of.problem && <div>{sentence(of.problem)}</div>}
		</Item>
	);
}
