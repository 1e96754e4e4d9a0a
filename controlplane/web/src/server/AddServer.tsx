import { useMutation } from "@connectrpc/connect-query";
import { Group, Stack, Text, Timeline } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { State } from "../gen/chom/fleet/v1/server_pb.js";
import { type CreateServerResponse, type JoinToken, ServerService } from "../gen/chom/fleet/v1/server_service_pb.js";
import { useHere } from "../organization/here.js";
import { TaskWatch } from "../task/TaskWatch.js";
import { Act, Form } from "../ui/Act.js";
import { CheckIcon } from "../ui/icons.js";
import { NameInput } from "../ui/NameInput.js";
import { Card, Copy, Failure, Link, LinkButton, Notice, Page } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { platform, useServer } from "./queries.js";

/** A name, one line to paste, and then the page follows by itself. */
export function AddServer() {
	const { t } = useTranslation();
	const [made, setMade] = useState<CreateServerResponse>();
	const [name, setName] = useState("");
	const create = useMutation(ServerService.method.createServer, { onSuccess: setMade });
	return (
		<Page title={t("addServer.title")} above={<Link to="/servers">{t("servers.title")}</Link>}>
			{made?.server && made.joinToken ? (
				<Arrival id={made.server.id} token={made.joinToken} />
			) : (
				<Card>
					<Form label={t("addServer.go")} pending={create.isPending} error={create.error} onSend={() => create.mutate({ name })}>
						<Text size="sm" c="dimmed" maw={600}>
							{t("addServer.text")}
						</Text>
						<NameInput label={t("addServer.name")} value={name} onName={setName} maw={420} />
					</Form>
				</Card>
			)}
		</Page>
	);
}

// While somebody looks at it and waits, a second is long.
const watchful = 1_000;

/** Turns green step by step as the agent arrives. */
export function Arrival({ id, token }: { id: string; token: JoinToken }) {
	const { t } = useTranslation();
	const [line, setLine] = useState(token);
	const { data, error } = useServer(id, watchful);
	const here = useHere();
	const server = data?.server;
	const arrived = server !== undefined && server.state !== State.PENDING;
	const ready = arrived && server.online && (server.facts?.prepared ?? false);
	const step = ready ? 3 : arrived && server.online ? 2 : arrived ? 1 : 0;
	return (
		<Stack gap="md">
			{!arrived && (
				<Card title={t("addServer.paste")}>
					{line.installCommand === "" ? (
						<Stack gap="xs">
							<Text size="sm">{t("addServer.noPackages")}</Text>
							<Copy text={line.token} what={t("addServer.token")} block />
						</Stack>
					) : (
						<Copy text={line.installCommand} what={t("addServer.line")} block />
					)}
					<Text size="sm" c="dimmed" mt="sm">
						{t("addServer.once")} <Time of={line.expireTime} />
					</Text>
					<Act
						method={ServerService.method.createJoinToken}
						request={{ serverId: id }}
						onDone={({ joinToken }) => joinToken && setLine(joinToken)}
						size="compact-sm"
						mt="xs"
					>
						{t("addServer.another")}
					</Act>
				</Card>
			)}
			<Failure error={error} />
			<Card>
				<div role="status" aria-live="polite">
					<Timeline active={step} bulletSize={26} lineWidth={2} color="green.9">
						<Timeline.Item title={arrived ? t("addServer.arrived") : t("addServer.waiting")} bullet={step > 0 ? <CheckIcon size={14} /> : undefined}>
							<Text size="sm" c="dimmed">
								{arrived ? server.facts?.hostname : t("addServer.waitingText")}
							</Text>
						</Timeline.Item>
						<Timeline.Item title={t("addServer.linked")} bullet={step > 1 ? <CheckIcon size={14} /> : undefined}>
							<Text size="sm" c="dimmed">
								{arrived && server.online && [server.facts?.os, server.facts?.arch, server.facts?.agentVersion].filter(Boolean).join(" · ")}
							</Text>
						</Timeline.Item>
						<Timeline.Item title={t("addServer.prepared")} bullet={step > 2 ? <CheckIcon size={14} /> : undefined}>
							<Text size="sm" c="dimmed">
								{t("addServer.preparedText")}
							</Text>
						</Timeline.Item>
					</Timeline>
				</div>
				{arrived && !ready && server.prepareTaskId !== "" && <TaskWatch organization={platform} task={server.prepareTaskId} />}
			</Card>
			{server?.problem && (
				<Notice tone="warn" title={t("server.problem")}>
					{sentence(server.problem)}
				</Notice>
			)}
			{arrived && (
				<Group gap="sm">
					{ready && here && (
						<LinkButton to="/o/$organization/sites/new" params={{ organization: here.id }}>
							{t("sites.create")}
						</LinkButton>
					)}
					<LinkButton to="/servers/$server" params={{ server: id }} variant="default">
						{t("addServer.open")}
					</LinkButton>
				</Group>
			)}
		</Stack>
	);
}
