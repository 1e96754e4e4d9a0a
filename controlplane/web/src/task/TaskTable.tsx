import { useQuery } from "@connectrpc/connect-query";
import { Table, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import type { State } from "../gen/chom/task/v1/task_pb.js";
import { TaskService } from "../gen/chom/task/v1/task_service_pb.js";
import { useSites } from "../site/queries.js";
import { milliseconds, span } from "../ui/format.js";
import { Empty, Failure, Link, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { kindKey, TaskState } from "./TaskState.js";

/** The newest tasks of an organization, a site or a server. */
export function TaskTable({ organization, site = "", server = "", states = [] }: { organization: string; site?: string; server?: string; states?: State[] }) {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useQuery(TaskService.method.listTasks, {
		organizationId: organization,
		siteId: site,
		serverId: server,
		pageSize: 100,
		states,
	});
	const withSite = site === "" && server === "";
	const sites = useSites(organization, { enabled: withSite });
	const nameOf = new Map(sites.data?.map(({ id, name }) => [id, name]));
	if (isPending) return <Waiting />;
	if (error && !data) return <Failure error={error} retry={() => void refetch()} />;
	if (data?.tasks.length === 0) return <Empty title={t("tasks.none.title")}>{t("tasks.none.text")}</Empty>;
	return (
		<Table.ScrollContainer minWidth={520}>
			<Table highlightOnHover verticalSpacing="xs" withTableBorder bg="var(--chom-raised)">
				<Table.Thead>
					<Table.Tr>
						<Table.Th>{t("tasks.column.kind")}</Table.Th>
						{withSite && <Table.Th>{t("tasks.column.site")}</Table.Th>}
						<Table.Th>{t("tasks.column.state")}</Table.Th>
						<Table.Th>{t("tasks.column.asked")}</Table.Th>
						<Table.Th>{t("tasks.column.took")}</Table.Th>
					</Table.Tr>
				</Table.Thead>
				<Table.Tbody>
					{data?.tasks.map((task) => (
						<Table.Tr key={task.id}>
							<Table.Td>
								<Link to="/o/$organization/tasks/$task" params={{ organization: task.organizationId, task: task.id }}>
									{t(kindKey(task.kind))}
								</Link>
								{task.error && (
									<Text size="sm" c="dimmed" lineClamp={1}>
										{sentence(task.error)}
									</Text>
								)}
							</Table.Td>
							{withSite && (
								<Table.Td>
									{task.siteId && (
										<Link to="/o/$organization/sites/$site" params={{ organization: task.organizationId, site: task.siteId }}>
											{nameOf.get(task.siteId) ?? t("site.title")}
										</Link>
									)}
								</Table.Td>
							)}
							<Table.Td>
								<TaskState of={task.state} />
							</Table.Td>
							<Table.Td>
								<Time of={task.createTime} />
							</Table.Td>
							<Table.Td>{task.startTime && task.endTime ? span(milliseconds(task.endTime) - milliseconds(task.startTime)) : "–"}</Table.Td>
						</Table.Tr>
					))}
				</Table.Tbody>
			</Table>
		</Table.ScrollContainer>
	);
}
