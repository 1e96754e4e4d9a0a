import { useQuery } from "@connectrpc/connect-query";
import { Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { State, Task } from "../gen/chom/task/v1/task_pb.js";
import { TaskService } from "../gen/chom/task/v1/task_service_pb.js";
import { useSites } from "../site/queries.js";
import { milliseconds, span } from "../ui/format.js";
import { Empty, Failure, Link, Waiting } from "../ui/parts.js";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { kindKey, TaskState } from "./TaskState.js";

/** What a task does, and why it failed. */
export function TaskKind({ of: task }: { of: Task }) {
	const { t } = useTranslation();
	return (
		<>
			<Link to="/o/$organization/tasks/$task" params={{ organization: task.organizationId, task: task.id }}>
				{t(kindKey(task.kind))}
			</Link>
			{task.error && (
				<Text size="sm" c="dimmed" lineClamp={1}>
					{sentence(task.error)}
				</Text>
			)}
		</>
	);
}

/** How long it took. */
export const took = ({ startTime, endTime }: Task) => (startTime && endTime ? span(milliseconds(endTime) - milliseconds(startTime)) : "–");

/** The newest tasks of an organization or a site. */
export function TaskTable({ organization, site = "", states = [] }: { organization: string; site?: string; states?: State[] }) {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useQuery(TaskService.method.listTasks, {
		organizationId: organization,
		siteId: site,
		pageSize: 100,
		states,
	});
	const withSite = site === "";
	const sites = useSites(organization, { enabled: withSite });
	const nameOf = new Map(sites.data?.map(({ id, name }) => [id, name]));
	if (isPending) return <Waiting />;
	if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
	if (data?.tasks.length === 0) return <Empty title={t("tasks.none.title")}>{t("tasks.none.text")}</Empty>;
	return (
		<Sheet
			label={t("tasks.title")}
			of={data?.tasks ?? []}
			keyOf={({ id }) => id}
			columns={[
				{ title: t("tasks.column.kind"), cell: (task) => <TaskKind of={task} /> },
				...(withSite
					? [
							{
								title: t("tasks.column.site"),
								cell: (task: Task) =>
									task.siteId && (
										<Link to="/o/$organization/sites/$site" params={{ organization: task.organizationId, site: task.siteId }}>
											{nameOf.get(task.siteId) ?? t("site.title")}
										</Link>
									),
							},
						]
					: []),
				{ title: t("tasks.column.state"), cell: (task) => <TaskState of={task.state} /> },
				{ title: t("tasks.column.asked"), cell: (task) => <Time of={task.createTime} /> },
				{ title: t("tasks.column.took"), cell: took },
			]}
		/>
	);
}
