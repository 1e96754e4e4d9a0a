import { skipToken, useMutation, useQuery } from "@connectrpc/connect-query";
import { Button, Group, TextInput } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { Scope } from "../gen/chom/account/v1/account_pb.js";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { DeviceLoginService } from "../gen/chom/account/v1/device_login_service_pb.js";
import { Form } from "../ui/Act.js";
import { Facts, Failure, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { SignIn } from "./Login.js";
import { Step } from "./parts.js";
import { takeSecret } from "./secret.js";

/** Lets a program act for its person, or not. */
export function Device() {
	const { t } = useTranslation();
	const [userCode, setUserCode] = useState(() => takeSecret().trim().toUpperCase());
	const [typed, setTyped] = useState("");
	const caller = useQuery(AccountService.method.getCaller, {}, { refetchInterval: false });
	if (caller.isPending) return <Waiting />;
	if (!caller.data || caller.error) return <SignIn why={t("device.why")} onDone={() => void caller.refetch()} />;
	if (userCode !== "") return <Ask userCode={userCode} />;
	return (
		<Step title={t("device.which")} text={t("device.whichText")}>
			<Form label={t("device.go")} pending={false} error={null} onSend={() => setUserCode(typed.trim().toUpperCase())}>
				<TextInput
					label={t("device.code")}
					value={typed}
					onChange={(event) => setTyped(event.currentTarget.value)}
					autoComplete="off"
					spellCheck={false}
					required
					withAsterisk={false}
					autoFocus
				/>
			</Form>
		</Step>
	);
}

function Ask({ userCode }: { userCode: string }) {
	const { t } = useTranslation();
	const [answered, setAnswered] = useState<"yes" | "no">();
	const asking = useQuery(DeviceLoginService.method.getDeviceLogin, answered ? skipToken : { userCode }, { refetchInterval: false });
	const yes = useMutation(DeviceLoginService.method.approveDeviceLogin, { onSuccess: () => setAnswered("yes") });
	const no = useMutation(DeviceLoginService.method.denyDeviceLogin, { onSuccess: () => setAnswered("no") });
	if (answered === "yes") return <Step title={t("device.yes.title")} text={t("device.yes.text")} />;
	if (answered === "no") return <Step title={t("device.no.title")} text={t("device.no.text")} />;
	const scopes: Record<number, string> = {
		[Scope.READ]: t("device.scope.read"),
		[Scope.DEPLOY]: t("device.scope.deploy"),
		[Scope.MANAGE]: t("device.scope.manage"),
	};
	return (
		<Step title={t("device.title")} text={t("device.text", { code: userCode })}>
			<Failure error={asking.error} />
			{asking.isPending && <Waiting />}
			{asking.data && (
				<>
					<Facts
						of={[
							[t("device.program"), asking.data.name],
							[t("device.wants"), scopes[asking.data.scope] ?? "–"],
							[t("device.from"), asking.data.address],
							[t("device.software"), asking.data.userAgent || "–"],
							[t("device.asked"), <Time key="asked" of={asking.data.createTime} />],
						]}
					/>
					<Failure error={yes.error ?? no.error} />
					<Group>
						<Button loading={yes.isPending} onClick={() => yes.mutate({ userCode })}>
							{t("device.allow")}
						</Button>
						<Button variant="default" loading={no.isPending} onClick={() => no.mutate({ userCode })}>
							{t("device.deny")}
						</Button>
					</Group>
				</>
			)}
		</Step>
	);
}
