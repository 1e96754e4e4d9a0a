import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { TextInput } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { SessionService } from "../gen/chom/account/v1/session_service_pb.js";
import { Form } from "../ui/Act.js";
import { Email, Password, Step } from "./parts.js";
import { takeSecret } from "./secret.js";

/** Makes the first operator of a new control plane, and signs them in. */
export function FirstOperator() {
	const { t } = useTranslation();
	const transport = useTransport();
	const queries = useQueryClient();
	const navigate = useNavigate();
	const [setupSecret, setSetupSecret] = useState(takeSecret);
	const [email, setEmail] = useState("");
	const [password, setPassword] = useState("");
	const create = useMutation({
		mutationFn: async () => {
			await callUnaryMethod(transport, AccountService.method.createFirstOperator, { setupSecret: setupSecret.trim(), email, password });
			await callUnaryMethod(transport, SessionService.method.login, { email, password });
		},
		onSuccess: async () => {
			await queries.resetQueries();
			await navigate({ to: "/" });
		},
	});
	return (
		<Step title={t("first.title")} text={t("first.text")}>
			<Form label={t("first.go")} pending={create.isPending} error={create.error} onSend={() => create.mutate()}>
				<TextInput
					label={t("first.secret")}
					description={t("first.where")}
					value={setupSecret}
					onChange={(event) => setSetupSecret(event.currentTarget.value)}
					autoComplete="off"
					spellCheck={false}
					required
					withAsterisk={false}
				/>
				<Email value={email} onChange={(event) => setEmail(event.currentTarget.value)} />
				<Password fresh value={password} onChange={(event) => setPassword(event.currentTarget.value)} />
			</Form>
		</Step>
	);
}
