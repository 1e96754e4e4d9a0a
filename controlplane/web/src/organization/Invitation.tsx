import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { SignIn } from "../account/Login.js";
import { Step } from "../account/parts.js";
import { takeSecret } from "../account/secret.js";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { Form } from "../ui/Act.js";
import { Failure, Waiting } from "../ui/parts.js";
import { roleKey } from "./roles.js";

/** Where the mail of an invitation leads. */
export function Invited() {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const [token] = useState(takeSecret);
	const caller = useQuery(AccountService.method.getCaller, {}, { refetchInterval: false });
	const invited = useQuery(OrganizationService.method.getInvitation, { token }, { enabled: token !== "", refetchInterval: false });
	const accept = useMutation(OrganizationService.method.acceptInvitation, {
		onSuccess: ({ organization }) => organization && void navigate({ to: "/o/$organization", params: { organization: organization.id } }),
	});
	if (token === "") return <Step title={t("link.title")} text={t("link.text")} />;
	if (invited.error) return <Failure error={invited.error} />;
	if (!invited.data || caller.isPending) return <Waiting />;
	const { invitation, organizationName: name } = invited.data;
	if (!caller.data || caller.error) return <SignIn why={t("invitation.why", { name, email: invitation?.email ?? "" })} onDone={() => void caller.refetch()} />;
	return (
		<Step
			title={t("invitation.title", { name })}
			text={t("invitation.text", { email: invitation?.email ?? "", role: t(roleKey(invitation?.role ?? Role.UNSPECIFIED)) })}
		>
			<Form label={t("invitation.go")} pending={accept.isPending} error={accept.error} onSend={() => accept.mutate({ token })}>
				{null}
			</Form>
		</Step>
	);
}
