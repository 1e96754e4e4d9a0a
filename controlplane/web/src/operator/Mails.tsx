import { useInfiniteQuery, useQuery } from "@connectrpc/connect-query";
import { Button, Group, SegmentedControl, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { every } from "../api.js";
import { type Mail, MailState } from "../gen/chom/mail/v1/mail_pb.js";
import { MailService } from "../gen/chom/mail/v1/mail_service_pb.js";
import { Act } from "../ui/Act.js";
import { Item, List, Words } from "../ui/List.js";
import { Card, Dot, Empty, Facts, Failure, Notice, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";

const filters = { all: MailState.UNSPECIFIED, waiting: MailState.WAITING, dead: MailState.DEAD, sent: MailState.SENT } as const;

/** What the control plane sends, and what keeps it from arriving. */
export function Mails() {
	const { t } = useTranslation();
	const [filter, setFilter] = useState<keyof typeof filters>("all");
	const [text, setText] = useState("");
	const [typed] = useDebouncedValue(text.trim(), 400);
	const recipient = /^[^\s@]+@[^\s@]+$/.test(typed) ? typed : "";
	const queue = useQuery(MailService.method.getMailQueue, {});
	const mails = useInfiniteQuery(
		MailService.method.listMails,
		{ state: filters[filter], recipient, pageToken: "" },
		{
			pageParamKey: "pageToken",
			getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined,
			refetchInterval: ({ state }) => ((state.data?.pages.length ?? 0) > 1 ? false : every),
		},
	);
	const found = mails.data?.pages.flatMap(({ mails }) => mails) ?? [];
	const now = queue.data;
	return (
		<Page
			title={t("mails.title")}
			aside={
				<Act method={MailService.method.testMail} request={{}}>
					{t("mails.test")}
				</Act>
			}
		>
			<Failure error={queue.error ?? mails.error} />
			{now?.warning && (
				<Notice tone="warn" title={t("mails.warning")}>
					{sentence(now.warning)}
				</Notice>
			)}
			{now && (
				<Card title={t("mails.queue")}>
					<Facts
						of={[
							[t("mails.server"), now.server || "–"],
							[t("mails.from"), now.from || "–"],
							[t("mails.waiting"), now.waitingCount],
							[t("mails.dead"), now.deadCount],
							[t("mails.oldest"), <Time key="oldest" of={now.oldestWaitingTime} />],
						]}
					/>
				</Card>
			)}
			<Group gap="sm" role="search">
				<SegmentedControl
					size="xs"
					transitionDuration={0}
					aria-label={t("mails.filter")}
					value={filter}
					onChange={(value) => setFilter(value as keyof typeof filters)}
					data={(Object.keys(filters) as (keyof typeof filters)[]).map((value) => ({ value, label: t(`mails.filters.${value}`) }))}
				/>
				<TextInput
					aria-label={t("mails.to")}
					placeholder={t("mails.to")}
					value={text}
					onChange={(event) => setText(event.currentTarget.value)}
					type="search"
					flex="1 1 14rem"
				/>
			</Group>
			{mails.isPending && <Waiting />}
			{mails.data && found.length === 0 && <Empty title={t("mails.none")}>{t("mails.noneText")}</Empty>}
			{found.length > 0 && (
				<List label={t("mails.title")}>
					{found.map((mail) => (
						<Row key={mail.id} of={mail} />
					))}
				</List>
			)}
			{mails.hasNextPage && (
				<div>
					<Button variant="default" loading={mails.isFetchingNextPage} onClick={() => void mails.fetchNextPage()}>
						{t("audit.more")}
					</Button>
				</div>
			)}
		</Page>
	);
}

const states = {
	[MailState.UNSPECIFIED]: ["idle", "waiting"],
	[MailState.WAITING]: ["busy", "waiting"],
	[MailState.SENDING]: ["busy", "sending"],
	[MailState.SENT]: ["good", "sent"],
	[MailState.DEAD]: ["bad", "dead"],
} as const;

function Row({ of }: { of: Mail }) {
	const { t } = useTranslation();
	const [tone, key] = states[of.state];
	return (
		<Item
			title={of.recipient}
			more={<code>{of.template}</code>}
			actions={
				(of.state === MailState.WAITING || of.state === MailState.DEAD) && (
					<Act method={MailService.method.retryMail} request={{ mailId: of.id }} size="compact-sm" aria-label={`${t("mails.retry")}: ${of.recipient}`}>
						{t("mails.retry")}
					</Act>
				)
			}
		>
			<Words
				of={[
					<Dot key="state" tone={tone}>
						{t(`mails.state.${key}`)}
					</Dot>,
					<Time key="asked" of={of.createTime} />,
					of.tries > 1 && t("mails.tries", { count: of.tries }),
					of.nextTryTime && (
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
