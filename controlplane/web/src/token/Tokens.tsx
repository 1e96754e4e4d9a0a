import { useQuery } from "@connectrpc/connect-query";
import { useTranslation } from "react-i18next";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import type { Token } from "../gen/chom/token/v1/token_pb.js";
import { TokenService } from "../gen/chom/token/v1/token_service_pb.js";
import { Reach } from "../organization/choices.js";
import { useOrganizationId, useOrganizations } from "../organization/here.js";
import { useRights } from "../organization/rights.js";
import { roleKey } from "../organization/roles.js";
import { Confirmed } from "../ui/Act.js";
import { Item, List, Words } from "../ui/List.js";
import { Empty, Failure, Link, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { CreateOrganizationToken, CreateToken } from "./CreateToken.js";
import { scopeKey } from "./scope.js";

/** The reader's own tokens. */
export function Tokens() {
	const { t } = useTranslation();
	const { data, error, isPending, refetch } = useQuery(TokenService.method.listTokens, { pageSize: 100 });
	const tokens = data?.tokens ?? [];
	return (
		<Page title={t("tokens.title")} above={<Link to="/account">{t("account.title")}</Link>} aside={<CreateToken />}>
			{isPending && <Waiting />}
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{data && tokens.length === 0 && <Empty title={t("tokens.none")}>{t("tokens.noneText")}</Empty>}
			{tokens.length > 0 && (
				<List label={t("tokens.title")}>
					{tokens.map((token) => (
						<Row key={token.id} of={token} />
					))}
				</List>
			)}
		</Page>
	);
}

/** Tokens that belong to the organization, whatever becomes of who made them. */
export function OrganizationTokens() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const rights = useRights(organization);
	const { data, error, isPending, refetch } = useQuery(TokenService.method.listOrganizationTokens, { organizationId: organization, pageSize: 100 });
	const tokens = data?.tokens ?? [];
	return (
		<Page
			title={t("tokens.ofOrganization")}
			aside={rights.may(Role.ADMIN) && rights.inPerson && <CreateOrganizationToken organization={organization} most={rights.role} />}
		>
			{isPending && <Waiting />}
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{data && tokens.length === 0 && <Empty title={t("tokens.none")}>{t("tokens.noneOfOrganization")}</Empty>}
			{tokens.length > 0 && (
				<List label={t("tokens.ofOrganization")}>
					{tokens.map((token) => (
						<Row key={token.id} of={token} organization={organization} />
					))}
				</List>
			)}
		</Page>
	);
}

function Row({ of, organization }: { of: Token; organization?: string }) {
	const { t } = useTranslation();
	const organizations = useOrganizations();
	const nameOf = (id: string) => organizations.data?.organizations.find((one) => one.id === id)?.name ?? id;
	const look = {
		title: t("tokens.revokeTitle", { name: of.name }),
		explain: t("tokens.revokeText"),
		confirm: t("tokens.revoke"),
		size: "compact-sm",
		"aria-label": t("tokens.revokeOf", { name: of.name }),
	} as const;
	return (
		<Item
			title={of.name}
			actions={
				organization ? (
					<Confirmed method={TokenService.method.revokeOrganizationToken} request={{ organizationId: organization, tokenId: of.id }} {...look}>
						{t("tokens.revoke")}
					</Confirmed>
				) : (
					<Confirmed method={TokenService.method.revokeToken} request={{ tokenId: of.id }} {...look}>
						{t("tokens.revoke")}
					</Confirmed>
				)
			}
		>
			<Words
				of={[
					t(`scope.${scopeKey(of.scope)}`),
					of.role !== Role.UNSPECIFIED && t(roleKey(of.role)),
					!organization && (of.organizationId === "" ? t("tokens.everywhere") : nameOf(of.organizationId)),
					of.organizationId !== "" && <Reach key="reach" all={of.allSites} sites={of.siteIds} organization={of.organizationId} />,
				]}
			/>
			<div>
				<Words
					of={[
						of.lastUsedTime ? (
							<span key="used">
								{t("tokens.used")} <Time of={of.lastUsedTime} /> {of.lastUsedAddress !== "" && t("sessions.from", { address: of.lastUsedAddress })}
							</span>
						) : (
							t("tokens.unused")
						),
						<span key="ends">
							{t("tokens.ends")} <Time of={of.expireTime} />
						</span>,
						<span key="made">
							{organization ? t("tokens.madeBy", { email: of.creatorEmail }) : t("tokens.made")} <Time of={of.createTime} />
						</span>,
					]}
				/>
			</div>
		</Item>
	);
}
