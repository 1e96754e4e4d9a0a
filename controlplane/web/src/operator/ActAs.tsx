import { useMutation } from "@connectrpc/connect-query";
import { Button, Text, TextInput } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { acting, queries } from "../api.js";
import type { Member } from "../gen/chom/organization/v1/organization_pb.js";
import { TokenService } from "../gen/chom/token/v1/token_service_pb.js";
import { useHere } from "../organization/here.js";
import { Cancel, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { milliseconds } from "../ui/format.js";

/** Lets an operator see and do what a member may, to help them. */
export function ActAs({ organization, member }: { organization: string; member: Member }) {
	const { t } = useTranslation();
	const [opened, { open, close }] = useDisclosure();
	return (
		<>
			<Button variant="default" size="compact-sm" onClick={open} aria-label={t("acting.openOf", { email: member.email })}>
				{t("acting.open")}
			</Button>
			<Dialog opened={opened} onClose={close} title={t("acting.openOf", { email: member.email })}>
				<ActAsForm organization={organization} member={member} onCancel={close} />
			</Dialog>
		</>
	);
}

function ActAsForm({ organization, member, onCancel }: { organization: string; member: Member; onCancel: () => void }) {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const name = useHere()?.name ?? "";
	const [reason, setReason] = useState("");
	const start = useMutation(TokenService.method.startImpersonation, {
		onSuccess: async ({ token, secret }) => {
			if (!token?.expireTime) return;
			acting.set({ secret, tokenId: token.id, email: member.email, organizationId: organization, organization: name, until: milliseconds(token.expireTime) });
			await queries.resetQueries();
			await navigate({ to: "/o/$organization", params: { organization } });
		},
	});
	return (
		<Form
			label={t("acting.go")}
			pending={start.isPending}
			error={start.error}
			disabled={reason.trim().length < 10}
			onSend={() => start.mutate({ organizationId: organization, accountId: member.accountId, reason: reason.trim() })}
			other={<Cancel onClick={onCancel} />}
		>
			<Text size="sm">{t("acting.text")}</Text>
			<TextInput
				label={t("acting.reason")}
				description={t("acting.reasonText")}
				value={reason}
				onChange={(event) => setReason(event.currentTarget.value)}
				minLength={10}
				maxLength={200}
				autoComplete="off"
				required
				withAsterisk={false}
				data-autofocus
			/>
		</Form>
	);
}
