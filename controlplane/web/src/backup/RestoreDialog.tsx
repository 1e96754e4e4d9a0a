import { useMutation } from "@connectrpc/connect-query";
import { Button, Checkbox, List, Radio, Stack, Text } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Backup } from "../gen/chom/backup/v1/backup_pb.js";
import { BackupService } from "../gen/chom/backup/v1/backup_service_pb.js";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { Cancel, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { Time } from "../ui/Time.js";

type Part = "all" | "files" | "database";

/** Says what a restore will do before it does. */
export function RestoreDialog({ site, backup, onDone }: { site: Site; backup: Backup; onDone: (task: string, restore: string) => void }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	const [part, setPart] = useState<Part>("all");
	const [before, setBefore] = useState(true);
	const hasDatabase = (backup.contents?.databaseSnapshot ?? "") !== "";
	const restore = useMutation(BackupService.method.restoreBackup, {
		onSuccess: (answer) => {
			close();
			onDone(answer.restore?.taskId ?? "", answer.restore?.id ?? "");
		},
	});
	return (
		<>
			<Button
				size="compact-sm"
				variant="default"
				onClick={() => {
					restore.reset();
					open();
				}}
			>
				{t("restore.open")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("restore.title", { name: site.name })} size="lg">
				<Form
					label={t("restore.go")}
					pending={restore.isPending}
					error={restore.error}
					onSend={() =>
						restore.mutate({
							organizationId: site.organizationId,
							siteId: site.id,
							backupId: backup.id,
							filesOnly: part === "files",
							databaseOnly: part === "database",
							withoutBackup: !before,
						})
					}
					other={<Cancel onClick={close} />}
				>
					<Text>
						{t("restore.to")} <Time of={backup.startTime} />
					</Text>
					{hasDatabase && (
						<Radio.Group label={t("restore.part")} value={part} onChange={(value) => setPart(value as Part)}>
							<Stack gap={6} mt={6}>
								<Radio value="all" label={t("restore.parts.all")} />
								<Radio value="files" label={t("restore.parts.files")} />
								<Radio value="database" label={t("restore.parts.database")} />
							</Stack>
						</Radio.Group>
					)}
					<Checkbox checked={before} onChange={(event) => setBefore(event.currentTarget.checked)} label={t("restore.before")} />
					<div>
						<Text size="sm" fw={600} mb={4}>
							{t("restore.what")}
						</Text>
						<List size="sm" type="ordered">
							{before && <List.Item>{t("restore.step.before")}</List.Item>}
							<List.Item>{t("restore.step.check")}</List.Item>
							<List.Item>{t(`restore.step.change.${hasDatabase ? part : "files"}`)}</List.Item>
							<List.Item>{t("restore.step.undo")}</List.Item>
						</List>
					</div>
				</Form>
			</Dialog>
		</>
	);
}
