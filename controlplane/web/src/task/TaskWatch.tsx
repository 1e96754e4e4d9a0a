import { Alert, Group, Stack, Text } from "@mantine/core";
import { useLayoutEffect, useRef } from "react";
import { useTranslation } from "react-i18next";
import { type LogLine, type Step, StepState, type Task } from "../gen/chom/task/v1/task_pb.js";
import { useNow } from "../ui/clock.js";
import { milliseconds, span } from "../ui/format.js";
import { AlertIcon } from "../ui/icons.js";
import { Failure, Waiting } from "../ui/parts.js";
import scrolled from "../ui/Scrolled.module.css";
import { sentence } from "../ui/words.js";
import { useFollowed } from "./follow.js";
import classes from "./Task.module.css";
import { StepStateOf, TaskState } from "./TaskState.js";

/** A task as it happens: each step and line is there within a second of its host. */
export function TaskWatch({ organization, task: id }: { organization: string; task: string }) {
	const { t } = useTranslation();
	const { task, lines, live, error } = useFollowed(organization, id);
	if (error) return <Failure error={error} />;
	if (!task) return live === "lost" ? <Lost /> : <Waiting rows={2} height={28} />;
	return (
		<Stack gap="sm">
			<Group gap="lg" role="status" aria-live="polite">
				<TaskState of={task.state} />
				<Text size="sm" c="dimmed">
					{task.stepCount > 0 ? t("task.progress", { done: finished(task), all: task.stepCount }) : ""}
					{task.attempt > 1 && ` · ${t("task.attempt", { attempt: task.attempt })}`}
				</Text>
				{live === "lost" && <Lost />}
			</Group>
			{task.error && (
				<Alert role="alert" color="red" variant="outline" icon={<AlertIcon />} title={t("task.why")}>
					<Text size="sm">{sentence(task.error)}</Text>
				</Alert>
			)}
			<Steps steps={task.steps} />
			<Log lines={lines} />
		</Stack>
	);
}

const finished = (task: Task) => task.steps.filter(({ state }) => state === StepState.DONE || state === StepState.ALREADY_DONE).length;

function Lost() {
	const { t } = useTranslation();
	return (
		<Text size="sm" fw={600}>
			{t("task.lost")}
		</Text>
	);
}

function Steps({ steps }: { steps: readonly Step[] }) {
	const now = useNow();
	if (steps.length === 0) return null;
	return (
		<ol className={classes.steps}>
			{steps.map((step, place) => (
				<li key={place} className={classes.step}>
					<span className={classes.name}>{step.name}</span>
					<StepStateOf of={step.state} />
					<span className={classes.message}>{step.message}</span>
					<span className={classes.took}>{step.startTime && span((step.endTime ? milliseconds(step.endTime) : now) - milliseconds(step.startTime))}</span>
				</li>
			))}
		</ol>
	);
}

/** The lines that a task printed. It stays at its end, unless the reader has scrolled up. */
function Log({ lines }: { lines: readonly LogLine[] }) {
	const { t } = useTranslation();
	const box = useRef<HTMLPreElement>(null);
	const atEnd = useRef(true);
	// biome-ignore lint/correctness/useExhaustiveDependencies: each new line moves the end
	useLayoutEffect(() => {
		if (box.current && atEnd.current) box.current.scrollTop = box.current.scrollHeight;
	}, [lines]);
	if (lines.length === 0) return null;
	return (
		<pre
			role="log"
			ref={box}
			className={scrolled.text}
			aria-label={t("task.log")}
			// biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, which the keyboard must be able to do
			tabIndex={0}
			onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
				atEnd.current = scrollHeight - scrollTop - clientHeight < 8;
			}}
		>
			{lines.map((line) => `${line.text}\n`)}
		</pre>
	);
}
