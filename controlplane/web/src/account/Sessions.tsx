import { useQuery } from "@connectrpc/connect-query";
import { Group, Stack, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { SessionService } from "../gen/chom/account/v1/session_service_pb.js";
import { Act } from "../ui/Act.js";
import { Card, Failure, Link, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";

/** Where the person is signed in. */
export function Sessions() {
	const { t } = useTranslation();
	const { data, error, isPending } = useQuery(SessionService.method.listSessions, {});
	return (
		<Page
			title={t("sessions.title")}
			above={<Link to="/account">{t("account.title")}</Link>}
			aside={
				data && data.sessions.length > 1 ? (
					<Act method={SessionService.method.revokeOtherSessions} request={{}}>
						{t("sessions.endOthers")}
					</Act>
				) : undefined
			}
		>
			<Failure error={error} />
			{isPending && <Waiting />}
			<Stack gap="sm">
				{data?.sessions.map((session) => (
					<Card key={session.id}>
						<Group justify="space-between">
							<div>
								<Text fw={600}>{session.current ? t("sessions.this") : session.userAgent || t("sessions.unknown")}</Text>
								<Text size="sm" c="dimmed">
									{t("sessions.from", { address: session.address })} · <Time of={session.lastUsedTime} />
								</Text>
							</div>
							{!session.current && (
								<Act method={SessionService.method.revokeSession} request={{ sessionId: session.id }} size="compact-sm">
									{t("sessions.end")}
								</Act>
							)}
						</Group>
					</Card>
				))}
			</Stack>
		</Page>
	);
}
