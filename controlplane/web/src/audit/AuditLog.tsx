import { useTransport } from "@connectrpc/connect-query";
import { Autocomplete, Button, Group, Menu, Select, Text, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useMutation } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { ExportFormat } from "../gen/chom/audit/v1/audit_service_pb.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { useHere, useOrganizationId } from "../organization/here.js";
import { useMembers, useRights } from "../organization/rights.js";
import { platform } from "../server/queries.js";
import { Cancel } from "../ui/Act.js";
import { bytes } from "../ui/format.js";
import { Failure, Link, Page } from "../ui/parts.js";
import { Events } from "./Events.js";
import { exportEvents, save } from "./export.js";
import { type Filter, toFilter } from "./filter.js";
import { useEvents, useMyEvents } from "./queries.js";
import { toRequest } from "./request.js";

/** What happened to the organization. */
export function AuditLog() {
	const organization = useOrganizationId();
	return <Log organization={organization} name={useHere()?.name ?? ""} />;
}

/** What happened to the platform itself. */
export function PlatformLog() {
	return <Log organization={platform} name="platform" />;
}

/** What the reader did, and what was done to their account. */
export function MyEvents() {
	const { t } = useTranslation();
	const events = useMyEvents();
	return (
		<Page title={t("audit.mine")} above={<Link to="/account">{t("account.title")}</Link>}>
			<Text c="dimmed" maw={640}>
				{t("audit.mineText")}
			</Text>
			<Events of={events} none={t("audit.mineText")} />
		</Page>
	);
}

function Log({ organization, name }: { organization: string; name: string }) {
	const { t } = useTranslation();
	const filter = toFilter(useSearch({ strict: false }));
	const navigate = useNavigate();
	const change = (part: { [Key in keyof Filter]: Filter[Key] | undefined }) =>
		void navigate({ to: ".", search: toFilter({ ...filter, ...part }) as never, replace: true, resetScroll: false });
	const request = toRequest(organization, filter);
	const admin = useRights(organization).may(Role.ADMIN);
	return (
		<Page title={organization === platform ? t("audit.ofPlatform") : t("audit.title")} aside={admin && <Export request={request} name={name} />}>
			{admin && <Choices organization={organization} filter={filter} onChange={change} />}
			<Events
				of={useEvents(request)}
				organization={organization}
				onFilter={change}
				none={Object.keys(filter).length > 0 ? t("audit.noMatch") : t("audit.noneText")}
			/>
		</Page>
	);
}

/** What actions begin with; an action itself may be typed too. */
const nouns = [
	"access.",
	"account.",
	"audit.",
	"backup.",
	"impersonation.",
	"invitation.",
	"member.",
	"organization.",
	"server.",
	"session.",
	"site.",
	"task.",
	"token.",
	"webhook.",
];

function Choices({
	organization,
	filter,
	onChange,
}: {
	organization: string;
	filter: Filter;
	onChange: (part: { [Key in keyof Filter]: Filter[Key] | undefined }) => void;
}) {
	const { t } = useTranslation();
	const members = useMembers(organization, { enabled: organization !== platform, seldom: true });
	const action = useTyped("action", filter, onChange);
	const object = useTyped("object", filter, onChange);
	const people = (members.data?.members ?? []).map(({ accountId, email }) => ({ value: accountId, label: email }));
	const actors = [...people, ...(organization === platform ? [] : [{ value: organization, label: t("audit.actor.organization") }])];
	if (filter.actor && !actors.some(({ value }) => value === filter.actor)) actors.push({ value: filter.actor, label: filter.actor.slice(-8) });
	return (
		<Group gap="sm" role="search" align="flex-end">
			<Select
				label={t("audit.who")}
				placeholder={t("audit.any")}
				data={actors}
				value={filter.actor ?? null}
				onChange={(id) => onChange({ actor: id ?? undefined })}
				clearable
				searchable
				flex="1 1 12rem"
			/>
			<Autocomplete label={t("audit.what")} placeholder={t("audit.any")} data={nouns} {...action} flex="1 1 9rem" />
			<TextInput
				label={t("audit.object")}
				placeholder={t("audit.any")}
				{...object}
				onChange={(event) => object.onChange(event.currentTarget.value)}
				flex="1 1 9rem"
			/>
			<Select
				label={t("audit.outcome")}
				placeholder={t("audit.any")}
				data={[
					{ value: "done", label: t("audit.done") },
					{ value: "refused", label: t("audit.refused") },
				]}
				value={filter.outcome ?? null}
				onChange={(outcome) => onChange({ outcome: (outcome as Filter["outcome"] | null) ?? undefined })}
				clearable
				flex="1 1 9rem"
			/>
			<TextInput
				label={t("audit.from")}
				type="datetime-local"
				flex="1 1 12rem"
				value={filter.from ?? ""}
				onChange={(event) => onChange({ from: event.currentTarget.value })}
			/>
			<TextInput
				label={t("audit.to")}
				type="datetime-local"
				flex="1 1 12rem"
				value={filter.to ?? ""}
				onChange={(event) => onChange({ to: event.currentTarget.value })}
			/>
			{Object.keys(filter).length > 0 && (
				<Button
					variant="default"
					onClick={() => onChange({ actor: undefined, action: undefined, object: undefined, outcome: undefined, from: undefined, to: undefined })}
				>
					{t("audit.all")}
				</Button>
			)}
		</Group>
	);
}

/** What is typed shows at once; the address follows when the hand rests. */
function useTyped(key: "action" | "object", filter: Filter, onChange: (part: Filter) => void) {
	const { t } = useTranslation();
	const [text, setText] = useState(filter[key] ?? "");
	const told = useRef(filter[key]);
	const tell = useDebouncedCallback((typed: string) => {
		told.current = toFilter({ [key]: typed })[key];
		onChange({ [key]: typed });
	}, 400);
	useEffect(() => {
		if (filter[key] === told.current) return;
		told.current = filter[key]; // a click in the list, or another address
		setText(filter[key] ?? "");
	}, [filter[key], key]);
	return {
		value: text,
		onChange: (typed: string) => {
			setText(typed);
			tell(typed.trim());
		},
		error: text.trim() !== "" && toFilter({ [key]: text.trim() })[key] === undefined ? t(`audit.rule.${key}`) : undefined,
	};
}

/** What is shown, as a file. */
function Export({ request, name }: { request: ReturnType<typeof toRequest>; name: string }) {
	const { t, i18n } = useTranslation();
	const transport = useTransport();
	const [size, setSize] = useState(0);
	const stop = useRef(new AbortController());
	const fetching = useMutation({
		mutationFn: async (format: ExportFormat) => {
			setSize(0);
			stop.current = new AbortController();
			const file = await exportEvents(transport, { ...request, format }, stop.current.signal, setSize);
			save(file, `audit-${name}-${new Date().toISOString().slice(0, 10)}.${format === ExportFormat.CSV ? "csv" : "jsonl"}`);
		},
	});
	return (
		<>
			{fetching.isPending && (
				<>
					<Text size="sm" role="status">
						{t("audit.fetched", { size: bytes(BigInt(size), i18n.language) })}
					</Text>
					<Cancel onClick={() => stop.current.abort()} />
				</>
			)}
			<Menu position="bottom-end">
				<Menu.Target>
					<Button variant="default" loading={fetching.isPending} aria-busy={fetching.isPending}>
						{t("audit.export")}
					</Button>
				</Menu.Target>
				<Menu.Dropdown>
					<Menu.Item onClick={() => fetching.mutate(ExportFormat.CSV)}>{t("audit.csv")}</Menu.Item>
					<Menu.Item onClick={() => fetching.mutate(ExportFormat.JSON_LINES)}>{t("audit.lines")}</Menu.Item>
				</Menu.Dropdown>
			</Menu>
			{fetching.error && !stop.current.signal.aborted && <Failure error={fetching.error} />}
		</>
	);
}
