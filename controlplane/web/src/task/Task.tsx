import { useQuery } from "@connectrpc/connect-query";
import { useParams } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { TaskService } from "../gen/chom/task/v1/task_service_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { platform } from "../server/queries.js";
import { Confirmed } from "../ui/Act.js";
import { Card, Facts, Failure, Link, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { ended } from "./follow.js";
import { kindKey } from "./TaskState.js";
import { TaskWatch } from "./TaskWatch.js";

/** One task, live. */
export function TaskPage() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const { task: taskId } = useParams({ from: "/frame/o/$organization/tasks/$task" });
	const request = { organizationId: organization, taskId };
	const { data, error, isPending } = useQuery(TaskService.method.getTask, request);
	const task = data?.task;
	const above =
		organization !== platform ? (
			<Link to="/o/$organization/tasks" params={{ organization }}>
				{t("tasks.title")}
			</Link>
		) : task ? (
			<Link to="/servers/$server" params={{ server: task.serverId }}>
				{t("server.title")}
			</Link>
		) : undefined;
	if (!task) {
		return (
			<Page title={t("task.title")} above={above}>
				{isPending ? <Waiting /> : <Failure error={error} />}
			</Page>
		);
	}
	return (
		<Page
			title={t(kindKey(task.kind))}
			above={above}
			aside={
				!ended(task.state) &&
				!task.cancelRequested && (
					<Confirmed
						method={TaskService.method.cancelTask}
						request={request}
						title={t("task.cancelTitle")}
						explain={t("task.cancelText")}
						confirm={t("task.cancel")}
					>
						{t("task.cancel")}
					</Confirmed>
				)
			}
		>
			<Card>
				<TaskWatch organization={organization} task={taskId} />
			</Card>
			<Card title={t("task.about")}>
				<Facts
					of={[
						task.siteId !== "" && [
							t("site.title"),
							<Link key="site" to="/o/$organization/sites/$site" params={{ organization, site: task.siteId }}>
								{t("task.toSite")}
							</Link>,
						],
						[t("task.asked"), <Time key="asked" of={task.createTime} />],
						[t("task.started"), <Time key="started" of={task.startTime} />],
						[t("task.ended"), <Time key="ended" of={task.endTime} />],
						!ended(task.state) && [t("task.deadline"), <Time key="deadline" of={task.deadline} />],
						[t("task.id"), <code key="id">{task.id}</code>],
					]}
				/>
			</Card>
		</Page>
	);
}
