import { useMutation } from "@connectrpc/connect-query";
import { Navigate, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { OrganizationService } from "../gen/chom/organization/v1/organization_service_pb.js";
import { Form } from "../ui/Act.js";
import { NameInput } from "../ui/NameInput.js";
import { Card, Failure, Page, Waiting } from "../ui/parts.js";
import { useHere, useOrganizations } from "./here.js";

/** Leads to the overview of the organization that the reader was in last; a first one is made here. */
export function Home() {
	const { error, isPending, refetch } = useOrganizations();
	const here = useHere();
	if (here) return <Navigate to="/o/$organization" params={{ organization: here.id }} replace />;
	if (isPending) return <Waiting />;
	if (error) return <Failure error={error} retry={() => void refetch()} />;
	return <NewOrganization first />;
}

/** Makes an organization. */
export function NewOrganization({ first = false }: { first?: boolean }) {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const [name, setName] = useState("");
	const create = useMutation(OrganizationService.method.createOrganization, {
		onSuccess: ({ organization }) => organization && void navigate({ to: "/o/$organization", params: { organization: organization.id } }),
	});
	return (
		<Page title={first ? t("organization.first") : t("organization.new")}>
			<Card>
				<Form label={t("organization.create")} pending={create.isPending} error={create.error} onSend={() => create.mutate({ name })}>
					<NameInput label={t("organization.name")} description={t("organization.nameText")} value={name} onName={setName} maw={420} />
				</Form>
			</Card>
		</Page>
	);
}
