import { SegmentedControl } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { State } from "../gen/chom/task/v1/task_pb.js";
import { useOrganizationId } from "../organization/here.js";
import { Page } from "../ui/parts.js";
import { TaskTable } from "./TaskTable.js";

const filters = {
	all: [],
	running: [State.QUEUED, State.OFFERED, State.RUNNING, State.UNKNOWN],
	failed: [State.FAILED, State.TIMED_OUT],
} as const;

/** What CHOM does and did for the organization. */
export function Tasks() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const [filter, setFilter] = useState<keyof typeof filters>("all");
	return (
		<Page
			title={t("tasks.title")}
			aside={
				<SegmentedControl
					size="xs"
					transitionDuration={0}
					aria-label={t("tasks.filter")}
					value={filter}
					onChange={(value) => setFilter(value as keyof typeof filters)}
					data={(Object.keys(filters) as (keyof typeof filters)[]).map((value) => ({ value, label: t(`tasks.filters.${value}`) }))}
				/>
			}
		>
			<TaskTable organization={organization} states={[...filters[filter]]} />
		</Page>
	);
}
