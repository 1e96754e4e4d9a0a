import { useQuery } from "@connectrpc/connect-query";
import { Group, Stack, Text } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type Backup, type Drill, DrillState, Reason, type Restore, State } from "../gen/chom/backup/v1/backup_pb.js";
import { BackupService } from "../gen/chom/backup/v1/backup_service_pb.js";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { TaskWatch } from "../task/TaskWatch.js";
import { Act, Confirmed, Permitted } from "../ui/Act.js";
import { useNow } from "../ui/clock.js";
import { bytes, milliseconds } from "../ui/format.js";
import { Card, Dot, Empty, Facts, Failure, Notice, type Tone, Waiting } from "../ui/parts.js";
import { Sheet } from "../ui/Sheet.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { RestoreDialog } from "./RestoreDialog.js";

/** How well a site is backed up, and how it comes back. */
export function Backups({ site }: { site: Site }) {
	const { t, i18n } = useTranslation();
	const request = { organizationId: site.organizationId, siteId: site.id };
	const status = useQuery(BackupService.method.getBackupStatus, request);
	const backups = useQuery(BackupService.method.listBackups, { ...request, pageSize: 100 });
	const restores = useQuery(BackupService.method.listRestores, request);
	const drills = useQuery(BackupService.method.listDrills, request);
	const [begun, setBegun] = useState("");
	const [restore, setRestore] = useState("");
	const list = backups.data?.backups ?? [];
	const now = status.data?.status;
	const watch = (task: string, restored = "") => {
		setBegun(task);
		setRestore(restored);
	};
	// That of a restore changes once the backup before it is there.
	const watched = restores.data?.restores.find(({ id }) => id === restore)?.taskId || begun;
	const running = list.some(({ state }) => state === State.RUNNING || state === State.CHECKING);
	const make = (
		<Act method={BackupService.method.createBackup} request={request} onDone={({ backup }) => watch(backup?.taskId ?? "")} variant="filled" disabled={running}>
			{running ? t("backup.making") : t("backup.make")}
		</Act>
	);
	return (
		<Stack gap="md">
			<Failure error={status.error ?? backups.error} retry={() => void backups.refetch()} />
			{now?.problem && (
				<Notice tone="warn" title={t("backup.problem")}>
					{sentence(now.problem)}
				</Notice>
			)}
			{now && (
				<Card title={t("backup.status")} aside={make}>
					<Facts
						of={[
							[t("backup.last"), <Time key="last" of={now.lastBackup?.startTime} none={t("backup.never")} />],
							[
								t("backup.proven"),
								now.lastProven ? (
									<Dot key="proven" tone="good">
										<Time of={now.lastProven.endTime} />
									</Dot>
								) : (
									<Dot key="proven" tone="warn">
										{t("backup.unproven")}
									</Dot>
								),
							],
							[t("backup.next"), <Time key="next" of={now.nextBackupTime} none={t("backup.noNext")} />],
							[t("backup.policy"), now.policy?.name || t("backup.platform")],
							[t("backup.size"), bytes(now.repositoryBytes, i18n.language)],
							[t("backup.verified"), <Time key="verified" of={now.verifyTime} none={t("backup.notYet")} />],
						]}
					/>
				</Card>
			)}
			<Undo restores={restores.data?.restores ?? []} onDone={watch} />
			{watched !== "" && (
				<Card title={t("backup.latest")}>
					<TaskWatch organization={site.organizationId} task={watched} />
				</Card>
			)}
			{backups.isPending && <Waiting />}
			{backups.data && list.length === 0 && <Empty title={t("backup.none.title")}>{t("backup.none.text")}</Empty>}
			{list.length > 0 && (
				<Sheet
					label={t("site.tab.backups")}
					of={list}
					keyOf={({ id }) => id}
					columns={[
						{ title: t("backup.column.moment"), cell: ({ startTime, createTime }) => <Time of={startTime ?? createTime} /> },
						{ title: t("backup.column.state"), cell: (backup) => <Came backup={backup} drills={drills.data?.drills ?? []} /> },
						{ title: t("backup.column.holds"), cell: (backup) => <Holds backup={backup} /> },
						{ title: t("backup.column.why"), cell: ({ reason }) => t(`backup.reason.${reasons[reason] ?? "requested"}`) },
						{ title: t("backup.column.do"), untitled: true, cell: (backup) => <Doing site={site} backup={backup} onTask={watch} /> },
					]}
				/>
			)}
		</Stack>
	);
}

const states = {
	[State.UNSPECIFIED]: ["idle", "running"],
	[State.RUNNING]: ["busy", "running"],
	[State.CHECKING]: ["busy", "checking"],
	[State.READY]: ["good", "ready"],
	[State.FAILED]: ["bad", "failed"],
} as const satisfies Record<State, readonly [Tone, string]>;

const reasons = {
	[Reason.UNSPECIFIED]: "requested",
	[Reason.REQUESTED]: "requested",
	[Reason.SCHEDULED]: "scheduled",
	[Reason.BEFORE_RESTORE]: "before",
	[Reason.COPIED]: "copied",
	[Reason.IMPORTED]: "imported",
} as const satisfies Record<Reason, string>;

/** What became of a backup, and of the newest try to restore it. */
function Came({ backup, drills }: { backup: Backup; drills: readonly Drill[] }) {
	const { t } = useTranslation();
	const [tone, key] = states[backup.state] ?? states[State.UNSPECIFIED];
	const drill = drills.find(({ backupId }) => backupId === backup.id);
	return (
		<>
			<Dot tone={tone}>{t(`backup.state.${key}`)}</Dot>
			{backup.problem && (
				<Text size="sm" c="dimmed" maw={320}>
					{sentence(backup.problem)}
				</Text>
			)}
			{drill && (
				<Text size="sm" c="dimmed" maw={320}>
					{drill.state === DrillState.PASSED
						? t("backup.drill.passed")
						: drill.state === DrillState.FAILED
							? `${t("backup.drill.failed")} ${drill.problem}`
							: t("backup.drill.running")}
				</Text>
			)}
		</>
	);
}

function Holds({ backup: { contents, state } }: { backup: Backup }) {
	const { t, i18n } = useTranslation();
	if (!contents || state !== State.READY) return "–";
	return (
		<Text size="sm">
			{t("backup.files", { count: Number(contents.fileCount) })}, {bytes(contents.fileBytes, i18n.language)}
			{contents.databaseSnapshot !== "" && ` · ${t("backup.database", { size: bytes(contents.dumpBytes, i18n.language) })}`}
		</Text>
	);
}

function Doing({ site, backup, onTask }: { site: Site; backup: Backup; onTask: (task: string, restore?: string) => void }) {
	const { t } = useTranslation();
	if (backup.state !== State.READY) return null;
	return (
		<Group gap="xs" wrap="nowrap" justify="flex-end">
			<Confirmed
				method={BackupService.method.drillBackup}
				request={{ organizationId: site.organizationId, siteId: site.id, backupId: backup.id }}
				onDone={({ drill }) => onTask(drill?.taskId ?? "")}
				title={t("backup.drill.title")}
				explain={t("backup.drill.text")}
				confirm={t("backup.drill.go")}
				size="compact-sm"
			>
				{t("backup.drill.go")}
			</Confirmed>
			<Permitted method={BackupService.method.restoreBackup}>
				<RestoreDialog site={site} backup={backup} onDone={onTask} />
			</Permitted>
		</Group>
	);
}

/** The way back from the newest restore, while there is one. */
function Undo({ restores, onDone }: { restores: readonly Restore[]; onDone: (task: string) => void }) {
	const { t } = useTranslation();
	const now = useNow();
	const newest = restores[0];
	if (!newest) return null;
	const open = newest.undoUntil && milliseconds(newest.undoUntil) > now && !newest.undone;
	if (!open && !newest.problem) return null;
	return (
		<Card title={t("restore.newest")}>
			{newest.problem && <Text size="sm">{sentence(newest.problem)}</Text>}
			{open && (
				<Group justify="space-between">
					<Text size="sm">
						{t("restore.undoUntil")} <Time of={newest.undoUntil} />
					</Text>
					<Confirmed
						method={BackupService.method.undoRestore}
						request={{ organizationId: newest.organizationId, siteId: newest.siteId, restoreId: newest.id }}
						onDone={({ restore }) => onDone(restore?.taskId ?? "")}
						title={t("restore.undoTitle")}
						explain={t("restore.undoText")}
						confirm={t("restore.undo")}
					>
						{t("restore.undo")}
					</Confirmed>
				</Group>
			)}
		</Card>
	);
}
