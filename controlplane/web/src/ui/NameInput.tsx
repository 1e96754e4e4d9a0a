import { TextInput, type TextInputProps } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { nameRule } from "./rules.js";

interface NameInputProps extends Pick<TextInputProps, "label" | "description" | "maw" | "autoFocus"> {
	value: string;
	onName: (name: string) => void;
}

/** Asks for the name of something new, of which there is one of a name. */
export function NameInput({ value, onName, ...look }: NameInputProps) {
	const { t } = useTranslation();
	return (
		<TextInput
			value={value}
			onChange={(event) => onName(event.currentTarget.value.toLowerCase())}
			error={value !== "" && !nameRule.test(value) ? t("rule.name") : undefined}
			pattern={nameRule.source}
			maxLength={63}
			required
			withAsterisk={false}
			autoFocus
			{...look}
		/>
	);
}
