import { useTranslation } from "react-i18next";
import type { Webhook } from "../gen/chom/webhook/v1/webhook_pb.js";
import { Dot } from "../ui/parts.js";
import { Time } from "../ui/Time.js";

/** Whether it is called, and whether that goes well. */
export function WebhookState({ of }: { of: Webhook }) {
	const { t } = useTranslation();
	if (!of.enabled) return of.problem ? <Dot tone="bad">{t("webhooks.state.disabled")}</Dot> : <Dot tone="idle">{t("webhooks.state.stopped")}</Dot>;
	if (!of.failingTime) return <Dot tone="good">{t("webhooks.state.called")}</Dot>;
	return (
		<Dot tone="warn">
			<span>
				{t("webhooks.state.failing")} <Time of={of.failingTime} />
			</span>
		</Dot>
	);
}
