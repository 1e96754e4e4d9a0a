import { useMutation } from "@connectrpc/connect-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { Form } from "../ui/Act.js";
import { LinkButton } from "../ui/parts.js";
import { Step } from "./parts.js";
import { takeSecret } from "./secret.js";

/** Where the mail to a new address leads. */
export function ConfirmEmail() {
	const { t } = useTranslation();
	const [token] = useState(takeSecret);
	const confirm = useMutation(AccountService.method.confirmEmailChange);
	if (token === "") return <Step title={t("link.title")} text={t("link.text")} />;
	if (confirm.isSuccess) {
		return (
			<Step title={t("confirmEmail.done.title")} text={t("confirmEmail.done.text")}>
				<LinkButton to="/">{t("lost.home")}</LinkButton>
			</Step>
		);
	}
	return (
		<Step title={t("confirmEmail.title")} text={t("confirmEmail.text")}>
			<Form label={t("confirmEmail.go")} pending={confirm.isPending} error={confirm.error} onSend={() => confirm.mutate({ token })}>
				{null}
			</Form>
		</Step>
	);
}
