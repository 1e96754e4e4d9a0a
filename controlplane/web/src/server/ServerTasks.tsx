import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Button, Stack } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { ServerService, type ServerTask } from "../gen/chom/fleet/v1/server_service_pb.js";
import type { Task } from "../gen/chom/task/v1/task_pb.js";
import { TaskState } from "../task/TaskState.js";
import { TaskKind, took } from "../task/TaskTable.js";
import { Card, Failure, Link, Waiting } from "../ui/parts.js";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";

/** What a server's agent was asked, whosever it is. */
export function ServerTasks({ server }: { server: string }) {
	const { t } = useTranslation();
	const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery(
		ServerService.method.listServerTasks,
		{ serverId: server, pageSize: 25, pageToken: "" },
		{ pageParamKey: "pageToken", getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined },
	);
	const tasks = data?.pages.flatMap((page) => page.tasks.filter((one): one is ServerTask & { task: Task } => one.task !== undefined)) ?? [];
	return (
		<Card title={t("tasks.title")}>
			{isPending && <Waiting />}
			<Failure error={error} retry={() => void refetch()} />
			{data && tasks.length === 0 && t("server.noTasks")}
			{tasks.length > 0 && (
				<Stack gap="sm" align="flex-start">
					<Sheet
						label={t("tasks.title")}
						of={tasks}
						keyOf={({ task }) => task.id}
						columns={[
							{ title: t("tasks.column.kind"), cell: ({ task }) => <TaskKind of={task} /> },
							{
								title: t("tasks.column.site"),
								cell: ({ task, siteName }) =>
									siteName ? (
										<Link to="/o/$organization/sites/$site" params={{ organization: task.organizationId, site: task.siteId }}>
											{siteName}
										</Link>
									) : (
										"–"
									),
							},
							{ title: t("server.owner"), cell: ({ organizationName }) => organizationName || "–" },
							{ title: t("tasks.column.state"), cell: ({ task }) => <TaskState of={task.state} /> },
							{ title: t("tasks.column.asked"), cell: ({ task }) => <Time of={task.createTime} /> },
							{ title: t("tasks.column.took"), cell: ({ task }) => took(task) },
						]}
					/>
					{hasNextPage && (
						<Button variant="default" size="compact-sm" loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
							{t("server.moreTasks")}
						</Button>
					)}
				</Stack>
			)}
		</Card>
	);
}
