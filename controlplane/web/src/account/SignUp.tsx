import { useMutation } from "@connectrpc/connect-query";
import { Text } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { Form } from "../ui/Act.js";
import { Link } from "../ui/parts.js";
import { Email, Password, Step } from "./parts.js";
import { takeSecret } from "./secret.js";

/** Asks for an account. */
export function SignUp() {
	const { t } = useTranslation();
	const [email, setEmail] = useState("");
	const [password, setPassword] = useState("");
	const signUp = useMutation(AccountService.method.signUp);
	if (signUp.isSuccess) return <Step title={t("signUp.sent.title")} text={t("signUp.sent.text", { email })} />;
	return (
		<Step title={t("signUp.title")}>
			<Form label={t("signUp.go")} pending={signUp.isPending} error={signUp.error} onSend={() => signUp.mutate({ email, password })}>
				<Email value={email} onChange={(event) => setEmail(event.currentTarget.value)} autoFocus />
				<Password fresh value={password} onChange={(event) => setPassword(event.currentTarget.value)} />
			</Form>
			<Text size="sm">
				<Link to="/login">{t("signUp.login")}</Link>
			</Text>
		</Step>
	);
}

/** Where the mail of a sign-up leads. */
export function VerifyEmail() {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const queries = useQueryClient();
	const [token] = useState(takeSecret);
	const [password, setPassword] = useState("");
	const verify = useMutation(AccountService.method.verifyEmail, {
		onSuccess: async () => {
			await queries.resetQueries();
			await navigate({ to: "/" });
		},
	});
	if (token === "") return <Step title={t("link.title")} text={t("link.text")} />;
	return (
		<Step title={t("verify.title")} text={t("verify.text")}>
			<Form label={t("verify.go")} pending={verify.isPending} error={verify.error} onSend={() => verify.mutate({ token, password })}>
				<Password value={password} onChange={(event) => setPassword(event.currentTarget.value)} autoFocus />
			</Form>
		</Step>
	);
}
