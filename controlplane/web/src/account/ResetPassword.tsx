import { useMutation } from "@connectrpc/connect-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { Form } from "../ui/Act.js";
import { LinkButton } from "../ui/parts.js";
import { Email, Password, Step } from "./parts.js";
import { takeSecret } from "./secret.js";

/** A new password, by a mailed link. */
export function ResetPassword() {
	const [token] = useState(takeSecret);
	return token === "" ? <Ask /> : <SetPassword token={token} />;
}

function Ask() {
	const { t } = useTranslation();
	const [email, setEmail] = useState("");
	const ask = useMutation(AccountService.method.requestPasswordReset);
	if (ask.isSuccess) return <Step title={t("reset.sent.title")} text={t("reset.sent.text", { email })} />;
	return (
		<Step title={t("reset.title")} text={t("reset.text")}>
			<Form label={t("reset.go")} pending={ask.isPending} error={ask.error} onSend={() => ask.mutate({ email })}>
				<Email value={email} onChange={(event) => setEmail(event.currentTarget.value)} autoFocus />
			</Form>
		</Step>
	);
}

function SetPassword({ token }: { token: string }) {
	const { t } = useTranslation();
	const [password, setPassword] = useState("");
	const set = useMutation(AccountService.method.resetPassword);
	if (set.isSuccess) {
		return (
			<Step title={t("reset.done.title")} text={t("reset.done.text")}>
				<LinkButton to="/login">{t("login.in")}</LinkButton>
			</Step>
		);
	}
	return (
		<Step title={t("reset.set.title")}>
			<Form label={t("reset.set.go")} pending={set.isPending} error={set.error} onSend={() => set.mutate({ token, password })}>
				<Password fresh value={password} onChange={(event) => setPassword(event.currentTarget.value)} autoFocus />
			</Form>
		</Step>
	);
}
