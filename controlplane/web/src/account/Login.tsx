import { callUnaryMethod, useMutation, useQuery, useTransport } from "@connectrpc/connect-query";
import { Button, Divider, Group, Text, TextInput } from "@mantine/core";
import { useMutation as useAnyMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";
import { type LoginResponse, SessionService } from "../gen/chom/account/v1/session_service_pb.js";
import { Form } from "../ui/Act.js";
import { Failure, Link } from "../ui/parts.js";
import { Email, Password, Step } from "./parts.js";
import { answer } from "./passkey.js";

/** Signs in. */
export function Login() {
	const { next } = useSearch({ from: "/open/login" });
	const navigate = useNavigate();
	const caller = useQuery(AccountService.method.getCaller, {}, { refetchInterval: false });
	const { t } = useTranslation();
	const go = () => navigate({ to: next ?? "/", replace: true });
	if (caller.data && !caller.error) {
		return (
			<Step title={t("login.already.title")} text={t("login.already.text", { email: caller.data.email })}>
				<Group>
					<Button onClick={go}>{t("login.already.on")}</Button>
					<SignOut />
				</Group>
			</Step>
		);
	}
	return <SignIn onDone={go} />;
}

export function SignOut() {
	const { t } = useTranslation();
	// The page is loaded anew: nothing of this person stays in it.
	const out = useMutation(SessionService.method.logout, { onSuccess: () => location.assign("/login") });
	return (
		<>
			<Button variant="default" loading={out.isPending} onClick={() => out.mutate({})}>
				{t("login.out")}
			</Button>
			<Failure error={out.error} />
		</>
	);
}

/** Asks who it is, in one step or two, wherever somebody has to be signed in. */
export function SignIn({ onDone, why }: { onDone: () => void; why?: string }) {
	const { t } = useTranslation();
	const queries = useQueryClient();
	const [half, setHalf] = useState<LoginResponse>();
	const [email, setEmail] = useState("");
	const [password, setPassword] = useState("");
	const done = async () => {
		await queries.resetQueries();
		onDone();
	};
	const login = useMutation(SessionService.method.login, { onSuccess: (answer) => (answer.loginToken ? setHalf(answer) : done()) });
	const passkey = usePasskey(half?.loginToken ?? "", done);
	if (half) return <SecondFactor half={half} onDone={done} />;
	return (
		<Step title={t("login.title")} text={why}>
			<Form label={t("login.in")} pending={login.isPending} error={login.error} onSend={() => login.mutate({ email, password })}>
				<Email value={email} onChange={(event) => setEmail(event.currentTarget.value)} autoFocus />
				<Password value={password} onChange={(event) => setPassword(event.currentTarget.value)} />
			</Form>
			<Divider label={t("login.or")} />
			<Button variant="default" loading={passkey.isPending} onClick={() => passkey.mutate()}>
				{t("login.passkey")}
			</Button>
			<Failure error={passkey.error} />
			<Group justify="space-between">
				<Text size="sm">
					<Link to="/reset-password">{t("login.forgot")}</Link>
				</Text>
				<Text size="sm">
					<Link to="/sign-up">{t("login.signUp")}</Link>
				</Text>
			</Group>
		</Step>
	);
}

function SecondFactor({ half, onDone }: { half: LoginResponse; onDone: () => void }) {
	const { t } = useTranslation();
	const [code, setCode] = useState("");
	const login = useMutation(SessionService.method.loginWithCode, { onSuccess: onDone });
	const passkey = usePasskey(half.loginToken, onDone);
	const factors = half.factors;
	const byCode = (factors?.totp ?? false) || (factors?.recoveryCodes ?? 0) > 0;
	return (
		<Step title={t("login.second.title")} text={byCode ? t("login.second.text") : undefined}>
			{byCode && (
				<Form
					label={t("login.second.go")}
					pending={login.isPending}
					error={login.error}
					onSend={() => login.mutate({ loginToken: half.loginToken, code: code.trim().toLowerCase() })}
				>
					<TextInput
						label={t("login.second.code")}
						value={code}
						onChange={(event) => setCode(event.currentTarget.value)}
						autoComplete="one-time-code"
						autoCapitalize="none"
						spellCheck={false}
						required
						withAsterisk={false}
						autoFocus
					/>
				</Form>
			)}
			{(factors?.passkeys ?? 0) > 0 && (
				<Button variant="default" loading={passkey.isPending} onClick={() => passkey.mutate()}>
					{t("login.passkey")}
				</Button>
			)}
			<Failure error={passkey.error} />
		</Step>
	);
}

function usePasskey(loginToken: string, onDone: () => void) {
	const transport = useTransport();
	return useAnyMutation({
		mutationFn: async () => {
			const { challenge } = await callUnaryMethod(transport, SessionService.method.beginPasskeyLogin, { loginToken });
			if (!challenge) throw new Error("the control plane asked nothing");
			await callUnaryMethod(transport, SessionService.method.loginWithPasskey, { challengeToken: challenge.token, credential: await answer(challenge) });
		},
		onSuccess: onDone,
	});
}
