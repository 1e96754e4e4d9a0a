import { callUnaryMethod, useQuery, useTransport } from "@connectrpc/connect-query";
import { Button, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Password } from "../account/parts.js";
import { answer } from "../account/passkey.js";
import { proof } from "../api.js";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { SessionService } from "../gen/chom/account/v1/session_service_pb.js";
import { Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { Failure } from "../ui/parts.js";

/** Asks for a proof that the person still sits there, whenever a call wants one. What they wanted then goes on. */
export function StepUp() {
	const { t } = useTranslation();
	const asked = proof.use();
	return (
		<Dialog opened={asked !== undefined} onClose={() => asked?.(false)} title={t("stepUp.title")} zIndex={400}>
			{asked && <Ask onDone={() => asked(true)} />}
		</Dialog>
	);
}

function Ask({ onDone }: { onDone: () => void }) {
	const { t } = useTranslation();
	const transport = useTransport();
	const { data: caller } = useQuery(AccountService.method.getCaller, {}, { refetchInterval: false });
	const [text, setText] = useState("");
	const factors = caller?.factors;
	const byCode = factors?.totp ?? false;
	const byPasskey = (factors?.passkeys ?? 0) > 0;
	const send = useMutation({
		mutationFn: () => callUnaryMethod(transport, SessionService.method.stepUp, byCode ? { code: text.trim().toLowerCase() } : { password: text }),
		onSuccess: onDone,
	});
	const passkey = useMutation({
		mutationFn: async () => {
			const { challenge } = await callUnaryMethod(transport, SessionService.method.beginPasskeyStepUp, {});
			if (!challenge) throw new Error("the control plane asked nothing");
			await callUnaryMethod(transport, SessionService.method.stepUpWithPasskey, { challengeToken: challenge.token, credential: await answer(challenge) });
		},
		onSuccess: onDone,
	});
	return (
		<Stack>
			<Text size="sm">{t("stepUp.text")}</Text>
			{(byCode || !byPasskey) && (
				<Form label={t("stepUp.go")} pending={send.isPending} error={send.error} onSend={() => send.mutate()}>
					{byCode ? (
						<TextInput
							label={t("login.second.code")}
							value={text}
							onChange={(event) => setText(event.currentTarget.value)}
							autoComplete="one-time-code"
							required
							withAsterisk={false}
							data-autofocus
						/>
					) : (
						<Password value={text} onChange={(event) => setText(event.currentTarget.value)} data-autofocus />
					)}
				</Form>
			)}
			{byPasskey && (
				<Button variant="default" loading={passkey.isPending} onClick={() => passkey.mutate()}>
					{t("login.passkey")}
				</Button>
			)}
			<Failure error={passkey.error} />
		</Stack>
	);
}
