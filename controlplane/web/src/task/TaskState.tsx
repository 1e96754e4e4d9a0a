import { useTranslation } from "react-i18next";
import { Kind, State, StepState } from "../gen/chom/task/v1/task_pb.js";
import { Dot, type Tone } from "../ui/parts.js";

const states = {
	[State.UNSPECIFIED]: ["idle", "unknown"],
	[State.QUEUED]: ["idle", "queued"],
	[State.OFFERED]: ["busy", "offered"],
	[State.RUNNING]: ["busy", "running"],
	[State.UNKNOWN]: ["warn", "unknown"],
	[State.SUCCEEDED]: ["good", "succeeded"],
	[State.FAILED]: ["bad", "failed"],
	[State.CANCELED]: ["idle", "canceled"],
	[State.TIMED_OUT]: ["bad", "timedOut"],
} as const satisfies Record<State, readonly [Tone, string]>;

/** A task's life. */
export function TaskState({ of }: { of: State }) {
	const { t } = useTranslation();
	const [tone, key] = states[of] ?? states[State.UNSPECIFIED];
	return <Dot tone={tone}>{t(`task.state.${key}`)}</Dot>;
}

const kinds = {
	[Kind.UNSPECIFIED]: "other",
	[Kind.NOOP]: "noop",
	[Kind.PREPARE_SERVER]: "prepare",
	[Kind.CONVERGE_SITE]: "converge",
	[Kind.SITE_LOGIN]: "login",
	[Kind.BACKUP_SITE]: "backup",
	[Kind.RESTORE_SITE]: "restore",
	[Kind.UNDO_RESTORE]: "undo",
	[Kind.DRILL_SITE]: "drill",
} as const satisfies Record<Kind, string>;

/** What a task does, in words; a kind that this page does not know yet is a task. */
export const kindKey = (kind: Kind) => `task.kind.${kinds[kind] ?? "other"}` as const;

const steps = {
	[StepState.UNSPECIFIED]: ["idle", "running"],
	[StepState.RUNNING]: ["busy", "running"],
	[StepState.DONE]: ["good", "done"],
	[StepState.ALREADY_DONE]: ["good", "already"],
	[StepState.FAILED]: ["bad", "failed"],
} as const satisfies Record<StepState, readonly [Tone, string]>;

export function StepStateOf({ of }: { of: StepState }) {
	const { t } = useTranslation();
	const [tone, key] = steps[of] ?? steps[StepState.UNSPECIFIED];
	return <Dot tone={tone}>{t(`task.step.${key}`)}</Dot>;
}
