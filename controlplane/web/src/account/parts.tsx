import { PasswordInput, type PasswordInputProps, Stack, Text, TextInput, type TextInputProps, Title } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";

/** One step of getting in. */
export function Step({ title, text, children }: { title: string; text?: ReactNode; children?: ReactNode }) {
	useDocumentTitle(`${title} · CHOM`);
	return (
		<Stack gap="md">
			<Title order={1} size="h3">
				{title}
			</Title>
			{text && <Text c="dimmed">{text}</Text>}
			{children}
		</Stack>
	);
}

export function Email(input: TextInputProps) {
	const { t } = useTranslation();
	return <TextInput label={t("account.email")} type="email" name="email" autoComplete="username" required withAsterisk={false} maxLength={254} {...input} />;
}

export function Password({ fresh = false, ...input }: PasswordInputProps & { fresh?: boolean }) {
	const { t } = useTranslation();
	return (
		<PasswordInput
			label={fresh ? t("account.newPassword") : t("account.password")}
			description={fresh ? t("account.newPasswordRule") : undefined}
			name="password"
			autoComplete={fresh ? "new-password" : "current-password"}
			required
			withAsterisk={false}
			minLength={10}
			maxLength={128}
			visibilityToggleButtonProps={{ "aria-label": t("account.showPassword"), tabIndex: 0 }}
			{...input}
		/>
	);
}
