import { callUnaryMethod, useMutation, useQuery, useTransport } from "@connectrpc/connect-query";
import { Box, Button, Group, SimpleGrid, Stack, Text, TextInput } from "@mantine/core";
import { useMutation as useAnyMutation } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type BeginTotpResponse, SecondFactorService } from "../gen/chom/account/v1/second_factor_service_pb.js";
import { Confirmed, Form } from "../ui/Act.js";
import { Dialog } from "../ui/Dialog.js";
import { Card, Copy, Dot, Failure, Link, Page } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { useCaller } from "./caller.js";
import { make } from "./passkey.js";

/** What a person has besides a password. */
export function SecondFactors() {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	const passkeys = useQuery(SecondFactorService.method.listPasskeys, {});
	const [codes, setCodes] = useState<readonly string[]>([]);
	const totp = caller?.factors?.totp ?? false;
	const any = totp || (caller?.factors?.passkeys ?? 0) > 0;
	return (
		<Page title={t("factors.title")} above={<Link to="/account">{t("account.title")}</Link>}>
			<Text c="dimmed" maw={640}>
				{t("factors.text")}
			</Text>
			<RecoveryCodes codes={codes} onKept={() => setCodes([])} />
			<Card title={t("factors.app")}>
				<Group justify="space-between">
					<Dot tone={totp ? "good" : "idle"}>{totp ? t("factors.appOn") : t("factors.appOff")}</Dot>
					{totp ? (
						<Confirmed
							method={SecondFactorService.method.deleteTotp}
							request={{}}
							title={t("factors.removeApp")}
							explain={t("factors.removeAppText")}
							confirm={t("factors.remove")}
						>
							{t("factors.remove")}
						</Confirmed>
					) : (
						<Enrol onCodes={setCodes} />
					)}
				</Group>
			</Card>
			<Card title={t("factors.passkeys")}>
				<Stack gap="sm">
					<Failure error={passkeys.error} />
					{passkeys.data?.passkeys.map((key) => (
						<Group key={key.id} justify="space-between">
							<div>
								<Text fw={600}>{key.name}</Text>
								<Text size="sm" c="dimmed">
									{t("factors.used")} <Time of={key.lastUsedTime} none={t("factors.never")} />
								</Text>
							</div>
							<Confirmed
								method={SecondFactorService.method.deletePasskey}
								request={{ passkeyId: key.id }}
								title={t("factors.removeKey", { name: key.name })}
								explain={t("factors.removeKeyText")}
								confirm={t("factors.remove")}
							>
								{t("factors.remove")}
							</Confirmed>
						</Group>
					))}
					<AddPasskey onCodes={setCodes} />
				</Stack>
			</Card>
			{any && (
				<Card title={t("factors.recovery")}>
					<Group justify="space-between">
						<Text>{t("factors.left", { count: caller?.factors?.recoveryCodes ?? 0 })}</Text>
						<Confirmed
							method={SecondFactorService.method.createRecoveryCodes}
							request={{}}
							onDone={(answer) => setCodes(answer.recoveryCodes)}
							title={t("factors.newCodes")}
							explain={t("factors.newCodesText")}
							confirm={t("factors.newCodes")}
						>
							{t("factors.newCodes")}
						</Confirmed>
					</Group>
				</Card>
			)}
		</Page>
	);
}

function Enrol({ onCodes }: { onCodes: (codes: readonly string[]) => void }) {
	const { t } = useTranslation();
	const [begun, setBegun] = useState<BeginTotpResponse>();
	const [code, setCode] = useState("");
	const begin = useMutation(SecondFactorService.method.beginTotp, { onSuccess: setBegun });
	const confirm = useMutation(SecondFactorService.method.confirmTotp, {
		onSuccess: (answer) => {
			setBegun(undefined);
			onCodes(answer.recoveryCodes);
		},
	});
	return (
		<Box>
			<Button loading={begin.isPending} onClick={() => begin.mutate({})}>
				{t("factors.setUp")}
			</Button>
			<Failure error={begin.error} />
			<Dialog opened={begun !== undefined} onClose={() => setBegun(undefined)} title={t("factors.setUp")}>
				{begun && (
					<Form label={t("factors.confirm")} pending={confirm.isPending} error={confirm.error} onSend={() => confirm.mutate({ code: code.trim() })}>
						<Text size="sm">{t("factors.scan")}</Text>
						<img
							src={`data:image/png;base64,${toBase64(begun.qr)}`}
							alt={t("factors.qr")}
							width={200}
							height={200}
							style={{ alignSelf: "center", background: "#fff" }}
						/>
						<Copy text={begun.seed} what={t("factors.seed")} />
						<TextInput
							label={t("factors.digits")}
							value={code}
							onChange={(event) => setCode(event.currentTarget.value)}
							inputMode="numeric"
							autoComplete="one-time-code"
							pattern="[0-9]{6}"
							required
							withAsterisk={false}
							data-autofocus
						/>
					</Form>
				)}
			</Dialog>
		</Box>
	);
}

const toBase64 = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes));

function AddPasskey({ onCodes }: { onCodes: (codes: readonly string[]) => void }) {
	const { t } = useTranslation();
	const transport = useTransport();
	const [name, setName] = useState("");
	const add = useAnyMutation({
		mutationFn: async () => {
			const { challenge } = await callUnaryMethod(transport, SecondFactorService.method.beginPasskey, {});
			if (!challenge) throw new Error("the control plane asked nothing");
			return callUnaryMethod(transport, SecondFactorService.method.createPasskey, {
				challengeToken: challenge.token,
				name: name.trim(),
				credential: await make(challenge),
			});
		},
		onSuccess: (answer) => {
			setName("");
			if (answer.recoveryCodes.length > 0) onCodes(answer.recoveryCodes);
		},
	});
	return (
		<Form label={t("factors.addKey")} pending={add.isPending} error={add.error} onSend={() => add.mutate()}>
			<TextInput
				label={t("factors.keyName")}
				description={t("factors.keyNameText")}
				value={name}
				onChange={(event) => setName(event.currentTarget.value)}
				maxLength={63}
				required
				withAsterisk={false}
				maw={360}
			/>
		</Form>
	);
}

/** Shows recovery codes, this once. */
function RecoveryCodes({ codes, onKept }: { codes: readonly string[]; onKept: () => void }) {
	const { t } = useTranslation();
	return (
		<Dialog opened={codes.length > 0} onClose={onKept} title={t("factors.keep")} firm>
			<Stack>
				<Text size="sm">{t("factors.keepText")}</Text>
				<SimpleGrid cols={{ base: 1, xs: 2 }} spacing={4} component="ul" pl={0} m={0}>
					{codes.map((code) => (
						<li key={code} style={{ listStyle: "none" }}>
							<code>{code}</code>
						</li>
					))}
				</SimpleGrid>
				<Copy text={codes.join(" ")} what={t("factors.recovery")} bare />
				<Button onClick={onKept} data-autofocus>
					{t("factors.kept")}
				</Button>
			</Stack>
		</Dialog>
	);
}
