import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Button, SegmentedControl, Stack, Text } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { every } from "../api.js";
import { type Delivery, DeliveryState, type Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { WebhookService } from "../gen/chom/webhook/v1/webhook_service_pb.js";
import { Item, List, Words } from "../ui/List.js";
import { Card, Failure, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { Again, DeliveryDot } from "./Delivery.js";

const filters = { all: DeliveryState.UNSPECIFIED, waiting: DeliveryState.WAITING, dead: DeliveryState.DEAD, sent: DeliveryState.SENT } as const;

/** What a webhook was told in the last 30 days, or is still to be told. */
export function Deliveries({ webhook, onShow }: { webhook: Webhook; onShow: (delivery: string) => void }) {
	const { t } = useTranslation();
	const [filter, setFilter] = useState<keyof typeof filters>("all");
	const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery(
		WebhookService.method.listDeliveries,
		{ organizationId: webhook.organizationId, webhookId: webhook.id, state: filters[filter], pageSize: 25, pageToken: "" },
		{
			pageParamKey: "pageToken",
			getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
			refetchInterval: ({ state }) => ((state.data?.pages.length ?? 0) > 1 ? false : every),
		},
	);
	const deliveries = data?.pages.flatMap((page) => page.deliveries) ?? [];
	return (
		<Card
			title={t("webhooks.deliveries")}
			aside={
				<SegmentedControl
					size="xs"
					transitionDuration={0}
					aria-label={t("webhooks.filter")}
					value={filter}
					onChange={(value) => setFilter(value as keyof typeof filters)}
					data={(Object.keys(filters) as (keyof typeof filters)[]).map((value) => ({ value, label: t(`webhooks.filters.${value}`) }))}
				/>
			}
		>
			{isPending && <Waiting />}
			<Failure error={error} retry={() => void refetch()} />
			{data && deliveries.length === 0 && (
				<Text size="sm" c="dimmed">
					{filter === "all" ? t("webhooks.noDelivery") : t("webhooks.noSuchDelivery")}
				</Text>
			)}
			{deliveries.length > 0 && (
				<Stack gap="sm" align="stretch">
					<List label={t("webhooks.deliveries")}>
						{deliveries.map((delivery) => (
							<Row key={delivery.id} webhook={webhook} of={delivery} onShow={onShow} />
						))}
					</List>
					{hasNextPage && (
						<div>
							<Button variant="default" size="compact-sm" loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
								{t("audit.more")}
							</Button>
						</div>
					)}
				</Stack>
			)}
		</Card>
	);
}

function Row({ webhook, of, onShow }: { webhook: Webhook; of: Delivery; onShow: (delivery: string) => void }) {
	const { t } = useTranslation();
	return (
		<Item
			title={<code>{of.type}</code>}
			actions={
				<>
					<Button variant="default" size="compact-sm" onClick={() => onShow(of.id)} aria-label={t("webhooks.callsOf", { event: of.type })}>
						{t("webhooks.calls")}
					</Button>
					<Again webhook={webhook} of={of} />
				</>
			}
		>
			<Words
				of={[
					<DeliveryDot key="state" of={of.state} />,
					<Time key="made" of={of.createTime} />,
					of.tries > 1 && t("webhooks.tries", { count: of.tries }),
					of.nextTryTime && webhook.enabled && (
						<span key="next">
							{t("mails.next")} <Time of={of.nextTryTime} />
						</span>
					),
				]}
			/>
			{of.problem && <div>{sentence(of.problem)}</div>}
		</Item>
	);
}
